"""`engram memory`: what the agent of a run remembers; entries taken out of it, or given another value."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.cli.memory_flags import VERBS, Memory
from engram.cli.reports import print_rows, report
from engram.errors import SpecError, hint
from engram.run.display import clean, fitting
from engram.run.folders import holds_packed

if TYPE_CHECKING:
    from engram.play.memories import Memories, Remembered
    from engram.run.surgery import SharedMemory, StoredMemory

LIMIT, NUMBERS = 20, 64  # entries that are listed, and numbers of an observation that are shown, if not asked otherwise
OF_VERB = {
    "list": ("where", "limit", "sort"),
    "show": ("id", "seed"),
    "delete": ("id", "seed", "where", "all", "yes", "page"),
    "edit": ("id", "seed", "value", "yes", "page"),
    "export": ("where", "out", "observations"),
}


def memory(chosen: Memory) -> None:
    """Do what the verb says, and print it."""
    _check(chosen)
    _check_run(chosen.run)
    if chosen.verb == "list":
        _list(chosen)
    elif chosen.verb == "show":
        report(lambda: _shown(chosen), chosen.json)
    elif chosen.verb == "export":
        report(lambda: _exported(chosen), chosen.json)
    else:
        _change(chosen)


def _check(chosen: Memory) -> None:
    """SpecError for a verb that there is not, and for flags that it does not take or lacks."""
    if chosen.verb not in VERBS:
        raise SpecError(f"{chosen.verb!r} is nothing that engram memory does; {hint(chosen.verb, VERBS)}")
    plain = {field.name: field.default for field in dataclasses.fields(Memory)}
    given = [name for name, default in plain.items() if getattr(chosen, name) not in (default, dataclasses.MISSING)]
    about = {name for names in OF_VERB.values() for name in names}
    if wrong := [name for name in given if name in about and name not in OF_VERB[chosen.verb]]:
        flag = "an ID" if wrong[0] == "id" else f"--{wrong[0]}"
        raise SpecError(f"engram memory RUN {chosen.verb} takes no {flag}; leave it out (see engram memory --help)")
    if chosen.verb in ("show", "edit") and chosen.id is None:
        raise SpecError(
            f"no entry was named; write engram memory RUN {chosen.verb} ID (engram memory RUN list tells ids)"
        )
    if chosen.verb == "edit" and chosen.value is None:
        raise SpecError("no value was given; write engram memory RUN edit ID --value NUMBER")
    if chosen.verb == "export" and chosen.out is None:
        raise SpecError("no file was named; write engram memory RUN export --out FILE.csv (or .json)")
    for flag, file in (("--page", chosen.page), ("--out", chosen.out)):
        if file is not None and (file.is_dir() or not file.parent.is_dir()):  # said before anything is changed
            raise SpecError(f"{flag} {file} cannot be a file; name one in a folder that is there")
    if chosen.all and (chosen.id is not None or chosen.where):
        other = "an ID" if chosen.id is not None else "--where"
        raise SpecError(f"--all was given with {other}; leave one of them out")
    if chosen.verb == "delete" and chosen.id is None and not chosen.where and not chosen.all:
        raise SpecError(
            "nothing says which entries to delete; write an ID, --where NAME=VALUE (as in --where episode=7), or --all"
        )


def _check_run(folder: Path) -> None:
    """SpecError for a folder of several runs."""
    from engram.cli.places import existing, runs_of

    if (runs := runs_of(existing(folder))) != [folder]:
        raise SpecError(f"{folder} holds {len(runs)} runs, one for each seed; name one of them, as in {runs[0]}")


def _opened(chosen: Memory, change: bool = False) -> "StoredMemory | SharedMemory":
    from engram.run.surgery import SharedMemory, StoredMemory

    if holds_packed(chosen.run):
        return SharedMemory(chosen.run)
    return StoredMemory(chosen.run, change=change)


def _selected(chosen: Memory, memories: "Memories") -> "Memories":
    """The entries that the flags name."""
    from engram.play.choosing import read_condition

    for text in chosen.where:
        name, value = read_condition(text)
        memories = memories.where(**{name: value})
    by_id: dict[str, Any] = {} if chosen.id is None else {"ids": chosen.id}
    by_id |= {} if chosen.seed is None else {"seed": chosen.seed}
    return memories.where(**by_id) if by_id else memories


# -- looking -----------------------------------------------------------------------------------------------


def _list(chosen: Memory) -> None:
    def work() -> dict[str, Any]:
        with _opened(chosen) as stored:
            selected = _selected(chosen, stored.memory)
            shown = _sorted(list(selected), chosen.sort)[: LIMIT if chosen.limit is None else chosen.limit]
            about = {"run": str(chosen.run), "step": stored.step, "kind": stored.memory.kind}
            counts = {"entries": len(stored.memory), "chosen": len(selected)}
            return about | counts | {"shown": [vars(entry) for entry in shown]}

    if chosen.json:
        report(work, True)
        return
    found = work()
    whole = "" if found["chosen"] == found["entries"] else f", {found['chosen']:,} of them chosen"
    print(clean(f"{found['run']}, step {found['step']:,}: {found['entries']:,} entries of {found['kind']}{whole}"))
    if found["shown"]:
        for line in _table(found["shown"]):
            print(*fitting(clean(line), sys.stdout), sep="\n")
    if (more := found["chosen"] - len(found["shown"])) > 0:
        print(f"{more:,} more; --limit N shows more of them, --where NAME=VALUE chooses")


def _sorted(entries: "list[Remembered]", by: str | None) -> "list[Remembered]":
    """By id, or the greatest first of another column; what is not known comes last."""
    from engram.play.memories import COLUMNS

    if by is None:
        return entries
    if by not in COLUMNS:
        raise SpecError(f"entries cannot be sorted by {by!r}; {hint(by, COLUMNS)}")
    known = [entry for entry in entries if getattr(entry, by) is not None]
    if entries and not known:
        raise SpecError(f"this kind of memory does not keep {by!r}, by which --sort would sort; choose another column")
    return sorted(known, key=lambda entry: getattr(entry, by), reverse=by not in ("id", "seed"))


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Columns below each other; those that are not kept are left out."""
    from engram.run.surgery_page import cell

    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    cells = [names, *([cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in cells]


def _shown(chosen: Memory) -> dict[str, Any]:
    import jax

    with _opened(chosen) as stored:
        entry = next(iter(_selected(chosen, stored.memory)))
        seen = stored.memory.observation(entry.id, entry.seed)
        if seen is None:
            return vars(entry) | {"observation": None if chosen.json else "not kept"}
        if not chosen.json and (count := sum(leaf.size for leaf in jax.tree.leaves(seen))) > NUMBERS:
            return vars(entry) | {"observation": f"{count:,} numbers; --json prints them"}
        return vars(entry) | {"observation": jax.tree.map(lambda leaf: leaf.tolist(), seen)}


def _exported(chosen: Memory) -> dict[str, Any]:
    assert chosen.out is not None
    with _opened(chosen) as stored:
        selected = _selected(chosen, stored.memory)
        return {"file": str(selected.export(chosen.out, chosen.observations)), "entries": len(selected)}


# -- changing ----------------------------------------------------------------------------------------------


def _change(chosen: Memory) -> None:
    if chosen.json:
        report(lambda: _changed(chosen), True)
        return
    found = _changed(chosen)
    left, verb = found.pop("left"), "deleted" if chosen.verb == "delete" else "edited"
    if found["done"]:
        print(clean(f"{verb} in {chosen.run}: {_counts(found)}"))
        print_rows([("checkpoint before", found["before"]), ("checkpoint now", f"{found['after']}, {found['path']}")])
    else:
        print(clean(f"would be {verb} in {chosen.run}: {_counts(found)}; nothing was changed: add --yes to do it"))
    for sentence in left:
        print(*fitting(clean(f"- {sentence}"), sys.stdout, "  "), sep="\n")
    if chosen.page is not None:
        print(clean(f"{chosen.page} holds the page"))


def _counts(found: dict[str, Any]) -> str:
    waiting = found["waiting"]
    more = f", and {waiting:,} actions that waited for their return" if waiting else ""
    return f"{found['entries']:,} {'entry' if found['entries'] == 1 else 'entries'}{more} ({found['what']})"


def _changed(chosen: Memory) -> dict[str, Any]:
    """What was done, or would be."""
    from engram.run.surgery import StoredMemory

    if holds_packed(chosen.run):
        raise SpecError(
            f"{chosen.run} is a shared folder, which is never changed; {chosen.verb} in the run that it was made of, "
            f"and pack that again"
        )
    with StoredMemory(chosen.run, change=chosen.yes) as stored:
        selected = _selected(chosen, stored.memory)
        entries, told = list(selected), _told(chosen)
        waiting = stored.waiting(selected) if chosen.verb == "delete" else 0
        if not entries and not waiting:
            raise SpecError(
                f"nothing in the memory of {chosen.run} matches {told}, so nothing was changed; it holds "
                f"{len(stored.memory):,} entries (engram memory {chosen.run} list)"
            )
        if chosen.verb == "delete":
            stored.forget(selected)
        else:
            assert chosen.id is not None
            assert chosen.value is not None
            stored.memory.edit(chosen.id, chosen.value, chosen.seed)
        found: dict[str, Any] = {
            "run": str(chosen.run), "verb": chosen.verb, "done": chosen.yes, "what": told, "entries": len(entries),
            "waiting": waiting, "step": stored.loaded.step, "before": stored.loaded.id,
        }  # fmt: skip
        if chosen.yes:
            done = stored.save(chosen.verb, told, entries=len(entries), waiting=waiting)
            found |= {"after": done.saved.id, "path": str(done.saved.path), "left": done.left}
        else:
            found["left"] = stored.left()
        if chosen.page is not None:
            from engram.run.surgery_page import Changed, write

            value = chosen.value if chosen.verb == "edit" else None
            changed = Changed(chosen.verb, told, entries, value, found["left"])
            write(chosen.page, stored.plan, stored.loaded, stored.before, stored.agent.minds, changed)
        return found


def _told(chosen: Memory) -> str:
    words = [] if chosen.id is None else [f"id={chosen.id}"]
    words += [f"seed={chosen.seed}"] if chosen.seed is not None else []
    words += chosen.where
    words += [f"value={chosen.value:g}"] if chosen.value is not None else []
    return " and ".join(words) or "all"
