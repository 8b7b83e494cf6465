"""`engram explain`: a page, one JSON object or words on what an agent chose and what that came from."""

import json
import sys
import webbrowser
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from engram.cli.explain_flags import Explain
from engram.cli.flags import environment_argument
from engram.cli.places import existing
from engram.errors import SpecError
from engram.run.display import clean, fitting
from engram.run.folders import checkpoint_of

PAGE = Path("report.html")
COMPARE = "compare"


def explain(chosen: Explain) -> None:
    """Play, measure, and write or print what was found."""
    steps, runs = _steps(chosen), _runs(chosen)
    _check(chosen, len(runs))
    with redirect_stdout(sys.stderr):  # what an environment prints is no part of the answer
        found = _compared(chosen, runs, steps) if len(runs) == 2 else _explained(chosen, *runs[0], steps)
    if len(runs) == 2:
        print(json.dumps(found.json(), allow_nan=False)) if chosen.json else _say(found.lines())
        return
    if chosen.csv is not None:
        with redirect_stdout(sys.stderr):
            _say([f"{chosen.csv} holds {', '.join(path.name for path in found.csv(chosen.csv))}"])
    if chosen.json:
        print(json.dumps(found.json(), allow_nan=False))
    elif chosen.text:
        _say(_words(chosen, found))
    else:
        _page(chosen, found)


def _runs(chosen: Explain) -> list[tuple[Path, str | None]]:
    """The run, or the two that are compared, each with the checkpoint that its name or --at asks for."""
    if str(chosen.runs[0] if chosen.runs else "") == COMPARE and (len(chosen.runs) != 1 or not Path(COMPARE).exists()):
        if len(chosen.runs) == 3:
            return [_checkpoint(run, chosen.at) for run in chosen.runs[1:]]
        given = len(chosen.runs) - 1
        raise SpecError(f"compare was given {given} run{'s' * (given != 1)}; write engram explain compare A B")
    if len(chosen.runs) == 1:
        return [_checkpoint(chosen.runs[0], chosen.at)]
    raise SpecError(
        f"{len(chosen.runs)} runs were given; write engram explain RUN, or engram explain compare A B for two of them"
    )


def _checkpoint(run: Path, at: str | None) -> tuple[Path, str | None]:
    """The directory of a run, and which checkpoint of it: its own, as in RUN@best, or else `at`."""
    folder, own = checkpoint_of(str(run))
    if own is not None and at is not None:
        raise SpecError(f"--at {at} was given beside {run}, which names a checkpoint itself; leave one of them out")
    return existing(folder), at if own is None else own


def _steps(chosen: Explain) -> tuple[int | None, int | None] | None:
    """A and B of --steps A:B; either may be left out."""
    if chosen.steps is None:
        return None if chosen.step is None else (chosen.step, chosen.step + 1)
    first, colon, end = chosen.steps.partition(":")
    numbers = [None if not word else int(word) if word.isdecimal() else -1 for word in (first, end)]
    if not colon or -1 in numbers:
        raise SpecError(f"--steps {chosen.steps} is no range; write A:B, such as 200:400, or one of them, as in :50")
    return numbers[0], numbers[1]


def _check(chosen: Explain, runs: int) -> None:
    """What goes together, before anything heavy is loaded."""
    if chosen.json and chosen.text:
        raise SpecError("--json and --text were both given; leave one of them out")
    if chosen.step is not None and not chosen.text:
        raise SpecError("--step was given without --text; write --text --step T, or --steps A:B for a page")
    if chosen.step is not None and chosen.steps is not None:
        raise SpecError("--step and --steps were both given; leave one of them out")
    page = {"--out": chosen.out is not None, "--open": chosen.open, "--max-mb": chosen.max_mb is not None}
    page |= {"--no-thumbnails": chosen.no_thumbnails}
    for flag, given in page.items():
        if given and (chosen.json or chosen.text or runs == 2):
            raise SpecError(f"{flag} is for a page, and none is written here; leave it out")
    if runs == 2 and chosen.csv is not None:
        raise SpecError("--csv was given, and two runs that are compared make no tables; leave it out, or write --json")
    if chosen.csv is not None and chosen.csv.exists() and not chosen.csv.is_dir():
        raise SpecError(f"--csv {chosen.csv} is a file; name a folder, which is made where there is none")
    if runs == 2 and chosen.faithfulness != "fast":
        raise SpecError("--faithfulness was given, and nothing is measured where two runs are compared; leave it out")
    if chosen.out is not None and (chosen.out.is_dir() or not chosen.out.parent.is_dir()):
        raise SpecError(f"--out {chosen.out} cannot be a file; name one in a folder that is there, as in {PAGE}")
    if chosen.max_mb is not None and not chosen.max_mb > 0:
        raise SpecError(f"--max-mb {chosen.max_mb:g} was given; expected millions of bytes, more than 0")


def _given(chosen: Explain, steps: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"steps": steps, "seed": chosen.seed, "trust": chosen.trust}
    given |= {"episodes": chosen.episodes} if chosen.episodes is not None else {}
    given |= {"env": chosen.env} if chosen.env is not None else {}
    given |= {"env_args": dict(map(environment_argument, chosen.env_arg))} if chosen.env_arg else {}
    given |= {"max_episode_steps": chosen.max_episode_steps} if chosen.max_episode_steps is not None else {}
    return given


def _explained(chosen: Explain, run: Path, at: str | None, steps: Any) -> Any:
    from engram.explaining.explanation import explain as explained

    asked = {} if at is None else {"at": at}
    found = explained(run, faithfulness=chosen.faithfulness, **asked, **_given(chosen, steps))
    return found.without_pictures() if chosen.no_thumbnails else found


def _compared(chosen: Explain, runs: list[tuple[Path, str | None]], steps: Any) -> Any:
    from engram.explaining.compared import compare
    from engram.run.stored import load

    first, second = (load(run, trust=chosen.trust, **({} if at is None else {"at": at})) for run, at in runs)
    return compare(first, second, **_given(chosen, steps))


def _words(chosen: Explain, found: Any) -> list[str]:
    from engram.explaining import text

    if chosen.step is None:
        return [*text.lines(found.told)]
    # That step of each episode that has it; `steps` has told no other.
    told = [line for step in found.told.steps for line in text.step_lines(found.told, step)]
    return [*told, *text.faithful_lines(found.told.faithful)]


def _say(lines: list[str]) -> None:
    for line in lines:
        print(*fitting(clean(line), sys.stdout, "    "), sep="\n")


def _page(chosen: Explain, found: Any) -> None:
    from engram.explaining import text

    more = {} if chosen.max_mb is None else {"max_mb": chosen.max_mb}
    path = found.save(PAGE if chosen.out is None else chosen.out, **more)
    _say([*text.faithful_lines(found.told.faithful)])
    print(clean(f"{path} holds the page ({path.stat().st_size / 1e6:.1f} MB)"))
    if chosen.open:
        webbrowser.open(path.resolve().as_uri())
