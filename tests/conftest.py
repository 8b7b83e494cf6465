"""What holds for every test: types and shapes are checked, compiled programs are kept, and CI accepts no skip.

ENGRAM_TYPECHECK=0 leaves the types unchecked, as they are for users.
"""

import os

import hypothesis
import pytest
from jaxtyping import install_import_hook

Report = pytest.TestReport | pytest.CollectReport

# Before any test imports the package: each annotated call then checks its shapes, dtypes and types.
if os.environ.get("ENGRAM_TYPECHECK", "1") != "0":
    install_import_hook("engram", "typecheck.check")


# The first example of a property may compile, and machines are shared: time is no ground to fail. CI draws the same
# examples every time.
hypothesis.settings.register_profile("engram", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    """Choose how properties are tested, and keep compiled programs beside pytest's cache: a second run finds them."""
    hypothesis.settings.load_profile("ci" if in_ci() else "engram")
    cache = getattr(config, "cache", None)
    if cache is None:  # -p no:cacheprovider
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


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
