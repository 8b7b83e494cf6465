"""The rules that every file keeps: which way imports point, what is never used, what is always written."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import engram

PACKAGE = Path(engram.__file__).parent
LONGEST = 450  # lines of a file; one that grows past this is two ideas

# From the ground up. Inside a floor, a folder (or a file of the root) may import those in groups before its own only.
FLOORS: tuple[tuple[frozenset[str], ...], ...] = (
    tuple(
        frozenset({name})
        for name in ("errors", "spaces", "goals", "registry", "ranges", "specs", "types", "precision", "bits", "trees")
    ),
    (frozenset({"nn", "losses", "replay"}),),
    # A checkpoint knows named arrays, JSON and rows of replay: on this floor it can be tested to import no agent.
    (frozenset({"encoders", "working", "external", "heads", "mixing", "exploration", "checkpoint"}),),
    (frozenset({"cluster"}), frozenset({"agents"})),
    tuple(frozenset({name}) for name in ("envs", "runners")),
    tuple(
        frozenset({name})
        for name in (
            "play",
            "recipes",
            "run",
            "explaining",
            "exporting",
            "sharing",
            "serving",
            "comparison",
            "tuning",
            "testing",
            "cli",
        )
    ),
)
TOP = "__init__"  # what `import engram` gives
START = "__main__"  # what `python -m engram` runs

# What an installation without extras can import.
CORE = frozenset(
    {"jax", "equinox", "optax", "jaxtyping", "numpy", "scipy", "gymnasium"}
    | {"safetensors", "tyro", "rich", "matplotlib", "engram"}
)
FORBIDDEN_MODULES = {
    "pickle": "it runs code when it reads",
    "cloudpickle": "it runs code when it reads",
    "dill": "it runs code when it reads",
    "joblib": "it runs code when it reads",
    "shelve": "it runs code when it reads",
    "marshal": "it is not a file format",
    "torch": "it is never a dependency",
    "random": "its generator is global",
}
FORBIDDEN_CALLS = {"eval", "exec", "__import__"}
FORBIDDEN_ATTRIBUTES = {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}
SEEDED_RANDOM = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox"}


def files() -> list[Path]:
    """Every source file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def label(path: Path) -> str:
    """A file as it is named in messages."""
    return path.relative_to(PACKAGE).as_posix()


def unit(name: str) -> str:
    """The part of the package that a dotted module belongs to: `engram.losses.returns` is in `losses`."""
    return name.split(".")[1] if "." in name else TOP


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("engram", *(part for part in parts if part != "__init__")))


