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
from pathlib import Path
from typing import Any

import pytest
import tyro
from support.kinds import own
from tyro.conf import FlagCreatePairsOff

import engram
from engram import recipes, registry, spaces, specs
from engram.agents.presets import PRESETS
from engram.agents.spec import AgentSpec
from engram.cli.environments import check_environment
from engram.cli.flags import COMMANDS, LISTS, List, New, Show, environment_argument, split_settings
from engram.cli.new import TRY
from engram.envs.device import about_of
from engram.errors import EngramError
from engram.specs import type_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "engram"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md")
HISTORY = ("CHANGELOG.md",)  # names what is gone
# What a reader follows; results and architecture record commands as they were given.
GUIDES = [page for page in PAGES if page.parent.name == "docs" and page.stem not in ("results", "architecture")]
# What a user's run holds, or a user's own files, which are not in the repository.
ELSEWHERE = {
    "run.json",
    "config.json",
    "env.json",
    "evaluation.json",
    "memory.json",
    "metrics.jsonl",
    "memory.jsonl",
    "learning-curve.png",
    "study.json",
    "journal.jsonl",
    "tuning.png",
    "pip.conf",
    "sb3.svg",
    "dqn_jax.py",
    "tank.py",
    "to_torch.py",
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
        inner = [registry.find(role, name) for name in own(role)] if role else [type_of(cls, field.name)]
        for each in inner:
            if dataclasses.is_dataclass(each) and each not in seen:
                yield from settings_of(each, f"{prefix}{field.name}.", (*seen, each))  # type: ignore[arg-type]


KNOWN = dict(settings_of(AgentSpec))


def fault(path: str, value: str) -> str | None:
    """What is wrong with a setting that a page names; `value` may be empty, or several kinds with | between."""
    if path not in KNOWN:
        return f"there is no setting {path}"
    role = KNOWN[path]
    unknown = [kind for kind in value.split("|") if role and kind and kind not in own(role)]
    return f"{path}={unknown[0]} is no kind" if unknown else None


def wrong_settings(text: str) -> list[str]:
    """Settings in backticks that do not exist: `path=value`, or `path` with a dot, of a part of an agent; also several
    with spaces or commas between them, and those with the double underscores of Python's keywords.
    """
    first = {field.name for field in dataclasses.fields(AgentSpec)}
    found = []
    for word in (word.replace("__", ".") for span in spans(text) for word in several(span)):
        match = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)*)(=\S*)?", word)
        if match is None or re.search(rf"\.{ENDINGS}$", word):
            continue
        path, value = match[1], (match[2] or "")[1:]
        if path.split(".")[0] in first and ("." in path or match[2]) and (problem := fault(path, value)):
            found.append(problem)
    return found


def several(span: str) -> list[str]:
    """The settings of a span that holds nothing else; else the span."""
    words = re.split(r",?\s+", span)
    return words if all(re.fullmatch(r"[a-z_.]+=[^\s()]+", word) for word in words) else [span]


def command_lines(text: str) -> Iterator[tuple[str, bool]]:
    """What calls `engram`, and whether it is whole: lines of fenced blocks, without what is said about them; and what
    stands between backticks, without placeholders such as ENV, which may be a command's beginning.
    """
    for line in (line.partition(" #")[0] for block in blocks(text) for line in joined(block)):
        yield line, True
    for span in spans(text):
        if not re.search(r"(?:^|[ =])[A-Z]+(?:$|[ @])|\.\.\.|\|", span):
            yield span, False


def joined(block: str) -> list[str]:
    """The lines of a block; one that ends in a backslash goes on in the next."""
    return re.sub(r" \\\n\s*", " ", block).splitlines()


WIDEST = 84  # columns of a fenced block on a page that is 1,280 pixels wide


