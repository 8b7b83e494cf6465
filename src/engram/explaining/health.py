"""Health of an external memory: how full it is, how old, how it is read, and whether its keys still mean the same."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from engram.agents.recall.keys import key_of
from engram.explaining.ledger import Ledger
from engram.explaining.moments import Health, Light
from engram.explaining.recording import Recording

BINS = 10
SIMILAR = 0.99  # cosine from which two entries of one action are duplicates
STALE = 0.9  # cosine of a stored key and today's, below which it is stale
MOST_KEYS = 2_000  # that are compared, evenly spaced


def health(recording: Recording, ledger: Ledger, trained: int = 0) -> Health:
    """What the memory of a recording holds after so many steps of training, and how the recorded steps read it."""
    live = np.flatnonzero(ledger.live)
    ages = None if ledger.ages is None else ledger.ages[live].astype(float)
    reads = None if ledger.reads is None else ledger.reads[live].astype(float)
    reads_of = [episode.decision.external.weights for episode in recording.episodes]
    effective = [one for weights in reads_of for one in effective_entries(weights)]
    lights = [_fill(len(live), ledger.capacity), *_written(ledger, len(live), trained), *_age(ages), *_read(reads)]
    lights += [_effective(effective), *_same_episode(recording, ledger)]
    if len(live) > 1:
        lights += _keys(recording, ledger, live)
    return Health(
        entries=len(live),
        capacity=ledger.capacity,
        lights=lights,
        ages=_histogram(ages),
        reads=_histogram(reads),
        effective=effective,
    )


def effective_entries(weights: Float[np.ndarray, "steps heads rows k"]) -> list[float]:
    """exp(entropy) of each step's weights, the mean over heads and actions: so many entries were read in effect."""
    weights = np.asarray(weights, np.float64)
    logs = np.log(np.where(weights > 0, weights, 1.0))
    entropy = -(weights * logs).sum(-1)
    known = weights.sum(-1) > 0
    each = np.where(known, np.exp(entropy), 0.0)
    return (each.sum((1, 2)) / np.maximum(known.sum((1, 2)), 1)).tolist()


def gini(values: Float[np.ndarray, "entries"]) -> float:
    """0 where all are equal, near 1 where one has everything."""
    ordered, count = np.sort(values), len(values)
    total = ordered.sum()
    if total <= 0:
        return 0.0
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * total))


def _light(name: str, value: str, good: Any, look: Any, rule: str) -> Light:
    return Light(name, value, "good" if good else "look" if look else "bad", rule)


def _fill(entries: int, capacity: int) -> Light:
    share = entries / max(capacity, 1)
    value = f"{entries:,} of {capacity:,} ({share:.0%})"
    return _light("fill", value, share >= 0.1, entries > 0, "good from 10 % on, bad where empty")


def _written(ledger: Ledger, entries: int, trained: int) -> list[Light]:
    """Writes and evictions; what became one entry with another counts as a write, and as one that gave way."""
    if ledger.writes is None or trained <= 0:
        return []
    writes, gone = 1000 * ledger.writes / trained, 1000 * max(ledger.writes - entries, 0) / trained
    value = f"{writes:,.0f} writes, {gone:,.0f} gave way or merged"
    return [_light("per 1,000 steps", value, writes > 0, True, "good where something is written")]


def _same_episode(recording: Recording, ledger: Ledger) -> list[Light]:
    """How much of each read one and the same episode of training has."""
    shares = []
    for episode in recording.episodes:
        read: Any = episode.decision.external
        rows = (np.asarray(leaf).reshape(-1, leaf.shape[-1]) for leaf in (read.entries, read.weights))
        for row, share in zip(*rows, strict=True):
            known = (row >= 0) & (share > 0)
            origin = ledger.entries.origin[row[known]][:, :2]
            if not known.any() or (origin < 0).any():
                continue
            _, which = np.unique(origin, axis=0, return_inverse=True)
            shares.append(np.bincount(which.reshape(-1), share[known]).max() / share[known].sum())
    if not shares:
        return []
    mean = float(np.mean(shares))
    rule = "the largest share of a read that one episode of training has; good up to 50 %, bad above 90 %"
    return [_light("same episode", f"{mean:.0%}", mean <= 0.5, mean <= 0.9, rule)]


