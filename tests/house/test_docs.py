"""The pages stay true to the tree: files, functions, settings and commands that they name exist."""

import ast
import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from engram import registry
from engram.agents.presets import PRESETS
from engram.agents.spec import AgentSpec
from engram.cli.flags import COMMANDS, split_settings
from engram.errors import EngramError
from engram.specs import type_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "engram"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md")
HISTORY = ("CHANGELOG.md",)  # names what is gone
# What a user's run holds, or a user's own files, which are not in the repository.
ELSEWHERE = {
    "run.json",
    "metrics.jsonl",
    "learning-curve.png",
    "pip.conf",
    "sb3.svg",
    "dqn_jax.py",
    "tank.py",
    ".pytest_cache",
}
HOMES = ("", "src/engram", "src/engram/agents/recall", "benchmarks", "docs", "tests")
ENDINGS = r"(?:py|md|png|toml|json|jsonl|txt)"


def spans(text: str) -> list[str]:
    """What stands between single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def blocks(text: str) -> list[str]:
    """The fenced blocks, without those under a heading *Before*."""
    text = re.sub(r"^### Before$.*?(?=^#)", "", text, flags=re.S | re.M)
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.S | re.M)


def find(name: str) -> Path | None:
    """The file or folder that a page names, from the root, the package, or a few folders that pages speak of."""
    return next((ROOT / home / name for home in HOMES if (ROOT / home / name).exists()), None)


def missing_files(text: str, page: Path) -> list[str]:
    """Paths in backticks and targets of links that do not exist; a file's bare name may stand anywhere."""
    named = {span for span in spans(text) if re.fullmatch(rf"(?!.*NAME)[\w./-]+\.{ENDINGS}(?::\S*)?", span)}
    named = {re.sub(r":.*", "", span) for span in named}
    named |= {span for span in spans(text) if re.fullmatch(r"(?:src|docs|tests|benchmarks)/[\w./-]+", span)}
    lost = {
        name for name in named
        if name not in ELSEWHERE and find(name) is None and ("/" in name or not bare(name))
    }  # fmt: skip
    modules = re.findall(r"-m (benchmarks[\w.]+)", text)
    lost |= {module for module in modules if not (ROOT / (module.replace(".", "/") + ".py")).is_file()}
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    return sorted(lost | {link for link in links if not (page.parent / link).exists()})


def bare(name: str) -> bool:
    """Whether a file of this name stands anywhere."""
    return any(next((ROOT / home).rglob(name), None) for home in ("src", "benchmarks", "tests", "docs"))


def missing_functions(text: str) -> list[str]:
    """Each `folder/file.py:name` in a fenced block whose file is missing, or has no such function or class."""
    lost = []
    for block in blocks(text):
        for file, name in re.findall(r"([\w/]+\.py):([A-Za-z_.]+)", block):
            path = find(file)
            last = name.split(".")[-1]
            if path is None or not re.search(rf"^\s*(?:def|class) {last}\b", path.read_text(), flags=re.M):
                lost.append(f"{file}:{name}")
    return lost


def missing_tests(text: str) -> list[str]:
    """Names of tests in backticks that no test has."""
    named = {span for span in spans(text) if re.fullmatch(r"test_\w+", span)}
    known = {name for file in (ROOT / "tests").rglob("test_*.py") for name in DEFINED.findall(file.read_text())}
    return sorted(named - known)


DEFINED = re.compile(r"^def (test_\w+)", flags=re.M)


# -- settings --------------------------------------------------------------------------------------------------------


def settings_of(cls: type, prefix: str = "", seen: tuple[type, ...] = ()) -> Iterator[tuple[str, str | None]]:
    """Every path below a spec, whichever kind of each part is chosen, with the role of those that are parts."""
    for field in dataclasses.fields(cls):
        role = field.metadata.get("role")
        yield prefix + field.name, role
        inner = [registry.find(role, name) for name in registry.names(role)] if role else [type_of(cls, field.name)]
        for each in inner:
            if dataclasses.is_dataclass(each) and each not in seen:
                yield from settings_of(each, f"{prefix}{field.name}.", (*seen, each))  # type: ignore[arg-type]


