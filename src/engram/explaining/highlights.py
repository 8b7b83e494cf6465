"""Key moments: at most ten steps worth a look first, with the reason for each."""

from collections.abc import Callable, Sequence

import numpy as np

from engram.explaining.moments import Step

MOST = 10
LAST = 5  # steps before the end of an episode that is told to its end


def key_moments(steps: Sequence[Step], discount: float | None) -> list[tuple[int, str]]:
    """Places in `steps`, in order, and why. `discount`: for the surprise of a reward; None where units differ."""
    found: dict[int, list[str]] = {}

    def note(place: int | None, why: str) -> None:
        if place is not None and (place in found or len(found) < MOST):
            found.setdefault(place, []).append(why)

    note(_largest(steps, lambda step: step.margin), "largest margin")
    note(_largest(steps, lambda step: -step.margin if step.action != step.runner_up else None), "closest choice")
    note(_largest(steps, _gap), "largest gap between best and worst (HIGHLIGHTS)")
    if discount is not None:
        note(_surprise(steps, discount), "largest surprise by what followed")
    note(
        _largest(steps, lambda step: max((abs(one.mattered or 0) for one in step.memories), default=None)),
        "largest measured effect of a remembered experience",
    )
    note(
        _largest(steps, lambda step: max((moved for _, moved in step.still_moves), default=None)),
        "largest measured effect of an earlier step",
    )
    for place in [place for place, step in enumerate(steps) if _turns(step)][:2]:
        note(place, "another choice without remembered experiences (measured)")
    ends = [place for place, step in enumerate(steps) if step.terminated]
    for end in ends[:1]:
        note(end, "last step")
        note(max(end - LAST + 1, 0), f"{min(LAST, end + 1)} steps before the end")
    return [(place, "; ".join(found[place])) for place in sorted(found)]


def _largest(steps: Sequence[Step], of: Callable[[Step], float | None]) -> int | None:
    values = [of(step) for step in steps]
    known = [(value, -place) for place, value in enumerate(values) if value is not None and np.isfinite(value)]
    if not known or max(known)[0] == 0:
        return None
    return -max(known)[1]


def _gap(step: Step) -> float | None:
    allowed = [value for value, may in zip(step.preference, step.allowed, strict=True) if may]
    return max(allowed) - min(allowed) if len(allowed) > 2 else None


def _surprise(steps: Sequence[Step], discount: float) -> int | None:
    found: dict[int, float] = {}
    for place, step in enumerate(steps):
        follows = steps[place + 1] if place + 1 < len(steps) else None
        next_one = follows is not None and follows.episode == step.episode and follows.t == step.t + 1
        if step.terminated or next_one:
            value = 0.0 if step.terminated or follows is None else follows.value
            found[place] = abs(step.reward + discount * value - step.value)
    return max(found, key=lambda place: (found[place], -place)) if found else None


def _turns(step: Step) -> bool:
    if step.without_memories is None:
        return False
    return int(np.argmax(step.without_memories)) != step.action
