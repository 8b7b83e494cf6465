"""Replay rows in shards, against a ring in plain Python: writes, wraps, epochs, losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import sharded_replay

from engram.cluster import epochs
from engram.cluster.replay import ShardedReplay
from engram.cluster.rows import BLOCK, NewRows, RowOrder, RowShape, RowShard, local_of, owner_of
from engram.errors import CheckpointError

LAYOUT = (("observation", "float32", (2,)), ("carry.0", "uint8", ()))
TURN = 1 << 29


def shapes(shards: int, lanes: int = 3, capacity: int = 40) -> list[RowShape]:
    return [RowShape(one, shards, lanes, capacity, LAYOUT) for one in range(shards)]


def replay_of(shards: int, folder: Path | None = None, lanes: int = 3, capacity: int = 40) -> ShardedReplay:
    return sharded_replay(shapes(shards, lanes, capacity), folder, "rows of test_rows")


def content(lane: np.ndarray, row: np.ndarray) -> list[np.ndarray]:
    """What a row holds, told by its lane and number."""
    lane, row = np.asarray(lane), np.asarray(row)
    return [np.stack([row * 0.5, lane + 0.25], -1).astype(np.float32), ((row * 7 + lane) % 251).astype(np.uint8)]


class Model:
    """A ring of rows for each lane: which number lives at each place."""

    def __init__(self, lanes: int, capacity: int):
        self.capacity, self.cursor = capacity, [0] * lanes
        self.rows: dict[tuple[int, int], int] = {}

    def write(self, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        lane, row = [], []
        for one, count in enumerate(counts):
            for _ in range(count):
                self.rows[one, self.cursor[one] % self.capacity] = self.cursor[one]
                lane.append(one)
                row.append(self.cursor[one])
                self.cursor[one] += 1
        return np.array(lane, np.int64), np.array(row, np.int64)

    def check(self, replay: ShardedReplay) -> None:
        """Every number that was ever written: there if it lives, with what it holds; else not, and zeros."""
        asked = [(lane, row) for lane, cursor in enumerate(self.cursor) for row in range(cursor + 2)]
        lane, row = (np.array(column, np.int64) for column in zip(*asked, strict=True))
        there, columns = replay.fetch(lane, row)
        assert there.tolist() == [self.rows.get((one, number % self.capacity)) == number for one, number in asked]
        for found, written in zip(columns, content(lane, row), strict=True):
            assert np.array_equal(found[there], written[there])
            assert not found[~there].any()


COUNTS = st.lists(st.integers(0, 9), min_size=3, max_size=3)
STEPS = st.lists(st.one_of(COUNTS, st.sampled_from(["flush", "fetch", "epoch"])), min_size=1, max_size=40)


@given(steps=STEPS, shards=st.integers(1, 5), later=st.integers(1, 5))
def test_rows_in_shards_are_those_of_a_ring(tmp_path_factory: Any, steps: list, shards: int, later: int):
    folder = tmp_path_factory.mktemp("rows")
    model, replay = Model(3, 40), replay_of(shards, folder)
    for step in steps:
        if step == "flush":
            replay.flush()
        elif step == "fetch":
            model.check(replay)
        elif step == "epoch":
            epoch = replay.shards.write_epoch()
            shards = later
            replay = replay_of(shards, folder)
            replay.shards.open(epoch)
        else:
            lane, row = model.write(step)
            replay.store(lane, row, content(lane, row))
    model.check(replay)
    assert sum(kept.rows.held for kept in replay.shards.place.kept) == len(model.rows)  # type: ignore[attr-defined]


def test_every_place_has_one_shard_and_one_place_there():
    for shards in (1, 2, 3, 7):
        lane, place = (axis.reshape(-1) for axis in np.meshgrid(np.arange(4), np.arange(150), indexing="ij"))
        owner, local = owner_of(lane, place, shards), local_of(place, shards)
        assert len(set(zip(lane.tolist(), owner.tolist(), local.tolist(), strict=True))) == len(lane)
        assert int(local.max()) < RowShape(0, shards, 4, 150, LAYOUT).locals
        held = np.bincount(owner, minlength=shards)
        assert held.max() - held.min() <= 4 * BLOCK  # shared equally, but for a block of each lane


def test_an_order_that_comes_twice_is_carried_out_once_and_a_gap_is_refused():
    shard = RowShard(shapes(1)[0])
    lane, row = np.array([1]), np.array([4])
    shard.carry_out(RowOrder(1, [NewRows(lane, row, content(lane, row))]))
    shard.carry_out(RowOrder(1, [NewRows(lane, row + 40, content(lane, row))]))
    assert (shard.repeated, shard.held) == (1, 1)
    assert shard.fetch(lane, row).there.tolist() == [True]
    with pytest.raises(ValueError, match="order 3 came after order 1"):
        shard.carry_out(RowOrder(3, []))


def test_a_batch_is_one_message_to_each_shard_that_has_a_row_of_it():
    replay, model = replay_of(3), Model(3, 40)
    lane, row = model.write([20, 20, 20])
    replay.store(lane, row, content(lane, row))
    replay.fetch(lane, row)
    assert (replay.fetches, replay.messages) == (1, 3)
    replay.fetch(np.array([0, 0]), np.array([1, 2]))  # both in one block
    assert (replay.fetches, replay.messages) == (2, 4)


# Epochs.


def filled(folder: Path, shards: int, rows: int = 300) -> tuple[ShardedReplay, Model]:
    replay, model = replay_of(shards, folder, lanes=2, capacity=400), Model(2, 400)
    lane, row = model.write([rows, rows])
    replay.store(lane, row, content(lane, row))
    return replay, model


def test_only_the_files_of_places_that_changed_are_written_again(tmp_path: Path):
    replay, model = filled(tmp_path, 2)
    before = {part.sealed.file for part in epochs.rows_of(replay.shards.write_epoch())}
    assert epochs.rows_of(replay.shards.write_epoch()) != []
    lane, row = model.write([1, 0])
    replay.store(lane, row, content(lane, row))
    after = {part.sealed.file for part in epochs.rows_of(replay.shards.write_epoch())}
    assert len(after - before) == 1
    assert len(before) > 20


def test_an_epoch_says_what_is_kept_and_not_when_it_was_written(tmp_path: Path):
    often, once = filled(tmp_path / "often", 2, 0)[0], filled(tmp_path / "once", 2, 0)[0]
    model = Model(2, 400)
    for _ in range(12):
        lane, row = model.write([40, 37])
        for replay in (often, once):
            replay.store(lane, row, content(lane, row))
        epoch = often.shards.write_epoch()
        often = replay_of(2, tmp_path / "often", 2, 400)
        often.shards.open(epoch)
    assert often.shards.write_epoch() == once.shards.write_epoch()


def test_a_manifest_says_all_of_an_epoch_and_a_best_checkpoint_none_of_its_rows(tmp_path: Path):
    epoch = filled(tmp_path, 2)[0].shards.write_epoch()
    told = epochs.to_json(epoch)
    assert epochs.epoch_of({"shards": told}) == epoch
    assert epochs.epoch_of(epochs.without_rows({"shards": told})) == []
    for wrong in ({"parts": []}, {"parts": [], "rows": [7]}, {"parts": [], "rows": 7}, 5):
        state = {"shards": wrong}
        if wrong == {"parts": []}:
            assert epochs.epoch_of(state) == []
        else:
            with pytest.raises(CheckpointError, match="shards cannot be read"):
                epochs.epoch_of(state)


def test_rows_of_another_replay_are_refused(tmp_path: Path):
    epoch = filled(tmp_path, 2)[0].shards.write_epoch()
    for other in (shapes(2, lanes=1, capacity=400), [one._replace(layout=LAYOUT[:1]) for one in shapes(2, 2, 400)]):
        with pytest.raises(CheckpointError, match="are not those of this run's replay"):
            sharded_replay(other, tmp_path, "rows of another").shards.open(epoch)


# Faults.


def test_a_shard_that_was_killed_comes_back_without_what_was_written_since_and_gives_none_of_it(tmp_path: Path):
    replay, model = filled(tmp_path, 2)
    replay.shards.write_epoch()
    kept = dict(model.rows)
    lane, row = model.write([150, 150])  # wraps: some places have an older row on the disk
    replay.store(lane, row, content(lane, row))
    replay.flush()
    mine = owner_of(lane, row % 400, 2) == 1
    replay.shards.place.kept[1] = None  # type: ignore[attr-defined]
    there, columns = replay.fetch(lane, row)
    assert np.array_equal(there, ~mine)  # while it is gone: nobody else answers for it, and it is told
    assert not any(column[mine].any() for column in columns)
    assert replay.shards.gone == {1}
    assert replay.shards.mend() == [(1, 0, int(mine.sum()))]
    there, columns = replay.fetch(lane, row)
    assert np.array_equal(there, ~mine)
    assert not any(column[mine].any() for column in columns)
    old = [(one, number) for (one, place), number in kept.items() if model.rows[one, place] == number]
    lane, row = (np.array(column, np.int64) for column in zip(*old, strict=True))
    there, columns = replay.fetch(lane, row)
    assert there.all()
    assert all(np.array_equal(*pair) for pair in zip(columns, content(lane, row), strict=True))
    lane, row = model.write([30, 30])  # and it goes on
    replay.store(lane, row, content(lane, row))
    assert replay.fetch(lane, row)[0].all()


def test_shards_that_begin_as_they_are_take_the_orders_that_follow(tmp_path: Path):
    replay, lane = replay_of(2, tmp_path), np.zeros(20, np.int64)
    for first in (0, 20):
        replay.store(lane, first + np.arange(20), content(lane, first + np.arange(20)))
        replay.flush()
        replay.shards.begin()
    there, _ = replay.fetch(np.zeros(40, np.int64), np.arange(40))
    assert there.all()


def test_what_waits_to_be_sent_is_bounded(monkeypatch: pytest.MonkeyPatch):
    replay, lane = replay_of(2), np.zeros(4, np.int64)
    size = sum(column.nbytes for column in content(lane, np.arange(4)))
    monkeypatch.setattr("engram.cluster.replay.WAITING", 3 * size)
    waiting = []
    for number in range(7):
        rows = 4 * number + np.arange(4)
        replay.store(lane, rows, content(lane, rows))
        waiting.append(sum(len(new.row) for writes in replay._pending for new in writes))
    assert waiting == [4, 8, 0, 4, 8, 0, 4]
    assert replay.fetch(np.zeros(28, np.int64), np.arange(28))[0].all()
