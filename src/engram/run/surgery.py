"""Memory surgery on a stored run: its newest checkpoint again, with other entries in its external memory.

    with StoredMemory(folder) as stored:                 takes the run, as training does
        stored.memory.where(episode=7).forget()
        stored.save("delete", "episode=7")

Nothing that is there is written over: the changed state is a new checkpoint of the same step, which the run goes on
from. All others stay until training saves further ones. `memory.jsonl` beside them says what was done.
"""

import json
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from sys import maxsize
from typing import Any, NamedTuple

import numpy as np

from engram.agents.recall.line import NOT_NOTED
from engram.checkpoint.files import RunLock
from engram.checkpoint.store import Saved
from engram.errors import SpecError
from engram.play.memories import Gone, Memories
from engram.play.trained import TrainedAgent
from engram.run.appending import Appending
from engram.run.keeper import BEST_FOLDER, FOLDER, NEWEST, Keeper, mind_names, minds_of
from engram.run.machine import use_cache
from engram.run.making import make_agent
from engram.run.packed import load_packed
from engram.run.plan import RunPlan
from engram.runners.collector import COLUMNS, KEEP
from engram.trees import named

TRAIL = "memory.jsonl"
COLUMNS_OF_BLOCK, NOTED = "block.columns", ".record.entries"  # arrays of a checkpoint of a host run


class Done(NamedTuple):
    """What came of a change."""

    saved: Saved
    before: str  # the id of the checkpoint that it was made from
    left: list[str]  # what remains of it elsewhere, in sentences


