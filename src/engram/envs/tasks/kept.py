"""Numbers that take seconds to make, kept beside compiled programs.

They are kept only where compiled programs are, so in a folder of this user, under a name made of all that they depend
on. So a process finds what it would have made itself, to the last bit.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import jax
import numpy as np

from engram.checkpoint.disk import replace_file

SWITCHES = ("jax_enable_x64", "jax_threefry_partitionable", "jax_default_matmul_precision")


def kept(
    name: str, make: Callable[[], np.ndarray], shape: tuple[int, ...], sources: Sequence[str | Path]
) -> np.ndarray:
    """The float32 array of this shape that `make` gives, from the disk where an earlier process has made it.

    `sources`: the files of code that it comes from.
    """
    path = _path(name, shape, sources)
    if path is not None:
        with suppress(OSError, ValueError, EOFError):  # none yet, or half of one
            found = np.load(path, allow_pickle=False)
            if found.shape == shape and found.dtype == np.float32:
                return found
    made = make()
    if path is not None:
        with suppress(OSError):
            content = BytesIO()
            np.save(content, made, allow_pickle=False)
            replace_file(path, content.getvalue())
    return made


def _path(name: str, shape: tuple[int, ...], sources: Sequence[str | Path]) -> Path | None:
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or not Path(folder).is_dir():
        return None
    device = jax.devices()[0]
    about = [name, str(shape), jax.__version__, version("jaxlib"), device.platform, device.device_kind, _processor()]
    about += [os.environ.get("XLA_FLAGS", ""), *(str(jax.config.values.get(switch)) for switch in SWITCHES)]
    about += [Path(source).read_text("utf-8") for source in sources]
    return Path(folder) / f"engram-{name}-{hashlib.sha256(chr(0).join(about).encode()).hexdigest()[:16]}.npy"


def _processor() -> str:
    """What the compiler knows of this processor: it decides how numbers are rounded."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return ""
