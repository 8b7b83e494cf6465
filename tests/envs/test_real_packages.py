"""Fields whose packages the tests' environment lacks, with the packages themselves: `uv sync --extra smax`, and so on.

Everywhere else a stand-in is used. All of these are slow, and left out where the package is not installed.
"""

import importlib
from functools import partial
from inspect import unwrap
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import Trainer
from engram.envs.adapters import smax
from engram.envs.device import check_device_env, make_device
from engram.envs.host.make import host_ids, make_host
from engram.envs.textgames import textworld
from engram.spaces import MASK, OFFERED
from engram.testing.environments import check_env

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["3m", "5m_vs_6m", "3s5z_vs_3s6z", "smacv2_10_units"])
def test_a_battle_of_jaxmarl(name: str):
    """Rows, masks and offered attacks fit each other on maps of equal and of unlike sides."""
    pytest.importorskip("jaxmarl")
    env: Any = make_device(smax.id_of(name))
    state, shown = jax.jit(env.reset)(jnp.zeros(2, jnp.uint32))
    step = jax.jit(env.step)
    for key in range(4):
        mask = np.asarray(shown[MASK])
        action = jnp.asarray([np.flatnonzero(row)[-1] for row in mask], jnp.int32)
        state, found = step(state, action, jnp.array([0, key], jnp.uint32))
        shown = found.observation
        assert shown["units"].shape == (env.agents, env.units, env.row)
        attacks = np.asarray(shown[OFFERED])[:, len(smax.MOVES) :, len(smax.MOVES) :]
        np.testing.assert_array_equal(attacks, np.asarray(shown["units"])[:, env.agents :])


def test_a_map_of_jaxmarl_keeps_the_contract():
    pytest.importorskip("jaxmarl")
    check_device_env(make_device("smax-5m_vs_6m"), steps=3)


def test_maps_are_those_of_jaxmarl():
    pytest.importorskip("jaxmarl")
    module = importlib.import_module("jaxmarl.environments.smax.smax_env")
    theirs = module.MAP_NAME_TO_SCENARIO
    sizes = {name: (int(one.num_allies), int(one.num_enemies)) for name, one in theirs.items()}
    assert {name: tuple(one) for name, one in smax.MAPS.items()} == sizes


@pytest.mark.parametrize(("id", "within"), [("FetchReach-v4", 0.05), ("FetchPush-v4", 0.05)])
def test_how_a_robot_of_gymnasium_robotics_is_rewarded_is_found_out(id: str, within: float):
    pytest.importorskip("gymnasium_robotics")
    with Trainer(id, "her", steps=200, action_bins=3, evaluate_every=0) as trainer:
        draw: Any = trainer.plan.agent.draw
        assert (draw.within, draw.reached, draw.missed, draw.horizon) == (within, 0.0, -1.0, 50)


@pytest.mark.parametrize("id", ["Reacher-v5", "Pusher-v5"])
def test_an_arm_of_mujoco_is_cut_into_torques(id: str):
    pytest.importorskip("mujoco")
    envs = make_host(id, seed=0, action_bins=3)
    envs.reset()
    assert np.isfinite(envs.step(np.array([envs.actions - 1])).reward).all()
    envs.close()


@pytest.mark.parametrize("task", ["HighwayFast-v0", "Intersection-v0"])
def test_a_drive_of_envpool_tells_how_it_ended(task: str):
    pytest.importorskip("envpool")
    importlib.import_module("engram.envs.adapters.envpool").register_driving()
    env = gymnasium.make(f"envpool/{task}", disable_env_checker=True)
    env.reset(seed=0)
    over, info = False, {}
    while not over:
        _, _, terminated, truncated, info = env.step(1)
        over = terminated or truncated
    assert info["is_success"] in (0.0, 1.0)
    assert not (info["is_success"] and info["crashed"])
    env.close()


@pytest.mark.parametrize("id", ["textworld/CoinCollector-v0", "textworld/Cooking-v0"])
def test_a_game_of_textworld_is_made_and_keeps_the_contract(id: str, tmp_path: Path):
    pytest.importorskip("textworld")
    host_ids()  # which makes them known to Gymnasium
    made = partial(gymnasium.make, id, disable_env_checker=True, folder=str(tmp_path), games=1)
    found = check_env(made, steps=40, show=False)
    assert [one for one in found if one.kind != "advice"] == []  # such as how long a step takes


def test_a_meal_is_cooked_by_the_book(tmp_path: Path):
    """Read the book, take what it asks for, prepare, eat: all that can be scored, and the game is won."""
    pytest.importorskip("textworld")
    env = unwrap(textworld.cooking)(folder=str(tmp_path), games=1, render_mode="ansi")
    env.reset(seed=0)

    def type_in(begins: str) -> Any:
        [command, *_] = [one for one in env.commands if one.startswith(begins)]
        return env.step(env.commands.index(command))

    type_in("examine cookbook")
    told = (env.render() or "").splitlines()
    wanted = told[told.index("Ingredients:") + 1].strip()
    opened = [one for one in env.commands if one.startswith("open ")]
    for one in opened:
        type_in(one)
    paid = [type_in(begins)[1] for begins in (f"take {wanted}", "prepare meal", "eat meal")]
    assert sum(paid) == 1.0
    assert all(one > 0 for one in paid)
    env.close()


def test_a_coin_is_found_by_trying(tmp_path: Path):
    pytest.importorskip("textworld")
    envs = make_host("textworld/CoinCollector-v0", seed=0, env_args={"folder": str(tmp_path), "games": 1, "level": 1})
    generator, won = np.random.default_rng(0), False
    shown = envs.reset()
    for _ in range(100):
        action = generator.choice(np.flatnonzero(shown[MASK][0]))
        step = envs.step(np.array([action]))
        shown = step.observation
        won = won or bool(step.numbers.get(0, {}).get("is_success"))
    assert won
    envs.close()
