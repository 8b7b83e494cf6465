"""`engram tune` and `engram.tune` with real agents, as small as they can be."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.logged import logged

import engram
from engram import specs
from engram.agents.presets import preset
from engram.agents.unread import what_is_read
from engram.cli.commands import main
from engram.comparison.compare import compare
from engram.envs.device import make_device
from engram.errors import EngramError
from engram.run.folders import holds_run, plan_of
from engram.tuning import trial
from engram.tuning.result import Tuned
from engram.tuning.space import Choice, Number
from engram.tuning.study import Row, Study, Taken, Task
from engram.tuning.trial import Left, Listener, Unscored, parts_of, play, score
from engram.tuning.tune import task_of, tune

DEVICE = "engram/CartPole-v1"
SMALL: dict[str, Any] = {"encoder.widths": (8,), "replay.batch_size": 8, "replay.capacity": 300, "replay.start": 20}
RUN: dict[str, Any] = {"preset": "dqn", "steps": 60, "seeds": 2, "evaluate_every": 20, "evaluate_episodes": 1}


def search(folder: Path, trials: int, env: str = DEVICE, **given: Any) -> Tuned:
    return tune(env, study=folder, trials=trials, search=["discount=0.5..0.9"], overrides=SMALL, **(RUN | given))


@pytest.fixture(scope="module", autouse=True)
def kept_programs() -> Iterator[None]:
    """Trials forget their programs, which other tests still need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engram.tuning.tune.forget_programs", lambda: None)
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return search(tmp_path_factory.mktemp("study"), 2)


def test_trials_are_runs_that_are_scored_as_compare_scores_convergence(found: Tuned):
    assert [trial["outcome"] for trial in found.trials] == ["complete", "complete"]
    folders = [found.folder / trial["folder"] for trial in found.trials]
    assert all(map(holds_run, folders))
    table = {row["runs"][0]: row["converged_mean"] for row in compare(folders).table}
    assert [trial["value"] for trial in found.trials] == [pytest.approx(table[str(folder)]) for folder in folders]
    first, second = (engram.info(folder) for folder in folders)
    assert (first["seed"], second["seed"], second["seeds"]) == (0, 2, 2)
    assert first["agent"]["discount"] == 0.99
    assert second["agent"]["discount"] == float(found.trials[1]["settings"]["discount"])
    assert found.picture.exists()


def test_the_same_call_again_runs_nothing_more(found: Tuned):
    said: list[str] = []
    again = search(found.folder, 2, tell=said.append, resume=True)
    assert again.json() == found.json()
    assert any("the study has 2 of 2 trials" in line for line in said)
    assert said[0] == "trial 0 runs the default discount=0.99, which lies outside of the range that is searched"


def test_a_trial_that_is_left_goes_on_where_it_was(tmp_path: Path):
    task, _ = task_of(DEVICE, "dqn", ["discount"], "median", SMALL, {**RUN, "seeds": 1})
    reported: dict[int, float] = {}

    def report(point: int, value: float) -> bool:
        reported[point] = value
        return False

    study = Study(tmp_path, task)
    taken = study.take(1)
    assert taken is not None
    with pytest.raises(Left):
        play(task, taken, report, lambda: 2 in reported)
    assert engram.info(taken.folder)["step"] == 40
    value = play(task, taken, report, lambda: False)
    assert list(reported) == [1, 2, 3]
    assert value == pytest.approx(reported[3])  # of three evaluations the last alone lies in the last tenth
    (taken.folder / "checkpoints").rename(tmp_path / "gone")  # as if it had been killed before the first save
    assert play(task, taken, report, lambda: False) == pytest.approx(value)


def task(seeds: int, env: str = "CartPole-v1") -> Task:
    space = (Number("discount", 0.5, 0.9, whole=False, log=False), Choice("n_step", ("1", "3")))
    run = {"preset": "dqn", "steps": 1000, "seeds": seeds}
    return Task(env, run, {}, space, {"discount": 0.9, "n_step": "1"}, points=10)


def test_a_trial_leaves_out_what_waits_for_a_part_that_it_does_not_have(tmp_path: Path):
    fixed = SMALL | {"recall.n_step": 3}
    words = ["external=none|episodic", "recall.unit_keys=true|false"]
    with pytest.raises(EngramError, match=r"recall.n_step = 3 was given, but nothing reads it while external = none"):
        task_of(DEVICE, "dqn", ["discount"], "median", {**SMALL, "recall.n_step": 3}, RUN)
    task, _ = task_of(DEVICE, "dqn", words, "median", fixed, {**RUN, "seeds": 1})
    for number, kind in enumerate(("none", "episodic")):
        chosen = {"external": kind, "recall.unit_keys": "false"}
        claim: Any = None
        taken = Taken(number, chosen, 0, tmp_path / f"trial{number}", claim)
        play(task, taken, lambda point, value: False, lambda: False)
        agent = plan_of(parts_of(task, taken)[0].folder)["agent"]
        assert (agent["external"]["kind"], agent["recall"]["n_step"]) == (kind, 3 if kind == "episodic" else 20)
    made = tune(DEVICE, study=tmp_path / "study", trials=1, search=words, overrides=fixed, **{**RUN, "seeds": 1})
    assert [trial["outcome"] for trial in made.trials] == ["complete"]  # of the defaults, without a memory
    assert "recall" not in made.command
    assert main(["tune", DEVICE, "--preset", "dqn", "--search", words[0], "--show", "recall.n_step=3"]) == 0


