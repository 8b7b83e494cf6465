"""The flags of `engram pack`, `push` and `pull`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from engram.cli.typed import Imports, note, whole


@dataclasses.dataclass(frozen=True)
class Pack:
    """Write a folder to share: agent, memory, a fresh evaluation and a model card.

    `engram.load(DIR)`, evaluate, watch, play, explain and memory open it.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Where to write; it must not be there yet."""
    at: Annotated[str | None, arg(metavar="best|latest|STEP"), note("(default: latest)")] = None
    """Which checkpoint: the latest, the best by the evaluations while training, or that of a step."""
    episodes: Annotated[int | None, whole(1, "N"), note("(default: 100)")] = None
    """How many episodes the evaluation plays, on seeds that nothing used before."""
    license: Annotated[str | None, arg(metavar="NAME"), note("(default: none, which the card says)")] = None
    """The licence you give it under, as hubs name it: apache-2.0, mit, cc-by-4.0."""
    video: Annotated[bool, note("")] = False
    """Also a film of one episode (extra video)."""
    report: Annotated[bool, note("")] = False
    """Also the page of engram explain."""
    onnx: Annotated[bool, note("")] = False
    """Also the policy as ONNX (extra export)."""
    env: Annotated[str | None, arg(metavar="ENV"), note("(default: that of training)")] = None
    """The environment to play in, where the run was started with an object."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making the environment; without --env it changes one of training."""
    trust: Annotated[bool, note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()
    json: Annotated[bool, note("")] = False
    """Print one JSON object and nothing else to standard output."""


@dataclasses.dataclass(frozen=True)
class Push:
    """Upload a shared folder to a model hub; a run is packed first (extra hub).

    The token is that of hf auth login, or HF_TOKEN. HF_ENDPOINT names another hub.
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR|RUN")]
    """What engram pack wrote, or a run's directory."""
    repo: Annotated[Positional[str], arg(metavar="REPO")]
    """NAME or OWNER/NAME; made if it is missing."""
    private: Annotated[bool, note("")] = False
    """Make the repository for yourself alone."""
    at: Annotated[str | None, arg(metavar="best|latest|STEP"), note("(default: latest)")] = None
    """Of a run: which checkpoint."""
    episodes: Annotated[int | None, whole(1, "N"), note("(default: 100)")] = None
    """Of a run: how many episodes the evaluation plays."""
    license: Annotated[str | None, arg(metavar="NAME"), note("(default: none, which the card says)")] = None
    """Of a run: the licence you give it under."""
    video: Annotated[bool, note("")] = False
    """Of a run: also a film of one episode (extra video)."""
    report: Annotated[bool, note("")] = False
    """Of a run: also the page of engram explain."""
    onnx: Annotated[bool, note("")] = False
    """Of a run: also the policy as ONNX (extra export)."""
    env: Annotated[str | None, arg(metavar="ENV"), note("(default: that of training)")] = None
    """Of a run: the environment to play in."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Of a run: an argument for making the environment."""
    trust: Annotated[bool, note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()
    json: Annotated[bool, note("")] = False
    """Print one JSON object and nothing else to standard output."""


@dataclasses.dataclass(frozen=True)
class Pull:
    """Download a shared folder from a model hub, and check it (extra hub)."""

    repo: Annotated[Positional[str], arg(metavar="REPO")]
    """OWNER/NAME."""
    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Where to put it; it must not be there yet."""
    revision: Annotated[str | None, arg(metavar="REV"), note("(default: the newest commit)")] = None
    """A branch, a tag or a commit."""
    digest: Annotated[str | None, arg(metavar="HEX"), note("(default: any)")] = None
    """Refuse what has another digest than this, which engram pack and push print."""
    json: Annotated[bool, note("")] = False
    """Print one JSON object and nothing else to standard output."""
