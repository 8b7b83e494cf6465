"""Simple players, as functions of a position of pgx: one that plays anywhere, and one that captures what it can."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from engram.bits import hashed, uniform

Choose = Callable[[Any, Any, UInt32[Array, "2"]], Int[Array, ""]]  # of pgx's environment, its state and a key


def anywhere(go: Any, game: Any, key: UInt32[Array, "2"]) -> Int[Array, ""]:
    """Any legal point; a pass only where there is none."""
    del go
    return _best(game, jnp.zeros(game.legal_action_mask.shape[0] - 1), key)


def capturing(go: Any, game: Any, key: UInt32[Array, "2"]) -> Int[Array, ""]:
    """The point that captures most stones, or any legal one where none does: one ply of looking ahead."""
    points = game.legal_action_mask.shape[0] - 1
    before = game.observation[..., 1].sum()
    after = jax.vmap(lambda action: go.step(game, action).observation[..., 0].sum())(jnp.arange(points))
    return _best(game, (before - after).astype(jnp.float32), key)


def _best(game: Any, worth: Float[Array, "points"], key: UInt32[Array, "2"]) -> Int[Array, ""]:
    """The legal point that is worth most, by lot where several are."""
    legal = game.legal_action_mask
    lot = uniform(hashed(key, worth.shape[0])) * 0.5
    scores = jnp.where(legal[:-1], worth + lot, -jnp.inf)
    return jnp.where(legal[:-1].any(), scores.argmax(), worth.shape[0]).astype(jnp.int32)


PLAYERS: dict[str, Choose] = {"random": anywhere, "capture": capturing}
