"""The network: an encoder, then a head. It sees one (stacked) observation."""

import equinox as eqx
import jax
from jaxtyping import PyTree

from engram import spaces
from engram.types import Decision, Key


class Network(eqx.Module):
    """observation -> Encoding -> Returns, all of it in the Decision."""

    encoder: eqx.Module
    head: eqx.Module

    def __call__(self, observation: PyTree) -> Decision:
        encoding = self.encoder(observation)  # type: ignore[operator]
        return Decision(encoding, self.head(encoding.embedding))  # type: ignore[operator]


def build(encoder_spec, head_spec, space: spaces.Space, stack: int, actions: int, key: Key) -> Network:
    """A network with fresh parameters for observations of `space` (stacked) and `actions` actions."""
    encoder_key, head_key = jax.random.split(key)
    encoder = encoder_spec.build(space, stack, encoder_key)
    return Network(encoder, head_spec.build(encoder.width, actions, head_key))