class SharedMemory:
    """What a shared folder remembers, to be looked at. Raises: as `load`; SpecError without an external memory."""

    def __init__(self, folder: Path):
        self.agent = load_packed(folder)
        self.memory = Memories(self.agent)

    @property
    def step(self) -> int:
        """The global step of the checkpoint that it was made of."""
        return self.agent.step or 0

    def __enter__(self) -> "SharedMemory":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class StoredMemory:
    """What the newest checkpoint of a run remembers.

    Args:
      change: whether it is to be changed. The run is then locked, as by training, until `close`.

    Raises: CheckpointError where there is no such run or checkpoint; RunLocked while another process trains it;
      SpecError for an agent without an external memory.
    """

    def __init__(self, folder: Path, change: bool = False):
        use_cache()
        self.folder, self.plan = folder, RunPlan.read(folder)
        if change and self.plan.shards:
            raise SpecError(f"the entries of {folder} are in shards, and are not changed there; look at them with list")
        with ExitStack() as opened:
            self._lock = opened.enter_context(RunLock(folder)) if change else None
            # No checkpoint is given up for this one: it may be the only one that holds what was forgotten.
            self._keeper = Keeper(folder, self.plan.digest(), keep=maxsize)
            self.loaded = self._keeper.load(NEWEST)
            self._agent = make_agent(self.plan, stored=True)
            minds = minds_of(self._agent, self._keeper.whole(self._agent, self.loaded))
            self.agent, self.before = TrainedAgent(self.plan, minds, None), minds
            self.memory = Memories(self.agent)
            self._noted: np.ndarray | None = None
            self._open = opened.pop_all()

    @property
    def step(self) -> int:
        """The global step of the checkpoint."""
        return self.loaded.step

    def __enter__(self) -> "StoredMemory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the run."""
        self._open.close()

    def forget(self, chosen: Memories) -> Gone:
        """Takes entries of `memory` out, and what waits to become one, in the line and in the unfinished block."""
        covered = self._in_block.covered(chosen)
        gone = chosen.forget()
        if self._noted_name:
            # Ids are given anew, so what the block read is not known any more.
            noted = np.full(covered.shape, -1, np.int32) if self._noted is None else self._noted
            self._noted = np.where(covered, NOT_NOTED, noted)
        return Gone(gone.entries, gone.waiting + int(covered.sum()))

    def waiting(self, chosen: Memories) -> int:
        """How many actions that are no entries yet `forget` would cover."""
        count = sum(int(chosen.waits(number).sum()) for number in range(len(self.agent.minds)))
        return count + int(self._in_block.covered(chosen).sum())

    def save(self, verb: str, told: str, **facts: Any) -> Done:
        """Writes the changed state as the newest checkpoint, and a line of what was done."""
        if self._lock is not None:
            self._lock.check()
        saved = self._keeper.save_again(self.loaded, self._arrays())
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": saved.step,
            "before": self.loaded.id,
            "after": saved.id,
            "verb": verb,
            "what": told,
            **facts,
        }
        left = [*self.left(), *self._older(saved)]
        trail = Appending(self.folder / TRAIL)
        trail.write(json.dumps(line).encode() + b"\n")
        trail.close()
        return Done(saved, self.loaded.id, [*left, *([trail.trouble] if trail.trouble else [])])

    # -- what is written -----------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the checkpoint with what is remembered now.

        On the host a checkpoint holds the store twice: that which acts is the one before the last block. It becomes
        the same as the other, so that nothing acts by what was forgotten.
        """
        arrays = dict(self.loaded.arrays)
        leaves = [named(mind.recall, "recall") for mind in self.agent.minds]
        for name, old in mind_names(self._agent).items():
            if not name.startswith("recall."):
                continue
            each = [np.asarray(one[name]) for one in leaves]
            arrays[old] = np.stack(each) if arrays[old].ndim > each[0].ndim else each[0]
            if name.startswith("recall.store.") and f"acting.{name}" in arrays:
                arrays[f"acting.{name}"] = arrays[old]
        if self._noted is not None:
            entries = arrays[self._noted_name].copy()
            entries[...] = self._noted[..., None]
            arrays[self._noted_name] = entries
        return arrays

    @cached_property
    def _noted_name(self) -> str:
        return next((name for name in self.loaded.arrays if name.startswith("block.") and name.endswith(NOTED)), "")

    @cached_property
    def _in_block(self) -> "_InBlock":
        recall = self.before[0].recall
        assert recall is not None
        if not self._noted_name:
            return _InBlock(np.zeros((0, 0, 3), np.int32), np.zeros((0, 0), np.int32), np.zeros((0, 0), bool))
        return _in_block(recall, self.loaded.arrays[COLUMNS_OF_BLOCK])

    # -- what is left --------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """What forgetting does not reach, in sentences."""
        sentences = [
            "The network has learned from these experiences, and its weights stay as they are.",
            "Returns of other entries may have been estimated with the help of what changed, and stay as written.",
        ]
        if self.loaded.capacity is not None:
            sentences.append(
                f"The replay keeps the newest {self.loaded.capacity:,} rows of each environment; those that these "
                "entries came from are among them until they are overwritten, and learning may draw them."
            )
        if self.memory.kind == "product-key":
            sentences.append("The mean and variance of keys still count what was forgotten, since no keys are stored.")
        return sentences

    def _older(self, saved: Saved) -> list[str]:
        """Which checkpoints hold what there was before."""
        folders = {FOLDER: self.folder / FOLDER, f"{FOLDER}/{BEST_FOLDER}": self.folder / FOLDER / BEST_FOLDER}
        older = [
            f"{name}/{path.name}"
            for name, folder in folders.items()
            for path in sorted(folder.glob("step-*"))
            if path != saved.path
        ]
        if not older:
            return []
        return [
            f"Older checkpoints still hold what there was before: {', '.join(older)}. Training on gives those up in "
            "turn; delete them yourself where that is too late, or copy them where you want to go back."
        ]


class _InBlock(NamedTuple):
    """The steps of an unfinished block. Axes [steps, envs]."""

    origin: np.ndarray  # [steps, envs, 3]: environment, its episode, step of that
    action: np.ndarray
    kept: np.ndarray  # False where an environment stood still

    def covered(self, chosen: Memories) -> np.ndarray:
        """Which of these actions the conditions cover; a run with a block has one seed."""
        return chosen.covers(0, self.action, self.origin) & self.kept


def _in_block(recall: Any, columns: np.ndarray) -> _InBlock:
    """Where each step of a block will be said to come from, as `recall/line.py:remember` counts."""
    is_first, action, _, _, done, idle = (columns[..., COLUMNS.index(name)] for name in COLUMNS)
    assert COLUMNS[KEEP] == "keep"  # before a block is handed over it holds the opposite
    steps, episode, moment = (np.array(leaf) for leaf in (recall.steps, recall.episode, recall.moment))
    envs = np.arange(len(steps))
    over = np.asarray(recall.line.done)[(steps - 1) % recall.line.done.shape[0], envs]
    origin = np.zeros((*action.shape, 3), np.int32)
    for time in range(len(action)):
        kept = idle[time] == 0
        broken = kept & (is_first[time] > 0) & ~over & (steps > 0)
        episode, moment = episode + broken, np.where(broken, 0, moment)
        origin[time] = np.stack([envs, episode, moment], 1)
        ended = kept & (done[time] > 0)
        episode = episode + ended
        moment = np.where(kept, np.where(ended, 0, moment + 1), moment)
        over, steps = np.where(kept, done[time] > 0, over), steps + kept
    return _InBlock(origin, action.astype(np.int32), idle == 0)
