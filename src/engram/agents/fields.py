"""Presets for fields, from the numbers of `auto`: driving among others, and robots with several motors."""

from dataclasses import replace

from engram import spaces
from engram.agents.mind import ObservationSpec, OptimizerSpec
from engram.agents.spec import AgentSpec
from engram.encoders.entities import EntitiesSpec, is_set
from engram.encoders.vector import VectorSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.goals import ACHIEVED, DESIRED
from engram.heads.decoupled import DecoupledSpec
from engram.replay.hindsight import HindsightSpec


def driving(chosen: AgentSpec, space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN for traffic: entity attention over two moments, each road user seen from the ego's point of view.

    Two frames show who brakes, from which intentions can be guessed. Observations that are no set of entities have the
    agent of `auto`. The numbers were chosen after trials of others on seed 0 of `engram/Intersection-v0`, and
    measured on other seeds (benchmarks/results/crossing.json).
    """
    seen = spaces.seen(space)
    if not is_set(seen):
        return chosen
    named = isinstance(seen, spaces.Box) and {"x", "y"} <= {column.name for column in seen.columns}
    return replace(
        chosen,
        encoder=EntitiesSpec(heads=4, relative=named),
        observation=ObservationSpec(stack=2),
        n_step=1,
        learn_every=8,
        replay=replace(chosen.replay, capacity=max(50_000, min(steps, 500_000))),
        optimizer=OptimizerSpec(learning_rate=1e-3, final_fraction=0.05, decay_steps=steps),
        exploration=EpsilonGreedySpec(start=1.0, end=0.05, steps=max(1, steps // 4)),
    )


def decqn(chosen: AgentSpec) -> AgentSpec:
    """DecQN (Seyde et al. 2023, arXiv 2210.12566): double DQN with a value for each value of each number of an action.

    Departures: one network and not two, a uniform replay, and the numbers of `auto`, but an update every two steps and
    targets of one reward. Those of three cost .5 on Reacher-v5 (seed 100), probably for what motors did at random.
    """
    return replace(chosen, head=DecoupledSpec(), learn_every=max(2, chosen.learn_every), n_step=1)


def her(chosen: AgentSpec, space: spaces.Space, steps: int) -> AgentSpec:
    """DecQN that learns from goals in hindsight (Andrychowicz et al. 2017): for arms with a goal to reach.

    Observations without goals have the agent of `decqn`.
    """
    if not (spaces.has(space, DESIRED) and spaces.has(space, ACHIEVED)) or chosen.has_memory:
        return decqn(chosen)
    return replace(
        decqn(chosen),
        encoder=VectorSpec(widths=(256, 256, 256), norm=True),  # three layers of 256: appendix A
        draw=HindsightSpec(),
        discount=0.98,  # appendix A
        replay=replace(chosen.replay, capacity=max(100_000, min(steps, 1_000_000)), batch_size=256),  # 256: the same
        exploration=EpsilonGreedySpec(start=1.0, end=0.2, steps=max(1, steps // 4)),  # 0.2: the same
    )
