"""Recipes: the settings that produced our published numbers, one file for each environment.

`engram train ENV --recipe best` and `Trainer(ENV, recipe="best")` begin with one; what else is given wins over it. The
benchmarks that publish the numbers read the same files. A file `<environment>.json` holds `env`, its `recipes` by name,
and under `best` the name of the one that `best` means.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engram.errors import UnknownName, hint

FOLDER = Path(__file__).parent
BEST = "best"


@dataclass(frozen=True)
class Recipe:
    """One agent for one environment, and what came of it.

    Fields:
      env, name: which. env_args: arguments for making the environment.
      preset, envs, steps: of the run. settings: of the agent, by path.
      score: what was reached. seeds: how many learned it, or which. minutes: of one seed, on two cores.
      commit: the code that it was measured with. source: the command that measures it again.
    """

    env: str
    name: str
    preset: str
    steps: int
    score: str
    seeds: str
    minutes: float
    commit: str
    source: str
    envs: int = 1
    env_args: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None

    def run(self) -> dict[str, Any]:
        """Settings of the run, as `Trainer` takes them."""
        run = {"preset": self.preset, "steps": self.steps, "envs": self.envs, "env_args": dict(self.env_args or {})}
        return {name: value for name, value in run.items() if value != {}}

    def agent(self) -> dict[str, Any]:
        """Settings of the agent, by path."""
        settings = self.settings or {}
        return {path: tuple(value) if isinstance(value, list) else value for path, value in settings.items()}

    def line(self) -> str:
        """What came of it, in a line."""
        arguments = ", ".join(f"{name}={value}" for name, value in (self.env_args or {}).items())
        where = f"with {arguments}: " if arguments else ""
        took = f"{self.minutes:g} min" if self.minutes < 100 else f"{self.minutes / 60:.1f} h"
        measured = f"{self.steps:,} steps, {self.seeds}, {took} a seed, commit {self.commit}"
        return f"{where}{self.score} ({self.preset}, {measured})"


def known(env: str | None = None) -> list[Recipe]:
    """Every recipe, or those of one environment: by environment, the best first."""
    return [recipe for recipe in _read() if env is None or recipe.env == env]


def find(env: str, name: str) -> Recipe:
    """The recipe called `name`, or the one that `best` means.

    Raises UnknownName, with what there is.
    """
    own = known(env)
    if not own:
        raise UnknownName(f"there is no recipe for {env!r}; {hint(env, {recipe.env for recipe in known()})}")
    chosen = own[0] if name == BEST else next((recipe for recipe in own if recipe.name == name), None)
    if chosen is None:
        names = [BEST, *(recipe.name for recipe in own)]
        raise UnknownName(f"no recipe for {env!r} is called {name!r}; {hint(name, names)}")
    return chosen


@cache
def _read() -> tuple[Recipe, ...]:
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        named = content["recipes"]
        for name in sorted(named, key=lambda name: (name != content["best"], list(named).index(name))):
            found.append(Recipe(env=content["env"], name=name, **named[name]))
    return tuple(found)
