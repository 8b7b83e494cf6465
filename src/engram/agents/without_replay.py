"""Presets that learn from rollouts: what they take from DQN's for the same observation, and what is their own."""

from dataclasses import replace
from typing import Any

from engram.agents.mind import OptimizerSpec, RecallSpec, RewardSpec
from engram.agents.pool import PoolSpec
from engram.agents.ppo import PPOSpec
from engram.agents.pqn import PQNSpec
from engram.agents.rollout_learning import CollectSpec
from engram.agents.spec import AgentSpec
from engram.encoders.vector import VectorSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.exploration.openings import OpeningsSpec
from engram.exploration.sample import SampleSpec
from engram.external.episodic import EpisodicSpec
from engram.heads.actor_critic import ActorCriticSpec
from engram.heads.attention import AttentionSpec
from engram.losses.regression import SquaredSpec
from engram.mixing.mixing import SumSpec
from engram.spaces import MASK, Space, has, leaves, seen
from engram.specs import unfinished
from engram.working.gated import GRUSpec

# Environments stepped together where nobody says how many: on the device, and on the host.
ENVS = (64, 8)
ENVS_OF = {"go": (128, 8)}  # where a preset has other numbers
MANY = 32  # environments on the device from which on a rollout is the better way to learn


def _seeing(chosen: AgentSpec) -> dict[str, Any]:
    """What sees and what remembers, as the agent that learns from a replay has it, with normalised layers."""
    normalised = unfinished(chosen, {"encoder.norm": True}) if hasattr(chosen.encoder, "norm") else chosen
    return {
        "observation": chosen.observation, "encoder": normalised.encoder, "working": chosen.working,
        "external": chosen.external, "recall": replace(chosen.recall, refresh=0),
    }  # fmt: skip


def pqn(chosen: AgentSpec, steps: int, kind: str) -> PQNSpec:
    """PQN (Gallici et al. 2024), with the numbers of its authors' code for CartPole, and for games.

    Departures: Adam in place of RAdam. For numbers and vectors, rollouts, step size and exploration are those for
    MinAtar: the code has 64 steps, 1e-4, rewards of a tenth, and epsilon down to 0.2 there. For boards and pixels it
    has 32 minibatches and 128 environments. For pixels it keeps the step size, which falls to a tenth here, because a
    run of ours is shorter; epsilon falls to 0.001 as there.
    """
    games, pixels = kind in ("grid", "pixels"), kind == "pixels"
    return PQNSpec(
        **_seeing(chosen),
        rollout=CollectSpec(steps=32, epochs=2 if games else 4, minibatches=16),
        trace=0.65 if games else 0.95,
        loss=SquaredSpec(),
        optimizer=OptimizerSpec(
            learning_rate=2.5e-4 if pixels else 5e-4, final_fraction=0.1 if pixels else 0.01, decay_steps=steps,
            clip_norm=10.0,
        ),
        exploration=EpsilonGreedySpec(start=1.0, end=0.001 if pixels else 0.05, steps=max(1, steps // 10)),
    )  # fmt: skip


def dialogue(chosen: Any) -> Any:
    """The agent with rewards of 80 at the end of a talk brought to order one."""
    return replace(chosen, reward=RewardSpec(normalize=True))


def attending(chosen: Any) -> Any:
    """The agent that attends over actions which an observation offers by their features."""
    if chosen.head.has_policy:
        return replace(chosen, head=replace(chosen.head, policy=AttentionSpec()))
    return replace(chosen, head=AttentionSpec())


def ppo(chosen: AgentSpec, steps: int, kind: str) -> PPOSpec:
    """PPO (Schulman et al. 2017), for pixels with the numbers of Huang et al. 2022, else with our own."""
    games = kind in ("grid", "pixels")
    return PPOSpec(
        **_seeing(chosen),
        head=ActorCriticSpec(width=0 if games else 64),
        # Ten epochs and a shorter trace where steps are dear: of seven ways, on three seeds of CartPole and Acrobot.
        rollout=CollectSpec(
            steps=128 if kind == "pixels" else 64, epochs=4 if games else 10, minibatches=4 if kind == "pixels" else 8
        ),
        trace=0.95 if games else 0.8,
        clip=0.1 if kind == "pixels" else 0.2,
        loss=SquaredSpec(),
        optimizer=OptimizerSpec(
            learning_rate=2.5e-4 if kind == "pixels" else 1e-3, final_fraction=0.01, decay_steps=steps, epsilon=1e-5,
            clip_norm=0.5,
        ),
        exploration=SampleSpec(),
    )  # fmt: skip


def a2c(chosen: AgentSpec, steps: int, kind: str) -> PPOSpec:
    """A2C (Mnih et al. 2016): one update from each short rollout, where the ratio of PPO is 1 and its clipping idle.

    Departure: Adam in place of RMSProp.
    """
    spec = ppo(chosen, steps, kind)
    return replace(
        spec,
        rollout=CollectSpec(steps=5, epochs=1, minibatches=1),  # 5: the paper, section 8
        trace=1.0,
        standardize=False,
    )


def game(space: Space, steps: int, width: int = 512) -> PQNSpec:
    """PQN for a game of two sides on a board: symmetries, random openings, a pool of past selves.

    Of an observation without a board, or without a mask of the moves, it takes neither symmetries nor past selves.
    """
    boards = [leaf for _, leaf in leaves(seen(space)) if len(leaf.shape) >= 2 and leaf.shape[0] == leaf.shape[1]]
    taken_in_turns = bool(boards) and has(space, MASK)
    return PQNSpec(
        encoder=VectorSpec(widths=(width, width), norm=True),
        rollout=CollectSpec(steps=16, epochs=2, minibatches=8),
        trace=0.9,
        discount=0.997,
        loss=SquaredSpec(),
        optimizer=OptimizerSpec(learning_rate=5e-4, final_fraction=0.05, decay_steps=steps, clip_norm=10.0),
        exploration=OpeningsSpec(start=0.2, end=0.03, steps=max(1, steps // 4)),
        symmetry="board" if taken_in_turns else "off",
        pool=PoolSpec(share=0.2) if taken_in_turns else PoolSpec(),
    )


def recurrent(chosen: Any) -> Any:
    """The agent with a GRU that also sees the previous action, learned through whole rollouts from stored carries.

    Of actions that are offered by their features it does not: their numbers mean nothing.
    """
    observation = replace(chosen.observation, stack=1, previous_action=not chosen.head.reads_offered)
    minibatches = min(8, chosen.rollout.minibatches)  # each of whole environments
    return replace(
        chosen,
        observation=observation,
        working=GRUSpec(hidden_size=128),
        rollout=replace(chosen.rollout, minibatches=minibatches),
    )


def together(chosen: Any) -> Any:
    """The agent as one of a team whose values are added, with the numbers of jaxmarl's PQN-VDN where they are its own.

    Departures: no recurrence, no normalised inputs, rewards as they are, rollouts of 32 steps, a larger step size, and
    epsilon down to 0.01: one random move of any of the team is a random step of all.
    """
    return replace(
        chosen,
        mixing=SumSpec(),
        exploration=replace(chosen.exploration, end=0.01),
        trace=0.85,  # its LAMBDA, as all here: 4 epochs of 16
        rollout=CollectSpec(steps=32, epochs=4, minibatches=16),
    )


def recalling(chosen: Any) -> Any:
    """The agent with attention over stored experience in what an observation is worth."""
    return replace(chosen, external=EpisodicSpec(neighbours=25), recall=RecallSpec(n_step=20))
