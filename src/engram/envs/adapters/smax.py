"""Battles in the manner of StarCraft, played by SMAX of jaxmarl 0.2 (extra `smax`): a team of units against the
heuristic of that package.

The settings are those of jaxmarl's own baselines: what enemies do is seen, walls kill, enemies attack the closest.
jaxmarl 0.2 changed the physics (units that died no longer collide) and two features, so older plots are of another
game. The package is imported, never copied.

Source: Rutherford et al. 2023 (arXiv 2311.10090), section 4.1.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from io import StringIO
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, typed_key
from engram.errors import SpecError, install
from engram.spaces import MASK, OFFERED, TEAM_STATE, Box, Dict

TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
OTHER = 7 + len(TYPES)  # numbers of a unit that is seen: health, x, y, moved x, moved y, target, cooldown, type
OWN = 4 + len(TYPES)  # of the own one: health, x, y, cooldown, type
ROW = 2 + OTHER  # of both, in one form, after whether it is itself and whether it is an ally; its number follows
MOVES = ("up", "right", "down", "left", "stop")  # in jaxmarl's order; attacks follow
SIDE = 32.0  # of the map


class _Map(NamedTuple):
    allies: int
    enemies: int


MAPS = {
    "3m": _Map(3, 3), "8m": _Map(8, 8), "25m": _Map(25, 25), "2s3z": _Map(5, 5), "3s5z": _Map(8, 8),
    "5m_vs_6m": _Map(5, 6), "10m_vs_11m": _Map(10, 11), "27m_vs_30m": _Map(27, 30), "3s_vs_5z": _Map(3, 5),
    "6h_vs_8z": _Map(6, 8), "3s5z_vs_3s6z": _Map(8, 9), "smacv2_5_units": _Map(5, 5), "smacv2_10_units": _Map(10, 10),
    "smacv2_20_units": _Map(20, 20),
}  # fmt: skip


class Battle(NamedTuple):
    """jaxmarl's own state, with dtypes that stay, and the steps taken."""

    game: PyTree
    steps: Int[Array, ""]


def id_of(map: str) -> str:
    """The environment of a map."""
    return map if map.startswith("smacv2") else f"smax-{map}"


