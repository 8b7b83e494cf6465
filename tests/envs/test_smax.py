"""SMAX's adapter, with a stand-in for jaxmarl that is worked by hand: rows, masks, ends, dtypes, and what is refused.

The package itself is too large for the tests' environment; `benchmarks/learning/smax.py` plays it.
"""

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from support.resumed import played

from engram.agents.presets import preset
from engram.encoders.entities import EntitiesSpec
from engram.envs.adapters import smax
from engram.envs.adapters.smax import OTHER, OWN, ROW, SMAX
from engram.envs.device import check_device_env, device_ids, make_device
from engram.errors import SpecError, UnknownName
from engram.spaces import MASK, OFFERED, TEAM_STATE

ALLIES, ENEMIES = 3, 3
STOP, ATTACK = 4, 5  # the first attack
KEY = jnp.zeros(2, jnp.uint32)


class Units(NamedTuple):
    unit_alive: Array
    unit_health: Array


class State(NamedTuple):
    state: Units
    time: Any  # a weak number at first, as jaxmarl's


class Battlefield:
    """An attack on enemy k takes half of its health, whoever makes it; enemies do nothing."""

    def __init__(self, scenario: Any, see_enemy_actions: bool, walls_cause_death: bool, attack_mode: str):
        assert (scenario, see_enemy_actions, walls_cause_death, attack_mode) == ("map of 3m", True, True, "closest")
        self.agents = [f"ally_{number}" for number in range(ALLIES)]

    def reset(self, key: Any) -> tuple[dict[str, Array], State]:
        del key
        units = ALLIES + ENEMIES
        state = State(Units(jnp.ones(units, bool), jnp.ones(units)), 0)
        return self._shown(state), state

    def step_env(self, key: Any, state: State, actions: dict[str, Array]) -> Any:
        chosen = jnp.stack([actions[name] for name in self.agents])
        hits = (chosen[:, None] == ATTACK + jnp.arange(ENEMIES)).sum(0)
        health = state.state.unit_health.at[ALLIES:].add(-0.5 * hits).clip(0)
        won = (health[ALLIES:] <= 0).all()
        gained = (state.state.unit_health - health)[ALLIES:].sum() / ENEMIES
        following = State(Units(health > 0, health), state.time + jnp.int32(1))
        rewards = dict.fromkeys(self.agents, gained + won)
        return self._shown(following), following, rewards, {"__all__": won}, {}

    def get_avail_actions(self, state: State) -> dict[str, Array]:
        enemies = state.state.unit_alive[ALLIES:]
        moves = jnp.ones(ATTACK, bool)
        return dict.fromkeys(self.agents, jnp.concatenate([moves, enemies]).astype(jnp.uint8))

    def _shown(self, state: State) -> dict[str, Array]:
        """As jaxmarl lays numbers out: the other allies, the enemies, then the own unit; of one that is dead zeros."""
        health = state.state.unit_health

        def row(unit: int) -> Array:
            numbers = jnp.arange(OTHER, dtype=jnp.float32).at[0].set(health[unit]).at[1].set(100.0 + unit)
            return numbers * (health[unit] > 0)

        def own(unit: int) -> Array:
            return jnp.arange(OWN, dtype=jnp.float32).at[0].set(health[unit]).at[1].set(100.0 + unit)

        units = range(ALLIES + ENEMIES)
        shown = {
            f"ally_{one}": jnp.concatenate([*(row(unit) for unit in units if unit != one), own(one)])
            for one in range(ALLIES)
        }
        return shown | {"world_state": jnp.concatenate([own(unit) for unit in units] + [jnp.full(4, 7.0)])}


