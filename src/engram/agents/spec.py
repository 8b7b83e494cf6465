"""Everything that is chosen about an agent: specs of its parts, composed into one `AgentSpec`.

DQN, double DQN, DRQN, DTQN and the rest are values of one spec (presets.py), not agents of their own.
"""

from typing import Any, Literal

from engram.encoders.vector import VectorSpec
from engram.errors import SpecError
from engram.exploration.greedy import EpsilonGreedySpec
from engram.external.memory import NoExternalSpec
from engram.heads.q import QSpec
from engram.losses.bootstrap import PlainSpec
from engram.losses.regression import HuberSpec
from engram.ranges import Linear, Log, OneOf
from engram.registry import name_of
from engram.replay.draw import Reach
from engram.replay.uniform import UniformSpec
from engram.specs import part, setting, spec
from engram.types import Kind
from engram.working.memory import NoMemorySpec

# Optional columns of an external memory's entries: what fresh keys are computed from, and what `successors` reads.
OBSERVATION, SUCCESSOR = frozenset({"observation"}), frozenset({"reward", "discount", "successor"})

TOLD: dict[Kind, str] = {
    "number": "one number for each action", "fixed": "probabilities of fixed returns", "quantiles": "quantiles",
}  # fmt: skip
WAYS: dict[Kind, str] = {
    "number": "set head.returns=scalar",
    "fixed": "set head.returns=categorical",
    "quantiles": "set head.returns=quantile or implicit",
}


@spec
class ObservationSpec:
    """How an observation reaches the encoder."""

    stack: int = setting(1, "newest observations that the encoder sees together; one is stored per row", low=1)
    previous_action: bool = setting(False, "the working memory is also given the previous action")
    previous_reward: bool = setting(False, "the working memory is also given the previous reward")
    missing: Literal["refuse", "mask"] = setting(
        "refuse", "a number that is NaN ends the run (refuse), or is seen as 0 with a flag that it is missing (mask)"
    )
    normalize: bool = setting(False, "numbers are seen by their running mean and deviation, which the agent keeps")


@spec
class RewardSpec:
    """How rewards and the returns made of them are learned."""

    normalize: bool = setting(
        False, "rewards are divided by the running deviation of the discounted return, which the agent keeps"
    )
    rescale: bool = setting(
        False, "returns are learned as sign(x) (sqrt(|x| + 1) - 1) + 0.001 x (R2D2), so that large ones are nearer"
    )


@spec
class AnnealSpec:
    """n and the discount at first, from which they move to `n_step` and `discount`; after a reset they begin anew.

    Far-sighted targets of few rewards are exact but learned slowly. Near-sighted ones of many rewards are a start.

    Source: Schwarzer et al. 2023 (arXiv 2305.19452): the receding update horizon and the increasing discount of BBF.
    """

    updates: int = setting(0, "updates that it takes; 0 for none", low=0)
    n_step: int = setting(10, "rewards in a target at first", low=1)
    discount: float = setting(0.97, "gamma at first", low=0, high=1)


@spec
class ReplaySpec:
    """What is kept, and how many rows an update learns from."""

    capacity: int = setting(50_000, "rows kept, over all environments", low=8)
    batch_size: int = setting(64, "examples drawn for one update", low=1, search=OneOf(16, 32, 64, 128, 256))
    window: int = setting(
        1,
        "successive rows that a working memory learns from together; 1 without one",
        low=1,
        search=OneOf(16, 32, 64, 128),
    )
    burn_in: int = setting(
        0, "first rows of a window that only fill the memory, unless its episode begins there", low=0
    )
    align: bool = setting(True, "begin a window where its row's episode begins, if that is within reach")
    stored_carry: bool = setting(False, "rows keep the carry that acting had, and windows begin with it; else empty")
    start: int = setting(1_000, "environment steps before the first update", low=1)


@spec
class OptimizerSpec:
    """Adam (Kingma & Ba 2015).

    Resets (shrink and perturb, Ash & Adams 2020; D'Oro et al. 2023) let an agent that learns often forget what it
    settled on: parts of the network become fresh, the replay stays. Adam's averages and the target begin anew.
    """

    learning_rate: float = setting(1e-3, "step size at the start", above=0, search=Log(1e-5, 1e-2))
    final_fraction: float = setting(1.0, "the step size falls linearly to this fraction of itself", low=0, high=1)
    decay_steps: int = setting(1, "environment steps, from the first update on, over which it falls", low=1)
    epsilon: float = setting(1e-8, "Adam's epsilon", above=0)
    clip_norm: float = setting(10.0, "largest global norm of a gradient; 0 for no limit", low=0)
    weight_decay: float = setting(0.0, "AdamW (Loshchilov & Hutter 2019): share of a weight lost per step size", low=0)
    reset_every: int = setting(
        0, "updates from one reset to the next: weights are drawn to fresh ones; 0 for never", low=0
    )
    reset_encoder: float = setting(0.5, "share of fresh weights that a reset gives the encoder", low=0, high=1)
    reset_rest: float = setting(1.0, "share of fresh weights that a reset gives the rest of the network", low=0, high=1)


