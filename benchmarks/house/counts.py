"""What the house is made of, counted in the source of one or two checkouts.

    python -m benchmarks.house.counts --old OLD                this checkout beside an old one: seconds
    python -m benchmarks.house.counts --new DIR --out FILE     one checkout alone

Every count is a pattern over the syntax tree, and so a measure of the pattern, not a proof:

- *forward paths*: ways from an observation to Q for acting. A *kernel* is a function that names `network.step` or
  `params.step`. Counted are: `agents/policy.py` as a whole, once, if it holds a kernel; each function elsewhere that
  calls a kernel which lies elsewhere; such a kernel itself if nobody calls it; and each function that reaches into
  both `.encoder.` and `.head` of a network, other than to `.build` them. Learning (`unroll`) does not count.
- *class checks on parts*: lines with `isinstance`, `type(...) is` or `case` against a class that a part's folder
  defines or whose name ends in Spec. *On states*: the same for other classes of `agents/`.
- *reads of undeclared abilities*: `getattr` or `hasattr` of a part (`self.external`, `spec.head`, ...) by a literal
  name.
- *slices by three*: `[-3:]` and `[:-3]` in `runners/`, where the host runner kept its metrics.
- *declarations of `group`*: fields, parameters, keywords of `dict(...)`, keys and entries of class docstrings, outside
  `runners/` and `comparison/`, where the word is another.
- *settings*: fields of every registered spec and of the agent's groups, asked of the checkout's own interpreter.
"""

import argparse
import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.house.pairs import Checkout, add_checkouts, checkouts, record_of

PARTS = ("encoders", "working", "external", "heads", "exploration", "losses", "replay")
ROLES = ("encoder", "working", "external", "head", "exploration", "draw", "loss", "bootstrap")
SETTING = "group"  # the run setting whose declarations are counted
LONG = 40  # lines
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class File:
    """A parsed source file; `name` is relative to the package, `agents/spec.py`."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def folder(self) -> str:
        """The first folder, or nothing for a file at the package's root."""
        return self.name.partition("/")[0] if "/" in self.name else ""

    def of(self, *kinds: type[ast.AST]) -> Iterator[Any]:
        """Every node of these kinds."""
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))


def source(root: Path) -> list[File]:
    """The package of a checkout."""
    package = root / "src" / "engram"
    return [File(path.relative_to(package).as_posix(), path.read_text()) for path in sorted(package.rglob("*.py"))]


# Forward paths


def forward_paths(files: list[File]) -> list[str]:
    """Where actions are valued; see the head of this file."""
    kernels, by_hand = [], []
    for file, one in _functions(files):
        if file.folder == "testing" or file.name == "agents/network.py":
            continue
        if any(_is(node, "step", ("network", "params")) for node in ast.walk(one)):
            kernels.append((file, one.name))
        elif _reaches_into_layers(one):
            by_hand.append(_place(file, one.lineno, one.name))
    policy = [f"{file.name} {name}" for file, name in kernels if file.name == "agents/policy.py"]
    elsewhere = []
    for file, name in kernels:
        if file.name != "agents/policy.py":
            callers = [_place(there, one.lineno, one.name) for there, one in _functions(files)
                       if _calls(there, one, file, name)]  # fmt: skip
            elsewhere += callers or [f"{file.name} {name}"]
    return policy[:1] + elsewhere + by_hand


def _functions(files: list[File]) -> Iterator[tuple[File, Function]]:
    return ((file, node) for file in files for node in file.of(ast.FunctionDef, ast.AsyncFunctionDef))


def _is(node: ast.AST, name: str, owners: tuple[str, ...]) -> bool:
    """Whether `node` is `....owner.name`."""
    return isinstance(node, ast.Attribute) and node.attr == name and _last(node.value) in owners


def _last(node: ast.AST) -> str:
    """The last name of `a.b.name` or `name`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _reaches_into_layers(one: Function) -> bool:
    nodes = list(ast.walk(one))
    inside = any(isinstance(node, ast.Attribute) and node.attr != "build" and isinstance(node.value, ast.Attribute)
                 and node.value.attr == "encoder" for node in nodes)  # fmt: skip
    return inside and any(isinstance(node, ast.Attribute) and node.attr == "head" for node in nodes)


def _calls(file: File, one: Function, home: File, name: str) -> bool:
    """Whether a function calls `name` of the file `home`: bare, where it is known, or through its module's name."""
    module = home.name.removesuffix(".py").replace("/", ".")
    bare = file is home or any(node.module == f"engram.{module}" and name in {alias.name for alias in node.names}
                               for node in file.of(ast.ImportFrom))  # fmt: skip
    for node in ast.walk(one):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id == name and bare:
                return True
            if _is(called, name, (module.rpartition(".")[2],)):
                return True
    return False


# Class checks


