"""Recipes: each makes its agent, is what the benchmarks run, and gives way to what else is given."""

import json
from dataclasses import replace

import jax
import pytest
from support.text_games import Coin

from engram import recipes
from engram.agents.q_learning import QLearner
from engram.cli.commands import main
from engram.envs.textgames.game import TextGame
from engram.errors import SpecError, UnknownName
from engram.run.plan import RunPlan
from engram.run.trainer import Trainer

ALL = recipes.known()


def case(recipe):
    """The games of an extra that tests do without are made where it is installed."""
    marks = [pytest.mark.slow] if recipe.env.startswith("textworld/") else []
    return pytest.param(recipe, id=f"{recipe.env}-{recipe.name}", marks=marks)


@pytest.mark.parametrize("recipe", [case(recipe) for recipe in ALL])
def test_a_recipe_makes_its_agent(recipe, tmp_path, monkeypatch):
    if recipe.env.startswith("textworld/"):
        pytest.importorskip("textworld")
        monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    with Trainer(recipe.env, recipe=recipe.name) as trainer:
        plan = trainer.plan
        agent = QLearner(plan.agent, plan.space, plan.actions, plan.envs)
        assert jax.tree.leaves(jax.eval_shape(agent.init, jax.random.PRNGKey(0)))
    assert (plan.recipe, plan.preset, plan.steps, plan.envs) == (
        recipe.name, recipe.preset, recipe.steps, recipe.envs,
    )  # fmt: skip
    assert plan.env_args == (recipe.env_args or {})
    with Trainer(recipe.env, overrides={**recipe.agent()}, **recipe.run()) as written_out:
        assert written_out.plan == replace(plan, recipe=None)


def test_the_recipe_of_text_games_fits_a_game_of_our_own():
    recipe = recipes.find("textworld/CoinCollector-v0", "best")
    own = {name: value for name, value in recipe.env_args.items() if name != "level"}
    assert own == {"words": 8, "discovery": 0.1}
    settings = recipe.agent() | {"replay.start": 40, "replay.capacity": 200, "replay.batch_size": 8}
    with Trainer(lambda: TextGame([Coin], rows=4, **own), steps=120, envs=recipe.envs, overrides=settings) as trainer:
        trainer.learn()
        assert trainer.plan.agent.discount == 0.9
        assert not trainer.plan.agent.has_memory


def test_every_environment_has_one_recipe_that_is_the_best():
    for env in {recipe.env for recipe in ALL}:
        own = recipes.known(env)
        assert recipes.find(env, "best") == own[0]
        assert "best" not in {recipe.name for recipe in own}
    for path in recipes.FOLDER.glob("*.json"):
        content = json.loads(path.read_text())
        assert path.stem == content["env"].replace("/", "-")
        assert content["best"] in content["recipes"]


def test_a_recipe_learns_and_is_recorded(tmp_path):
    small = {"steps": 400, "replay__start": 200, "replay__capacity": 400, "replay__window": 8}
    small |= {"env_args": {"length": 5}}
    with Trainer("engram/PassiveTMaze-v0", recipe="best", run=tmp_path / "r", **small) as trainer:
        trainer.learn()
        assert trainer.steps >= 400
        assert trainer.plan.agent.replay.window == 8
        assert trainer.plan.agent.optimizer.learning_rate == 1e-3
    assert RunPlan.read(tmp_path / "r").recipe == "best"
    assert json.loads((tmp_path / "r" / "run.json").read_text())["env_args"] == {"length": 5}
    with Trainer(run=tmp_path / "r", resume=True, recipe="best", steps=500) as trainer:
        assert trainer.learn().steps >= 500
    with pytest.raises(SpecError, match="was started with recipe = 'best', not 'length-500'"):
        Trainer(run=tmp_path / "r", resume=True, recipe="length-500")


@pytest.mark.parametrize(
    ("env", "name", "sentence"),
    [
        (
            "engram/PassiveTMaze-v0",
            "bst",
            "no recipe for 'engram/PassiveTMaze-v0' is called 'bst'; did you mean 'best",
        ),
        ("engram/PasiveTMaze-v0", "best", "there is no recipe for 'engram/PasiveTMaze-v0'; did you mean 'engram/Pass"),
    ],
)
def test_a_recipe_that_is_not_there_is_answered_with_the_nearest(env, name, sentence):
    with pytest.raises(UnknownName) as caught:
        Trainer(env, recipe=name)
    assert str(caught.value).startswith(sentence)


def test_an_environment_object_has_no_recipe():
    with pytest.raises(SpecError, match="recipe = 'best' was given with an environment object; name the environment's"):
        Trainer(lambda: None, recipe="best")  # type: ignore[arg-type, return-value]


def test_recipes_are_listed(capsys):
    assert main(["list", "recipes", "RepeatPrevious"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("engram/RepeatPrevious-v0 --recipe best  medium, with level=medium: greedy return 1.000")
    assert second.startswith("engram/RepeatPrevious-v0 --recipe hard  hard, with level=hard: ")
    assert "100,000 steps, seeds 10 to 14, 15 min a seed, commit 92a97ca" in second
