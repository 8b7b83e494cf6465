"""`twin`: a policy over the actions, and two estimates of Q of each."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engram.heads.q import QSpec, check_without_policy
from engram.nn.noisy import Drawing
from engram.registry import register
from engram.specs import part, setting, spec
from engram.types import Key, Returns


@register("head", "twin")
@spec
class TwinSpec:
    """A policy and two estimates of Q of the same embedding, and the temperature that weighs the policy's entropy.

    Logits and estimates are the numbers of any other heads, so that they may attend over actions that vary.
    """

    policy: Any = part("head", QSpec(), "what gives a logit for each action")
    q: Any = part("head", QSpec(), "what gives an estimate of each action's Q; there are two of it")
    join: Literal["least", "mean"] = setting(
        "least", "what two estimates are taken for: the least (Fujimoto et al. 2018), or the mean (Zhou et al. 2022)"
    )
    train_through_policy: bool = setting(
        False, "the policy's loss also trains the encoder and the working memory, which otherwise Q alone does"
    )
    temperature: float = setting(1.0, "worth of a nat of entropy at the start, in units of return; learned", above=0)

    has_policy = True
    has_twins = True
    predicts = "number"

    @property
    def reads_offered(self) -> bool:
        return self.policy.reads_offered and self.q.reads_offered

    def check(self) -> None:
        check_without_policy({"head.policy": self.policy, "head.q": self.q})

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "TwinHead":
        policy, *estimates = jax.random.split(key, 3)
        return TwinHead(
            self.policy.build(width, actions, policy, offered=offered),
            [self.q.build(width, actions, one, offered=offered) for one in estimates],
            jnp.asarray(math.log(self.temperature), jnp.float32),
            self.join,
            self.train_through_policy,
        )


class TwinHead(Drawing):
    """pi(. | s) = softmax of the policy's logits; Q(s, a) is the least, or the mean, of two estimates.

    A single estimate that a policy is drawn to comes out too high where it errs upwards; the least of two does not.
    Both are in `Returns.twins`. By default the logits send no gradient into the embedding: the policy's loss pulls
    features that Q needs away from it (Yarats et al. 2019, arXiv 1910.01741, section 4.3).

    Source: Fujimoto et al. 2018 (arXiv 1802.09477), eq. 10; Christodoulou 2019 (arXiv 1910.07207).
    """

    policy: Any
    estimates: list[Any]
    log_temperature: Float[Array, ""]  # nothing that the head gives depends on it; the loss of a policy does
    join: str = eqx.field(static=True)
    through: bool = eqx.field(static=True)

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.policy, *self.estimates

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        of_policy, *of_each = self.dealt(bits)
        seen = embedding if self.through else jax.lax.stop_gradient(embedding)
        chosen = self.policy(seen, offered, allowed, of_policy)
        both = zip(self.estimates, of_each, strict=True)
        twins = jnp.stack([head(embedding, offered, allowed, own).q for head, own in both])
        first, second = twins
        # Not `minimum`, whose gradient looks for a number equal to the least: rounded otherwise, there may be none.
        q = jnp.where(first < second, first, second) if self.join == "least" else (first + second) / 2
        q = q[:, None]
        return Returns(q, jnp.zeros_like(q), chosen.attention, policy=chosen.q, twins=twins)
