"""A trained agent: networks to play and predict with, and nothing of the run that made them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Protocol

import gymnasium
import jax
import numpy as np
from jaxtyping import PyTree

from engram.agents.policy import Mind
from engram.agents.spec import AgentSpec
from engram.envs.device import is_device, make_device
from engram.envs.host.build import check_unasked
from engram.envs.host.make import HostEnvs, make_host
from engram.errors import SpaceError, SpecError
from engram.play.evaluation import Evaluation, evaluation_seed
from engram.play.observations import Stored
from engram.play.playing import Policy, play_device, play_host
from engram.spaces import Space, same
from engram.specs import Number, whole

Environment = str | gymnasium.Env | Callable[[], gymnasium.Env]


class TrainedPlan(Protocol):
    """What playing needs to know of how an agent was trained: a part of `run.plan.RunPlan`."""

    @property
    def env(self) -> str | None: ...
    @property
    def preset(self) -> str: ...
    @property
    def env_args(self) -> Mapping[str, Any]: ...
    @property
    def agent(self) -> AgentSpec: ...
    @property
    def space(self) -> Space: ...
    @property
    def actions(self) -> int: ...
    @property
    def action_bins(self) -> int | None: ...
    @property
    def seed(self) -> int: ...


AT_ONCE = 4  # environments that play side by side on the host


class TrainedAgent:
    """What `engram.load` gives: `evaluate` and `predict`, from the parameters alone.

    Neither the replay nor the environments of training are needed, so a run can be used while another process
    trains it, and on a machine that could not hold its replay. To train on, use `Trainer(run=..., resume=True)`.

    Fields:
      plan: what was chosen about the run. minds: the parameters of each seed's agent, and what it remembers.
      step: the global step of the checkpoint that it came from; None for a trainer's own.
    """

    step: int | None = None

    def __init__(
        self,
        plan: TrainedPlan,
        minds: list[Mind],
        env: Environment | None,
        like: HostEnvs | None = None,
        env_args: Mapping[str, Any] | None = None,
        trust: bool = False,
    ):
        self.plan, self.minds = plan, minds
        self._env = env if env is not None else plan.env
        self._named, self._trust = env is not None, trust
        learned = plan.env_args if isinstance(self._env, str) and self._env == plan.env else {}
        self._learned_args = {name: value for name, value in learned.items() if name not in (env_args or {})}
        self._env_args = {**learned, **(env_args or {})}
        self._like = like
        self._open = ExitStack()
        self._random = np.random.default_rng([plan.seed, 0x9EED])  # training draws from generators of its own

    def __repr__(self) -> str:
        plan, count = self.plan, len(self.minds)
        seeds = f"seed {plan.seed}" if count == 1 else f"seeds {plan.seed} to {plan.seed + count - 1}"
        where = plan.env or "an environment of your own"
        return f"TrainedAgent({where}, {plan.preset}, {seeds}: {plan.actions} actions)"

    def evaluate(
        self,
        episodes: Number = 20,
        seed: Number = 0,
        forget: bool = False,
        env: Environment | None = None,
        env_args: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Plays whole episodes greedily, on seeds that no training uses.

        `env` is another environment than that of training, with `env_args` for its constructor; `env_args` alone
        change arguments of the one of training. Observations and actions must be those that the agent learned from,
        else SpaceError.

        `forget` is a negative control: the working memory is emptied before every step, so what is lost is what
        the memory was worth.

        With several seeds, each agent plays `episodes` episodes. With `life_loss`, which ends training episodes at
        every lost life, whole games are played.
        """
        episodes, seed = whole("episodes", episodes, 1), whole("seed", seed, 0)
        if forget and not self.plan.agent.has_memory:
            raise SpecError("forget empties a working memory, and this agent has none; leave it out")
        if env is not None or env_args is not None:
            given = env if env is not None else self._env if self._named else None
            there = TrainedAgent(self.plan, self.minds, given, env_args=env_args, trust=self._trust)
            return there.evaluate(episodes, seed, forget)
        minds = [replace(mind, network=mind.network.forgetful()) for mind in self.minds] if forget else self.minds
        key = evaluation_seed(seed)
        if self._on_device:
            env = self._checked(make_device(str(self._env), **self._env_args))
            keys = jax.random.split(jax.random.PRNGKey(key), len(minds))
            play = partial(play_device, env, spec=self.plan.agent, episodes=episodes)
            played = [play(mind, one) for mind, one in zip(minds, keys, strict=True)]
        else:
            with closing(self._make(key, min(episodes, AT_ONCE))) as envs:
                played = [play_host(mind, self.plan.agent, envs, episodes) for mind in minds]
        lengths = [length for one in played for length in np.asarray(one.lengths).tolist()]
        return Evaluation.of([np.asarray(one.returns).tolist() for one in played], lengths)

    def predict(
        self,
        observation: PyTree,
        state: PyTree | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        reward: Any = None,
    ) -> tuple[Any, PyTree]:
        """The action for one observation, or for a batch of them, and the state to pass to the next call.

        Observations and actions are those of the environment, as it gives and takes them. The state holds the
        stacked frames and the working memory; pass None at the beginning. The signature is that of Stable-Baselines3's
        `predict`, so its `evaluate_policy` takes this object for a model. Of several seeds, the first one's agent
        answers; with `deterministic=False` it explores as at the end of training. `reward` is that of the step
        before: agents that read it (`observation.previous_reward`) need it, and so cannot be played by
        `evaluate_policy`.
        """
        policy = Policy(self.minds[0], self.plan.agent)
        missing = self.plan.agent.observation.missing == "mask"
        translator = Stored(self.plan.space, missing) if self._on_device else self._envs.translator
        batched = translator.is_batched(observation)
        rows = translator.rows(observation, batched)
        generator = None if deterministic else self._random
        action, state = policy.act(rows, state, episode_start, reward, generator)
        taken = translator.environment_action(action)
        return (taken if batched else taken[0]), state

    def close(self) -> None:
        """Lets go of what prediction opened."""
        self._open.close()

    def __enter__(self) -> "TrainedAgent":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _on_device(self) -> bool:
        return isinstance(self._env, str) and is_device(self._env)

    @cached_property
    def _envs(self) -> HostEnvs:
        """An environment for its translator only; never stepped."""
        return self._like or self._open.enter_context(closing(self._make(0, 1)))

    def _make(self, seed: int, envs: int) -> HostEnvs:
        env = self._env
        if env is None:
            raise SpecError("the run was started with an environment object; pass one: engram.load(run, env)")
        if isinstance(env, gymnasium.Env):
            if env.spec is None:
                raise SpecError(
                    "this environment object is in use and Gymnasium cannot make another like it; pass a function that "
                    "makes one"
                )
            env = partial(gymnasium.make, env.spec)
        if isinstance(env, str) and not self._trust:
            check_unasked(env, self._learned_args, self._named)
        env_args = {name: value for name, value in self._env_args.items() if name != "life_loss"}
        made = make_host(env, seed=seed, envs=envs, action_bins=self.plan.action_bins, env_args=env_args)
        if self.plan.agent.observation.missing == "mask":
            made.accept_missing()
        try:
            return self._checked(made)
        except SpaceError:
            made.close()
            raise

    def _checked(self, made: Any) -> Any:
        """The environment, if what it shows and takes is what the agent learned from."""
        if not same(made.observation_space, self.plan.space) or made.actions != self.plan.actions:
            raise SpaceError(
                f"{self._env} has {made.observation_space} and {made.actions} actions, but the agent learned from "
                f"{self.plan.space} and {self.plan.actions} actions; choose an environment that has these"
            )
        return made
