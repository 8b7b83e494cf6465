"""A real browser for the tests of pages: Debian's chromium, driven by playwright, one for each process."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless chromium; skips where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no browser was found: install chromium (Debian: apt-get install chromium) to test pages in it")
    from playwright.sync_api import sync_playwright

    flags = ["--disable-gpu", "--force-color-profile=srgb"]
    # Letters are drawn alike on every machine, whatever its screen and its settings of fonts are.
    flags += ["--font-render-hinting=none", "--enable-font-subpixel-positioning", "--disable-lcd-text"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # chromium refuses to sandbox root
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, headless=True, args=flags)
        yield started
        started.close()
