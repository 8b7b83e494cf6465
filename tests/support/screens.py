"""Screens of pages as small grey pictures, in a font of our own, so that they can be compared across machines."""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

SIZES = ((360, 740), (1280, 900), (2560, 1440))
SCHEMES = ("light", "dark")
# The first screen as it is laid out, and each panel by itself: where one grows by a line, those below it stay alike.
PANELS = {
    "screen": None, "top": ".top", "seen": ".seen", "decision": ".decision", "past": ".past", "dock": ".dock",
    "time": ".time", "more": ".more",
}  # fmt: skip
WIDE, HIGH = 48, 36  # blocks of each

BOXES = """panels => Object.values(panels).map(css => {
  if (!css) return [0, 0, window.innerWidth, window.innerHeight];
  const found = document.querySelector(css), box = found ? found.getBoundingClientRect() : null;
  return box && box.width && box.height ? [box.left, box.top + window.scrollY, box.width, box.height] : null;
})"""
STYLE = """css => { const style = document.createElement('style'); style.textContent = css; document.head.append(style);
  window.dispatchEvent(new Event('resize')); return document.fonts.ready.then(() => document.fonts.size); }"""


def font() -> str:
    """A style by which all text is in the font that Matplotlib brings: the same on every machine."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    source = base64.b64encode(file.read_bytes()).decode()
    return (
        f"@font-face {{ font-family: same; src: url(data:font/ttf;base64,{source}); }}"
        "* { font-family: same !important; font-weight: 400 !important; }"
    )


def styled(tab: Any, css: str) -> None:
    """Add a style, which the page's own policy would refuse: the tab has to bypass it."""
    tab.evaluate(STYLE, css)
    tab.wait_for_timeout(150)  # fonts are loaded, and canvases painted anew


def panels(tab: Any) -> np.ndarray:
    """What a tab shows: the mean grey of blocks of each panel, below each other. One that is not there is half grey."""
    boxes = tab.evaluate(BOXES, PANELS)
    whole = Image.open(io.BytesIO(tab.screenshot(full_page=True, animations="disabled"))).convert("L")
    found = np.full((len(PANELS), HIGH, WIDE), 128, np.uint8)
    for panel, box in zip(found, boxes, strict=True):
        if box is not None:
            left, top, width, height = (round(side) for side in box)
            cut = whole.crop((left, top, left + width, top + height))
            panel[:] = np.asarray(cut.resize((WIDE, HIGH), Image.Resampling.BOX))
    return found.reshape(-1, WIDE)


def apart(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far each panel lies from that of another screen: the root of the mean square over its blocks, of 255."""
    squares = (one.astype(float) - other.astype(float)) ** 2
    each = squares.reshape(len(PANELS), -1).mean(1) ** 0.5
    return dict(zip(PANELS, each.tolist(), strict=True))
