"""An exploration: the preferred action of this episode's favourites."""

import jax.numpy as jnp

from engram import register, setting, spec
from engram.bits import hashed, uniform


@register("exploration", "mine-exploration")
@spec
class MineExplorationSpec:
    """A bonus for each action that is drawn when an episode begins."""

    bonus: float = setting(0.5, "the greatest bonus, in units of return", low=0)

    by_episode = True
    settled = 0

    def chance(self, step):
        return None

    def report(self, step):
        return {"bonus": self.bonus}

    def kept(self, episode, is_first, bits, fresh):
        return jnp.where(is_first, fresh, episode)

    def choose(self, decision, bits, episode, step):
        bonus = self.bonus * uniform(hashed(episode, decision.preference.shape[0]))
        return (decision.preference + bonus).argmax().astype(jnp.int32)
