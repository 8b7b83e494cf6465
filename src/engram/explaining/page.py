"""One HTML file that shows an explanation and needs nothing else: no network, no server, no other file.

Two things keep what a user named (actions, texts, tokens) from running as code, each alone: the data stand in a JSON
block that cannot be left, and reach the page through `textContent` only; and the page's own policy allows no script
but the one whose hash it names.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from engram.checkpoint.disk import replace_file
from engram.errors import EngramError, WriteFailed, unwritten
from engram.explaining.data import dumps, encode, shown
from engram.explaining.moments import Told

SCRIPTS = ("read.js", "draw.js", "now.js", "memories.js", "timeline.js", "tabs.js", "page.js")  # one after the other
MEGABYTE = 1_000_000
MAX_MB, REFUSED_MB = 10.0, 50.0
AROUND = (50, 20, 5, 0)  # steps on each side of a key moment that a page too large keeps whole
LANGUAGES = ("en", "zh")


def render(told: Told, keep: Sequence[bool] | None = None, language: str = "en") -> str:
    """The page of `told` as text, ASCII only; the same `told` gives the same text.

    Steps outside `keep` show their numbers only. A reader whose browser asks for Chinese gets Chinese; others get
    `language`, "en" or "zh". Raises `EngramError` for a `told` that contradicts itself.
    """
    if language not in LANGUAGES:
        raise EngramError(f"language is {language!r}; a page speaks {' or '.join(LANGUAGES)}.")
    style, script = source("page.css"), program()
    return filled(
        source("page.html"),
        {
            "language": language,
            "policy": policy(style, script),
            "title": safe(f"{told.env}: {told.agent}"),
            "style": style,
            "summary": _summary(told),
            "words": dumps(json.loads(source("words.json"))),
            "data": dumps(encode(told, keep)),
            "script": script,
        },
    )


def write(told: Told, path: str | Path, max_mb: float | None = None) -> Path:
    """Write the page of `told` and return its path.

    A page above `max_mb` (of 10^6 bytes; 10 if not given) keeps the steps around the key moments whole and of the
    others the numbers, and says so at its top. Raises `EngramError` for one that is still above `max_mb` then, or above
    50 where none was given, and `WriteFailed` where it cannot be written.
    """
    wanted, limit = max_mb or MAX_MB, max_mb or REFUSED_MB
    text = render(told)
    if len(text) > wanted * MEGABYTE:
        text = _thinned(told, wanted)
    if len(text) > limit * MEGABYTE:
        raise EngramError(
            f"the page would take {len(text) / MEGABYTE:.2g} MB, above {limit:g} MB: tell fewer steps (--steps A:B), "
            "leave out the thumbnails (--no-thumbnails), or allow more (--max-mb)."
        )
    path = Path(path)
    try:
        replace_file(path, text.encode("ascii"))  # a page that was there stays until this one is whole
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None
    return path


def notebook(told: Told, height: int = 860) -> str:
    """The page of `told` in a frame of a notebook, `height` pixels high.

    The frame lets the page run its script and nothing else: it reaches neither the notebook nor the network.
    """
    page = html.escape(render(told), quote=True)
    title = safe(f"Engram: {told.env}")
    return (
        f'<iframe title="{title}" sandbox="allow-scripts" width="100%" height="{int(height)}" '
        f'style="border:0" srcdoc="{page}"></iframe>'
    )


def _thinned(told: Told, max_mb: float) -> str:
    """The page with as many whole steps around the key moments as fit, at the least the moments alone."""
    text, places = "", [place for place, _ in told.moments] or [0]
    for around in AROUND:
        keep = [any(abs(step - place) <= around for place in places) for step in range(len(told.steps))]
        note = (
            f"The whole would be above {max_mb:g} MB: pictures, attention and memories are kept for {sum(keep)} of "
            f"{len(keep)} steps, those within {around} of a key moment. The numbers of every step are kept."
        )
        text = render(replace(told, notes=[note, *told.notes]), keep)
        if len(text) <= max_mb * MEGABYTE:
            break
    return text


@cache
def source(name: str) -> str:
    """A file of the page."""
    return resources.files("engram.explaining").joinpath("page", name).read_text("utf-8")


@cache
def program() -> str:
    """The script of the page: its files in one scope."""
    return '"use strict";\n(() => {\n' + "\n".join(source(name) for name in SCRIPTS) + "})();\n"


def policy(style: str, script: str) -> str:
    """The content-security policy that allows this style and this script, pictures in the file, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """The hash by which a policy names an element with exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def safe(text: str) -> str:
    """`text` for the inside of an element or a quoted attribute, as ASCII."""
    return html.escape(shown(text, 400), quote=True).encode("ascii", "xmlcharrefreplace").decode("ascii")


def filled(template: str, values: Mapping[str, str]) -> str:
    """`template` with each `@name@` replaced, in one pass: nothing in a value is replaced again."""
    text = re.sub(r"@([a-z]+)@", lambda found: values[found[1]], template)
    return text if text.isascii() else text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _summary(told: Told) -> str:
    """What a reader without scripts gets."""
    returns = ", ".join(f"{each:.6g}" for each in told.returns[:20]) or "none"
    lines = [f"{len(told.steps)} steps. Return of each episode: {returns}."]
    lines += [f"{each.what}: {each.verdict}" for each in told.faithful]
    lines += [
        f"Step {told.steps[place].t} of episode {told.steps[place].episode} ({why}): {told.steps[place].sentence}"
        for place, why in told.moments[:10]
    ]
    return "\n".join(f"<p>{safe(line)}</p>" for line in [*lines, *told.notes])
