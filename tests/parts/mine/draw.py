"""A small prioritized draw: rows whose error was large are drawn more often, and weigh less."""

import jax.numpy as jnp

from engram import Drawn, register, setting, spec
from engram.bits import uniform
from engram.replay.sampling import startable


@register("draw", "mine-draw")
@spec
class MineDrawSpec:
    """Proportional prioritization by a sum over all rows. Source: Schaul et al. 2016 (arXiv 1511.05952)."""

    exponent: float = setting(0.6, "0 draws uniformly, 1 in proportion to the error", low=0, high=1)
    correction: float = setting(0.4, "share of the bias that weights undo", low=0, high=1)

    words = 1
    compares = False

    def init(self, rows, lanes):
        return {"priority": jnp.zeros((lanes, rows)), "greatest": jnp.ones(())}

    def grown(self, state, growth):
        before, after = growth.before, growth.after
        place = jnp.arange(after.capacity)
        age = (after.cursor[:, None] - 1 - place) % after.capacity  # rows since this place was written
        new = age < (after.cursor - before.cursor)[:, None]
        return state | {"priority": jnp.where(new, state["greatest"], state["priority"])}

    def draw(self, state, ring, reach, bits, embed):
        first, count = startable(ring, reach.after, reach.before)
        place = jnp.arange(ring.capacity)
        number = first[:, None] + (place - first[:, None]) % ring.capacity  # the row that stands at each place
        chance = jnp.where(number < (first + count)[:, None], state["priority"] + 1e-3, 0) ** self.exponent
        chance = jnp.where(number < (first + count)[:, None], chance, 0).reshape(-1)
        sums = jnp.cumsum(chance)
        found = jnp.searchsorted(sums, uniform(bits[:, 0]) * sums[-1], side="right")
        found = jnp.where(chance[found] > 0, found, chance.argmax())
        weight = (chance[found] * (chance > 0).sum() / sums[-1]) ** -self.correction
        return Drawn(number.reshape(-1)[found], found // ring.capacity, weight / weight.max())

    def learned(self, state, drawn, surprise, keep):
        capacity, error = state["priority"].shape[1], surprise.error
        place = jnp.where(keep, drawn.row % capacity, capacity)  # past the end where the update was refused
        return {
            "priority": state["priority"].at[drawn.lane, place].set(error, mode="drop"),
            "greatest": jnp.where(keep, jnp.maximum(state["greatest"], error.max()), state["greatest"]),
        }