@pytest.fixture(autouse=True)
def jaxmarl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in as the package; what was made of it is forgotten afterwards."""
    module = ModuleType("jaxmarl.environments.smax")
    module.HeuristicEnemySMAX = Battlefield  # type: ignore[attr-defined]
    module.map_name_to_scenario = lambda name: f"map of {name}"  # type: ignore[attr-defined]
    for name in ("jaxmarl", "jaxmarl.environments"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax", module)
    for made in (smax._played, smax._dtypes):
        made.cache_clear()
    yield
    for made in (smax._played, smax._dtypes):
        made.cache_clear()


def test_it_keeps_the_contract_of_device_environments():
    for sees in ("units", "time"):
        check_device_env(make_device("smax-3m", max_steps=5, sees=sees), steps=20)


def test_each_agent_sees_itself_first_then_allies_then_enemies():
    """Worked by hand for the second of three: what a row does not have is 0."""
    _, shown = make_device("smax-3m").reset(KEY)
    rows = np.asarray(shown["units"])
    assert rows.shape == (ALLIES, ALLIES + ENEMIES, ROW + 3)
    own = [1.0, 101.0, *range(2, OWN)]
    assert rows[1, 0].tolist() == [1, 1, *own[:3], 0, 0, 0, *own[3:], 0, 1, 0]
    others = [[1.0, 100.0 + unit, *range(2, OTHER)] for unit in (0, 2, 3, 4, 5)]
    flags = [[0, 1], [0, 1], [0, 0], [0, 0], [0, 0]]
    numbers = np.eye(3)[[0, 2, 0, 1, 2]]  # the first ally, the third, and the enemies as attacks name them
    expected = [[*flag, *other, *number] for flag, other, number in zip(flags, others, numbers, strict=True)]
    assert rows[1, 1:].tolist() == expected


@pytest.mark.parametrize("enemy", range(ENEMIES))
def test_a_row_says_which_attack_hits_it(enemy: int):
    """Rows are a set: their order says nothing, so the number must."""
    env = make_device("smax-3m")
    state, before = env.reset(KEY)
    _, found = env.step(state, jnp.array([ATTACK + enemy, STOP, STOP]), KEY)
    health = 2
    hit = np.argwhere(np.asarray(found.observation["units"] != before["units"])[2, :, health]).ravel().tolist()
    assert hit == [ALLIES + enemy]
    assert np.asarray(before["units"])[2, hit[0], ROW:].tolist() == np.eye(3)[enemy].tolist()


def test_a_move_is_offered_by_its_number_and_an_attack_by_the_row_of_whom_it_hits():
    _, shown = make_device("smax-3m").reset(KEY)
    offered, rows = np.asarray(shown[OFFERED]), np.asarray(shown["units"])
    moves = ATTACK
    assert offered.shape == (ALLIES, moves + ENEMIES, moves + ROW + 3)
    assert (offered[:, :moves] == np.eye(moves, moves + ROW + 3)).all()
    assert not offered[:, moves:, :moves].any()
    assert (offered[:, moves:, moves:] == rows[:, ALLIES:]).all()
    for bare in ({"described": False}, {"sees": "time"}):
        assert OFFERED not in make_device("smax-3m", **bare).reset(KEY)[1]


def test_the_state_of_the_team_is_every_units_own_numbers_with_places_of_the_maps_size():
    env = make_device("smax-3m")
    _, shown = env.reset(KEY)
    state = np.asarray(shown[TEAM_STATE]).reshape(ALLIES, ALLIES + ENEMIES, OWN)
    assert (state == state[:1]).all()
    for unit in range(ALLIES + ENEMIES):
        np.testing.assert_allclose(state[0, unit], [1, (100 + unit) / 32, 2 / 32, *range(3, OWN)], rtol=1e-6)
    assert dict(env.observation_space.items)[TEAM_STATE].shape == (state[0].size,)


def test_the_dead_are_rows_of_zeros_and_cannot_be_attacked_and_a_win_is_a_success():
    env, step = make_device("smax-3m"), jax.jit(make_device("smax-3m").step)
    state, _ = env.reset(KEY)
    state, found = step(state, jnp.array([ATTACK, ATTACK, STOP]), KEY)
    np.testing.assert_allclose(found.reward, 1 / 3, rtol=1e-6)
    rows = np.asarray(found.observation["units"])
    assert not rows[:, ALLIES].any()  # the first enemy
    assert rows[:, ALLIES + 1].any()
    assert found.observation[MASK][0].tolist() == [True] * ATTACK + [False, True, True]
    assert not bool(found.terminated)
    for _ in range(2):
        state, found = step(state, jnp.array([ATTACK + 1, ATTACK + 2, ATTACK + 1]), KEY)
    assert (bool(found.terminated), bool(found.truncated), bool(found.success)) == (True, False, True)


def test_time_that_is_up_is_no_end_and_no_success():
    """jaxmarl calls it an end; what follows would then be worth nothing."""
    env = make_device("smax-3m", max_steps=2)
    state, _ = env.reset(KEY)
    ends = []
    for _ in range(2):
        state, found = env.step(state, jnp.full(ALLIES, STOP), KEY)
        ends.append((bool(found.terminated), bool(found.truncated), bool(found.success)))
    assert ends == [(False, False, False), (False, True, False)]


def test_a_loop_over_its_steps_is_compiled_once():
    """The first state of jaxmarl has weak types, with which a second call would compile again."""
    env = make_device("smax-3m")
    step = jax.jit(env.step)
    state, _ = env.reset(KEY)
    for _ in range(3):
        state, _ = step(state, jnp.full(ALLIES, STOP), KEY)
    assert step._cache_size() == 1
    assert all(not leaf.weak_type for leaf in jax.tree.leaves(jax.eval_shape(lambda: env.reset(KEY)[0])))


def test_sides_of_unlike_size_have_rows_of_one_form(monkeypatch: pytest.MonkeyPatch):
    """Five against six, for the agent 3: it comes first, then its allies in their order, then the enemies."""
    monkeypatch.setattr(smax, "_played", cache(lambda name: None))
    env = SMAX("5m_vs_6m")
    assert (env.agents, env.units, env.actions, env.row) == (5, 11, 11, ROW + 6)
    others = np.arange(10 * OTHER, dtype=np.float32).reshape(10, OTHER) + 1
    others[6] = 0  # the third enemy is out of sight
    own = np.arange(OWN, dtype=np.float32) + 500
    rows = np.asarray(env._rows(jnp.asarray(np.concatenate([others.reshape(-1), own])), 3))
    assert rows.shape == (11, env.row)
    assert rows[:, 0].tolist() == [1.0] + [0.0] * 10  # itself
    assert rows[:, 1].tolist() == [1.0] * 5 + [0.0] * 6  # allies
    np.testing.assert_array_equal(rows[1:, 2:ROW], others)
    numbers = [np.flatnonzero(row[ROW:]).tolist() for row in rows]
    assert numbers == [[3], [0], [1], [2], [4], [0], [1], [], [3], [4], [5]]
    offered = np.asarray(env._offered(jnp.asarray(rows)))
    assert offered.shape == (11, len(smax.MOVES) + env.row)
    np.testing.assert_array_equal(offered[ATTACK:, len(smax.MOVES) :], rows[5:])


def test_every_map_has_an_id():
    assert {smax.id_of(name) for name in smax.MAPS} <= {*device_ids()}


def test_the_blind_control_sees_the_time_and_who_it_is():
    env = make_device("smax-3m", sees="time")
    state, shown = env.reset(KEY)
    assert set(shown) == {"time", MASK, TEAM_STATE}
    _, found = env.step(state, jnp.full(ALLIES, STOP), KEY)
    expected = [[0.01, *row] for row in np.eye(ALLIES)]
    np.testing.assert_allclose(found.observation["time"], expected, rtol=1e-6)


def test_units_are_attended_to_and_a_run_goes_on_exactly(tmp_path: Path):
    env = make_device("smax-3m")
    assert isinstance(preset("smax", env.observation_space, 1_000).encoder, EntitiesSpec)
    small: dict[str, Any] = {"preset": "smax", "envs": 4, "rollout__steps": 4, "encoder__token_width": 8,
                             "encoder__width": 8, "encoder__heads": 2, "steps": 96, "evaluate_every": 0}  # fmt: skip
    whole, again = (played(tmp_path / name, "smax-3m", stops, **small) for name, stops in (("a", []), ("b", [48])))
    assert whole[0] == again[0]


def test_what_is_missing_or_unknown_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UnknownName, match="did you mean 'smax-8m'"):
        make_device("smax-4m")
    with pytest.raises(SpecError, match="max_steps = 0"):
        make_device("smax-3m", max_steps=0)
    smax._played.cache_clear()
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax", None)
    with pytest.raises(SpecError, match=r"the map 3m of SMAX is played by jaxmarl .*uv sync --extra smax"):
        SMAX("3m")
