"""Every Python block of the README and the pages, and every cell of the notebooks, runs as it stands."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def is_slow(block: str) -> bool:
    """Whether it is the article's example, which plays 250 episodes, or needs an extra that the tests have not."""
    return "epochs=250" in block or "import onnxruntime" in block


def running() -> Iterator[Any]:
    """The blocks of each page; a slow one apart, as a page of its own."""
    for page in PAGES:
        blocks = [] if page.name in ELSEWHERE else python_blocks(page)
        if quick := [block for block in blocks if not is_slow(block)]:
            yield pytest.param(quick, page.name, id=page.name)
        for block in filter(is_slow, blocks):
            yield pytest.param([block], page.name, id=f"{page.name}, slow", marks=pytest.mark.slow)


@pytest.mark.parametrize(("blocks", "name"), list(running()))
def test_the_python_of_a_page_runs(blocks: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    run(blocks, name)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_the_cells_of_a_notebook_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    cells = json.loads(notebook.read_text())["cells"]
    space = run(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"], notebook.name)
    if notebook.name == "memory.ipynb":  # its text says so
        assert space["with_memory"].mean > 0.8
        assert abs(space["without_memory"].mean) < 0.4


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_a_page_of_the_site_leads_to_a_notebook(notebook: Path):
    assert any(f"](notebooks/{notebook.name})" in page.read_text() for page in (ROOT / "docs").glob("*.md"))


def test_a_block_that_fails_is_seen():
    with pytest.raises(ZeroDivisionError):
        run(["a = 0", "1 / a"], "page")
