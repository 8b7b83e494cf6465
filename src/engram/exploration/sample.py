"""`sample`: actions are drawn from a policy."""

from jaxtyping import Array, Int, UInt32

from engram.exploration.exploration import sampled
from engram.registry import register
from engram.specs import spec
from engram.types import Decision


@register("exploration", "sample")
@spec
class SampleSpec:
    """An action by its probability under softmax of the policy's logits, from the first step to the last."""

    by_episode = False
    settled = 0
    samples = True

    def chance(self, step: int) -> float | None:
        """None: the action depends on the policy."""
        return None

    def report(self, step: int) -> dict[str, float]:
        """Nothing changes."""
        return {}

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """An action drawn with those probabilities; one that is not allowed has none."""
        return sampled(decision.preference, decision.allowed, bits[0])
