"""`agent.memory`: entries are counted, chosen, forgotten and edited, and conditions that say nothing are refused."""

import copy
import csv
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support.told import Told, agent

from engram import spaces
from engram.agents.policy import Mind
from engram.errors import SpecError, WriteFailed
from engram.external.memory import NoExternalSpec
from engram.external.product_key import ProductKeySpec
from engram.play.trained import TrainedAgent


def led(seed: int, **changes) -> Mind:
    """A mind that remembers 15 steps of two environments."""
    told, random = Told(agent(**changes)), np.random.default_rng(seed)
    for _ in range(18):
        told.step(random.normal(size=(2, 2)).astype(np.float32), random.normal(size=2).astype(np.float32),
                  random.random(2) < 0.3, np.zeros(2, bool))  # fmt: skip
    return told.agent.mind(told.state)


def plan(**changes):
    spec = agent(**changes).spec
    return SimpleNamespace(
        env=None, preset="nec", env_args={}, agent=spec, space=spaces.Box((2,)), actions=2, action_bins=None,
        max_episode_steps=None, shown=None, seed=3,
    )  # fmt: skip


MINDS = [led(seed) for seed in (0, 1)]


def trained(minds=1) -> TrainedAgent:
    return TrainedAgent(plan(), list(MINDS[:minds]), None)


def test_entries_are_what_the_store_holds_and_conditions_choose_among_them():
    memory = trained().memory
    entries = list(memory)
    assert len(memory) == len(entries) == int(MINDS[0].recall.store.held) == 30
    assert {entry.seed for entry in entries} == {3}
    store = jax.device_get(MINDS[0].recall.store)
    for entry in entries:
        place = divmod(entry.id, store.live.shape[1])
        assert entry.value == store.value[place]
        assert [entry.environment, entry.episode, entry.step] == store.origin[place].tolist()
    cases = {
        "action": (1, lambda one: one.action == 1),
        "episode": ([1, 2], lambda one: one.episode in (1, 2)),
        "environment": (0, lambda one: one.environment == 0),
        "older_than": (12, lambda one: one.age > 12),
        "value_below": (0.0, lambda one: one.value < 0),
        "value_above": (0.0, lambda one: one.value > 0),
        "attention_below": (0.5, lambda one: one.attention < 0.5),
        "ids": (range(4), lambda one: one.id < 4),
    }
    for name, (value, holds) in cases.items():
        chosen = list(memory.where(**{name: value}))
        assert chosen == [entry for entry in entries if holds(entry)], name
        assert chosen == list(memory.where({name: value})) == list(memory.where(holds)), name
        text = ",".join(map(str, value)) if isinstance(value, list | range) else value
        assert chosen == list(memory.where(f"{name}={text}")), name
        assert 0 < len(chosen) < 30, name
    assert list(memory.where(action=1).where(value_below=0)) == list(memory.where(action=1, value_below=0))


def test_what_is_forgotten_is_gone_from_this_agent_alone_and_its_q_follow():
    one = trained()
    other = copy.deepcopy(one)
    memory = one.memory
    row = next(entry for entry in memory if entry.environment == 0)
    count = len(memory.where(environment=0, episode=row.episode))
    gone = memory.forget(where={"environment": 0, "episode": row.episode})
    assert gone.entries == count > 0
    assert len(memory) == len(one.memory) == 30 - count
    assert len(other.memory) == 30
    assert memory.forget(where={"environment": 0, "episode": row.episode}) == (0, 0)
    assert one.memory.forget().entries == 30 - count
    read = one.minds[0].network.external.read(one.minds[0].recall.store, MINDS[0].recall.line.waiting.key[0, 0])
    assert not np.any(read.weights)


def test_what_waits_is_covered_by_what_is_known_of_it_alone():
    newest = int(MINDS[0].recall.episode[1])
    one = trained()
    waits = one.memory.where(environment=1, episode=newest).waits(0).sum()
    assert 0 < waits <= 3
    assert not one.memory.where(environment=1, episode=newest, value_below=100).waits(0).any()
    assert one.memory.forget(environment=1, episode=newest).waiting == waits
    assert one.memory.forget(environment=1, episode=newest).waiting == 0


