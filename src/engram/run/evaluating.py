"""Evaluation while a run trains: when, where, and what is said where it cannot be.

Greedy episodes are played in environments of their own. Training does not notice: with and without evaluation it is
the same, bit for bit. An evaluation that a stop cut short counts for nothing, and is played again when the run is
resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from engram.agents.policy import Mind
from engram.envs.device import is_device, make_device, to_evaluate
from engram.envs.host import own
from engram.envs.host.make import HostEnvs, make_host
from engram.envs.limit import limited
from engram.envs.teams import agents_of
from engram.errors import EngramError, SpaceError, Warned
from engram.play.evaluation import Evaluation, evaluation_seed
from engram.play.evaluator import DeviceEvaluator, Evaluator, HostEvaluator, Stop
from engram.play.trained import Environment
from engram.run.making import make_agent
from engram.run.plan import RunPlan
from engram.run.planning import form
from engram.spaces import same

AT_ONCE = 5  # environments that play side by side on the host
SHORTEST, SHARE = 1_000, 5  # an episode may take a fifth of the steps between two evaluations, but at least 1,000


class Evaluating:
    """Evaluates the agent of one run from time to time.

    Args:
      env: the environment of training.
    """

    def __init__(self, env: Environment):
        self._env = env
        self._evaluator: Evaluator | None = None
        self._made_for: tuple[Any, ...] = ()  # the settings that the evaluator was made for
        self._told: set[str] = set()  # each sentence is said once

    def prepare(self, plan: RunPlan) -> None:
        """Says at once, before training, what is wrong with another environment that was asked for.

        Raises EngramError.
        """
        if plan.evaluate_every and plan.evaluate_env is not None:
            self._made(plan)

    def play(self, plan: RunPlan, minds: Sequence[Mind], stop: Stop, note: Callable[[str], None]) -> Evaluation | None:
        """The returns of greedy episodes; None where a stop came first, or where they cannot be played.

        `note` hears why they could not, once.
        """
        try:
            evaluator = self._made(plan)
            found = evaluator.play(minds, stop)
        except EngramError as problem:
            self.close()
            self._say(note, f"the run goes on without this evaluation: {problem}")
            return None
        if found is not None and evaluator.cut:
            self._say(
                note,
                f"an evaluation episode had not ended after {max(found.lengths):,} steps and was cut off there: its "
                f"return counts as far as it went (--evaluate-every 0 turns evaluation off)",
            )
        return found

    def close(self) -> None:
        """Lets go of the environments."""
        if self._evaluator is not None:
            self._evaluator.close()
        self._evaluator, self._made_for = None, ()

    def _say(self, note: Callable[[str], None], sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            note(Warned(sentence))

    def _made(self, plan: RunPlan) -> Evaluator:
        wanted = plan.evaluate_env, plan.evaluate_episodes, plan.evaluate_every
        if self._evaluator is None or self._made_for != wanted:
            self.close()
            self._evaluator, self._made_for = self._make(plan), wanted
        return self._evaluator

    def _make(self, plan: RunPlan) -> Evaluator:
        episodes, limit = plan.evaluate_episodes, max(SHORTEST, plan.evaluate_every // SHARE)
        seed = evaluation_seed(plan.seed, while_training=True)
        env, arguments = self._env, dict(plan.env_args)
        if plan.evaluate_env is not None and plan.evaluate_env != plan.env:
            env, arguments = plan.evaluate_env, {}
        name = f"evaluate_env = {env}"
        if isinstance(env, str) and is_device(env):
            played = limited(to_evaluate(make_device(env, **arguments)), plan.max_episode_steps)
            made = checked(name, played, plan)
            return DeviceEvaluator(plan.agent, made, seed, episodes, limit)
        arguments.pop("life_loss", None)  # whole games are played
        envs = host_to_play(env, arguments, plan, seed, min(episodes, AT_ONCE), limit)
        try:
            return HostEvaluator(make_agent(plan), plan.agent, checked(name, envs, plan), episodes, limit)
        except SpaceError:
            envs.close()
            raise


def host_to_play(
    env: Environment, arguments: Mapping[str, Any], plan: RunPlan, seed: int, count: int, limit: int
) -> HostEnvs:
    """Host environments like those of training, to play in; no episode takes more than `limit` steps."""
    if isinstance(env, gymnasium.Env | VectorEnv):
        env = own.another(env)  # training is in it
    about: dict[str, Any] = {"action_bins": plan.action_bins, "env_args": dict(arguments), "to_play": True}
    longest = min(limit, plan.max_episode_steps or limit)
    envs = make_host(env, seed=seed, envs=count, max_episode_steps=longest, **about)
    if plan.agent.takes_missing:
        envs.accept_missing()
    return envs


def checked(name: str, made: Any, plan: RunPlan) -> Any:
    """The environment, if what it shows and takes is what the agent learns from."""
    here, there = (made.actions, agents_of(made)), (plan.actions, plan.agents)
    if not same(made.observation_space, plan.space) or here != there:
        raise SpaceError(
            f"{name} has {form(made.observation_space, *here)}, but the agent learns from {form(plan.space, *there)}; "
            f"choose an environment that has these"
        )
    return made


def numbers(found: Evaluation) -> dict[str, Any]:
    """What a line of metrics says of an evaluation; what differs between seeds is a list if there are several."""
    each, lengths = found.of_each_seed(), iter(found.lengths)
    stds = [_std(returns) for returns in each]
    steps = [_mean([next(lengths) for _ in returns]) for returns in each]
    columns = {"evaluation_return": found.per_seed, "evaluation_std": stds, "evaluation_length": steps}
    if found.successes is not None:
        met = iter(found.successes)
        columns["evaluation_success"] = [_mean([next(met) for _ in returns]) for returns in each]
    return {name: values if len(each) > 1 else values[0] for name, values in columns.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _std(values: Sequence[float]) -> float:
    mean = _mean(values)
    return _mean([(value - mean) ** 2 for value in values]) ** 0.5
