"""The values that flow through an agent. Leading axes depend on context: [envs], [time envs], [batch]."""

from typing import NamedTuple

import equinox as eqx
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
    memory: PyTree = ()  # the working memory as it was before this observation; () where rows do not store it


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
    q: PyTree = ()  # an external memory: Float[actions], what the entries say
    confidence: PyTree = ()  # Float[actions], how much that is worth, 0 (nothing) to 1


class Returns(eqx.Module):
    """Per action, a discrete distribution of the return. A scalar Q is one atom of probability 1."""

    atoms: Float[Array, "*batch actions atoms"]
    probabilities: Float[Array, "*batch actions atoms"]
    attention: Float[Array, "*batch heads actions"]  # of a head that attends over actions; else no heads: (0, actions)

    @property
    def q(self) -> Float[Array, "*batch actions"]:
        """The mean of each action's return."""
        return (self.atoms * self.probabilities).sum(-1)


class Decision(eqx.Module):
    """Everything one forward pass knew. Explanations read this and nothing else."""

    encoding: Encoding
    working: MemoryRead
    returns: Returns  # the network's own
    allowed: Bool[Array, "*batch actions"] | None  # None where every action always is
    external: PyTree = ()  # MemoryRead of an external memory
    share: PyTree = ()  # Float[actions], the external memory's in the estimate, 0 to 1

    @property
    def q(self) -> Float[Array, "*batch actions"]:
        """The estimate: (1 - share) of the network's Q and share of the memory's."""
        if isinstance(self.external, tuple):
            return self.returns.q
        return jnp.where(
            self.share > 0, (1 - self.share) * self.returns.q + self.share * self.external.q, self.returns.q
        )

    @property
    def preference(self) -> Float[Array, "*batch actions"]:
        """Q of the actions that are allowed, minus infinity for the others: what acting and bootstraps choose by."""
        return self.q if self.allowed is None else jnp.where(self.allowed, self.q, -jnp.inf)


class Metrics(NamedTuple):
    """What one update reports, each a scalar averaged over the batch."""

    loss: Float[Array, "*batch"]
    q_mean: Float[Array, "*batch"]  # Q of the actions taken, in units of return
    finite: Bool[Array, "*batch"]  # False: the update was not applied
