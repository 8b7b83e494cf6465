"""A run forgets by a new checkpoint, goes on from it exactly repeatably, and never writes what it forgot."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.bad_envs import Walk

from engram.checkpoint.files import RunLock
from engram.checkpoint.store import CheckpointStore
from engram.errors import RunLocked, SpecError
from engram.run.surgery import TRAIL, StoredMemory
from engram.run.trainer import Trainer

AGENT = dict(
    preset="nec", encoder__widths=(8,), replay__capacity=300, replay__start=40, replay__batch_size=8, seed=0, envs=2,
    external__capacity=400, external__neighbours=4, recall__n_step=3, exploration__steps=100,
    learn_every=4,
)  # fmt: skip
STEPS, INSIDE = 260, 150  # blocks are of 64 steps


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "host"
    with Trainer(Walk, run=folder, steps=STEPS, **AGENT) as trainer:
        trainer.learn(INSIDE)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def gone_on(folder: Path) -> str:
    with Trainer(Walk, run=folder, resume=True) as trainer:
        trainer.learn()
        return trainer.state_digest()


def test_a_deletion_is_a_new_checkpoint_and_no_other_is_given_up(run: Path):
    store = CheckpointStore(run / "checkpoints")
    before = {path.name for path in (run / "checkpoints").glob("step-*")}
    with StoredMemory(run, change=True) as stored:
        chosen = stored.memory.where(action=1)
        count = len(chosen)
        gone = stored.forget(chosen)
        assert gone.entries == count > 0
        done = stored.save("delete", "action=1", entries=count)
    assert store.verify() == []
    now = {path.name for path in (run / "checkpoints").glob("step-*")}
    assert now == before | {done.saved.path.name}
    loaded = store.load()
    assert loaded.id == done.saved.id != done.before
    with StoredMemory(run) as stored:
        assert len(stored.memory.where(action=1)) == 0
        assert len(stored.memory) > 0
    for name, array in loaded.arrays.items():
        if name.startswith("acting.recall.store."):
            np.testing.assert_array_equal(array, loaded.arrays[name.replace("acting", "agent")])
    line = json.loads((run / TRAIL).read_text())
    assert (line["before"], line["after"], line["entries"]) == (done.before, done.saved.id, count)
    assert all(name in "".join(done.left) for name in before)


def test_what_was_not_touched_is_to_the_bit_what_it_was(run: Path):
    store = CheckpointStore(run / "checkpoints")
    before = store.load()
    with StoredMemory(run, change=True) as stored:
        stored.forget(stored.memory.where(episode=0))
        stored.save("delete", "episode=0")
    after = store.load()
    assert after.meta == before.meta
    assert after.arrays.keys() == before.arrays.keys()
    changed = {
        name for name in before.arrays
        if not np.array_equal(before.arrays[name], after.arrays[name], equal_nan=before.arrays[name].dtype.kind == "f")
    }  # fmt: skip
    assert changed
    allowed = ("agent.recall.store.", "acting.recall.store.", "agent.recall.line.origin", "agent.recall.turn", "block.")
    assert all(name.startswith(allowed) for name in changed)
    for one, other in zip(before.replay_blocks(), after.replay_blocks(), strict=True):
        assert one[:2] == other[:2]
        assert all(np.array_equal(one[2][name], other[2][name]) for name in one[2])


def test_a_run_goes_on_after_a_deletion_exactly_repeatably_and_without_what_it_forgot(run: Path, tmp_path: Path):
    with StoredMemory(run, change=True) as stored:
        recall = stored.before[0].recall
        assert recall is not None
        episode = int(recall.episode[0])  # the newest, whose last actions wait in the line and in the block
        chosen = stored.memory.where(environment=0, episode=episode)
        block = stored._in_block
        known = {tuple(one) for one in np.asarray(recall.line.origin).reshape(-1, 3).tolist()}
        known |= {tuple(one) for one in block.origin[block.kept].tolist()}
        gone = stored.forget(chosen)
        assert gone.waiting > 0
        stored.save("delete", f"episode={episode}")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    assert gone_on(run) == gone_on(other)
    with StoredMemory(run) as stored:
        found = {(one.environment, one.episode, one.step) for one in stored.memory}
    assert {one for one in known if one[:2] == (0, episode)}.isdisjoint(found)
    assert {one for one in known if one[:2] != (0, episode)} & found


def test_the_steps_of_an_unfinished_block_are_told_as_they_will_be_written(run: Path):
    with StoredMemory(run) as stored:
        block = stored._in_block
        told = {tuple(one) for one in block.origin[block.kept].tolist()}
        assert told
    gone_on(run)
    with StoredMemory(run) as stored:
        found = {(one.environment, one.episode, one.step): one.action for one in stored.memory}
    actions = {
        tuple(origin): int(action)
        for origin, action in zip(block.origin[block.kept].tolist(), block.action[block.kept], strict=True)
    }
    both = actions.keys() & found.keys()
    assert len(both) > 0.7 * len(told)
    assert all(actions[one] == found[one] for one in both)


def test_an_edit_changes_one_value_and_nothing_else(run: Path):
    store = CheckpointStore(run / "checkpoints")
    before = store.load().arrays
    with StoredMemory(run, change=True) as stored:
        first = next(iter(stored.memory))
        stored.memory.edit(first.id, 12.5)
        stored.save("edit", "value=12.5")
    after = store.load().arrays
    assert after["agent.recall.store.value"].reshape(-1)[first.id] == 12.5
    changed = {name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)}
    assert "agent.recall.store.value" in changed
    assert all(name.startswith(("agent.recall.store.value", "acting.recall.store.")) for name in changed)


def test_of_several_seeds_the_named_one_forgets(tmp_path: Path):
    run = tmp_path / "device"
    with Trainer("engram/CartPole-v1", run=run, steps=60, seeds=2, **{**AGENT, "envs": 1}) as trainer:
        trainer.learn()
    with StoredMemory(run, change=True) as stored:
        counts = [len(stored.memory.where(seed=seed)) for seed in (0, 1)]
        with pytest.raises(SpecError, match="ids are those of one seed"):
            len(stored.memory.where(ids=0))
        gone = stored.forget(stored.memory.where(seed=1, action=0))
        assert gone.entries
        stored.save("delete", "seed=1 and action=0")
    with StoredMemory(run) as stored:
        assert [len(stored.memory.where(seed=seed)) for seed in (0, 1)] == [counts[0], counts[1] - gone.entries]
    with Trainer(run=run, resume=True) as trainer:
        trainer.learn(8)


def test_a_run_that_is_trained_meanwhile_is_refused(run: Path):
    with RunLock(run), pytest.raises(RunLocked, match="is being written by"):
        StoredMemory(run, change=True)
    with RunLock(run), StoredMemory(run) as stored:
        assert len(stored.memory)


def test_a_run_without_an_external_memory_is_refused(tmp_path: Path):
    plain = {name: value for name, value in AGENT.items() if not name.startswith(("external", "recall"))}
    with Trainer(Walk, run=tmp_path / "plain", steps=10, **plain | {"preset": "dqn"}) as trainer:
        trainer.save()
    with pytest.raises(SpecError, match="has no external memory"):
        StoredMemory(tmp_path / "plain")
