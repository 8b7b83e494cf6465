"""The logic of a study, with a made-up score in place of learning."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engram.errors import CheckpointError, EngramError, EnvironmentFault, LearningFault, SpecError
from engram.tuning.result import Tuned
from engram.tuning.shared import JOURNAL
from engram.tuning.space import Choice, Number
from engram.tuning.study import Study, Taken, Task
from engram.tuning.trial import GivenUp, Left
from engram.tuning.tune import work

SPACE = (Number("discount", 0.5, 0.99, whole=False, log=False), Choice("n_step", ("1", "2", "3")))
TASK = Task(
    "engram/CartPole-v1", {"preset": "dqn", "steps": 900, "seeds": 2}, {"double": "true"}, SPACE,
    {"discount": 0.9, "n_step": "1"}, points=9, seed=5,
)  # fmt: skip


def score(taken: Taken) -> float:
    return 10 * float(taken.settings.get("discount", 0.9)) + int(taken.settings.get("n_step", 1))


def player(task, taken, report, asked) -> float:
    return score(taken)


def go(study: Study, trials: int, play: Callable = player, asked: Callable[[], bool] = lambda: False) -> list[str]:
    said: list[str] = []
    work(study, trials, asked, play, said.append)
    return said


def told(study: Study) -> list[tuple]:
    return [(row.number, row.outcome, row.value, row.settings, row.seed) for row in study.rows]


def test_trial_0_runs_the_defaults_and_the_best_is_told_beside_it(tmp_path: Path):
    study = Study(tmp_path, TASK)
    said = go(study, 12)
    assert said[0] == "trial 0: 10 (best 10); the defaults"
    assert [row.default for row in study.rows] == [True] + [False] * 11
    assert [row.seed for row in study.rows] == [5 + 2 * number for number in range(12)]
    found = Tuned(study)
    assert found.best is not None
    assert found.best["value"] == max(row.value for row in study.rows if row.value is not None)
    assert found.gain == pytest.approx(found.best["value"] - 10)
    settings = " ".join(f"{path}={text}" for path, text in found.best["settings"].items())
    assert found.command == f"engram train engram/CartPole-v1 --preset dqn --steps 900 --seed 29 double=true {settings}"
    assert set(found.importance) == {"discount", "n_step"}
    assert found.json()["unseen"] == 29
    assert found.plot().read_bytes()[:4] == b"\x89PNG"
    assert "12 trials: 12 complete" in str(found)


def test_a_study_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path):
    whole = Study(tmp_path / "a", TASK)
    go(whole, 13)

    def stops_once(task, taken, report, asked):
        if taken.number in (4, 11) and not (tmp_path / f"left{taken.number}").exists():
            (tmp_path / f"left{taken.number}").touch()
            raise Left
        return score(taken)

    for _ in range(3):
        go(Study(tmp_path / "b", TASK), 13, stops_once)
    assert told(Study(tmp_path / "b", TASK)) == told(whole)
    assert len({str(row.settings) for row in whole.rows}) == 13  # no draw is repeated


def test_a_trial_without_an_owner_is_gone_on_with_and_one_with_an_owner_is_not(tmp_path: Path):
    ours, theirs = Study(tmp_path, TASK), Study(tmp_path, TASK)
    first, second = ours.take(3), theirs.take(3)
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (0, 1)
    assert [row.outcome for row in ours.rows] == ["running", "running"]
    second.claim.release()  # as if it had been killed
    assert [row.outcome for row in ours.rows] == ["running", "stopped"]
    again = ours.take(3)
    assert again is not None
    assert (again.number, again.settings) == (1, second.settings)
    third = theirs.take(3)
    assert third is not None
    assert third.number == 2
    assert ours.take(3) is None


def test_a_trial_that_was_killed_before_it_began_counts_for_nothing(tmp_path: Path):
    study = Study(tmp_path, TASK)
    study._study.ask()  # the process ends here
    go(study, 3)
    assert [row.number for row in study.rows] == [1, 2, 3]
    assert study.rows[0].default


def test_a_line_that_a_kill_cut_short_is_taken_out_of_the_journal(tmp_path: Path):
    go(Study(tmp_path, TASK), 2)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write('{"op_code": 4, "wor')
    go(Study(tmp_path, TASK), 4)
    assert [row.outcome for row in Study(tmp_path, TASK).rows] == ["complete"] * 4


@pytest.mark.parametrize("line", ["{", "7", '{"op_code": 99, "worker_id": "x"}', '{"op_code": 4}'])
def test_a_damaged_journal_is_refused_in_a_sentence(tmp_path: Path, line: str):
    Study(tmp_path, TASK)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write(f"{line}\n{line}\n")
    with pytest.raises(CheckpointError, match=r"journal\.jsonl is damaged .* restore it from a copy"):
        Study(tmp_path, TASK)


def curve(task, taken, report, asked) -> float:
    """Rises in straight steps. The sixth trial stays low; the seventh too, but for a high first evaluation."""
    high = 2.0 if taken.number < 5 else 0.5
    for point in range(1, task.points + 1):
        value = 3.0 if taken.number == 6 and point == 1 else high * point / task.points
        if report(point, value):
            raise GivenUp
    return high


def test_a_trial_below_the_median_is_given_up_after_a_third(tmp_path: Path):
    study = Study(tmp_path, TASK)
    go(study, 7, curve)
    assert [row.outcome for row in study.rows] == ["complete"] * 5 + ["pruned", "complete"]
    assert study.rows[5].seen == pytest.approx(0.5 * 3 / 9)
    assert "below the median" in str(study.rows[5].why)
    free = Study(tmp_path / "free", replace(TASK, pruning="none"))
    go(free, 7, curve)
    assert [row.outcome for row in free.rows] == ["complete"] * 7


def test_what_settings_are_to_blame_for_ends_the_trial_alone(tmp_path: Path):
    faults = {
        1: LearningFault("the loss is infinite"), 2: SpecError("it does not fit"),
        3: RuntimeError("RESOURCE_EXHAUSTED: out of memory"), 4: MemoryError(),
    }  # fmt: skip

    def play(task, taken, report, asked):
        if taken.number in faults:
            raise faults[taken.number]
        return score(taken)

    study = Study(tmp_path, TASK)
    said = go(study, 6, play)
    assert [row.outcome for row in study.rows] == ["complete", "diverged", "refused", "failed", "failed", "complete"]
    assert study.rows[1].why == "the loss is infinite"
    assert said[2].startswith("trial 2: refused: it does not fit (best 10); discount=")
    assert "6 trials: 2 complete, 1 diverged, 1 refused, 2 failed" in str(Tuned(study))
    Tuned(study).plot()


def test_defaults_that_are_refused_and_other_faults_end_the_study(tmp_path: Path):
    def refused(task, taken, report, asked):
        raise SpecError("it does not fit")

    def broken(task, taken, report, asked):
        raise EnvironmentFault("it is broken")

    study = Study(tmp_path, TASK)
    with pytest.raises(SpecError):
        go(study, 2, refused)
    with pytest.raises(EnvironmentFault):
        go(study, 2, broken)
    assert [row.outcome for row in study.rows] == ["stopped"]
    assert "no trial is complete yet" in str(Tuned(study))
    go(study, 2)
    assert [row.outcome for row in study.rows] == ["complete", "complete"]


def test_checkpoints_of_all_but_the_best_are_dropped(tmp_path: Path):
    study = Study(tmp_path, TASK)
    go(study, 4)
    taken = study.take(5)  # at work: its checkpoints are needed
    assert taken is not None
    for number, place in enumerate(("", "seed7", "seed9", "seed11", "seed13")):
        (tmp_path / f"trial{number}" / place / "checkpoints").mkdir(parents=True)
        (tmp_path / f"trial{number}" / place / "metrics.jsonl").touch()
    study.drop_checkpoints()
    best = max(study.rows[:4], key=lambda row: row.value or 0).number
    kept = {int(path.relative_to(tmp_path).parts[0][5:]) for path in tmp_path.rglob("checkpoints")}
    assert kept == {best, 4}
    assert len(list(tmp_path.rglob("metrics.jsonl"))) == 5


def test_nothing_is_begun_once_a_stop_was_asked_for(tmp_path: Path):
    study = Study(tmp_path, TASK)
    go(study, 3, asked=lambda: study.count == 2)
    assert study.count == 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(TASK, env="CartPole-v1"), "holds a study with env = 'engram/CartPole-v1', not 'CartPole-v1'"),
        (replace(TASK, run=TASK.run | {"preset": "c51"}), "with preset = 'dqn', not 'c51'"),
        (replace(TASK, run=TASK.run | {"steps": 1}), "with steps = 900, not 1"),
        (replace(TASK, run=TASK.run | {"envs": 2}), "has envs differently"),
        (replace(TASK, settings={}), "has double differently"),
        (replace(TASK, space=SPACE[:1]), "searches n_step differently"),
        (replace(TASK, seed=0), "with seed = 5, not 0"),
    ],
)  # fmt: skip
def test_a_folder_of_another_study_is_refused(tmp_path: Path, other: Task, said: str):
    Study(tmp_path, TASK)
    Study(tmp_path, TASK)
    with pytest.raises(SpecError) as refused:
        Study(tmp_path, other)
    assert said in str(refused.value)
    assert "another folder (--study DIR)" in str(refused.value)


def test_a_file_that_is_no_study_is_refused(tmp_path: Path):
    for content in ("{", "[]", '{"format": "engram-study/0"}'):
        (tmp_path / "study.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"study\.json"):
            Study(tmp_path, TASK)


def test_without_optuna_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EngramError, match=r"tuning needs optuna, .* uv sync --extra tune"):
        Study(tmp_path, TASK)
