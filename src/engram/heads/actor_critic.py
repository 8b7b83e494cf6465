"""`actor-critic`: a policy over the actions, and one return for the observation."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engram.heads.q import QSpec, check_without_policy
from engram.heads.returns import OfReturns, ScalarSpec, ToReturns
from engram.nn.layers import MLP, Linear
from engram.nn.noisy import Drawing
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import part, setting, spec
from engram.types import Key, Returns

START = 0.1  # factor of the logits: a policy begins nearly uniform


@register("head", "actor-critic")
@spec
class ActorCriticSpec(OfReturns):
    """A policy and a value of the same embedding.

    The policy's logits are the numbers of any other head, so that a policy may attend over actions that vary.
    """

    policy: Any = part("head", QSpec(), "what gives a logit for each action")
    width: int = setting(
        0, "units of a hidden layer before the value; 0 for none", low=0, search=OneOf(0, 64, 128, 256)
    )
    returns: Any = part("returns", ScalarSpec(), "what is predicted of the return")

    has_policy = True

    @property
    def reads_offered(self) -> bool:
        return self.policy.reads_offered

    def check(self) -> None:
        check_without_policy({"head.policy": self.policy})

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "ActorCriticHead":
        keys = jax.random.split(key, 4)
        returns = self.returns.build(width, keys[0])
        hidden = MLP(width, (self.width,) if self.width else (), key=keys[1])
        last = Linear(self.width or width, returns.numbers, key=keys[2])
        return ActorCriticHead(self.policy.build(width, actions, keys[3], offered=offered), hidden, last, returns)


class ActorCriticHead(Drawing):
    """pi(. | s) = softmax of the policy's logits; the return is V(s) for every action alike.

    The logits of a new head are a tenth of what its policy head gives, as PPO's are small (Andrychowicz et al. 2021,
    arXiv 2006.05990, section 3.2).
    """

    policy: Any
    hidden: MLP
    last: Linear
    returns: ToReturns

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.policy, self.returns

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        of_policy, drawn = self.dealt(bits)
        chosen = self.policy(embedding, offered, allowed, of_policy)

        def rows(seen: Array) -> tuple[Array, Array]:
            numbers = self.last(self.hidden(seen))
            return numbers[None], jnp.zeros((0, 1))

        value = self.returns(rows, embedding, drawn)
        logits = START * chosen.q

        def every(leaf: Array) -> Array:
            return jnp.broadcast_to(leaf, (len(logits), *leaf.shape[1:]))

        levels = None if value.levels is None else every(value.levels)
        return Returns(every(value.atoms), every(value.logits), chosen.attention, levels, logits)
