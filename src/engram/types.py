"""The values that flow through an agent. Leading axes depend on context: [envs], [time envs], [batch].

**Joint actions.** An action may be several numbers at once, each of one of a few values. It is numbered as the digits
of a number are, the last one fastest (`digits`, `numbered`). Where returns are *decoupled*, the axis of actions holds
one place for each value of each number, number after number, in place of one for each action (`Returns.sizes`).
"""

import itertools
import math
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

Key = UInt32[Array, "2"]  # raw threefry key data; see bits.py for how it is spent


class TimeStep(eqx.Module):
    """One row of time: an observation, the action taken at it, and what that action caused.

    Row t holds o_t and whether it opens an episode (known when acting), and a_t, r_t, terminated_t (known one
    step later). The last observation of an episode is a row of its own, the *final row*: the row before an
    `is_first`. Its action and reward mean nothing; it is only a place to bootstrap from. A time limit is a
    final row that no `terminated` precedes.
    """

    observation: PyTree
    is_first: Bool[Array, "..."]
    action: Int[Array, "..."]
    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    carry: PyTree = None  # the working memory's carry before this observation; None where rows do not store it
    # 1 where the same side moves next, -1 where the other does, whose worth counts against; None in tasks of one side
    sign: Float[Array, "..."] | None = None


class Encoding(eqx.Module):
    """An encoder's view of one observation; stacked frames count as one observation."""

    embedding: Float[Array, "*batch embedding"]
    attention: Float[Array, "*batch heads parts"]  # no parts for an encoder without attention: (0, 0)


class MemoryRead(eqx.Module):
    """What one read of a memory gives back.

    Weights are never negative; over the entries they sum to 1, or to 0 where the memory knows nothing. The axis of
    actions has size 1 where a kind reads once for all actions; a kind without attention has no heads: shape (0, 1, 0).
    Several layers of attention lie one after another on the axis of heads, the layer next to the head last.
    """

    vector: Float[Array, "*batch features"]
    weights: Float[Array, "*batch heads actions entries"]
    entries: Int[Array, "*batch heads actions entries"]  # working memory: the step of the episode; -1 for nothing
    q: Float[Array, "*batch actions"] | None = None  # an external memory's: what the entries say
    confidence: Float[Array, "*batch actions"] | None = None  # how much that is worth, 0 (nothing) to 1


# What a head predicts of a return: one number, probabilities of atoms that are fixed, or quantiles.
Kind = Literal["number", "fixed", "quantiles"]


class Distribution(NamedTuple):
    """A discrete distribution of one action's return. A number is one atom of probability 1."""

    atoms: Float[Array, "*batch atoms"]  # in units of return
    probabilities: Float[Array, "*batch atoms"]  # sum to 1
    logits: Float[Array, "*batch atoms"] | None = None  # what a network gave the probabilities by; a target has none
    levels: Float[Array, "*batch atoms"] | None = None  # of atoms that are quantiles: the share of the return below

    @property
    def mean(self) -> Float[Array, "*batch"]:
        """The expected return."""
        return (self.atoms * self.probabilities).sum(-1)


def digits(action: Int[Array, "*batch"], sizes: tuple[int, ...]) -> Int[Array, "*batch numbers"]:
    """The numbers that an action of so many values each is made of."""
    found, rest = [], action
    for size in reversed(sizes):
        found.append(rest % size)
        rest = rest // size
    return jnp.stack(found[::-1], axis=-1)


def numbered(values: Int[Array, "*batch numbers"], sizes: tuple[int, ...]) -> Int[Array, "*batch"]:
    """The inverse of `digits`."""
    action = jnp.zeros(values.shape[:-1], jnp.int32)
    for place, size in enumerate(sizes):
        action = action * size + values[..., place]
    return action