def imported(source: str, importer: str, is_package: bool, modules: set[str]) -> set[str]:
    """The modules of the package that a source imports anywhere, relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = importer.split(".")
                kept = parents[: len(parents) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in modules else base)
    return {name for name in found if name.split(".")[0] == "engram"}


def rank(name: str) -> tuple[int, int]:
    """Floor and place on the floor of a unit; a unit without a floor is an error that says what to do."""
    for floor, groups in enumerate(FLOORS):
        for place, group in enumerate(groups):
            if name in group:
                return floor, place
    if name in (TOP, START):
        return len(FLOORS), (TOP, START).index(name) + 1
    raise AssertionError(f"{name!r} stands on no floor; give it one in FLOORS of {Path(__file__).name}")


def import_faults(graph: dict[str, set[str]]) -> list[str]:
    """What is wrong with imports between modules, `graph` naming for each module those it imports."""
    faults = []
    for importer, targets in sorted(graph.items()):
        here = unit(importer)
        for target in sorted(targets):
            there = unit(target)
            if here != there and rank(there) >= rank(here):
                way = "up" if rank(there) > rank(here) else "sideways"
                faults.append(f"{importer} imports {target}, which points {way}")
    return faults


def package_graph() -> dict[str, set[str]]:
    modules = {module_name(path) for path in files()}
    return {
        module_name(path): imported(path.read_text(), module_name(path), path.name == "__init__.py", modules)
        for path in files()
    }


def outside_imports(source: str) -> list[tuple[int, str]]:
    """Line and first name of each import that runs when the file is imported, not inside a function."""
    found: list[tuple[int, str]] = []
    queue: list[ast.AST] = [ast.parse(source)]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.append((node.lineno, node.module.split(".")[0]))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            queue += ast.iter_child_nodes(node)
    return sorted(found)


def dotted(node: ast.AST) -> str:
    """`numpy.random.rand` for the expression that says so, "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def forbidden_uses(source: str) -> list[str]:
    """What a source uses that nothing in the package may use, with its line."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        line = f"line {getattr(node, 'lineno', 0)}: "
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            roots = {
                name.split(".")[0] for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else names)
            }
            if not getattr(node, "level", 0):
                faults += [f"{line}{root}: {FORBIDDEN_MODULES[root]}" for root in roots & FORBIDDEN_MODULES.keys()]
            if getattr(node, "module", None) == "numpy.random":
                faults += [f"{line}numpy.random.{name} is global" for name in names if name not in SEEDED_RANDOM]
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if name.startswith(("np.random.", "numpy.random.")) and name.split(".")[2] not in SEEDED_RANDOM:
                faults.append(f"{line}{name} is global")
            if name in FORBIDDEN_ATTRIBUTES:
                faults.append(f"{line}{name} runs code when it reads")
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                faults.append(f"{line}{node.func.id} runs text as code")
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and not is_false(keyword.value):
                    faults.append(f"{line}allow_pickle runs code when it reads")
    return faults


def is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


# The package.


def test_imports_point_down_only():
    faults = import_faults(package_graph())
    assert not faults, "\n".join(faults)


# What of the agents a folder may know: runners and playing see an agent, not how it learns or what it recalls.
UNKNOWN = {
    "runners": ("engram.agents.recall", "engram.agents.q_learning", "engram.agents.examples"),
    "play": ("engram.agents.recall", "engram.agents.q_learning", "engram.agents.examples"),
}


def known_too_well(graph: dict[str, set[str]]) -> list[str]:
    """The imports of modules that a folder must not know."""
    return [
        f"{importer} imports {target}"
        for importer, targets in sorted(graph.items())
        for target in sorted(targets)
        if target.startswith(UNKNOWN.get(unit(importer), ("none",)))
    ]


def test_runners_and_playing_know_no_kind_of_agent():
    assert known_too_well(package_graph()) == []
    assert known_too_well({"engram.runners.host": {"engram.agents.recall.line", "engram.agents.agent"}}) == [
        "engram.runners.host imports engram.agents.recall.line"
    ]


def test_no_module_but_the_articles_names_knows_which_kind_of_agent_it_has():
    """They are those of one agent; all others build an agent from its spec."""
    graph = package_graph()
    kinds = {f"engram.agents.{name}" for name in ("q_learning", "rollout_learning", "pqn", "ppo")}
    knowing = [name for name, targets in graph.items() if kinds & set(targets)]
    assert [name for name in knowing if unit(name) != "agents"] == ["engram.run.article"]


def test_runners_take_no_part_of_a_tree_by_its_place():
    for path in (PACKAGE / "runners").glob("*.py"):
        assert "[-3:]" not in path.read_text(), label(path)


def test_agents_read_of_a_store_only_what_every_store_has():
    """`held` and `refused`; `ring` and `drawing` are those of a Replay."""
    for folder in ("agents", "runners", "play", "losses", "exploration"):
        for path in (PACKAGE / folder).rglob("*.py"):
            read = set(re.findall(r"\bstore\.(\w+)", path.read_text()))
            assert read <= {"held", "refused", "ring", "drawing"}, label(path)


def test_every_unit_of_the_package_stands_on_a_floor():
    for path in files():
        rank(unit(module_name(path)))


def test_importing_needs_nothing_but_the_core_dependencies():
    allowed = CORE | sys.stdlib_module_names
    faults = [
        f"{label(path)} line {line}: {name} is not a core dependency; import it inside the function that needs it"
        for path in files()
        for line, name in outside_imports(path.read_text())
        if name not in allowed
    ]
    assert not faults, "\n".join(faults)


def test_nothing_forbidden_is_used():
    faults = [f"{label(path)} {fault}" for path in files() for fault in forbidden_uses(path.read_text())]
    assert not faults, "\n".join(faults)


def test_every_public_module_says_what_it_is_for():
    silent = [label(path) for path in files() if public(path) and not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, f"no docstring in {', '.join(silent)}"


def public(path: Path) -> bool:
    return path.name == "__init__.py" or not path.name.startswith("_")


def test_no_file_is_longer_than_a_sitting():
    lengths = {label(path): len(path.read_text().splitlines()) for path in files()}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}


def test_the_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_public_names_are_sorted_exist_and_are_documented():
    names = list(getattr(engram, "__all__", []))
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(engram, name)] == []
    assert [name for name in names if not documented(getattr(engram, name))] == []


def documented(value: object) -> bool:
    """Whether a reader is told what `value` is; a plain value is told by the class it is of."""
    described = value if inspect.ismodule(value) or callable(value) else type(value)
    text = inspect.getdoc(described) or ""
    made_by_dataclass = f"{getattr(described, '__name__', '')}("
    return bool(text) and not text.startswith(made_by_dataclass)


def test_importing_every_module_starts_no_jax_backend():
    """JAX refuses an unknown platform as soon as a backend starts, so that an array made on import fails here."""
    script = (
        "import importlib, pkgutil, engram\n"
        "for module in pkgutil.walk_packages(engram.__path__, 'engram.'):\n"
        "    if module.name != 'engram.__main__': importlib.import_module(module.name)\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]


# The checkers themselves: each can fail.


@pytest.mark.parametrize(
    ("importer", "target", "said"),
    [
        ("engram.losses.returns", "engram.agents.q_learning", "points up"),
        ("engram.working.gated", "engram.external.episodic", "points sideways"),
        ("engram.nn.layers", "engram.losses", "points sideways"),
        ("engram.errors", "engram.types", "points up"),
        ("engram.checkpoint.store", "engram.agents.q_learning", "points up"),
        ("engram.checkpoint.store", "engram.external.store", "points sideways"),
        ("engram.play.trained", "engram.run.plan", "points up"),
        ("engram.envs.host.make", "engram.runners.host", "points up"),
        ("engram.agents.q_learning", "engram", "points up"),
        ("engram.runners.host", "engram.run.trainer", "points up"),
        ("engram.cli.commands", "engram", "points up"),
    ],
)
def test_an_import_up_or_sideways_is_found(importer: str, target: str, said: str):
    assert import_faults({importer: {target}}) == [f"{importer} imports {target}, which {said}"]


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("engram.agents.q_learning", "engram.losses.returns"),
        ("engram.external.episodic", "engram.external.eviction"),
        ("engram.types", "engram.spaces"),
        ("engram.agents.presets", "engram.agents.q_learning"),
        ("engram.checkpoint.lanes", "engram.replay.ring"),
        ("engram.runners.host", "engram.envs.host.make"),
        ("engram.cli.commands", "engram.run.trainer"),
        ("engram", "engram.cli.commands"),
    ],
)
def test_an_import_down_is_allowed(importer: str, target: str):
    assert import_faults({importer: {target}}) == []


def test_a_unit_without_a_floor_is_refused():
    with pytest.raises(AssertionError, match="'cellar' stands on no floor"):
        import_faults({"engram.cellar": {"engram.types"}})


@pytest.mark.parametrize(
    ("source", "importer", "is_package", "found"),
    [
        ("import engram.losses.returns", "engram.cli.commands", False, {"engram.losses.returns"}),
        ("from engram import losses, Agent", "engram.cli.commands", False, {"engram.losses", "engram"}),
        (
            "from engram.losses import returns, mean",
            "engram.cli.commands",
            False,
            {"engram.losses.returns", "engram.losses"},
        ),
        ("from ..losses import returns", "engram.cli.commands", False, {"engram.losses.returns"}),
        ("from . import returns", "engram.losses", True, {"engram.losses.returns"}),
        ("from .. import losses", "engram.nn.layers", False, {"engram.losses"}),
        ("def f():\n    import engram.losses", "engram.cli.commands", False, {"engram.losses"}),
        ("import jax, numpy.random\nfrom engrams import x", "engram.cli.commands", False, set()),
    ],
)
def test_imports_are_read_in_every_spelling(source: str, importer: str, is_package: bool, found: set[str]):
    assert imported(source, importer, is_package, {"engram", "engram.losses", "engram.losses.returns"}) == found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import dumps",
        "import torch.nn as nn",
        "import random",
        "def f():\n    import marshal",
        "eval('1')",
        "exec(text)",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=chosen)",
        "np.random.seed(0)",
        "numpy.random.rand",
        "from numpy.random import rand",
    ],
)
def test_a_forbidden_use_is_found(source: str):
    assert len(forbidden_uses(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "np.load(path, allow_pickle=False)",
        "np.random.default_rng(0)",
        "from numpy.random import Generator",
        "def f(r: np.random.Generator): return r.random()",
        "jax.random.bits(key)",
        "from engram.nn import random",
        "from . import random",
        "model.eval()",
        "yaml.safe_load(text)",
    ],
)
def test_what_only_looks_forbidden_is_allowed(source: str):
    assert forbidden_uses(source) == []


def test_only_imports_inside_functions_may_be_optional():
    source = "import a.b\ntry:\n    from c import d\nexcept ImportError:\n    pass\ndef f():\n    import e\n"
    assert outside_imports(source) == [(1, "a"), (3, "c")]


# The test suite.


@pytest.mark.parametrize(
    ("ci", "closing"), [("true", "2 failed, 1 passed, 1 error"), ("", "1 passed, 2 skipped, 1 xfailed")]
)
def test_ci_accepts_no_skip(tmp_path: Path, ci: str, closing: str):
    """A mark, a call and an expected failure are each refused, and only in CI."""
    tests = Path(__file__).parents[1]
    shutil.copy(tests / "conftest.py", tmp_path)
    shutil.copytree(tests / "support", tmp_path / "support")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "@pytest.mark.skip(reason='marked')\ndef test_marked(): pass\n"
        "def test_called(): pytest.skip('called')\n"
        "@pytest.mark.xfail(reason='expected')\ndef test_expected(): raise ValueError\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert closing in run.stdout, run.stdout
    assert (run.returncode == 0) == (ci == "")
