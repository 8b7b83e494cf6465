"""Contributions: the margin of a choice as network + remembered entries + rest, which add up to it exactly.

The estimate of an action a is the sum

    Q(a) = (1 - s_a) N_a + s_a M_a,    M_a = sum_i w_ai v_i

of the network's N and the memory's M, with its share s. The weights of a read sum to 1. Where entries vote for the
actions that were taken there, v depends on the action too, and what an entry says is v_ai. So the margin of the chosen
action a over the runner-up b is

    (N_a - N_b)  +  sum_i [s_a w_ai (v_i - N_a) - s_b w_bi (v_i - N_b)]

the network's own, and for each entry i a signed part: how far it moves an estimate away from the network's. A number
that is added to all returns changes no part. A policy chooses by its logits, of which a memory is no part. Weights are
means over the heads of a read. Everything here is NumPy, for one step.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Choice(NamedTuple):
    """What was chosen, and over what."""

    action: int
    runner_up: int  # the action itself where no other was allowed
    margin: float


class Entry(NamedTuple):
    """One remembered entry, as a step read it."""

    id: int
    action: int  # in whose read it was, the chosen one before the runner-up
    weight: float  # in that read
    gave: float  # signed part of the margin


class Split(NamedTuple):
    """margin = network + memories + rest."""

    network: float
    memories: float
    rest: float
    entries: list[Entry]  # all that were read for the two actions, by weight, largest first


class Read(NamedTuple):
    """What a step read of an external memory, and what its entries are worth in units of Q."""

    weights: Float[np.ndarray, "heads rows k"]  # a row for each action, or one for all
    ids: Int[np.ndarray, "heads rows k"]  # -1 for nothing
    values: Float[np.ndarray, "heads rows k"]
    share: Float[np.ndarray, "actions"]


def choice(
    preference: Float[np.ndarray, "actions"], action: int, allowed: Bool[np.ndarray, "actions"] | None = None
) -> Choice:
    """The best of the other allowed actions, and how far it lies behind."""
    others = np.ones(len(preference), bool) if allowed is None or not allowed.any() else np.array(allowed)
    others[action] = False
    if not others.any():
        return Choice(action, action, 0.0)
    runner_up = int(np.where(others, preference, -np.inf).argmax())
    return Choice(action, runner_up, float(preference[action]) - float(preference[runner_up]))


def split(
    chosen: Choice, own: Float[np.ndarray, "actions"], read: Read | None = None, by_policy: bool = False
) -> Split:
    """The margin, taken apart.

    Args:
      own: the network's preference of each action: its Q, or the logits of its policy.
      read: of the external memory; None without one. Of a policy its entries are listed, and gave nothing.
    """
    a, b, margin = chosen
    if a == b:
        return Split(0.0, 0.0, 0.0, [] if read is None else entries_of(chosen, read, own, by_policy))
    network = float(own[a]) - float(own[b])
    entries = [] if read is None else entries_of(chosen, read, own, by_policy)
    memories = float(sum(entry.gave for entry in entries))
    return Split(network, memories, margin - network - memories, entries)


def entries_of(chosen: Choice, read: Read, own: Float[np.ndarray, "actions"], by_policy: bool = False) -> list[Entry]:
    """The entries of both actions' reads; one that is in both is one entry, and gave to both."""
    found: dict[int, Entry] = {}
    for action, sign in _signs(chosen):
        share = 0.0 if by_policy else sign * float(read.share[action])
        for id, weight, value in zip(*_row(read, action), strict=True):
            if id < 0:
                continue
            weight = float(weight)
            gave = share * weight * (float(value) - float(own[action])) if share else 0.0
            before = found.get(int(id))
            if before is None:
                found[int(id)] = Entry(int(id), action, weight, gave)
            else:
                more = weight if before.action == action else 0.0
                found[int(id)] = before._replace(weight=before.weight + more, gave=before.gave + gave)
    return sorted(found.values(), key=lambda entry: (-entry.weight, entry.id))


def likely_effects(split: Split, read: Read, chosen: Choice) -> dict[int, float]:
    """How far leaving each entry out would roughly move the margin: what is then measured begins with the largest.

    The other weights of its read grow by 1 / (1 - w), so M_a moves by w (M_a - v) / (1 - w). That the next nearest
    entry takes the free place, and that the share may fall, is left to the measurement.
    """
    found = dict.fromkeys((entry.id for entry in split.entries), 0.0)
    for action, sign in _signs(chosen):
        ids, weights, values = _row(read, action)
        mean = float((weights * values).sum())
        for id in np.unique(ids[ids >= 0]).tolist():
            weight = float(weights[ids == id].sum())
            value = float(values[ids == id][0])
            found[id] += sign * float(read.share[action]) * weight * (value - mean) / max(1 - weight, 1e-3)
    return found


def _signs(chosen: Choice) -> list[tuple[int, float]]:
    """The actions whose reads make the margin, with the sign of each."""
    both = [(chosen.action, 1.0), (chosen.runner_up, -1.0)]
    return both[:1] if chosen.action == chosen.runner_up else both


def _row(read: Read, action: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, weights and values of an action's read, of all heads together."""
    row = action if read.ids.shape[1] > 1 else 0
    heads = max(read.ids.shape[0], 1)
    return read.ids[:, row].ravel(), read.weights[:, row].ravel() / heads, read.values[:, row].ravel()
