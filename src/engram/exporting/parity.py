"""Whether an exported policy computes what the agent does: both along a few steps of random observations.

    compared(step, content)["difference"]

A difference is the greatest of an output over the greatest size of that output, or over 1 where that is less: rounding
goes with the size of the numbers that are added, which for a mean near 0 are not near 0 themselves.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from engram import spaces
from engram.errors import SpecError
from engram.exporting.step import NEXT, REWARD, Port, Step

COUNTED = {"action", NEXT + "carry.action", "entries.memory"}  # which one, not how much: a tie may go either way
FARTHEST = 1e-3  # beyond rounding, but for networks of very large numbers
Named = Mapping[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]  # inputs by name -> outputs by name


def compared(step: Step, run: Run, batch: int = 16, steps: int = 3, seed: int = 0) -> dict[str, Any]:
    """The greatest difference of each output, and whether the actions are the same.

    `run`: the exported policy. An episode of `batch` lanes is played for so many steps; each side carries its own.
    Returns: `outputs` by name; `difference`, the greatest of those that are no numbers of entries or actions;
    `actions`, how many of all were others; `wrong`, how many of these were no tie.
    """
    generator, function = np.random.default_rng(seed), jax.jit(step.function)
    ours = theirs = step.first(batch)
    found: dict[str, float] = {}
    actions = wrong = 0
    for _ in range(steps):
        seen = observed(step, generator, batch)
        given = [np.asarray((ours | seen)[port.name]) for port in step.inputs]
        expected = {port.name: np.asarray(value) for port, value in zip(step.outputs, function(*given), strict=True)}
        got = run({port.name: np.ascontiguousarray((theirs | seen)[port.name]) for port in step.inputs})
        for port in step.outputs:
            found[port.name] = max(found.get(port.name, 0.0), difference(expected[port.name], got[port.name]))
        actions += int((expected["action"] != got["action"]).sum())
        wrong += int(_wrong(step, seen, expected, got).sum())
        ours, theirs = _following(ours, expected), _following(theirs, got)
    numbers = [value for name, value in found.items() if name not in COUNTED]
    return {"outputs": found, "difference": max(numbers), "actions": actions, "wrong": wrong}


def _wrong(step: Step, seen: Mapping[str, np.ndarray], expected: Named, got: Named) -> np.ndarray:
    """Of each lane whether its action is neither the agent's nor one of equal worth.

    As far as two estimates are apart by less than the exported policy's are from the agent's, they are equal. What is
    forbidden is always wrong.
    """
    name = "logits" if "logits" in expected else "q"
    one, other = (np.asarray(found[name], np.float64) for found in (expected, got))
    taken, best = (np.asarray(found["action"], np.int64) for found in (got, expected))
    wrong = taken != best
    with np.errstate(invalid="ignore"):
        off = np.nan_to_num(np.abs(one - other), nan=0.0).max(-1)
    rounding = 4 * off + 1e-6 * np.abs(np.where(np.isfinite(one), one, 0)).max(-1, initial=1.0)
    if step.sizes:  # number by number, each with estimates of its own
        begins = np.cumsum((0, *step.sizes[:-1]))
        places = [np.stack(np.unravel_index(action, step.sizes), -1) + begins for action in (taken, best)]
        apart = np.abs(np.take_along_axis(one, places[0], -1) - np.take_along_axis(one, places[1], -1)).max(-1)
    else:
        apart = np.abs(np.take_along_axis(one, taken[:, None], -1) - np.take_along_axis(one, best[:, None], -1))[:, 0]
    mask = next((np.asarray(seen[port.name]) for port in step.inputs if port.name.endswith(spaces.MASK)), None)
    forbidden = np.zeros(len(taken), bool) if mask is None else ~mask.astype(bool)[np.arange(len(taken)), taken]
    return wrong & (~(apart <= rounding) | forbidden)


def check(step: Step, run: Run) -> float:
    """The `difference` of `compared`. SpecError where that is more than rounding."""
    found = compared(step, run)
    if found["wrong"]:
        raise SpecError(
            f"the exported policy takes another action than the agent in {found['wrong']} of 48 observations; nothing "
            f"was written: export it to stablehlo"
        )
    if found["difference"] > FARTHEST:
        worst = max(found["outputs"].keys() - COUNTED, key=lambda name: found["outputs"][name])
        raise SpecError(
            f"the exported policy differs from the agent by {found['difference']:.2g} in {worst}, more than rounding; "
            f"nothing was written: export it to stablehlo"
        )
    return found["difference"]


def _following(before: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What goes into the next step beside the observation."""
    return {name: outputs.get(NEXT + name, value) for name, value in before.items()}


def difference(expected: np.ndarray, got: np.ndarray) -> float:
    """How far two arrays are apart; infinite where their forms or their NaN differ."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return float("inf")
    one, other = (value.astype(np.float64) for value in (expected, got))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 0.0
    size = np.abs(one[np.isfinite(one)]).max(initial=1.0)
    apart = np.abs(one - other)[~same] / size
    return float(np.nan_to_num(apart, nan=np.inf).max())


def observed(step: Step, generator: np.random.Generator, batch: int) -> dict[str, np.ndarray]:
    """Random observations of a batch, by the names of inputs, and rewards where they are read."""
    found = {one.port.name: _drawn(one.port, one.leaf, one.start, generator, batch) for one in step.shown if one.port}
    if any(port.name == REWARD for port in step.inputs):
        found[REWARD] = generator.standard_normal(batch).astype(np.float32)
    return found


def _drawn(port: Port, leaf: spaces.Leaf, start: Any, generator: np.random.Generator, batch: int) -> np.ndarray:
    shape = (batch, *leaf.shape)
    if isinstance(leaf, spaces.Text):
        value: Any = generator.integers(0, leaf.symbols + 1, shape)
    elif not isinstance(leaf, spaces.Box):
        value = generator.integers(0, np.asarray(spaces.categories(leaf)).reshape(leaf.shape), shape) + start
    elif port.name == spaces.MASK:
        value = generator.random(shape) < 0.5
        value[..., 0] |= ~value.any(-1)
    elif port.dtype in ("bool", "uint8", "int32"):
        value = generator.integers(0, {"bool": 2, "uint8": 256, "int32": 100}[port.dtype], shape)
    else:
        scale = leaf.scale
        value = generator.standard_normal(shape)
        value = value if scale is None else value / np.asarray(scale.factor) + np.asarray(scale.middle)
    return np.asarray(value).reshape(batch, *port.shape).astype(port.dtype)
