"""One environment with numbered, seeded and checked episodes, in this process or in a worker process.

**Seeds.** Each episode is started by `reset(seed=s)` with s drawn from (run seed, environment index, episode
number) alone, see `episode_seed`. So an environment's randomness within an episode does not depend on what was
played before it, on the other environments, or on whether they run in this process.

**Checks.** Every value that the environment returns is checked first. A fault is one sentence that starts with
`environment 3, episode 12, step 40:` and names the field, what was given and what was expected. Environments and
episodes count from 0; step n is the n-th action of its episode, and step 0 is its reset.

**Masks.** The part `action_mask` of the observation has one flag for each action. An environment may tell the mask
elsewhere instead (`masks.py`). Its observation is then a Dict of `action_mask` and `observation` (or of its own parts,
where it is a Dict). One reset of the first instance, and at most one step, finds out where.

Worker processes import this file, so it imports no JAX.
"""

import json
import math
import signal
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from typing import Any, Literal

import gymnasium
import numpy as np

from engram.envs.host.actions import Table, table_of
from engram.envs.host.goals import rule_of
from engram.envs.host.masks import Found, Source, find_masks, joint, method_of
from engram.envs.host.masks import told as told_masks
from engram.envs.host.spaces import Observer, mask_problem
from engram.envs.host.wrappers import notes_on
from engram.errors import EngramError, EnvironmentFault, SpaceError, is_fault, told
from engram.spaces import MASK, Box

Level = Literal["exact", "replayed", "boundary"]
PROBE_SEED = 1_234_567
CUT = "engram_cut"  # under which a worker tells that the limit alone ended an episode
NUMBERS = "engram_numbers"  # under which a worker tells the numbers of an ended episode's last `info`
LARGEST_REWARD = float(np.finfo(np.float32).max)
_LONGEST_TRACE = 20_000  # characters


def episode_seed(seed: int, index: int, episode: int) -> int:
    """The seed of one episode, in 0..2**31 - 1, which every environment accepts.

    The run's seed is the entropy of a NumPy SeedSequence and (environment index, episode number) its spawn key, so
    episodes draw from statistically independent streams, also for neighbouring run seeds and indices. Among 31-bit
    numbers two of 10,000 episodes share a seed with a probability of 2 percent; they then start alike.
    """
    return int(np.random.SeedSequence(seed, spawn_key=(index, episode)).generate_state(1)[0] >> 1)


