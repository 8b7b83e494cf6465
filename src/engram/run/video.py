"""Films of the agent while it learns, by Gymnasium's own recorder."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium

from engram.agents.policy import Mind
from engram.envs.device import is_device
from engram.envs.host.build import builder_of
from engram.errors import EngramError, Interrupted, SpecError
from engram.play.evaluation import Evaluation, evaluation_seed
from engram.play.playing import LONGEST, Stop, play_host
from engram.run.evaluating import checked, host_to_play
from engram.run.folders import whole_path
from engram.run.plan import RunPlan

ENDING = "-episode-0.mp4"  # what Gymnasium's recorder adds to a name


class RecordVideo:
    """A callback that films one greedy episode at every evaluation while training, and at the end.

    The films are FOLDER/step-STEP-episode-0.mp4. They need the package moviepy, and an environment of Gymnasium that
    renders pictures (`render_mode="rgb_array"`).

    Args:
      folder: where the films go; `videos` in the run's directory if None.
      env: a function that makes an environment with `render_mode="rgb_array"`; without, that of the run's id.
      every: film every so many evaluations.

    An episode that has not ended after 27,000 steps is cut off there. What a stop cuts short leaves no film.

    Raises SpecError, before training, for what cannot be filmed.
    """

    def __init__(self, folder: Path | str | None = None, env: Any = None, every: int = 1):
        if every < 1:
            raise SpecError(f"every = {every} was given; expected at least 1")
        self.folder, self.env, self.every = None if folder is None else whole_path(Path(folder)), env, every
        self.films: list[Path] = []
        self._seen = 0
        self._camera: _Camera | None = None  # while `learn` runs

    def on_start(self, trainer: Any) -> None:
        """Makes the environment and its recorder. Raises SpecError for what cannot be filmed."""
        make = self._make(trainer)
        if self.folder is None and trainer.folder is None:
            raise SpecError("RecordVideo has no folder for its films; give RecordVideo(folder), or a run directory")
        try:
            import_module("moviepy")
        except ImportError:
            raise SpecError(
                "RecordVideo needs the package moviepy, which is not installed; type: pip install moviepy"
            ) from None
        try:
            self._camera = _Camera(make, trainer.plan, self._path(trainer).parent)
        except EngramError as problem:
            raise SpecError(f"RecordVideo cannot film: {problem}") from problem

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None:
        """Films, where it is time."""
        self._seen += 1
        if self._seen % self.every == 0:
            self._film(trainer)

    def on_stop(self, trainer: Any, reason: str) -> None:
        """Films the agent as it is at the end, unless that was done."""
        if self._camera is None:
            return
        with closing(self._camera):
            if reason == "done" and self._path(trainer) not in self.films:
                self._film(trainer)
        self._camera = None

    def _film(self, trainer: Any) -> None:
        path = self._path(trainer)
        assert self._camera is not None  # made in `on_start`
        try:
            self._camera.film(trainer.runner.minds()[0], path, trainer.asked_to_stop)
        except Interrupted:
            return
        except EngramError as problem:
            trainer.note(f"the run goes on without this film: {problem}")
            return
        self.films.append(path)

    def _path(self, trainer: Any) -> Path:
        folder = trainer.folder / "videos" if self.folder is None else self.folder
        return folder / f"step-{trainer.steps:09d}{ENDING}"

    def _make(self, trainer: Any) -> Any:
        """What makes an environment that renders pictures."""
        if self.env is not None:
            return self.env
        name = trainer.plan.env
        if name is None:
            raise SpecError("the run has no id of an environment; give RecordVideo(env=FUNCTION), which makes one")
        if is_device(name):
            raise SpecError(f"{name} runs on the device and draws no pictures; give RecordVideo(env=FUNCTION)")
        arguments = {key: value for key, value in trainer.plan.env_args.items() if key != "life_loss"}
        return builder_of(name, arguments | {"render_mode": "rgb_array"})


class _Camera:
    """An environment like that of training with Gymnasium's recorder around it, in which an agent plays for a film."""

    def __init__(self, make: Callable[[], gymnasium.Env], plan: RunPlan, folder: Path):
        self._plan, self._begins = plan, False
        recorders: list[gymnasium.wrappers.RecordVideo] = []

        def filmed() -> gymnasium.Env:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*Overwriting existing videos")  # each film has a name of its own
                recorders.append(gymnasium.wrappers.RecordVideo(make(), str(folder), self._due, disable_logger=True))
            return recorders[-1]

        seed = evaluation_seed(plan.seed, while_training=True)
        with ExitStack() as opened:
            self._envs = opened.enter_context(closing(host_to_play(filmed, {}, plan, seed, 1, LONGEST)))
            checked("the environment to film", self._envs, plan)
            opened.pop_all()
        self._recorder = recorders[-1]

    def _due(self, _: int) -> bool:
        """Whether the episode that begins is filmed: the first of a play, and none that only tries the environment."""
        begins, self._begins = self._begins, False
        return begins

    def film(self, mind: Mind, path: Path, stop: Stop) -> None:
        """One greedy episode. Raises Interrupted after a stop, and EngramError where it cannot be played: no film."""
        recorder = self._recorder
        recorder.name_prefix, recorder.episode_id, self._begins = path.name.removesuffix(ENDING), -1, True
        try:
            play_host(mind, self._plan.agent, self._envs, 1, limit=LONGEST, stop=stop)
        except EngramError:
            recorder.recorded_frames, recorder.recording = [], False
            raise
        if recorder.recording:  # no episode began after it
            recorder.stop_recording()

    def close(self) -> None:
        """Lets go of the environment."""
        self._envs.close()
