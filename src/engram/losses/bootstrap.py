"""Bootstraps: the target of one action, from the rewards that followed it and what is known of what came next.

Three of the kinds are the readings of sum_i w_i Q(s', a') in the article's update of Q. Read as it stands, nothing but
w_i depends on i in that sum, so normalised weights give back `plain`.

    @register("bootstrap", "mine")
    @spec
    class MySpec:
        asks = "nothing"

        def __call__(self, step, following): ...

`engram.testing.check_bootstrap` holds a bootstrap of your own to this page.
"""

from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from engram.losses.returns import NStep
from engram.ranges import Linear, Log
from engram.registry import declare, register
from engram.specs import setting, spec
from engram.types import Distribution, Returns, blend


class Similar(NamedTuple):
    """What followed the stored experiences most like the present observation and action. Axis [entries]."""

    weights: Float[Array, "entries"]  # sum to 1, or to 0 where none is known
    reward: Float[Array, "entries"]  # the discounted sum of the rewards that followed
    discount: Float[Array, "entries"]  # factor of what came after them: 0 where the episode ended
    value: Float[Array, "entries"]  # max_a' Q(s'_i, a') of what came after them
    confidence: Float[Array, ""]  # how near the nearest is, 0 to 1


class Here(NamedTuple):
    """What the target network says of the present observation."""

    preference: Float[Array, "actions"]  # its Q; minus infinity where an action is forbidden
    action: Int[Array, ""]  # the one that was taken


class Following(NamedTuple):
    """What is known of the observation to bootstrap from, and what a kind asked for besides."""

    returns: Returns  # the target network's
    selector: Float[Array, "actions"]  # the Q that picks the action; minus infinity where that is forbidden
    memory: Float[Array, "actions"] | None = None  # what an external memory says, if asked
    share: Float[Array, "actions"] | None = None  # its share in the estimate, 0 to 1: 0 where it knows nothing
    similar: Similar | None = None  # of the present observation and action, if asked
    here: Here | None = None  # if asked


class BootstrapSpec(Protocol):
    """What was chosen about a bootstrap; it has no learned weights, so the spec itself is called."""

    # What it needs besides: of an external memory, or of the present observation.
    asks: Literal["nothing", "memory", "successors", "here"]

    def __call__(self, step: NStep, following: Following) -> Distribution:
        """The target of one action, a constant for the gradient; `vmap` is outside."""
        ...


# Whether it knows returns that are decoupled: of each number of an action for itself.
declare("bootstrap", decouples=False)

# -- distributions of the next observation's value -------------------------------------------------------------------


def double(following: Returns, selector: Float[Array, "actions"]) -> Distribution:
    """The target network's return of the action that another Q prefers: Q_target(s', argmax_a Q(s', a)).

    With the target network's own Q as selector this is max_a Q_target(s', a), the target of DQN.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), eq. 4; Mnih et al. 2015 (Nature 518), algorithm 1.
    """
    return following.of(following.best(selector))


def remembered(following: Following) -> Distribution:
    """Reading 1: max_a' of (1 - c) Q_target(s', a') + c sum_i w_i v_i, over the entries i similar to (s', a').

    `following.memory` is the attention-weighted sum, `following.share` is c. Where c is 0 this is `double`.
    """
    memory, share = following.memory, following.share
    if memory is None or share is None:
        raise ValueError("this bootstrap asks the memory; give `following.memory` and `following.share`")
    selector = blend(following.selector, memory, jnp.where(jnp.isneginf(following.selector), 0, share))
    action = selector.argmax()
    own = following.returns.of(action)
    return own._replace(atoms=blend(own.atoms, memory[action], share[action]))


def weighted(following: Returns, selector: Float[Array, "actions"], temperature: float) -> Distribution:
    """Reading 2: sum_a' w_a' Z(s', a') with w = softmax(selector / temperature), as one mixture.

    A temperature near 0 gives the greedy action, a high one the mean of the allowed actions. For a fixed temperature it
    is no contraction in general; `mellowmax` is. Source: Pan et al. 2019 (arXiv 1903.05926), eq. 3.
    """
    weights = jax.nn.softmax(selector / temperature)
    return Distribution(following.atoms.reshape(-1), (weights[:, None] * following.probabilities).reshape(-1))


def mellowmax(q: Float[Array, "actions"], selector: Float[Array, "actions"], temperature: float) -> Distribution:
    """temperature * log of the mean of exp(Q / temperature) over the allowed actions: always a non-expansion.

    Of a distribution it takes the means, so the target is one number.

    Source: Asadi & Littman 2017 (arXiv 1612.05628), eq. 1, whose omega is 1 / temperature.
    """
    allowed = ~jnp.isneginf(selector)
    scores = jnp.where(allowed, q, -jnp.inf) / temperature
    value = temperature * (jax.nn.logsumexp(scores) - jnp.log(allowed.sum()))
    return Distribution(value[None], jnp.ones(1))