def starts(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The place of each number's first value on a decoupled axis of actions, and its end."""
    return (0, *itertools.accumulate(sizes))


class Returns(eqx.Module):
    """Per action, a discrete distribution of the return. A scalar Q is one atom of probability 1.

    With `sizes` the axis of actions has a place for each value of each number of an action, and the return of an action
    is the mean over its numbers. So the best action has the best value of each.
    """

    atoms: Float[Array, "*batch actions atoms"]
    logits: Float[Array, "*batch actions atoms"]  # unnormalised logarithms of the atoms' probabilities
    attention: Float[Array, "*batch heads actions"]  # of a head that attends over actions; else no heads: (0, actions)
    levels: Float[Array, "*batch actions atoms"] | None = None  # where atoms are quantiles, which ones; 0 to 1
    policy: Float[Array, "*batch actions"] | None = None  # logits of a policy, of a head that has one beside returns
    twins: Float[Array, "*batch two actions"] | None = None  # both estimates of Q, of a head that joins two into one
    sizes: tuple[int, ...] = eqx.field(static=True, default=())  # values of each number; () where actions are whole

    @property
    def probabilities(self) -> Float[Array, "*batch actions atoms"]:
        """softmax(logits), exactly 1 for a single atom."""
        return _probabilities(self.logits)

    @property
    def q(self) -> Float[Array, "*batch actions"]:
        """The mean of each action's return."""
        return (self.atoms * self.probabilities).sum(-1)

    def of(self, action: Int[Array, ""]) -> Distribution:
        """The distribution of one action's return."""

        def row(leaf: Float[Array, "actions atoms"]) -> Float[Array, "atoms"]:
            # A single atom is gathered as a number: a row of one would cost kernels of its own, and their gradient's.
            return leaf[:, 0][action][None] if leaf.shape[1] == 1 else leaf[action]

        if self.sizes:
            chosen = self.atoms[:, 0][digits(action, self.sizes) + jnp.array(starts(self.sizes)[:-1])]
            return Distribution(chosen.mean()[None], jnp.ones(1), jnp.zeros(1))
        levels, logits = None if self.levels is None else row(self.levels), row(self.logits)
        return Distribution(row(self.atoms), _probabilities(logits), logits, levels)

    def best(self, preference: Float[Array, "*batch actions"]) -> Int[Array, "*batch"]:
        """The action that is preferred: of decoupled ones, that of each number's preferred value."""
        if not self.sizes:
            return preference.argmax(-1)
        parts = itertools.pairwise(starts(self.sizes))
        return numbered(jnp.stack([preference[..., a:b].argmax(-1) for a, b in parts], axis=-1), self.sizes)

    def whole(self, preference: Float[Array, "*batch places"]) -> Float[Array, "*batch actions"]:
        """The preference of each whole action: of decoupled ones the mean over their numbers'."""
        if not self.sizes:
            return preference
        places = digits(jnp.arange(math.prod(self.sizes)), self.sizes) + jnp.array(starts(self.sizes)[:-1])
        return preference[..., places].mean(-1)

    def most(self, preference: Float[Array, "*batch actions"]) -> Float[Array, "*batch"]:
        """The preference of that action."""
        if not self.sizes:
            return preference.max(-1)
        parts = itertools.pairwise(starts(self.sizes))
        return jnp.stack([preference[..., a:b].max(-1) for a, b in parts], axis=-1).mean(-1)


def _probabilities(logits: Float[Array, "*batch atoms"]) -> Float[Array, "*batch atoms"]:
    return jnp.ones_like(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


def blend(
    returns: Float[Array, "*shape"], memory: Float[Array, "*#shape"], share: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    """(1 - share) * returns + share * memory: exactly the returns where the share is 0, whatever the memory holds."""
    return jnp.where(share > 0, (1 - share) * returns + share * memory, returns)


class Decision(eqx.Module):
    """Everything one forward pass knew."""

    encoding: Encoding
    working: MemoryRead
    returns: Returns  # the network's own
    allowed: Bool[Array, "*batch actions"] | None  # None where every action always is
    external: MemoryRead | None = None  # of an external memory
    share: Float[Array, "*batch actions"] | None = None  # the external memory's in the estimate, 0 to 1

    @property
    def q(self) -> Float[Array, "*batch actions"]:
        """The estimate: (1 - share) of the network's Q and share of the memory's."""
        return self._blended(self.returns.q, ...)

    def returned(self, action: Int[Array, ""]) -> Distribution:
        """The return of one action, its atoms moved towards the memory's value by the memory's share."""
        own = self.returns.of(action)
        return own._replace(atoms=self._blended(own.atoms, action))

    def _blended(self, returns: Float[Array, "*shape"], which: Any) -> Float[Array, "*shape"]:
        """The one place where an external memory's share moves a return."""
        if self.external is None or self.external.q is None or self.share is None:
            return returns
        return blend(returns, self.external.q[which], self.share[which])

    @property
    def preference(self) -> Float[Array, "*batch actions"]:
        """Q of the allowed actions, or a policy's logits where there is one, and minus infinity for the others.

        It is what acting and bootstraps choose by. Where none is allowed, as after a termination, all count: a
        discount of 0 times minus infinity is no number.
        """
        preferred = self.q if self.returns.policy is None else self.returns.policy
        if self.allowed is None:
            return preferred
        return jnp.where(self.allowed | ~self.allowed.any(-1, keepdims=True), preferred, -jnp.inf)

    @property
    def of_actions(self) -> Float[Array, "*batch actions"]:
        """The preference of each whole action; of those that are not decoupled, `preference` itself."""
        return self.returns.whole(self.preference)

    @property
    def best(self) -> Int[Array, "*batch"]:
        """The preferred action."""
        return self.returns.best(self.preference)

    @property
    def value(self) -> Float[Array, "*batch"]:
        """What the observation is worth: Q of the preferred action, or by a policy the mean of Q under it."""
        if self.returns.policy is None:
            return self.returns.most(self.preference)
        return (jax.nn.softmax(self.preference) * self.q).sum(-1)


Metrics = dict[str, Float[Array, "*seeds"]]  # what one update reports by name, each a scalar averaged over the batch
