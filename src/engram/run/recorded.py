"""Recorded episodes as they are kept: in the replay of a run, in a file of arrays, or as a data set of Minari.

Nothing of them is run: arrays are read as numbers, never unpickled, and no environment is made.

A file of arrays is what `np.savez` writes, with a row for every step of one episode after the other:

    observation        [steps, ...] before each action; for a Dict or Tuple one array for each part, `observation.NAME`
    action             [steps, ...] as the environment takes it
    reward             [steps]
    terminated         [steps] whether the task was over after this step
    truncated          [steps] whether the episode was cut off after this step
    final_observation  [episodes, ...] after the last action of each episode; `final_observation.NAME` for a part
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from engram import spaces
from engram.errors import CheckpointError, EngramError, SpaceError, SpecError, install, told
from engram.run.folders import checkpoint_of
from engram.run.machine import SHARE, amount, available
from engram.run.plan import RunPlan
from engram.run.prefill import Episode, without_replay
from engram.run.warm import source_of
from engram.trees import named

MINARI = "minari:"  # begins the name of a data set
COLUMNS = ("action", "reward", "terminated", "truncated")
SEEN, FINAL = "observation", "final_observation"


class Recorded(NamedTuple):
    """Episodes, and where they are from."""

    name: str
    episodes: list[Episode]
    stored: bool  # whether observations and actions are as a replay holds them, else as the environment has them


def recorded(text: str, plan: RunPlan) -> Recorded:
    """The episodes that a file, a run (RUN, RUN@STEP) or a data set of Minari (minari:ID) holds.

    Raises an EngramError, in one sentence, for what cannot be read or belongs to another environment.
    """
    if text.startswith(MINARI):
        return Recorded(text, list(_of_minari(text.removeprefix(MINARI))), stored=False)
    if Path(text).is_file():
        return Recorded(text, list(_of_arrays(text, _arrays(Path(text)))), stored=False)
    if not checkpoint_of(text)[0].is_dir():
        raise CheckpointError(
            f"demonstrations = {text!r} was given, which is no file and no run directory; expected a file of "
            f"np.savez, a run, or minari:ID"
        )
    return _of_run(text, plan)


# -- a run -----------------------------------------------------------------------------------------------------------


def _of_run(text: str, plan: RunPlan) -> Recorded:
    """The whole episodes in the replay of a run, and its running ones up to where they are."""
    source = source_of(text, plan.seed)
    there, loaded = source.plan, source.loaded
    if not there.agent.replay_rows:
        raise CheckpointError(
            f"demonstrations lie in a replay, but {source.name} learned {without_replay(there.agent)}; name a run that "
            f"has one, or a file of np.savez"
        )
    if loaded.cursors is None:
        raise CheckpointError(
            f"{source.name} is a best checkpoint, which holds no replay; take the newest one: --demonstrations "
            f"{source.name.rpartition('@')[0]}"
        )
    if not spaces.same(there.space, plan.space) or there.actions != plan.actions or _differ(there, plan):
        raise SpaceError(
            f"{source.name} learned with {there.space} and {there.actions} actions, but this environment has "
            f"{plan.space} and {plan.actions} actions of its own; take demonstrations of the same environment"
        )
    lanes: dict[int, list[dict[str, np.ndarray]]] = {}
    for lane, _, columns in loaded.replay_blocks():
        if (
            lane < there.seeds * there.envs * there.agents
        ):  # behind them are the demonstrations that it was given itself
            lanes.setdefault(lane, []).append(columns)
    episodes = [episode for blocks in lanes.values() for episode in _of_lane(source.name, blocks, there.space)]
    if not episodes:
        raise CheckpointError(f"the replay of {source.name} holds no episode from its beginning; train that run longer")
    return Recorded(source.name, episodes, stored=True)


def _differ(one: RunPlan, other: RunPlan) -> bool:
    """Whether two host environments take other actions by the same numbers."""
    return bool(one.shown and other.shown) and one.shown["actions"] != other.shown["actions"]  # type: ignore[index]


def _of_lane(name: str, blocks: list[dict[str, np.ndarray]], space: spaces.Space) -> Iterator[Episode]:
    like = spaces.zeros(space)
    columns = {column: np.concatenate([block[column] for block in blocks]) for column in blocks[0]}
    single = ("is_first", "action", "reward", "terminated")
    wrong = [column for column in single if column not in columns or columns[column].ndim != 1]
    if wrong := wrong + [column for column in named(like, SEEN) if column not in columns]:
        raise CheckpointError(f"the replay of {name} is damaged: it has no proper column {wrong[0]!r}")
    seen = [columns[column] for column in named(like, SEEN)]
    starts = np.flatnonzero(columns["is_first"])
    for start, end in zip(starts, [*starts[1:], len(columns["action"])], strict=True):
        steps = slice(start, end - 1)  # the last row is the final observation, or where a running episode is
        if end - start < 2:
            continue
        observations = jax.tree.unflatten(jax.tree.structure(like), [column[start:end] for column in seen])
        over = bool(columns["terminated"][end - 2])
        yield Episode(observations, columns["action"][steps], columns["reward"][steps], over)


# -- a file ----------------------------------------------------------------------------------------------------------


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that are asked for. CheckpointError for a file that holds anything but arrays."""
    try:
        with zipfile.ZipFile(path) as parts:
            size, free = sum(part.file_size for part in parts.infolist()), available()
        if free is not None and size > SHARE * free:
            raise SpecError(f"{path} holds {amount(size)}, but {amount(free)} of memory are free; take fewer episodes")
        with np.load(path, allow_pickle=False) as held:
            wanted = [name for name in held.files if name.partition(".")[0] in (*COLUMNS, SEEN, FINAL)]
            found = {name: held[name] for name in wanted}
        if other := [name for name, array in found.items() if not _of_numbers(name, array)]:
            raise ValueError(f"{other[0]!r} is no array of numbers")
        return found
    except EngramError:
        raise
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(
            f"{path} cannot be read as arrays ({told(error)}); write it with np.savez, of arrays of numbers alone"
        ) from None


