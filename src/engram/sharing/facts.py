"""What a shared folder tells of an agent: its evaluation, its environment, what its memory holds."""

import hashlib
import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import numpy as np

from engram import specs
from engram.play.evaluation import Evaluation
from engram.play.trained import TrainedAgent
from engram.run.intervals import interval

TOLD = 1_000  # entries of a memory that memory.json lists
PACKAGES = ("engram-rl", "jax", "numpy", "gymnasium")
COLUMNS = {
    "id": "place in the memory, which attention names",
    "seed": "of the agent that remembers it",
    "action": "what was done",
    "value": "what it says the action is worth, in units of reward",
    "td_error": "how far the network's own Q was below the return that was written",
    "environment": "in which copy of the environment it was experienced; -1 for a demonstration",
    "episode": "in which episode of training; -1 for a demonstration",
    "step": "at which step of that episode",
    "age": "writes since it was written",
    "unread": "writes since acting read it; -1 for never",
    "attention": "that it received while acting, in all",
    "count": "experiences in it",
}


def fingerprint(agent: TrainedAgent) -> str:
    """SHA-256 of an agent's networks and of the checkpoint that it came from."""
    digest = hashlib.sha256(str(agent.checkpoint).encode())
    for mind in agent.minds:
        for leaf in _leaves(mind.network):
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def fresh_seed(agent: TrainedAgent) -> int:
    """A seed that nobody used before: it follows from the parameters, which were not known then."""
    return 1 + int(fingerprint(agent)[:8], 16) % ((1 << 31) - 1)


def _leaves(tree: Any) -> list[np.ndarray]:
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def evaluation(agent: TrainedAgent, episodes: int) -> dict[str, Any]:
    """Greedy episodes on a fresh seed, as evaluation.json holds them."""
    seed = fresh_seed(agent)
    found: Evaluation = agent.evaluate(episodes, seed=seed)
    low, high = interval(found.returns) if found.episodes > 1 else (None, None)
    rate = found.success_rate
    return {
        "env": agent.world_name,
        "env_args": agent.world_args,
        "seed": seed,
        "mean": found.mean,
        "interval_95": [low, high],
        "std": found.std,
        "episodes": found.episodes,
        "agents": len(found.per_seed),
        "returns": found.returns,
        "lengths": found.lengths,
        "cut": found.cut,
        "success_rate": rate,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "versions": versions(agent),
    }


def versions(agent: TrainedAgent) -> dict[str, str]:
    """Of Python, of the packages that decide, and of the one that the environment comes from."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *_packages_of(agent)):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _packages_of(agent: TrainedAgent) -> list[str]:
    """The distributions that an environment with a module in its id comes from."""
    module = (agent.world_name or "").rpartition(":")[0].split(".")[0]
    return packages_distributions().get(module, []) if module else []


def surroundings(agent: TrainedAgent) -> dict[str, Any]:
    """What env.json says beside what opening needs."""
    return {"observation": str(agent.plan.space), "versions": versions(agent)}


def entries(agent: TrainedAgent) -> dict[str, Any]:
    """What the entries of the external memory are, as memory.json holds it."""
    memory = agent.memory
    table = memory.table()
    count = len(memory)
    order = _most_attended(table, count)
    values = np.asarray(table.get("value", []), float)
    actions = np.asarray(table.get("action", []), int)
    return {
        "kind": memory.kind,
        "settings": specs.to_json(agent.plan.agent.external),
        "capacity": int(agent.minds[0].network.external.capacity),
        "entries": count,
        "seeds": memory.seeds,
        "keeps_observations": bool(count) and memory.observation(table["id"][0], table["seed"][0]) is not None,
        "actions": {str(action): int((actions == action).sum()) for action in np.unique(actions)},
        "values": None if not values.size else {"least": float(values.min()), "greatest": float(values.max())},
        "columns": {name: COLUMNS[name] for name in table},
        "listed": f"{len(order):,} of {count:,} entries"
        + (", those with most attention" if len(order) < count else ""),
        "table": {name: [column[place] for place in order] for name, column in table.items()},
    }


def _most_attended(table: dict[str, list[Any]], count: int) -> list[int]:
    """The places of the entries that are listed, in the order of ids."""
    if count <= TOLD:
        return list(range(count))
    attention = np.asarray(table.get("attention", np.zeros(count)), float)
    return sorted(np.argsort(-attention, kind="stable")[:TOLD].tolist())
