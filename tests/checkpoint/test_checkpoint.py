"""Checkpoints: what comes back is what was saved, saving costs what is new, and one process writes."""

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support.checkpoint_model import Ring, Unsynced, loaded_rows

from engram.checkpoint.disk import Disk
from engram.checkpoint.files import RunLock, parse_tensors
from engram.checkpoint.store import CheckpointStore, Limits, ReplayLog, SaveFailed, state_digest
from engram.errors import CheckpointError, RunLocked, WriteFailed

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.array(7, np.int64),
    "nothing": np.zeros((3, 0, 2), np.float64),
    "flags": np.array([True, False]),
    "key ['a'].b[0]": np.array([1, 2**32 - 1], np.uint32),
}
SMALL = Limits(segments=4, file_bytes=60, block_bytes=30)


def same_arrays(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


# What comes back.


def test_arrays_and_meta_come_back_to_the_last_bit(tmp_path: Path):
    meta = {"ε": 0.1, "deep": [1, [None, True, "\n\ud800"]], "large": 2**70, "tiny": 5e-324}
    store = CheckpointStore(tmp_path / "checkpoints")
    saved = store.save(12, ARRAYS, meta)
    loaded = CheckpointStore(tmp_path / "checkpoints").load()
    assert same_arrays(loaded.arrays, ARRAYS)
    assert loaded.meta == meta
    assert (loaded.step, loaded.id, loaded.passed_over) == (12, saved.id, [])
    assert (loaded.cursors, loaded.capacity, list(loaded.replay_blocks())) == (None, None, [])
    assert store.verify() == []
    loaded.arrays["weight"][0] = 1  # arrays belong to the caller


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", ">f4"],
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0, 3), (2, 3, 4)])
def test_every_type_and_shape_comes_back(tmp_path: Path, dtype: str, shape: tuple[int, ...]):
    generator = np.random.default_rng(0)
    array = generator.integers(2, size=shape).astype(dtype)
    CheckpointStore(tmp_path).save(0, {"a": array, "b": array.T}, None)
    loaded = CheckpointStore(tmp_path).load().arrays
    for given_array, back in ((array, loaded["a"]), (array.T, loaded["b"])):
        assert back.dtype == given_array.dtype.newbyteorder("=")
        assert back.shape == given_array.shape
        np.testing.assert_array_equal(back, given_array)


def test_nan_payloads_and_negative_zero_survive(tmp_path: Path):
    array = np.array([0x7FC00001, 0xFFC00002, 0x80000000, 0x7F800000], np.uint32).view(np.float32)
    CheckpointStore(tmp_path).save(0, {"a": array}, None)
    assert CheckpointStore(tmp_path).load().arrays["a"].tobytes() == array.tobytes()


