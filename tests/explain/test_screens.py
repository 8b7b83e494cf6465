"""Pages look as they did when a person looked at them, and say to a screen reader what they said.

    ENGRAM_GOLDEN=write uv run pytest tests/explain/test_screens.py      makes golden/ anew: look at it before a commit

`golden/atari.png` has a column for each width and colour scheme, and a row for each panel of `screens.PANELS`.
"""

import difflib
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import screens, tolds
from support.opened import Opened

from engram.explaining import page

pytestmark = pytest.mark.browser
GOLDEN = Path(__file__).parent / "golden"
ANEW = "if it is meant: ENGRAM_GOLDEN=write uv run pytest tests/explain/test_screens.py"
TOLD = {"atari": tolds.atari(60), "cartpole": tolds.cartpole(60)}
# Of 255. Letters that are hinted, or smoothed for an LCD, come to 0.02; the least of the faults below, tabs that are
# hidden, to 2.9. Letters at whole pixels come to 4: the browser of these tests is told to place them between pixels.
TOLERANCE = 2.0
FAULTS = {
    "a panel that is hidden": ".past { display: none; }",
    "a panel without what is in it": "#past { visibility: hidden; }",
    "a list that is hidden": "#waterfall { display: none; }",
    "bars without their fill": ".fill { visibility: hidden; }",
    "nothing over the picture": ".layer { visibility: hidden; }",
    "a timeline without its lines": ".line { visibility: hidden; }",
    "tabs that are hidden": "#tabs { visibility: hidden; }",
    "no sentence": "#sentence { visibility: hidden; }",
    "one column": ".now { grid-template-columns: minmax(0, 1fr); }",
    "letters in the colour of what they stand on": "* { color: var(--panel); }",
    "the other colours": ":root { color-scheme: dark; }",
}


@pytest.fixture(scope="module", params=TOLD)
def written(request, tmp_path_factory):
    return request.param, page.write(TOLD[request.param], tmp_path_factory.mktemp("screens") / "page.html")


def opened(browser, path: Path, width: int, height: int, scheme: str) -> Opened:
    tab = Opened(
        browser, path, viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True,
        reduced_motion="reduce",
    )  # fmt: skip
    screens.styled(tab.tab, screens.font())
    return tab


def kept(name: str, found: bytes | str | np.ndarray) -> Path:
    """The golden file of that name; written first where that is asked for."""
    path = GOLDEN / name
    if os.environ.get("ENGRAM_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        if isinstance(found, np.ndarray):
            Image.fromarray(found).save(path, optimize=True)
        else:
            path.write_text(str(found), encoding="utf-8")
    return path


def test_pages_look_as_they_did(browser, written, tmp_path):
    name, path = written
    looks = list(product(screens.SIZES, screens.SCHEMES))
    found = []
    for (width, height), scheme in looks:
        with opened(browser, path, width, height, scheme) as tab:
            found.append(screens.panels(tab.tab))
    golden = np.asarray(Image.open(kept(f"{name}.png", np.concatenate(found, 1))))
    Image.fromarray(np.concatenate(found, 1)).save(tmp_path / f"{name}.png")
    far = [
        f"{width} px, {scheme}: {panel} is {distance:.1f} apart"
        for ((width, _), scheme), now, before in zip(looks, found, np.hsplit(golden, len(looks)), strict=True)
        for panel, distance in screens.apart(now, before).items()
        if distance > TOLERANCE
    ]
    assert not far, f"{far}; see {tmp_path / name}.png beside {GOLDEN / name}.png; {ANEW}"


@pytest.mark.parametrize("width", [360, 2560])
def test_a_page_that_looks_otherwise_is_caught(browser, tmp_path, width):
    path = page.write(TOLD["atari"], tmp_path / "page.html")
    golden = np.hsplit(np.asarray(Image.open(GOLDEN / "atari.png")), len(screens.SIZES) * len(screens.SCHEMES))
    at = [size[0] for size in screens.SIZES].index(width)
    with opened(browser, path, *screens.SIZES[at], "light") as tab:
        screens.styled(tab.tab, "")
        for fault, css in FAULTS.items():
            if fault == "one column" and width == 360:
                continue  # it has one
            tab.tab.evaluate("css => { document.head.lastChild.textContent = css; }", css)
            tab.tab.wait_for_timeout(100)
            apart = screens.apart(screens.panels(tab.tab), golden[2 * at])
            assert max(apart.values()) > TOLERANCE, (fault, apart)


# What is read out aloud lags behind what is shown.
SAID = "document.getElementById('live').textContent.includes(document.querySelector('#sentence strong').textContent)"


def test_pages_say_to_a_screen_reader_what_they_said(browser, tmp_path):
    said = []
    for name, told in (("atari", tolds.atari(3, side=2, memories=3)), ("cartpole", tolds.cartpole(4))):
        with Opened(browser, page.write(told, tmp_path / f"{name}.html")) as tab:
            tab.seek(len(told.steps) - 1)
            tab.tab.evaluate("document.querySelector('[data-memory]').click()")
            tab.until(SAID)
            said.append(f"# {name}\n{tab.tab.locator('body').aria_snapshot()}")
            for one in tab.tab.get_by_role("tab").all():
                one.click()
                said.append(f"# {name}, {one.inner_text()}\n{tab.tab.locator('#tab-panel').aria_snapshot()}")
            tab.tab.keyboard.press("?")
            said.append(f"# {name}, help\n{tab.tab.get_by_role('dialog').aria_snapshot()}")
    now = "\n".join(said) + "\n"
    before = kept("tree.yaml", now).read_text("utf-8")
    changed = list(difflib.unified_diff(before.splitlines(), now.splitlines(), "before", "now", n=1))
    assert not changed, "\n".join([*changed[:40], ANEW])


def test_a_tree_without_a_name_or_a_panel_is_another(browser, tmp_path):
    with Opened(browser, page.write(tolds.cartpole(4), tmp_path / "page.html")) as tab:
        body = tab.tab.locator("body")
        tab.until(SAID)
        whole = body.aria_snapshot()
        for break_it in (
            "for (const name of ['aria-label', 'title']) document.getElementById('seek').removeAttribute(name)",
            "document.getElementById('decision').removeAttribute('aria-labelledby')",
            "document.querySelector('.past').hidden = true",
        ):
            tab.tab.evaluate(break_it)
            now = body.aria_snapshot()
            assert now != whole, break_it
            whole = now
