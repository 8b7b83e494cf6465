"""Draw the row of panels of a page that `engram explain` wrote, at one of its steps. It needs chromium.

python docs/img/page.py report.html docs/img/explain-translation.png --step 3
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, COLOURS = 1280, 96  # pixels of the page; of the picture, which so stays small


def main() -> None:
    """Open the page and keep what its panels look like."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--step", type=int, default=0)
    parser.add_argument("--panels", default=".now", help="a CSS selector")
    options = parser.parse_args()
    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--font-render-hinting=none"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        context = browser.new_context(offline=True, viewport={"width": WIDTH, "height": 2000}, color_scheme="light")
        tab = context.new_page()
        tab.goto(f"{options.page.resolve().as_uri()}#step={options.step}")
        tab.wait_for_selector("html[data-ready]", state="attached")
        tab.wait_for_timeout(500)  # pictures are decoded
        shot = tab.locator(options.panels).screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(options.out, optimize=True)
    print(f"{options.out}: {picture.width} x {picture.height}, {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