def _of_numbers(name: str, array: Any) -> bool:
    """Whether it is an array of numbers; an observation may be texts."""
    return isinstance(array, np.ndarray) and array.dtype.kind in ("biuf" if name in COLUMNS else "biufU")


def _of_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Iterator[Episode]:
    seen = {key.removeprefix(SEEN): array for key, array in arrays.items() if key.partition(".")[0] == SEEN}
    lacking = [column for column in COLUMNS if column not in arrays] + ([] if seen else [SEEN])
    lacking += [FINAL + part for part in seen or [""] if FINAL + part not in arrays]
    if lacking:
        raise SpaceError(
            f"{name} has no array {lacking[0]!r}; expected {', '.join((SEEN, *COLUMNS, FINAL))}, and for a Dict "
            f"{SEEN}.NAME and {FINAL}.NAME"
        )
    steps = arrays["reward"].shape[0] if arrays["reward"].ndim else 0
    ends = _ends(name, arrays, steps)
    expected = dict.fromkeys(COLUMNS, steps)
    expected |= {SEEN + part: steps for part in seen} | {FINAL + part: len(ends) for part in seen}
    for key, count in expected.items():
        if arrays[key].ndim < 1 or len(arrays[key]) != count:
            what = "episodes that end" if key.startswith(FINAL) else "rewards"
            raise SpaceError(
                f"{name} has the array {key!r} of shape {arrays[key].shape} beside {count} {what}; expected one entry "
                f"for each"
            )
    start = 0
    for number, end in enumerate(ends + 1):
        parts = {
            part: np.concatenate([array[start:end], arrays[FINAL + part][number : number + 1]])
            for part, array in seen.items()
            if array.shape[1:] == arrays[FINAL + part].shape[1:]
        }
        if wrong := sorted(set(seen) - set(parts)):
            raise SpaceError(f"{name} has {SEEN + wrong[0]!r} and {FINAL + wrong[0]!r} of different shapes")
        over = bool(arrays["terminated"][end - 1])
        yield Episode(_nested(parts), arrays["action"][start:end], arrays["reward"][start:end], over)
        start = end


def _ends(name: str, arrays: Mapping[str, np.ndarray], steps: int) -> np.ndarray:
    """The last step of each episode. SpaceError where the last one of the file is open."""
    flags = arrays["terminated"], arrays["truncated"]
    if any(flag.shape != (steps,) for flag in flags) or not steps:
        shapes = " and ".join(str(flag.shape) for flag in flags)
        raise SpaceError(
            f"{name} has terminated and truncated of shapes {shapes} beside {steps} rewards; expected one flag for "
            f"each of at least one step"
        )
    ends = np.flatnonzero((flags[0] != 0) | (flags[1] != 0))
    if not len(ends) or ends[-1] != steps - 1:
        raise SpaceError(f"{name} ends inside an episode; set truncated at its last step, or leave that episode out")
    return ends


def _nested(parts: Mapping[str, Any]) -> Any:
    """A tree out of names such as `.camera.left`; a level of the names 0, 1, ... is a tuple."""
    if "" in parts:
        return parts[""]
    below: dict[str, dict[str, Any]] = {}
    for path, value in parts.items():
        first, dot, rest = path[1:].partition(".")
        below.setdefault(first, {})[dot + rest] = value
    made = {name: _nested(inner) for name, inner in below.items()}
    if sorted(made) == sorted(map(str, range(len(made)))):
        return tuple(made[str(number)] for number in range(len(made)))
    return made


# -- Minari ----------------------------------------------------------------------------------------------------------


def _of_minari(name: str) -> Iterator[Episode]:
    """The episodes of a data set that is on this machine."""
    try:
        import minari  # pyright: ignore[reportMissingImports], of the extra `minari`
    except ImportError:
        raise SpecError(f"{MINARI}{name} needs the library minari; {install('minari')}") from None
    try:
        for episode in minari.load_dataset(name).iterate_episodes():
            yield Episode(episode.observations, episode.actions, episode.rewards, bool(episode.terminations[-1]))
    except Exception as error:  # of its storage, whatever that is
        raise CheckpointError(
            f"{MINARI}{name} cannot be read ({told(error)}); fetch it with: minari download {name}"
        ) from None
