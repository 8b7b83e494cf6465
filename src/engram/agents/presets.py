"""Presets: named agents, each a function of the observation space and the length of the run.

A number from a paper has its source on its line. All other numbers were chosen by our own runs (docs/results.md).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engram import spaces
from engram.agents import fields, value
from engram.agents.mind import MindSpec
from engram.agents.sac import from_dqn
from engram.agents.spec import AgentSpec
from engram.agents.usual import (
    WIDTHS,
    auto,
    by_kind,
    default_steps,
    double_dqn,
    dqn,
    dueling_dqn,
    first_update,
    kind_of,
)
from engram.agents.with_memory import attention_dqn, drqn, dtqn, emdqn, lru_dqn, mfec, nec, r2d2, recalled
from engram.agents.without_replay import a2c, attending, dialogue, game, ppo, pqn, recalling, recurrent, together
from engram.encoders.features import FeaturesSpec  # noqa: F401, registered
from engram.encoders.impala import ImpalaSpec  # noqa: F401, registered
from engram.encoders.tokens import TokensSpec
from engram.errors import UnknownName, hint
from engram.exploration.boltzmann import BoltzmannSpec  # noqa: F401, registered
from engram.exploration.noise import ParameterNoiseSpec  # noqa: F401, registered
from engram.external.chunked import ChunkedSpec  # noqa: F401, registered
from engram.external.graph import GraphSpec  # noqa: F401, registered
from engram.external.product_key import ProductKeySpec  # noqa: F401, registered
from engram.external.votes import VotesSpec  # noqa: F401, registered
from engram.heads.attention import AttentionSpec
from engram.heads.q import QSpec
from engram.losses.regression import SquaredSpec
from engram.mixing.monotonic import MonotonicSpec  # noqa: F401, registered
from engram.replay.similar import SimilarSpec  # noqa: F401, registered
from engram.working.fast_weights import FastWeightsSpec  # noqa: F401, registered
from engram.working.slots import SlotsSpec  # noqa: F401, registered

# -- successors of DQN -------------------------------------------------------------------------------------


def per_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN that draws by priority (Schaul et al. 2016, arXiv 1511.05952); its step size is a quarter."""
    chosen = double_dqn(space, steps)
    optimizer = replace(chosen.optimizer, learning_rate=chosen.optimizer.learning_rate / 4)  # section 4
    return value.prioritized(replace(chosen, optimizer=optimizer), steps)


def c51(space: spaces.Space, steps: int) -> AgentSpec:
    """C51 (Bellemare et al. 2017, arXiv 1707.06887): probabilities of fixed returns."""
    return value.categorical(dqn(space, steps), kind_of(space))


def qr_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """QR-DQN (Dabney et al. 2018, arXiv 1710.10044): quantiles at fixed levels."""
    return value.quantile(dqn(space, steps))


def iqn(space: spaces.Space, steps: int) -> AgentSpec:
    """IQN (Dabney et al. 2018, arXiv 1806.06923): quantiles at levels that are drawn."""
    return value.implicit(dqn(space, steps))


def m_dqn(space: spaces.Space, steps: int) -> AgentSpec:
    """Munchausen DQN (Vieillard et al. 2020, arXiv 2007.14430)."""
    return value.munchausen(dqn(space, steps))


def btr(space: spaces.Space, steps: int) -> AgentSpec:
    """Beyond the Rainbow (Clark et al. 2024, arXiv 2411.03820), which is made for images."""
    kind = kind_of(space)
    return value.btr(dqn(space, steps), steps, kind, WIDTHS.get(kind, 64))


def rainbow(space: spaces.Space, steps: int) -> AgentSpec:
    """Rainbow (Hessel et al. 2018, arXiv 1710.02298), over the network of `dqn`."""
    kind = kind_of(space)
    return value.rainbow(dqn(space, steps), steps, kind, WIDTHS.get(kind, 64))


def cql(space: spaces.Space, steps: int) -> AgentSpec:
    """Double DQN whose Q of what was not done is held down (Kumar et al. 2020); for texts with numbers for tokens."""
    chosen = double_dqn(space, steps)
    if kind_of(space) != "text":
        return value.conservative(chosen)
    chosen = replace(chosen, encoder=TokensSpec(layers=2, width=256), head=QSpec(), loss=SquaredSpec())
    chosen = replace(chosen, head=AttentionSpec()) if spaces.has(space, spaces.OFFERED) else chosen
    return value.conservative_tokens(chosen, steps, first_update(steps, 1_000))


def sac(space: spaces.Space, steps: int) -> AgentSpec:
    """Soft actor-critic for discrete actions (Christodoulou 2019); for numbers it sees and stores as `auto` does."""
    kind = kind_of(space)
    games, offers = kind in WIDTHS, spaces.has(space, spaces.OFFERED)
    chosen = dqn(space, steps) if games or kind == "text" else by_kind(kind, space, steps)
    return from_dqn(chosen, games, WIDTHS.get(kind, 64), offers)


def rainbow_memory(space: spaces.Space, steps: int) -> AgentSpec:
    """Rainbow with the external memory of `attention-dqn` and its bootstrap."""
    return recalled(rainbow(space, steps))


