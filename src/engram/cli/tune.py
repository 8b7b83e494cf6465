"""`engram tune`: its words, and what it prints."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.cli.early import check_words
from engram.cli.flags import Tune, environment_argument
from engram.cli.reports import report
from engram.run.display import clean
from engram.run.settings import OF_TRIALS


def tune(chosen: Tune, settings: Mapping[str, str]) -> None:
    """Search, saying a line about each trial; then the best, and how to train with it."""
    words: Any = chosen
    run = {
        field.name: getattr(chosen, field.name)
        for field in dataclasses.fields(chosen)
        if field.name in OF_TRIALS and getattr(chosen, field.name) != field.default
    }
    if "env_args" in run:
        run["env_args"] = dict(map(environment_argument, run["env_args"]))
    if not words.imports:
        check_words(words.env, run, settings)
    if words.show:
        _show(words, run, settings)
        return
    names = ("trials", "timeout", "jobs", "pruning", "keep")
    given = {name: value for name in names if (value := getattr(words, name)) is not None}
    given |= {"search": words.search, "resume": words.resume, "imports": words.imports, "overrides": dict(settings)}

    def work() -> Any:
        from engram.tuning.tune import tune as search

        return search(words.env, study=words.study or _folder(words.env, run), tell=_say, **given, **run)

    if words.json:
        report(lambda: work().json(), True)
        return
    found = work()
    for line in (*found.lines(), f"{found.picture} shows the trials; engram info {found.folder} tells of each"):
        print(clean(line))


def _show(words: Any, run: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """The space: each setting with its range, and what trial 0 has."""
    from engram.tuning.space import to_json
    from engram.tuning.tune import task_of

    chosen = {name: value for name, value in run.items() if name != "preset"}
    task, notes = task_of(words.env, run.get("preset"), words.search, words.pruning or "median", settings, chosen)
    if words.json:
        print(json.dumps(to_json(task.space)))
        return
    width = max(len(one.path) for one in task.space)
    for one in task.space:
        print(clean(f"{one.path:{width}}  {one.told} (default: {task.defaults[one.path]})"))
    for note in notes:
        print(clean(note))


def _say(text: str) -> None:
    print(clean(text), flush=True)


def _folder(env: str, run: Mapping[str, Any]) -> Path:
    agent = run.get("recipe") or run.get("preset", "auto")
    return Path("runs", re.sub(r"[^\w.-]+", "-", f"{env}-{agent}-tune"))