def test_seeds_of_a_host_environment_are_runs_of_their_own(tmp_path: Path):
    claim: Any = None
    taken = Taken(3, {}, 6, tmp_path / "trial3", claim)
    assert [(part.folder.name, part.seed, part.seeds) for part in parts_of(task(2), taken)] == [
        ("seed6", 6, 1), ("seed7", 7, 1),
    ]  # fmt: skip
    assert [(part.folder.name, part.seeds) for part in parts_of(task(2, DEVICE), taken)] == [("trial3", 2)]


class Stub:
    """What a listener reads of a trainer."""

    class plan:
        evaluate_every, steps = 100, 1000

    def __init__(self, steps: int):
        self.steps = steps


def test_points_of_later_seeds_follow_those_of_the_first_and_are_means_over_both(tmp_path: Path):
    logged(tmp_path, [0.0] * 10, evaluated=[float(value) for value in range(10)])
    reported: list[tuple[int, float]] = []

    def report(point: int, value: float) -> bool:
        reported.append((point, value))
        return True

    before = list(trial.curves([tmp_path]))
    listener = Listener(task(2), 1, before, report, lambda: False, last=True)
    evaluation = engram.Evaluation.of([[5.0]], [9])
    assert listener.on_evaluate(Stub(304), evaluation) is False  # a cycle of the device may pass the very step
    assert reported == [(13, pytest.approx((2.04 + 5) / 2))]
    assert listener.pruned
    listener.pruned = False
    assert listener.on_evaluate(Stub(1000), evaluation) is True  # it is over: nothing is won by giving it up
    asked = Listener(task(2), 0, [], report, lambda: True, last=True)
    assert asked.on_start(Stub(0)) is False


def test_the_score_is_the_mean_over_seeds_of_the_last_tenth(tmp_path: Path):
    for seed, high in enumerate((10.0, 20.0)):
        values = np.linspace(0, high, 10)
        logged(tmp_path / f"seed{seed}", [0.0] * 10, evaluated=values.tolist(), seed=seed)
    expected = np.mean([(np.linspace(0, high, 10)[8:]).mean() for high in (10.0, 20.0)])
    assert score([tmp_path / "seed0", tmp_path / "seed1"], task(2)) == pytest.approx(expected)
    logged(tmp_path / "seed2", [0.0] * 10, seed=2)
    with pytest.raises(Unscored, match="seed 2 has no evaluation"):
        score([tmp_path / "seed2"], task(1))


# -- the command -----------------------------------------------------------------------------------------------------

WORDS = ["tune", DEVICE, "--preset", "dqn", "--steps", "60", "--seeds", "2", "--evaluate-every", "20"]
WORDS += ["--evaluate-episodes", "1", "encoder.widths=8", "replay.batch_size=8", "replay.capacity=300"]
WORDS += ["replay.start=20", "--search", "discount=0.5..0.9"]