@spec
class TargetSpec:
    """target <- target + rate * (parameters - target), every so many updates."""

    every: int = setting(125, "updates between two changes of the target network", low=1, search=Log(10, 5_000))
    rate: float = setting(
        1.0, "1 copies the parameters (hard); 0.005 follows them slowly (soft)", above=0, high=1, search=Log(1e-3, 0.1)
    )


@spec
class RecallSpec:
    """How an agent uses its external memory."""

    n_step: int = setting(
        20, "rewards in the return that an entry stores, before its bootstrap", low=1, search=Log(1, 100)
    )
    max_memory_weight: float = setting(
        1.0, "largest weight of the memory in the estimate of Q", low=0, high=1, search=Linear(0.1, 1.0)
    )
    weigh_by_error: bool = setting(
        True, "the memory's weight falls where its errors have been larger than the network's"
    )
    confidence: Literal["near", "known"] = setting(
        "near", "the memory counts the more, the nearer an entry is (near), or fully as soon as one is known (known)"
    )
    train_through_memory: bool = setting(
        False, "the loss is that of the joint estimate, and reaches the encoder through the read"
    )
    keys: Literal["online", "target", "frozen"] = setting(
        "online", "what keys and queries are: the network's embedding, the target network's, or a random projection"
    )
    unit_keys: bool = setting(True, "keys have length 1, so that distances mean the same for every network and task")
    frozen_width: int = setting(64, "numbers in a key that is a random projection", low=1)
    imitation_weight: float = setting(
        0.0, "weight of a loss that draws Q to the value stored for the same action", low=0, search=Log(0.01, 1.0)
    )
    refresh: int = setting(0, "entries whose key is computed anew at each moment of learning, in turn", low=0)

    def key_width(self, embedding: int) -> int:
        """Numbers in a key, for embeddings of so many."""
        return self.frozen_width if self.keys == "frozen" else embedding


@spec
class DemosSpec:
    """How demonstrations are learned from. Sources: Hester et al. 2018 (DQfD), Paine et al. 2020 (R2D3)."""

    ratio: float = setting(
        0.0, "share of each batch that is drawn from demonstrations, which are then kept for ever; 0: they lie in the "
        "replay until it is full", low=0, high=1,
    )  # fmt: skip
    margin_weight: float = setting(
        0.0, "weight of a loss on demonstrations that holds each other action below theirs by the margin", low=0
    )
    margin: float = setting(0.8, "by how much, in units of return as it is learned", low=0)

    def of(self, batch: int) -> int:
        """Examples of a batch that are drawn from demonstrations."""
        return round(self.ratio * batch)