def _age(ages: np.ndarray | None) -> list[Light]:
    if ages is None or len(ages) == 0:
        return []
    middle, oldest = np.median(ages), ages.max()
    value = f"median {middle:,.0f}, oldest {oldest:,.0f} writes"
    ratio = oldest / max(middle, 1.0)
    return [_light("age", value, ratio <= 10, True, "good where the oldest is at most 10 times the median")]


def _read(reads: np.ndarray | None) -> list[Light]:
    if reads is None or len(reads) == 0:
        return []
    never, spread = float((reads == 0).mean()), gini(reads)
    top = np.sort(reads)[::-1][: max(1, len(reads) // 100)].sum() / max(reads.sum(), 1e-12)
    return [
        _light("never read", f"{never:.0%}", never <= 0.5, never <= 0.9, "good up to 50 %, bad above 90 %"),
        _light("share of the most read 1 %", f"{top:.0%}", top <= 0.2, top <= 0.5, "good up to 20 %, bad above 50 %"),
        _light("inequality of reads (Gini)", f"{spread:.2f}", spread <= 0.8, spread <= 0.95, "good up to 0.80"),
    ]


def _effective(effective: list[float]) -> Light:
    mean = float(np.mean(effective)) if effective else 0.0
    rule = "good from 2 on: below, one entry decides each read"
    return _light("entries read in effect", f"{mean:.1f}", mean >= 2, mean > 0, rule)


def _keys(recording: Recording, ledger: Ledger, live: np.ndarray) -> list[Light]:
    """Duplicates, and how far keys have drifted where observations are kept."""
    chosen = live[np.linspace(0, len(live) - 1, min(len(live), MOST_KEYS)).astype(int)]
    keys = np.asarray(ledger.entries.key[chosen], np.float64)
    if keys.size == 0 or not np.abs(keys).any():
        return []
    found = [_duplicates(keys, np.asarray(ledger.entries.action[chosen]))]
    if ledger.entries.observation is not None:
        found.append(_drift(recording, ledger, chosen, keys))
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _duplicates(keys: np.ndarray, actions: np.ndarray) -> Light:
    units, again = _unit(keys), 0
    for action in np.unique(actions):
        own = units[actions == action]
        alike = np.triu(own @ own.T > SIMILAR, 1)
        again += int(alike.any(0).sum())
    share = again / len(keys)
    rule = f"entries of one action with a cosine above {SIMILAR} to another; good up to 20 %, bad above 60 %"
    return _light("duplicates", f"{share:.0%}", share <= 0.2, share <= 0.6, rule)


def _drift(recording: Recording, ledger: Ledger, chosen: np.ndarray, keys: np.ndarray) -> Light:
    """The cosine of each stored key and of today's encoding of its observation."""
    network = recording.mind.target or recording.mind.network
    frames = jax.tree.map(lambda leaf: leaf[chosen], ledger.entries.observation)
    today = np.asarray(jax.vmap(lambda one: key_of(recording.spec, network.embed(one)))(frames))
    cosine = (_unit(keys) * _unit(today)).sum(-1)
    low, middle, stale = np.percentile(cosine, 5), np.median(cosine), float((cosine < STALE).mean())
    value = f"{stale:.0%} stale; cosine 5 % {low:.2f}, median {middle:.2f}"
    rule = f"stale: cosine of the stored key and today's below {STALE}; good up to 10 %, bad above 50 %"
    return _light("key drift", value, stale <= 0.1, stale <= 0.5, rule)


def _histogram(values: np.ndarray | None) -> list[tuple[float, float, int]]:
    if values is None or len(values) == 0:
        return []
    counts, edges = np.histogram(values, BINS)
    return [(float(low), float(high), int(n)) for low, high, n in zip(edges, edges[1:], counts, strict=False)]
