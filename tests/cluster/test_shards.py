"""Shards: the same answer as one table, whatever their number; each order once; lost parts named."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram.cluster import epochs
from engram.cluster.memory import ShardedMemory
from engram.cluster.merging import Found, merged, nothing
from engram.cluster.shard import Order, Rows, Shape, Shard
from engram.cluster.shards import Here, Holding, Keeping, Shards
from engram.cluster.sharing import places_of, shard_of, shares
from engram.errors import CheckpointError, SpecError, WriteFailed

WIDTH, TABLES = 5, 2


def entries(count: int, seed: int = 0, first: int = 1, grid: int = 0) -> Rows:
    """Entries with different hashes; with `grid`, keys on so coarse a one that many are equally far."""
    random = np.random.default_rng(seed)
    key = random.integers(-grid, grid + 1, (count, WIDTH)) if grid else random.normal(size=(count, WIDTH))
    action = random.integers(TABLES, size=count)
    return Rows(
        table=action,
        key=key.astype(np.float32),
        value=random.normal(size=count).astype(np.float32),
        td_error=random.normal(size=count).astype(np.float32),
        hash=random.integers(1 << 32, size=(count, 2), dtype=np.uint32),
        action=action.astype(np.int32),
        features=np.zeros((count, 0), np.float32),
        origin=np.zeros((count, 3), np.int32),
        written=np.arange(first, first + count),
    )


def memory_of(shards: int, folder: Path | None = None, places: int = 1000, **rule: object) -> ShardedMemory:
    shapes = [Shape(one, shards, TABLES, places // shards, WIDTH, **rule) for one in range(shards)]  # type: ignore[arg-type]
    place = Here(lambda shard, epoch: Keeping(Holding(shapes[shard]), folder, epoch), shards)
    return ShardedMemory(Shards(place, shards), shapes)


def by_hand(rows: Rows, queries: np.ndarray, k: int) -> list[list[list[int]]]:
    """The numbers of the nearest entries, by sorting all of them."""
    found = []
    for query in queries.astype(np.float64):
        distance = ((rows.key.astype(np.float64) - query) ** 2).sum(-1)
        order = sorted(range(len(distance)), key=lambda at: (distance[at], rows.written[at]))
        found.append(
            [[int(rows.written[at]) for at in order if rows.table[at] == table][:k] for table in range(TABLES)]
        )
    return found


def told(found: Found) -> list[list[list[int]]]:
    return [
        [[int(written) for written, id in zip(*pair, strict=True) if id >= 0] for pair in zip(*one, strict=True)]
        for one in zip(found.written, found.id, strict=True)
    ]


@given(
    count=st.integers(0, 300), shards=st.integers(1, 5), k=st.integers(1, 12), seed=st.integers(0, 99),
    grid=st.sampled_from([0, 1, 2]),
)  # fmt: skip
def test_the_merged_read_is_that_of_sorting_everything_for_any_number_of_shards(
    count: int, shards: int, k: int, seed: int, grid: int
):
    rows = entries(count, seed, grid=grid)
    queries = entries(4, seed + 1, grid=grid).key
    memory = memory_of(shards, places=1000 * shards)
    memory.write(count, rows)
    answer = memory.read(queries, k, count, keys=True)
    assert told(answer.found) == by_hand(rows, queries, k)
    assert answer.silent == ()
    there = answer.found.id >= 0
    assert np.array_equal(answer.found.key[there], rows.key[answer.found.written[there] - 1])


def test_keys_that_float32_cannot_tell_apart_by_their_products_are_told_apart():
    """At a distance of 1000 from the origin a product in float32 is off by more than these keys differ."""
    rows = entries(500)
    near = rows._replace(key=(1000 + 1e-3 * rows.key).astype(np.float32))
    queries = near.key[:5]
    memory = memory_of(2, places=2000)
    memory.write(500, near)
    assert told(memory.read(queries, 7, 500).found) == by_hand(near, queries, 7)


def test_many_entries_go_by_the_short_way_and_give_the_same():
    rows = entries(30_000)
    memory = memory_of(2, places=40_000)
    memory.write(30_000, rows)
    queries = entries(3, 7).key
    assert told(memory.read(queries, 25, 30_000).found) == by_hand(rows, queries, 25)


def test_a_read_sees_the_entries_as_they_were_at_its_moment():
    rows = entries(40)
    memory = memory_of(2, update="max")
    memory.write(40, rows)
    memory.settle(40)
    queries = entries(3, 5).key
    before = memory.read(queries, 6, 40).found
    again = rows._replace(key=rows.key + 10, value=rows.value + 1, written=rows.written + 40)
    memory.write(80, again)
    memory.settle(40)
    after = memory.read(queries, 6, 80).found
    assert not np.array_equal(before.value, after.value)
    for old, seen in zip(before, memory.read(queries, 6, 40).found, strict=True):
        assert np.array_equal(old, seen)
    memory.settle(80)  # nobody reads as of 40 any more; a shard is told with the next order that it gets
    memory.write(90, entries(10, 9, first=81))
    memory.settle(90)
    shards = [kept.shard for kept in memory.shards.place.kept]  # type: ignore[attr-defined]
    assert all(len(shard._past.written) == 0 for shard in shards)


@pytest.mark.parametrize(
    ("update", "held"), [("tabular", 0.75 * 4 + 0.25 * 8), ("max", 8.0)]
)  # worked by hand: 4, then 8 comes again
def test_an_entry_that_comes_again_moves_its_value(update: str, held: float):
    memory = memory_of(3, update=update, alpha=0.25)
    one = entries(1)
    memory.write(1, one._replace(value=np.float32([4])))
    memory.write(2, one._replace(value=np.float32([8]), written=np.array([2]), key=one.key + 1))
    found = memory.read(one.key + 1, 1, 2).found
    table = int(one.table[0])
    assert (found.distance[0, table, 0], found.value[0, table, 0]) == (0, held)
    memory.settle(2)
    assert memory.held == 1


@pytest.mark.parametrize(
    ("eviction", "gone"), [("oldest", 1), ("least-read", 2), ("least-attended", 2), ("least-surprising", 3)]
)
def test_a_full_table_gives_up_what_the_eviction_says(eviction: str, gone: int):
    """Of entries 1, 2 and 3, all but 2 were read; the network knew the value of 3 best."""
    rows = entries(4)._replace(
        table=np.zeros(4, np.int64), action=np.zeros(4, np.int32), td_error=np.float32([3, 2, 1, 5])
    )
    shard = Shard(Shape(0, 1, TABLES, 3, WIDTH, eviction=eviction))
    shard.carry_out(Order(1, 3, 3, [], [(3, Rows(*(column[:3] for column in rows)))]))
    ids = np.array([0, 2])
    shard.carry_out(Order(2, 4, 4, [(3, ids, np.float32([0.5, 0.5]))], [(4, Rows(*(column[3:] for column in rows)))]))
    assert sorted({1, 2, 3} - set(shard.columns["written"][0].tolist())) == [gone]
    assert shard.held == 3


def test_an_order_that_comes_twice_is_carried_out_once_and_a_gap_is_refused():
    shard = Shard(Shape(0, 1, TABLES, 10, WIDTH, update="tabular"))
    order = Order(1, 3, 3, [], [(3, entries(3))])
    assert shard.carry_out(order).repeated is False
    before = {name: column.copy() for name, column in shard.columns.items()}
    assert shard.carry_out(order).repeated is True
    assert all(np.array_equal(before[name], shard.columns[name]) for name in before)
    with pytest.raises(ValueError, match="order 3 came after order 1"):
        shard.carry_out(Order(3, 9, 9, [], []))
    assert (shard.repeated, shard.misplaced) == (1, 1)


def test_merging_prefers_what_was_written_first_among_equals_and_fills_up_with_nothing():
    none = np.zeros((1, 1, 1, 0), np.float32)
    one = Found(np.array([[[1.0]]]), np.array([[[9]]]), np.float32([[[0.5]]]), np.int32([[[3]]]), none)
    other = Found(np.array([[[1.0]]]), np.array([[[4]]]), np.float32([[[0.7]]]), np.int32([[[8]]]), none)
    found = merged([one, other, nothing(1, 1, 1)], 4)
    assert found.written[0, 0, :2].tolist() == [4, 9]
    assert found.id[0, 0].tolist() == [8, 3, -1, -1]


# Epochs.


def filled(folder: Path, shards: int, count: int = 60) -> ShardedMemory:
    memory = memory_of(shards, folder)
    memory.write(count, entries(count))
    memory.settle(count)
    return memory


def counts(epoch: epochs.Epoch) -> list[int]:
    return [part.entries for part in epochs.parts_of(epoch)]


def test_a_shard_comes_back_from_its_epoch_to_the_last_bit(tmp_path: Path):
    memory = filled(tmp_path, 2)
    parts = memory.shards.write_epoch()
    again = memory_of(2, tmp_path)
    again.shards.open(parts)
    assert again.shards.write_epoch() == parts
    assert (again.held, again.moment) == (60, 60)


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_with_another_number_of_shards_every_entry_finds_its_own_and_reads_stay_the_same(tmp_path: Path, shards: int):
    memory = filled(tmp_path, 2)
    queries = entries(5, 3).key
    before = memory.read(queries, 9, 60).found
    again = memory_of(shards, tmp_path)
    again.shards.open(memory.shards.write_epoch())
    after = again.read(queries, 9, 60).found
    for name in ("distance", "written", "value"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    for shard, kept in enumerate(again.shards.place.kept):  # type: ignore[attr-defined]
        table, count = kept.shard.columns["hash"], kept.shard.filled
        held = np.concatenate([table[one, : int(count[one])] for one in range(TABLES)])
        assert (shard_of(held, shards) == shard).all()
    back = memory_of(2, tmp_path)
    back.shards.open(again.shards.write_epoch())
    assert counts(back.shards.write_epoch()) == counts(memory.shards.write_epoch())


def test_a_damaged_part_is_refused(tmp_path: Path):
    part = filled(tmp_path, 1).shards.write_epoch()[0].memory
    assert part is not None
    path = tmp_path / part.sealed.file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: its SHA-256"):
        epochs.read(tmp_path, part)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        epochs.read(tmp_path, part)


@pytest.mark.parametrize("wrong", [{}, {"file": "../../x", "bytes": 1, "sha256": "", "meta": {}, "entries": 0}, 7])
def test_a_manifest_that_names_no_shard_is_refused(wrong: object):
    with pytest.raises(CheckpointError, match="shards cannot be read"):
        epochs.Part.from_json(wrong)


def test_files_that_no_checkpoint_names_are_deleted_and_all_others_stay(tmp_path: Path):
    folder = tmp_path / epochs.FOLDER
    memory = filled(folder, 2)
    old = [part.sealed.file for part in epochs.parts_of(memory.shards.write_epoch())]
    (tmp_path / "best" / "step-1").mkdir(parents=True)
    (tmp_path / "best" / "step-1" / "manifest.json").write_text(f'{{"file":"{old[0]}"}}')
    (folder / "mine.txt").write_text("not ours")
    epochs.prune(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == sorted([old[0], "mine.txt"])


def test_too_few_places_for_a_table_are_refused_when_shards_become_more(tmp_path: Path):
    rows = entries(40)._replace(hash=np.zeros((40, 2), np.uint32))
    rows.hash[:, 0] = np.arange(40)  # all go to shard 0
    memory = memory_of(1, tmp_path, places=60)
    memory.write(40, rows)
    memory.settle(40)
    with pytest.raises(CheckpointError, match="resume with as many shards as before, or a divisor of that"):
        memory_of(6, tmp_path, places=60).shards.open(memory.shards.write_epoch())


def test_without_a_run_directory_there_is_no_epoch():
    memory = memory_of(1)
    with pytest.raises(WriteFailed, match="name one with --run DIR"):
        memory.shards.write_epoch()


# Faults.


def test_a_shard_that_is_gone_is_read_without_and_told_and_comes_back_with_its_loss_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    memory = filled(tmp_path, 2)
    memory.shards.write_epoch()
    memory.write(75, entries(15, 4, first=61))
    memory.settle(75)
    mine = int((shard_of(entries(15, 4).hash, 2) == 1).sum())
    memory.shards.place.kept[1] = None  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, "engram"):
        answer = memory.read(entries(4, 5).key, 8, 75)
        memory.read(entries(4, 5).key, 8, 75)
    assert answer.silent == (1,)
    assert [record.message.split(" (")[0] for record in caplog.records] == ["shard 1 does not answer"]
    assert memory.partial_reads == 2
    lost = memory.shards.mend()
    assert lost == [(1, mine, 0)]
    held = memory.held
    memory.settle(75)
    assert memory.read(entries(4, 5).key, 8, 75).silent == ()
    assert held == 75
    memory.write(76, entries(1, 6, first=76))
    memory.settle(76)
    assert sum(memory.shards.place.ask(one, "held").entries for one in range(2)) == 75 - mine + 1  # type: ignore[attr-defined]


def test_a_read_that_nobody_answers_finds_nothing_and_says_so_until_shards_come_back(tmp_path: Path):
    memory = filled(tmp_path, 1)
    memory.shards.write_epoch()
    memory.shards.place.kept[0] = None  # type: ignore[attr-defined]
    found, silent = memory.read(entries(3).key, 2, 60, keys=True)
    assert silent == (0,)
    assert found.id.tolist() == [[[-1, -1]] * TABLES] * 3
    assert found.key.shape == (3, TABLES, 2, WIDTH)
    assert memory.partial_reads == 1
    memory.shards.mend()
    assert memory.read(entries(3).key, 2, 60).silent == ()


def test_a_file_that_this_machine_does_not_see_is_no_epoch(tmp_path: Path):
    """A shard of another machine wrote it into a folder that only that one has, or into another one of that name."""
    memory = filled(tmp_path / epochs.FOLDER, 2)
    epoch = memory.shards.write_epoch()
    epochs.check_there(tmp_path, epoch)
    epochs.check_whole(tmp_path, epoch)
    path = tmp_path / epochs.FOLDER / epochs.parts_of(epoch)[1].sealed.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(WriteFailed, match=f"a shard wrote {path.name} on its own machine, where this one does not see"):
        epochs.check_there(tmp_path, epoch)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    epochs.check_there(tmp_path, epoch)
    with pytest.raises(CheckpointError):
        epochs.check_whole(tmp_path, epoch)
    path.unlink()
    with pytest.raises(WriteFailed, match="name a --run folder that all machines share"):
        epochs.check_there(tmp_path, epoch)
    with pytest.raises(CheckpointError, match="cannot be read"):
        epochs.check_whole(tmp_path, epoch)


# Who has what.


def test_environments_are_shared_equally_or_refused():
    assert shares(6, 3) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    for envs, actors in ((5, 2), (4, 0), (2, 4)):
        with pytest.raises(SpecError, match="multiple of"):
            shares(envs, actors)


def test_places_are_shared_and_too_few_are_refused():
    assert places_of(101, 2, 50) == 50
    with pytest.raises(SpecError, match="take fewer shards"):
        places_of(3, 4, 1)