@spec
class AgentSpec:
    """Everything that was chosen about an agent."""

    observation: ObservationSpec = setting(ObservationSpec(), "how an observation reaches the encoder")
    encoder: Any = part("encoder", VectorSpec(), "what sees one observation")
    working: Any = part("working", NoMemorySpec(), "what sees more than one observation of an episode")
    head: Any = part("head", QSpec(), "what gives the return of each action")
    replay: ReplaySpec = setting(ReplaySpec(), "the replay")
    draw: Any = part("draw", UniformSpec(), "which rows of the replay are learned from")
    demos: DemosSpec = setting(DemosSpec(), "how demonstrations are learned from")
    optimizer: OptimizerSpec = setting(OptimizerSpec(), "the optimizer")
    target: TargetSpec = setting(TargetSpec(), "the target network")
    exploration: Any = part("exploration", EpsilonGreedySpec(), "exploration while training")
    loss: Any = part("loss", HuberSpec(), "distance between Q and its target")
    external: Any = part("external", NoExternalSpec(), "what is remembered of earlier episodes")
    recall: RecallSpec = setting(RecallSpec(), "how the external memory is used")
    bootstrap: Any = part("bootstrap", PlainSpec(), "what the next observation is worth")
    double: bool = setting(False, "the online network picks the next action, the target network says what it is worth")
    n_step: int = setting(1, "rewards in a target before the bootstrap", low=1, search=OneOf(1, 2, 3, 5, 10))
    discount: float = setting(0.99, "gamma", low=0, high=1, search=OneOf(0.9, 0.95, 0.98, 0.99, 0.995, 0.999))
    anneal: AnnealSpec = setting(AnnealSpec(), "another n and discount at first")
    reward: RewardSpec = setting(RewardSpec(), "how rewards are learned from")
    reward_clip: float = setting(0.0, "rewards are learned from within +- this; 0 for as they are", low=0)
    learn_every: int = setting(
        4, "environment steps from one moment of learning to the next", low=1, search=OneOf(1, 2, 4, 8, 16)
    )
    updates: int = setting(1, "updates at each moment of learning", low=1)

    forget: bool = setting(False, "a negative control: the working memory is emptied before every step")

    @property
    def has_memory(self) -> bool:
        """Whether there is a working memory."""
        return self.working.present

    @property
    def has_external(self) -> bool:
        """Whether there is an external memory."""
        return self.external.present

    @property
    def takes_missing(self) -> bool:
        """Whether a NaN in an observation is a number that is missing, and else a fault of the environment."""
        return self.observation.missing == "mask"

    @property
    def may_be_blank(self) -> bool:
        """Whether the network sees a NaN as nothing known: a missing number, or a frame from before the episode."""
        return self.takes_missing or self.observation.normalize

    @property
    def keeps_statistics(self) -> bool:
        """Whether the agent keeps running statistics of what it meets."""
        return self.observation.normalize or self.reward.normalize or self.limits is not None

    @property
    def limits(self) -> tuple[float, float] | None:
        """The least and the greatest return that the head can predict, as it is learned; None without limits."""
        return self.head.limits if self.head.predicts == "fixed" else None

    @property
    def most_steps(self) -> int:
        """The largest number of rewards in a target."""
        return max(self.n_step, self.anneal.n_step if self.anneal.updates else 1)

    @property
    def keys_of_target(self) -> bool:
        """Whether the external memory is asked by the target network's embeddings."""
        return self.has_external and self.recall.keys == "target"

    @property
    def asks_when_learning(self) -> bool:
        """Whether the loss of a row asks the external memory about that row."""
        recall = self.recall
        asks = recall.train_through_memory or recall.imitation_weight > 0 or self.bootstrap.asks == "successors"
        return self.has_external and asks

    @property
    def kept_columns(self) -> frozenset[str]:
        """What entries of the external memory keep beside keys and values: for fresh keys, or for their successors."""
        kept = OBSERVATION if self.recall.refresh else frozenset()
        return kept | (SUCCESSOR if self.bootstrap.asks == "successors" else frozenset())

    @property
    def rows(self) -> int:
        """Rows of replay that one example needs: its window, and the rows that its last target bootstraps from."""
        return self.replay.window + self.most_steps

    @property
    def reach(self) -> Reach:
        """What an example needs around the row it starts at."""
        return Reach(after=self.rows - 1, before=self.rows_before)

    @property
    def rows_before(self) -> int:
        """Rows before an example that it needs as well: stacked frames, and the previous action and reward."""
        previous = self.observation.previous_action or self.observation.previous_reward
        return max(self.observation.stack - 1, int(previous))

    def check(self) -> None:
        self._check_memory()
        replay, observation = self.replay, self.observation
        if replay.burn_in >= replay.window and replay.burn_in:
            raise SpecError(
                f"replay.burn_in = {replay.burn_in} leaves nothing to learn from in replay.window = {replay.window} "
                f"rows; lower the one or raise the other"
            )
        if not self.has_memory and (replay.window > 1 or observation.previous_action or observation.previous_reward):
            raise SpecError(
                f"replay.window = {replay.window}, previous_action = {observation.previous_action} and "
                f"previous_reward = {observation.previous_reward} are for a working memory; choose one, such as "
                f"working=gru, or leave them out"
            )
        if self.reward.normalize and self.reward_clip:
            raise SpecError(
                f"reward.normalize = true and reward_clip = {self.reward_clip} both bound rewards; set "
                f"reward_clip=0, or leave reward.normalize out"
            )
        self._check_external()
        self._check_loss()
        if self.draw.compares and self.has_memory:
            raise SpecError(
                f"draw={name_of('draw', type(self.draw))} compares single observations, but a working memory learns "
                f"from windows; set draw=uniform, or working=none"
            )
        self._check_demos()
        if replay.capacity <= self.rows + self.rows_before:
            raise SpecError(
                f"replay.capacity = {replay.capacity} cannot hold one window of {replay.window} rows with n_step = "
                f"{self.most_steps} and observation.stack = {observation.stack}; raise the capacity"
            )

    def _check_demos(self) -> None:
        """A batch has examples of both kinds, where demonstrations are kept."""
        demos, batch = self.demos, self.replay.batch_size
        if demos.margin_weight and not demos.ratio:
            raise SpecError(
                f"demos.margin_weight = {demos.margin_weight} is for demonstrations that are kept beside the replay; "
                f"set demos.ratio=0.25, or leave it out"
            )
        if demos.ratio and not 0 < demos.of(batch) < batch:
            raise SpecError(
                f"demos.ratio = {demos.ratio} of replay.batch_size = {batch} is {demos.of(batch)} examples; a batch "
                f"needs at least one of each kind: set a ratio from {1 / batch:.2g} to {1 - 1 / batch:.2g}"
            )
        if demos.ratio and self.draw.compares:
            raise SpecError(
                f"draw={name_of('draw', type(self.draw))} compares rows with the newest, which demonstrations do not "
                f"have; set draw=uniform or draw=prioritized, or demos.ratio=0"
            )

    def _check_memory(self) -> None:
        """What is about a working memory needs one, which needs windows."""
        if self.has_memory and self.replay.window < 2:
            raise SpecError(
                f"a working memory learns from windows, but replay.window = {self.replay.window}; "
                f"set replay.window=64, or as many steps as are to be remembered"
            )
        if self.replay.stored_carry and not self.has_memory:
            raise SpecError(
                "replay.stored_carry = true keeps what a working memory carries, and there is none; choose one, such "
                "as working=gru"
            )
        if self.forget and not self.has_memory:
            raise SpecError(
                "forget = true empties a working memory, and there is none; choose one, such as working=gru"
            )

    def _check_loss(self) -> None:
        """A loss compares what the head predicts."""
        if self.head.predicts not in self.loss.fits:
            loss, head = name_of("loss", type(self.loss)), name_of("head", type(self.head))
            raise SpecError(
                f"loss={loss} compares {TOLD[self.loss.fits[0]]}, but head={head} predicts "
                f"{TOLD[self.head.predicts]}; {WAYS[self.loss.fits[0]]}, or another loss"
            )

    def _check_external(self) -> None:
        """What is asked of an external memory needs one, and one that can."""
        recall, asks = self.recall, self.bootstrap.asks
        kind = f"external={name_of('external', type(self.external))}"
        asked = {
            f"bootstrap={name_of('bootstrap', type(self.bootstrap))}": asks in ("memory", "successors"),
            f"recall.imitation_weight = {recall.imitation_weight}": recall.imitation_weight > 0,
            f"recall.refresh = {recall.refresh}": recall.refresh > 0,
            "recall.train_through_memory = true": recall.train_through_memory,
        }
        for what, wanted in asked.items():
            if wanted and not self.has_external:
                raise SpecError(
                    f"{what} is for an external memory, and there is none; choose one, such as external=episodic"
                )
        if self.external.one_step and recall.n_step != 1:
            raise SpecError(
                f"{kind} keeps single steps and adds them up itself, but recall.n_step = {recall.n_step}; set "
                f"recall.n_step=1"
            )
        self._check_observations(kind)

    def _check_observations(self, kind: str) -> None:
        """What looks at stored or single observations again needs them, and a network without working memory."""
        recall = self.recall
        observations = {
            "bootstrap=successors": SUCCESSOR if self.bootstrap.asks == "successors" else frozenset(),
            f"recall.refresh = {recall.refresh}": OBSERVATION if recall.refresh else frozenset(),
        }
        for what, wanted in (observations | {'recall.keys = "target"': self.keys_of_target}).items():
            if wanted and self.has_memory:
                raise SpecError(
                    f"{what} looks at single observations again, which tell nothing of a working memory; set "
                    f"working=none, or leave it out"
                )
        for what, wanted in observations.items():
            if lacking := sorted(wanted - self.external.keeps):
                raise SpecError(
                    f"{what} needs entries that keep their {' and '.join(lacking)}, which {kind} cannot; use episodic"
                )
        if recall.refresh and not self.external.refreshes:
            raise SpecError(
                f"recall.refresh = {recall.refresh} computes keys anew, which {kind} cannot, and no memory can with "
                f"external.eviction = merge; set recall.refresh=0, or use external=episodic with another eviction"
            )
        if recall.refresh and recall.keys == "frozen":
            raise SpecError("recall.refresh computes keys anew, but recall.keys = frozen never change; leave one out")