KNOWN = dict(settings_of(AgentSpec))


def fault(path: str, value: str) -> str | None:
    """What is wrong with a setting that a page names; `value` may be empty, or several kinds with | between."""
    if path not in KNOWN:
        return f"there is no setting {path}"
    role = KNOWN[path]
    unknown = [kind for kind in value.split("|") if role and kind and kind not in registry.names(role)]
    return f"{path}={unknown[0]} is no kind" if unknown else None


def wrong_settings(text: str) -> list[str]:
    """Settings in backticks that do not exist: `path=value`, or `path` with a dot, of a part of an agent."""
    first = {field.name for field in dataclasses.fields(AgentSpec)}
    found = []
    for span in spans(text):
        match = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)*)(=\S*)?", span)
        if match is None or re.search(rf"\.{ENDINGS}$", span):
            continue
        path, value = match[1], (match[2] or "")[1:]
        if path.split(".")[0] in first and ("." in path or match[2]) and (problem := fault(path, value)):
            found.append(problem)
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each `engram ...` in a fenced block, from the command on."""
    lines = [line.partition("#")[0] for block in blocks(text) for line in block.splitlines()]
    return [shlex.split(line.split("engram ", 1)[1]) for line in lines if re.search(r"(?:^|/|run )engram \w", line)]


def wrong_commands(text: str) -> list[str]:
    """What is wrong with the commands of fenced blocks: their flags, settings and presets."""
    found = []
    for command, *words in commands(text):
        if command not in COMMANDS:
            found.append(f"engram {command} is no command")
            continue
        try:
            rest, settings = split_settings(command, words)
        except EngramError as error:
            found.append(str(error))
            continue
        imported = [word for flag, word in pairwise(words) if flag == "--import"]
        own = {path: "" for path, value in settings.items() if value.replace("-", "_") in imported}
        found += [problem for path, value in (settings | own).items() if (problem := fault(path, value))]
        preset = rest[rest.index("--preset") + 1] if "--preset" in rest else "auto"
        found += [] if preset in PRESETS else [f"{preset} is no preset"]
    return found


# -- the pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_what_exists(page: Path):
    text = page.read_text()
    faults = [f"there is no file {name}" for name in missing_files(text, page)]
    faults += [f"there is no {name}" for name in missing_functions(text) + missing_tests(text)]
    if page.name not in HISTORY:
        faults += wrong_settings(text) + wrong_commands(text)
    assert not faults, "\n".join(faults)


def tree(text: str) -> set[str]:
    """The files that the tree of the architecture page lists, as paths below the package."""
    found, folders = set(), []
    for line in next(block for block in blocks(text) if block.startswith("src/engram/")).splitlines()[1:]:
        match = re.match(r"( +)([\w/.]+?)(/| )", line + " ")
        if match is None:
            continue
        depth = len(match[1]) // 2 - 1
        folders = folders[:depth]
        if match[3] == "/":
            folders.append(match[2])
        elif match[2].endswith(".py"):
            found.add("/".join([*folders, match[2]]))
    return found


def test_the_tree_of_the_architecture_page_lists_every_file_of_the_package():
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    files = {name for name in files if "/" not in name or not name.endswith("/__init__.py")}
    listed = tree(ARCHITECTURE.read_text())
    assert sorted(files - listed) == [], "not listed"
    assert sorted(listed - files) == [], "listed, and not there"


def test_the_part_that_parts_md_shows_is_a_part(tmp_path: Path):
    code = re.search(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs" / "parts.md").read_text(), flags=re.S)
    assert code is not None
    (tmp_path / code[1]).write_text(code[2])
    command = [sys.executable, "-m", "engram", "show", "dqn", "--import", code[1].removesuffix(".py"), "loss=log-cosh"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "loss.scale=1.0" in shown.stdout, shown.stderr


def missing_imports(source: str) -> list[str]:
    """What a script imports from the package that is not there."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    wanted = [(node.module, alias.name) for node in nodes for alias in node.names if node.module]
    return [
        f"{module}.{name}" for module, name in wanted
        if module.split(".")[0] == "engram" and not (find_spec(module) and has(module, name))
    ]  # fmt: skip


