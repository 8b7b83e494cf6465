"""An episode step by step, told while it is played: what `engram watch` shows.

With one episode it is the one that a recording of the same agent and seed holds, played by the same functions. But each
step is told as soon as it is chosen, so that a long episode begins at once and needs no room.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram.agents.mind import MindSpec
from engram.agents.policy import begin, seen_on_host
from engram.envs.device import DeviceEnv
from engram.envs.names import Names, names_of
from engram.envs.teams import agents_of
from engram.explaining import naming, views
from engram.explaining.moments import Picture, Step
from engram.explaining.recording import Episode, Kept, Recording, check_whole, everything, of_first, opened, world
from engram.explaining.telling import Teller
from engram.play.evaluation import evaluation_seed
from engram.play.playing import LONGEST, begin_device, greedy_program, step_device
from engram.play.trained import TrainedAgent
from engram.precision import in_32_bits
from engram.runners.common import PROGRAMS


class Moment(NamedTuple):
    """One step as it was played."""

    t: int
    kept: Kept  # leading axis [1]
    reward: float
    terminated: bool
    truncated: bool
    picture: Picture | None
    state: PyTree = None  # of a device environment, leading axis [1]
    names: Names | None = None  # what the environment calls its parts now; None where that is always the same


PassBy = Callable[[int, float, float, list[float]], None]  # step, value, reward, preference


def watch(
    agent: TrainedAgent,
    episodes: int = 1,
    seed: int = 0,
    max_episode_steps: int | None = None,
    shown: Callable[[int], bool] = lambda step: True,
    pass_by: PassBy = lambda *_: None,
    called: Callable[[list[str]], None] = lambda _: None,
) -> Generator[Step, None, None]:
    """The steps of greedy episodes, one after another, on seeds that no training uses.

    Of several seeds, the first one's agent plays. Steps that are not `shown` are played, and not told:
    `pass_by` hears of them in their place. `called` hears the names of all actions before the first step.

    Raises EngramError where there is no environment to play in, and SpaceError where it is not like that of training.
    """
    check_whole(agent)
    play, teller = _on_device if agent.on_device else _on_host, cast("Teller | None", None)
    with closing(play(agent, episodes, seed, max_episode_steps)) as played:
        for number, (moments, env) in enumerate(played):
            for moment in moments:
                if not shown(moment.t):
                    value, preference = moment.kept.value[0], moment.kept.preference[0].tolist()
                    pass_by(moment.t, float(value), moment.reward, preference)
                else:
                    recording = _recording(agent, moment, seed, env)
                    if teller is None:
                        teller = Teller(recording, naming.Names.of(recording))
                        called(teller.names.actions)
                    teller.recording = recording
                    yield replace(teller.steps(0, [0], {})[0], t=moment.t, episode=number)


def _recording(agent: TrainedAgent, moment: Moment, seed: int, env: DeviceEnv | None) -> Recording:
    """One step in the form of a recording."""
    drawn = moment.picture
    if drawn is None:
        drawn = views.of_observation(agent.plan.space, views.newest(moment.kept.state.frames, 0))
    reward = np.array([moment.reward], np.float32)
    names = None if moment.names is None else [moment.names]
    about = moment.terminated, moment.truncated, [drawn], moment.state, names
    return Recording(agent, agent.minds[0], [Episode(moment.kept, None, reward, *about)], seed, [], env)


Played = Generator[tuple[Iterator[Moment], DeviceEnv | None], None, None]  # of each episode its moments


# -- on the device ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=PROGRAMS)
def _programs(env: DeviceEnv, spec: MindSpec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compiled: how one episode begins, and one step of it."""

    def step(mind: Any, limit: Any, now: Any) -> Any:
        return step_device(env, mind, spec, of_first(agents_of(env)), world, limit, now, None)

    return jax.jit(lambda mind, key: begin_device(env, mind, spec, 1, key)), jax.jit(step)


def _on_device(agent: TrainedAgent, episodes: int, seed: int, most: int | None) -> Played:
    chosen = most or agent.plan.max_episode_steps
    env, mind, id = agent.device_world(chosen), agent.minds[0], agent.world_name
    first, step = (in_32_bits(one) for one in _programs(env, agent.plan.agent))
    limit = jnp.int32(LONGEST if chosen is None else chosen)

    def moments(key: Any) -> Iterator[Moment]:
        now, t, running = first(mind, key), 0, True
        while running:
            now, (kept, _, watched) = step(mind, limit, now)
            kept, (state, reward, terminated, truncated) = jax.tree.map(np.asarray, (kept, watched))
            running = bool(now.running[0])
            over = bool(terminated[0])
            seen, inside = views.newest(kept.state.frames, 0), jax.tree.map(lambda leaf: leaf[0], state)
            drawn, names = views.of_state(env, inside, seen), views.names_of_state(env, id, inside, seen)
            cut = not running and not over
            yield Moment(t, kept, float(reward[0]), over, cut or bool(truncated[0]), drawn, state, names)
            t += 1

    key = jax.random.PRNGKey(evaluation_seed(seed))
    for number in range(episodes):
        yield moments(key if number == 0 else jax.random.fold_in(key, number)), env


# -- on the host -----------------------------------------------------------------------------------------------------


def _on_host(agent: TrainedAgent, episodes: int, seed: int, most: int | None) -> Played:
    chosen = most or agent.plan.max_episode_steps
    limit, spec, mind = LONGEST if chosen is None else chosen, agent.plan.agent, agent.minds[0]
    program = in_32_bits(greedy_program(spec, everything))
    with opened(agent, evaluation_seed(seed), limit, True) as envs:
        observation, id = envs.reset(), agent.world_name or agent.plan.env

        def moments() -> Iterator[Moment]:
            nonlocal observation
            state, reward, is_first = begin(spec, mind.network, 1), np.zeros(1, np.float32), np.ones(1, bool)
            t, running = 0, True
            while running:
                drawn, names = views.rendered(envs), names_of(views.instance(envs), id)
                state, action, kept = program(mind, state, seen_on_host(observation, is_first, reward))
                step = envs.step(np.asarray(action))
                if step.idle is not None and step.idle[0]:  # a step between episodes
                    observation, is_first = step.observation, np.ones(1, bool)
                    continue
                late = t + 1 >= limit
                running = not (bool(step.done[0]) or late)
                over = bool(step.terminated[0])
                kept = jax.tree.map(np.asarray, kept)
                yield Moment(t, kept, float(step.reward[0]), over, not (running or over), drawn, None, names)
                observation, reward, is_first, t = step.observation, step.reward, np.zeros(1, bool), t + 1

        for _ in range(episodes):
            yield moments(), None
