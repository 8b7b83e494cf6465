"""An agent with an external memory that is led through scripted steps, and what its memory should then hold."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from engram import spaces
from engram.agents.agent import Experience
from engram.agents.examples import Start, Transition
from engram.agents.mind import RecallSpec
from engram.agents.policy import Seen
from engram.agents.q_learning import QLearner
from engram.agents.recall.keys import key_of
from engram.agents.recall.state import RecallState
from engram.agents.spec import AgentSpec
from engram.encoders.vector import VectorSpec
from engram.external.episodic import EpisodicSpec
from engram.losses.returns import NStep
from engram.types import TimeStep

KEY = jax.random.PRNGKey(0)
SPEC = AgentSpec(
    encoder=VectorSpec(widths=(8,)), external=EpisodicSpec(capacity=200, neighbours=5),
    recall=RecallSpec(n_step=3), discount=0.5, learn_every=2,
)  # fmt: skip
NO_BITS = jnp.zeros(0, jnp.uint32)


def agent(envs: int = 2, **changes: Any) -> QLearner:
    return QLearner(replace(SPEC, **changes), spaces.Box((2,)), 2, envs)


class Compiled(NamedTuple):
    init: Any
    act: Any
    observe: Any


@cache
def compiled(one: QLearner) -> Compiled:
    return Compiled(jax.jit(one.init), jax.jit(one.act), jax.jit(one.observe))


def transition(observation: Any, action: int, following: Any, reward: float = 1.0, discount: float = 0.5) -> Transition:
    """One step, to be scored."""
    step = NStep(jnp.float32(reward), jnp.float32(discount), jnp.int32(1))
    start = Start(jnp.int32(action), step, jnp.float32(1))
    return Transition(start, observation, following, jnp.zeros((3, 0), jnp.uint32))


class Told:
    """An agent led through scripted rewards and ends. `rows` is what each environment showed."""

    def __init__(self, one: QLearner):
        self.agent, self.state = one, compiled(one).init(KEY)
        self.rows: list[list[dict[str, Any]]] = [[] for _ in range(one.envs)]
        self.experiences: list[Experience] = []

    @property
    def recall(self) -> RecallState:
        return self.state.recall

    @property
    def params(self) -> Any:
        return self.state.learner.params

    def steps(self, count: int, random: np.random.Generator, reward: float = 0.0) -> None:
        """Random steps of one long episode; rewards are `reward` and a normal number."""
        envs, no = self.agent.envs, np.zeros(self.agent.envs, bool)
        for _ in range(count):
            seen = random.normal(size=(envs, 2)).astype(np.float32)
            self.step(seen, (reward + random.normal(size=envs)).astype(np.float32), no, no)

    def step(
        self,
        observation: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        anew: np.ndarray | None = None,
    ) -> None:
        """`anew`: where another episode begins although the last one did not end."""
        envs = self.agent.envs
        observation = jnp.asarray(observation)
        for env in np.flatnonzero(np.zeros(envs) if anew is None else anew):
            if self.rows[env]:
                self.rows[env][-1]["done"] = True
        is_first = jnp.array([not rows or rows[-1]["done"] for rows in self.rows])
        seen = Seen(observation, is_first, jnp.zeros(envs))
        calls = compiled(self.agent)
        actor, action, decision, noted = calls.act(self.agent.mind(self.state), self.state.actor, seen)
        done = terminated | truncated
        row = TimeStep(observation, is_first, action, jnp.asarray(reward), jnp.asarray(terminated))
        experience = Experience(row, jnp.asarray(done), observation, jnp.ones(envs, bool), noted)
        experience = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], experience)
        self.experiences.append(experience)
        self.state = calls.observe(replace(self.state, actor=actor), experience)
        keys = np.asarray(jax.vmap(lambda vector: key_of(self.agent.spec, vector))(decision.working.vector))
        best = np.asarray(decision.preference).max(-1)
        for env, rows in enumerate(self.rows):
            rows.append({
                "action": int(action[env]), "reward": float(reward[env]), "terminated": bool(terminated[env]),
                "done": bool(done[env]), "best": float(best[env]), "key": keys[env],
            })  # fmt: skip

    def numbered(self) -> dict[tuple[int, int, int], int]:
        """(environment, episode, step of it) -> step of the run."""
        steps = {}
        for env, rows in enumerate(self.rows):
            episode, first = 0, 0
            for t, row in enumerate(rows):
                steps[env, episode, t - first] = t
                if row["done"]:
                    episode, first = episode + 1, t + 1
        return steps

    def expected(self, n: int, discount: float) -> list[tuple[int, int, float]]:
        """By a plain loop: (environment, step, value) of every action that should have been written."""
        found = []
        for env, rows in enumerate(self.rows):
            for t in range(len(rows) - n):
                value, written = 0.0, True
                for k in range(n):
                    if rows[t + k]["done"] and not rows[t + k]["terminated"]:
                        value += discount**k * rows[t + k]["best"]  # cut off here: what follows is not known
                        written = k > 0
                        break
                    value += discount**k * rows[t + k]["reward"]
                    if rows[t + k]["done"]:
                        break
                else:
                    value += discount**n * rows[t + n]["best"]
                if written:
                    found.append((env, t, value))
        return found
