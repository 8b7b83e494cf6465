"""The words of `engram explain`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from engram.cli.typed import Imports, note, whole


@dataclasses.dataclass(frozen=True)
class Explain:
    """Play an episode and write a page that shows each choice and what it came from.

    The page is one file: it opens in a browser, without a network.

    `explain compare A B` lists where two runs choose differently on what A saw.

    RUN@best and RUN@STEP name a checkpoint, as --at does.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN", help_behavior_hint="")]
    """The run's directory."""
    at: Annotated[str | None, arg(metavar="newest|best|STEP"), note("(default: newest)")] = None
    """Which checkpoint: the newest, the best by the evaluations while training, or that of a step."""
    episodes: Annotated[int | None, whole(1, "N"), note("(default: 1)")] = None
    """How many episodes."""
    steps: Annotated[str | None, arg(metavar="A:B"), note("(default: all, at most 5,000)")] = None
    """Tell the steps from A to before B of each episode."""
    out: Annotated[Path | None, arg(metavar="FILE"), note("(default: report.html)")] = None
    """Where the page goes."""
    json: Annotated[bool, note("")] = False
    """Print everything but pictures as one JSON object, and nothing else, to standard output; no page."""
    csv: Annotated[Path | None, arg(metavar="DIR"), note("")] = None
    """Also write steps, memories, attention, measurements and health as CSV files into this folder."""
    text: Annotated[bool, note("")] = False
    """Print it in words; no page."""
    step: Annotated[int | None, whole(0, "T"), note("(default: the key moments)")] = None
    """With --text, the step to tell."""
    faithfulness: Annotated[Literal["fast", "full", "off"], note("(default: fast)")] = "fast"
    """How much is measured of whether what was looked at is what mattered."""
    max_mb: Annotated[float | None, arg(metavar="M"), note("(default: 10)")] = None
    """The largest page, in millions of bytes; above it, only steps around key moments are told whole."""
    no_thumbnails: Annotated[bool, note("")] = False
    """Leave out all pictures, which may show what is private."""
    open: Annotated[bool, note("")] = False
    """Open the page in the browser."""
    seed: Annotated[int | None, whole(0, "S"), note("(default: 0)")] = None
    """The seed of the episodes, which are never those of training; the same seed gives the same page."""
    env: Annotated[str | None, arg(metavar="ID"), note("(default: that of training)")] = None
    """Another environment to play in, with the same observations and actions."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making the environment; without --env it changes one of training."""
    max_episode_steps: Annotated[int | None, whole(1, "N"), note("(default: as in training, else 27,000)")] = None
    """Cut an episode off after N steps."""
    trust: Annotated[bool, note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()
