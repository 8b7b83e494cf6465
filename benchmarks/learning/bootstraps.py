"""The bootstraps of the article's update against the true Q* of small random worlds, deterministic and stochastic.

    python -m benchmarks.learning.bootstraps                     2 worlds of each kind, 20 seeds, all methods
    python -m benchmarks.learning.bootstraps --worlds 1 --steps 4000 --out /tmp/quick.json

A world has 30 states and 3 actions; each pair leads to one state, or by chance to one of three, and pays between -1
and 1, in stochastic worlds with noise of standard deviation 1 on top. One state ends an episode. Q* comes from value
iteration. All agents share network (2 layers of 64), replay, exploration (epsilon 0.2) and number of updates; they
differ in what the next observation is worth:

  dqn                 max Q of the target network
  double              the online network picks, the target network says (Double DQN)
  memory              reading 1: Q and the attention-weighted values of similar situations, by confidence
  memory, best        the same, where an entry keeps the best return instead of a mean: right only without chance
  actions, T          reading 2: softmax over the next Q, temperature T
  actions, mellow     mellowmax of temperature 0.1
  successors          reading 3: what followed similar situations and actions

Two errors, over all states where one acts, of the network's own Q: *error*, the root mean square of Q - Q* over pairs;
*over-estimation*, the mean of max Q - max Q* over states. Seeds run side by side in one compiled program; intervals are
over seeds and worlds. *Regret*: how much less than max Q* the greedy action is worth by Q*, mean over states.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from benchmarks.record import Record, add_flags
from benchmarks.scores import summary
from engram import Trainer
from engram.agents.policy import Seen, begin, look, still
from engram.envs.device import DeviceStep, register_device, uniforms
from engram.spaces import Box

STATES, ACTIONS, BRANCHES, DISCOUNT = 30, 3, 3, 0.9
MEMORY = {"external": "episodic", "external.capacity": 3_000, "external.neighbours": 5, "recall.n_step": 1,
          "recall.keys": "frozen", "recall.max_memory_weight": 1.0}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "dqn": {},
    "double": {"double": True},
    "memory": MEMORY | {"bootstrap": "memory"},
    "memory, best": MEMORY | {"bootstrap": "memory", "external.update": "max"},
    "actions, 0.1": {"bootstrap": "actions", "bootstrap.temperature": 0.1},
    "actions, 0.5": {"bootstrap": "actions", "bootstrap.temperature": 0.5},
    "actions, mellow": {"bootstrap": "actions", "bootstrap.mellow": True},
    # Each experience is an entry of its own here. What was read must not stay for ever, or the same few would speak.
    "successors": MEMORY | {"bootstrap": "successors", "recall.max_memory_weight": 0.0, "external.eviction": "oldest",
                            "external.neighbours": 30},
}  # fmt: skip


class WorldState(NamedTuple):
    """Where the agent is."""

    place: Int[Array, ""]
    steps: Int[Array, ""]


class Tables(NamedTuple):
    """A world as numbers."""

    following: np.ndarray  # Int[states actions branches]
    reward: np.ndarray  # Float[states actions], the mean
    q: np.ndarray  # Float[states actions], Q*


@register_device("benchmark/RandomWorld-v0")
@dataclass(frozen=True)
class RandomWorld:
    """A random Markov decision process; the last state ends an episode. Observation: one-hot of the state.

    Args:
      number: which world.
      stochastic: whether moves and rewards are by chance.
    """

    number: int = 0
    stochastic: bool = False

    actions = ACTIONS

    @property
    def observation_space(self) -> Box:
        return Box((STATES,))

    @property
    def tables(self) -> Tables:
        """Where actions lead, what they pay, and Q*."""
        return tables(self.number, self.stochastic)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[WorldState, Array]:
        place = jnp.floor(uniforms(key, 1)[0] * (STATES - 1)).astype(jnp.int32)
        return WorldState(place, jnp.int32(0)), jax.nn.one_hot(place, STATES)

    def step(self, state: WorldState, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[WorldState, DeviceStep]:
        chosen, one, two = uniforms(key, 3)
        branch = jnp.floor(chosen * BRANCHES).astype(jnp.int32)
        place = jnp.asarray(self.tables.following)[state.place, action, branch]
        reward = jnp.asarray(self.tables.reward, jnp.float32)[state.place, action]
        if self.stochastic:
            reward += jnp.sqrt(-2 * jnp.log1p(-one)) * jnp.cos(2 * jnp.pi * two)
        steps = state.steps + 1
        shown = jax.nn.one_hot(place, STATES)
        return WorldState(place, steps), DeviceStep(shown, reward, place == STATES - 1, steps >= 50)


@cache
def tables(number: int, stochastic: bool) -> Tables:
    """The world with this number."""
    generator = np.random.default_rng([number, int(stochastic)])
    following = generator.integers(STATES, size=(STATES, ACTIONS, BRANCHES)).astype(np.int32)
    if not stochastic:
        following[:] = following[..., :1]
    reward = generator.uniform(-1, 1, size=(STATES, ACTIONS))
    q = np.zeros((STATES, ACTIONS))
    for _ in range(1_000):
        value = q.max(1)
        value[STATES - 1] = 0.0
        q = reward + DISCOUNT * value[following].mean(-1)
    return Tables(following, reward, q)


def learn(method: str, world: RandomWorld, seeds: int, steps: int) -> list[dict[str, float]]:
    """The errors of each seed's agent."""
    settings = {
        "encoder.widths": (64, 64), "discount": DISCOUNT, "exploration.start": 1.0, "exploration.end": 0.2,
        "exploration.steps": steps // 5, "replay.capacity": steps, "replay.start": 500, "replay.batch_size": 32,
        "optimizer.learning_rate": 1e-3, "learn_every": 4, "target.every": 1, "target.rate": 0.02,
    }  # fmt: skip
    env_args = {"number": world.number, "stochastic": world.stochastic}
    with Trainer("benchmark/RandomWorld-v0", "dqn", seed=100, seeds=seeds, envs=4, steps=steps, env_args=env_args,
                 overrides=settings | METHODS[method]) as trainer:  # fmt: skip
        trainer.learn()
        spec = trainer.plan.agent
        return [errors(spec, mind, world.tables) for mind in trainer.runner.minds()]


