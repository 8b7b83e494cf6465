"""What every kind of agent chooses: how it sees, remembers, values and explores."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from engram.encoders.vector import VectorSpec
from engram.errors import SpecError
from engram.exploration.greedy import EpsilonGreedySpec
from engram.external.memory import NoExternalSpec
from engram.heads.q import QSpec
from engram.losses.regression import HuberSpec
from engram.mixing.mixing import NoMixingSpec
from engram.ranges import Linear, Log, OneOf
from engram.registry import name_of
from engram.specs import part, setting, spec
from engram.types import Kind
from engram.working.memory import NoMemorySpec

if TYPE_CHECKING:
    from engram.agents.agent import Agent
    from engram.spaces import Space

# Optional columns of an external memory's entries: what fresh keys are computed from, and what `successors` reads.
OBSERVATION, SUCCESSOR = frozenset({"observation"}), frozenset({"reward", "discount", "successor"})

TOLD: dict[Kind, str] = {
    "number": "one number", "fixed": "probabilities of fixed returns", "quantiles": "quantiles",
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
    played: bool = setting(True, "what the agent does becomes entries", later=True)
    demonstrations: int = setting(
        0, "entries made of demonstrations (demos.ratio) at each moment of learning, in turn, with fresh keys",
        low=0, later=True,
    )  # fmt: skip
    refresh: int = setting(0, "entries whose key is computed anew at each moment of learning, in turn", low=0)

    def key_width(self, embedding: int) -> int:
        """Numbers in a key, for embeddings of so many."""
        return self.frozen_width if self.keys == "frozen" else embedding


@spec
class MindSpec:
    """What is chosen about seeing, remembering and valuing, whatever an agent learns by.

    Acting, playing, the external memory and statistics know an agent by these settings alone. Each kind of agent adds
    how it learns: the Q-learner from a replay, others from rollouts. `engram list parts agent` names the kinds.
    """

    observation: ObservationSpec = setting(ObservationSpec(), "how an observation reaches the encoder")
    encoder: Any = part("encoder", VectorSpec(), "what sees one observation")
    working: Any = part("working", NoMemorySpec(), "what sees more than one observation of an episode")
    head: Any = part("head", QSpec(), "what gives the return of each action")
    optimizer: OptimizerSpec = setting(OptimizerSpec(), "the optimizer")
    exploration: Any = part("exploration", EpsilonGreedySpec(), "exploration while training")
    loss: Any = part("loss", HuberSpec(), "distance between Q and its target")
    external: Any = part("external", NoExternalSpec(), "what is remembered of earlier episodes")
    recall: RecallSpec = setting(RecallSpec(), "how the external memory is used")
    mixing: Any = part("mixing", NoMixingSpec(), "what the actions of several agents are worth together", later=True)
    discount: float = setting(0.99, "gamma", low=0, high=1, search=OneOf(0.9, 0.95, 0.98, 0.99, 0.995, 0.999))
    reward: RewardSpec = setting(RewardSpec(), "how rewards are learned from")
    reward_clip: float = setting(0.0, "rewards are learned from within +- this; 0 for as they are", low=0)
    symmetry: Literal["off", "board"] = setting(
        "off", "each example is learned from as it is (off), or turned and mirrored as a square board is (board)",
        later=True,
    )  # fmt: skip
    turns: bool = setting(
        False, "the environment says who moves next, and what is the other side's counts against; set by itself",
        later=True,
    )  # fmt: skip
    forget: bool = setting(False, "a negative control: the working memory is emptied before every step")

    @property
    def examples(self) -> str:
        """What it learns from together, in words."""
        raise NotImplementedError

    from_rollouts = False  # whether it learns from the newest steps of many environments alone, and then forgets them
    rests_on_norm = False  # whether it has no target network, and normalised layers in its place
    remembering = "--preset drqn, dtqn or lru-dqn"  # what has a working memory besides, for whoever has none

    def divides(self, envs: int) -> bool:
        """Whether its minibatches divide what it learns from at once, of so many environments."""
        return True

    @property
    def replay_rows(self) -> int:
        """Rows that its replay keeps, which can be filled and handed on; 0 for an agent without one."""
        return 0

    @property
    def stores_carry(self) -> bool:
        """Whether the rows of its replay hold what the working memory carried."""
        return False

    @property
    def demonstrated(self) -> float:
        """The share of each batch that is drawn from demonstrations, which are then kept for ever."""
        return 0.0

    # -- what each kind says ---------------------------------------------------------------------------------

    def build(self, space: "Space", actions: int, envs: int, demonstrations: int = 0, agents: int = 1) -> "Agent":
        """The agent. `demonstrations`: rows of them that it is given. `agents`: of each environment."""
        raise NotImplementedError

    def fitted(self, given: Collection[str], steps: int, envs: int) -> "MindSpec":
        """The spec with the numbers that its preset chose fitted to a run of `steps` steps in `envs` environments.

        Settings by the paths in `given` stay. So a number that nobody typed never is the reason of a refusal.
        """
        del given, steps, envs
        return self

    def updates_in(self, steps: int, envs: int) -> int:
        """Updates in so many environment steps."""
        raise NotImplementedError

    @property
    def kept(self) -> str:
        """What it keeps to learn from, in words."""
        raise NotImplementedError

    @property
    def begins(self) -> str:
        """The setting that says when learning begins, with its value."""
        raise NotImplementedError

    @property
    def asks(self) -> str:
        """What learning asks of an external memory about the next observation: see `BootstrapSpec.asks`."""
        return "nothing"

    @property
    def asks_by(self) -> str:
        """The setting that does."""
        return "the agent"

    # -- what follows ----------------------------------------------------------------------------------------

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
    def keys_of_target(self) -> bool:
        """Whether the external memory is asked by the target network's embeddings."""
        return self.has_external and self.recall.keys == "target"

    @property
    def asks_when_learning(self) -> bool:
        """Whether the loss of a row asks the external memory about that row."""
        recall = self.recall
        asks = recall.train_through_memory or recall.imitation_weight > 0 or self.asks == "successors"
        return self.has_external and asks

    @property
    def kept_columns(self) -> frozenset[str]:
        """What entries of the external memory keep beside keys and values: for fresh keys, or for their successors."""
        kept = OBSERVATION if self.recall.refresh else frozenset()
        return kept | (SUCCESSOR if self.asks == "successors" else frozenset())

    def check(self) -> None:
        if self.forget and not self.has_memory:
            raise SpecError(
                "forget = true empties a working memory, and there is none; choose one, such as working=gru"
            )
        if self.reward.normalize and self.reward_clip:
            raise SpecError(
                f"reward.normalize = true and reward_clip = {self.reward_clip} both bound rewards; set "
                f"reward_clip=0, or leave reward.normalize out"
            )
        if self.encoder.relative and self.may_be_blank:
            what = "observation.missing = mask" if self.takes_missing else "observation.normalize = true"
            raise SpecError(f"encoder.relative = true reads distances, which {what} gives no units of; leave one out")
        self._check_external()
        self._check_turns()
        self._check_loss()
        if self.mixing.present:
            self._check_mixing()

    def _check_mixing(self) -> None:
        """Raises SpecError for what a mixing of Q cannot be joined with."""
        mixing, head = (name_of(role, type(getattr(self, role))) for role in ("mixing", "head"))
        unfit = {
            f"head={head} has a policy, and actions are chosen by that; leave mixing out": self.head.has_policy,
            f"head.returns predicts {TOLD[self.head.predicts]}; set head.returns=scalar": self.head.predicts
            != "number",
            "the external memory remembers what each agent's action came to; set external=none": self.has_external,
            "reward.rescale = true learns roots of returns, which do not add up; leave it out": self.reward.rescale,
            "head=decoupled has a value for each number of an action; set head=q": self.head.decouples,
            "sides that take turns (turns = true) are no team; leave mixing out": self.turns,
            f"symmetry={self.symmetry} turns what one agent sees; set symmetry=off": self.symmetry != "off",
        }
        for why, is_so in unfit.items():
            if is_so:
                raise SpecError(f"mixing={mixing} joins numbers, Q of each agent of a team, but {why}")

    def _check_turns(self) -> None:
        """A memory that lets values travel backwards must know whose they are."""
        if self.turns and self.external.one_step:
            raise SpecError(
                f"external={name_of('external', type(self.external))} lets values rise along the steps of one side, "
                f"and here sides take turns; set external=episodic, or another"
            )

    def check_samples(self) -> None:
        """Raises SpecError for an exploration that does not draw from the policy, as an agent with one must."""
        if not self.exploration.samples:
            raise SpecError(
                f"agent={name_of('agent', type(self))} draws actions from its policy, which exploration="
                f"{name_of('exploration', type(self.exploration))} does not; set exploration=sample"
            )

    def check_values(self) -> None:
        """Raises SpecError for a policy: an agent that learns what actions are worth has none beside that."""
        agent, head = name_of("agent", type(self)), name_of("head", type(self.head))
        if self.head.has_policy:
            raise SpecError(f"agent={agent} learns Q, but head={head} has a policy; set head=q, or use --preset ppo")
        if self.exploration.samples:
            raise SpecError(
                f"exploration={name_of('exploration', type(self.exploration))} draws from a policy, and head={head} "
                f"has none; set exploration=boltzmann or epsilon-greedy, or use --preset ppo"
            )
        asked = {
            f"exploration={name_of('exploration', type(self.exploration))}": not self.exploration.decouples,
            f"external={name_of('external', type(self.external))}": self.has_external,
            "reward.rescale = true": self.reward.rescale,
        }
        for what in [what for what, wanted in asked.items() if wanted and self.head.decouples]:
            raise SpecError(
                f"{what} is about whole actions, which head={head} has no values of; leave it out, or set head=q"
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
        recall = self.recall
        kind = f"external={name_of('external', type(self.external))}"
        asked = {
            self.asks_by: self.asks in ("memory", "successors"),
            f"recall.imitation_weight = {recall.imitation_weight}": recall.imitation_weight > 0,
            f"recall.refresh = {recall.refresh}": recall.refresh > 0,
            "recall.train_through_memory = true": recall.train_through_memory,
            "recall.played = false": not recall.played,
            f"recall.demonstrations = {recall.demonstrations}": recall.demonstrations > 0,
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
        if recall.demonstrations and not self.demonstrated:
            raise SpecError(
                f"recall.demonstrations = {recall.demonstrations} makes entries of demonstrations that are kept; set "
                f"demos.ratio=0.25 and name them with demonstrations= (--demonstrations FILE), or leave it out"
            )
        if not recall.played and not recall.demonstrations:
            raise SpecError(
                "recall.played = false leaves nothing to become an entry; set recall.demonstrations=64, or leave it out"
            )
        if self.external.one_step and recall.demonstrations:
            raise SpecError(
                f"recall.demonstrations makes entries of whole returns, but {kind} keeps single steps; use episodic"
            )
        self._check_observations(kind)

    def _check_observations(self, kind: str) -> None:
        """What looks at stored or single observations again needs them, and a network without working memory."""
        recall = self.recall
        observations = {
            "bootstrap=successors": SUCCESSOR if self.asks == "successors" else frozenset(),
            f"recall.refresh = {recall.refresh}": OBSERVATION if recall.refresh else frozenset(),
        }
        single = {
            'recall.keys = "target"': self.keys_of_target,
            f"recall.demonstrations = {recall.demonstrations}": recall.demonstrations > 0,
        }
        for what, wanted in (observations | single).items():
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
