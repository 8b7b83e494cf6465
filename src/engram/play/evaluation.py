"""What evaluation found: the returns of whole greedy episodes, on seeds that no training uses."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unclipped returns of greedy episodes, and how many steps each took."""

    mean: float
    std: float
    episodes: int
    returns: list[float]
    per_seed: list[float]  # the mean of each seed's agent
    lengths: list[int]  # of the episodes in `returns`
    cut: int = 0  # how many of them had not ended and were cut off by the limit on steps
    successes: list[bool] | None = None  # which of the episodes met their goal; None for a task that has none

    @classmethod
    def of(
        cls, returns: list[list[float]], lengths: list[int], cut: int = 0, successes: list[bool] | None = None
    ) -> "Evaluation":
        """From the returns of each seed's agent, and the lengths of all their episodes in the same order."""
        flat = [value for one in returns for value in one]
        means = [float(np.mean(one)) for one in returns]
        return cls(float(np.mean(flat)), float(np.std(flat)), len(flat), flat, means, lengths, cut, successes)

    @property
    def success_rate(self) -> float | None:
        """The share of the episodes that met their goal, such as a battle won; None for a task without one."""
        return None if self.successes is None else float(np.mean(self.successes))

    def of_each_seed(self) -> list[list[float]]:
        """The returns of each seed's agent, all of which played as many episodes."""
        share = self.episodes // len(self.per_seed)
        return [self.returns[first : first + share] for first in range(0, self.episodes, share)]


def evaluation_seed(seed: int, while_training: bool = False) -> int:
    """A seed for environments that is unlike any that training derives from the same number.

    Evaluations while training have seeds of their own: the best checkpoint is chosen by them, so that on the same
    episodes it would look better than it is.
    """
    words = [seed, 0xE7A1, 1] if while_training else [seed, 0xE7A1]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0])