def errors(spec: Any, mind: Any, known: Tables) -> dict[str, float]:
    """How far an agent's Q is from Q*."""
    acting, none = STATES - 1, jnp.zeros(STATES - 1)
    seen = Seen(jnp.eye(STATES)[:acting], none == 0, none)
    decision = look(spec, mind, begin(spec, mind.network, acting), seen, still(mind.network, acting)).decision
    q, best = np.asarray(decision.returns.q, float), known.q[:acting]
    chosen = np.asarray(decision.preference).argmax(-1)
    return {
        "error": float(np.sqrt(((q - best) ** 2).mean())),
        "over_estimation": float((q.max(-1) - best.max(-1)).mean()),
        "regret": float((best.max(-1) - best[np.arange(acting), chosen]).mean()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=2, help="of each kind")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20_000)
    add_flags(parser, "bootstraps")
    options = parser.parse_args()
    record = Record(options, {"worlds": options.worlds, "seeds": options.seeds, "steps": options.steps})
    for number in range(options.worlds):
        for stochastic in (False, True):
            world = RandomWorld(number, stochastic)
            for method in METHODS:
                part = f"{'stochastic' if stochastic else 'deterministic'}, {method}: world {number}"
                if part not in record.parts:
                    rows = learn(method, world, options.seeds, options.steps)
                    record.put(part, {"seeds": rows})
                    print(part, {name: round(np.mean([row[name] for row in rows]), 3) for name in rows[0]},
                          file=sys.stderr, flush=True)  # fmt: skip
    found: dict[str, Any] = {}
    print("| worlds | bootstrap | error | over-estimation | regret |\n|---|---|---|---|---|")
    for kind in ("deterministic", "stochastic"):
        for method in METHODS:
            parts = [part for name, part in record.parts.items() if name.partition(":")[0] == f"{kind}, {method}"]
            rows = [row for part in parts for row in part["seeds"]]
            found[f"{kind}, {method}"] = {name: summary([row[name] for row in rows]) for name in rows[0]}
            cells = [
                f"{one['mean']:.3f} [{one['mean_interval_95'][0]:.3f}, {one['mean_interval_95'][1]:.3f}]"
                for one in found[f"{kind}, {method}"].values()
            ]
            print(f"| {kind} | {method} | {' | '.join(cells)} |")
    record.summarize(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
