"""Presets with a working or an external memory, over what is usual for an observation.

A number from a paper has its source on its line. All other numbers were chosen by our own runs (docs/results.md).
"""

from dataclasses import replace

from engram import spaces
from engram.agents.mind import RecallSpec, RewardSpec
from engram.agents.spec import AgentSpec
from engram.agents.usual import auto, double_dqn, dqn, dueling_dqn, kind_of, remembering
from engram.external.episodic import EpisodicSpec
from engram.losses.bootstrap import FromMemorySpec
from engram.replay.prioritized import PrioritizedSpec
from engram.working.gated import LRUSpec, LSTMSpec
from engram.working.history import HistorySpec

# -- with a working memory ---------------------------------------------------------------------------------


def drqn(space: spaces.Space, steps: int) -> AgentSpec:
    """DRQN (Hausknecht & Stone 2015, arXiv 1507.06527): an LSTM after the encoder, learned from random windows."""
    width = 512 if kind_of(space) == "pixels" else 128  # 512 in the paper, for images
    memory = LSTMSpec(hidden_size=width)
    chosen = remembering(dqn(space, steps), steps, memory, window=10, batch_size=32)  # 10: section 4
    return replace(
        chosen,
        observation=replace(chosen.observation, stack=1),  # one frame at a time: section 4
        replay=replace(chosen.replay, align=False),  # windows begin anywhere: section 4, random updates
    )


def r2d2(space: spaces.Space, steps: int) -> AgentSpec:
    """R2D2 (Kapturowski et al. 2019): an LSTM that also sees the previous action and reward, burn-in, n-step targets.

    Windows are drawn by priority and returns are rescaled. Departures: the gradient also flows through the burn-in;
    the target network is a running average; one process acts and learns.
    """
    width = 512 if kind_of(space) == "pixels" else 128  # 512 in the paper, for images
    memory = LSTMSpec(hidden_size=width)
    chosen = remembering(dueling_dqn(space, steps), steps, memory, window=120)  # 40 + 80: section 2.3
    return replace(
        chosen,
        observation=replace(chosen.observation, previous_action=True, previous_reward=True),
        replay=replace(chosen.replay, burn_in=40, stored_carry=True, align=False),  # section 3
        n_step=5,  # table 2 of the paper, as is the discount
        discount=0.997,
        reward=RewardSpec(rescale=True),  # section 2.3
        draw=PrioritizedSpec(exponent=0.9, correction=0.6, final_correction=0.6),  # table 2: both exponents
    )


def dtqn(space: spaces.Space, steps: int) -> AgentSpec:
    """DTQN (Esslinger et al. 2022, arXiv 2206.01078): a causal transformer over the last 50 steps, a loss at each."""
    history = HistorySpec(window=50, layers=2, heads=8, hidden_size=64, inner=256)  # the authors' configuration
    return remembering(double_dqn(space, steps), steps, history, window=50, batch_size=32)  # both: the same


def lru_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN over linear recurrent units (Orvieto et al. 2023), which remember for about a thousand steps."""
    return remembering(double_dqn(space, steps), steps, LRUSpec(), window=128)


# -- with an external memory -------------------------------------------------------------------------------


def nec(space: spaces.Space, steps: int) -> AgentSpec:
    """Neural episodic control (Pritzel et al. 2017, arXiv 1703.01988): Q is the mean return of similar situations.

    Departures: the gradient reaches the embedding, not the stored keys and values; Adam; where no entry is
    near, the network's Q answers; 10,000 entries over all actions, where the paper has 500,000 for each.
    """
    chosen = dqn(space, steps)
    return replace(
        chosen,
        external=EpisodicSpec(neighbours=50, delta=1e-3, eviction="least-read"),  # section 3.1 and 4
        recall=RecallSpec(
            n_step=100, weigh_by_error=False, confidence="known", train_through_memory=True, unit_keys=False
        ),  # N = 100: section 4
        bootstrap=FromMemorySpec(),
        n_step=_rewards(chosen, 100),
        replay=replace(chosen.replay, batch_size=32),  # section 4
        learn_every=16,  # section 4
    )


def mfec(space: spaces.Space, steps: int) -> AgentSpec:
    """Model-free episodic control (Blundell et al. 2016, arXiv 1606.04460): the best return of similar situations.

    Departures: returns bootstrap after a hundred steps; where no entry is near, the network's Q answers; 10,000 entries
    over all actions, where the paper has a million for each. Neighbours are weighted by inverse distance, so an exact
    match outweighs all others; the paper takes the exact match alone, or else the plain mean.
    """
    chosen = dqn(space, steps)
    return replace(
        chosen,
        external=EpisodicSpec(neighbours=11, update="max", eviction="least-read"),  # k = 11: section 4.1
        recall=RecallSpec(
            n_step=100, weigh_by_error=False, confidence="known", keys="frozen", frozen_width=64, unit_keys=False
        ),  # 64: section 4.1
        learn_every=16,
    )


def emdqn(space: spaces.Space, steps: int) -> AgentSpec:
    """Episodic memory deep Q-network (Lin et al. 2018, arXiv 1805.07603): DQN whose Q imitates the best stored return.

    Departures: returns bootstrap after a hundred steps; keys of 64 numbers are those of `mfec`; one neighbour, 10,000
    entries and the weight of the imitation are our own choice.
    """
    chosen = dqn(space, steps)
    return replace(
        chosen,
        external=EpisodicSpec(neighbours=1, update="max", eviction="least-read"),
        recall=RecallSpec(
            n_step=100,
            max_memory_weight=0.0,
            weigh_by_error=False,
            keys="frozen",
            frozen_width=64,
            unit_keys=False,
            imitation_weight=0.1,
        ),
    )


def attention_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """The agent of the article: `auto`, with attention over stored experience in Q and in its target.

    Encoders attend as in `auto`: to images, boards, rows of entities and texts.
    """
    return recalled(auto(space, steps))


def recalled(chosen: AgentSpec) -> AgentSpec:
    """The agent with attention over stored experience in Q and in its target."""
    return replace(
        chosen,
        external=EpisodicSpec(neighbours=25),
        recall=RecallSpec(n_step=20, refresh=0 if chosen.has_memory else 32),
        bootstrap=FromMemorySpec(),
    )


def _rewards(chosen: AgentSpec, wanted: int) -> int:
    """Rewards in a target: at most so many that each of eight environments has a whole window before learning."""
    return max(1, min(wanted, chosen.replay.start // 8 - 1))
