"""A trained agent: networks to play and predict with, and nothing of the run that made them."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial, wraps
from math import prod
from typing import Any, Protocol, TypeVar

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import PyTree

from engram.agents.mind import MindSpec
from engram.agents.policy import Mind, forgetful
from engram.envs.device import DeviceEnv, is_device, make_device, to_evaluate
from engram.envs.host import own
from engram.envs.host.build import check_unasked
from engram.envs.host.make import Given, HostEnvs, make_host
from engram.envs.host.spaces import Translator
from engram.envs.limit import limited
from engram.errors import SpaceError, SpecError
from engram.play.evaluation import Evaluation, evaluation_seed
from engram.play.memories import Memories
from engram.play.observations import Stored
from engram.play.playing import LONGEST, Played, Policy, Stop, never, play_device, play_host, successes_of
from engram.spaces import Space, same
from engram.specs import Number, whole, whole_if_given

Environment = Given
NOTES = logging.getLogger("engram")


class TrainedPlan(Protocol):
    """What playing needs to know of how an agent was trained: a part of `run.plan.RunPlan`."""

    @property
    def env(self) -> str | None: ...
    @property
    def preset(self) -> str: ...
    @property
    def env_args(self) -> Mapping[str, Any]: ...
    @property
    def agent(self) -> MindSpec: ...
    @property
    def space(self) -> Space: ...
    @property
    def actions(self) -> int: ...
    @property
    def action_bins(self) -> int | None: ...
    @property
    def max_episode_steps(self) -> int | None: ...
    @property
    def shown(self) -> Mapping[str, Any] | None: ...
    @property
    def seed(self) -> int: ...


NAME_DATA = ("data", "base", "goals", "data_seed")  # arguments that say what an environment is made of
AT_ONCE = 4  # environments that play side by side on the host
F = TypeVar("F", bound=Callable[..., Any])
_OWN = ("_policy", "_translator", "_random")  # what every copy makes anew


def environment_first(evaluate: F) -> F:
    """Lets a method that plays episodes take an environment in the first place, before their number too."""

    @wraps(evaluate)
    def takes_both(self: Any, *given: Any, **named: Any) -> Any:
        if given and named.get("env") is None and _is_environment(given[0]):
            given, named = given[1:], {**named, "env": given[0]}
        return evaluate(self, *given, **named)

    return takes_both  # type: ignore[return-value]


def _is_environment(value: Any) -> bool:
    """Whether what was given for a number of episodes is an environment."""
    return isinstance(value, str | gymnasium.Env | VectorEnv) or callable(value)


class TrainedAgent:
    """What `engram.load` gives: `evaluate` and `predict`, from the parameters alone.

    Neither the replay nor the environments of training are needed, so a run can be used while another process
    trains it, and on a machine that could not hold its replay. To predict, no environment is needed at all. An agent
    can be copied, pickled, and used by several threads. To train on, use `Trainer(run=..., resume=True)`.

    Args:
      of_training: whether `env` is what training plays in. Evaluation then plays in another one like it; without, it
        plays in an environment object that was given, and leaves it open.

    Fields:
      plan: what was chosen about the run. minds: the parameters of each seed's agent, and what it remembers.
      step: the global step of the checkpoint that it came from; None for a trainer's own.
      checkpoint: 12 hexadecimal digits of that checkpoint's manifest; None for a trainer's own.
    """

    step: int | None = None
    checkpoint: str | None = None

    def __init__(
        self,
        plan: TrainedPlan,
        minds: list[Mind],
        env: Environment | None,
        env_args: Mapping[str, Any] | None = None,
        trust: bool = False,
        of_training: bool = False,
    ):
        self.plan, self.minds = plan, minds
        self._env = env if env is not None else plan.env
        self._named, self._trust = env is not None, trust
        learned = plan.env_args if isinstance(self._env, str) and self._env == plan.env else {}
        self._learned_args = {name: value for name, value in learned.items() if name not in (env_args or {})}
        self._env_args = {**learned, **(env_args or {})}
        self._of_training = of_training
        self._random = np.random.default_rng([plan.seed, 0x9EED])  # training draws from generators of its own

    def __repr__(self) -> str:
        plan, count = self.plan, len(self.minds)
        seeds = f"seed {plan.seed}" if count == 1 else f"seeds {plan.seed} to {plan.seed + count - 1}"
        where = plan.env or "an environment of your own"
        return f"TrainedAgent({where}, {plan.preset}, {seeds}: {plan.actions} actions)"

    @environment_first
    def evaluate(
        self,
        episodes: Any = 20,
        seed: Number = 0,
        forget: bool = False,
        env: Environment | None = None,
        env_args: Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        stop: Stop = never,
    ) -> Evaluation:
        """Plays whole episodes greedily, on seeds that no training uses, in an environment of its own.

        Args:
          episodes: how many; with several seeds, each agent plays so many. An environment may come before, as in
            `evaluate(env, episodes=5)`: it is `env`.
          forget: a negative control: the working memory is emptied before every step, and nothing is in the external
            one, so what is lost is what the memory was worth.
          env: another environment than that of training, with `env_args` for its constructor; `env_args` alone change
            arguments of the one of training. Its observations and actions must be those that the agent learned from,
            else SpaceError. An object is played in and left open; one that a trainer plays in is refused.
          max_episode_steps: an episode that has not ended after so many steps is cut off; by default as in training,
            and where there is no limit after 27,000, which is said.
          stop: is asked between steps; Interrupted is raised where it is true.

        With `life_loss`, which ends training episodes at every lost life, whole games are played.
        """
        episodes, seed = whole("episodes", episodes, 1), whole("seed", seed, 0)
        max_episode_steps = whole_if_given("max_episode_steps", max_episode_steps, 1)
        if env is not None or env_args is not None:
            there = self._elsewhere(env, env_args)
            return there.evaluate(episodes, seed, forget, max_episode_steps=max_episode_steps, stop=stop)
        minds = self._forgetful() if forget else self.minds
        chosen = max_episode_steps or self.plan.max_episode_steps
        played = self._played(minds, evaluation_seed(seed), episodes, chosen, stop)
        lengths = [length for one in played for length in np.asarray(one.lengths).tolist()]
        cut = sum(one.cut for one in played)
        if cut and chosen is None:
            _warn_of_cuts(cut, len(lengths))
        return Evaluation.of([np.asarray(one.returns).tolist() for one in played], lengths, cut, successes_of(played))

    def _forgetful(self) -> list[Mind]:
        """What decides with an empty memory. SpecError for an agent without any."""
        if not (self.plan.agent.has_memory or self.plan.agent.has_external):
            raise SpecError("forget empties a memory, and this agent has none; leave it out")
        return [forgetful(self.plan.agent, mind) for mind in self.minds]

    def _elsewhere(self, env: Environment | None, env_args: Mapping[str, Any] | None) -> "TrainedAgent":
        """The same agent for another environment, or for that of training with other arguments."""
        return TrainedAgent(
            self.plan,
            self.minds,
            env if env is not None else self._env if self._named else None,
            env_args=env_args,
            trust=self._trust,
            of_training=self._of_training and env is None,
        )

    def _played(self, minds: list[Mind], key: int, episodes: int, chosen: int | None, stop: Stop) -> list[Played]:
        """The episodes of each mind."""
        limit = LONGEST if chosen is None else chosen
        if self.on_device:
            env = limited(to_evaluate(self.device_world()), chosen)
            keys = jax.random.split(jax.random.PRNGKey(key), len(minds))
            play = partial(play_device, env, spec=self.plan.agent, episodes=episodes, limit=limit, stop=stop)
            return [play(mind, one) for mind, one in zip(minds, keys, strict=True)]
        with self.host_world(key, min(episodes, AT_ONCE), limit) as envs:
            return [play_host(mind, self.plan.agent, envs, episodes, limit=limit, stop=stop) for mind in minds]

    def device_world(self, limit: int | None = None) -> DeviceEnv:
        """The environment to play in, of an agent that plays on the device.

        Raises: SpaceError where it shows or takes something else than the agent learned from.
        """
        return self._checked(limited(make_device(str(self._env), **self._env_args), limit))

    @contextmanager
    def host_world(self, seed: int, envs: int, limit: int, **more: Any) -> Iterator[HostEnvs]:
        """Environments to play in, of an agent that plays on the host; closed afterwards, or left if they were given.

        `more`: arguments of the environment's constructor beside those of training.

        Raises: EngramError where there is none, where it cannot be made, and as `device_world`.
        """
        made, given = self._make(seed, envs, limit, more)
        try:
            yield self._checked(made)
        finally:
            if given:
                made.leave()
            else:
                made.close()

    def elsewhere(self, env: Environment | None, env_args: Mapping[str, Any] | None = None) -> "TrainedAgent":
        """The same agent for another environment, or for that of training with other arguments; itself for neither."""
        if env is None and env_args is None:
            return self
        there = self._elsewhere(env, env_args)
        there.step, there.checkpoint = self.step, self.checkpoint
        return there

    @property
    def world_name(self) -> str | None:
        """The id of the environment to play in; None where an object or a function makes it."""
        return self._env if isinstance(self._env, str) else None

    @property
    def world_args(self) -> dict[str, Any]:
        """The arguments that the environment to play in is made with."""
        return dict(self._env_args)

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
        stacked frames and the working memory; pass None at the beginning. The arguments are those of
        Stable-Baselines3's `predict`, so its `evaluate_policy` takes this object for a model. But what is preferred is
        the default here; there a policy is drawn from. Of several seeds, the first one's agent
        answers; with `deterministic=False` it explores as at the end of training. `reward` is that of the step
        before: agents that read it (`observation.previous_reward`) need it, and so cannot be played by
        `evaluate_policy`.
        """
        policy, translator = self._policy, self._translator
        batched = translator.is_batched(observation)
        rows = translator.rows(observation, batched)
        generator = None if deterministic else self._random
        action, state = policy.act(rows, state, episode_start, reward, generator)
        taken = translator.environment_action(action)
        return (taken if batched else taken[0]), state

    def took(self, state: PyTree, action: Any) -> PyTree:
        """The state that `predict` gave, where another action was taken than it said, such as somebody else's.

        `action` is one of the environment's, or a batch of them as `predict` gave it. Only agents that are given their
        previous action (`observation.previous_action`) would otherwise go on with a wrong one.
        """
        envs = len(jax.tree.leaves(state)[0])
        form = np.shape(self._translator.environment_action(np.zeros(envs, np.int32)))
        taken = np.asarray(action)
        numbers = self._translator.numbers(taken.reshape(form), self.plan.actions) if taken.size == prod(form) else None
        if numbers is None or (numbers < 0).any():
            raise SpecError(f"{action} was given as what was taken; expected an action of this environment")
        return self._policy.took(state, numbers)

    @property
    def memory(self) -> Memories:
        """What it remembers of earlier episodes, to look at, to forget and to edit; see `Memories`.

        What changes is this agent, and no file of its run. SpecError for an agent without an external memory.
        """
        return Memories(self)

    def take(self, minds: list[Mind]) -> None:
        """Decides with these from now on. Copies of this agent, which share the old ones, stay as they are."""
        self.minds = minds
        vars(self).pop("_policy", None)

    def close(self) -> None:
        """Does nothing: a trained agent holds nothing open. For `with engram.load(...) as agent`."""

    def __enter__(self) -> "TrainedAgent":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainedAgent":
        """Another agent of the same parameters, which never change, and of the same environment."""
        another = TrainedAgent(self.plan, self.minds, self._env)
        vars(another).update({name: value for name, value in vars(self).items() if name not in _OWN})
        return another

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled. An environment object, or a function that cannot be imported, stays behind."""
        kept = {name: value for name, value in vars(self).items() if name not in _OWN[:2]}
        return kept if isinstance(self._env, str) or _importable(self._env) else {**kept, "_env": None}

    @property
    def on_device(self) -> bool:
        """Whether the environment to play in is one of the device."""
        return isinstance(self._env, str) and is_device(self._env)

    @cached_property
    def _policy(self) -> Policy:
        return Policy(self.minds[0], self.plan.agent)

    @cached_property
    def _translator(self) -> Translator | Stored:
        """Converts observations and actions; made from what the run knows of them, so without any environment."""
        shown = self.plan.shown
        missing = self.plan.agent.takes_missing
        return Stored(self.plan.space, missing) if shown is None else Translator.from_json(shown, missing)

    def _make(self, seed: int, envs: int, limit: int, more: Mapping[str, Any]) -> tuple[HostEnvs, bool]:
        """Environments to play in, and whether they were given, so that they must be left open."""
        env = self._env
        if env is None:
            raise SpecError(
                "no environment is known to play in: the run was started with an object or a function; write "
                "evaluate(env=...), or engram.load(run, env)"
            )
        given = False
        if isinstance(env, gymnasium.Env | VectorEnv):
            if self._of_training:
                env = own.another(env)
            elif own.in_use(env):
                raise SpecError(
                    f"a trainer plays in {env}, and evaluation plays in an environment of its own; pass another one"
                )
            else:
                given = True
        if isinstance(env, str) and not self._trust:
            check_unasked(env, self._learned_args, self._named)
        env_args = {name: value for name, value in self._env_args.items() if name != "life_loss"} | dict(more)
        about: dict[str, Any] = {"action_bins": self.plan.action_bins, "env_args": env_args, "to_play": True}
        made = make_host(env, seed=seed, envs=1 if given else envs, max_episode_steps=limit, **about)
        if self.plan.agent.takes_missing:
            made.accept_missing()
        return made, given

    def _checked(self, made: Any) -> Any:
        """The environment, if what it shows and takes is what the agent learned from."""
        if not same(made.observation_space, self.plan.space) or made.actions != self.plan.actions:
            raise SpaceError(
                f"{self._env} has {made.observation_space} and {made.actions} actions, but the agent learned from "
                f"{self.plan.space} and {self.plan.actions} actions; choose an environment that has these"
            )
        args = dict(self._env_args), dict(self.plan.env_args)
        of_training = self._env == self.plan.env and all(args[0].get(name) == args[1].get(name) for name in NAME_DATA)
        learned_from = getattr(self.plan, "data", None)
        if of_training and learned_from is not None and getattr(made, "data_digest", None) != learned_from:
            raise SpaceError(
                f"{self._env} is not made of the data that the agent learned from, so its words and acts would mean "
                f"something else; restore what its arguments name"
            )
        return made


def _warn_of_cuts(cut: int, episodes: int) -> None:
    NOTES.warning(
        "%d of %d episodes had not ended after %s steps and were cut off there; give another limit with "
        "max_episode_steps=N (--max-episode-steps N)",
        cut,
        episodes,
        f"{LONGEST:,}",
    )


def _importable(function: Any) -> bool:
    """Whether another process finds this function or class by its module and name."""
    found = sys.modules.get(getattr(function, "__module__", ""), None)
    for part in getattr(function, "__qualname__", "<none>").split("."):
        found = getattr(found, part, None)
    return found is function and found is not None
