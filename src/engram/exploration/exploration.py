"""Exploration: how an action is chosen while training. One decision in, one action out.

Every kind has `choose(decision, bits, episode, step)`: `bits` are new at every step, `episode` are bits drawn when the
episode began, if the kind is one `by_episode` (it then has `kept` as well, which says what these bits are at each
step); and `report(step)`, what a line of metrics says. Its numbers are functions of the global step.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.bits import below, hashed, uniform
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Decision


@register("exploration", "epsilon-greedy")
@spec
class EpsilonGreedySpec:
    """A random action with a probability that falls linearly with the global step."""

    start: float = setting(1.0, "epsilon at step 0", low=0, high=1)
    end: float = setting(0.02, "epsilon from `steps` on", low=0, high=1)
    steps: int = setting(5_000, "environment steps over which epsilon falls", low=1)

    by_episode = False

    def epsilon(self, step: int | Array) -> float | Array:
        """The probability of a random action at a global step. Works on integers and on arrays."""
        return _falling(self.start, self.end, self.steps, step)

    def report(self, step: int) -> dict[str, float]:
        """What a line of metrics says of exploration."""
        return {"epsilon": float(self.epsilon(step))}

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """An action: the preferred one, or with probability epsilon any of those allowed."""
        explored = uniform(bits[0]) < self.epsilon(step)
        return jnp.where(explored, any_of(decision, bits[1]), decision.preference.argmax()).astype(jnp.int32)


@register("exploration", "boltzmann")
@spec
class BoltzmannSpec:
    """Attention over actions as exploration: softmax(Q / temperature), with a temperature that falls linearly.

    Source: Sutton & Barto 2018, section 2.8, with Q for the preferences.
    """

    temperature: float = setting(1.0, "temperature at step 0, in units of return", above=0)
    final_temperature: float = setting(0.05, "temperature from `steps` on, in units of return", above=0)
    steps: int = setting(5_000, "environment steps over which the temperature falls", low=1)

    by_episode = False

    def at(self, step: int | Array) -> float | Array:
        """The temperature at a global step. Works on integers and on arrays."""
        return _falling(self.temperature, self.final_temperature, self.steps, step)

    def report(self, step: int) -> dict[str, float]:
        """What a line of metrics says of exploration."""
        return {"temperature": float(self.at(step))}

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """An action drawn with those probabilities; one that is not allowed has none."""
        preference, allowed = decision.preference, decision.allowed
        weights = jax.nn.softmax(preference / self.at(step))
        passed = jnp.cumsum(weights) > uniform(bits[0]) * weights.sum()
        possible = passed if allowed is None else passed & allowed
        # Rounding may leave no action above the drawn number; the preferred one is then as good as any.
        return jnp.where(possible.any(), possible.argmax(), preference.argmax()).astype(jnp.int32)


@register("exploration", "parameter-noise")
@spec
class ParameterNoiseSpec:
    """The best action of a value function that was disturbed once for the whole episode.

        argmax_a Q(s, a) + scale * e_a . f(s),     e_a drawn anew for each episode, each entry -1 or 1

    f has length 1: one half is what the encoder gave, one half what the memory gave, each scaled to the same length. So
    the noise has the same standard deviation, `scale`, at every step, and is alike in steps that look alike: an episode
    tries one thing consistently, where a random action at each step would hardly ever get anywhere. That matters most
    where one wrong step spoils an episode, as in a long corridor.

    With `opening`, an episode may begin with a few actions at random before it settles on its noise: noise that is
    alike wherever things look alike never does one thing first and another from then on.

    Sources: Plappert et al. 2018 (arXiv 1706.01905), here for a linear layer beside the head and without adapting the
    scale; Osband et al. 2016 (arXiv 1402.0635) for values that are randomised by episode.
    """

    scale: float = setting(0.3, "standard deviation of the noise at step 0, in units of return", low=0)
    final_scale: float = setting(0.02, "standard deviation from `steps` on, in units of return", low=0)
    steps: int = setting(5_000, "environment steps over which it falls", low=1)
    opening: float = setting(
        0.0, "chance, however late, that an episode begins with a random action, and that another follows each",
        low=0, high=0.99,
    )  # fmt: skip

    by_episode = True

    def at(self, step: int | Array) -> float | Array:
        """The standard deviation at a global step. Works on integers and on arrays."""
        return _falling(self.scale, self.final_scale, self.steps, step)

    def report(self, step: int) -> dict[str, float]:
        """What a line of metrics says of exploration."""
        return {"noise": float(self.at(step))}

    def kept(
        self,
        episode: UInt32[Array, "2"],
        is_first: Bool[Array, ""],
        bits: UInt32[Array, "2"],
        fresh: UInt32[Array, "2"],
    ) -> UInt32[Array, "2"]:
        """The bits of the running episode at this step: zeros while its actions are random, then those of its noise."""
        opens = is_first | (episode == 0).all()
        return jnp.where(opens, jnp.where(uniform(bits[0]) < self.opening, jnp.uint32(0), fresh), episode)

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """The action; `episode` stays the same from the first step of an episode to its last; see `kept`."""
        features = jnp.concatenate([_direction(decision.encoding.embedding), _direction(decision.working.vector)])
        actions = decision.returns.q.shape[-1]
        signs = hashed(episode, actions * features.shape[0]).reshape(actions, -1) >> 31
        noise = (1.0 - 2.0 * signs.astype(jnp.float32)) @ features * 0.5**0.5
        action = (decision.preference + self.at(step) * noise).argmax()
        if self.opening:
            action = jnp.where((episode == 0).all(), any_of(decision, bits[1]), action)
        return action.astype(jnp.int32)


def any_of(decision: Decision, word: UInt32[Array, ""]) -> Int[Array, ""]:
    """Any of the actions that are allowed."""
    allowed = decision.allowed
    if allowed is None:
        return below(word, decision.preference.shape[0])
    return (jnp.cumsum(allowed) > below(word, jnp.maximum(allowed.sum(), 1))).argmax()


def _direction(features: Float[Array, "features"]) -> Float[Array, "features"]:
    return features * jax.lax.rsqrt(jnp.maximum((features**2).sum(), 1e-12))


def _falling(start: float, end: float, steps: int, step: int | Array) -> float | Array:
    left = 1.0 - step / steps
    return end + (start - end) * (left * (left > 0))
