"""`engram list` and `engram show`: the names that can be used, and what they stand for. No JAX is loaded for them."""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from shlex import quote
from typing import Any, NamedTuple

from engram import recipes
from engram.cli.blank import without_jax
from engram.cli.environments import about_environment, environment_rows, observed
from engram.cli.flags import LISTS, List, Show, environment_argument
from engram.cli.reports import print_rows
from engram.errors import SpecError, UnknownName, hint
from engram.run.display import clean, fitting

# What people type for each list.
WORDS = {
    "envs": ("env", "environment", "environments", "tasks", "games"),
    "presets": ("preset", "agents", "agent", "algorithms", "algos", "algo", "models"),
    "parts": ("part", "encoders", "memories", "heads", "settings"),
    "recipes": ("recipe", "tuned", "hyperparams", "best"),
}


class Row(NamedTuple):
    """A name, and what it stands for."""

    name: str
    text: str


def list_names(chosen: List) -> None:
    """`engram list`: one name a line, with what it stands for."""
    what = _meant(chosen.what)
    if chosen.text is not None and chosen.filter is not None:
        raise SpecError(f"two texts were given, {chosen.text!r} and {chosen.filter!r}; leave one of them out")
    sought = chosen.text if chosen.filter is None else chosen.filter
    rows = {"envs": _environments, "presets": _presets, "parts": _parts, "recipes": _recipes}[what]()
    kept = [row for row in rows if sought is None or sought.lower() in f"{row.name} {row.text}".lower()]
    if not kept:
        known = [row.name for row in rows]
        raise UnknownName(f"no line of `engram list {what}` holds {sought!r}; {_near(str(sought), known)}")
    print_rows(kept)


def _meant(word: str) -> str:
    """The list that a word means."""
    lists = {other: what for what, others in WORDS.items() for other in (what, *others)}
    if word.lower() in lists:
        return lists[word.lower()]
    near = get_close_matches(word.lower(), lists, n=1)
    raise UnknownName(f"engram list has no {word!r}; {hint(lists[near[0]] if near else word, LISTS)}")


def _near(sought: str, known: list[str]) -> str:
    """The nearest names; without any, how to see all."""
    told = hint(sought, known)
    return told if told.startswith("did you mean") else "leave the text out to see all"


def _environments() -> list[Row]:
    return [Row(*row) for row in environment_rows()]


def _presets() -> list[Row]:
    return [Row(*row) for row in without_jax(preset_lines)]


def preset_lines() -> list[tuple[str, str]]:
    """Every preset with its line."""
    from engram.agents.presets import PRESETS

    return [(name, text) for name, (_, text) in PRESETS.items()]


def _parts() -> list[Row]:
    def lines() -> list[tuple[str, str]]:
        from importlib import import_module

        from engram import registry

        import_module("engram.agents.presets")  # which imports, and so registers, every part
        return [
            (f"{role}={name}", _first_sentence(registry.find(role, name).__doc__))
            for role in registry.roles()
            for name in registry.names(role)
        ]

    return [Row(*row) for row in without_jax(lines)]


def _recipes() -> list[Row]:
    best = {recipe.env: recipe for recipe in reversed(recipes.known())}
    return [
        Row(f"{one.env} --recipe {recipes.BEST if one is best[one.env] else one.name}", f"{one.name}, {one.line()}")
        for one in recipes.known()
    ]


def _first_sentence(text: str | None) -> str:
    paragraph = " ".join((text or "").strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".")


# -- show ------------------------------------------------------------------------------------------------------------


def show(chosen: Show, settings: Mapping[str, str]) -> None:
    """`engram show`: lines that a shell reads as settings, what follows # being a comment; or an environment."""
    arguments = dict(map(environment_argument, chosen.env_arg))
    if chosen.preset in ("env", *WORDS["envs"]):
        if chosen.id is None:
            raise SpecError("engram show env needs an environment, as in: engram show env CartPole-v1")
        if settings:
            raise SpecError(
                f"engram show env takes no settings, but {next(iter(settings))!r} was given; write --env-arg NAME=VALUE"
            )
        facts = [Row(*fact) for fact in about_environment(chosen.id, arguments, chosen.action_bins)]
        print_rows([fact for fact in facts if fact.name])
        for fact in facts:
            if not fact.name:
                print(*fitting(clean(fact.text), sys.stdout), sep="\n")
        return
    if chosen.id is not None:
        raise SpecError(f"{chosen.id!r} was given beside {chosen.preset!r}; for an environment: --env {chosen.id}")
    space = observed(chosen.env, arguments, chosen.action_bins)
    rows = without_jax(lambda: setting_lines(chosen.preset, space, chosen.steps, settings))
    print(clean(f"# {chosen.preset} for {chosen.env}"))
    print_rows(rows, "# ")


def kind_row(spec: Any) -> list[tuple[str, str, Any, str]]:
    """The kind of an agent as `specs.describe` tells of a part; nothing for a Q-learner, the default."""
    from engram import registry
    from engram.run.plan import Q_LEARNER

    name, role = registry.name_of("agent", type(spec)), "agent"
    kinds = f"one of {'|'.join(registry.names(role))}"
    return [] if name == Q_LEARNER else [(role, kinds, name, "how it learns")]


def setting_lines(
    preset: str, space: Mapping[str, Any], steps: int | None, settings: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Every setting of a preset as `path=value`, with its help; `space` is the JSON of an observation's space."""
    from engram import spaces, specs
    from engram.agents.presets import preset as made
    from engram.agents.unread import check_read
    from engram.run.settings import check_names

    spec: Any = made(preset, spaces.from_json(dict(space)), steps)
    check_names(spec, settings)
    spec = specs.override_all(spec, settings)
    check_read(spec, settings)
    rows = [*kind_row(spec), *specs.describe(spec)]
    return [
        (quote(f"{path}={specs.show(value)}"), f"{text} ({kind.replace('|', ', ')})")
        for path, kind, value, text in rows
    ]
