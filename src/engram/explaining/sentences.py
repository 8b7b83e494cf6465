"""Sentences: what was chosen and by how much, in words that claim no more than was measured.

"Looked at" is a weight, "gave" a part of a sum, "mattered" a difference that was measured by leaving something out.
No sentence says why.
"""

from collections.abc import Sequence

from engram.explaining.moments import Memory, Step

ENTERED = "This page shows what entered the calculation. Only the items marked measured were tested by removing them."
NO_MEASURE = "not measured"


def number(value: float) -> str:
    """A number as sentences write it."""
    return f"{value:.2f}" if 0.005 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def of_step(step: Step, actions: Sequence[str], by_policy: bool) -> str:
    """What was chosen, and by how much; what memories gave of it, and what was measured by leaving them out."""
    name = actions[step.action]
    if step.action == step.runner_up:
        return f"Chose {name}, the only action allowed."
    unit = " in log-probability" if by_policy else ""
    told = [f"Chose {name}, {number(step.margin)} above {actions[step.runner_up]}{unit}"]
    if step.share is not None and not by_policy:
        told.append(f"memory gave {number(step.from_memories)} of it")
    sentence = "; ".join(told) + "."
    if step.without_memories is not None and not by_policy:
        other = max(range(len(actions)), key=lambda action: step.without_memories[action])  # type: ignore[index]
        would = "the same" if other == step.action else actions[other]
        sentence += f" Would have chosen {would} without any remembered experience (measured)."
    if step.memories and not by_policy:
        sentence += _most(step)
    return sentence


def memory_name(memory: Memory) -> str:
    """What a remembered experience is called: by when it was, or by its number where the memory does not keep that."""
    if memory.episode >= 0 and memory.step >= 0:
        return f"episode {memory.episode}, step {memory.step}"
    return f"memory {memory.id}"


def _most(step: Step) -> str:
    most = step.memories[0]
    if not most.mattered:
        return ""
    way = "towards" if most.mattered > 0 else "against"
    among = f" of the {len(step.memories)} left out" if step.others[0] else ""  # the others were not tested
    return f" {memory_name(most).capitalize()} mattered most{among}: {number(abs(most.mattered))} {way} it (measured)."