def test_the_safetensors_library_reads_what_is_written_and_the_reverse(tmp_path: Path):
    path = CheckpointStore(tmp_path).save(1, ARRAYS, None).path / "arrays.safetensors"
    assert same_arrays(load_file(path), ARRAYS)
    save_file(dict(ARRAYS), tmp_path / "theirs", {"note": "text"})
    handle = Disk().open(tmp_path / "theirs")
    found = parse_tensors(Disk(), handle, "theirs")
    Disk().close(handle)
    assert {name: tensor.layout.shape for name, tensor in found.items()} == {n: a.shape for n, a in ARRAYS.items()}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    capacity=st.integers(1, 9),
    lanes=st.integers(1, 3),
    acts=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 2), st.integers(1, 14)),
            st.just(("save", 0, 0)),
            st.just(("restart", 0, 0)),
            st.tuples(st.just("go back"), st.integers(0, 2), st.just(0)),
        ),
        max_size=25,
    ),
    limits=st.sampled_from([SMALL, Limits(), Limits(segments=1, file_bytes=7, block_bytes=1)]),
)
def test_replay_comes_back_as_a_plain_ring_has_it(tmp_path_factory, capacity, lanes, acts, limits):
    """Any order of writing, saving, restarting from the newest and going back to an older checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    ring, store, saved, step = Ring(capacity, lanes), CheckpointStore(folder, fs=Unsynced(), limits=limits), {}, 0
    for act, which, count in [*acts, ("save", 0, 0)]:
        if act == "write":
            ring.write(which % lanes, count, generator)
        elif act == "save":
            step += 1
            saved[step] = (ring.live(), ring.cursors.tolist())
            digest = state_digest({}, step, ring.log())
            store.save(step, {}, step, ring.log())
            loaded = CheckpointStore(folder).load()
            assert (loaded.step, loaded.meta, loaded.passed_over) == (step, step, [])
            assert (loaded_rows(loaded), loaded.cursors.tolist()) == saved[step]
            assert state_digest(loaded.arrays, loaded.meta, loaded) == digest
        elif saved:
            store = CheckpointStore(folder, fs=Unsynced(), limits=limits)
            kept = store.steps()
            loaded = store.load(kept[-1 - which % len(kept)] if act == "go back" else None)
            assert (loaded_rows(loaded), loaded.cursors.tolist()) == saved[loaded.step]
            ring = Ring.restored(loaded)
    assert store.verify() == []
    for step in store.steps():
        assert loaded_rows(CheckpointStore(folder).load(step)) == saved[step][0]


# What saving costs.


def written_ring(capacity: int, lanes: int, rows: int) -> tuple[Ring, np.random.Generator]:
    ring, generator = Ring(capacity, lanes), np.random.default_rng(0)
    for lane in range(lanes):
        ring.write(lane, rows, generator)
    return ring, generator


def test_a_save_writes_only_the_rows_that_are_new(tmp_path: Path):
    ring, generator = written_ring(4000, 2, 4000)
    store = CheckpointStore(tmp_path)
    first = store.save(1, {}, None, ring.log())
    ring.write(1, 5, generator)
    second = store.save(2, {}, None, ring.log())
    third = store.save(3, {}, None, ring.log())
    row = 2 + 4 + 1
    assert first.bytes_written > 8000 * row
    assert 5 * row < second.bytes_written < 3000
    assert third.bytes_written < second.bytes_written
    assert len(list((tmp_path / "segments").iterdir())) == 2


def test_a_restarted_store_also_writes_only_what_is_new(tmp_path: Path):
    ring, generator = written_ring(4000, 2, 4000)
    CheckpointStore(tmp_path).save(1, {}, None, ring.log())
    store = CheckpointStore(tmp_path)
    ring = Ring.restored(store.load())
    ring.write(0, 5, generator)
    assert store.save(2, {}, None, ring.log()).bytes_written < 3000


def test_a_lane_that_ran_round_costs_one_ring(tmp_path: Path):
    ring, generator = written_ring(50, 1, 50)
    store = CheckpointStore(tmp_path)
    first = store.save(1, {}, None, ring.log()).bytes_written
    ring.write(0, 777, generator)
    assert store.save(2, {}, None, ring.log()).bytes_written < first + 100
    assert loaded_rows(store.load()) == ring.live()


def test_replay_is_never_held_whole(tmp_path: Path):
    """16 MiB of rows that exist only while they are read: less than half is held at any time, there and back."""
    rows = np.full(64, 256, np.int64)

    def read(lane: int, start: int, stop: int) -> dict[str, np.ndarray]:
        return {"a": np.full((stop - start, 1024), lane % 251, np.uint8)}

    store = CheckpointStore(tmp_path, limits=Limits(block_bytes=1 << 20, file_bytes=6 << 20))
    log = ReplayLog(256, rows, read)
    tracemalloc.start()
    store.save(1, {}, None, log)
    for lane, _, columns in store.load().replay_blocks():
        assert columns["a"][0, 0] == lane % 251
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(list((tmp_path / "segments").iterdir())) == 3
    assert peak < 8 << 20


def test_many_segments_are_written_into_one(tmp_path: Path):
    ring, generator = written_ring(100, 2, 3)
    store = CheckpointStore(tmp_path, keep=1, limits=Limits(segments=5))
    counts = []
    for step in range(12):
        ring.write(step % 2, 1, generator)
        store.save(step, {}, None, ring.log())
        counts.append(len(list((tmp_path / "segments").iterdir())))
        assert loaded_rows(CheckpointStore(tmp_path).load()) == ring.live()
    assert counts == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]


def test_segments_without_live_rows_are_dropped(tmp_path: Path):
    ring, generator = written_ring(4, 1, 0)
    store = CheckpointStore(tmp_path, keep=1)
    for step in range(9):
        ring.write(0, 2, generator)
        store.save(step, {}, None, ring.log())
    assert len(list((tmp_path / "segments").iterdir())) == 2


# Which checkpoints there are.


def test_the_last_three_stay_and_nothing_else_of_ours(tmp_path: Path):
    ring, generator = written_ring(4, 1, 2)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "notes.txt").write_text("mine")
    (tmp_path / ".tmp-000000001-0123abcd").mkdir()
    (tmp_path / ".tmp-000000001-0123abcd" / "half").write_bytes(b"x")
    (tmp_path / ".tmp-mine").mkdir()
    (tmp_path / "segments" / "segment-1-0-0123abcd.safetensors").write_bytes(b"x")
    store = CheckpointStore(tmp_path)
    for step in range(6):
        store.save(step, {}, None, ring.log())
        ring.write(0, 3, generator)
    assert store.steps() == [3, 4, 5]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", ".tmp-mine", "segments", *(f"step-{step:09d}.{step + 1}" for step in (3, 4, 5))}
    named = set()
    for path in tmp_path.glob("step-*/manifest.json"):
        named |= {entry["file"] for entry in json.loads(path.read_bytes())["replay"]["segments"]}
    assert {path.name for path in (tmp_path / "segments").iterdir()} == {"notes.txt", *named}


def test_a_step_saved_again_is_the_newer_one(tmp_path: Path):
    store = CheckpointStore(tmp_path)
    store.save(5, ARRAYS, "old")
    store.save(5, ARRAYS, "new")
    assert store.steps() == [5]
    assert CheckpointStore(tmp_path).load(5).meta == "new"


def test_a_run_resumed_from_an_older_checkpoint_goes_on_from_there(tmp_path: Path):
    """Newest is what was saved last, and rows of the abandoned future never come back."""
    ring, generator = written_ring(8, 1, 4)
    store = CheckpointStore(tmp_path)
    store.save(10, {}, None, ring.log())
    ring.write(0, 3, generator)
    store.save(20, {}, None, ring.log())
    store = CheckpointStore(tmp_path)
    ring = Ring.restored(store.load(10))
    ring.write(0, 2, generator)
    store.save(15, {}, None, ring.log())
    assert store.steps() == [10, 20, 15]
    loaded = CheckpointStore(tmp_path).load()
    assert loaded.step == 15
    assert loaded_rows(loaded) == ring.live()


def test_rows_newer_than_the_checkpoint_are_ignored(tmp_path: Path):
    ring, generator = written_ring(8, 1, 4)
    store = CheckpointStore(tmp_path)
    store.save(10, {}, None, ring.log())
    then = ring.live()
    ring.write(0, 3, generator)
    newest = store.save(20, {}, None, ring.log()).path
    (newest / "manifest.json").unlink()
    loaded = CheckpointStore(tmp_path).load()
    assert (loaded.step, loaded_rows(loaded)) == (10, then)
    assert loaded.passed_over == [
        "checkpoint step-000000020.2 was passed over: its file manifest.json cannot be read: No such file or directory"
    ]


@pytest.mark.parametrize("change", ["new ring", "other capacity", "more lanes", "other columns", "file gone"])
def test_a_ring_that_does_not_continue_the_one_on_disk_is_written_whole(tmp_path: Path, change: str):
    ring, _ = written_ring(8, 2, 6)
    store = CheckpointStore(tmp_path)
    store.save(1, {}, None, ring.log())
    if change == "new ring":
        ring, _ = written_ring(8, 2, 3)
    elif change == "other capacity":
        ring, _ = written_ring(9, 2, 9)
    elif change == "more lanes":
        ring, _ = written_ring(8, 3, 9)
    elif change == "file gone":
        next((tmp_path / "segments").iterdir()).unlink()
    log = ring.log()
    if change == "other columns":
        log = ReplayLog(8, ring.cursors, lambda *part: {"z": ring.read(*part)["reward"].astype(np.float64)})
    store.save(2, {}, None, log)
    loaded = CheckpointStore(tmp_path).load()
    assert (loaded.step, loaded.cursors.tolist()) == (2, ring.cursors.tolist())
    if change == "other columns":
        assert [list(columns) for _, _, columns in loaded.replay_blocks()] == [["z"], ["z"]]
    else:
        assert loaded_rows(loaded) == ring.live()


def test_saving_without_replay_and_then_with_it_writes_it_whole(tmp_path: Path):
    ring, _ = written_ring(8, 2, 6)
    store = CheckpointStore(tmp_path)
    store.save(1, {}, None, ring.log())
    store.save(2, {}, None)
    assert store.load(2).cursors is None
    store.save(3, {}, None, ring.log())
    assert loaded_rows(CheckpointStore(tmp_path).load()) == ring.live()


def test_nothing_to_load_is_one_sentence(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no usable checkpoint in .*nowhere: the folder holds none$"):
        CheckpointStore(tmp_path / "nowhere").load()
    assert CheckpointStore(tmp_path / "nowhere").steps() == []
    CheckpointStore(tmp_path).save(3, {}, None)
    with pytest.raises(CheckpointError, match=r"no usable checkpoint of step 4 in .*: saved steps: 3$"):
        CheckpointStore(tmp_path).load(4)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be read: Not a directory"):
        CheckpointStore(tmp_path / "file").load()
    assert CheckpointError.exit_code == 66


@pytest.mark.parametrize(
    ("arrays", "meta", "error", "words"),
    [
        ({}, (1, 2), TypeError, "no tuples"),
        ({}, {1: 2}, TypeError, "string keys"),
        ({}, float("nan"), ValueError, "not JSON compliant"),
        ({"a": np.array(["x"])}, None, TypeError, "array 'a' has dtype <U1"),
        ({"a": np.array([object()])}, None, TypeError, "array 'a' has dtype object"),
        ({"a": np.zeros(2, np.float16)}, None, TypeError, "convert it first"),
        ({"a\n": np.zeros(2)}, None, ValueError, "cannot name an array"),
        ({"__metadata__": np.zeros(2)}, None, ValueError, "cannot name an array"),
        ({}, "x" * (17 << 20), ValueError, "more than 16 MiB"),
    ],
)
def test_a_state_that_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path: Path, arrays, meta, error, words):
    store = CheckpointStore(tmp_path)
    store.save(1, ARRAYS, "good")
    with pytest.raises(error, match=words):
        store.save(2, arrays, meta)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["segments", "step-000000001.1"]
    assert CheckpointStore(tmp_path).load().meta == "good"


@pytest.mark.parametrize("lie", ["too few rows", "other dtype", "missing column", "extra column", "no column"])
def test_a_ring_that_gives_wrong_rows_is_refused(tmp_path: Path, lie: str):
    def read(lane: int, start: int, stop: int) -> dict[str, np.ndarray]:
        right = {"a": np.zeros(stop - start, np.float32), "b": np.zeros(stop - start, np.uint8)}
        if stop - start == 1:
            return {} if lie == "no column" else right
        wrong = {
            "too few rows": right | {"b": right["b"][1:]},
            "other dtype": right | {"a": right["a"].astype(np.float64)},
            "missing column": {"a": right["a"]},
            "extra column": right | {"c": right["a"]},
        }
        return wrong[lie]

    with pytest.raises(ValueError, match="replay gave"):
        CheckpointStore(tmp_path).save(1, {}, None, ReplayLog(4, np.array([4]), read))
    assert list((tmp_path / "segments").iterdir()) == []


def test_a_store_must_keep_something():
    with pytest.raises(ValueError, match="keep at least 1"):
        CheckpointStore(Path("x"), keep=0)


# The digest of a state.


def test_each_part_of_a_state_changes_its_digest(tmp_path: Path):
    meta = {"generator": [1, 2], "step": 3}
    ring, _ = written_ring(4, 2, 7)

    def digest(arrays=ARRAYS, meta=meta, capacity=4, cursors=ring.cursors, read=ring.read):
        return state_digest(arrays, meta, ReplayLog(capacity, cursors, read))

    def without(name):
        return lambda *part: {key: column for key, column in ring.read(*part).items() if key != name}

    def touched(lane, number, name):
        def read(this_lane, start, stop):
            rows = ring.read(this_lane, start, stop)
            if this_lane == lane and start <= number < stop:
                rows[name].reshape(stop - start, -1)[number - start, 0] += rows[name].dtype.type(1)
            return rows

        return read

    digests = [digest(), state_digest(ARRAYS, meta)]
    digests += [digest({key: array for key, array in ARRAYS.items() if key != name}) for name in ARRAYS]
    digests += [
        digest(ARRAYS | {"weight": ARRAYS["weight"].T.copy()}),
        digest(ARRAYS | {"count": np.array(7, np.int32)}),
    ]
    digests += [digest(ARRAYS | {"nothing": np.zeros((0, 3, 2))}), digest(ARRAYS | {"more": np.zeros(0)})]
    digests += [digest(meta={"step": 3}), digest(meta={"generator": [1, 2]}), digest(meta=meta | {"step": 4})]
    digests += [digest(read=without(name)) for name in ("observation", "reward", "is_first")]
    digests += [
        digest(read=touched(lane, n, name))
        for lane in (0, 1)
        for n in range(3, 7)
        for name in ("observation", "reward")
    ]
    digests += [digest(capacity=3), digest(read=lambda _, start, stop: ring.read(0, start, stop))]
    digests += [digest(cursors=np.array([7, 6]), read=lambda lane, a, b: ring.read(lane, a + lane, b + lane))]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_that_of_the_state_and_not_of_how_it_is_stored(tmp_path: Path):
    ring, generator = written_ring(9, 3, 4)
    CheckpointStore(tmp_path / "b").save(0, {}, None, ring.log())
    for limits, folder in ((SMALL, "a"), (Limits(), "c")):
        store = CheckpointStore(tmp_path / folder, limits=limits)
        for step in range(4):
            ring.write(step % 3, 2, generator)
            store.save(step, ARRAYS, {"b": 1, "a": 2}, ring.log())
        loaded = store.load()
        reordered = dict(reversed(ARRAYS.items()))
        assert state_digest(loaded.arrays, loaded.meta, loaded) == state_digest(reordered, {"a": 2, "b": 1}, ring.log())


# The lock.

HOLD = """
import sys
from pathlib import Path
from engram.checkpoint.files import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_while_the_first_lives(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        sentence = rf"is being written by process {holder.pid}, started 20\d\d-\d\d-\d\dT[0-9:]+\+00:00; wait for it"
        with pytest.raises(RunLocked, match=sentence), RunLock(tmp_path):
            pass
        holder.kill()  # a process that died holds nothing, though its file still names it
        holder.wait()
        assert str(holder.pid) in (tmp_path / "lock").read_text()
        with RunLock(tmp_path):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def test_a_lock_is_given_back_and_is_not_held_twice(tmp_path: Path):
    lock = RunLock(tmp_path / "new" / "run")
    with lock:
        with pytest.raises(RunLocked, match=f"process {os.getpid()},"), RunLock(tmp_path / "new" / "run"):
            pass
        (tmp_path / "new" / "run" / "lock").write_text("\x1b[31m nonsense")
        with pytest.raises(RunLocked, match="written by another process; wait"), RunLock(tmp_path / "new" / "run"):
            pass
    with lock:
        pass
    assert (tmp_path / "new" / "run" / "lock").read_text() == ""


def test_a_lock_is_not_written_through_a_link(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with (
        pytest.raises(WriteFailed, match="lock could not be written: .*; move away what is in its place"),
        RunLock(tmp_path),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_disk_that_is_full_does_not_keep_a_run_from_being_locked(tmp_path: Path, monkeypatch):
    """The note of who holds it is for people; what locks is the operating system."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with RunLock(tmp_path), pytest.raises(RunLocked, match="by another process"), RunLock(tmp_path):
        pass


def test_a_lock_that_cannot_be_made_names_the_file_and_the_way_out(tmp_path: Path, monkeypatch):
    def fails(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(
        WriteFailed, match=r"/lock could not be written: Read-only .*; choose a folder .*--run DIR"
    ) as said:
        RunLock(tmp_path).__enter__()
    assert said.value.exit_code == 74


def test_a_folder_that_is_moved_removed_or_replaced_is_noticed_until_it_is_back(tmp_path: Path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with RunLock(run) as lock:
        lock.check()
        run.rename(elsewhere)
        with pytest.raises(WriteFailed, match=f"{run} is not the folder any more .*; put it back there"):
            lock.check()
        run.mkdir()
        (run / "lock").touch()
        with pytest.raises(WriteFailed):
            lock.check()
        (run / "lock").unlink()
        run.rmdir()
        elsewhere.rename(run)
        lock.check()


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path: Path):
    """A stranger's run could else have the checkpoints of another run read, and pruned."""
    mine = tmp_path / "mine" / "checkpoints"
    CheckpointStore(mine, keep=1).save(1, {}, None)
    foreign = tmp_path / "foreign" / "checkpoints"
    foreign.parent.mkdir()
    foreign.symlink_to(mine)
    with pytest.raises(CheckpointError, match="it is a link, and none is followed"):
        CheckpointStore(foreign).load()
    with pytest.raises(SaveFailed, match="it is a link, and none is followed"):
        CheckpointStore(foreign).save(2, {}, None)
    foreign.unlink()
    foreign.mkdir()
    (foreign / "segments").symlink_to(mine / "segments")
    with pytest.raises(SaveFailed, match="'segments' is a link"):
        CheckpointStore(foreign).save(2, {}, None)
    assert CheckpointStore(mine).steps() == [1]


def test_a_reader_is_not_left_with_nothing_while_a_writer_prunes(tmp_path: Path):
    """Between listing and reading, all that was listed is replaced by newer checkpoints: those are then read."""
    writer = CheckpointStore(tmp_path / "c", keep=1)
    writer.save(0, {}, None)

    class Slow(Disk):
        reads = 0

        def open(self, path: Path) -> int:
            if path.name == "manifest.json" and self.reads < 3:
                self.reads += 1
                writer.save(self.reads, {}, None)
            return super().open(path)

    assert CheckpointStore(tmp_path / "c", fs=Slow()).load().step == 3
