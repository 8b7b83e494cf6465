"""What `to_torch.py` of a folder must know to make a PyTorch module of the weights. Torch itself is nowhere imported.

It knows MLPs, the convolutions of `pixels` and `grid`, GRU and LSTM, and plain and dueling heads of one number for each
action. For anything else the plan is a sentence.
"""

from typing import Any

import numpy as np

from engram import registry, spaces, trees
from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.encoders.pixels import channels_first
from engram.errors import SpecError
from engram.exporting.step import Step

ENCODERS, WORKING, HEADS, RETURNS = ("vector", "pixels", "grid"), ("none", "gru", "lstm"), ("q", "dueling"), ("scalar",)


def plan_of(spec: MindSpec, network: Network, step: Step) -> dict[str, Any]:
    """Names of weights and what is done with them; or `refused`, why not."""
    try:
        _check(spec, network)
    except SpecError as error:
        return {"refused": str(error)}
    names = trees.named(network)
    encoder, working, head = (_kind(role, getattr(spec, role)) for role in ("encoder", "working", "head"))
    plan: dict[str, Any] = {"observation": [_leaf(one) for one in step.shown if one.port is not None and _seen(one)]}
    plan["stack"] = spec.observation.stack
    norm = bool(getattr(spec.encoder, "norm", False))
    if encoder == "vector":
        layers = [f"encoder.mlp.layers.{place}" for place in range(len(network.encoder.mlp.layers))]
        plan["encoder"] = {"kind": "mlp", "layers": layers, "norm": norm}
    else:
        strides = [one.stride for one in network.encoder.convolutions]
        layers = [[f"encoder.convolutions.{place}", stride] for place, stride in enumerate(strides)]
        first = channels_first(network.encoder.space)
        plan["encoder"] = {
            "kind": "convolutions", "layers": layers, "dense": "encoder.dense", "norm": norm, "channels_first": first,
        }  # fmt: skip
    cells = [f"working.cells.{place}" for place in range(len(getattr(network.working, "cells", ())))]
    plan["working"] = {"kind": working, "cells": cells}
    parts = ("value", "advantage") if head == "dueling" else ("linear",)
    plan["head"] = {"kind": head} | {part: _layers(names, f"head.{part}") for part in parts}
    return plan


def _check(spec: MindSpec, network: Network) -> None:
    """Raises SpecError for what the script does not know."""
    known = {"encoder": ENCODERS, "working": WORKING, "head": HEADS, "external": ("none",)}
    for role, kinds in known.items():
        if (kind := _kind(role, getattr(spec, role))) not in kinds:
            raise SpecError(f"to_torch.py does not know {role}={kind}; use model.onnx")
    if (kind := _kind("returns", spec.head.returns)) not in RETURNS:
        raise SpecError(f"to_torch.py does not know head.returns={kind}; use model.onnx")
    if network.sight is not None or network.reads_action or network.reads_reward or network.forget:
        raise SpecError(
            "to_torch.py knows no missing or normalised numbers, and no previous action or reward; use model.onnx"
        )
    several = spaces.one_hot(network.space)
    kinds = [leaf for _, leaf in spaces.leaves(network.space) if not isinstance(leaf, spaces.Box | spaces.Text)]
    if any(spaces.digits(size, several)[1] > 1 for leaf in kinds for size in spaces.categories(leaf)):
        raise SpecError("to_torch.py knows no categories of so many values that digits stand for them; use model.onnx")
    if any(isinstance(leaf, spaces.Text) for _, leaf in spaces.leaves(network.space)):
        raise SpecError("to_torch.py knows no texts; use model.onnx")


def _kind(role: str, part: Any) -> str:
    return registry.name_of(role, type(part))


def _seen(one: Any) -> bool:
    return one.port.name not in spaces.UNSEEN


def _leaf(one: Any) -> dict[str, Any]:
    """A part of the observation: numbers with their scale, or categories."""
    if not isinstance(one.leaf, spaces.Box):
        start = np.broadcast_to(np.asarray(one.start), one.leaf.shape).reshape(-1).tolist() or [int(one.start)]
        return {"input": one.port.name, "sizes": list(spaces.categories(one.leaf)), "start": start}
    found: dict[str, Any] = {"input": one.port.name, "shape": list(one.leaf.shape)}
    if (scale := one.leaf.scale) is not None:
        found |= {name: np.asarray(getattr(scale, name)).tolist() for name in ("middle", "factor")}
    return found


def _layers(names: dict[str, Any], path: str) -> list[str]:
    """The linear layers below a path, in order; of noisy ones what is left without noise."""
    found = [name.removesuffix(".weight") for name in names if name.startswith(f"{path}.") and name.endswith(".weight")]
    return list(dict.fromkeys(found))
