"""Discrete soft actor-critic: a policy that is drawn to Q and to entropy, learned from a replay.

It is the Q-learner with another loss: replay, windows, priorities, target network and rhythm are the same.

Source: Christodoulou 2019 (arXiv 1910.07207), after Haarnoja et al. 2018 (arXiv 1812.05905); on its weak points Zhou et
al. 2022 (arXiv 2209.10081).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from engram.agents.examples import Nets, Score, Scored, Start, held_down
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, TargetSpec
from engram.errors import SpecError
from engram.exploration.sample import SampleSpec
from engram.heads.attention import AttentionSpec
from engram.heads.q import DuelingSpec
from engram.heads.twin import TwinSpec
from engram.losses.bootstrap import Following, PlainSpec, soft, target
from engram.losses.policy import entropy, soft_improvement, temperature_loss
from engram.losses.regression import SquaredSpec
from engram.precision import all_in_32_bits
from engram.ranges import Linear
from engram.registry import name_of, register
from engram.specs import part, setting, spec
from engram.types import Decision, Distribution

if TYPE_CHECKING:
    from engram.agents.agent import Agent
    from engram.spaces import Space


@register("agent", "sac")
@spec
class SACSpec(AgentSpec):
    """A policy drawn to softmax(Q / temperature), and two estimates of Q that count the entropy to come.

        target           r + gamma^n sum_a pi(a | s') [min Q_target(s', a) - temperature log pi(a | s')]
        policy           sum_a pi(a | s) [temperature log pi(a | s) - min Q(s, a)], Q a constant
        log temperature  log temperature (entropy of pi(. | s) - wanted entropy), the entropies constants

    Of an n-step target the entropies between the first step and the last are left out. One Adam learns all three.
    """

    head: Any = part("head", TwinSpec(), "what gives a policy and two estimates of Q")
    exploration: Any = part("exploration", SampleSpec(), "exploration while training")
    double: bool = setting(True, "the policy of the next observation is the online network's, not the target network's")
    target_entropy: float = setting(
        0.5, "entropy that the temperature is learned for, as a share of log(number of allowed actions)", low=0,
        below=1, search=Linear(0.1, 0.9),
    )  # fmt: skip

    def build(self, space: "Space", actions: int, envs: int, demonstrations: int = 0, agents: int = 1) -> "Agent":
        return SACLearner(self, space, actions, envs, demonstrations, agents)

    def check(self) -> None:
        if "number" not in self.loss.fits:
            raise SpecError(
                f"loss={name_of('loss', type(self.loss))} compares distributions, but agent=sac learns two numbers for "
                f"each action; set loss=huber or loss=squared"
            )
        for what, asked, why in self._unread():
            if asked:
                raise SpecError(f"{what} {why}; leave it out")
        super().check()

    def _unread(self) -> list[tuple[str, bool, str]]:
        """Settings of the Q-learner that have no meaning here, whether they are set, and why."""
        bootstrap = name_of("bootstrap", type(self.bootstrap))
        external = name_of("external", type(self.external))
        return [
            (f"bootstrap={bootstrap}", self.bootstrap != PlainSpec(), "is not asked by agent=sac, whose policy says "
             "what the next observation is worth"),
            (f"external={external}", self.has_external, "remembers returns without the entropy that Q of agent=sac "
             "counts, so the two cannot be joined"),
            ("reward.rescale = true", self.reward.rescale, "learns roots of returns, to which agent=sac cannot add an "
             "entropy"),
            (f"demos.margin_weight = {self.demos.margin_weight}", self.demos.margin_weight > 0, "holds Q of other "
             "actions below, by which agent=sac does not choose"),
            (f"optimizer.weight_decay = {self.optimizer.weight_decay}", self.optimizer.weight_decay > 0, "would draw "
             "the temperature of agent=sac to 1"),
        ]  # fmt: skip

    def _check_head(self) -> None:
        """A policy, by which alone actions are chosen, and two estimates."""
        if not self.head.has_twins:
            raise SpecError(
                f"agent=sac needs a head with a policy and two estimates of Q, which head="
                f"{name_of('head', type(self.head))} has not; set head=twin, or use --preset sac"
            )
        self.check_samples()


def score(spec: SACSpec, nets: Nets, frames: PyTree, decision: Decision, start: Start, following: Following) -> Scored:
    """What one action teaches both estimates, and its observation the policy and the temperature."""
    del frames  # an external memory would be asked by them
    learned = nets.params.head.log_temperature
    temperature = jax.lax.stop_gradient(jnp.exp(learned))
    goal = target(start.step, soft(following.returns, jax.nn.log_softmax(following.selector), temperature))
    estimates: Any = decision.returns.twins
    both = [Distribution(one[start.action][None], jnp.ones(1)) for one in estimates]
    own = spec.loss(both[0], goal) + spec.loss(both[1], goal)
    error = jnp.stack([jnp.abs(goal.mean - each.mean) for each in both]).max()

    logs = jax.nn.log_softmax(decision.preference)
    spread = entropy(logs)
    policy = soft_improvement(logs, decision.returns.q, temperature)
    every = own + policy + temperature_loss(learned, spread, spec.target_entropy * greatest_entropy(logs))
    if spec.conservative.weight:  # of both estimates, as Kumar et al. 2020 have it
        every = every + held_down(spec, estimates[0], decision.allowed, start)
        every = every + held_down(spec, estimates[1], decision.allowed, start)
    told = {"loss": own, "policy_loss": policy, "entropy": spread, "temperature": temperature}
    fixed: Any = jax.lax.stop_gradient((error, told))
    return Scored(every, own, decision.returns.q[start.action], fixed[0], start.weight, fixed[1])


def greatest_entropy(logs: Float[Array, "actions"]) -> Float[Array, ""]:
    """The entropy of the uniform policy over the actions that can be taken, in nats."""
    return jnp.log((~jnp.isneginf(logs)).sum().astype(jnp.float32))


@all_in_32_bits
@dataclass(frozen=True)
class SACLearner(QLearner):
    """A soft actor-critic for `envs` environments with one observation space and `actions` discrete actions.

    Of its metrics "loss" is that of both estimates; the other two losses are of no size of their own.
    """

    spec: SACSpec

    score: ClassVar[Score] = staticmethod(score)

    @property
    def metrics(self) -> tuple[str, ...]:
        return "loss", "q_mean", "policy_loss", "entropy", "temperature"


# -- the preset ------------------------------------------------------------------------------------------------------

KEPT = (
    "observation", "encoder", "working", "replay", "target", "optimizer", "discount", "learn_every", "updates", "n_step"
)  # fmt: skip


def from_dqn(chosen: AgentSpec, games: bool, width: int, offers: bool = False) -> SACSpec:
    """The preset: it sees, stores and learns as a DQN for the same kind of observation does, but for its losses.

    `games`: with the numbers of CleanRL's `sac_atari`, but batches of 32. `width`: of a hidden layer of the policy and
    of each estimate.
    """
    of_actions = AttentionSpec() if offers else DuelingSpec(width=width)
    spec = SACSpec(
        **{name: getattr(chosen, name) for name in KEPT},
        # With the least, one seed of three on CartPole stayed at 230 for good; by the mean all reached 500.
        head=TwinSpec(policy=of_actions, q=of_actions, join="least" if games else "mean"),
        loss=SquaredSpec(),
    )
    if not games:
        return spec
    return replace(
        spec,
        optimizer=replace(chosen.optimizer, learning_rate=3e-4, epsilon=1e-4),
        target=TargetSpec(every=2_000, rate=1.0),
        target_entropy=0.89,
    )
