"""What holds for every test: types and shapes are checked, compiled programs are kept, and CI accepts no skip.

ENGRAM_TYPECHECK=0 leaves the types unchecked, as they are for users.
"""

import gc
import os
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook
from support import typecheck  # noqa: F401, named below
from support.repeats import repeats, stale

Report = pytest.TestReport | pytest.CollectReport

# Before any test imports the package: each annotated call then checks its shapes, dtypes and types.
if os.environ.get("ENGRAM_TYPECHECK", "1") != "0":
    install_import_hook("engram", "support.typecheck.check")


# The first example of a property may compile, and machines are shared: time is no ground to fail. CI draws the same
# examples every time.
hypothesis.settings.register_profile("engram", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)


# Programs of tests run briefly: what thorough compilation would gain is a fraction of what it takes. The older way of
# writing fused loops takes a third less time to compile, and runs a little slower. Each process has a core for itself:
# programs in one piece, made and run without threads, take a tenth less.
COMPILE_QUICKLY = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)
AGENTS = 16  # whose programs a process of tests keeps: tests of one file share theirs


def pytest_configure(config: pytest.Config) -> None:
    """Choose how properties are tested, and keep compiled programs beside pytest's cache: a second run finds them."""
    hypothesis.settings.load_profile("ci" if in_ci() else "engram")
    os.environ.setdefault("XLA_FLAGS", " ".join(COMPILE_QUICKLY))
    cache = getattr(config, "cache", None)
    if cache is None:  # -p no:cacheprovider
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    if not (config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ):
        keep_programs()


def keep_programs() -> None:
    """Let a process that runs tests keep the programs of more agents."""
    from engram.runners import common  # here, because it imports JAX

    common.PROGRAMS = AGENTS


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what support/repeats.py lists; where all tests are collected, each of its patterns fits one."""
    for item in items:
        if repeats(item.nodeid):
            item.add_marker(pytest.mark.slow)
    if config.args == config.getini("testpaths") and (patterns := stale([item.nodeid for item in items])):
        raise pytest.UsageError(f"tests/support/repeats.py lists what is no test: {', '.join(patterns)}")


# Linux lets a process map some 65,000 pieces of memory, of which a compiled program takes about fifteen; beyond that
# XLA crashes. So programs are let go of before there are too many; what is needed again comes from the cache on disk.
TOO_MANY, EVERY = 38_000, 5


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """From time to time: forget compiled programs if they are many."""
    done = item.config.stash.setdefault(DONE, [0])
    done[0] += 1
    if done[0] % EVERY == 0 and mapped() > TOO_MANY:
        import jax  # here, because it reads the variables that pytest_configure sets

        jax.clear_caches()
        gc.collect()


DONE = pytest.StashKey[list[int]]()


def mapped() -> int:
    """Pieces of memory that this process maps; 0 where the system does not tell."""
    pieces = Path("/proc/self/maps")
    return pieces.read_bytes().count(b"\n") if pieces.exists() else 0


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    """In CI a test that is skipped, or expected to fail, fails."""
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    """In CI a file that skips itself is an error."""
    return refuse_skip((yield))


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


def refuse_skip(report: Report) -> Report:
    """`report`, turned into a failure where it is a skip and CI is on."""
    if not (in_ci() and report.skipped):
        return report
    reason = getattr(report, "wasxfail", None)
    if reason is None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    else:
        delattr(report, "wasxfail")
    report.outcome = "failed"
    report.longrepr = f"CI accepts no skipped test and no expected failure: {reason}"
    return report
