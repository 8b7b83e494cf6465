"""The compilation cache: a program that was compiled once is read from disk the next time."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where compiled programs are kept: $ENGRAM_CACHE, or `engram` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ENGRAM_CACHE") or Path(base, "engram")) / "xla"


def use_cache() -> None:
    """Turns JAX's persistent compilation cache on, unless the user already chose one."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
        # Small programs too: a run consists of a few that take a second each to compile.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
