"""The five MinAtar games, played by pgx (extra `board`).

Defaults are those of pgx 2.6 and its port of MinAtar v1. Each game has its smaller action set, repeats the previous
action with probability 0.1, and grows more difficult with time. pgx keeps the terminal observation and resets nothing
by itself. It only ever reports `terminated`; a time limit is added here.

pgx itself is Apache-2.0, but its MinAtar modules descend from MinAtar and are GPL-3.0: they are imported, never copied.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, typed_key
from engram.errors import SpecError, hint, install
from engram.spaces import Box


class _Game(NamedTuple):
    channels: int
    actions: int  # in the smaller set
    kind: str  # its class in pgx


GAMES = {
    "asterix": _Game(4, 5, "MinAtarAsterix"),
    "breakout": _Game(4, 3, "MinAtarBreakout"),
    "freeway": _Game(7, 3, "MinAtarFreeway"),
    "seaquest": _Game(10, 6, "MinAtarSeaquest"),
    "space_invaders": _Game(6, 4, "MinAtarSpaceInvaders"),
}
ALL_ACTIONS = 6  # nothing, left, up, right, down, fire


class MinAtarState(NamedTuple):
    """The game, and a clock for the time limit, which pgx has not."""

    game: PyTree  # pgx's own state
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("minatar-asterix", game="asterix")
@register_device("minatar-breakout", game="breakout")
@register_device("minatar-freeway", game="freeway")
@register_device("minatar-seaquest", game="seaquest")
@register_device("minatar-space_invaders", game="space_invaders")
@dataclass(frozen=True)
class MinAtar:
    """One MinAtar game: a 10 x 10 board of yes-or-no channels; rewards are points, not clipped.

    Args:
      game: one of `GAMES`.
      max_steps: actions after which an episode is truncated, as all games but Freeway can be played for ever. The
        default is ours. Freeway's own limit ends it with its 2501st action, reported as *terminated* although nothing
        on the board announces it, as published results have it; `max_steps=2500` makes it a truncation instead.
      sticky_action_probability: that the action before is repeated instead of the one chosen.
      minimal_actions: only the actions that do something in this game, else all six.

    A state must come from `reset`: Space Invaders searches its aliens without end on an all-zero one.
    SpecError for a wrong argument, or if pgx is not installed.
    Source: Young and Tian 2019 (arXiv 1903.03176); Koyamada et al. 2023 (arXiv 2303.17503).
    """

    game: str
    max_steps: int = 10_000
    sticky_action_probability: float = 0.1
    minimal_actions: bool = True

    def __post_init__(self):
        if self.game not in GAMES:
            raise SpecError(f"no MinAtar game is called {self.game!r}; {hint(self.game, GAMES)}")
        at_least(self, "max_steps", 1)
        if not 0 <= self.sticky_action_probability <= 1:
            raise SpecError(f"sticky_action_probability = {self.sticky_action_probability!r}; give a number in 0..1")
        _played(self)  # so that a missing extra is noticed here, not inside a trace

    @property
    def observation_space(self) -> Box:
        return Box((10, 10, GAMES[self.game].channels), "bool")

    @property
    def actions(self) -> int:
        return GAMES[self.game].actions if self.minimal_actions else ALL_ACTIONS

    def reset(self, key: UInt32[Array, "2"]) -> tuple[MinAtarState, Bool[Array, "10 10 channels"]]:
        game = _played(self).init(typed_key(key))
        return MinAtarState(game, jnp.int32(0)), game.observation

    def step(
        self, state: MinAtarState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[MinAtarState, DeviceStep]:
        game = _played(self).step(state.game, action.astype(jnp.int32), typed_key(key))
        steps = state.steps + 1
        step = DeviceStep(game.observation, game.rewards[0], game.terminated, steps >= self.max_steps)
        return MinAtarState(game, steps), step


@cache
def _played(env: MinAtar) -> Any:
    """pgx's environment, which holds arrays and so cannot be a field of a hashable dataclass."""
    # pgx makes arrays when imported and when built: outside any trace, or a tracer would stay in them.
    with jax.ensure_compile_time_eval():
        try:
            module = import_module(f"pgx.minatar.{env.game}")
        except ModuleNotFoundError as problem:
            raise SpecError(
                f"minatar-{env.game} is played by pgx, which is not installed; {install('board')}"
            ) from problem
        return getattr(module, GAMES[env.game].kind)(
            use_minimal_action_set=env.minimal_actions, sticky_action_prob=env.sticky_action_probability
        )
