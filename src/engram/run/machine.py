"""What a run asks of this machine: whether its memory suffices, and where compiled programs are kept."""

import ctypes
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from engram.errors import SpecError

SHARE = 0.9  # of the free memory that a run may ask for; the rest is for the environments and the compiler
# What makes a part of a run smaller.
WAYS = {"replay": "replay.capacity", "rollout": "rollout.steps, --envs", "external memory": "external.capacity"}


def available() -> int | None:
    """Bytes of memory that this process could still get; None where the system does not tell."""
    found = [number for number in (_meminfo(), _cgroup()) if number is not None]
    if found:
        return min(found)
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def check_fits(parts: Mapping[str, int]) -> None:
    """Raises SpecError with all numbers if the bytes of these parts, by name, are not to be had together."""
    free, needed = available(), sum(parts.values())
    if free is not None and needed > SHARE * free:
        told = " and ".join(f"{amount(size)} for the {name}" for name, size in parts.items() if size)
        ways = [WAYS[name] for name, size in parts.items() if size and name in WAYS]
        raise SpecError(
            f"this run needs {told}, but {amount(free)} of memory are free (of which {SHARE:.0%} may be used); "
            f"lower {', '.join([*ways, '--seeds'])}, or the size of the observation"
        )


def amount(size: float) -> str:
    """Bytes in words: `1.3 MB`, `2.40 GB`; what is small is no `0.00 GB`."""
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def _cgroup() -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            bound = Path("/sys/fs/cgroup", limit).read_text().strip()
            taken = Path("/sys/fs/cgroup", used).read_text().strip()
        except OSError:
            continue
        if bound.isdigit() and int(bound) < 1 << 60:  # no limit is "max", or a number near 2^63
            return int(bound) - int(taken)
    return None


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Lets glibc's allocator keep large blocks that were freed, instead of giving them back at once.

    A training step of the Nature CNN has some 30 MB of temporaries. Blocks that large are by default mapped anew for
    every step and cleared by the kernel page by page: 8,400 page faults, a third of the step's time (measured). On
    other systems and C libraries this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_TOP_PAD, 256 << 20)


# -- compiled programs ---------------------------------------------------------------------------------------


def cache_folder() -> Path | None:
    """Where compiled programs are kept: $ENGRAM_CACHE, or `engram` in the user's cache folder; None without a home."""
    given, base = os.environ.get("ENGRAM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if given or base:
        return Path(given or Path(str(base), "engram")) / "xla"
    try:
        return Path.home() / ".cache" / "engram" / "xla"
    except RuntimeError:  # no HOME, and a user whom this system does not know
        return None


def use_cache() -> str | None:
    """Turns JAX's persistent compilation cache on, unless the user already chose one. A sentence where it cannot.

    Kept programs are run again. So they are kept only in a folder of this user, and never in one for temporary files,
    where others could put some.
    """
    import jax

    _quieten()
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return None
    folder = cache_folder()
    if folder is None or not _usable(folder):
        where = "there is no home" if folder is None else f"{folder} cannot be written to"
        return f"compiled programs are not kept: {where}; set ENGRAM_CACHE to a folder of yours to start faster"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: a run consists of a few that take a second each to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return None


def _usable(folder: Path) -> bool:
    """Whether this user may write to a folder, which is made if it is missing, readable by this user only."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _quieten() -> None:
    """Leaves out what JAX tells that is no fault of a run: a cache without room, and hardware that it does not use.

    And the fork of a notebook's `!command`, which becomes that command at once. IPython forks in Python's module `pty`.
    """
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning, module="pty$")
    logging.getLogger("jax._src.xla_bridge").addFilter(_concerns_us)


def _concerns_us(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not ("may be present on this machine" in text and "Falling back to cpu" in " ".join(text.split()))


# Lowering a program to XLA, and XLA's own work or the look into its cache. Tracing, which nests, is not counted.
_COMPILING = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")


def told_of_compiling(tell: Callable[[float], None]) -> Callable[[], None]:
    """From now on `tell` gets the seconds of each program that was compiled; what is returned ends that."""
    import jax.monitoring as monitoring

    def hear(event: str, duration_secs: float, **_: str | int) -> None:
        if event in _COMPILING:
            tell(duration_secs)

    monitoring.register_event_duration_secs_listener(hear)
    return lambda: monitoring.unregister_event_duration_listener(hear)
