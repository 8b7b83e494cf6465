"""Recording: whole greedy episodes, and everything that the agent knew at each step of them.

    recording = record(agent, episodes=1, seed=0)
    recording.episodes[0].decision.q[12]          the estimates at step 12

Episodes are played by `play_host` and `play_device`, as evaluation plays them. Nothing is computed twice: what is told
later is what was decided with.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram.agents.policy import Look, Mind, PolicyState, Seen, begin
from engram.agents.recall.keys import Query
from engram.envs.device import DeviceEnv, DeviceStep
from engram.envs.host.actions import MOST_JOINT_ACTIONS
from engram.envs.host.batch import HostEnvs, HostStep
from engram.envs.names import Names, names_of
from engram.envs.teams import agents_of
from engram.errors import EngramError, SpecError
from engram.explaining import views
from engram.explaining.contributions import Choice, choice
from engram.explaining.moments import Picture
from engram.play.evaluation import evaluation_seed
from engram.play.playing import LONGEST, Keep, Stop, greedy_program, never, play_device, play_host
from engram.play.trained import TrainedAgent
from engram.types import Decision, blend

ROOM = 1 << 30  # bytes that a recording may take; longer episodes are told up to there
LEAST_STEPS = 16  # of what the device records; it goes up in powers of two, so that programs are used again


class Kept(NamedTuple):
    """What is kept of one step. Leading axes [steps] in an episode, [steps, envs] as it is played."""

    is_first: Any
    reward: Any  # of the step before
    state: PolicyState  # with this observation in it; its action is that of the step before
    decision: Decision
    query: Query | None
    q: Any
    preference: Any
    own: Any  # the preference of the network alone, forbidden actions included
    value: Any
    action: Any
    atoms: Any  # of the returns, moved by an external memory; None where a return is one number
    probabilities: Any


def everything(seen: Seen, looked: Look) -> Kept:
    """What a recording keeps."""
    decision = looked.decision
    returns, memory = decision.returns, decision.external
    action = decision.best.astype(jnp.int32)  # as `policy.greedy` takes it
    atoms = returns.atoms
    if memory is not None and memory.q is not None and decision.share is not None:
        atoms = blend(atoms, memory.q[..., None], decision.share[..., None])
    told = (None, None) if atoms.shape[-1] == 1 else (atoms, returns.probabilities)
    own = returns.q if returns.policy is None else returns.policy
    q, own = returns.whole(decision.q), returns.whole(own)
    return Kept(
        seen.is_first, seen.reward, looked.state, decision, looked.query, q, decision.of_actions, own, decision.value,
        action, *told,
    )  # fmt: skip


@cache
def of_first(agents: int) -> Keep:
    """`everything`, of the first agent of each environment where several act together."""
    if agents == 1:
        return everything
    return lambda seen, looked: jax.tree.map(lambda leaf: leaf[::agents], everything(seen, looked))


def world(state: PyTree, step: DeviceStep) -> tuple[PyTree, Any, Any, Any]:
    """What a recording keeps of an environment on the device: its state before a step, and what the step brought."""
    return state, step.reward, step.terminated, step.truncated


@dataclass(frozen=True)
class Episode:
    """One greedy episode. Arrays are NumPy's, with a leading axis [steps].

    Fields:
      kept: what the agent saw, knew and chose. carry: of its working memory before each step.
      reward: that followed each step. terminated: whether the task was over after the last one.
      truncated: whether the clock ended it, or whoever recorded.
      pictures: what was seen at each step; None where nothing draws it.
      states: of a device environment, before each step; None on the host.
      names: what the environment called its parts at each step; None where they are the same at all steps.
    """

    kept: Kept
    carry: PyTree
    reward: np.ndarray
    terminated: bool
    truncated: bool
    pictures: list[Picture | None]
    states: PyTree = None
    names: list[Names] | None = None

    @property
    def length(self) -> int:
        """Its steps."""
        return len(self.reward)

    @property
    def total(self) -> float:
        """Its return: undiscounted, as the environment paid."""
        return float(np.asarray(self.reward, np.float64).sum())

    @property
    def decision(self) -> Any:
        """What was known at each step: a `Decision` of NumPy arrays."""
        return self.kept.decision

    def choice(self, step: int) -> Choice:
        """What was chosen at a step, and over what."""
        allowed = self.decision.allowed
        row = None if allowed is None else allowed[step]
        return choice(self.kept.preference[step], int(self.kept.action[step]), row)


@dataclass(frozen=True)
class Recording:
    """Episodes of one mind. `notes`: sentences on what was cut. `env`: the device environment they were played in."""

    agent: TrainedAgent
    mind: Mind
    episodes: list[Episode]
    seed: int
    notes: list[str]
    env: DeviceEnv | None = None

    @property
    def spec(self) -> Any:
        """What was chosen about the agent."""
        return self.agent.plan.agent


def record(
    agent: TrainedAgent,
    episodes: int = 1,
    seed: int = 0,
    max_episode_steps: int | None = None,
    pictured: bool = True,
    room: int = ROOM,
    stop: Stop = never,
) -> Recording:
    """Plays whole greedy episodes, on seeds that no training uses, and keeps all that the agent knew.

    Of several seeds, the first one's agent plays. An episode that would take more than `room` bytes with the others is
    cut off, which `notes` say.

    Args:
      pictured: whether pictures are drawn.
      stop: is asked between steps on the host; Interrupted is raised where it is true.

    Raises: EngramError where there is no environment to play in, and SpaceError where it is not like that of training.
    """
    check_whole(agent)
    chosen = max_episode_steps or agent.plan.max_episode_steps
    mind, key = agent.minds[0], evaluation_seed(seed)
    most = max(1, room // max(1, _bytes_of_a_step(agent, mind) * episodes))
    limit = min(LONGEST if chosen is None else chosen, most)
    play = _on_device if agent.on_device else _on_host
    played, cut, env = play(agent, mind, episodes, key, limit, pictured, stop)
    notes = []
    if len(agent.minds) > 1:
        notes.append(f"the run has {len(agent.minds)} seeds; the agent of the first one is told")
    if cut and limit != chosen:
        notes.append(f"{cut} of {episodes} episodes had not ended after {limit:,} steps and were cut off there")
    if len(played) < episodes:
        notes.append(f"a vector environment played {episodes} episodes side by side; those of its first part are told")
    return Recording(agent, mind, played, seed, notes, env)


def check_whole(agent: TrainedAgent) -> None:
    """Raises SpecError where motors have too many joint actions for the value of each to be told."""
    sizes, actions = agent.minds[0].network.sizes, agent.plan.actions
    if sizes and actions > MOST_JOINT_ACTIONS:
        raise SpecError(
            f"this agent's {len(sizes)} motors have {actions:,} joint actions, and the value of each is told here, of "
            f"{MOST_JOINT_ACTIONS:,} at most; use engram evaluate, or train with fewer --action-bins"
        )


def _bytes_of_a_step(agent: TrainedAgent, mind: Mind) -> int:
    """What one step of one environment keeps."""
    plan = agent.plan
    state = jax.eval_shape(partial(begin, plan.agent, mind.network, 1))
    row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[2:]), leaf.dtype), state.frames)
    flags: Any = jax.ShapeDtypeStruct((1,), bool), jax.ShapeDtypeStruct((1,), jnp.float32)
    seen = Seen(row, *flags)
    kept = jax.eval_shape(greedy_program(plan.agent, everything), mind, state, seen)[2]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


# -- on the host -----------------------------------------------------------------------------------------------------


class _Diary:
    """What the host's environment told of each step."""

    def __init__(self, envs: Any, id: str | None, pictured: bool):
        self._envs, self._id, self._pictured = envs, id, pictured
        self.pictures: list[Picture | None] = []
        self.names: list[Names] = []
        self.steps: list[tuple[float, bool, bool, bool]] = []  # reward, terminated, done, idle

    def __call__(self, step: HostStep | None) -> None:
        if step is not None:
            idle = step.idle is not None and bool(step.idle[0])
            self.steps.append((float(step.reward[0]), bool(step.terminated[0]), bool(step.done[0]), idle))
        self.pictures.append(views.rendered(self._envs) if self._pictured else None)
        now = names_of(views.instance(self._envs), self._id)
        if self.names and now.symbols == self.names[-1].symbols:  # thousands of names, kept once
            now = replace(now, symbols=self.names[-1].symbols)
        self.names.append(now)


