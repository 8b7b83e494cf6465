"""`engram.export`: a trained agent in formats of others.

engram.export("runs/mine", to="onnx")           mine.onnx, and mine.export.json beside it
engram.export(agent, to="folder", out="site/policy")
"""

import secrets
import shutil
from dataclasses import dataclass
from errno import EEXIST
from pathlib import Path
from typing import Any

from engram.errors import SpecError, WriteFailed, hint, unwritten
from engram.explaining.explanation import trained_of
from engram.exporting import folder, onnx, stablehlo
from engram.exporting.about import about, step_of_agent
from engram.exporting.parity import check
from engram.exporting.step import Step
from engram.play.trained import TrainedAgent
from engram.precision import in_32_bits
from engram.specs import whole

FORMATS = ("onnx", "stablehlo", "folder")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Fields:
      path: the file or folder that was asked for. files: all files, with those beside it.
      difference: the greatest between the file and the agent on random observations, over the size of the output.
      about: inputs, outputs, actions and where it comes from; the same as in the JSON beside it.
    """

    path: Path
    files: tuple[Path, ...]
    difference: float
    about: dict[str, Any]


@in_32_bits
def export(
    agent: Any,
    to: str = "folder",
    out: str | Path | None = None,
    at: Any = "newest",
    opset: int = onnx.OPSET,
    seed: int = 0,
    trust: bool = False,
) -> Exported:
    """Writes the policy of an agent in a format of others, and holds what was written against the agent.

    Args:
      agent: a run's directory, a `Trainer`, or what `engram.load` gives.
      to: `onnx` (extra `export`), `stablehlo`, or `folder`: ONNX with weights, an example and scripts.
      out: where; by default the name of the run in the current folder. What is there already is not touched.
      at: of a run: the `newest` checkpoint, the `best`, or that of a step. trust: as for `engram.load`.
      opset: the version of ONNX's operations, 17 to 23.
      seed: which agent, of a run with several: 0 for its first.

    While ONNX is written, no other thread may use JAX: jax2onnx replaces functions of it meanwhile.

    Raises: SpecError for another format or opset, without the extra, where something is at `out` already, or for an
    agent that cannot be exported; CheckpointError where there is no run; WriteFailed where the disk refuses it.
    """
    if to not in FORMATS:
        raise SpecError(f"to = {to!r} was given; {hint(str(to), FORMATS)}")
    if to == "stablehlo":
        stablehlo.check_installed()
    else:
        onnx.check_opset(opset)
    target = _target(agent, to, out)
    trained = trained_of(agent, "newest" if at == "latest" else at, trust)[0]
    seed = whole("seed", seed, 0)
    if seed >= len(trained.minds):
        raise SpecError(f"seed = {seed} was given, and there are {len(trained.minds)} agents; expected one from 0 on")
    step = step_of_agent(trained, seed)
    files = _files(trained, step, to, target, opset, seed)
    content = files["model.onnx" if to == "folder" else target.name]
    difference = check(step, stablehlo.runner(content) if to == "stablehlo" else onnx.runner(content))
    return _written(files, target, difference, about(trained, step, seed))


def _target(agent: Any, to: str, out: str | Path | None) -> Path:
    """Where to write. SpecError where something is."""
    name = Path(agent).absolute().name if isinstance(agent, str | Path) else "policy"
    target = Path(f"{name}-export" if to == "folder" else f"{name}.{to}") if out is None else Path(out)
    if to != "folder" and target.suffix in (".json", ".safetensors"):
        raise SpecError(f"{target.name} would be the name of a file beside it; end it in .{to}")
    taken = (
        [target] if to == "folder" else [target, *(target.with_suffix(end) for end in (".export.json", ".safetensors"))]
    )
    for path in taken:
        if path.exists() or path.is_symlink():
            raise SpecError(f"{path} exists already; give another place (--out PATH), or remove it")
    if not target.parent.is_dir():
        raise SpecError(f"the folder {str(target.parent)!r} for {target.name} does not exist; make it, or give another")
    return target


def _files(agent: TrainedAgent, step: Step, to: str, target: Path, opset: int, seed: int) -> dict[str, bytes]:
    """The files to write, by name: those of the folder, or the file asked for and what lies beside it."""
    if to == "folder":
        return folder.contents(agent, step, opset, seed)
    described = about(agent, step, seed)
    content = onnx.converted(step, opset, described) if to == "onnx" else stablehlo.converted(step)
    found = {target.with_suffix(".export.json").name: folder.as_json(described)}
    entries = folder.beside(step).get("memory.safetensors")
    found |= {} if entries is None else {target.with_suffix(".safetensors").name: entries}
    return found | {target.name: content}


def _written(files: dict[str, bytes], target: Path, difference: float, described: dict[str, Any]) -> Exported:
    """Everything in a folder beside the target, then renamed; the file that was asked for comes last."""
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    whole_folder = "export.json" in files
    places = [target / name if whole_folder else target.parent / name for name in files]
    try:
        aside.mkdir()
        for name, content in files.items():
            (aside / name).write_bytes(content)
        if whole_folder:
            aside.rename(target)
        else:
            for name in files:
                if (target.parent / name).exists():
                    raise FileExistsError(EEXIST, "something has come there meanwhile")
                (aside / name).rename(target.parent / name)
    except OSError as error:
        raise WriteFailed(unwritten(target, error)) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(target, tuple(places), difference, described)
