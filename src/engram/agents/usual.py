"""What presets start from: the usual numbers for each kind of observation.

A number from a paper has its source on its line. All other numbers were chosen by our own runs (docs/results.md).
"""

from dataclasses import replace
from typing import Any

from engram import spaces
from engram.agents.mind import ObservationSpec, OptimizerSpec
from engram.agents.spec import AgentSpec, ReplaySpec, TargetSpec
from engram.encoders.entities import EntitiesSpec, is_set
from engram.encoders.pixels import GridSpec, PixelsSpec, image_shape
from engram.encoders.spatial import SpatialSpec
from engram.encoders.tokens import TokensSpec
from engram.encoders.vector import VectorSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.heads.attention import AttentionSpec
from engram.heads.q import DuelingSpec
from engram.losses.regression import SquaredSpec
from engram.working.gated import GRUSpec
from engram.working.history import HistorySpec

WIDTHS = {"pixels": 512, "grid": 128}  # units of a stream of a head, as of the encoder before it
IMAGE = 36  # the smallest side that the Nature CNN's three convolutions leave something of


def kind_of(space: spaces.Space) -> str:
    """The kind of an observation, which decides the encoder.

    `pixels` for images, `grid` for small boards, `entities` for a set of things that the space says is one (a Dict of
    `entities` and `mask`, or an array whose rows are unordered), `text` where any part is a text, `vector` for all
    else. An array of two axes keeps order and place: it may be a time window or a map.
    """
    space = spaces.seen(space)
    if any(isinstance(leaf, spaces.Text) for _, leaf in spaces.leaves(space)):
        return "text"
    if is_set(space):
        return "entities"
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3):
        return "vector"
    if min(image_shape(space)[:2]) >= IMAGE:
        return "pixels"
    return "grid" if len(space.shape) == 3 and min(space.shape[:2]) >= 5 else "vector"


def default_steps(space: spaces.Space) -> int:
    """Environment steps of a run whose `steps` were not given."""
    return {"pixels": 1_000_000, "grid": 1_000_000}.get(kind_of(space), 50_000)


def dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """DQN (Mnih et al. 2015), with usual numbers for each kind of observation."""
    kind = kind_of(space)
    if kind == "pixels":
        return _pixels(space, steps)
    if kind == "grid":
        return _grid(steps)
    other = {"entities": EntitiesSpec(), "text": TokensSpec()}
    return replace(_vector(steps), encoder=other[kind]) if kind in other else _vector(steps)


