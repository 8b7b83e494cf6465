"""A comparison as one page of HTML that asks for no other file: tables, sentences, and the picture inside it."""

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from engram.checkpoint.disk import replace_file
from engram.comparison import report
from engram.errors import WriteFailed, unwritten
from engram.run import html

if TYPE_CHECKING:
    from engram.comparison.compare import Comparison


def write(comparison: "Comparison", path: Path) -> Path:
    """See `Comparison.html`."""
    try:
        replace_file(path, render(comparison).encode())
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None
    return path


def render(comparison: "Comparison") -> str:
    """The page. Every text of a run is escaped: a run may be a stranger's."""
    from engram.comparison.picture import draw

    picture = BytesIO()
    draw(comparison).savefig(picture, format="png")
    image = base64.b64encode(picture.getvalue()).decode()
    shown = f'<div class="wide"><img alt="curves and intervals" src="data:image/png;base64,{image}"></div>'
    parts = ["<h1>Comparison of runs</h1>", shown]
    for env, title in report.titles(comparison).items():
        rows = [report.cells(row) for row in comparison.table if row["env"] == env]
        parts += [
            f"<h2>{html.text(title)}</h2>",
            html.table(report.HEAD, rows),
            html.sentences(report.below(comparison, env)),
        ]
    if comparison.over_tasks:
        rows = [report.over_cells(row) for row in comparison.over_tasks["table"]]
        parts += [f"<h2>{html.text(report.over_title(comparison))}</h2>", html.table(report.OVER_HEAD, rows)]
        parts.append(html.sentences(report.over_below(comparison)))
    folders = [f"{row['agent']} on {row['env']}: {', '.join(row['runs'])}" for row in comparison.table]
    parts += ["<h2>Runs</h2>", html.sentences(folders), "<h2>Notes</h2>", html.sentences(report.closing(comparison))]
    return html.page("Comparison of runs", parts)
