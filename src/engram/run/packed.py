"""A shared folder: an agent to give away, without the run that made it. Here is what it holds, and how it is opened.

    DIR/
      config.json           the agent's settings, and length and SHA-256 of every other file; its own digest
      model.safetensors     networks
      memory.safetensors    the external memory, where there is one; memory.json says what its entries are
      env.json              the environment: id, arguments, observations, actions
      evaluation.json       returns of fresh episodes
      README.md             the model card, for people: it may be edited, and is never read here
      replay.mp4, report.html, policy.onnx   where they were asked for

It may be a stranger's. So nothing else may lie in it, no link is followed, every byte is compared with its digest
before it is parsed, and nothing is unpickled. `sharing/` writes such folders.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engram.agents.agent import Agent, numbered_mind
from engram.agents.policy import Mind
from engram.checkpoint.disk import Disk, read_small, strict_json
from engram.checkpoint.files import Sealed, check_seal, fields, from_bytes, parse_tensors
from engram.envs.host.stored import numbers_in
from engram.errors import CheckpointError, EngramError, SpecError
from engram.play.trained import Environment, TrainedAgent
from engram.run.machine import check_fits
from engram.run.making import make_agent
from engram.run.plan import LATER, RunPlan
from engram.trees import named, restored

MOST_NUMBERS = 1 << 24  # of one observation in a stranger's folder: a picture of 4,096 x 4,096
FORMAT = "engram-folder/1"
CONFIG, MODEL, MEMORY, ENTRIES = "config.json", "model.safetensors", "memory.safetensors", "memory.json"
ENV, EVALUATION, CARD = "env.json", "evaluation.json", "README.md"
FILM, PAGE, ONNX = "replay.mp4", "report.html", "policy.onnx"
SEALED = (MODEL, MEMORY, ENTRIES, ENV, EVALUATION, FILM, PAGE, ONNX)  # what config.json holds the digests of
UNSEALED = (CONFIG, CARD, ".gitattributes")  # a hub adds the last one, and lets people edit the card
NEEDED = (MODEL, ENV, EVALUATION)
OF_ENV = ("env", "env_args", "space", "actions", "agents", "action_bins", "max_episode_steps", "shown")
RECALL = "recall."  # begins the names of arrays of an external memory
LARGEST = 8 << 20  # bytes of config.json and env.json that are read


class Packed(NamedTuple):
    """A shared folder whose every file has the digest that it is to have.

    Fields:
      config: what config.json says. plan: the settings of the run that it is of, as far as they were given away.
      digest: SHA-256 of all of it but the card: 64 hexadecimal digits.
    """

    folder: Path
    config: dict[str, Any]
    plan: RunPlan
    files: dict[str, Sealed]

    @property
    def digest(self) -> str:
        return self.config["digest"]

    @property
    def step(self) -> int:
        """The global step of the checkpoint that it was made of."""
        return self.config["step"]


def load_packed(
    folder: Path, env: Environment | None = None, at: str | int = "newest", trust: bool = False
) -> TrainedAgent:
    """The agent in a shared folder. CheckpointError for anything that is not exactly one."""
    packed = verified(folder)
    if str(at) not in ("newest", "latest", str(packed.step)):
        raise SpecError(
            f"checkpoint {str(at)!r} was asked for, but {folder} is a shared folder, which holds step {packed.step} "
            f"alone; leave it out, or ask the run itself"
        )
    trained = TrainedAgent(packed.plan, minds(packed), env, trust=trust)
    trained.step, trained.checkpoint = packed.step, packed.config["checkpoint"]
    return trained


# -- checking --------------------------------------------------------------------------------------------------------


def verified(folder: Path) -> Packed:
    """Checks every file of a shared folder. CheckpointError, which names the first thing that is wrong."""
    names = _names(folder)
    config = config_of(folder)
    files = {name: sealed_of(name, entry) for name, entry in config["files"].items()}
    for name in sorted({*files, *NEEDED}):
        if name not in names:
            raise CheckpointError(f"{folder / name} is missing; get the folder anew (engram pull)")
        if name not in files:
            raise CheckpointError(f"{folder / CONFIG} holds no digest of {name}; get the folder anew (engram pull)")
    if extra := sorted(names - files.keys() - set(UNSEALED)):
        raise CheckpointError(f"{folder / extra[0]} is not among the files that {CONFIG} names; take it out")
    for sealed in files.values():
        _check(folder, sealed)
    return Packed(folder, config, _plan(folder, config), files)


def _names(folder: Path) -> set[str]:
    """The names in a folder. CheckpointError for a link, a folder, and a name that no shared folder holds."""
    try:
        kinds = Disk().listdir(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); name a folder that you may read") from None
    for name, kind in sorted(kinds.items()):
        what = {"folder": "a folder", "other": "a link or a device"}.get(kind, "none of the files")
        if kind != "file" or name not in (*SEALED, *UNSEALED):
            raise CheckpointError(
                f"{str(folder / name)!r} is {what}, and a shared folder holds only {CONFIG} and the files that it "
                f"names; take it out, or get the folder anew with engram pull"
            )
    return set(kinds)


def config_of(folder: Path) -> dict[str, Any]:
    """What config.json says, if its format and its own digest are right."""
    path = folder / CONFIG
    config = _json(path)
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        told = "no format" if found is None else f"the format {found!r}"
        raise CheckpointError(
            f"{path} has {told}, but this version of Engram reads {FORMAT!r}; use the version that wrote it"
        )
    kinds: dict[str, Any] = {
        "format": str,
        "library": str,
        "version": str,
        "step": int,
        "checkpoint": (str, type(None)),
    }
    fields(config, str(path), **kinds, plan=dict, files=dict, digest=str)
    if digest_of(config) != config["digest"]:
        raise CheckpointError(f"{path} is damaged: its digest is another; get the folder anew (engram pull)")
    if unknown := sorted(set(config["files"]) - set(SEALED)):
        raise CheckpointError(f"{path} names the file {unknown[0][:80]!r}, which no shared folder holds")
    return config


def digest_of(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config without its digest. It holds those of all other files, so it stands for the folder."""
    text = json.dumps({name: value for name, value in config.items() if name != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _json(path: Path) -> Any:
    try:
        return strict_json(read_small(Disk(), path, LARGEST), path.name)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); get the folder anew (engram pull)") from None


def sealed_of(name: str, entry: Any) -> Sealed:
    """Length and digest of one file as config.json gives them."""
    size, sha256 = fields(entry, f"{name} in {CONFIG}", bytes=int, sha256=str)
    return Sealed(name, size, sha256)


def _check(folder: Path, sealed: Sealed) -> None:
    disk = Disk()
    try:
        handle = disk.open(folder / sealed.file)
        try:
            check_seal(disk, handle, sealed)
        finally:
            disk.close(handle)
    except OSError as error:
        raise CheckpointError(f"{folder / sealed.file} cannot be read ({error.strerror})") from None


# -- the plan --------------------------------------------------------------------------------------------------------


def _plan(folder: Path, config: Mapping[str, Any]) -> RunPlan:
    """What run.json would hold. What is about the environment stands in env.json alone."""
    env = _json(folder / ENV)
    if not isinstance(env, dict) or set(OF_ENV) - env.keys():
        raise CheckpointError(f"{folder / ENV} must be a JSON object with {', '.join(OF_ENV)}")
    if both := sorted(set(OF_ENV) & config["plan"].keys()):
        raise CheckpointError(f"{folder / CONFIG} holds {both[0]!r}, which belongs into {ENV}")
    check_sizes(env, folder / ENV)
    values = config["plan"] | {name: env[name] for name in OF_ENV}
    return RunPlan.of_json(values, folder / CONFIG)


def check_sizes(env: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError where spaces and actions of env.json are larger than an agent's, before any is made.

    A few words may ask for any number of actions, or of numbers in a box, and so for any amount of memory.
    """
    try:
        held, shown = numbers_in(env["space"]), env["shown"]
        if held > MOST_NUMBERS:
            raise ValueError(f"{held:,} numbers in an observation, and {MOST_NUMBERS:,} are taken at most")
        if shown is None:
            return
        actions = shown["actions"]
        counts = [actions["number"]] if "number" in actions else [len(actions.get("rows", ()))]
        if "values" in actions:
            counts = [math.prod(len(column) for column in actions["values"])]
        if counts != [env["actions"]] or numbers_in(shown["observation"]) > held:
            raise ValueError("it shows or takes more than the agent knows")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} does not fit the agent of {CONFIG} ({error}); get the folder anew") from None


def plan_parts(plan: RunPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """A plan as config.json and env.json hold it, without what is about the machine that trained it. SpecError."""
    given = dataclasses.replace(
        plan, demonstrations=None, start_from=None, start_with="weights", evaluate_env=None, log=(), track=False
    )
    values = LATER | given.json()
    try:
        values = json.loads(json.dumps(values, allow_nan=False))  # as it will be read
    except (TypeError, ValueError) as error:
        raise SpecError(f"env_args cannot be stored in a folder ({error}); give plain values") from None
    return {name: one for name, one in values.items() if name not in OF_ENV}, {name: values[name] for name in OF_ENV}


# -- arrays ----------------------------------------------------------------------------------------------------------


def prefix(plan: RunPlan, count: int, place: int) -> str:
    """What begins the names of the arrays of one of several seeds; nothing where there is one."""
    return "" if count == 1 else f"seed{plan.seed + place}."


def likeness(agent: Agent) -> Mind:
    """Shapes and types of what an agent decides with."""
    return agent.mind(numbered_mind(agent)[0])


def minds(packed: Packed) -> list[Mind]:
    """What each seed decides with. CheckpointError for arrays that are not those of the agent."""
    arrays = _arrays(packed, MODEL) | (_arrays(packed, MEMORY) if MEMORY in packed.files else {})
    try:
        agent = make_agent(packed.plan, stored=True)
    except EngramError as problem:
        raise CheckpointError(f"{packed.folder / CONFIG} describes no agent: {problem}") from None
    like = likeness(agent)
    shapes, count = named(like), packed.plan.seeds
    if count > max(1, len(arrays)):
        raise CheckpointError(f"{packed.folder / CONFIG} names {count:,} seeds, and there are {len(arrays):,} arrays")
    starts = [prefix(packed.plan, count, place) for place in range(count)]
    if unknown := sorted(arrays.keys() - {start + name for start in starts for name in shapes}):
        raise CheckpointError(f"{packed.folder} holds the array {unknown[0]!r}, which this agent does not have")
    recalled = sum(leaf.size * leaf.dtype.itemsize for name, leaf in shapes.items() if name.startswith(RECALL))
    check_fits({"external memory": count * recalled})
    found = []
    for start in starts:
        one = {name: arrays[start + name] for name in shapes if start + name in arrays}
        one = {name: whole(array, shapes[name]) if name.startswith(RECALL) else array for name, array in one.items()}
        found.append(restored(like, one, owned=False))
    return found


def short(array: np.ndarray) -> np.ndarray:
    """A column of a memory without the rows at its end that are one like the other, up to the first of them."""
    if array.ndim == 0 or len(array) < 2:
        return array
    rows = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    other = np.flatnonzero((rows != rows[-1]).any(1)) if rows.shape[1] else np.zeros(0, int)
    return array[: int(other[-1]) + 2 if other.size else 1]


def whole(array: np.ndarray, like: Any) -> np.ndarray:
    """The inverse of `short`."""
    if array.ndim == 0 or len(array) == 0 or array.shape[1:] != like.shape[1:] or len(array) >= like.shape[0]:
        return array
    return np.concatenate([array, np.broadcast_to(array[-1:], (like.shape[0] - len(array), *array.shape[1:]))])


def _arrays(packed: Packed, name: str) -> dict[str, np.ndarray]:
    disk = Disk()
    try:
        handle = disk.open(packed.folder / name)
        try:
            check_seal(disk, handle, packed.files[name])  # of the very file that is read
            tensors = parse_tensors(disk, handle, name)
            return {
                key: from_bytes(disk.read(handle, one.offset, one.layout.bytes), one.layout, f"{key} of {name}")
                for key, one in tensors.items()
            }
        finally:
            disk.close(handle)
    except OSError as error:
        raise CheckpointError(f"{packed.folder / name} cannot be read ({error.strerror})") from None
