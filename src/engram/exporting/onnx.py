"""A step of an agent as an ONNX file, through jax2onnx.

    from engram.exporting.onnx import write

    write(agent, "policy.onnx")         an agent of `engram.load`

ONNX Runtime, its builds for the web and for C#, and other libraries run such a file without JAX or Engram.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from engram.checkpoint.disk import replace_file
from engram.errors import SpecError, WriteFailed, install, told, unwritten
from engram.exporting.about import about, step_of_agent
from engram.exporting.lowering import Plain
from engram.exporting.parity import Run, check
from engram.exporting.step import Step, examples
from engram.play.trained import TrainedAgent
from engram.precision import in_32_bits

OPSETS = range(17, 24)  # those that ONNX Runtime was tried with
OPSET = 17  # the newest that importers such as onnx2torch take
BATCH = "batch"


@in_32_bits
def write(agent: TrainedAgent, path: str | Path, opset: int = OPSET, seed: int = 0) -> dict[str, Any]:
    """Writes the policy of an agent to one file, and gives what is known of it: see `about.about`.

    The same is in the file, as the text `engram` of its metadata. The entries of an external memory are inputs, and in
    no file: `folder.beside` has them. While it is written, no other thread may use JAX: jax2onnx replaces functions.

    Args:
      agent: what `engram.load` gives. seed: which of its agents, where there are several.
      opset: the version of ONNX's operations, 17 to 23.

    Raises: SpecError for another opset, without the extra `export`, for an agent that cannot be exported, or where the
    file differs from the agent by more than rounding; WriteFailed where the disk refuses it.
    """
    check_opset(opset)
    step = step_of_agent(agent, seed)
    described = about(agent, step, seed)
    content = converted(step, opset, described)
    check(step, runner(content))
    try:
        replace_file(Path(path), content)
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None
    return described


def check_opset(opset: int) -> None:
    """Raises SpecError for an opset that was not tried, or where the extra is missing."""
    if opset not in OPSETS:
        raise SpecError(f"opset = {opset} was given; expected {OPSETS[0]} to {OPSETS[-1]} ({OPSET} suits most readers)")
    if find_spec("jax2onnx") is None or find_spec("onnx") is None:
        raise SpecError(f"writing ONNX needs the package jax2onnx, which is not installed; {install('export')}")


def converted(step: Step, opset: int = OPSET, described: Mapping[str, Any] | None = None) -> bytes:
    """The step as the bytes of an ONNX file, with what is known of it as the text `engram` of its metadata."""
    check_opset(opset)
    import onnx  # pyright: ignore[reportMissingImports], of the extra `export`
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports], likewise

    plain = Plain(step.one, examples(step.inputs))
    inputs = [
        jax.ShapeDtypeStruct((BATCH, *port.shape) if port.batched else port.shape, port.dtype) for port in step.inputs
    ]
    names = [port.name for port in step.outputs]
    places = {place: names[place] for place in plain.distinct}
    given: dict[str, Any] = {"input_names": [port.name for port in step.inputs], "output_names": [*places.values()]}
    try:
        with _by_itself():
            model: Any = to_onnx(jax.vmap(plain.once, in_axes=step.axes), inputs, opset=opset, **given)
    except Exception as error:
        raise SpecError(
            f"jax2onnx cannot write this agent with opset {opset} ({told(error)}); export it to stablehlo, or leave "
            f"out the part of your own that it does not know"
        ) from error
    for place, first in plain.repeated.items():  # a value has one name in ONNX
        model.graph.node.append(onnx.helper.make_node("Identity", [names[first]], [names[place]]))
        copy = model.graph.output.add()
        copy.CopyFrom(next(value for value in model.graph.output if value.name == names[first]))
        copy.name = names[place]
    model.producer_name, model.producer_version = "engram", version("engram-rl")
    if described is not None:
        onnx.helper.set_model_props(model, {"engram": json.dumps(described, allow_nan=False)})
    return model.SerializeToString()


@contextmanager
def _by_itself() -> Iterator[None]:
    """The converter by itself: without what it says of its own steps, and with JAX's functions put back afterwards.

    It replaces functions of JAX while it works. One of them, `jnp.cumsum`, stays replaced (jax2onnx 0.17.1), and takes
    less than JAX's own.
    """
    logger, modules = logging.getLogger("onnx_ir"), (jax.numpy, jax.nn, jax.lax)
    level, functions = logger.level, [dict(vars(module)) for module in modules]
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for module, before in zip(modules, functions, strict=True):
            for name, value in before.items():
                if vars(module)[name] is not value:
                    setattr(module, name, value)


def runner(content: bytes, threads: int = 0) -> Run:
    """An ONNX file as a function, in onnxruntime on so many threads; 0: as many as it likes. SpecError without it."""
    if find_spec("onnxruntime") is None:
        raise SpecError(f"running ONNX needs the package onnxruntime, which is not installed; {install('export')}")
    import onnxruntime  # pyright: ignore[reportMissingImports], of the extra `export`

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of folding what it cannot
    options.intra_op_num_threads = threads

    def refused(error: Exception) -> SpecError:
        return SpecError(f"onnxruntime cannot run what was written ({told(error)}); export it to stablehlo")

    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has classes of its own
        raise refused(error) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))  # type: ignore[arg-type]
        except Exception as error:
            raise refused(error) from error

    return run