def has(module: str, name: str) -> bool:
    """Whether a module has a name, which may be a module inside it."""
    found = import_module(module)
    inside = hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None
    return hasattr(found, name) or inside


def test_benchmarks_import_only_what_the_package_has():
    scripts = sorted((ROOT / "benchmarks").rglob("*.py"))
    lost = [f"{path.relative_to(ROOT)}: {name}" for path in scripts for name in missing_imports(path.read_text())]
    assert not lost, "\n".join(lost)


def test_a_missing_import_is_found():
    source = "from engram.agents.policy import look, peek\nfrom engram import spaces\nfrom engram.gone import x\n"
    assert missing_imports(source) == ["engram.agents.policy.peek", "engram.gone.x"]


def test_the_glossary_is_sorted():
    rows = [line for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if line.startswith("| ")]
    words = [row.split("|")[1].strip().lower() for row in rows[1:]]
    assert words == sorted(words)


# The checkers themselves: each can fail.


def test_a_missing_file_is_found(tmp_path: Path):
    text = "See `agents/recall.py`, `agents/policy.py`, `ring.py`, `nowhere.py`, [this](gone.md), `-m benchmarks.x`.\n"
    assert missing_files(text, tmp_path / "page.md") == ["agents/recall.py", "benchmarks.x", "gone.md", "nowhere.py"]


def test_a_missing_function_is_found():
    text = "```\nagents/policy.py:look -> agents/policy.py:ask -> agents/asking.py:look\n```\n"
    assert missing_functions(text) == ["agents/policy.py:ask", "agents/asking.py:look"]
    assert missing_functions(f"### Before\n\n{text}\n## After\n") == []


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ("recall.pull", ["there is no setting recall.pull"]),
        ("replay.stored_memory=true", ["there is no setting replay.stored_memory"]),
        ("working=elman", ["working=elman is no kind"]),
        ("bootstrap=plain|double", ["bootstrap=double is no kind"]),
        ("working.over=gru", []),
        ("external.capacity", []),
        ("draw.candidates=4", []),
        ("bootstrap=", []),
        ("returns.n_step", []),
    ],
)
def test_a_wrong_setting_is_found(span: str, said: list[str]):
    assert wrong_settings(f"Set `{span}`.") == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("engram train CartPole-v1 --preset dqn replay.capacity=9 # and so on", ""),
        ("uv run engram train CartPole-v1 --sterps 9", "engram train has no flag '--sterps'"),
        ("engram train CartPole-v1 external.reach=1", "there is no setting external.reach"),
        ("engram train CartPole-v1 --preset dqm", "dqm is no preset"),
        ("engram learn CartPole-v1", "engram learn is no command"),
        ("engram train CartPole-v1 --import log_cosh loss=log-cosh loss.width=2", ""),
        ("engram train CartPole-v1 --import log_cosh loss=other", "loss=other is no kind"),
    ],
)
def test_a_wrong_command_is_found(line: str, said: str):
    found = wrong_commands(f"```\n{line}\n```\n")
    assert ("\n".join(found).startswith(said) and bool(found)) if said else not found


def test_a_tree_is_read_by_its_indentation():
    lines = [
        "src/engram/",
        "  a.py  words",
        "",
        "floor 1: x",
        "  b/  words",
        "    c.py  words",
        "    d/",
        "      e.py  w",
    ]
    text = "\n".join(["```", *lines, "```", ""])
    assert tree(text) == {"a.py", "b/c.py", "b/d/e.py"}


def test_every_extra_is_read_and_shown():
    """An extra that no line of the package asks for, or that no page shows at work, does nothing for its users."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    shown = "".join(page.read_text() for page in PAGES if page.name not in HISTORY)
    for extra in extras:
        assert re.search(rf"""(?:extra=|install\(|, )["']{extra}["'][,)]""", code), f"nothing reads {extra}"
        assert f"`{extra}`" in shown, f"no page shows {extra}"
