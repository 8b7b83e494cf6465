"""A step of an agent as StableHLO, through `jax.export`: for JAX without Engram, and compilers that read it.

    exported = jax.export.deserialize(Path("policy.stablehlo").read_bytes())
    outputs = exported.call(inputs)         both are dicts of arrays by name

JAX promises to read such a file for six months of its releases.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from engram.errors import SpecError, install
from engram.exporting.parity import Run
from engram.exporting.step import Step, examples
from engram.precision import in_32_bits

PLATFORMS = ("cpu", "cuda", "tpu")


def check_installed() -> None:
    """Raises SpecError where the extra is missing."""
    if find_spec("flatbuffers") is None:
        raise SpecError(f"writing StableHLO needs the package flatbuffers, which is not installed; {install('export')}")


@in_32_bits
def converted(step: Step) -> bytes:
    """The step as the bytes of a file: for any batch, on any of `PLATFORMS`."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = examples(step.inputs, batch)

    def named(inputs: Mapping[str, Array]) -> dict[str, Array]:
        found = step.function(*(inputs[port.name] for port in step.inputs))
        return {port.name: value for port, value in zip(step.outputs, found, strict=True)}

    given = {port.name: shape for port, shape in zip(step.inputs, shapes, strict=True)}
    return bytes(jax.export.export(jax.jit(named), platforms=PLATFORMS)(given).serialize())


def runner(content: bytes) -> Run:
    """The bytes of a file as a function."""
    exported = jax.export.deserialize(bytearray(content))

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found: Any = exported.call(dict(inputs))
        return {name: np.asarray(value) for name, value in found.items()}

    return run
