"""The flags of `engram serve`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from engram.cli.typed import Imports, note, whole


@dataclasses.dataclass(frozen=True)
class Serve:
    """Answer observations over HTTP with actions, until Ctrl-C (extra serve).

    A token is made and printed, unless --token-file names one.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory, or a shared folder."""
    at: Annotated[str | None, arg(metavar="newest|best|STEP"), note("(default: newest)")] = None
    """Which checkpoint: the newest, the best by the evaluations while training, or that of a step."""
    port: Annotated[int | None, whole(0, "N"), note("(default: any that is free)")] = None
    """The port to listen at."""
    host: Annotated[str | None, arg(metavar="ADDRESS"), note("(default: 127.0.0.1, this machine alone)")] = None
    """The address to listen at."""
    expose: Annotated[bool, note("")] = False
    """Allow a --host that other machines can reach; nothing is encrypted."""
    token_file: Annotated[Path | None, arg(metavar="FILE"), note("(default: a new one)")] = None
    """The file that holds the token; it is made where it is missing, for its owner alone."""
    sessions: Annotated[Path | None, arg(metavar="DIR"), note("(default: in memory)")] = None
    """Keep sessions in this folder, so that a restart loses none."""
    max_sessions: Annotated[int | None, whole(1, "N"), note("(default: 1,000)")] = None
    """How many sessions may run at a time."""
    expires: Annotated[float | None, arg(metavar="SECONDS"), note("(default: 600)")] = None
    """When a session without requests ends."""
    limit_rate: Annotated[float | None, arg(metavar="N"), note("(default: 1,000)")] = None
    """Requests a second from one address."""
    batch: Annotated[int | None, whole(1, "N"), note("(default: 1)")] = None
    """How many requests one call of the network may answer; more than 1 rounds differently."""
    imports: Imports = ()
