"""Everything that is chosen about a Q-learner: specs of its parts, composed into one `AgentSpec`.

DQN, double DQN, DRQN, DTQN and the rest are values of one spec (presets.py), not agents of their own.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from engram.agents.fitting import fitted
from engram.agents.mind import MindSpec
from engram.errors import SpecError
from engram.losses.bootstrap import PlainSpec
from engram.ranges import Log, OneOf
from engram.registry import name_of, register
from engram.replay.draw import Reach
from engram.replay.uniform import UniformSpec
from engram.specs import part, setting, spec

if TYPE_CHECKING:
    from engram.agents.agent import Agent
    from engram.spaces import Space


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
class TargetSpec:
    """target <- target + rate * (parameters - target), every so many updates."""

    every: int = setting(125, "updates between two changes of the target network", low=1, search=Log(10, 5_000))
    rate: float = setting(
        1.0, "1 copies the parameters (hard); 0.005 follows them slowly (soft)", above=0, high=1, search=Log(1e-3, 0.1)
    )


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
class ConservativeSpec:
    """Q of actions that were not taken is held down, so that a maximum over many does not trust what nobody tried.

    Sources: Kumar et al. 2020 (arXiv 2006.04779), CQL(H); Snell et al. 2023 (arXiv 2206.11871), ILQL, for tokens.
    """

    weight: float = setting(
        0.0, "weight of a loss that holds the soft maximum of Q near Q of the action that was taken; 0 for none", low=0
    )
    temperature: float = setting(1.0, "of that soft maximum, in units of return as it is learned", above=0)
    on: Literal["all", "demonstrations"] = setting(
        "all", "the rows that have this loss: all of a batch, or demonstrations that are kept (demos.ratio)"
    )


@register("agent", "q-learning")
@spec
class AgentSpec(MindSpec):
    """Everything that was chosen about a Q-learner, which learns from a replay."""

    replay: ReplaySpec = setting(ReplaySpec(), "the replay")
    draw: Any = part("draw", UniformSpec(), "which rows of the replay are learned from")
    demos: DemosSpec = setting(DemosSpec(), "how demonstrations are learned from")
    conservative: ConservativeSpec = setting(
        ConservativeSpec(), "how Q of actions that were not taken is held down", later=True
    )
    target: TargetSpec = setting(TargetSpec(), "the target network")
    bootstrap: Any = part("bootstrap", PlainSpec(), "what the next observation is worth")
    double: bool = setting(False, "the online network picks the next action, the target network says what it is worth")
    n_step: int = setting(1, "rewards in a target before the bootstrap", low=1, search=OneOf(1, 2, 3, 5, 10))
    anneal: AnnealSpec = setting(AnnealSpec(), "another n and discount at first")
    learn_every: int = setting(
        4, "environment steps from one moment of learning to the next", low=1, search=OneOf(1, 2, 4, 8, 16)
    )
    updates: int = setting(1, "updates at each moment of learning", low=1)

    def build(self, space: "Space", actions: int, envs: int, demonstrations: int = 0, agents: int = 1) -> "Agent":
        from engram.agents.q_learning import QLearner  # which is made of this spec

        return QLearner(self, space, actions, envs, demonstrations, agents)

    def fitted(self, given: Collection[str], steps: int, envs: int) -> "AgentSpec":
        return fitted(self, given, steps, envs)

    def updates_in(self, steps: int, envs: int) -> int:
        return steps * self.updates // self.learn_every

    @property
    def examples(self) -> str:
        return f"windows of {self.replay.window}"

    @property
    def replay_rows(self) -> int:
        return self.replay.capacity

    @property
    def stores_carry(self) -> bool:
        return self.replay.stored_carry

    @property
    def demonstrated(self) -> float:
        return self.demos.ratio

    @property
    def marks_demonstrations(self) -> bool:
        """Whether the loss of a demonstration differs from that of other rows."""
        held = self.conservative
        return self.demos.margin_weight > 0 or (held.weight > 0 and held.on == "demonstrations")

    @property
    def kept(self) -> str:
        return f"{self.replay.capacity:,} rows of replay"

    @property
    def begins(self) -> str:
        return f"replay.start={self.replay.start}"

    @property
    def asks(self) -> str:
        return self.bootstrap.asks

    @property
    def asks_by(self) -> str:
        return f"bootstrap={name_of('bootstrap', type(self.bootstrap))}"

    @property
    def most_steps(self) -> int:
        """The largest number of rewards in a target."""
        return max(self.n_step, self.anneal.n_step if self.anneal.updates else 1)

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
        super().check()
        self._check_head()
        if self.draw.compares and self.has_memory:
            raise SpecError(
                f"draw={name_of('draw', type(self.draw))} compares single observations, but a working memory learns "
                f"from windows; set draw=uniform, or working=none"
            )
        if self.draw.relabels and self.has_memory:
            raise SpecError(
                f"draw={name_of('draw', type(self.draw))} gives single steps other goals, but a working memory learns "
                f"from windows; set working=none (observation.stack shows it several steps), or draw=uniform"
            )
        self._check_demos()
        if replay.capacity <= self.rows + self.rows_before:
            raise SpecError(
                f"replay.capacity = {replay.capacity} cannot hold one window of {replay.window} rows with n_step = "
                f"{self.most_steps} and observation.stack = {observation.stack}; raise the capacity"
            )

    def _check_head(self) -> None:
        """Q is chosen by, so there is no policy; a kind of agent that has one says so here."""
        self.check_values()
        if self.head.decouples and not self.bootstrap.decouples:
            raise SpecError(
                f"{self.asks_by} weighs whole actions, which head=decoupled has no values of; set bootstrap=plain"
            )
        if self.head.decouples and self.demos.margin_weight:
            raise SpecError(
                f"demos.margin_weight = {self.demos.margin_weight} compares whole actions, which head=decoupled has no "
                f"values of; leave it out"
            )
        if self.head.decouples and self.conservative.weight:
            raise SpecError(
                f"conservative.weight = {self.conservative.weight} holds down Q of whole actions, which head=decoupled "
                f"has no values of; leave it out"
            )

    def _check_mixing(self) -> None:
        super()._check_mixing()
        mixing, draw = (name_of(role, type(getattr(self, role))) for role in ("mixing", "draw"))
        bootstrap = name_of("bootstrap", type(self.bootstrap))
        if self.draw != UniformSpec():
            raise SpecError(
                f"mixing={mixing} learns from rows of whole teams, but draw={draw} tells rows of one agent from those "
                f"of another; set draw=uniform"
            )
        if self.bootstrap != PlainSpec():
            raise SpecError(
                f"mixing={mixing} mixes what each agent prefers next, but bootstrap={bootstrap} values the next "
                f"observation in another way; set bootstrap=plain"
            )
        if self.conservative.weight:
            raise SpecError(
                f"conservative.weight = {self.conservative.weight} holds down Q of single agents, and mixing={mixing} "
                f"learns what their actions are worth together; leave it out"
            )
        if self.demos.ratio:
            raise SpecError(
                f"mixing={mixing} learns from rows of whole teams, but demos.ratio = {self.demos.ratio} keeps "
                f"demonstrations of one agent; set demos.ratio=0"
            )

    def _check_demos(self) -> None:
        """A batch has examples of both kinds, where demonstrations are kept."""
        demos, batch = self.demos, self.replay.batch_size
        if demos.margin_weight and not demos.ratio:
            raise SpecError(
                f"demos.margin_weight = {demos.margin_weight} is for demonstrations that are kept beside the replay; "
                f"set demos.ratio=0.25, or leave it out"
            )
        if self.conservative.on == "demonstrations" and not demos.ratio:
            raise SpecError(
                "conservative.on = demonstrations is for demonstrations that are kept beside the replay; set "
                "demos.ratio=0.25, or conservative.on=all"
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
        if self.replay.stored_carry and self.symmetry != "off":
            raise SpecError(
                f"symmetry = {self.symmetry} turns a window, but not the carry that it begins with "
                f"(replay.stored_carry = true); leave one out"
            )