def soft(following: Returns, logs: Float[Array, "actions"], temperature: float | Float[Array, ""]) -> Distribution:
    """sum_a' pi(a') [Z(s', a') - temperature log pi(a')] of a policy with log pi = `logs`, as one mixture."""
    entropy = temperature * jnp.where(jnp.isneginf(logs), 0, logs)
    atoms = following.atoms - entropy[:, None]
    return Distribution(atoms.reshape(-1), (jnp.exp(logs)[:, None] * following.probabilities).reshape(-1))


# -- targets ---------------------------------------------------------------------------------------------------------


def target(step: NStep, following: Distribution) -> Distribution:
    """r + gamma * Z': the n-step target, a constant for the gradient."""
    atoms = step.reward + step.discount * following.atoms
    return jax.lax.stop_gradient(Distribution(atoms, following.probabilities))


def from_successors(similar: Similar, plain: Distribution) -> Distribution:
    """Reading 3, a whole target: sum_i w_i [r_i + gamma_i max Q(s'_i, .)] over what followed similar (s, a).

    It counts as far as the nearest entry is near, by its confidence; the rest is `plain`, and all of it where none is
    known. Unbiased as the similar become the same, also where successors are random.

    Source: Ormoneit & Sen 2002, eq. 5.
    """
    weights = similar.weights
    sums = (weights * (similar.reward + similar.discount * similar.value)).sum()
    found = jnp.where(weights.sum() > 0, sums, plain.mean)
    # Weights sum to 1 however far the nearest are: a situation that was given up must not be taught by strangers.
    return jax.lax.stop_gradient(plain._replace(atoms=blend(plain.atoms, found, similar.confidence)))


# -- what a spec chooses ---------------------------------------------------------------------------------------------


@register("bootstrap", "plain")
@spec
class PlainSpec:
    """The network's own Q: the greedy action's, picked as `double` says."""

    asks = "nothing"
    decouples = True

    def __call__(self, step: NStep, following: Following) -> Distribution:
        return target(step, double(following.returns, following.selector))


@register("bootstrap", "memory")
@spec
class FromMemorySpec:
    """Reading 1 of the article's update: Q and what an external memory holds of similar situations, by confidence."""

    asks = "memory"

    def __call__(self, step: NStep, following: Following) -> Distribution:
        return target(step, remembered(following))


@register("bootstrap", "actions")
@spec
class ActionsSpec:
    """Reading 2: attention over the next actions by their Q."""

    temperature: float = setting(
        0.1, "of the softmax over Q, in units of return: near 0 greedy, high the mean", above=0, search=Log(0.01, 1.0)
    )
    mellow: bool = setting(
        False, "mellowmax of the mean returns instead of the weighted sum: a contraction at any temperature"
    )

    asks = "nothing"

    def __call__(self, step: NStep, following: Following) -> Distribution:
        if self.mellow:
            return target(step, mellowmax(following.returns.q, following.selector, self.temperature))
        return target(step, weighted(following.returns, following.selector, self.temperature))


@register("bootstrap", "successors")
@spec
class SuccessorsSpec:
    """Reading 3: what followed similar situations and actions, by attention; plain where none is known.

    Each experience is then an entry of its own. Read at least as many entries as a step has outcomes. Use
    `external.eviction=oldest`: an eviction that spares entries which were read keeps the same few for ever.
    """

    asks = "successors"

    def __call__(self, step: NStep, following: Following) -> Distribution:
        if following.similar is None:
            raise ValueError("this bootstrap asks for successors; give `following.similar`")
        return from_successors(following.similar, target(step, double(following.returns, following.selector)))


@register("bootstrap", "munchausen")
@spec
class MunchausenSpec:
    """Softmax over the next actions, and a reward for the action that was likely: by its logarithm, bounded below.

    Of an n-step target the first reward alone gets it. The source takes the target network for both policies, which is
    `double=false`. Source: Vieillard et al. 2020 (arXiv 2007.14430), eq. 1 and section 3.
    """

    scale: float = setting(0.9, "of the logarithm of the action's probability", low=0, high=1, search=Linear(0.5, 0.99))
    temperature: float = setting(0.03, "of both policies, in units of return", above=0, search=Log(0.01, 1.0))
    floor: float = setting(-1.0, "the least that is added to a reward, before the scale", high=0)

    asks = "here"

    def __call__(self, step: NStep, following: Following) -> Distribution:
        if following.here is None:
            raise ValueError("this bootstrap asks for the present observation; give `following.here`")
        preference, action = following.here
        logs = self.temperature * jax.nn.log_softmax(preference / self.temperature)[action]
        reward = step.reward + self.scale * logs.clip(self.floor, 0)
        next_logs = jax.nn.log_softmax(following.selector / self.temperature)
        return target(step._replace(reward=reward), soft(following.returns, next_logs, self.temperature))
