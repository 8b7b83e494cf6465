"""Who listens hears episodes, evaluations and lines; who says False stops the run, with its newest step on the disk."""

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from support.bad_envs import Walk

import engram
from engram.errors import SpecError
from engram.run.callbacks import EVENTS, hears
from engram.run.metrics import read_metrics
from engram.run.trainer import Trainer

SMALL = dict(preset="dqn", encoder__widths=(8,), replay__capacity=300, replay__batch_size=8, replay__start=60)
EVALUATED = dict(steps=200, log_every=20, evaluate_every=40, evaluate_episodes=2)


class Listener(engram.Callback):
    """Hears everything; answers False to one event from a step on."""

    def __init__(self, event: str = "", step: int = 0):
        self.heard: list[tuple[str, Any]] = []
        self.event, self.step = event, step

    def _hear(self, event: str, trainer: Trainer, told: Any) -> bool:
        self.heard.append((event, told))
        return not (event == self.event and trainer.steps >= self.step)

    def on_episode(self, trainer, episode):
        return self._hear("on_episode", trainer, episode)

    def on_metrics(self, trainer, metrics):
        return self._hear("on_metrics", trainer, metrics)

    def on_evaluate(self, trainer, evaluation):
        return self._hear("on_evaluate", trainer, evaluation)

    def on_save(self, trainer, saved):
        return self._hear("on_save", trainer, saved)

    def on_stop(self, trainer, reason):
        return self._hear("on_stop", trainer, reason)

    def of(self, event: str) -> list[Any]:
        return [told for name, told in self.heard if name == event]


