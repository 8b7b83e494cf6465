"""Runs on a cluster whose actors and shards are in this process: made, stopped, resumed, loaded, and refused."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.crew import HereCrew
from support.resumed import played

import engram
from engram.cluster.shards import Here, Keeping
from engram.errors import SpecError
from engram.external.sharded import LINKS
from engram.run import cluster, rays
from engram.run.trainer import Trainer
from engram.run.warm import source_of

ENV = "CartPole-v1"
SMALL: dict[str, Any] = {
    "steps": 320, "save_every": 128, "log_every": 64, "evaluate_every": 0, "group": 2, "seed": 5,
    "encoder.widths": (8,), "replay.capacity": 600, "replay.batch_size": 8, "replay.start": 64, "learn_every": 4,
}  # fmt: skip
REMEMBERS = {**SMALL, "preset": "nec", "external.capacity": 200, "external.neighbours": 5, "recall.n_step": 5}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[HereCrew]:
    """Actors and shards in this process, in the place of Ray's; the crews that were made."""
    crews = []

    def carry(address: str, text: str, actors: int, holdings: list, folder: Path | None, seconds: float) -> Any:
        crew = HereCrew(partial(cluster.make_collecting, text, timeout=seconds), actors)
        crews.append(crew)
        make: Callable = lambda shard, epoch: Keeping(holdings[shard], folder, epoch)  # noqa: E731
        return crew, Here(make, len(holdings)) if holdings else None

    monkeypatch.setattr(rays, "carry", carry)
    return crews


def made(folder: Path, **settings: Any) -> Trainer:
    return Trainer(ENV, run=folder, overrides={name: value for name, value in settings.items() if "." in name},
                   **{name: value for name, value in settings.items() if "." not in name})  # fmt: skip


def trained(folder: Path, **settings: Any) -> str:
    with made(folder, **settings) as trainer:
        return trainer.learn().state_digest()


@pytest.mark.parametrize("stops", [[64], [64, 192]])
def test_a_run_that_was_stopped_and_resumed_is_as_if_it_had_not_stopped(tmp_path: Path, stops: list[int]):
    whole = played(tmp_path / "whole", ENV, [], actors=2, overrides={}, **_keywords(SMALL))
    again = played(tmp_path / "again", ENV, stops, actors=2, overrides={}, **_keywords(SMALL))
    assert whole[0] == again[0]
    lines = ([{k: v for k, v in row.items() if k != "learner_waited"} for row in rows] for rows in (whole[1], again[1]))
    assert next(lines) == next(lines)
    assert all(checkpoint.meta["state"]["repeatable"] for checkpoint in again[2])


def _keywords(settings: dict[str, Any]) -> dict[str, Any]:
    return {name.replace(".", "__"): value for name, value in settings.items()}


def test_with_shards_too_and_the_stored_agent_reads_them_as_one_table(tmp_path: Path):
    options = {**_keywords(REMEMBERS), "actors": 2, "shards": 2}
    whole = played(tmp_path / "whole", ENV, [], **options)
    again = played(tmp_path / "again", ENV, [192], **options)
    assert whole[0] == again[0]
    agent = engram.load(tmp_path / "again")
    store = agent.minds[0].recall.store
    link: Any = LINKS[cluster.LINK]
    assert int(store.live.sum()) == link.held > 50
    queries = np.random.default_rng(1).normal(size=(6, store.key.shape[-1])).astype(np.float32)
    found = link.read(queries, 5, link.moment).found
    for query, values, distance in zip(queries, found.value, found.distance, strict=True):
        squares = ((np.asarray(store.key) - query) ** 2).sum(-1)
        squares[~np.asarray(store.live)] = np.inf
        nearest = np.argsort(squares, axis=1)[:, :5]
        there = np.isfinite(distance)
        assert np.array_equal(np.take_along_axis(np.asarray(store.value), nearest, 1)[there], values[there])
    assert agent.evaluate(2).episodes == 2


