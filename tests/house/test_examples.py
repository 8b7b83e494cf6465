"""Every Python block of the README and the pages, and every cell of the notebooks, runs as it stands."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# Blocks that are a file to write (their first line names it) or an outline of code that stands elsewhere.
ELSEWHERE = ("parts.md", "architecture.md")


def python_blocks(page: Path) -> list[str]:
    """The blocks that say they are Python, in order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def run(blocks: list[str], name: str) -> dict:
    """Runs blocks one after another in one namespace, as a reader would."""
    space: dict = {"__name__": "__main__"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}, block {number}", "exec"), space)  # noqa: S102, what the project itself says
    return space


SLOW = ("README.md",)  # the article's example plays 250 episodes
RUNNING = [
    pytest.param(page, marks=pytest.mark.slow) if page.name in SLOW else page
    for page in PAGES
    if page.name not in ELSEWHERE and python_blocks(page)
]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    run(python_blocks(page), page.name)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_the_cells_of_a_notebook_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(notebook.read_text())["cells"]
    run(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"], notebook.name)


def test_a_block_that_fails_is_seen():
    with pytest.raises(ZeroDivisionError):
        run(["a = 0", "1 / a"], "page")
