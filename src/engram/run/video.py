"""Films of the agent while it learns, by Gymnasium's own recorder."""

import warnings
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium

from engram.envs.device import is_device
from engram.envs.host.build import builder_of
from engram.envs.host.make import make_host
from engram.errors import SpecError
from engram.play.evaluation import Evaluation, evaluation_seed
from engram.play.playing import play_host

ENDING = "-episode-0.mp4"  # what Gymnasium's recorder adds to a name


class RecordVideo:
    """A callback that films one greedy episode at every evaluation while training, and at the end.

    The films are FOLDER/step-STEP-episode-0.mp4. They need the package moviepy, and an environment of Gymnasium that
    renders pictures (`render_mode="rgb_array"`).

    Args:
      folder: where the films go; `videos` in the run's directory if None.
      env: a function that makes an environment with `render_mode="rgb_array"`; without, that of the run's id.
      every: film every so many evaluations.

    Raises SpecError, before training, for what cannot be filmed.
    """

    def __init__(self, folder: Path | str | None = None, env: Any = None, every: int = 1):
        if every < 1:
            raise SpecError(f"every = {every} was given; expected at least 1")
        self.folder, self.env, self.every = None if folder is None else Path(folder), env, every
        self.films: list[Path] = []
        self._seen = 0

    def on_start(self, trainer: Any) -> None:
        """Refuses what cannot be filmed."""
        self._make(trainer)
        if self.folder is None and trainer.folder is None:
            raise SpecError("RecordVideo has no folder for its films; give RecordVideo(folder), or a run directory")
        try:
            import_module("moviepy")
        except ImportError:
            raise SpecError(
                "RecordVideo needs the package moviepy, which is not installed; type: pip install moviepy"
            ) from None

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None:
        """Films, where it is time."""
        self._seen += 1
        if self._seen % self.every == 0:
            self._film(trainer)

    def on_stop(self, trainer: Any, reason: str) -> None:
        """Films the agent as it is at the end, unless that was done."""
        if reason == "done" and self._path(trainer) not in self.films:
            self._film(trainer)

    def _film(self, trainer: Any) -> None:
        path, recorders = self._path(trainer), []
        begins: list[bool] = []

        def filmed() -> gymnasium.Env:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*Overwriting existing videos")  # each film has a name of its own
                recorder = gymnasium.wrappers.RecordVideo(
                    self._make(trainer)(), str(path.parent), lambda _: bool(begins and begins.pop()),
                    name_prefix=path.name.removesuffix(ENDING), disable_logger=True,
                )  # fmt: skip
            recorders.append(recorder)
            return recorder

        plan, mind = trainer.plan, trainer.runner.minds()[0]
        seed = evaluation_seed(plan.seed, while_training=True)
        with closing(make_host(filmed, seed=seed, envs=1, action_bins=plan.action_bins)) as envs:
            # Only now: making an environment tries it out first.
            begins.append(True)
            recorders[-1].episode_id = -1
            play_host(mind, plan.agent, envs, 1)
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
