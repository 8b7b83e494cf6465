"""Pages of HTML that ask for no other file: tables and sentences. Every text is escaped: it may be a stranger's."""

from collections.abc import Sequence
from html import escape

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;text-align:right;"
    "border-bottom:1px solid #ddd;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
    ".wide{overflow-x:auto}img{width:100%;min-width:44rem}small{color:#555}"  # a telephone scrolls these sideways
)


def page(title: str, parts: Sequence[str]) -> str:
    """The page of these pieces of HTML."""
    seen = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{seen}<title>{text(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that a narrow screen scrolls sideways."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def sentences(lines: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>"


def text(given: str) -> str:
    """For HTML; a name of a file may hold half a character, which UTF-8 cannot."""
    return escape(given.encode("utf-8", "backslashreplace").decode())


def _row(tag: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{text(one)}</{tag}>" for one in texts) + "</tr>"