class Episodes:
    """The episodes of one environment, one after another.

    Args:
      masked: where it says which actions are allowed, if not in the observation; None to find out.
      limit: actions after which an episode is truncated; None for no limit beyond the environment's own.

    Attributes:
      index: the environment's number, in messages and seeds.
      actions: how many discrete actions it has.
      goal_rule: how it rewards a goal that was achieved; None for one without goals, or with another rule.
      level: how exactly `capture` can save it; set by the maker (see `capture.choose_level`).
      masked: as given or found. remark: what a user should know of that; empty for nothing.
      looked: resets and steps that it took to find out.
      tried: sentences about how the environment was tried out before its first episode.
      episode: number of the current episode, -1 before the first.
      elapsed: actions taken in it.
      episode_return: sum of its rewards, float64.
      history: its actions, kept only at level `replayed`, where it (and the time to restore) grows with the episode.
      torn: whether its last step or reset failed or reached nobody, so that only its boundary can be saved.
      numbers: those in the `info` with which the last episode ended.
      cut: whether `limit` alone ended the last episode.
      observation: the arrays of what it showed last; perhaps its own, so to be copied before the next step.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        index: int,
        seed: int,
        action_bins: int | None = None,
        masked: Source | None = None,
        limit: int | None = None,
    ):
        self.env = env
        self._limit = np.inf if limit is None else limit
        self.index = index
        self.seed = seed
        self.level: Level = "boundary"
        self.observer, self.action_table = _spaces_of(env, action_bins)
        self.actions = len(self.action_table)
        rule = rule_of(env)
        self.goal_rule = rule and rule.limited(limit)
        found = self._source_of_masks(masked)
        self.masked: Source = found.source
        self.remark = found.remark
        self.looked = found.resets, found.steps
        if self.masked:
            self.observer = Observer(_with_mask(env.observation_space, self.actions))
        self._mask = self.observer.mask
        self.episode = -1
        self.elapsed = 0
        self.episode_return = 0.0
        self.history: list[int] = []
        self.torn = False
        self.numbers: dict[str, float] = {}
        self.cut = False
        self.observation: list[Any] = []
        self.tried: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Sentences on its wrappers, and on how it was tried out, that a user should read."""
        return [*notes_on(self.env), *self.tried]

    def accept_missing(self, _: None = None) -> None:
        """From now on a NaN in what is seen is a missing number, and no fault."""
        self.observer.accept_missing(True)

    def begin(self, episode: int | None = None) -> list[Any]:
        """Starts the next episode, or that of the given number; returns its first observation's arrays."""
        self.episode = self.episode + 1 if episode is None else episode
        return self.begin_with(episode_seed(self.seed, self.index, self.episode))

    def begin_with(self, seed: int) -> list[Any]:
        """Starts an episode from `seed`, whatever its number."""
        self.elapsed = 0
        self.episode_return = 0.0
        self.history = []
        self.torn = False
        try:
            result = self.env.reset(seed=seed)
        except BaseException as error:
            raise self._raised(f"reset(seed={seed})", error) from error
        if type(result) is not tuple or len(result) != 2 or not isinstance(result[1], dict):
            raise self._fault(
                f"reset returned {_form(result)}, expected (observation, info) with info a dict; "
                f"an environment written for gym < 0.26 must be ported to Gymnasium"
            )
        self.observation = self._masked_read(*result, terminated=False)
        return self.observation

    def step(self, action: int) -> tuple[list[Any], float, bool, bool]:
        """Takes one action; returns (arrays of the observation, reward, terminated, done).

        It does not begin the next episode: where done, the observation is the ended episode's last.
        Raises EnvironmentFault for anything the Gymnasium contract does not allow, and for NaN and infinity.
        """
        self.elapsed += 1
        if self.level == "replayed":
            self.history.append(int(action))
        try:
            result = self.env.step(self.action_table[action].copy())
        except BaseException as error:
            raise self._raised("step", error) from error
        if type(result) is not tuple or len(result) != 5:
            raise self._fault(
                f"step returned {_form(result)}, expected (observation, reward, terminated, truncated, info); "
                f"an environment written for gym < 0.26 must be ported to Gymnasium"
            )
        observation, reward, terminated, truncated, info = result
        if not (type(reward) is float and -LARGEST_REWARD <= reward <= LARGEST_REWARD):
            reward = self._reward(reward)
        if terminated is not True and terminated is not False:
            terminated = self._flag("terminated", terminated)
        if truncated is not True and truncated is not False:
            truncated = self._flag("truncated", truncated)
        if self._mask is None:
            if type(info) is dict and info.get(MASK) is not None:
                self._late_mask()
            self.observation = self._read(observation)
        else:
            self.observation = self._masked_read(observation, info, terminated)
        self.episode_return += reward
        done = terminated or truncated or self.elapsed >= self._limit
        if done:
            self.numbers = numbers_of(info)
            self.cut = not (terminated or truncated)
        return self.observation, reward, terminated, done

    def allowed(self, action: int) -> int:
        """The action, or one that is allowed now in place of a forbidden one."""
        if self._mask is None or self.observation[self._mask][action]:
            return action
        actions = np.flatnonzero(self.observation[self._mask])
        return int(actions[action % len(actions)])

    def close(self) -> None:
        """Closes the environment; one that fails to close is only dropped."""
        try:
            self.env.close()
        except BaseException as error:
            if not is_fault(error):
                raise
            gymnasium.logger.warn(f"environment {self.index} failed to close: {told(error)}")

    def _read(self, observation: Any) -> list[Any]:
        try:
            return self.observer(observation)
        except EnvironmentFault as fault:
            raise self._fault(f"{fault}: return what observation_space declares") from fault.__cause__

    def _masked_read(self, observation: Any, info: Any, terminated: bool) -> list[Any]:
        """`_read` where a mask belongs to the observation."""
        if self._mask is None:
            return self._read(observation)
        if not self.masked:
            arrays = self._read(observation)
            arrays[self._mask] = self._flags(f"observation {MASK!r}", arrays[self._mask], terminated)
            return arrays
        mask = self._flags(told_masks(self.masked), self._told_mask(info), terminated).astype(np.int8)
        if not isinstance(self.env.observation_space, gymnasium.spaces.Dict):
            return self._read({"observation": observation, MASK: mask})
        # What is no dict, as its space says, is named by the observer.
        return self._read({**observation, MASK: mask} if isinstance(observation, dict) else observation)

    def _told_mask(self, info: Any) -> np.ndarray:
        """One flag for each action, from wherever the environment tells them."""
        if self.masked == "method":
            given = self._asked_mask()
        elif isinstance(info, dict) and MASK in info:
            given = info[MASK]
        elif self.masked == "step" and self.elapsed == 0:
            return np.ones(self.actions, np.int8)
        else:
            raise self._fault(f"info has no {MASK!r}, as it had before; return it from every reset and every step")
        try:
            mask = np.asarray(given)
        except ValueError:  # parts of different lengths
            mask = np.empty(0)
        if self.masked == "method" or mask.shape != (self.actions,):
            mask = joint(mask, self.env.action_space, self.actions)
        if mask.shape != (self.actions,) or mask.dtype.kind not in "biu":
            raise self._fault(f"{told_masks(self.masked)} is {_form(given)}, expected {self._expected_flags()}")
        return mask

    def _asked_mask(self) -> Any:
        method = method_of(self.env)  # anew each time: restoring may have exchanged what it belongs to
        try:
            return method() if callable(method) else method
        except BaseException as error:
            if not is_fault(error):
                raise
            raise self._fault(f"action_masks() raised {told(error)}; mend the environment") from error

    def _late_mask(self) -> None:
        raise self._fault(
            f"info has an {MASK!r}, which neither a reset nor the first step had; return it from every reset and "
            f"every step, or from none"
        )

    def _flags(self, field: str, mask: np.ndarray, terminated: bool) -> np.ndarray:
        """The mask, checked.

        Where an episode has terminated nothing is left to choose, and some environments forbid everything there.
        What is stored then allows everything, so that whoever compares the values of allowed actions always has one.
        """
        if terminated and not mask.any():
            return np.ones_like(mask)
        if problem := mask_problem(mask):
            raise self._fault(f"{field} {problem}")
        return mask

    def _source_of_masks(self, given: Source | None) -> Found:
        """Where it says which actions are allowed: in the observation, as given, or else found by trying."""
        space = self.env.observation_space
        if isinstance(space, gymnasium.spaces.Dict) and MASK in space.spaces:
            self._check_mask_space(space.spaces[MASK])
            return Found("")
        return find_masks(self.env, PROBE_SEED, self.action_table[0].copy()) if given is None else Found(given)

    def _check_mask_space(self, given: gymnasium.Space) -> None:
        part = self.observer.parts[self.observer.mask] if self.observer.mask is not None else None
        if part is None or not isinstance(part.stored, Box) or part.shape != (self.actions,):
            raise SpaceError(
                f"the observation's part {MASK!r} is {given}, expected a Box or MultiBinary of {self._expected_flags()}"
            )

    def _expected_flags(self) -> str:
        if self.action_table.ndim == 1:
            return f"one flag (0 or 1) for each of {self.actions} actions"
        return (
            f"one flag (0 or 1) for each of {self.actions} joint actions: every combination of "
            f"{self.env.action_space}, the last number changing fastest"
        )

    def _reward(self, reward: Any) -> float:
        """The slow path: integers, NumPy numbers and 0-d arrays of any library, or a fault."""
        try:
            array = np.asarray(reward)
        except Exception as error:
            raise self._fault(f"reward is {type(reward).__name__}, expected one finite number") from error
        if array.shape != () or array.dtype.kind not in "biuf":
            raise self._fault(f"reward is {_form(reward)}, expected one finite number")
        value = float(array)
        if not -LARGEST_REWARD <= value <= LARGEST_REWARD:  # false for NaN also
            raise self._fault(f"reward is {value}, expected one finite number that float32 can hold")
        return value

    def _flag(self, field: str, value: Any) -> bool:
        if isinstance(value, np.bool_):
            return bool(value)
        if getattr(value, "shape", None) == () and str(getattr(value, "dtype", "")) == "bool":
            return bool(value)
        raise self._fault(f"{field} is {_form(value)}, expected True or False; wrap it in bool(...)")

    def _raised(self, call: str, error: BaseException) -> BaseException:
        """What is to be raised instead: a fault that names the call, also for an exit; a Ctrl-C as it is."""
        self.torn = True
        return self._fault(raised(call, error)) if is_fault(error) else error

    def _fault(self, problem: str) -> EnvironmentFault:
        self.torn = True
        where = f"step {self.elapsed}" if self.elapsed else "step 0 (reset)"
        return EnvironmentFault(f"environment {self.index}, episode {self.episode}, {where}: {problem}")


