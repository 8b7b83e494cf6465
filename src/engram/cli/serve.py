"""`engram serve`: a policy server in the foreground."""

from typing import Any

from engram.cli import leave
from engram.cli.places import existing, runs_of
from engram.cli.reports import print_rows
from engram.cli.serve_flags import Serve

SETTINGS = (
    "port", "host", "expose", "token_file", "sessions", "max_sessions", "expires", "limit_rate", "batch",
)  # fmt: skip


def serve(chosen: Serve) -> None:
    """Listen, say where, and answer until Ctrl-C."""
    from engram.serving.server import Running, serve
    from engram.serving.settings import ServeSettings

    every = {name: getattr(chosen, name) for name in SETTINGS}
    given: dict[str, Any] = {name: value for name, value in every.items() if value is not None and value is not False}
    ServeSettings(**given)  # said before anything is loaded
    leave.stops("once what was asked is answered")
    run = runs_of(existing(chosen.run))[0]
    answered = {}

    def announce(running: Running) -> None:
        agent, sessions = running.service.decider.agent, running.service.sessions
        step = "" if agent.step is None else f", step {agent.step:,}"
        rows = [("serving", f"{run}{step}, on {running.url}")]
        rows += [("token", running.token.value.decode())] if running.token.made else []
        rows += [("token file", f"{running.token.file}, readable by its owner alone")]
        lost = "a restart loses none" if sessions.kept == "disk" else "a restart ends them, and says so"
        where = chosen.sessions if sessions.kept == "disk" else "memory"
        rows += [("sessions", f"kept in {where}: {lost}")] if running.service.decider.keeps_state else []
        rows += [("stop", "Ctrl-C")]
        print_rows(rows)
        print(end="", flush=True)
        answered["counts"] = running.service.counts

    serve(run, **({} if chosen.at is None else {"at": chosen.at}), announce=announce, **given)
    print(f"stopped after {answered['counts'].actions:,} actions")
