"""`engram pack`, `push` and `pull`: an agent as a folder, to a hub and from there."""

import sys
from typing import Any

from engram.cli.flags import environment_argument
from engram.cli.places import existing, runs_of
from engram.cli.reports import report
from engram.cli.share_flags import Pack, Pull, Push
from engram.errors import SpecError
from engram.run.display import is_tty

OF_PACKING = ("episodes", "license", "video", "report", "onnx", "env", "trust")


def pack(chosen: Pack) -> None:
    """`engram pack`."""
    existing(chosen.run)
    _check_single(chosen)

    def work() -> dict[str, Any]:
        from engram.sharing.packing import pack

        found = pack(chosen.run, chosen.folder, **_packing(chosen))
        return _facts(found)

    report(work, chosen.json)


def push(chosen: Push) -> None:
    """`engram push`."""
    existing(chosen.folder)
    _check_single(chosen)
    _quieten()

    def work() -> dict[str, Any]:
        from engram.sharing.hub import push

        done = push(chosen.folder, chosen.repo, private=chosen.private, **_packing(chosen))
        return {"repository": done.url, "commit": done.commit, "digest": done.digest}

    report(work, chosen.json)


def pull(chosen: Pull) -> None:
    """`engram pull`."""
    _quieten()

    def work() -> dict[str, Any]:
        from engram.sharing.hub import pull

        done = pull(chosen.repo, chosen.folder, revision=chosen.revision, digest=chosen.digest)
        left = {"left on the hub": ", ".join(done.left)} if done.left and not chosen.json else {}
        left |= {"left": done.left} if chosen.json else {}
        return _facts(done.packed) | {"commit": done.commit} | left

    report(work, chosen.json)


def _packing(chosen: Pack | Push) -> dict[str, Any]:
    """The arguments of `engram.pack` that were typed."""
    given = {name: value for name in OF_PACKING if (value := getattr(chosen, name))}
    given |= {"env_args": dict(map(environment_argument, chosen.env_arg))} if chosen.env_arg else {}
    return given | ({"at": chosen.at} if chosen.at is not None else {})


def _check_single(chosen: Pack | Push) -> None:
    """SpecError for a folder of several runs."""
    folder = chosen.run if isinstance(chosen, Pack) else chosen.folder
    if (runs := runs_of(folder)) != [folder]:
        raise SpecError(f"{folder} holds {len(runs)} runs, one for each seed; name one of them, as in {runs[0]}")


def _facts(found: Any) -> dict[str, Any]:
    """What a shared folder is, in a few lines."""
    from engram.checkpoint.disk import bytes_in

    return {
        "folder": str(found.folder),
        "env": found.plan.env,
        "preset": found.plan.preset,
        "step": found.step,
        "files": len(list(found.folder.iterdir())),
        "bytes": bytes_in(found.folder),
        "digest": found.digest,
    }


def facts(folder: Any) -> dict[str, Any]:
    """What `engram info` tells of a shared folder, once all of it was checked."""
    from engram.run.packed import verified

    return _facts(verified(folder))


def _quieten() -> None:
    """No bars of progress where nobody watches."""
    if not is_tty(sys.stderr):
        try:
            from huggingface_hub.utils import disable_progress_bars
        except ImportError:  # said where the hub is asked
            return
        disable_progress_bars()
