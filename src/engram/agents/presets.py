"""Presets: named agents, each a function of the observation space and the length of the run.

A number from a paper has its source on its line. All other numbers were chosen by our own runs (docs/results.md).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engram import spaces
from engram.agents import fields, value
from engram.agents.mind import MindSpec, ObservationSpec, OptimizerSpec, RecallSpec, RewardSpec
from engram.agents.sac import from_dqn
from engram.agents.spec import AgentSpec, ReplaySpec, TargetSpec
from engram.agents.without_replay import a2c, ppo, pqn, recalling, recurrent
from engram.encoders.entities import EntitiesSpec, is_set
from engram.encoders.features import FeaturesSpec  # noqa: F401, registered
from engram.encoders.impala import ImpalaSpec  # noqa: F401, registered
from engram.encoders.pixels import GridSpec, PixelsSpec, image_shape
from engram.encoders.spatial import SpatialSpec
from engram.encoders.tokens import TokensSpec
from engram.encoders.vector import VectorSpec
from engram.errors import UnknownName, hint
from engram.exploration.boltzmann import BoltzmannSpec  # noqa: F401, registered
from engram.exploration.greedy import EpsilonGreedySpec
from engram.exploration.noise import ParameterNoiseSpec  # noqa: F401, registered
from engram.external.chunked import ChunkedSpec  # noqa: F401, registered
from engram.external.episodic import EpisodicSpec
from engram.external.graph import GraphSpec  # noqa: F401, registered
from engram.external.product_key import ProductKeySpec  # noqa: F401, registered
from engram.heads.attention import AttentionSpec
from engram.heads.q import DuelingSpec
from engram.losses.bootstrap import FromMemorySpec
from engram.losses.regression import SquaredSpec
from engram.replay.prioritized import PrioritizedSpec
from engram.replay.similar import SimilarSpec  # noqa: F401, registered
from engram.working.fast_weights import FastWeightsSpec  # noqa: F401, registered
from engram.working.gated import GRUSpec, LRUSpec, LSTMSpec
from engram.working.history import HistorySpec
from engram.working.slots import SlotsSpec  # noqa: F401, registered

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
        replay=ReplaySpec(capacity=50_000, batch_size=64, start=_start(steps, 1_000)),
        optimizer=OptimizerSpec(learning_rate=1e-3),
        target=TargetSpec(every=125, rate=1.0),
        exploration=EpsilonGreedySpec(start=1.0, end=0.02, steps=max(1, steps // 10)),
    )


def _grid(steps: int) -> AgentSpec:
    return AgentSpec(
        encoder=GridSpec(width=128),  # Young & Tian 2019 (arXiv 1903.03176), section 3
        replay=ReplaySpec(capacity=100_000, batch_size=32, start=_start(steps, 5_000)),  # all three: the same
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
            start=_start(steps, 20_000 if steps >= 1_000_000 else 2_000),
        ),
        optimizer=OptimizerSpec(learning_rate=1e-4, epsilon=1.5e-4),  # Adam in place of RMSProp: Dopamine's DQN study
        loss=SquaredSpec(),  # with Adam, better than Huber: the same study
        target=TargetSpec(every=250, rate=1.0),
        exploration=EpsilonGreedySpec(start=1.0, end=0.01, steps=max(1, steps // 10)),
    )


def _start(steps: int, usual: int) -> int:
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
    chosen = _by_kind(kind, space, steps)
    offers = spaces.has(space, spaces.OFFERED)
    return replace(chosen, head=AttentionSpec()) if offers else chosen


def _by_kind(kind: str, space: spaces.Space, steps: int) -> AgentSpec:
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
        replay=ReplaySpec(capacity=max(50_000, steps), batch_size=128, start=_start(steps, 1_000)),
        optimizer=OptimizerSpec(learning_rate=1e-3, final_fraction=0.01, decay_steps=steps),
        target=TargetSpec(every=1, rate=0.01),
        # With 0.02 the policies of more seeds drift: mistakes are then too rare to learn from.
        exploration=EpsilonGreedySpec(start=1.0, end=0.1, steps=max(1, steps // 10)),
    )


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


def sac(space: spaces.Space, steps: int) -> AgentSpec:
    """Soft actor-critic for discrete actions (Christodoulou 2019); for numbers it sees and stores as `auto` does."""
    kind = kind_of(space)
    games, offers = kind in WIDTHS, spaces.has(space, spaces.OFFERED)
    chosen = dqn(space, steps) if games or kind == "text" else _by_kind(kind, space, steps)
    return from_dqn(chosen, games, WIDTHS.get(kind, 64), offers)


# -- with a working memory ---------------------------------------------------------------------------------


def remembering(chosen: AgentSpec, steps: int, working: Any, window: int, batch_size: int = 16) -> AgentSpec:
    """The agent with a working memory, which learns from windows; all presets with one share this."""
    # A window must have been filled before the first update, in each of up to eight environments.
    start = max(_start(steps, 2_000), 8 * (window + 8))
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
    return _recalling(auto(space, steps))


def rainbow_memory(space: spaces.Space, steps: int) -> AgentSpec:
    """Rainbow with the external memory of `attention-dqn` and its bootstrap."""
    return _recalling(rainbow(space, steps))


def _recalling(chosen: AgentSpec) -> AgentSpec:
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


def _from_rollouts(make: Callable[..., Any], change: Callable[[Any], Any] = lambda made: made) -> Any:
    """A preset that sees as `dqn` does and learns from rollouts."""
    return lambda space, steps: change(make(dqn(space, steps), steps, kind_of(space)))


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
    "a2c": (_from_rollouts(a2c), "a policy gradient from short rollouts (Mnih et al. 2016)"),
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
WITHOUT_REPLAY = frozenset(name for name in PRESETS if name.startswith(("pqn", "ppo", "a2c")))


def preset(name: str, space: spaces.Space, steps: int | None = None, reward_clip: float = 0.0) -> MindSpec:
    """The preset called `name`, for observations of `space` and a run of `steps` environment steps.

    `reward_clip` is what the field of the environment clips rewards to, as that of Atari games does; else 0.
    """
    if name not in PRESETS:
        raise UnknownName(f"no preset is called {name!r}; {hint(name, PRESETS)}")
    made = PRESETS[name][0](space, steps or default_steps(space))
    return replace(made, reward_clip=reward_clip) if reward_clip else made