def test_an_edit_says_another_value_and_changes_nothing_else():
    one = trained()
    before = list(one.memory)
    one.memory.edit(before[4].id, value=9)
    after = list(one.memory)
    assert after[4].value == 9
    assert [vars(entry) | {"value": 0} for entry in after] == [vars(entry) | {"value": 0} for entry in before]
    assert sum(a != b for a, b in zip(after, before, strict=True)) == 1


def test_ids_belong_to_a_seed():
    one = trained(2)
    assert {entry.seed for entry in one.memory} == {3, 4}
    with pytest.raises(SpecError, match="ids are those of one seed, and there are the seeds 3,4"):
        one.memory.forget(ids=0)
    with pytest.raises(SpecError, match="no seed was given, and this agent has the seeds 3, 4"):
        one.memory.edit(0, 1.0)
    assert one.memory.forget(ids=0, seed=4) == (1, 0)
    assert [len(one.memory.where(seed=seed)) for seed in (3, 4)] == [30, 29]


def test_export_writes_what_the_table_holds(tmp_path, monkeypatch):
    memory = trained().memory.where(action=0)
    rows = list(csv.DictReader(memory.export(tmp_path / "m.csv").open()))
    found = json.loads(memory.export(tmp_path / "m.json", observations=True).read_text())
    assert len(rows) == len(found) == len(memory)
    for row, one, entry in zip(rows, found, memory, strict=True):
        assert float(row["value"]) == one["value"] == entry.value
        assert one["observation"] is None
    assert memory.table()["id"] == [entry.id for entry in memory]
    with pytest.raises(SpecError, match="ends neither in .csv nor in .json"):
        memory.export("m.txt")
    monkeypatch.setattr(memory, "observation", lambda *_: {"seen": np.array([[1.5, np.nan]], np.float32)})
    found = json.loads(memory.export(tmp_path / "m.json", observations=True).read_text())
    assert found[0]["observation"] == {"seen": [[1.5, None]]}
    with pytest.raises(WriteFailed, match="could not be written"):
        memory.export(tmp_path / "nowhere" / "m.csv")


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"colour": 3}, "cannot be chosen by 'colour'; known: action"),
        ({"acton": 3}, "did you mean 'action'"),
        ({"action": -1}, "write a whole number from 0 on"),
        ({"action": "left"}, "write a whole number from 0 on"),
        ({"value_below": "low"}, "write a number"),
        ({"value_below": float("nan")}, "write a number"),
        ({"ids": 10**9}, "no entry of the memory has the id 1000000000; it holds 30 entries"),
        ({"seed": 9}, "seed=9 was given, but the agent has the seeds 3"),
    ],
)
def test_conditions_that_say_nothing_are_refused(conditions, words):
    with pytest.raises(SpecError, match=words):
        trained().memory.forget(where=conditions)


def test_what_is_neither_a_condition_nor_a_function_is_refused():
    with pytest.raises(SpecError, match="where = 3 was given; write where="):
        trained().memory.forget(where=3)
    with pytest.raises(SpecError, match="'action' was given twice"):
        trained().memory.forget(where={"action": 1}, action=0)


def test_an_agent_without_a_memory_and_columns_that_a_kind_lacks_are_told():
    with pytest.raises(SpecError, match="has no external memory"):
        TrainedAgent(plan(external=NoExternalSpec()), [], None).memory  # noqa: B018
    changes = {"external": ProductKeySpec(codes=8, neighbours=4)}
    one = TrainedAgent(plan(**changes), [led(0, **changes)], None)
    assert len(one.memory.where(action=0)) > 0
    assert next(iter(one.memory)).episode is None
    with pytest.raises(SpecError, match="external=product-key does not keep 'episode' of its entries"):
        one.memory.forget(episode=1)