def test_the_command_tells_what_was_found(found: Tuned, capsys: pytest.CaptureFixture[str]):
    assert main([*WORDS, "--study", str(found.folder), "--trials", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert found.command in lines
    assert f"{found.picture} shows the trials; engram info {found.folder} tells of each" in lines
    assert main([*WORDS, "--study", str(found.folder), "--trials", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == found.json()["best"]


def test_the_space_is_shown_without_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", DEVICE, "--preset", "dqn", "--show", "discount=0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == "optimizer.learning_rate" and "default: 0.001" in line for line in lines)
    assert not any(line.startswith("discount") for line in lines)
    assert not list(tmp_path.iterdir())


def test_minibatches_that_the_environments_rule_out_are_not_searched():
    """With a working memory they are of whole environments."""
    found = {}
    for name, envs in (("ppo-rnn", 8), ("ppo-rnn", 12), ("ppo", 8)):
        task, _ = task_of(DEVICE, name, ["rollout.minibatches"], "median", None, {"envs": envs, "steps": 2_000})
        found[name, envs] = task.space[0].values
    assert found["ppo-rnn", 8] == ("1", "2", "4", "8")
    assert found["ppo-rnn", 12] == ("1", "2", "4", "6")  # 6 is its own
    assert found["ppo", 8] == ("1", "2", "4", "8", "16", "32")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune", DEVICE, "--search", "discont"], "did you mean 'discount'?"),
        (["tune", DEVICE, "--search", "discount=0..2"], "discount = 2.0 is out of range; expected at most 1"),
        (["tune", DEVICE, "--preset", "dqm"], "did you mean 'dqn'?"),
        (["tune", "engram/CartPol-v1"], "did you mean 'engram/CartPole-v1'?"),
        (["tune", DEVICE, "--evaluate-every", "0"], "trials are scored by their evaluations"),
        (["tune", DEVICE, "--gamma", "0.9"], "it is called 'discount' here"),
        (["tune", DEVICE, "--run", "x"], "engram tune has no flag '--run'"),
        (["tune", DEVICE, "--pruning", "mean"], "expected median or none"),
        (["tune", DEVICE, "--timeout", "0"], "expected more than 0 seconds"),
        (["tune", DEVICE, "--keep", "none"], "expected all or best"),
        (["tune", DEVICE, "--resume", "--study", "nowhere"], "there is no study in nowhere to go on with"),
        (["tune", DEVICE, "discount=7"], "discount = 7.0 is out of range"),
    ],
)  # fmt: skip
def test_wrong_words_are_answered_in_a_sentence_and_leave_nothing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_environment_than_that_of_the_study_is_refused(found: Tuned):
    with pytest.raises(EngramError, match="holds a study with env = 'engram/CartPole-v1', not 'CartPole-v1'"):
        search(found.folder, 2, env="CartPole-v1")
    with pytest.raises(EngramError, match="is not for the trials of a study"):
        search(found.folder, 2, save_every=1)
    with pytest.raises(EngramError, match="name one by its id"):
        task_of(object(), None, [], "median", None, {})


# -- whole processes -------------------------------------------------------------------------------------------------


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "engram", *WORDS, "--study", str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_several_processes_share_a_study(tmp_path: Path):
    done = start(tmp_path, "--trials", "6", "--jobs", "2")
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    assert err.count("trial ") == 6
    assert {row.outcome for row in rows(tmp_path)} <= {"complete", "pruned"}
    assert len(rows(tmp_path)) == 6
    assert "6 trials: " in out


def rows(folder: Path) -> list[Row]:
    return Study(folder, Task.from_json(json.loads((folder / "study.json").read_text()))).rows


def until(what: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


LONG = ["--trials", "4", "--steps", "200000", "--evaluate-every", "100000"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_was_learned(tmp_path: Path, jobs: str):
    running = start(tmp_path, *LONG, "--jobs", jobs)
    until(lambda: list(tmp_path.glob("trial0/metrics.jsonl")))
    running.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 75, err
    assert "the same command goes on" in err
    assert jobs == "2" or time.monotonic() - begun < 10  # the second process may be compiling
    assert engram.info(tmp_path / "trial0")["step"] > 0
    assert {row.outcome for row in rows(tmp_path)} == {"stopped"}


@pytest.mark.slow
def test_processes_stop_when_the_first_one_is_killed(tmp_path: Path):
    running = start(tmp_path, *LONG, "--jobs", "2")
    until(lambda: list(tmp_path.glob("trial0/metrics.jsonl")))
    running.kill()
    until(lambda: {row.outcome for row in rows(tmp_path)} == {"stopped"}, seconds=60)


@pytest.mark.slow
def test_a_study_that_was_killed_ends_as_one_that_was_not(tmp_path: Path):
    words = ["--trials", "3", "--steps", "20000", "--evaluate-every", "5000"]
    whole = start(tmp_path / "whole", *words)
    killed = start(tmp_path / "killed", *words)
    until(lambda: list(tmp_path.glob("killed/trial1/checkpoints/*/manifest.json")))
    time.sleep(1)
    killed.kill()
    killed.communicate()
    assert rows(tmp_path / "killed")[1].outcome == "stopped"
    again = start(tmp_path / "killed", *words)
    for one in (whole, again):
        out, err = one.communicate(timeout=600)
        assert one.returncode == 0, err
    assert "trial 0:" not in out  # it was over
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_the_line_to_train_with_keeps_what_turns_something_off():
    """`attention-dqn` looks at entries again; without a memory that must be turned off by name."""
    agent = preset("attention-dqn", make_device(DEVICE).observation_space, 1_000)
    off = {"external": "none", "bootstrap": "plain", "recall.refresh": "0", "recall.n_step": "3", "discount": "0.9"}
    kept = what_is_read(agent, off)
    assert kept == {name: value for name, value in off.items() if name != "recall.n_step"}
    assert not specs.override_all(agent, kept).has_external
    recurrent = preset("drqn", make_device(DEVICE).observation_space, 1_000)
    off = {"working": "none", "replay.window": "1", "replay.align": "false"}
    assert list(what_is_read(recurrent, off)) == ["working", "replay.window"]
    assert list(what_is_read(recurrent, off, keep=("replay.align",))) == list(off)
