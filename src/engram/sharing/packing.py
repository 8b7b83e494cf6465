"""`engram.pack`: an agent as a folder to share. What it holds stands in `run/packed.py`, which also opens it.

The folder appears whole or not at all: it is written beside its place, opened again and compared, then renamed.
"""

import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engram.checkpoint.disk import Disk
from engram.checkpoint.files import Sealed, array_chunks, write_file
from engram.errors import CheckpointError, SpecError, WriteFailed, unwritten
from engram.explaining.explanation import explain, trained_of
from engram.explaining.film import check_ending, framed, write_film
from engram.explaining.panel import Watched
from engram.explaining.watching import watch
from engram.play.trained import Environment, TrainedAgent
from engram.run import packed
from engram.run.packed import Packed
from engram.sharing import card, facts
from engram.specs import Number, whole
from engram.trees import named

EPISODES = 100  # of the evaluation, unless another number is given
PACE = 30.0  # steps of the film in a second
FILMED = 3_000  # steps of the film at most
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


class Wanted(NamedTuple):
    """What a shared folder is to hold beside the agent."""

    video: bool = False
    report: bool = False
    export: Callable[..., Any] | None = None  # writes policy.onnx
    episodes: int = EPISODES
    licence: str | None = None


def pack(
    agent: Any,
    folder: str | Path,
    at: Any = "newest",
    video: bool = False,
    report: bool = False,
    onnx: bool = False,
    episodes: Number = EPISODES,
    license: str | None = None,
    env: Environment | None = None,
    env_args: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Packed:
    """Writes a folder to share: agent, memory, environment, a fresh evaluation and a model card.

    Args:
      agent: a run's directory, a `Trainer`, or what `engram.load` gives.
      folder: where to write; it must not be there yet, or be empty.
      at: of a run, which checkpoint: "newest" (or "latest"), "best", or that of a step.
      video: also a film of one episode (`replay.mp4`, extra `video`). report: also the page of `engram explain`. onnx:
        also the policy as ONNX (extra `export`).
      episodes: of the evaluation, on seeds that nothing used before.
      license: its short name, such as "apache-2.0"; the card says so where none is given.
      env: the environment to play in, where the run was started with an object; `env_args` for its constructor.
      trust: as for `engram.load`.

    Returns: the folder, with its digest.
    Raises: SpecError for what cannot be, CheckpointError where there is no such run, WriteFailed.
    """
    wanted = Wanted(
        video, report, _exporter() if onnx else None, whole("episodes", episodes, 1), _licence(license)
    )  # fmt: skip
    folder = Path(folder)
    check_place(folder)
    if video:
        check_ending(folder.absolute().parent / packed.FILM, (".mp4",), "video")
    player, step = trained_of(agent, "newest" if at == "latest" else at, trust)
    player = player.elsewhere(env, env_args)
    if player.world_name is None:
        raise SpecError(
            "the run was started with an environment object, which no folder holds; name one that others can make, "
            "with its observations and actions: --env ID (in Python env=...)"
        )
    return whole_or_not(folder, lambda place: _write(player, step, place, wanted))


def _exporter() -> Callable[..., Any]:
    """What writes ONNX. SpecError where it or its extra is missing, before anything is played."""
    try:
        from engram.exporting.onnx import OPSET, check_opset, write
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("engram."):
            raise
        raise SpecError("onnx = True was given, and this version of Engram does not export; leave it out") from None
    check_opset(OPSET)
    return write


def _licence(name: str | None) -> str | None:
    if name is not None and not LICENCE.fullmatch(name):
        raise SpecError(f"license = {name!r} was given; write its short name in small letters, such as apache-2.0")
    return name


def check_place(folder: Path) -> None:
    """SpecError where there is something that would be written over."""
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise SpecError(f"{folder} is there already, and nothing is written over; name a folder that is not there yet")


def whole_or_not(
    folder: Path, write: Callable[[Path], None], check: Callable[[Packed], None] = lambda _: None
) -> Packed:
    """Writes into a folder beside `folder`, verifies that, and gives it its name; WriteFailed."""
    beside = folder.absolute().parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    disk = Disk()
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        disk.make_folder(beside)
        write(beside)
        found = packed.verified(beside)
        check(found)
        disk.fsync_folder(beside)
        with suppress(FileNotFoundError):
            folder.rmdir()  # an empty one
        disk.rename(beside, folder)
        disk.fsync_folder(folder.absolute().parent)
        return found._replace(folder=folder)
    except OSError as error:
        raise WriteFailed(unwritten(error.filename or folder, error)) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(agent: TrainedAgent, step: int, place: Path, wanted: Wanted) -> None:
    """All files into an empty folder, config.json last."""
    plan: Any = agent.plan
    if len(agent.minds) != plan.seeds:
        plan = replace(plan, seeds=len(agent.minds))
    played = facts.evaluation(agent, wanted.episodes)
    chosen, env = packed.plan_parts(_played_in(plan, agent))
    env |= facts.surroundings(agent)
    files = [*_arrays(agent, place)]
    if agent.plan.agent.has_external:
        files.append(_json(place / packed.ENTRIES, facts.entries(agent)))
    files += [_json(place / packed.ENV, env), _json(place / packed.EVALUATION, played)]
    if wanted.report:
        page = explain(agent, seed=played["seed"]).save(place / packed.PAGE)
        files.append(_seal(page))
    if wanted.video:
        _film(agent, played["seed"], place / packed.FILM)
        files.append(_seal(place / packed.FILM))
    if wanted.export is not None:
        wanted.export(agent, place / packed.ONNX)
        files.append(_seal(place / packed.ONNX))
    config: dict[str, Any] = {
        "format": packed.FORMAT,
        "library": "engram-rl",
        "version": version("engram-rl"),
        "step": step,
        "checkpoint": agent.checkpoint,
        "plan": chosen,
        "files": {one.file: {"bytes": one.bytes, "sha256": one.sha256} for one in files},
    }
    config["digest"] = packed.digest_of(config)
    text = card.card(agent, step, played, env, wanted.licence, sorted(config["files"]))
    write_file(Disk(), place / packed.CARD, [text.encode()])
    _json(place / packed.CONFIG, config)
    _compare(agent, packed.verified(place))


def _played_in(plan: Any, agent: TrainedAgent) -> Any:
    """The plan with the environment that was asked for in place of that of training."""
    if agent.world_name == plan.env and agent.world_args == plan.env_args:
        return plan
    return replace(plan, env=agent.world_name, env_args=agent.world_args)


def _arrays(agent: TrainedAgent, place: Path) -> list[Sealed]:
    """model.safetensors, and memory.safetensors where there is one."""
    model: dict[str, np.ndarray] = {}
    memory: dict[str, np.ndarray] = {}
    for number, mind in enumerate(agent.minds):
        start = packed.prefix(agent.plan, len(agent.minds), number)  # type: ignore[arg-type]
        for name, leaf in named(mind).items():
            array = np.asarray(leaf)
            if name.startswith(packed.RECALL):
                memory[start + name] = packed.short(array)
            else:
                model[start + name] = array
    kept = {packed.MODEL: model} | ({packed.MEMORY: memory} if memory else {})
    return [write_file(Disk(), place / name, array_chunks(arrays)) for name, arrays in kept.items()]


def _json(path: Path, value: Mapping[str, Any]) -> Sealed:
    lines = [f" {json.dumps(name)}: {json.dumps(one, allow_nan=False)}" for name, one in value.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if len(text) > packed.LARGEST:
        raise SpecError(f"{path.name} would have {len(text):,} bytes, more than are read; shorten the arguments")
    return write_file(Disk(), path, [text.encode()])


def _seal(path: Path) -> Sealed:
    import hashlib

    content = path.read_bytes()
    return Sealed(path.name, len(content), hashlib.sha256(content).hexdigest())


def _film(agent: TrainedAgent, seed: int, path: Path) -> None:
    watched = Watched(f"{agent.plan.preset} on {agent.world_name}")

    def frames() -> Any:
        steps = watch(agent, seed=seed, pass_by=watched.pass_by, called=watched.call, shown=lambda t: t < FILMED)
        for step in steps:
            watched.add(step)
            yield framed(step, watched)
            if step.t + 1 == FILMED:
                return

    write_film(frames(), path, PACE)


def _compare(agent: TrainedAgent, found: Packed) -> None:
    """CheckpointError unless what was written is, to the bit, what decides."""
    for mind, again in zip(agent.minds, packed.minds(found), strict=True):
        mine, read = named(mind), named(again)
        for name, leaf in mine.items():
            if np.asarray(leaf).tobytes() != np.asarray(read[name]).tobytes():
                raise CheckpointError(f"{name} was not read back as it was written; that disk may be faulty: try again")