def wide_commands(text: str) -> list[str]:
    """Commands in fenced blocks whose end a reader would have to scroll to."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    return [line for line in lines if len(line) > WIDEST and re.match(r"(?:uv run )?(?:engram|python) ", line)]


def commands(text: str) -> list[tuple[bool, list[str]]]:
    """The words of each `engram ...`, from the command on, and whether they are all."""
    found = [(line, whole) for line, whole in command_lines(text) if re.search(r"(?:^|/|run )engram \w", line)]
    return [(whole, shlex.split(line.split("engram ", 1)[1])) for line, whole in found]


def wrong_commands(text: str) -> list[str]:
    """What is wrong with the commands of a page: their flags, and the names of all kinds that stand in them."""
    found = []
    for whole, (command, *words) in commands(text):
        if command not in COMMANDS:
            found.append(f"engram {command} is no command")
            continue
        try:
            rest, settings = split_settings(command, words)
            config = (FlagCreatePairsOff,)
            chosen = tyro.cli(COMMANDS[command], args=rest, config=config, console_outputs=False)
            check_named(chosen)
        except EngramError as error:
            found.append(str(error))
            continue
        except SystemExit:
            found += [f"{shlex.join(['engram', command, *words])} cannot be read"] if whole else []
            continue
        imported = getattr(chosen, "imports", ())
        own = {path: "" for path, value in settings.items() if value.replace("-", "_") in imported}
        found += [problem for path, value in (settings | own).items() if (problem := fault(path, value))]
    return found


def check_named(chosen: Any) -> None:
    """Raises for a preset, a recipe, an environment, an argument of one, a list or a role that does not exist."""
    env, preset = getattr(chosen, "env", None), getattr(chosen, "preset", None)
    if isinstance(chosen, Show) and preset == "env":
        env, preset = chosen.id, None
    for name in (env, getattr(chosen, "evaluate_env", None)):
        if name is not None:
            check_environment(name)
    if preset is not None and preset not in PRESETS:
        raise EngramError(f"{preset} is no preset")
    if getattr(chosen, "recipe", None):
        recipes.find(env, chosen.recipe)
    about = env and about_of(env)
    for name, _ in map(environment_argument, getattr(chosen, "env_args", ())):
        if about and ":" not in env and name not in about.defaults:
            raise EngramError(f"{env} has no argument {name}")
    if isinstance(chosen, List) and chosen.what not in LISTS:
        raise EngramError(f"engram list has no {chosen.what}")
    if isinstance(chosen, New) and chosen.role not in TRY:
        raise EngramError(f"engram new has no {chosen.role}")


# -- the pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_what_exists(page: Path):
    text = page.read_text()
    faults = [f"there is no file {name}" for name in missing_files(text, page)]
    faults += [f"there is no {name}" for name in missing_functions(text) + missing_tests(text)]
    if page.name not in HISTORY:
        faults += wrong_settings(text) + wrong_commands(text)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_commands_of_the_guides_are_seen_whole(page: Path):
    assert wide_commands(page.read_text()) == []


def test_a_command_that_is_too_wide_is_found_and_one_in_two_lines_is_read_as_one():
    command = f"uv run engram train CartPole-v1 --run {'x' * 60}"
    assert wide_commands(f"```\n{command}\n```\n") == [command]
    text = "```\nengram train CartPole-v1 \\\n    --steps 9\n```\n"
    assert wide_commands(text) == []
    assert commands(text) == [(True, ["train", "CartPole-v1", "--steps", "9"])]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_commands_of_the_guides_run_in_a_clone(page: Path):
    """As index.md says: `uv run`, or the environment's own program."""
    lines = [line for block in blocks(page.read_text()) for line in block.splitlines()]
    bare = [line for line in lines if re.match(r"(?:engram|pytest) \w", line)]
    assert not bare


@pytest.mark.parametrize(
    ("page", "row"),
    [
        ("from-stable-baselines3.md", r"`target_update_interval=(\d+)`"),
        ("from-cleanrl.md", r"`--target-network-frequency (\d+)`"),
    ],
)
@pytest.mark.parametrize("preset", ["auto", "dqn"])
def test_the_target_network_of_others_is_copied_as_often_here(page: str, row: str, preset: str):
    """Others count environment steps, and `target.every` counts updates."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(rf"^\| {row} \| `([^`]+)` with `([^`]+)` \|$", text, flags=re.M)
    assert found is not None
    words = re.split(r",?\s+", f"{found[2]} {found[3]}".replace("__", "."))
    made = PRESETS[preset][0](spaces.Box((4,)), 50_000)
    spec = specs.override_all(made, dict(word.split("=") for word in words))
    assert (spec.target.every * spec.learn_every, spec.target.rate, spec.updates) == (int(found[1]), 1.0, 1)


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


def test_every_public_name_is_on_the_page_of_the_api():
    """By its home, as a member of its module, or, as the one error, by name."""
    page = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"^::: engram\.(\S+)", page, flags=re.M)) | {"errors.EngramError"}
    for module, members in re.findall(r"^::: engram\.(\S+)\n    options:\n      members: \[(.*)\]", page, flags=re.M):
        listed |= {f"{module}.{name}" for name in members.split(", ")}
    assert [name for name, home in engram._HOMES.items() if f"{home}.{name}" not in listed] == []


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
        ("working=gru replay.windows=16", ["there is no setting replay.windows"]),
        ("replay__start=1, replay__stop=2", ["there is no setting replay.stop"]),
    ],
)
def test_a_wrong_setting_is_found(span: str, said: list[str]):
    assert wrong_settings(f"Set `{span}`.") == said


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ("uv run engram list environment", ["engram list has no environment"]),
        ("engram show PRESET --env ID", []),
        ("engram evaluate RUN --forget", []),
        ("engram list envs", []),
    ],
)
def test_a_wrong_command_between_backticks_is_found(span: str, said: list[str]):
    assert wrong_commands(f"Type `{span}`.") == said


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
        ("engram train CartPol-v1", "no environment is called 'CartPol-v1'"),
        ("engram train CartPole-v1 --evaluate-env CartPol-v1", "no environment is called 'CartPol-v1'"),
        ("engram show env engram/TMaze-v0", "no environment is called 'engram/TMaze-v0'"),
        ("engram show dqm --env CartPole-v1", "dqm is no preset"),
        ("engram train minatar-freeway --recipe bets", "no recipe for 'minatar-freeway' is called 'bets'"),
        ("engram train engram/PassiveTMaze-v0 --env-arg len=5", "engram/PassiveTMaze-v0 has no argument len"),
        ("engram train CartPole-v1 --steps many", "engram train CartPole-v1 --steps many cannot be read"),
        ("engram evaluate", "engram evaluate cannot be read"),
        ("engram list env", "engram list has no env"),
        ("engram new encode mine", "engram new has no encode"),
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
