"""A comparison as one page of HTML that asks for no other file: tables, sentences, and the picture inside it."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from engram.comparison import report
from engram.errors import WriteFailed, unwritten
from engram.run.metrics import replace_file

if TYPE_CHECKING:
    from engram.comparison.compare import Comparison

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;text-align:right;"
    "border-bottom:1px solid #ddd;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
    ".wide{overflow-x:auto}img{width:100%;min-width:44rem}small{color:#555}"  # a telephone scrolls these sideways
)


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
        parts += [f"<h2>{_text(title)}</h2>", _table(report.HEAD, rows), _list(report.below(comparison, env))]
    if comparison.over_tasks:
        rows = [report.over_cells(row) for row in comparison.over_tasks["table"]]
        parts += [f"<h2>{_text(report.over_title(comparison))}</h2>", _table(report.OVER_HEAD, rows)]
        parts.append(_list(report.over_below(comparison)))
    folders = [f"{row['agent']} on {row['env']}: {', '.join(row['runs'])}" for row in comparison.table]
    parts += ["<h2>Runs</h2>", _list(folders), "<h2>Notes</h2>", _list(report.closing(comparison))]
    seen = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{seen}<title>Comparison of runs</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _row(tag: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_text(text)}</{tag}>" for text in texts) + "</tr>"


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences) + "</ul>"


def _text(text: str) -> str:
    """For HTML; a name of a file may hold half a character, which UTF-8 cannot."""
    return escape(text.encode("utf-8", "backslashreplace").decode())