@dataclass(frozen=True)
class SMAX:
    """A battle of a team of units, each an agent, against a heuristic enemy; won when all enemies are dead.

    An agent sees rows of units: its own first, then its allies, then the enemies, each within its own sight; rows
    of units that it does not see are zeros. A row ends with which unit of its side it is, one-hot: the number that
    an attack on it has. Actions are four moves, stop, and one attack for each enemy; the mask allows attacks within
    range, and the dead only to stop. The team is paid the share of the enemies' health that it took, and 1 for a
    win: 2 at most.

    Args:
      map: one of `MAPS`. Those of `smacv2` have other units and places in every episode, so that they cannot be learned
        by heart.
      max_steps: steps after which an episode is truncated. 100 is jaxmarl's, which calls that an end.
      described: whether each action is offered by its features: a move by its number, an attack by the row of whom it
        hits. So `head=attention` compares what the state asks for with each enemy. Has no effect with `sees="time"`.
      sees: "units", or the control "time": the steps taken and which of the agents it is, so only what a plan made in
        advance needs. The mask stays.

    SpecError for a wrong argument, or if jaxmarl is not installed.
    """

    map: str
    max_steps: int = 100
    described: bool = True
    sees: Literal["units", "time"] = "units"

    def __post_init__(self):
        at_least(self, "max_steps", 1)
        _played(self.map)  # so that a missing extra is noticed here, not inside a trace

    @property
    def agents(self) -> int:
        return MAPS[self.map].allies

    @property
    def units(self) -> int:
        """On both sides."""
        return sum(MAPS[self.map])

    @property
    def row(self) -> int:
        """Numbers of a row."""
        return ROW + max(MAPS[self.map])

    @property
    def actions(self) -> int:
        return len(MOVES) + MAPS[self.map].enemies

    @property
    def observation_space(self) -> Dict:
        units = Box((self.units, self.row), unordered=True)
        seen = ("units", units) if self.sees == "units" else ("time", Box((1 + self.agents,)))
        offered = ((OFFERED, Box((self.actions, len(MOVES) + self.row))),) if self._offers else ()
        return Dict((seen, (MASK, Box((self.actions,), "bool")), *offered, (TEAM_STATE, Box((self.units * OWN,)))))

    @property
    def _offers(self) -> bool:
        return self.described and self.sees == "units"

    @property
    def parts(self) -> dict[str, list[str]]:
        """Names of actions and rows."""
        allies, enemies = MAPS[self.map]
        attacks = [f"attack enemy {number + 1}" for number in range(enemies)]
        others = [f"ally {number + 1}" for number in range(allies - 1)]
        rows = ["itself", *others, *(f"enemy {number + 1}" for number in range(enemies))]
        return {"actions": [*MOVES, *attacks]} | ({"entities": rows} if self.sees == "units" else {})

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Battle, dict[str, Array]]:
        shown, game = _played(self.map).reset(typed_key(key))
        battle = Battle(_steady(self.map, game), jnp.int32(0))
        return battle, self._observation(battle, shown)

    def step(self, state: Battle, action: Int[Array, "agents"], key: UInt32[Array, "2"]) -> tuple[Battle, DeviceStep]:
        game = _played(self.map)
        actions = {name: action[number] for number, name in enumerate(game.agents)}
        shown, following, rewards, _, _ = game.step_env(typed_key(key), state.game, actions)
        battle = Battle(_steady(self.map, following), state.steps + 1)
        alive = battle.game.state.unit_alive
        left, enemies = alive[: self.agents].any(), alive[self.agents :].any()
        reward = jnp.asarray(rewards[game.agents[0]], jnp.float32)
        over: Bool[Array, ""] = ~(left & enemies)
        late = battle.steps >= self.max_steps
        return battle, DeviceStep(self._observation(battle, shown), reward, over, late & ~over, success=left & ~enemies)

    def _observation(self, battle: Battle, shown: dict[str, Array]) -> dict[str, Array]:
        game = _played(self.map)
        allowed = game.get_avail_actions(battle.game)
        masks = jnp.stack([allowed[name] for name in game.agents]) != 0
        state = jnp.tile(self._state(shown["world_state"]), (self.agents, 1))
        if self.sees == "time":
            clock = jnp.full((self.agents, 1), battle.steps / 100, jnp.float32)
            seen = {"time": jnp.concatenate([clock, jnp.eye(self.agents, dtype=jnp.float32)], axis=1)}
        else:
            seen = {"units": jnp.stack([self._rows(shown[name], each) for each, name in enumerate(game.agents)])}
        if self._offers:
            seen[OFFERED] = jax.vmap(self._offered)(seen["units"])
        return {**seen, MASK: masks, TEAM_STATE: state}

    def _offered(self, rows: Float[Array, "units row"]) -> Float[Array, "actions features"]:
        """One agent's moves, each a number, and attacks, each the row of the enemy."""
        moves = jnp.eye(len(MOVES), len(MOVES) + self.row)
        return jnp.concatenate([moves, jnp.pad(rows[self.agents :], ((0, 0), (len(MOVES), 0)))])

    def _rows(self, flat: Float[Array, "numbers"], agent: int) -> Float[Array, "units row"]:
        """What an agent sees as rows of one form, its own first; what a row does not have is 0.

        Without its number a unit could not be told from others of a set, and so not be the one to attack.
        """
        allies, others = self.agents - 1, self.units - 1
        rows = flat[: others * OTHER].reshape(others, OTHER)
        there = (rows != 0).any(-1, keepdims=True)
        kind = jnp.zeros((others, 2)).at[:allies, 1].set(1.0) * there
        own = flat[others * OTHER :]
        # Health and place, nothing of movement and target, cooldown and type.
        ego = jnp.concatenate([jnp.ones(2) * (own != 0).any(), own[:3], jnp.zeros(3), own[3:]])
        numbers = [agent, *(one for one in range(self.agents) if one != agent), *range(MAPS[self.map].enemies)]
        which = jnp.eye(max(MAPS[self.map]))[jnp.array(numbers)] * jnp.concatenate([ego[None, :1] > 0, there])
        seen = jnp.concatenate([ego[None], jnp.concatenate([kind, rows], axis=1)])
        return jnp.concatenate([seen, which], axis=1).astype(jnp.float32)

    def _state(self, flat: Float[Array, "numbers"]) -> Float[Array, "state"]:
        """Every unit's own numbers, wherever it is; jaxmarl gives places in units of the map."""
        units = flat[: self.units * OWN].reshape(self.units, OWN)
        return (units / jnp.ones(OWN).at[1:3].set(SIDE)).reshape(-1).astype(jnp.float32)


for _map in MAPS:
    register_device(id_of(_map), map=_map)(SMAX)


@cache
def _played(name: str) -> Any:
    """jaxmarl's environment, which holds arrays and so cannot be a field of a hashable dataclass."""
    with jax.ensure_compile_time_eval():  # outside any trace, or a tracer would stay in its arrays
        package = package_of(name)
        scenario = package.map_name_to_scenario(name)
        return package.HeuristicEnemySMAX(
            scenario=scenario, see_enemy_actions=True, walls_cause_death=True, attack_mode="closest"
        )


def package_of(name: str) -> Any:
    """jaxmarl's module of SMAX. SpecError where it is not installed."""
    try:
        with _unheard():
            return import_module("jaxmarl.environments.smax")
    except ImportError as problem:
        raise SpecError(f"the map {name} of SMAX is played by jaxmarl ({problem}); {install('smax')}") from problem


@contextmanager
def _unheard() -> Iterator[None]:
    """Holds back what jaxmarl prints when imported: which other packages it did not find.

    Its import sets both standard streams to those that the process began with, so these are replaced too.
    """
    kept = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    sys.stdout = sys.__stdout__ = StringIO()  # type: ignore[misc]
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = kept  # type: ignore[misc]


@cache
def _dtypes(name: str) -> PyTree:
    """Of the state after a step. The first state has weak types and another integer, so a loop would compile anew."""
    game = _played(name)
    key = typed_key(jnp.zeros(2, jnp.uint32))
    actions = {one: jnp.int32(0) for one in game.agents}
    shape = jax.eval_shape(lambda: game.step_env(key, game.reset(key)[1], actions)[1])
    return jax.tree.map(lambda leaf: leaf.dtype, shape)


def _steady(name: str, game: PyTree) -> PyTree:
    """The state with those dtypes, none of them weak."""
    return jax.tree.map(lambda leaf, dtype: jax.lax.convert_element_type(leaf, dtype), game, _dtypes(name))