def raised(call: str, error: BaseException) -> str:
    """What an environment raised in a call, and the way out, also for an exit."""
    ends = isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit)
    way_out = "report a problem by an ordinary exception" if ends else "mend the environment"
    return f"{call} raised {told(error)}; {way_out}"


def numbers_of(info: Any) -> dict[str, float]:
    """The finite numbers in an environment's `info`, flags as 0 and 1: `is_success` and the like."""
    numbers = {}
    for name, value in info.items() if isinstance(info, dict) else ():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int | float) and isinstance(name, str) and name.isprintable() and len(name) <= 64:
            number = float(value) if abs(value) < LARGEST_REWARD else math.nan
            if math.isfinite(number):
                numbers[name] = number
    return numbers


class WorkerEnvironment(gymnasium.Env):
    """`Episodes` behind Gymnasium's own interface, for the worker processes of AsyncVectorEnv.

    It is sent to the worker empty and is built there by `build`. A worker's start is thus a handshake, and a slow or
    failing constructor is handled like any other call. Faults are returned (under `fault`), not raised: an
    exception class that the main process cannot unpickle would leave it waiting for ever.
    """

    def __init__(self, make: Callable[[], Episodes], observations: gymnasium.Space, actions: int):
        observer = Observer(observations)
        self._make = make
        self._episodes: Episodes | None = None
        self._blank = [np.zeros(part.shape, part.dtype) for part in observer.parts]
        self.observation_space = observer.canonical()
        self.action_space = gymnasium.spaces.Discrete(actions)

    def build(self) -> dict[str, Any]:
        """Makes the environment; returns what the main process needs to know of it, or a fault."""
        if parent_process() is not None:
            leave_signals_to_the_main_process()
        try:
            episodes = self._episodes = self._make()
            return {"level": episodes.level, "signature": episodes.observer.signature(), "actions": episodes.actions}
        except BaseException as error:  # also an exit, which would end the worker without a word
            return fault_of(error)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next episode; `options={"episode": n}` starts number n. `seed` is not read: see `episode_seed`."""
        episodes = self._built()
        try:
            return episodes.observer.tree(episodes.begin((options or {}).get("episode"))), {}
        except BaseException as error:
            return episodes.observer.tree(self._blank), fault_of(error)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's; `info` holds a fault, or at an end the numbers of the environment's own as JSON."""
        episodes = self._built()
        try:
            arrays, reward, terminated, done = episodes.step(int(action))
            info: dict[str, Any] = {NUMBERS: json.dumps(episodes.numbers)} if done and episodes.numbers else {}
            if done and episodes.cut:
                info[CUT] = True
            return episodes.observer.tree(arrays), reward, terminated, done, info
        except BaseException as error:
            return episodes.observer.tree(self._blank), 0.0, False, False, fault_of(error)

    def apply(self, function: Callable[[Episodes, Any], Any], arguments: list[Any]) -> Any:
        """`function(episodes, arguments[index])`, or a fault; how capture and restore reach the worker."""
        episodes = self._built()
        try:
            return function(episodes, arguments[episodes.index])
        except BaseException as error:
            return fault_of(error)

    def close(self) -> None:
        """Closes the environment, if it was built."""
        if self._episodes is not None:
            self._episodes.close()

    def _built(self) -> Episodes:
        if self._episodes is None:
            raise RuntimeError("build() comes before any other call")
        return self._episodes


