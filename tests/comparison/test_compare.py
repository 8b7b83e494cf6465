"""`engram.compare`: curves by hand, groups, and a sentence for whatever is left out."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.logged import group, logged

import engram
from engram.comparison.compare import MINMAX, compare
from engram.comparison.learning import Curve, area, final, last_tenth, steps_to
from engram.errors import CheckpointError, EngramError, SpecError, UnknownName, WriteFailed
from engram.run.trainer import Trainer


def curve(steps: list[float], values: list[float]) -> Curve:
    return Curve(Path("r"), 0, np.array(steps, float), np.array(values, float))


# -- one curve -------------------------------------------------------------------------------------------------------


def test_what_is_read_from_a_curve_worked_by_hand():
    one = curve([100, 200, 400], [0, 10, 30])
    assert area(one, 400) == pytest.approx((100 * 0 + 100 * 5 + 200 * 20) / 400)
    assert area(one, 300) == pytest.approx((100 * 0 + 100 * 5 + 100 * 15) / 300)
    assert area(one, 500) == pytest.approx((4500 + 100 * 30) / 500)
    assert [steps_to(one, level, 400) for level in (0, 10, 20, 31)] == [100, 200, 400, math.inf]
    assert steps_to(one, 20, 399) == math.inf
    assert (final(one, 400), final(one, 300), final(one, 900)) == (30, 20, 30)
    assert last_tenth(curve([899, 900, 1000], [1, 4, 6]), 1000) == (5, 1)
    assert last_tenth(one, 2000) == (30, 0)  # nothing was logged there
    assert area(curve([50], [7]), 100) == 7


def test_the_table_of_a_group_worked_by_hand(tmp_path):
    """Two seeds rise to 10 and 30 in ten straight steps; curves begin at 2 on average and the reference is 20."""
    found = compare(group(tmp_path / "a", [10.0, 30.0]))
    (row,) = found.table
    assert (row["env"], row["agent"], row["seeds"], row["steps"]) == ("CartPole-v1", "dqn", 2, 1000)
    assert row["runs"] == [str(tmp_path / "a" / f"seed{seed}") for seed in (0, 1)]
    assert (row["final_iqm"], row["final_mean"], row["final_median"]) == (20, 20, 20)
    assert (row["final_mean_low"], row["final_mean_high"]) == (10, 30)
    assert row["area_mean"] == pytest.approx(20 * (100 * 0.1 + 900 * 0.55) / 1000)
    assert (row["converged_mean"], row["spread"]) == (pytest.approx(0.95 * 20), pytest.approx(0.05 * 20))
    assert row["spread_over_seeds"] == pytest.approx(np.std([9.5, 28.5], ddof=1))
    assert found.levels["CartPole-v1"] == {
        "start": 2.0, "reference": 20.0, "of": "dqn", "levels": {"50": pytest.approx(11.0), "90": pytest.approx(18.2)},
    }  # fmt: skip
    assert (row["steps_to_50"], row["reached_50"]) == (math.inf, 1)  # 10 never reaches 11; 30 does at step 400
    assert found.json()["table"][0]["steps_to_50"] is None
    given = compare(tmp_path / "a", reference=12.0)
    assert given.levels["CartPole-v1"]["of"] is None
    assert (given.table[0]["steps_to_50"], given.table[0]["reached_50"]) == (500.0, 2)  # 7: at steps 700 and 300


def test_a_reference_below_the_start_is_said(tmp_path):
    found = compare(group(tmp_path / "a", [10.0, 30.0]), reference=1.0)
    said = "no steps to 50 and 90 % are told: the reference 1 is not above 2, where the curves begin on average"
    assert said in str(found).splitlines()
    assert found.table[0]["reached_50"] == 0


# -- groups ----------------------------------------------------------------------------------------------------------


def test_runs_are_grouped_by_preset_settings_and_environment(tmp_path):
    for place, settings in enumerate(({"discount": 0.9}, {"discount": 0.99})):
        group(tmp_path / f"a{place}", [1.0, 2.0], settings=settings)
    group(tmp_path / "b", [1.0, 2.0, 3.0], preset="c51")
    logged(tmp_path / "c", [[1.0, 5.0], [2.0, 6.0]] * 5, seeds=2, preset="drqn")  # both in one run, on the device
    group(tmp_path / "d", [1.0, 2.0], env="Acrobot-v1")
    found = compare([tmp_path])
    assert [(row["env"], row["agent"], row["seeds"]) for row in found.table] == [
        ("Acrobot-v1", "dqn", 2), ("CartPole-v1", "c51", 3), ("CartPole-v1", "dqn discount=0.9", 2),
        ("CartPole-v1", "dqn discount=0.99", 2), ("CartPole-v1", "drqn", 2),
    ]  # fmt: skip
    assert found.table[-1]["final_mean"] == 4.0
    assert found.left_out == []
    assert any("the 2 environments are not averaged" in note for note in found.notes)
    assert found.over_tasks is None


def test_many_settings_that_differ_are_a_digest_and_those_of_the_schedule_do_not_count(tmp_path):
    follows = ["agent.exploration.steps", "log_every"]
    for place in range(2):
        numbers = {"a": place, "b": place, "c": [place, True], "exploration": {"kind": "epsilon-greedy", "steps": 5}}
        group(tmp_path / str(place), [1.0, 2.0], settings=numbers, follows=follows)
    names = {row["agent"] for row in compare(tmp_path).table}
    assert len(names) == 2
    assert all(name.startswith("dqn #") and len(name) == 11 for name in names)
    for seed, steps in enumerate((5, 6)):  # one more step of the schedule is no other agent
        numbers = {"exploration": {"kind": "epsilon-greedy", "steps": steps}}
        logged(tmp_path / f"x/seed{seed}", [1.0] * 9, seed=seed, preset="x", settings=numbers, follows=follows)
    (row,) = compare(tmp_path / "x").table
    assert (row["agent"], row["seeds"]) == ("x", 2)


def test_what_was_chosen_about_an_environment_tells_it_apart(tmp_path):
    for length in (5, 50):
        group(tmp_path / str(length), [1.0, 2.0], env="engram/PassiveTMaze-v0", env_args={"length": length})
    group(tmp_path / "own", [1.0, 2.0], env=None)
    envs = [row["env"] for row in compare(tmp_path).table]
    assert envs[0].startswith("an environment of one's own (")
    assert envs[1:] == ["engram/PassiveTMaze-v0 length=5", "engram/PassiveTMaze-v0 length=50"]


def test_greedy_evaluations_are_used_where_every_run_has_them(tmp_path):
    group(tmp_path / "a", [1.0, 2.0], evaluated=[50.0] * 10)
    found = compare(tmp_path)
    assert found.metrics == {"CartPole-v1": "evaluation_return"}
    assert found.notes[0] == "scores are greedy evaluations"
    assert found.table[0]["final_mean"] == 50
    group(tmp_path / "b", [1.0, 2.0], preset="c51", evaluated=[50.0])
    found = compare(tmp_path)
    assert found.metrics == {"CartPole-v1": "return_mean"}
    assert "because not every run has two greedy evaluations" in found.notes[0]


def test_evaluations_in_different_environments_are_not_compared(tmp_path):
    for place in ("Acrobot-v1", "MountainCar-v0"):
        group(tmp_path / place, [1.0, 2.0], preset=place, evaluated=[50.0] * 10, evaluate_env=place)
    assert "because runs were evaluated in different environments" in compare(tmp_path).notes[0]
    assert compare(tmp_path / "Acrobot-v1").notes[0] == "scores are greedy evaluations in Acrobot-v1 for CartPole-v1"


# -- what is left out ------------------------------------------------------------------------------------------------


def test_each_run_that_cannot_be_compared_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    group(Path("a"), [1.0, 2.0, 3.0])
    logged(Path("short"), [9.0] * 5, seed=7)
    logged(Path("long"), [9.0] * 20, seed=8)
    logged(Path("near"), [4.0] * 11, seed=9)  # one interval of the log more
    logged(Path("silent"), [], seed=3)
    logged(Path("none"), [None] * 10, seed=4)
    logged(Path("twice"), [9.0] * 10, seed=1)
    logged(Path("half"), [[5.0, None]] * 10, seed=5, seeds=2)
    logged(Path("alone"), [9.0] * 10, preset="c51")
    Path("broken").mkdir()
    Path("broken/run.json").write_text("{")
    paths = ["a", "a/seed0", "short", "long", "near", "silent", "none", "twice", "half", "alone", "broken"]
    found = compare(paths)
    (row,) = found.table
    assert row["runs"] == ["a/seed0", "a/seed1", "a/seed2", "half", "near"]
    assert [sentence.split(";")[0] for sentence in found.left_out] == [
        "silent has logged no return yet",
        "none has logged no return yet",
        found.left_out[2].split(";")[0],
        "short has 500 steps, others of CartPole-v1 have 1,000",
        "long has 2,000 steps, others of CartPole-v1 have 1,000",
        "twice repeats seed 1 of a/seed1",
        "seed 6 of half has logged no return yet",
        "c51 on CartPole-v1 has 1 seed, and an interval needs 2",
    ]
    assert found.left_out[2].startswith("broken/run.json is damaged: ")
    assert all(";" in sentence and sentence.count("\n") == 0 for sentence in found.left_out)


def test_runs_that_were_asked_for_the_same_steps_are_compared_wherever_they_ended(tmp_path):
    """Agents from rollouts end with a whole rollout; what they logged beyond is not counted."""
    logged(tmp_path / "a0", [1.0] * 10, steps=1_000)
    logged(tmp_path / "a1", [1.0] * 10, steps=1_000, seed=1)
    for seed in (0, 1):
        logged(tmp_path / f"b{seed}", [2.0, 3.0, 90.0], every=500, steps=1_000, seed=seed, preset="pqn")
    for seed in (0, 1):  # whose last evaluation lies where the last rollout ended
        logged(tmp_path / f"c{seed}", [1.0, 1.0, 5.0], every=360, steps=1_000, seed=seed, preset="ppo")
    found = compare(tmp_path)
    assert found.left_out == []
    assert {row["agent"]: row["converged_mean"] for row in found.table}["ppo"] == 5.0
    found = compare([tmp_path / name for name in ("a0", "a1", "b0", "b1")])
    assert {row["agent"]: (row["steps"], row["final_mean"]) for row in found.table} == {
        "dqn": (1_000, 1.0),
        "pqn": (1_000, 3.0),
    }


def test_where_nothing_is_left_the_first_reason_is_told(tmp_path):
    logged(tmp_path / "r", [1.0] * 10)
    with pytest.raises(SpecError, match="nothing is left to compare: dqn on CartPole-v1 has 1 seed") as refused:
        compare(tmp_path / "r")
    assert "more like it" not in str(refused.value)


@pytest.mark.parametrize(
    ("runs", "more", "error", "said"),
    [
        ([], {}, SpecError, "no run was given"),
        (["gone"], {}, CheckpointError, "there is no run directory 'gone'"),
        (["empty"], {}, CheckpointError, "empty holds no run"),
        (["a"], {"seed": -1}, SpecError, "seed is -1; give a whole number, at least 0"),
        (["a"], {"resamples": 0}, SpecError, "resamples is 0; give a whole number, at least 1"),
        (["a"], {"reference": math.nan}, SpecError, "reference is nan; give a number"),
        (["a"], {"reference": {"Cartpole-v1": 1}}, UnknownName, "did you mean 'CartPole-v1'?"),
        (["a"], {"normalize": (5, 5)}, SpecError, "give two numbers, the lower first, or 'minmax'"),
        (["a"], {"normalize": "max"}, SpecError, "normalize is 'max'"),
        (["a"], {"normalize": {"Pong": (0, 1)}}, UnknownName, "normalize is given for 'Pong', and no run is of it"),
    ],
)
def test_a_wrong_request_is_a_sentence(tmp_path, monkeypatch, runs, more, error, said):
    monkeypatch.chdir(tmp_path)
    group(Path("a"), [1.0, 2.0])
    Path("empty").mkdir()
    with pytest.raises(error) as refused:
        compare(runs, **more)
    assert said in str(refused.value)
    assert isinstance(refused.value, EngramError)


def test_logs_and_plans_that_somebody_changed_end_nothing(tmp_path):
    group(tmp_path / "a", [1.0, 2.0], env_args=[1], follows="x", log_every="often", recipe=3, evaluate_env=5)
    with (tmp_path / "a/seed0/metrics.jsonl").open("a") as file:
        file.write('{"step": 1100, "return_mean": 1e250, "evaluation_return": {"x": 1}}\n')
        file.write('{"step": 1' + "0" * 400 + ', "return_mean": 5}\n')
    (row,) = compare(tmp_path).table
    assert (row["final_mean"], row["agent"]) == (1.5, "dqn recipe=3")


# -- several environments --------------------------------------------------------------------------------------------


def two_tasks(folder: Path) -> Path:
    """Two agents, two seeds each, on two environments."""
    group(folder / "a", [100.0, 300.0])
    group(folder / "b", [-90.0, -80.0], env="Acrobot-v1")
    group(folder / "c", [500.0, 300.0], preset="c51")
    group(folder / "d", [-100.0, -70.0], preset="c51", env="Acrobot-v1")
    return folder


def test_environments_are_averaged_after_normalisation_only(tmp_path):
    runs = two_tasks(tmp_path)
    found = compare(runs, normalize={"CartPole-v1": (0, 500), "Acrobot-v1": (-100, -60)})
    over = found.over_tasks
    assert over is not None
    assert over["scales"] == {"Acrobot-v1": [-100, -60], "CartPole-v1": [0, 500]}
    c51, dqn = over["table"]
    assert (c51["agent"], dqn["agent"]) == ("c51", "dqn")
    assert c51["final_mean"] == pytest.approx(((0 + 0.75) / 2 + (1 + 0.6) / 2) / 2)
    assert dqn["final_iqm"] == pytest.approx((0.25 + 0.5) / 2)  # of 0.2, 0.25, 0.5, 0.6
    (pair,) = over["pairs"]
    assert (pair["agent"], pair["other"]) == ("c51", "dqn")
    assert pair["probability"] == pytest.approx((2 / 4 + 3.5 / 4) / 2)  # -70 wins 2, 500 wins 2, 300 wins 1.5
    assert over["profile"]["agents"]["dqn"]["share"][0] == 1.0  # above 0, the lowest score
    assert not any("not averaged" in sentence for sentence in [*found.notes, *found.left_out])


def test_the_extremes_of_all_groups_normalise_where_they_are_asked_for(tmp_path):
    found = compare(two_tasks(tmp_path), normalize=MINMAX)
    assert found.over_tasks is not None
    assert found.over_tasks["scales"] == {"Acrobot-v1": [-100, -70], "CartPole-v1": [100, 500]}
    assert any("change with what is compared" in note for note in found.notes)


def test_what_is_not_averaged_over_environments_is_said(tmp_path):
    runs = two_tasks(tmp_path)
    group(runs / "e", [1.0, 2.0, 3.0], preset="drqn")
    group(runs / "f", [7.0, 7.0], env="MountainCar-v0")
    found = compare(runs, normalize=MINMAX)
    assert "MountainCar-v0 is not averaged: all its final returns are 7" in found.left_out
    assert "drqn is not averaged over environments: it has no runs on Acrobot-v1" in found.left_out
    found = compare(runs, normalize={"CartPole-v1": (0, 500), "Acrobot-v1": (-100, 0)})
    assert (
        "MountainCar-v0 is not averaged: it has no LOW,HIGH; add --normalize 'MountainCar-v0=LOW,HIGH'"
        in found.left_out
    )
    group(runs / "a", [1.0, 2.0, 3.0])
    assert any(note.startswith("numbers of seeds differ") for note in compare(runs, normalize=MINMAX).notes)


def test_few_seeds_are_said(tmp_path):
    group(tmp_path / "a", [1.0] * 9)
    assert any(note.startswith("9 seeds are few") for note in compare(tmp_path).notes)
    group(tmp_path / "a", [1.0] * 10)
    assert not any("are few" in note for note in compare(tmp_path).notes)


# -- the rest --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_in_any_order_of_runs(tmp_path):
    runs = two_tasks(tmp_path)
    one = compare(runs, normalize=MINMAX, seed=3).json()
    assert compare([runs / name for name in "dbca"], normalize=MINMAX, seed=3).json() == one
    assert compare(runs, normalize=MINMAX, seed=4).json() != one
    alone = compare([runs / "a", runs / "b"], seed=3, reference=1000.0)
    intervals = {row["env"]: row["final_iqm_low"] for row in one["table"] if row["agent"] == "dqn"}
    assert {row["env"]: row["final_iqm_low"] for row in alone.table} == intervals  # whatever it is compared with
    assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_a_picture_and_a_page_are_written(tmp_path):
    runs = two_tasks(tmp_path / "<b>")
    group(runs / "_$x$", [5.0, 6.0], preset="_hidden $x$")
    found = compare(runs, normalize=MINMAX)
    picture = found.plot(tmp_path / "p.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
    page = found.html(tmp_path / "p.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert 'src="data:image/png;base64,' in page
    assert not any(word in page for word in ("http:", "https:", "<script", "<link", "url(", "@import"))
    assert "_hidden $x$" in page
    assert '<meta name="viewport"' in page, "else a telephone shows a page as wide as a desk's"
    assert page.count('<div class="wide">') == page.count("<table>") + page.count("<img")


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    found = compare(group(tmp_path / "a", [1.0, 2.0]))
    for write in (found.plot, found.html):
        with pytest.raises(WriteFailed, match=r"gone"):
            write(tmp_path / "gone" / "file")


def test_generalisation_is_the_gap_between_two_environments(tmp_path):
    with Trainer("engram/CartPole-v1", "dqn", run=tmp_path / "r", steps=300, seeds=2) as trainer:
        trainer.learn()
    found = engram.compare(tmp_path / "r", test_env="engram/UnscaledCartPole-v0", episodes=2)
    (row,) = found.table
    with engram.load(tmp_path / "r") as agent:
        here, there = (agent.evaluate(2, env=env).per_seed for env in (None, "engram/UnscaledCartPole-v0"))
    gaps = np.array(here) - np.array(there)
    assert (row["train_return"], row["test_return"]) == (np.mean(here), np.mean(there))
    assert row["gap_mean"] == pytest.approx(gaps.mean())
    assert row["gap_mean_low"] <= row["gap_mean"] <= row["gap_mean_high"]
    assert any("gap" in line for line in str(found).splitlines())
    refused = engram.compare(tmp_path / "r", test_env="engram/Acrobot-v1", episodes=2)
    assert "gap_mean" not in refused.table[0]
    assert refused.left_out[0].startswith(f"{tmp_path / 'r'} is left out of generalisation: ")