class Judged(Walk):
    """Says at its end whether it succeeded, beside what is no number."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        told = {
            "is_success": self.given_seed % 2 == 1,
            "score": np.float64(2.5),
            "text": "no number",
            "nan": float("nan"),
        }
        return observation, reward, terminated, truncated, told


@pytest.mark.parametrize("event", ["on_episode", "on_metrics", "on_evaluate", "on_save"])
def test_a_callback_that_returns_false_stops_and_the_newest_step_is_kept(tmp_path: Path, event: str):
    listener = Listener(event, 40)
    with Trainer("CartPole-v1", run=tmp_path, callbacks=[listener], save_every=20, **SMALL, **EVALUATED) as trainer:
        assert trainer.learn().steps < 200
        assert engram.info(tmp_path)["step"] == trainer.steps
        assert listener.of("on_stop") == ["stopped"]
        listener.event = ""
        assert trainer.learn().steps == 200, "called again, it goes on"


def test_none_and_true_stop_nothing():
    class Mute:
        def on_metrics(self, trainer, metrics):
            return None

    with Trainer("CartPole-v1", callbacks=[Mute(), Listener()], **SMALL) as trainer:
        assert trainer.learn(60).steps == 60


def test_an_error_in_a_callback_leaves_the_newest_step_on_the_disk(tmp_path: Path):
    class Broken:
        def on_metrics(self, trainer, metrics):
            if metrics["step"] >= 100:
                raise RuntimeError("enough")

    trainer = Trainer("CartPole-v1", run=tmp_path, callbacks=[Broken()], save_every=1_000, **SMALL, **EVALUATED)
    with trainer, pytest.raises(RuntimeError, match="enough"):
        trainer.learn()
    assert engram.info(tmp_path)["step"] == 100


def test_an_evaluation_while_training_tells_how_many_episodes_met_their_goal(tmp_path: Path):
    listener = Listener()
    about: dict[str, Any] = {"evaluate_every": 30, "evaluate_episodes": 6}
    with Trainer(Judged, run=tmp_path, callbacks=[listener], steps=60, log_every=30, **SMALL | about) as trainer:
        trainer.learn()
    told = [one.success_rate for one in listener.of("on_evaluate")]
    assert len(told) == 2
    assert all(0 < rate < 1 for rate in told)
    assert [row["evaluation_success"] for row in read_metrics(tmp_path)] == told


def test_every_episode_of_training_is_told_with_the_numbers_of_its_info(tmp_path: Path):
    """Walk takes 4 steps an episode."""
    listener = Listener()
    with Trainer(Judged, run=tmp_path, callbacks=[listener], steps=90, log_every=30, **SMALL) as trainer:
        trainer.learn()
        episodes = listener.of("on_episode")
    assert [one["step"] for one in episodes] == list(range(4, 90, 4))
    assert {one["length"] for one in episodes} == {4}
    assert {one["seed"] for one in episodes} == {0}
    assert all(set(one["info"]) == {"is_success", "score"} for one in episodes)
    logged = read_metrics(tmp_path)
    successes = [one["info"]["is_success"] for one in episodes]
    assert logged[-1]["info/is_success"] == pytest.approx(np.mean(successes))
    assert logged[-1]["info/score"] == 2.5
    with Trainer(Judged, run=tmp_path, resume=True, steps=120) as trainer:
        trainer.learn()
    assert len(set(successes)) == 2
    assert 0 < read_metrics(tmp_path)[-1]["info/is_success"] < 1


@pytest.mark.slow
def test_workers_tell_the_numbers_of_their_info_too(tmp_path: Path):
    listener = Listener()
    given = {"envs": 2, "asynchronous": True, "steps": 40}
    with Trainer("Taxi-v4", run=tmp_path, env_args={"max_episode_steps": 5}, callbacks=[listener],
                 **{**SMALL, "preset": "dqn"}, **given) as trainer:  # fmt: skip
        trainer.learn()
    assert {name for one in listener.of("on_episode") for name in one["info"]} == {"prob"}


def test_episodes_on_the_device_are_told_once_each():
    listener = Listener()
    with Trainer("engram/CartPole-v1", callbacks=[listener], seeds=2, env_args={"max_steps": 7}, **SMALL) as trainer:
        trainer.learn(70)
        finished = np.asarray(trainer.runner._run.episodes.finished).sum(1).tolist()
    episodes = listener.of("on_episode")
    assert [sum(one["seed"] == seed for one in episodes) for seed in (0, 1)] == finished
    assert all(one["return"] == one["length"] <= 7 for one in episodes)


def test_only_who_overrides_an_event_hears_it():
    assert not any(hears(type("Deaf", (engram.Callback,), {})(), event) for event in EVENTS)
    assert hears(Listener(), "on_episode")
    assert not hears(object(), "on_episode")


# -- shipped -------------------------------------------------------------------------------------------------


def test_early_stop_watches_evaluations_or_training(tmp_path: Path):
    with Trainer("CartPole-v1", callbacks=[engram.EarlyStop(threshold=5)], **SMALL, **EVALUATED) as trainer:
        assert trainer.learn().steps == 40, "every CartPole episode lasts longer than 5 steps"
    stop = engram.EarlyStop(patience=2)
    with Trainer(Constant, callbacks=[stop], **SMALL, **EVALUATED) as trainer:
        assert trainer.learn().steps == 120, "of the evaluations at 40, 80 and 120 none is above the first"
        assert stop.best == 3.0
    with Trainer(Constant, callbacks=[engram.EarlyStop(3, of="training")], **SMALL, **EVALUATED) as trainer:
        assert trainer.learn().steps == 20


class Constant(gymnasium.Env):
    """Pays 1 for each of 3 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time == 3, False, {}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: engram.EarlyStop(), "neither threshold nor patience was given"),
        (lambda: engram.EarlyStop(patience=0), "patience = 0 was given; expected at least 1"),
        (lambda: engram.EarlyStop(1, of="both"), "of = 'both' was given; expected 'evaluation' or 'training'"),
        (lambda: engram.TimeLimit(), "a time limit of 0 seconds was given; expected more than 0"),
        (lambda: engram.Evaluate(every=0), "every = 0 was given; expected at least 1"),
        (lambda: engram.RecordVideo(every=0), "every = 0 was given; expected at least 1"),
    ],
)
def test_a_callback_of_impossible_numbers_is_refused(make: Any, said: str):
    with pytest.raises(SpecError, match=said):
        make()


