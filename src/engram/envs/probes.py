"""Environments whose optimal values are known in closed form; each can fail for one reason only.

| id                   | what goes wrong in an agent that misses it                       |
|----------------------|------------------------------------------------------------------|
| `OneState-v0`        | regression to a reward; bootstrapping past the end (value > 1)   |
| `OneAction-v0`       | the same with a negative reward                                  |
| `TwoActions-v0`      | crediting the action that was taken                              |
| `ObservationValue-v0`| reading the observation                                          |
| `OneDelay-v0`        | bootstrapping from the next row, discounting                     |
| `Chain-v0`           | carrying a value back over many steps                            |
| `Truncation-v0`      | taking a time limit for an end (value below 1/(1-discount))      |
| `Termination-v0`     | taking an end for a time limit (value above the finite sum)      |
| `Nim-v0`             | counting what the other side is worth for one's own              |

Every class has `values(discount)`: pairs of an observation and the optimal Q of each action there, in the order in
which an episode meets them. Observations that only follow an end have no value and are not listed.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from engram.envs.device import DeviceEnv, DeviceStep, at_least, register_device
from engram.errors import SpecError
from engram.spaces import Box

Values = list[tuple[np.ndarray, np.ndarray]]  # (observation, Q of each action)


class Probe(DeviceEnv, Protocol):
    """A device environment that knows its answers."""

    def values(self, discount: float) -> Values:
        """(observation, Q[actions]) wherever one can act; SpecError if the discount is not in 0..1."""
        ...


class Clock(NamedTuple):
    """A state that is only a count of the actions taken."""

    steps: Int[Array, ""]


class Shown(NamedTuple):
    """A state that is only the number shown."""

    number: Float[Array, ""]


def _checked(discount: float, ends: bool = True) -> float:
    if not 0 <= discount <= 1:
        raise SpecError(f"discount = {discount!r}; give a number in 0..1")
    if not ends and discount == 1:
        raise SpecError("discount = 1 makes a constant reward worth infinitely much for ever; give less than 1")
    return float(discount)


def _one_hot(index: int | Int[Array, ""], length: int) -> Float[Array, "length"]:
    return (jnp.arange(length) == index).astype(jnp.float32)


@register_device("engram/OneState-v0", rewards=(1.0,))
@register_device("engram/OneAction-v0", rewards=(-1.0,))
@register_device("engram/TwoActions-v0", rewards=(-1.0, 1.0))
@dataclass(frozen=True)
class Bandit:
    """One step, one observation (1), a reward for each action. Q is the reward, whatever the discount.

    The observation after the end is 1 as well: an agent that bootstraps there is off by a factor 1/(1-discount).
    """

    rewards: tuple[float, ...]

    observation_space = Box((1,))

    @property
    def actions(self) -> int:
        return len(self.rewards)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Clock, Float[Array, "1"]]:
        return Clock(jnp.int32(0)), jnp.ones(1, jnp.float32)

    def step(self, state: Clock, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Clock, DeviceStep]:
        reward = jnp.array(self.rewards, jnp.float32)[action]
        return Clock(state.steps + 1), DeviceStep(jnp.ones(1, jnp.float32), reward, jnp.bool_(True), jnp.bool_(False))

    def values(self, discount: float) -> Values:
        """Q(1, a) = rewards[a]."""
        _checked(discount)
        return [(np.ones(1, np.float32), np.array(self.rewards))]


@register_device("engram/ObservationValue-v0")
@dataclass(frozen=True)
class ObservationValue:
    """One step, one action, an observation of -1 or 1 with equal probability: the reward is the observation shown."""

    observation_space = Box((1,))
    actions = 1

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Shown, Float[Array, "1"]]:
        # The parity of all 64 bits: sound for keys that count up, too.
        ones = jnp.bitwise_count(key[0] ^ key[1]) & 1
        number = jnp.where(ones == 1, jnp.float32(1), jnp.float32(-1))
        return Shown(number), number[None]

    def step(self, state: Shown, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Shown, DeviceStep]:
        return state, DeviceStep(state.number[None], state.number, jnp.bool_(True), jnp.bool_(False))

    def values(self, discount: float) -> Values:
        """Q(o) = o."""
        _checked(discount)
        return [(np.array([shown], np.float32), np.array([shown])) for shown in (-1.0, 1.0)]


@register_device("engram/OneDelay-v0", length=2)
@register_device("engram/Chain-v0")
@dataclass(frozen=True)
class Chain:
    """`length` steps of one action; reward 1 at the last, 0 before. The observation is the position, one-hot; after the
    end it is all zeros.
    """

    length: int = 5

    actions = 1

    def __post_init__(self):
        at_least(self, "length", 1)

    @property
    def observation_space(self) -> Box:
        return Box((self.length,))

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Clock, Float[Array, "length"]]:
        return Clock(jnp.int32(0)), _one_hot(0, self.length)

    def step(self, state: Clock, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Clock, DeviceStep]:
        steps = state.steps + 1
        over = steps >= self.length
        step = DeviceStep(_one_hot(steps, self.length), over.astype(jnp.float32), over, jnp.bool_(False))
        return Clock(steps), step

    def values(self, discount: float) -> Values:
        """Q = discount^(k-1) with k steps to go."""
        gamma = _checked(discount)
        shown = np.eye(self.length, dtype=np.float32)
        return [(shown[i], np.array([gamma ** (self.length - 1 - i)])) for i in range(self.length)]


@register_device("engram/Truncation-v0")
@dataclass(frozen=True)
class Truncation:
    """Reward 1 for ever, cut by a time limit after `max_steps` steps: worth 1/(1-discount), as nothing really ends.

    The observation is always 1. One action.
    """

    max_steps: int = 5

    observation_space = Box((1,))
    actions = 1

    def __post_init__(self):
        at_least(self, "max_steps", 1)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Clock, Float[Array, "1"]]:
        return Clock(jnp.int32(0)), jnp.ones(1, jnp.float32)

    def step(self, state: Clock, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Clock, DeviceStep]:
        steps = state.steps + 1
        step = DeviceStep(jnp.ones(1, jnp.float32), jnp.float32(1), jnp.bool_(False), steps >= self.max_steps)
        return Clock(steps), step

    def values(self, discount: float) -> Values:
        """Q = 1/(1-discount); SpecError for a discount of 1."""
        gamma = _checked(discount, ends=False)
        return [(np.ones(1, np.float32), np.array([1 / (1 - gamma)]))]


@register_device("engram/Termination-v0")
@dataclass(frozen=True)
class Termination:
    """Reward 1 for each of `length` steps, then a true end: worth a finite sum, so the steps taken must be seen.

    The observation is the number of steps taken, one-hot; after the end it is all zeros. One action.
    """

    length: int = 5

    actions = 1

    def __post_init__(self):
        at_least(self, "length", 1)

    @property
    def observation_space(self) -> Box:
        return Box((self.length,))

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Clock, Float[Array, "length"]]:
        return Clock(jnp.int32(0)), _one_hot(0, self.length)

    def step(self, state: Clock, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Clock, DeviceStep]:
        steps = state.steps + 1
        step = DeviceStep(_one_hot(steps, self.length), jnp.float32(1), steps >= self.length, jnp.bool_(False))
        return Clock(steps), step

    def values(self, discount: float) -> Values:
        """Q = 1 + discount + ... + discount^(k-1) with k steps to go."""
        gamma = _checked(discount)
        shown = np.eye(self.length, dtype=np.float32)
        powers = gamma ** np.arange(self.length)
        return [(shown[i], np.array([powers[: self.length - i].sum()])) for i in range(self.length)]


@register_device("engram/Nim-v0")
@dataclass(frozen=True)
class Nim:
    """Two sides take one or two of a pile in turn; who takes the last one is paid 1.

    The observation is the pile, one-hot, so both sides see it alike. Piles of three and its multiples are lost. With
    `again` whoever takes one of an even pile moves once more, so that a sign of 1 is met too.

    Args:
      pile: at the beginning of a game.
    """

    pile: int = 5
    again: bool = False

    actions = 2
    turns = True

    def __post_init__(self):
        at_least(self, "pile", 1)

    @property
    def observation_space(self) -> Box:
        return Box((self.pile + 1,))

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Int[Array, ""], Float[Array, "piles"]]:
        return jnp.int32(self.pile), _one_hot(self.pile, self.pile + 1)

    def step(
        self, state: Int[Array, ""], action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[Int[Array, ""], DeviceStep]:
        left = jnp.maximum(state - 1 - action, 0).astype(jnp.int32)
        once_more = self.again & (action == 0) & (state % 2 == 0)
        sign = jnp.where(once_more, 1.0, -1.0).astype(jnp.float32)
        over = left == 0
        return left, DeviceStep(
            _one_hot(left, self.pile + 1), over.astype(jnp.float32), over, jnp.bool_(False), sign=sign
        )

    def values(self, discount: float) -> Values:
        """Q = 1 where nothing is left, else the sign times the discount times the largest Q of what is left."""
        gamma, best, found = _checked(discount), [0.0], []
        for pile in range(1, self.pile + 1):
            q = np.array([self._worth(pile, take, gamma, best) for take in (1, 2)])
            best.append(float(q.max()))
            found.append((np.eye(self.pile + 1, dtype=np.float32)[pile], q))
        return found[::-1]

    def _worth(self, pile: int, take: int, gamma: float, best: list[float]) -> float:
        sign = 1.0 if self.again and take == 1 and pile % 2 == 0 else -1.0
        return 1.0 if take >= pile else sign * gamma * best[pile - take]
