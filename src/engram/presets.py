"""Presets: agents that have a name, each a function of what they are to learn from.

A number that comes from a paper says so on its line; one that does not was chosen by our own runs
(docs/results.md).
"""

from collections.abc import Callable
from dataclasses import replace

from engram import spaces
from engram.agents.q_learning import (
    AgentSpec,
    ExplorationSpec,
    ObservationSpec,
    OptimizerSpec,
    ReplaySpec,
    TargetSpec,
)
from engram.encoders.pixels import GridSpec, PixelsSpec, image_shape
from engram.encoders.vector import VectorSpec
from engram.errors import UnknownName, hint
from engram.heads.q import DuelingSpec
from engram.losses.regression import SquaredSpec

IMAGE = 36  # the smallest side that the Nature CNN's three convolutions leave something of


def kind_of(space: spaces.Space) -> str:
    """`pixels` for images, `grid` for small boards, `vector` for all else: which encoder suits the observation."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3):
        return "vector"
    if min(image_shape(space)[:2]) >= IMAGE:
        return "pixels"
    return "grid" if len(space.shape) == 3 and min(space.shape[:2]) >= 5 else "vector"


def default_steps(space: spaces.Space) -> int:
    """Environment steps of a run that was not told how many."""
    return {"pixels": 1_000_000, "grid": 1_000_000, "vector": 50_000}[kind_of(space)]


def dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """DQN (Mnih et al. 2015) with the numbers of its field for each kind of observation."""
    kind = kind_of(space)
    if kind == "pixels":
        return _pixels(space, steps)
    return _grid(steps) if kind == "grid" else _vector(steps)


def _vector(steps: int) -> AgentSpec:
    return AgentSpec(
        encoder=VectorSpec(widths=(128, 128)),
        replay=ReplaySpec(capacity=50_000, batch_size=64, start=_start(steps, 1_000)),
        optimizer=OptimizerSpec(learning_rate=1e-3),
        target=TargetSpec(every=125, rate=1.0),
        exploration=ExplorationSpec(start=1.0, end=0.02, steps=max(1, steps // 10)),
    )


def _grid(steps: int) -> AgentSpec:
    return AgentSpec(
        encoder=GridSpec(width=128),  # Young & Tian 2019 (arXiv 1903.03176), section 3
        replay=ReplaySpec(capacity=100_000, batch_size=32, start=_start(steps, 5_000)),  # all three: the same
        optimizer=OptimizerSpec(learning_rate=2.5e-4, epsilon=1e-5),
        target=TargetSpec(every=250, rate=1.0),  # 1,000 steps: the same
        exploration=ExplorationSpec(start=1.0, end=0.05, steps=max(1, min(100_000, steps // 10))),
    )


def _pixels(space: spaces.Space, steps: int) -> AgentSpec:
    single = isinstance(space, spaces.Box) and len(space.shape) == 2
    return AgentSpec(
        observation=ObservationSpec(stack=4 if single else 1),  # Mnih et al. 2015: 4 grey frames
        encoder=PixelsSpec(width=512),  # Mnih et al. 2015
        replay=ReplaySpec(
            capacity=min(1_000_000, max(10_000, steps)),
            batch_size=32,
            start=_start(steps, 20_000 if steps >= 1_000_000 else 2_000),
        ),
        optimizer=OptimizerSpec(learning_rate=1e-4, epsilon=1.5e-4),  # Adam in place of RMSProp: Dopamine's DQN study
        loss=SquaredSpec(),  # with Adam, better than Huber: the same study
        target=TargetSpec(every=250, rate=1.0),
        exploration=ExplorationSpec(start=1.0, end=0.01, steps=max(1, steps // 10)),
        reward_clip=1.0,  # Mnih et al. 2015
    )


def _start(steps: int, usual: int) -> int:
    """When learning begins: as usual, or after a tenth of a run that is short."""
    return min(usual, max(16, steps // 10))


def double_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """DQN whose next action the online network picks (van Hasselt et al. 2016)."""
    return replace(dqn(space, steps), bootstrap="double")


def dueling_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN with a value and an advantage stream (Wang et al. 2016)."""
    width = {"pixels": 512, "grid": 128, "vector": 0}[kind_of(space)]
    return replace(double_dqn(space, steps), head=DuelingSpec(width=width))


def auto(space: spaces.Space, steps: int) -> AgentSpec:
    """What our runs found to learn most reliably: double DQN with a slow target and a falling step size."""
    chosen = double_dqn(space, steps)
    if kind_of(space) != "vector":
        return chosen
    return replace(
        chosen,
        # Without it three seeds in twenty ended on a policy that had collapsed; Gallici et al. 2024 (arXiv 2407.04811).
        encoder=VectorSpec(widths=(128, 128), norm=True),
        n_step=3,
        learn_every=2,
        replay=ReplaySpec(capacity=max(50_000, steps), batch_size=128, start=_start(steps, 1_000)),
        optimizer=OptimizerSpec(learning_rate=1e-3, final_fraction=0.01, decay_steps=steps),
        target=TargetSpec(every=1, rate=0.01),
        # With 0.02 more seeds ended on a policy that drifts: mistakes had become too rare to learn from.
        exploration=ExplorationSpec(start=1.0, end=0.1, steps=max(1, steps // 10)),
    )


# Each with the line that `engram list presets` shows.
PRESETS: dict[str, tuple[Callable[[spaces.Space, int], AgentSpec], str]] = {
    "auto": (auto, "chooses encoder and numbers from the observation; the default"),
    "dqn": (dqn, "deep Q-network (Mnih et al. 2015)"),
    "double-dqn": (double_dqn, "the online network picks the next action (van Hasselt et al. 2016)"),
    "dueling-dqn": (dueling_dqn, "separate value and advantage (Wang et al. 2016), with double"),
}


def preset_names() -> list[str]:
    """Every preset, sorted."""
    return sorted(PRESETS)


def preset(name: str, space: spaces.Space, steps: int | None = None) -> AgentSpec:
    """The preset called `name`, for observations of `space` and a run of `steps` environment steps."""
    if name not in PRESETS:
        raise UnknownName(f"no preset is called {name!r}; {hint(name, PRESETS)}")
    return PRESETS[name][0](space, steps or default_steps(space))
