"""`boltzmann`: actions are drawn by a softmax over Q."""

from jaxtyping import Array, Int, UInt32

from engram.exploration.exploration import falling, sampled
from engram.ranges import Log, Times
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Decision


@register("exploration", "boltzmann")
@spec
class BoltzmannSpec:
    """Attention over actions as exploration: softmax(Q / temperature), with a temperature that falls linearly.

    Source: Sutton & Barto 2018, section 2.8, with Q for the preferences.
    """

    temperature: float = setting(1.0, "temperature at step 0, in units of return", above=0)
    final_temperature: float = setting(
        0.05, "temperature from `steps` on, in units of return", above=0, search=Log(0.005, 0.5)
    )
    steps: int = setting(5_000, "environment steps over which the temperature falls", low=1, search=Times(0.2, 5))

    by_episode = False

    @property
    def settled(self) -> int:
        """The step from which the schedule stays at its end."""
        return self.steps

    def chance(self, step: int) -> float | None:
        """None: the action depends on Q."""
        return None

    def at(self, step: int | Array) -> float | Array:
        """The temperature at a global step. Works on integers and on arrays."""
        return falling(self.temperature, self.final_temperature, self.steps, step)

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
        return sampled(decision.preference / self.at(step), decision.allowed, bits[0])