def class_checks(files: list[File], folders: tuple[str, ...], specs: bool) -> list[str]:
    """Lines that ask for a class of these folders, or with `specs`, for any class named ...Spec."""
    known = {node.name for file in files if file.folder in folders for node in file.of(ast.ClassDef)}
    known -= {node.name for file in files if file.folder not in folders for node in file.of(ast.ClassDef)}

    def counts(node: ast.AST) -> bool:
        names = {_last(inner) for inner in ast.walk(node)}
        return any(specs if name.endswith("Spec") else name in known for name in names)

    found = set()
    for file in files:
        for node in file.of(ast.Call, ast.Compare, ast.MatchClass):
            if any(map(counts, _asked_for(node))):
                found.add((file.name, node.lineno))
    return [f"{name}:{line}" for name, line in sorted(found)]


def _asked_for(node: ast.AST) -> list[ast.expr]:
    """The classes in a check of a class; nothing for any other node."""
    if isinstance(node, ast.Call):
        return node.args[1:] if _last(node.func) in ("isinstance", "issubclass") else []
    if isinstance(node, ast.Compare):
        of_type = isinstance(node.left, ast.Call) and _last(node.left.func) == "type"
        return node.comparators if of_type else []
    return [node.cls] if isinstance(node, ast.MatchClass) else []


def undeclared(files: list[File]) -> list[str]:
    """Lines that try an attribute of a part which its protocol may not have."""
    return [f"{file.name}:{node.lineno}" for file in files for node in file.of(ast.Call)
            if _last(node.func) in ("getattr", "hasattr") and isinstance(node.args[0], ast.Attribute)
            and node.args[0].attr in ROLES and isinstance(node.args[1], ast.Constant)]  # fmt: skip


# Smaller counts


def slices_by_three(files: list[File]) -> list[str]:
    """`[-3:]` and `[:-3]` in the runners."""
    found = [(file, node) for file in files if file.folder == "runners" for node in file.of(ast.Slice)]
    return [f"{file.name}:{node.lineno}" for file, node in found
            if [ast.unparse(end) for end in (node.lower, node.upper) if end] == ["-3"]]  # fmt: skip


def declarations(files: list[File]) -> list[str]:
    """Where the run setting is declared, or handed on by its name."""
    found = []
    for file in files:
        if file.folder not in ("runners", "comparison"):
            lines = {line for node in ast.walk(file.tree) for line in _declared(node)}
            found += [f"{file.name}:{line}" for line in sorted(lines)]
    return found


def _declared(node: ast.AST) -> list[int]:
    """Lines of a node that declare the setting."""
    if isinstance(node, ast.ClassDef):
        fields = [one.lineno for one in node.body if isinstance(one, ast.AnnAssign) and _last(one.target) == SETTING]
        text = node.body[0]
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            lines = text.value.value.splitlines()
            fields += [text.lineno + at for at, line in enumerate(lines) if line.strip().startswith(f"{SETTING}:")]
        return fields
    if isinstance(node, ast.arguments):
        return [one.lineno for one in (*node.args, *node.kwonlyargs) if one.arg == SETTING]
    if isinstance(node, ast.Call) and _last(node.func) == "dict":
        return [one.value.lineno for one in node.keywords if one.arg == SETTING]
    if isinstance(node, ast.Dict):
        return [key.lineno for key in node.keys if isinstance(key, ast.Constant) and key.value == SETTING]
    return []


def long_functions(files: list[File]) -> list[str]:
    """Functions of more lines than the style allows, decorators aside."""
    return [_place(file, one.lineno, one.name) for file, one in _functions(files)
            if (one.end_lineno or one.lineno) - one.lineno + 1 > LONG]  # fmt: skip


def _place(file: File, line: int, name: str) -> str:
    return f"{file.name}:{line} {name}"


LISTS: dict[str, Callable[[list[File]], list[str]]] = {
    "forward paths": forward_paths,
    "class checks on parts": lambda files: class_checks(files, PARTS, specs=True),
    "class checks on states": lambda files: class_checks(files, ("agents",), specs=False),
    "reads of undeclared abilities": undeclared,
    "slices by three": slices_by_three,
    f"declarations of `{SETTING}`": declarations,
    "files at the package's root": lambda files: [file.name for file in files if not file.folder],
    f"functions over {LONG} lines": long_functions,
}


def count(side: Checkout) -> dict[str, Any]:
    """All counts of a checkout, and where each was found."""
    files = source(side.root)
    where = {name: find(files) for name, find in LISTS.items()}
    counts = {name: len(places) for name, places in where.items()}
    lines = [file.text.count("\n") for file in files]
    counts |= {"files": len(files), "source lines": sum(lines), "lines of the longest file": max(lines)}
    return {"counts": counts | side.call("settings"), "where": where}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_checkouts(parser, "house-counts", needs_old=False)
    parser.add_argument("--where", action="store_true", help="also print where each was found")
    options = parser.parse_args()
    sides = checkouts(options)
    record = record_of(options, sides, {})
    for side in sides:
        record.put(side.name, count(side))
    parts = [record.parts[side.name] for side in sides]
    print(f"| count | {' | '.join(side.name for side in sides)} |\n|---{'|---' * len(sides)}|")
    for name in parts[0]["counts"]:
        numbers = [f"{part['counts'][name]:,}" for part in parts]
        print(f"| {name} | {' | '.join(numbers)} |")
    for side, part in zip(sides, parts, strict=True):
        for name, places in part["where"].items() if options.where else ():
            print(f"\n{side.name}, {name}: {', '.join(places) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