def test_a_time_limit_stops_and_saves(tmp_path: Path):
    with Trainer("CartPole-v1", run=tmp_path, steps=10_000_000, callbacks=[engram.TimeLimit(0.2)],
                 evaluate_every=0, **SMALL) as trainer:  # fmt: skip
        trainer.runner  # noqa: B018, compiled before the clock starts
        began = time.monotonic()
        assert 0 < trainer.learn().steps < 10_000_000
        assert time.monotonic() - began < 60, "on a busy machine too"
        assert engram.info(tmp_path)["step"] == trainer.steps


def test_evaluate_plays_elsewhere_while_training():
    short = engram.Evaluate(every=50, episodes=2, env_args={"max_episode_steps": 4})
    with Trainer("CartPole-v1", callbacks=[short], **SMALL, **EVALUATED) as trainer:
        trainer.learn()
    assert [step for step, _ in short.found] == [60, 100, 160, 200]
    assert all(found.lengths == [4, 4] for _, found in short.found)


def test_a_stop_is_obeyed_within_it():
    class Stopping(Walk):
        """Asks for a stop in the fifth step of an evaluation."""

        def step(self, action):
            if self.steps == 4:
                trainer.stop()
            return super().step(action)

    heard = Listener()
    elsewhere = engram.Evaluate(every=20, episodes=1, env=lambda: Stopping(3_000))
    with Trainer(Walk, callbacks=[elsewhere, heard], **SMALL, **{**EVALUATED, "evaluate_every": 0}) as trainer:
        assert trainer.learn().steps == 20
    assert (elsewhere.found, heard.of("on_stop")) == ([], ["stopped"])


class Drawn(Walk):
    """Shows a picture whose brightness is the number of steps of its episode."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    render_mode = "rgb_array"

    def render(self):
        return np.full((4, 4, 3), self.steps, np.uint8)


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What Gymnasium's recorder hands to moviepy, by the film's name: the brightness of each picture.

    moviepy wants an older Pillow than this environment holds, so a stand-in takes its place.
    """
    taken: dict[str, list[int]] = {}

    class Clip:
        def __init__(self, frames, fps):
            self.frames = [int(frame[0, 0, 0]) for frame in frames]

        def write_videofile(self, path, **_):
            taken[Path(path).name] = self.frames
            Path(path).touch()

    names = ["moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].ImageSequenceClip = Clip  # type: ignore[attr-defined]
    return taken


def test_one_greedy_episode_is_filmed_at_every_second_evaluation_and_at_the_end(tmp_path: Path, films: dict):
    given = {**SMALL, **EVALUATED, "steps": 120}
    with Trainer(Drawn, run=tmp_path, callbacks=[engram.RecordVideo(env=Drawn, every=2)], **given) as trainer:
        trainer.learn()
    whole = {"step-000000080-episode-0.mp4": [0, 1, 2, 3, 4], "step-000000120-episode-0.mp4": [0, 1, 2, 3, 4]}
    assert films == whole
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == sorted(whole)
    trainer = Trainer(Drawn, callbacks=[engram.RecordVideo(tmp_path)], **given)
    with trainer, pytest.raises(SpecError, match="the run has no id of an environment; give"):
        trainer.learn()
    trainer = Trainer(Drawn, callbacks=[engram.RecordVideo(env=Drawn)], **given)
    with trainer, pytest.raises(SpecError, match="RecordVideo has no folder for its films"):
        trainer.learn()


class Gappy(Drawn):
    """Lacks a number from time to time, and has no end of its own."""

    def __init__(self):
        super().__init__(10**9)

    def show(self):
        shown = super().show()
        shown[0] = np.nan if self.steps % 2 else shown[0]
        return shown


def test_missing_observations_and_limits_are_as_in_training(tmp_path: Path, films: dict):
    given = {**SMALL, "steps": 70, "evaluate_every": 60, "observation__missing": "mask", "max_episode_steps": 6}
    video = engram.RecordVideo(tmp_path, env=Gappy)
    with Trainer(Gappy, callbacks=[video], **given) as trainer:
        trainer.learn()
        trainer.learn(10)
    names = [f"step-0000000{step}-episode-0.mp4" for step in (60, 70, 80)]
    assert films == {name: [0, 1, 2, 3, 4, 5, 6] for name in names}
    assert [path.name for path in video.films] == names


def test_a_stop_ends_a_film_and_leaves_none(tmp_path: Path, films: dict):
    class Stopping(Gappy):
        """Asks for a stop in the fifth step of a film."""

        def render(self):
            if self.steps == 4:
                trainer.stop()
            return super().render()

    heard, video = Listener(), engram.RecordVideo(tmp_path, env=Stopping)
    given = {**SMALL, "steps": 70, "evaluate_every": 60, "observation__missing": "mask"}
    with Trainer(Drawn, callbacks=[video, heard], **given) as trainer:
        assert trainer.learn().steps == 60
    assert (films, video.films, heard.of("on_stop")) == ({}, [], ["stopped"])


class Blind(Drawn):
    render_mode = None


class Larger(Drawn):
    def __init__(self):
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)


