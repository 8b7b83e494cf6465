"""A head that attends over actions: it compares what the state asks for with what each action is."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engram.errors import SpaceError
from engram.heads.returns import OfReturns, ScalarSpec, ToReturns
from engram.nn.attention import MultiHeadAttention, check_heads
from engram.nn.layers import MLP, Linear
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import part, setting, spec
from engram.types import Key, Returns


@register("head", "attention")
@spec
class AttentionSpec(OfReturns):
    """The state attends over the actions; Q of an action is a bilinear form of what it read and the action's embedding.

    Also for sets of actions that vary from step to step, given by the features of each (`offered` in the observation).
    """

    action_width: int = setting(64, "length of an action's embedding", low=1)
    heads: int = setting(4, "attention heads; they must divide action_width", low=1)
    hidden: int = setting(
        128,
        "units of the layer that joins the state and what it read of the actions",
        low=1,
        search=OneOf(64, 128, 256),
    )
    uniform: bool = setting(False, "control: all allowed actions weigh the same")
    returns: Any = part("returns", ScalarSpec(), "what is predicted of the return")

    reads_offered = True

    def check(self) -> None:
        check_heads(self.heads, self.action_width, ("head.heads", "head.action_width"))

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "AttentionHead":
        returns = self.returns.build(width, jax.random.fold_in(key, 1))
        return AttentionHead(width, actions, offered, self, returns, key=key)


class AttentionHead(eqx.Module):
    """Attention of a state s over the actions a, each with an embedding e_a.

        e_a      a row of a learned table for a fixed set; W relu(U f_a + b) + c for an action's features f_a
        context  multi-head attention of s over the e_a of the allowed actions
        u, v     two linear maps of relu(P [s, context] + b)
        Q(s, a)  v + u . e_a / sqrt(length of e_a)

    An offered action is mapped alike at every place in the list. So Q follows an action wherever it stands, and an
    action that was never seen has a Q as well. Forbidden actions have weight 0, and their features no influence on
    the others. The bilinear form over features is that of He et al. 2016 (arXiv 1511.04636), eq. 1; the context, which
    lets an action's Q depend on its rivals, is ours.
    """

    table: Float[Array, "actions action_width"] | None
    embed: tuple[MLP, Linear] | None
    attention: MultiHeadAttention
    joint: MLP
    output: Linear  # v, then u; of each number that `returns` takes for an action
    returns: ToReturns

    def __init__(self, width: int, actions: int, offered: int, chosen: AttentionSpec, returns: ToReturns, *, key: Key):
        """`width` of the state's embedding; `offered` features of each action, 0 for a fixed set."""
        table_key, embed_key, attention_key, joint_key, output_key = jax.random.split(key, 5)
        length = chosen.action_width
        self.table = None if offered else jax.random.normal(table_key, (actions, length))
        self.embed = None
        if offered:
            first, second = jax.random.split(embed_key)
            self.embed = MLP(offered, (length,), key=first), Linear(length, length, key=second)
        self.attention = MultiHeadAttention(
            width, length, length, chosen.heads, uniform=chosen.uniform, key=attention_key
        )
        self.joint = MLP(width + length, (chosen.hidden,), key=joint_key)
        self.output = Linear(chosen.hidden, returns.numbers * (1 + length), key=output_key)
        self.returns = returns

    @property
    def words(self) -> int:
        return self.returns.words

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        """`Returns.attention` are the weights over the actions, one row for each head.

        Raises SpaceError where features are given to a head for a fixed set, or not given to one that needs them.
        """
        actions = self._embedded(offered, allowed)

        def rows(seen: Array) -> tuple[Array, Array]:
            context, weights = self.attention(seen[None], actions, allowed)
            joint = self.output(self.joint(jnp.concatenate([seen, context[0]])))
            joint = joint.reshape(self.returns.numbers, -1)
            numbers = joint[:, 0] + actions @ (joint[:, 1:] * actions.shape[1] ** -0.5).T
            return numbers, weights[:, 0]

        return self.returns(rows, embedding, bits)

    def _embedded(
        self, offered: Float[Array, "actions features"] | None, allowed: Bool[Array, "actions"] | None
    ) -> Float[Array, "actions action_width"]:
        """The embedding of each action."""
        if self.embed is None:
            if offered is not None:
                raise SpaceError(
                    f"head=attention was built for a fixed set of actions, but {offered.shape[1]} features of each "
                    f"were given; build it with offered={offered.shape[1]}"
                )
            return self.table  # type: ignore[return-value]
        if offered is None:
            raise SpaceError(
                f"head=attention was built for actions of {self.embed[0].layers[0].weight.shape[1]} features, but none "
                f"were given; pass the observation's 'offered', or build the head with offered=0"
            )
        if allowed is not None:
            offered = jnp.where(allowed[:, None], offered, 0)  # whatever stood there: not even a NaN gets through
        hidden, last = self.embed
        return jax.vmap(lambda features: last(hidden(features)))(offered)