def test_a_checkpoint_whose_shard_file_is_damaged_is_passed_over_for_the_one_before(tmp_path: Path):
    with made(tmp_path / "run", **REMEMBERS, actors=1, shards=2) as trainer:
        trainer.learn()
    newest = max((tmp_path / "run" / "checkpoints").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    parts = json.loads(newest.read_text())["meta"]["state"]["shards"]["parts"]
    damaged = tmp_path / "run" / "checkpoints" / "shards" / parts[1]["file"]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with Trainer(run=tmp_path / "run", resume=True) as again:
        assert again.steps == 256
    assert engram.load(tmp_path / "run").step == 256


def rows_of(folder: Path) -> dict[int, dict[str, np.ndarray]]:
    """The replay rows of a run, lane by lane."""
    blocks: dict[int, list[dict[str, np.ndarray]]] = {}
    for lane, _, columns in source_of(str(folder)).loaded.replay_blocks():
        blocks.setdefault(lane, []).append(columns)
    return {
        lane: {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
        for lane, parts in blocks.items()
    }


def test_a_replay_in_shards_is_saved_resumed_looked_at_and_read_whole(tmp_path: Path):
    options = {**_keywords(SMALL), "actors": 2, "evaluate_every": 128, "evaluate_episodes": 1}
    whole = played(tmp_path / "whole", ENV, [], shards=2, **options)
    again = played(tmp_path / "again", ENV, [192], shards=2, **options)
    assert whole[0] == again[0]
    played(tmp_path / "none", ENV, [], **options)
    with Trainer(run=tmp_path / "again", resume=True, shards=3, steps=384) as one:  # redistributed
        before = one.runner.capture()
        assert (before.meta["repeatable"], len(before.meta["shards"]["rows"])) == (True, 3)
    one, other = (rows_of(tmp_path / folder) for folder in ("again", "none"))
    assert one.keys() == other.keys() == {0, 1}
    for lane, columns in one.items():
        assert columns.keys() == other[lane].keys() > {"observation", "action"}
        assert all(np.array_equal(column, other[lane][name]) for name, column in columns.items())
    agent = engram.load(tmp_path / "again")
    assert agent.evaluate(1).episodes == 1
    best = [path.read_text() for path in (tmp_path / "again" / "checkpoints" / "best").rglob("manifest.json")]
    assert best
    assert not any("rows-" in text for text in best)


def test_a_second_run_of_a_process_with_shards_is_refused_while_the_first_is_open(tmp_path: Path):
    options = {**SMALL, "actors": 1, "shards": 2}
    with made(tmp_path / "one", **options) as first:
        first.learn(16)
        with made(tmp_path / "two", **options) as second, pytest.raises(SpecError, match="has its shards open; close"):
            second.learn(16)
        first.learn(32)
    with made(tmp_path / "three", **options) as third:
        third.learn(16)


def test_a_replay_of_shards_is_taken_by_a_run_without_and_by_none_with(tmp_path: Path):
    trained(tmp_path / "one", **{**SMALL, "actors": 1, "shards": 2})
    how = {**SMALL, "start_from": str(tmp_path / "one"), "start_with": "replay"}
    with made(tmp_path / "two", **how) as trainer:
        trainer.learn(16)
    one, other = (rows_of(tmp_path / folder) for folder in ("one", "two"))
    assert one.keys() == other.keys() == {0}
    for name, column in one[0].items():  # the run that took them has added its own
        assert np.array_equal(column, other[0][name][: len(column)])
    with (
        made(tmp_path / "three", **how, actors=1, shards=2) as trainer,
        pytest.raises(SpecError, match="a replay in shards begins empty"),
    ):
        trainer.learn(16)


def test_demonstrations_that_are_kept_and_shards_are_refused_together():
    agent = engram.preset("dqn", engram.spaces.Box((3,)), 1000)
    kept = engram.specs.override_all(agent, {"demos.ratio": 0.25})
    cluster.check_shards(agent)
    with pytest.raises(SpecError, match="demos.ratio = 0.25, but demonstrations that are kept for ever"):
        cluster.check_shards(kept)


def test_another_number_of_actors_or_shards_goes_on_with_all_that_was_learned(tmp_path: Path):
    roomy = {**REMEMBERS, "external.capacity": 600}  # hashes do not divide evenly
    first = trained(tmp_path, **{**roomy, "actors": 2, "shards": 2, "envs": 4, "steps": 192})
    with Trainer(run=tmp_path, resume=True, actors=4, shards=3, steps=320) as trainer:
        before = trainer.runner.capture()
        assert before.meta["repeatable"] is False
        assert trainer.steps == 192
        held = LINKS[cluster.LINK].held
        trainer.learn()
        assert trainer.steps >= 320
        assert LINKS[cluster.LINK].held >= held > 50
        assert trainer.runner.ledger.balances  # type: ignore[attr-defined]
    assert first


def test_an_agent_that_acts_without_lag_learns_on_one_actor_what_it_learns_without(tmp_path: Path):
    options = {
        "preset": "ppo",
        "steps": 256,
        "envs": 2,
        "evaluate_every": 0,
        "rollout.steps": 16,
        "encoder.widths": (8,),
    }
    found = []
    for actors in (0, 1):
        with made(tmp_path / str(actors), **options, actors=actors) as trainer:
            runner: Any = trainer.learn().runner
            arrays = runner.capture().arrays
            found.append({name: array for name, array in arrays.items() if name.startswith("agent.")})
    here, there = found
    assert here.keys() == there.keys()
    assert [name for name in here if not np.array_equal(here[name], there[name])] == []


def test_the_line_of_metrics_tells_the_lag_and_what_was_lost(tmp_path: Path):
    trained(tmp_path, **{**SMALL, "actors": 2})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {row["actor_lag"] for row in rows[1:]} == {1.0}
    assert {(row["blocks_lost"], row["actor_restarts"]) for row in rows} == {(0, 0)}
    assert all(0 <= row["learner_waited"] <= 1 for row in rows)


def test_the_run_says_how_it_is_shared(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "engram"):
        trained(tmp_path, **{**REMEMBERS, "actors": 2, "shards": 2, "steps": 64})
    assert "2 actors with 1 environments each, 2 shards of the replay and the external memory" in caplog.text


@pytest.mark.parametrize(
    ("env", "settings", "said"),
    [
        (ENV, {"shards": 2}, "shards = 2 was given without actors; say how many"),
        (ENV, {"cluster": "local"}, "cluster = 'local' was given without actors"),
        (ENV, {"actors": 2, "envs": 3}, "3 environments were asked for with 2 actors"),
        (ENV, {"actors": 2, "seeds": 2}, "begin one run for each seed"),
        ("engram/CartPole-v1", {"actors": 2}, "runs on the device"),
        (lambda: None, {"actors": 2}, "name the environment's id"),
        (
            ENV,
            {"actors": 2, "shards": 2, "external": "graph", "recall.n_step": 1},
            "this agent has another memory, or none",
        ),
        (ENV, {"actors": 2, "shards": 2, "preset": "ppo"}, "this agent has neither; leave them out"),
        (ENV, {"actors": 2, "shards": 2, "draw": "similar"}, "draw=similar, which looks at rows that shards keep"),
        (ENV, {"actors": 2, "shards": 200, "preset": "nec", "external.capacity": 300}, "take fewer shards"),
        (ENV, {"actors": -1}, "actors = -1 was given"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_is_trained(
    tmp_path: Path, env: Any, settings: dict[str, Any], said: str
):
    overrides = {name: value for name, value in settings.items() if "." in name}
    rest = {name: value for name, value in settings.items() if "." not in name}
    with pytest.raises(SpecError, match=said), Trainer(env, run=tmp_path / "run", overrides=overrides, **rest) as one:
        one.learn(64)
    assert not (tmp_path / "run" / "run.json").exists()


def test_shards_without_a_run_directory_are_refused():
    with pytest.raises(SpecError, match="keep what they hold in a run directory"):
        Trainer(ENV, preset="nec", actors=2, shards=2)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"actors": 2}, {"actors": 0}, "begun with 2 actors, and cannot go on with none; give as many actors"),
        ({"actors": 2, "shards": 2}, {"shards": 0}, "begun with 2 shards, and cannot go on with none; give as many"),
        ({"actors": 2}, {"shards": 2}, "begun with no shards, and cannot go on with 2; leave shards out"),
        ({"actors": 2}, {"actors": 3}, "2 environments were asked for with 3 actors"),
        ({}, {"actors": 2}, "begun with no actors, and cannot go on with 2; leave actors out"),
        ({}, {"cluster": "local"}, "needs no cluster; leave cluster out"),
    ],
)
def test_what_a_run_was_not_begun_with_is_refused_when_it_is_resumed(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], said: str
):
    trained(tmp_path, **{**SMALL, **before, "steps": 64})
    with pytest.raises(SpecError, match=said):
        Trainer(run=tmp_path, resume=True, steps=128, **now)


@pytest.mark.parametrize("preset", ["ppo-rnn", "pqn-rnn"])
def test_an_agent_that_learns_from_whole_environments_is_collected_for_by_actors_of_one(tmp_path: Path, preset: str):
    """Its minibatches are of whole environments, more than an actor has."""
    options = {"preset": preset, "actors": 2, "envs": 4, "steps": 128, "evaluate_every": 0, "rollout.steps": 16}
    with made(tmp_path, **options, **{"encoder.widths": (8,), "working.hidden_size": 8}) as trainer:
        trainer.learn()
        assert trainer.steps >= 128
