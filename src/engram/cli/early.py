"""What is wrong with the words of `engram train`, found before JAX is loaded for the run itself."""

from collections.abc import Collection, Mapping
from typing import Any

from engram.cli.blank import without_jax
from engram.cli.environments import check_environment
from engram.errors import EngramError
from engram.run.settings import with_recipe


# One observation for each encoder that a preset may choose, as the JSON of its space. The environment's own is not
# asked for: making it takes time.
def _box(shape: list[int], dtype: str, high: float | None = None) -> dict[str, Any]:
    low = None if high is None else 0.0
    return {"kind": "box", "shape": shape, "dtype": dtype, "low": low, "high": high, "unordered": False}


SPACES: tuple[dict[str, Any], ...] = (
    _box([4], "float32"),
    _box([84, 84], "uint8", 255.0),
    _box([10, 10, 4], "bool"),
    {"kind": "dict", "items": [["entities", _box([5, 7], "float32")], ["mask", _box([5], "bool")]]},
    {"kind": "text", "length": 20, "symbols": 30},
)


def check_words(env: str, given: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Raises for an environment, a preset, a recipe or a setting that cannot be meant, whatever is observed.

    What passes may still be refused when the run begins, which knows the observation, and the agent of another run
    that it begins from.
    """
    check_environment(env)
    run, agent = dict(given), dict(settings)
    if "recipe" in run:
        run, agent = with_recipe(run, agent, env)
    if "preset" in run or (agent and "start_from" not in run):
        without_jax(lambda: _check_settings(run.get("preset", "auto"), run.get("steps"), agent, settings))


def _check_settings(name: str, steps: int | None, settings: Mapping[str, Any], typed: Collection[str]) -> None:
    """Raises what the first of `SPACES` raises if every one of them does. `typed`: the settings but a recipe's."""
    from engram import spaces, specs
    from engram.agents.presets import preset
    from engram.agents.unread import of_chosen_parts
    from engram.run.settings import check_names

    refused: list[EngramError] = []
    for space in SPACES:
        try:
            agent: Any = preset(name, spaces.from_json(space), steps)
            check_names(agent, settings)
            specs.override_all(agent, of_chosen_parts(agent, settings, typed))
            return
        except EngramError as problem:
            refused.append(problem)
    raise refused[0]