def _on_host(
    agent: TrainedAgent, mind: Mind, episodes: int, key: int, limit: int, pictured: bool, stop: Stop
) -> tuple[list[Episode], int, None]:
    with opened(agent, key, limit, pictured) as envs:
        diary = _Diary(envs, agent.world_name or agent.plan.env, pictured)
        play = partial(play_host, keep=everything, limit=limit, stop=stop, tell=diary)
        played = play(mind, agent.plan.agent, envs, episodes)
    kept = jax.tree.map(lambda leaf: leaf[:, 0], played.kept)
    counted = np.asarray(played.running)[:, 0]
    return _cut_apart(agent, mind, kept, diary, counted, limit), played.cut, None


@contextmanager
def opened(agent: TrainedAgent, key: int, limit: int, pictured: bool) -> Iterator[HostEnvs]:
    """The environment to play in: one that renders pictures, where it can."""
    with ExitStack() as opened:
        envs = None
        if pictured and agent.world_name is not None:
            views.without_screen()
            with (
                suppress(EngramError),
                views.without_notes(),
            ):  # what is wrong without the argument too is told below
                envs = opened.enter_context(agent.host_world(key, 1, limit, **views.RENDERED))
        if envs is not None and not views.renders(envs):
            opened.close()
            envs = None
        yield opened.enter_context(agent.host_world(key, 1, limit)) if envs is None else envs


