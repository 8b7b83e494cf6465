"""What is wrong with the words of `engram train`, found before JAX is loaded for the run itself."""

from collections.abc import Mapping
from typing import Any

from engram.cli.blank import without_jax
from engram.cli.environments import check_environment
from engram.errors import EngramError
from engram.run.settings import with_recipe

# One observation for each encoder that a preset may choose, as the JSON of its space. The environment's own is not
# asked for: making it takes time.
SPACES: tuple[dict[str, Any], ...] = (
    {"kind": "box", "shape": [4], "dtype": "float32"},
    {"kind": "box", "shape": [84, 84], "dtype": "uint8"},
    {"kind": "box", "shape": [10, 10, 4], "dtype": "bool"},
    {"kind": "dict", "items": [["entities", {"kind": "box", "shape": [5, 7], "dtype": "float32"}],
                               ["mask", {"kind": "box", "shape": [5], "dtype": "bool"}]]},
    {"kind": "text", "length": 20, "symbols": 30},
)  # fmt: skip


def check_words(env: str, given: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Raises for an environment, a preset, a recipe or a setting that cannot be meant, whatever is observed.

    What passes may still be refused when the run begins, which knows the observation.
    """
    check_environment(env)
    run, agent = dict(given), dict(settings)
    if "recipe" in run:
        run, agent = with_recipe(run, agent, env)
    if agent or "preset" in run:
        without_jax(lambda: _check_settings(run.get("preset", "auto"), run.get("steps"), agent))


def _check_settings(name: str, steps: int | None, settings: Mapping[str, Any]) -> None:
    """Raises what the first of `SPACES` raises if every one of them does."""
    from engram import spaces, specs
    from engram.agents.presets import preset
    from engram.run.settings import check_names

    refused: list[EngramError] = []
    for space in SPACES:
        try:
            agent: Any = preset(name, spaces.from_json(space), steps)
            check_names(agent, settings)
            specs.override_all(agent, settings)
            return
        except EngramError as problem:
            refused.append(problem)
    raise refused[0]
