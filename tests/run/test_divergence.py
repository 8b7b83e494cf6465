"""Divergence is said while it happens, and sound learning never is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import engram
from engram.errors import LearningFault
from engram.run.course import Course
from engram.run.divergence import DivergenceWatch


def line(loss: Any, value: Any, largest: Any = 20.0, least: Any = None) -> dict[str, Any]:
    return {"loss": loss, "q_mean": value, "return_min": -largest if least is None else least, "return_max": largest}


def test_values_that_returns_explain_are_no_divergence():
    watch = DivergenceWatch()
    for loss, value in ((None, None), (0.1, 5.0), (1e3, 1_999.0), (3.9e6, -1_999.0)):
        assert watch.look(line(loss, value)) is None


def test_large_rewards_have_large_losses():
    """Returns of 1e6 have squared errors of 1e12, which is nothing to speak of."""
    assert DivergenceWatch().look(line(1e12, 1e6, 1e6)) is None
    assert DivergenceWatch().look(line(1e12, 1e6, 0.5, -1e6)) is None


@pytest.mark.parametrize(("loss", "value"), [(0.1, 2_001.0), (0.1, -2_001.0), (4.1e6, 1.0)])
def test_it_is_said_once_with_the_numbers_and_the_way_out(loss: float, value: float):
    watch = DivergenceWatch()
    said = watch.look(line(loss, value))
    assert said is not None
    assert f"the loss is {loss:.3g} and Q is {abs(value):.3g}, and no return was larger than 20; lower" in said
    assert watch.look(line(loss, value)) is None


def test_one_seed_of_several_is_enough():
    assert DivergenceWatch().look(line([0.1, 4.1e6], [1.0, 1.0], [20.0, None], [-3.0, None]))
    assert DivergenceWatch().look(line([0.1, 0.2], [1.0, 1.0], [20.0, None], [-3.0, None])) is None


def test_a_task_without_an_end_is_measured_by_its_first_losses():
    unknown = {"return_min": None, "return_max": None}
    watch = DivergenceWatch()
    for loss in (None, 4.0, 9.0, 2.0, 10.0, 8.0e5):
        assert watch.look({"loss": loss, "q_mean": 8.0e4, **unknown}) is None
    assert watch.look({"loss": 8.2e5, "q_mean": 1.0, **unknown})


@pytest.mark.parametrize(("loss", "value"), [(0.1, 2.1e7), (4.1e14, 1.0)])
def test_where_there_is_no_way_back_the_run_ends(loss: float, value: float):
    with pytest.raises(LearningFault, match="learning has diverged: the loss is .* start again"):
        DivergenceWatch().look(line(loss, value))


def large(loss: float, value: float, updates: int = 500, total: float = 1e6) -> dict[str, Any]:
    return {**line(loss, value, total), "return_mean": total, "length_mean": 10.0, "updates": updates}


def test_rewards_that_q_does_not_reach_are_named_once_with_the_way_out():
    watch = DivergenceWatch()
    assert watch.look(large(2.7e5, 3.0, updates=20)) is None, "Q has had no time to move"
    said = watch.look(large(2.7e5, 77.2))
    assert said is not None
    assert "a step earns about 1e+05, Q is 77.2 and the loss 2.7e+05; set reward.normalize=true" in said
    assert watch.look(large(2.7e5, 80.0)) is None


@pytest.mark.parametrize(
    "fine", [large(2.7e5, 9e5), large(0.3, 2.0), large(5.0, 3.0, total=500.0), line(1e5, 3.0, 1e6)],
    ids=["Q is there", "normalised", "small rewards", "no episode has ended"],
)  # fmt: skip
def test_rewards_are_not_called_too_large_without_a_reason(fine: dict[str, Any]):
    assert DivergenceWatch().look(fine) is None


def test_an_agent_without_q_is_judged_by_its_loss_alone():
    """An actor-critic that plays well has large losses of its value, and nothing that could be called Q."""
    good = {
        "loss": 60.0,
        "return_mean": 2e4,
        "return_min": 2e4,
        "return_max": 2e4,
        "length_mean": 100,
        "updates": 5_000,
    }
    watch = DivergenceWatch(has_target=False)
    assert watch.look({**good, "entropy": 0.1}) is None
    said = watch.look({**good, "loss": 1e13})
    assert said == (
        "learning diverges: the loss is 1e+13, and no return was larger than 2e+04; lower optimizer.learning_rate or "
        "optimizer.clip_norm, or set reward_clip, and start again"
    )


@pytest.mark.parametrize(("env", "rate"), [("CartPole-v1", 1e4), ("CartPole-v1", 1e10), ("engram/CartPole-v1", 1e10)])
def test_a_run_whose_step_size_is_far_too_large_says_so_or_ends(tmp_path: Path, env: str, rate: float):
    """What was saved is from before, and sound."""
    notes: list[str] = []

    class Hears:
        def on_note(self, trainer: Any, text: str) -> None:
            notes.append(text)

    small: dict[str, Any] = {"encoder__widths": (8,), "replay__capacity": 400, "replay__start": 60, "learn_every": 1}
    options = {"log_every": 20, "save_every": 20, "optimizer__learning_rate": rate, **small}
    with engram.Trainer(env, "dqn", steps=600, run=tmp_path / "run", callbacks=[Hears()], **options) as trainer:
        try:
            trainer.learn()
            assert rate < 1e10
            assert any(text.startswith("learning diverges: the loss is") for text in notes)
        except LearningFault as said:
            assert "learning has diverged" in str(said)
    assert engram.info(tmp_path / "run", verify=True)["problems"] == []


def test_a_warning_of_the_agent_is_said_once_however_its_numbers_change():
    watch = DivergenceWatch()
    assert watch.look({"warning": "returns up to 12 lie outside"}) == "returns up to 12 lie outside"
    assert watch.look({"warning": "returns up to 13 lie outside"}) is None
    assert watch.look({"warning": "another thing"}) == "another thing"
    assert watch.look({}) is None


def test_a_warning_is_told_and_stands_in_no_line_of_metrics():
    """Loggers and callbacks take numbers."""
    told, written = [], []
    course = object.__new__(Course)  # without the parts that a report does not need
    vars(course).update(
        plan=SimpleNamespace(steps=9, seeds=1),
        runner=SimpleNamespace(steps=9, report=lambda: {"loss": 0.5, "warning": "returns up to 12 lie outside"}),
        progress=SimpleNamespace(seconds=1.0),
        log=SimpleNamespace(write=written.append),
        tell=lambda *event: told.append(event),
        look=DivergenceWatch().look,
    )
    course._report({}, 1.0)
    assert written[0]["loss"] == 0.5
    assert "warning" not in written[0]
    assert told == [("on_metrics", written[0]), ("on_note", "returns up to 12 lie outside")]