class Broken(Drawn):
    def __init__(self):
        raise OSError("no display")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (Blind, "RecordVideo cannot film: .* render_mode"),
        (Larger, "RecordVideo cannot film: the environment to film has .* but the agent learns from"),
        (Broken, "RecordVideo cannot film: .*no display"),
    ],
)
def test_what_cannot_be_filmed_is_refused_before_training(tmp_path: Path, films: dict, env: Any, said: str):
    trainer = Trainer(Drawn, run=tmp_path / "run", callbacks=[engram.RecordVideo(tmp_path, env=env)], **SMALL)
    with trainer, pytest.raises(SpecError, match=said):
        trainer.learn(10)
    assert trainer.steps == 0
    with pytest.raises(engram.EngramError):
        engram.info(tmp_path / "run")


def test_films_need_moviepy_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    trainer = Trainer(Drawn, callbacks=[engram.RecordVideo(tmp_path, env=Drawn)], **SMALL)
    with trainer, pytest.raises(SpecError, match="needs the package moviepy, which is not installed"):
        trainer.learn(10)


class Misspelt:
    def on_metric(self, trainer: Any, metrics: Any) -> None: ...


@pytest.mark.parametrize(("given", "sentence"), [
    ([Misspelt()], "has no method of engram.Callback: 'on_metric' is none; did you mean 'on_metrics'?"),
    ([lambda trainer: False], "has no method of engram.Callback; expected one of on_start, on_episode"),
    ([engram.EarlyStop], r"the class EarlyStop was given, but an object was expected; write EarlyStop\(...\)"),
    (engram.TimeLimit, "the class TimeLimit was given"),
    (3, "3 was given, but a list of objects with methods of engram.Callback was expected"),
])  # fmt: skip
def test_what_never_hears_anything_is_refused_before_anything_is_made(given: Any, sentence: str):
    with pytest.raises(SpecError, match=sentence):
        Trainer("CartPole-v1", steps=50, callbacks=given)


def test_a_misspelt_method_beside_a_right_one_is_named():
    class Both(Misspelt):
        def on_save(self, trainer: Any, saved: Any) -> None: ...

    with pytest.raises(SpecError, match="'on_metric' of Both is never called; did you mean 'on_metrics'"):
        Trainer("CartPole-v1", steps=50, callbacks=[Both()])


def test_one_callback_needs_no_list_and_none_is_none():
    alone = Listener()
    with Trainer("CartPole-v1", steps=50, callbacks=alone, loggers=None) as trainer:
        assert trainer.callbacks == (alone,)
    with Trainer("CartPole-v1", steps=50, callbacks=None) as trainer:
        assert trainer.callbacks == ()


def test_an_argument_that_an_evaluation_elsewhere_does_not_take_is_named():
    with pytest.raises(SpecError, match="Evaluate takes no 'episods'; did you mean 'episodes'"):
        engram.Evaluate(100, episods=1)