def _vector(steps: int) -> AgentSpec:
    return AgentSpec(
        encoder=VectorSpec(widths=(128, 128)),
        replay=ReplaySpec(capacity=50_000, batch_size=64, start=first_update(steps, 1_000)),
        optimizer=OptimizerSpec(learning_rate=1e-3),
        target=TargetSpec(every=125, rate=1.0),
        exploration=EpsilonGreedySpec(start=1.0, end=0.02, steps=max(1, steps // 10)),
    )


def _grid(steps: int) -> AgentSpec:
    return AgentSpec(
        encoder=GridSpec(width=128),  # Young & Tian 2019 (arXiv 1903.03176), section 3
        replay=ReplaySpec(capacity=100_000, batch_size=32, start=first_update(steps, 5_000)),  # all three: the same
        optimizer=OptimizerSpec(learning_rate=2.5e-4, epsilon=1e-5),
        target=TargetSpec(every=250, rate=1.0),  # 1,000 steps: the same
        exploration=EpsilonGreedySpec(start=1.0, end=0.05, steps=max(1, min(100_000, steps // 10))),
    )


def _pixels(space: spaces.Space, steps: int) -> AgentSpec:
    seen = spaces.seen(space)
    single = isinstance(seen, spaces.Box) and len(seen.shape) == 2
    return AgentSpec(
        observation=ObservationSpec(stack=4 if single else 1),  # Mnih et al. 2015: 4 grey frames
        encoder=PixelsSpec(width=512),  # Mnih et al. 2015
        replay=ReplaySpec(
            capacity=min(1_000_000, max(10_000, steps)),
            batch_size=32,
            start=first_update(steps, 20_000 if steps >= 1_000_000 else 2_000),
        ),
        optimizer=OptimizerSpec(learning_rate=1e-4, epsilon=1.5e-4),  # Adam in place of RMSProp: Dopamine's DQN study
        loss=SquaredSpec(),  # with Adam, better than Huber: the same study
        target=TargetSpec(every=250, rate=1.0),
        exploration=EpsilonGreedySpec(start=1.0, end=0.01, steps=max(1, steps // 10)),
    )


def first_update(steps: int, usual: int) -> int:
    """Steps before learning: the usual number, or a tenth of a short run."""
    return min(usual, max(16, steps // 10))


def double_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """DQN whose next action the online network picks (van Hasselt et al. 2016)."""
    return replace(dqn(space, steps), double=True)


def dueling_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN with a value and an advantage stream (Wang et al. 2016)."""
    width = WIDTHS.get(kind_of(space), 0)
    return replace(double_dqn(space, steps), head=DuelingSpec(width=width))


def auto(space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN. For numbers and categories: a slow target network and a falling learning rate.

    The encoder attends where the article advises it: convolutions and attention for images and boards, entity
    attention for rows of entities, recurrence and attention for texts. The head attends over the actions where the
    offered actions vary.
    """
    kind = kind_of(space)
    chosen = by_kind(kind, space, steps)
    if kind == "vector":
        # With an update every two steps four seeds of twenty came to less than 500 on CartPole, with this none.
        chosen = replace(chosen, learn_every=1)
    offers = spaces.has(space, spaces.OFFERED)
    return replace(chosen, head=AttentionSpec()) if offers else chosen


def by_kind(kind: str, space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN with the encoder and the numbers that this kind of observation is best learned with."""
    chosen = double_dqn(space, steps)
    if kind == "pixels":
        return replace(chosen, encoder=SpatialSpec(trunk="nature", width=512))
    if kind == "grid":
        return replace(chosen, encoder=SpatialSpec(trunk="grid", width=128))
    if kind == "text":
        return remembering(
            replace(chosen, encoder=TokensSpec()), steps, HistorySpec(window=32, over=GRUSpec()), window=32
        )
    return replace(
        chosen,
        # Without `norm` the policies of three seeds in twenty collapsed; Gallici et al. 2024 (arXiv 2407.04811).
        encoder=EntitiesSpec() if kind == "entities" else VectorSpec(widths=(128, 128), norm=True),
        n_step=3,
        learn_every=2,
        replay=ReplaySpec(capacity=max(50_000, steps), batch_size=128, start=first_update(steps, 1_000)),
        optimizer=OptimizerSpec(learning_rate=1e-3, final_fraction=0.01, decay_steps=steps),
        target=TargetSpec(every=1, rate=0.01),
        # With 0.02 the policies of more seeds drift: mistakes are then too rare to learn from.
        exploration=EpsilonGreedySpec(start=1.0, end=0.1, steps=max(1, steps // 10)),
    )


def remembering(chosen: AgentSpec, steps: int, working: Any, window: int, batch_size: int = 16) -> AgentSpec:
    """The agent with a working memory, which learns from windows; all presets with one share this."""
    # A window must have been filled before the first update, in each of up to eight environments.
    start = max(first_update(steps, 2_000), 8 * (window + 8))
    replay = ReplaySpec(capacity=max(50_000, min(steps, 500_000)), batch_size=batch_size, window=window, start=start)
    return replace(
        chosen,
        working=working,
        replay=replay,
        optimizer=OptimizerSpec(learning_rate=3e-4, clip_norm=1.0),
        target=TargetSpec(every=1, rate=0.005),
        exploration=EpsilonGreedySpec(start=1.0, end=0.05, steps=max(1, steps // 10)),
        learn_every=8,
    )