def _cut_apart(
    agent: TrainedAgent, mind: Mind, kept: Kept, diary: _Diary, counted: np.ndarray, limit: int
) -> list[Episode]:
    """The episodes that one environment played after another."""
    found, begins = [], 0
    carry = _before(agent, mind, kept)
    for end, (_, terminated, done, idle) in enumerate(diary.steps):
        if idle:
            begins = end + 1
        elif counted[end] and (done or end + 1 - begins >= limit):
            rows = slice(begins, end + 1)
            cut = partial(jax.tree.map, lambda leaf, rows=rows: leaf[rows])
            reward = np.array([step[0] for step in diary.steps[rows]], np.float32)
            drawn, names = diary.pictures[rows], diary.names[rows]
            over = terminated, not terminated
            found.append(Episode(cut(kept), cut(carry), reward, *over, drawn, names=names))
            begins = end + 1
    return [replace(one, pictures=_seen(agent, one)) for one in found]


def _seen(agent: TrainedAgent, episode: Episode) -> list[Picture | None]:
    """The pictures, with the observation in the place of one that nothing drew, where it is an image itself."""
    space, frames = agent.plan.space, episode.kept.state.frames

    def one(step: int, drawn: Picture | None) -> Picture | None:
        return views.of_observation(space, views.newest(frames, step)) if drawn is None else drawn

    return [one(step, drawn) for step, drawn in enumerate(episode.pictures)]


def _before(agent: TrainedAgent, mind: Mind, kept: Kept) -> PyTree:
    """The carry before each step: that after the step before, or an empty one where an episode begins."""
    empty = jax.tree.map(np.asarray, begin(agent.plan.agent, mind.network, 1).carry)

    def shifted(leaf: np.ndarray, none: np.ndarray) -> np.ndarray:
        before = np.concatenate([none, leaf[:-1]])
        return np.where(kept.is_first.reshape(-1, *[1] * (leaf.ndim - 1)), none, before)

    return jax.tree.map(shifted, kept.state.carry, empty)


# -- on the device ---------------------------------------------------------------------------------------------------


def _on_device(
    agent: TrainedAgent, mind: Mind, episodes: int, key: int, limit: int, pictured: bool, stop: Stop
) -> tuple[list[Episode], int, DeviceEnv]:
    """Played twice: once to learn how long the episodes are, and once to keep them."""
    env, seed = agent.device_world(agent.plan.max_episode_steps), jax.random.PRNGKey(key)
    play = partial(play_device, env, mind, seed, spec=agent.plan.agent, episodes=episodes, limit=limit, stop=stop)
    longest = int(np.asarray(play().lengths).max())
    steps = max(LEAST_STEPS, 1 << (longest - 1).bit_length())
    played = play(keep=of_first(agents_of(env)), steps=steps, watch=world)
    rows = jax.tree.map(np.asarray, (played.kept, played.watched))
    lengths = np.asarray(played.lengths)
    found = [_of_lane(agent, mind, rows, lane, int(length)) for lane, length in enumerate(lengths)]
    found = [_named(agent, env, one) for one in found]
    return [_drawn(agent, env, one) if pictured else one for one in found], played.cut, env


def _of_lane(agent: TrainedAgent, mind: Mind, rows: Any, lane: int, length: int) -> Episode:
    kept, (states, reward, terminated, _) = jax.tree.map(lambda leaf: leaf[:length, lane], rows)
    over = bool(terminated[-1])
    return Episode(kept, _before(agent, mind, kept), reward, over, not over, [None] * length, states)


def _drawn(agent: TrainedAgent, env: DeviceEnv, episode: Episode) -> Episode:
    seen = (views.newest(episode.kept.state.frames, t) for t in range(episode.length))
    drawn = [views.of_state(env, state, each) for state, each in zip(_states(episode), seen, strict=True)]
    episode = replace(episode, pictures=drawn)
    return replace(episode, pictures=_seen(agent, episode))


def _named(agent: TrainedAgent, env: DeviceEnv, episode: Episode) -> Episode:
    """The episode with the names at each step, where a method of the environment gives them."""
    names = []
    for t, state in enumerate(_states(episode)):
        now = views.names_of_state(env, agent.world_name, state, views.newest(episode.kept.state.frames, t))
        if now is None:
            return episode
        names.append(now)
    return replace(episode, names=names)


def _states(episode: Episode) -> Iterator[PyTree]:
    """The state of a device environment before each step."""
    return (jax.tree.map(lambda leaf, t=t: leaf[t], episode.states) for t in range(episode.length))
