"""Decisions of a trained agent for several requests at once, and what an answer tells of each.

The network answers a batch by one compiled call. A batch is filled up to a power of two, so that few programs are
compiled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram.agents.policy import Look, PolicyState, Seen, seen_on_host
from engram.play.playing import Policy, greedy_program
from engram.play.trained import TrainedAgent
from engram.precision import in_32_bits
from engram.serving.observations import Reader

ORIGIN = ("action", "value", "environment", "episode", "step")  # of a remembered experience, what an answer tells


class Asked(NamedTuple):
    """One observation to decide on. Leaves have a leading axis [1]."""

    rows: PyTree
    state: PolicyState | None  # None where an episode begins
    reward: float


class Decided(NamedTuple):
    """What one decision came to. `state`: NumPy leaves [1, ...]. `told`: as an answer holds it."""

    state: PolicyState
    told: dict[str, Any]


def told(_: Seen, looked: Look) -> dict[str, Any]:
    """What is kept of a decision."""
    decision = looked.decision
    policy = decision.returns.policy
    external = decision.external
    return {
        "q": decision.q,
        "value": decision.value,
        "allowed": decision.allowed,
        "policy": None if policy is None else jax.nn.softmax(decision.preference),
        "share": decision.share,
        "memories": None if external is None else (external.entries, external.weights),
        "attended": (decision.working.entries, decision.working.weights),
        "best": decision.best.astype(jnp.int32),
    }


class Decider:
    """A trained agent that answers. Of several seeds the first one's agent does, as in `predict`.

    Args:
      most: requests of a batch.
    """

    def __init__(self, agent: TrainedAgent, most: int = 1):
        spec: Any = agent.plan.agent
        self.agent, self.reader, self.most = agent, Reader(agent), most
        self._mind, self._policy = agent.minds[0], Policy(agent.minds[0], spec)
        self._program = in_32_bits(greedy_program(spec, told))
        self._first = jax.tree.map(np.asarray, self._policy.begin(1))
        self._entries = self._table()
        self.needs_reward = bool(spec.observation.previous_reward)
        self.keeps_state = bool(spec.has_memory or spec.observation.stack > 1 or spec.observation.previous_action)

    def _table(self) -> dict[int, dict[str, Any]]:
        """What is known of each remembered experience, by its id."""
        if not self.agent.plan.agent.has_external:
            return {}
        table = self.agent.memory.where(seed=self.agent.plan.seed).table()
        names = [name for name in ORIGIN if name in table]
        return {id: {name: table[name][place] for name in names} for place, id in enumerate(table["id"])}

    def warm(self) -> None:
        """Compiles what answering needs."""
        from engram import spaces

        rows = spaces.zeros(self.agent.plan.space, (1,))
        size = 1
        while size <= self.most:
            self.decide([Asked(rows, None, 0.0)] * size)
            size *= 2

    def fits(self, state: PyTree) -> bool:
        """Whether this is the state of one session of this agent."""
        return self._policy.fits(state, 1) and all(
            np.asarray(one).dtype == np.asarray(like).dtype
            for one, like in zip(jax.tree.leaves(state), jax.tree.leaves(self._first), strict=True)
        )

    @property
    def first(self) -> PolicyState:
        """The state of a session before its first observation."""
        return self._first

    def decide(self, asked: Sequence[Asked]) -> list[Decided]:
        """Decisions, in the order of what was asked; at most `most` together."""
        size = 1 << (len(asked) - 1).bit_length()
        filled = [*asked, *[asked[-1]] * (size - len(asked))]
        starts = np.array([one.state is None for one in filled])
        states = [self._first if one.state is None else one.state for one in filled]
        state, rows = _together(states), _together([one.rows for one in filled])
        reward = np.array([one.reward for one in filled], np.float32)
        following, action, kept = self._program(self._mind, state, seen_on_host(rows, starts, reward))
        following, action, kept = jax.tree.map(np.asarray, (following, action, kept))
        return [
            Decided(_apart(following, place), self._told(_apart(kept, place, False), int(action[place])))
            for place in range(len(asked))
        ]

    def _told(self, kept: dict[str, Any], action: int) -> dict[str, Any]:
        """One decision as JSON values."""
        taken = np.asarray(self.reader.translator.environment_action(np.array([action])))[0]
        found: dict[str, Any] = {
            "action": taken.tolist(), "number": action, "q": _plain(kept["q"]), "value": _plain(kept["value"]),
        }  # fmt: skip
        if kept["allowed"] is not None:
            found["allowed"] = kept["allowed"].tolist()
        if kept["policy"] is not None:
            found["policy"] = _plain(kept["policy"])
        if kept["memories"] is not None:
            found["share"] = _plain(_of_action(kept["share"], action))
            pairs = _by_id(*kept["memories"], action=action)
            found["memories"] = [{"id": id, "weight": weight, **self._entries.get(id, {})} for id, weight in pairs]
        if pairs := _by_id(*kept["attended"], action=0):
            found["attended_steps"] = [{"step": step, "weight": weight} for step, weight in pairs]
        return found


def _together(trees: Sequence[PyTree]) -> PyTree:
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)


def _apart(tree: PyTree, place: int, axis: bool = True) -> PyTree:
    """One row of a tree [batch, ...]: with a leading axis [1], or without it."""
    if axis:
        return jax.tree.map(lambda leaf: leaf[place : place + 1], tree)
    return jax.tree.map(lambda leaf: leaf[place], tree)


def _of_action(values: np.ndarray, action: int) -> Any:
    """The value of an action, where there is one for each; else the only one."""
    return values[action] if values.ndim and len(values) > action else values.reshape(-1)[0]


def _by_id(entries: np.ndarray, weights: np.ndarray, action: int) -> list[tuple[int, float]]:
    """What was attended to [heads, actions, entries] for an action: id and weight over all heads, largest first."""
    heads, rows, _ = weights.shape
    if heads == 0:
        return []
    row = action if action < rows else 0
    found: dict[int, float] = {}
    for id, weight in zip(entries[:, row].ravel().tolist(), weights[:, row].ravel().tolist(), strict=True):
        if id >= 0 and weight > 0:
            found[id] = found.get(id, 0.0) + weight / heads
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))


def _plain(values: Any) -> Any:
    """Numbers for JSON, which holds no infinity: null stands for one."""
    array = np.asarray(values, np.float64)
    if np.isfinite(array).all():
        return array.tolist()
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()
