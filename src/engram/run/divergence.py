"""Numbers that say why a run does not learn: Q or the loss grows far beyond what returns can explain, or rewards are so
large that Q hardly moves towards them. It is said while it happens.
"""

from collections.abc import Mapping
from typing import Any

from engram.errors import LearningFault

FAR = 100.0  # times the largest return: no value of a bounded reward is so large
HOPELESS = 1e6  # times the largest return: half of the powers of ten that float32 has are used up
LETTERS = 12  # at the beginning of a warning, by which two are told apart
LARGE = 100.0  # reward of a step from which Q, moved by about the step size of an update, may be far behind it
EARLY = 200  # updates in which Q may be far from rewards
WAYS_OUT = ("lower optimizer.learning_rate or optimizer.clip_norm", "set reward_clip")
SLOWER = "let the target network follow more slowly (target.rate, target.every)"


class DivergenceWatch:
    """Looks at each line of metrics.

    Q is compared with the largest absolute return of an episode so far, at least 1, and the loss, which may be squared,
    with its square. Before an episode has ended nothing is known of the size of returns. The largest of the first
    `FIRST` losses then stands for that of rewards, and Q may be `FAR` times as large: the sum of many. Of an agent that
    reports no Q the loss alone is looked at. `has_target`: whether it has a target network.
    """

    FIRST = 3

    def __init__(self, has_target: bool = True) -> None:
        *ways, last = (*WAYS_OUT, SLOWER) if has_target else WAYS_OUT
        self._way_out = f"{', '.join(ways)}, or {last}, and start again"
        self._scale: float | None = None
        self._losses: list[float] = []
        self._said = False
        self._warned: set[str] = set()

    def look(self, metrics: Mapping[str, Any]) -> str | None:
        """A sentence at the first line that shows divergence or brings another warning of the agent, then None.

        Raises: LearningFault where there is no way back: what is saved later would be worth nothing.
        """
        return self._diverges(metrics) or self._warning(metrics.get("warning"))

    def _warning(self, told: Any) -> str | None:
        """What the agent warns of, once for each of its beginnings: the numbers in it go on changing."""
        if not isinstance(told, str) or (kind := told[:LETTERS]) in self._warned:
            return None
        self._warned.add(kind)
        return told

    def _diverges(self, metrics: Mapping[str, Any]) -> str | None:
        returns = [abs(value) for name in ("return_min", "return_max") for value in _numbers(metrics.get(name))]
        if returns:
            self._scale = max([self._scale or 1.0, *returns])
        losses = [abs(value) for value in _numbers(metrics.get("loss"))]
        values = [abs(value) for value in _numbers(metrics.get("q_mean"))]
        loss, value = max(losses, default=0.0), max(values, default=None)
        scale = self._of_loss(losses) if self._scale is None else self._scale
        if scale is None:
            return None
        value_scale = FAR * scale if self._scale is None else scale
        if (value or 0) > HOPELESS * value_scale or loss > (HOPELESS * scale) ** 2:
            raise LearningFault(f"learning has diverged: {self._told(loss, value)}; {self._way_out}")
        if self._said or ((value or 0) <= FAR * value_scale and loss <= (FAR * scale) ** 2):
            return None if value is None else self._too_large(metrics, loss, value)
        self._said = True
        return f"learning diverges: {self._told(loss, value)}; {self._way_out}"

    def _too_large(self, metrics: Mapping[str, Any], loss: float, value: float) -> str | None:
        """A sentence, once, where a step earns much more than Q has come to. Rewards that are normalised or clipped
        have small losses, and pass.
        """
        totals, lengths = _numbers(metrics.get("return_mean")), _numbers(metrics.get("length_mean"))
        each = [abs(total) / length for total, length in zip(totals, lengths, strict=False) if length]
        of_step = max(each, default=0.0)
        early = (metrics.get("updates") or 0) < EARLY
        if early or of_step < LARGE or value >= of_step or loss < of_step / 10:
            return None
        return self._warning(
            f"rewards are too large to be learned as they are: a step earns about {of_step:.3g}, Q is {value:.3g} "
            f"and the loss {loss:.3g}; set reward.normalize=true, or divide them by {of_step:.0e}, and start again"
        )

    def _of_loss(self, losses: list[float]) -> float | None:
        """The size of returns that the first losses speak for; None before there are enough of them."""
        if losses and len(self._losses) < self.FIRST:
            self._losses.append(max(losses))
            return None
        return max(1.0, *self._losses) if len(self._losses) == self.FIRST else None

    def _told(self, loss: float, value: float | None) -> str:
        largest = "" if self._scale is None else f", and no return was larger than {self._scale:.3g}"
        return f"the loss is {loss:.3g}{'' if value is None else f' and Q is {value:.3g}'}{largest}"


def _numbers(value: Any) -> list[float]:
    """A metric of one seed or of several as the numbers that are known."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int | float)]
