"""What an update does with a gradient: the optimizer, the target network, and resets."""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from engram.agents.mind import OptimizerSpec
from engram.agents.network import Network
from engram.agents.spec import TargetSpec
from engram.bits import LAST

if TYPE_CHECKING:
    import optax


def optimizer_of(chosen: OptimizerSpec, updates: int) -> "optax.GradientTransformation":
    """Clipped Adam with its schedule, as a pure value. The step size falls over so many updates."""
    import optax  # a fifth of a second, which who only evaluates need not wait

    updates = min(max(1, updates), LAST)
    rate = optax.linear_schedule(chosen.learning_rate, chosen.learning_rate * chosen.final_fraction, updates)
    clip = optax.clip_by_global_norm(chosen.clip_norm) if chosen.clip_norm else optax.identity()
    step = rate if chosen.final_fraction < 1 else chosen.learning_rate
    if chosen.weight_decay:
        return optax.chain(clip, optax.adamw(step, eps=chosen.epsilon, weight_decay=chosen.weight_decay))
    return optax.chain(clip, optax.adam(step, eps=chosen.epsilon))


def follow(chosen: TargetSpec, target: Network, params: Network, updates: Int[Array, ""]) -> Network:
    """The target network after this update."""

    def move(target: Network, params: Network) -> Network:
        if chosen.rate == 1.0:
            return params
        return jax.tree.map(lambda old, new: old + chosen.rate * (new - old), target, params)

    if chosen.every == 1:
        return move(target, params)
    # A branch, not a selection: most updates then leave megabytes of target where they are.
    return jax.lax.cond(updates % chosen.every == 0, move, lambda target, params: target, target, params)


def mixed(chosen: OptimizerSpec, params: Network, fresh: Network) -> Network:
    """Shrink and perturb: weights drawn to fresh ones, by the share of their part."""

    def towards(share: float, old: PyTree, new: PyTree) -> PyTree:
        return jax.tree.map(lambda old, new: (1 - share) * old + share * new, old, new)

    encoder = towards(chosen.reset_encoder, params.encoder, fresh.encoder)
    return dataclasses.replace(towards(chosen.reset_rest, params, fresh), encoder=encoder)


def begun_anew(optimizer: "optax.GradientTransformation", old: PyTree, params: Network) -> PyTree:
    """The state of an optimizer that has seen nothing, but whose step size goes on falling."""
    import optax

    def falls(state: Any) -> bool:
        return isinstance(state, optax.ScaleByScheduleState)

    fresh = optimizer.init(params)  # type: ignore[arg-type]
    return jax.tree.map(lambda old, new: old if falls(new) else new, old, fresh, is_leaf=falls)


def accepted(finite: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new tree, or the old one where the update was not finite: a bad update must leave no trace.

    Selecting here is free, it fuses with Adam's own arithmetic.
    """
    return jax.tree.map(partial(jnp.where, finite), new, old)