def _from_rollouts(make: Callable[..., Any], change: Callable[[Any], Any] = lambda made: made) -> Any:
    """A preset that sees as `dqn` does and learns from rollouts; it attends over actions where they are offered."""

    def made(space: spaces.Space, steps: int) -> Any:
        chosen = make(dqn(space, steps), steps, kind_of(space))
        return change(attending(chosen) if spaces.has(space, spaces.OFFERED) else chosen)

    return made


# Each with the line that `engram list presets` shows.
PRESETS: dict[str, tuple[Callable[[spaces.Space, int], MindSpec], str]] = {
    "auto": (auto, "chooses encoder and numbers from the observation; the default"),
    "dqn": (dqn, "deep Q-network (Mnih et al. 2015)"),
    "double-dqn": (double_dqn, "the online network picks the next action (van Hasselt et al. 2016)"),
    "dueling-dqn": (dueling_dqn, "separate value and advantage (Wang et al. 2016), with double"),
    "per-dqn": (per_dqn, "double DQN that draws by priority (Schaul et al. 2016)"),
    "c51": (c51, "probabilities of fixed returns (Bellemare et al. 2017)"),
    "qr-dqn": (qr_dqn, "quantiles of the return (Dabney et al. 2018)"),
    "iqn": (iqn, "quantiles at levels that are drawn (Dabney et al. 2018)"),
    "m-dqn": (m_dqn, "a soft target and a reward for what was likely (Vieillard et al. 2020)"),
    "rainbow": (rainbow, "double, dueling, noisy, distributional, prioritized, 3 steps (Hessel et al. 2018)"),
    "btr": (btr, "beyond the Rainbow: drawn quantiles, a soft target, a residual network (Clark et al. 2024)"),
    "rainbow-memory": (rainbow_memory, "rainbow, with the external memory of attention-dqn and its target"),
    "drqn": (drqn, "an LSTM as working memory (Hausknecht & Stone 2015)"),
    "r2d2": (r2d2, "an LSTM with burn-in, windows by priority, rescaled returns (Kapturowski et al. 2019)"),
    "dtqn": (dtqn, "a causal transformer over the last 50 steps (Esslinger et al. 2022)"),
    "nec": (nec, "neural episodic control (Pritzel et al. 2017)"),
    "mfec": (mfec, "model-free episodic control (Blundell et al. 2016)"),
    "emdqn": (emdqn, "DQN drawn to the best return it remembers (Lin et al. 2018)"),
    "attention-dqn": (attention_dqn, "auto, with attention over what is remembered in Q and in its target"),
    "pqn": (
        _from_rollouts(pqn),
        "Q(lambda) from rollouts, without a replay (Gallici et al. 2024); for many environments",
    ),
    "ppo": (_from_rollouts(ppo), "a clipped policy gradient from rollouts (Schulman et al. 2017)"),
    "pqn-rnn": (_from_rollouts(pqn, recurrent), "pqn over a GRU (Gallici et al. 2024)"),
    "pqn-memory": (
        _from_rollouts(pqn, recalling),
        "pqn, with an external memory in what comes next is worth",
    ),
    "ppo-rnn": (_from_rollouts(ppo, recurrent), "ppo over a GRU"),
    "ppo-memory": (
        _from_rollouts(ppo, recalling),
        "ppo, with an external memory in the value",
    ),
    "smax": (
        _from_rollouts(pqn, together),
        "pqn for a team, whose values add up (VDN, Sunehag et al. 2018); for battles",
    ),
    "go": (game, "pqn for a game of two sides on a board, against itself and its past"),
    "a2c": (_from_rollouts(a2c), "a policy gradient from short rollouts (Mnih et al. 2016)"),
    "dialogue": (
        _from_rollouts(pqn, dialogue),
        "pqn with attention over the acts on offer and normalised rewards; for engram/Dialogue-v0",
    ),
    "cql": (cql, "double DQN that holds down Q of what was not done (Kumar et al. 2020); for demonstrations"),
    "sac": (sac, "soft actor-critic for discrete actions (Christodoulou 2019), from a replay"),
    "driving": (
        lambda space, steps: fields.driving(auto(space, steps), space, steps),
        "entity attention over two moments, from the ego's point of view; for traffic",
    ),
    "decqn": (
        lambda space, steps: fields.decqn(auto(space, steps)),
        "a value for each motor's own values, for robots (Seyde et al. 2023)",
    ),
    "her": (
        lambda space, steps: fields.her(auto(space, steps), space, steps),
        "decqn that learns from goals in hindsight (Andrychowicz et al. 2017), for arms",
    ),
    "lru-dqn": (lru_dqn, "linear recurrent units as working memory, for long delays (Orvieto et al. 2023)"),
}


# Those that learn from rollouts, so from many environments.
WITHOUT_REPLAY = frozenset(name for name in PRESETS if name.startswith(("pqn", "ppo", "a2c", "smax", "go", "dialogue")))


def preset(name: str, space: spaces.Space, steps: int | None = None, reward_clip: float = 0.0) -> MindSpec:
    """The preset called `name`, for observations of `space` and a run of `steps` environment steps.

    `reward_clip` is what the field of the environment clips rewards to, as that of Atari games does; else 0.
    """
    if name not in PRESETS:
        raise UnknownName(f"no preset is called {name!r}; {hint(name, PRESETS)}")
    made = PRESETS[name][0](space, steps or default_steps(space))
    if not reward_clip:
        return made
    return replace(made, reward_clip=reward_clip, reward=replace(made.reward, normalize=False))  # one or the other