def leave_signals_to_the_main_process() -> None:
    """Ctrl-C, and often SIGTERM, reach the whole process group; the main process saves first, then ends the workers.

    Until here both were blocked by whoever started this worker. A program that the environment starts gets SIGTERM as
    usual: a handler, unlike SIG_IGN, is not inherited.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def fault_of(error: BaseException) -> dict[str, Any]:
    """An error as a worker sends it: its text, its class, and the end of its traceback."""
    text = str(error) if isinstance(error, EngramError) else told(error)
    trace = "".join(traceback.format_exception(error))
    return {"fault": text, "kind": type(error).__name__, "trace": trace[-_LONGEST_TRACE:]}


def _form(value: Any) -> str:
    """A wrong value in a few words: tuples by length, others by type and text."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 60 else f"a {type(value).__name__}"


def _spaces_of(env: gymnasium.Env, action_bins: int | None) -> tuple[Observer, Table]:
    """How its observations are read, and what each action is to it. SpaceError where it lacks a space."""
    try:
        return Observer(env.observation_space), table_of(env.action_space, action_bins)
    except AttributeError as error:
        raise SpaceError(
            f"{env} lacks a space ({error}); a Gymnasium environment sets self.observation_space and "
            f"self.action_space in its __init__"
        ) from error


def _with_mask(space: gymnasium.Space, actions: int) -> gymnasium.Space:
    parts = dict(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else {"observation": space}
    return gymnasium.spaces.Dict({**parts, MASK: gymnasium.spaces.MultiBinary(actions)})
