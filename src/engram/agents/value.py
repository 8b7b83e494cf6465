"""From DQN to Rainbow: what each of its successors changes in an agent, one function for one change.

Each keeps the rest of the agent, so they compose in any order and go with every encoder and memory.
"""

from dataclasses import replace

from engram.agents.mind import OptimizerSpec
from engram.agents.spec import AgentSpec, ConservativeSpec, ReplaySpec, TargetSpec
from engram.encoders.impala import ImpalaSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.heads.q import DuelingSpec
from engram.heads.returns import CategoricalSpec, ImplicitSpec, QuantileSpec
from engram.losses.bootstrap import MunchausenSpec
from engram.losses.distributional import CrossEntropySpec, QuantileHuberSpec
from engram.replay.prioritized import PrioritizedSpec

# The range of returns of C51 and its atoms, by the kind of an observation. Games whose rewards are clipped have 10
# (Bellemare et al. 2017, section 5). The wide one is what control tasks with rewards of 1 a step reach with discount
# 0.99.
RANGES = {"pixels": (10.0, 51), "grid": (20.0, 51)}
WIDE = (100.0, 101)


def prioritized(chosen: AgentSpec, steps: int, by_loss: bool = False, exponent: float = 0.6) -> AgentSpec:
    """Rows by their surprise (Schaul et al. 2016): alpha and beta of its proportional variant, beta 1 at the end."""
    updates = max(1, steps * chosen.updates // chosen.learn_every)
    by = "loss" if by_loss else "error"
    draw = PrioritizedSpec(exponent=exponent, correction=0.4, correction_updates=updates, by=by)
    return replace(chosen, draw=draw)


def categorical(chosen: AgentSpec, kind: str) -> AgentSpec:
    """Probabilities of fixed returns (C51, Bellemare et al. 2017)."""
    limit, atoms = RANGES.get(kind, WIDE)
    returns = CategoricalSpec(atoms=atoms, low=-limit, high=limit)
    return replace(chosen, head=replace(chosen.head, returns=returns), loss=CrossEntropySpec())


def quantile(chosen: AgentSpec) -> AgentSpec:
    """Quantiles at fixed levels (QR-DQN, Dabney et al. 2018). Departure: 51 of them, where the paper has 200."""
    return replace(chosen, head=replace(chosen.head, returns=QuantileSpec(quantiles=51)), loss=QuantileHuberSpec())


def implicit(chosen: AgentSpec) -> AgentSpec:
    """Quantiles at drawn levels (IQN, Dabney et al. 2018). Departure: 16 stratified ones for every look."""
    return replace(chosen, head=replace(chosen.head, returns=ImplicitSpec(samples=16)), loss=QuantileHuberSpec())


def munchausen(chosen: AgentSpec) -> AgentSpec:
    """A soft target, and a reward for what was likely (Vieillard et al. 2020): its numbers."""
    return replace(chosen, bootstrap=MunchausenSpec(scale=0.9, temperature=0.03, floor=-1.0), double=False)


def noisy(chosen: AgentSpec, width: int) -> AgentSpec:
    """Dueling streams of noisy layers, which explore in place of epsilon (Fortunato et al. 2018)."""
    head = DuelingSpec(width=width, noise=0.5)
    return replace(chosen, head=head, exploration=EpsilonGreedySpec(start=0.0, end=0.0, steps=1))


def btr(chosen: AgentSpec, steps: int, kind: str, width: int) -> AgentSpec:
    """Beyond the Rainbow (Clark et al. 2024, arXiv 2411.03820): quantiles at drawn levels, a soft target, noise and
    epsilon together, three steps, priorities nearly even, and for images a wide residual network.

    Its numbers where it has them for images: 256 rows every 64 steps, a step size of 1e-4. Departures: Munchausen's
    reward goes to the first of the three; 16 levels for every look, where the source has 8; beta is that of Schaul et
    al. 2016, since the source names none; other observations keep the network, the replay and the step size of
    `chosen`.
    """
    exploration = chosen.exploration
    chosen = munchausen(implicit(noisy(chosen, width)))
    chosen = replace(chosen, exploration=exploration, n_step=3, discount=0.997)
    if kind == "pixels":
        chosen = replace(
            chosen,
            encoder=ImpalaSpec(scale=2, spectral_norm=True),
            replay=replace(chosen.replay, batch_size=256),
            learn_every=64,
            optimizer=replace(chosen.optimizer, learning_rate=1e-4, epsilon=0.005 / 256),
            target=replace(chosen.target, every=500, rate=1.0),
        )
    return prioritized(chosen, steps, exponent=0.2)


def rainbow(chosen: AgentSpec, steps: int, kind: str, width: int) -> AgentSpec:
    """Double, dueling, noisy, distributional, prioritized, three steps (Hessel et al. 2018, arXiv 1710.02298).

    Departures: the rest of the agent (network, replay, step size) is that of `chosen`; surprise is the cross-entropy,
    not the divergence that differs from it by the target's entropy.
    """
    chosen = categorical(noisy(replace(chosen, double=True, n_step=3), width), kind)
    return prioritized(chosen, steps, by_loss=True)


def conservative(chosen: AgentSpec) -> AgentSpec:
    """Holds Q of what was not done below Q of what was: CQL (Kumar et al. 2020, arXiv 2006.04779), eq. 4."""
    return replace(chosen, conservative=ConservativeSpec(weight=1.0))


def conservative_tokens(chosen: AgentSpec, steps: int, start: int) -> AgentSpec:
    """The same with numbers for tokens as actions and returns of 0 to 1, after ILQL (Snell et al. 2023, 2206.11871).

    No discount, a cold maximum, hardly any exploration. Departures from ILQL: no value network and no expectile; the
    term is soft in Q itself.
    """
    return replace(
        chosen,
        discount=1.0,
        n_step=3,
        learn_every=8,
        replay=ReplaySpec(capacity=50_000, batch_size=128, start=start),
        optimizer=OptimizerSpec(learning_rate=1e-3, clip_norm=1.0),
        target=TargetSpec(every=1, rate=0.01),
        exploration=EpsilonGreedySpec(start=0.05, end=0.02, steps=max(1, steps // 10)),
        conservative=ConservativeSpec(weight=0.1, temperature=0.05),
    )
