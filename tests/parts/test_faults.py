"""Each check passes a sound part and says in one sentence what a broken one breaks."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from engram import spaces, testing
from engram.agents.agent import Rhythm
from engram.agents.network import build
from engram.agents.presets import preset
from engram.agents.q_learning import QLearner
from engram.errors import SpecError
from engram.exploration.exploration import any_of
from engram.heads.actor_critic import ActorCriticSpec
from engram.heads.q import QSpec
from engram.heads.returns import QuantileSpec
from engram.heads.twin import TwinSpec
from engram.nn.layers import Linear
from engram.replay import sampling
from engram.replay.draw import Drawn
from engram.specs import override_all
from engram.testing import ContractFault
from engram.types import Distribution

KEY = jax.random.PRNGKey(0)


class Head(eqx.Module):
    """A head for 5 numbers and 3 actions of 2 features each, with a fault."""

    linear: Linear
    fault: str = eqx.field(static=True)

    @property
    def words(self) -> Any:
        return {"words": "two", "bits": 1}.get(self.fault, 0)

    def __call__(self, embedding: Any, offered: Any = None, allowed: Any = None, bits: Any = None) -> Any:
        rows = jnp.zeros((3, 2)) if offered is None else offered
        if allowed is not None and self.fault != "forbidden":
            rows = jnp.where(allowed[:, None], rows, 0)
        q = self.linear(embedding) + rows.sum(1) + rows.sum()
        weights = jnp.full((1, 3), 0.5 if self.fault == "attention" else 1 / 3)
        q = {"finite": q / 0, "gradient": jax.lax.stop_gradient(q), "root": q + jnp.sqrt(0 * q)}.get(self.fault, q)
        q = q[:2, None] if self.fault == "shape" else q[:, None]
        return SimpleNamespace(
            atoms=q,
            logits=jnp.zeros_like(q),
            attention=weights,
            levels=None,
            policy=None,
            twins=None,
            probabilities=jnp.ones_like(q),
            q=q[:, 0],
        )


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("words", "`words` is 'two'; expected how many random words a call takes, 0 for none"),
        ("bits", "other random words give the same returns; read the 1 words of `bits`, or take 0"),
        ("shape", r"atoms have shape \(2, 1\) and logits \(2, 1\); expected both to be \[actions atoms\], with 3"),
        ("attention", "a head's attention is negative or does not sum to 1; use nn.attention.attend"),
        ("finite", "atoms are float32 or not finite; expected finite float32 numbers"),
        ("forbidden", "what a forbidden action offers changes the worth of an allowed one; hide its features"),
        ("gradient", "no gradient reaches 'linear.weight'; use it, or remove it, or name it in `unreached`"),
        ("root", "the gradient of 'linear.weight' is not finite; look for a division or a root at 0"),
    ],
)
def test_a_fault_of_a_head_is_named(fault: str, sentence: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engram.testing.heads.LOOK", LOOK)
    with pytest.raises(ContractFault, match=sentence):
        testing.check_head(Head(Linear(5, 3, key=KEY), fault), 5, 3, offered=2)


# A namespace is no tree for JAX, and `Returns` would be checked for its shapes before the contract is.
jax.tree_util.register_pytree_node(
    SimpleNamespace, lambda one: (tuple(vars(one).values()), tuple(vars(one))),
    lambda names, leaves: SimpleNamespace(**dict(zip(names, leaves, strict=True))),
)  # fmt: skip
LOOK = jax.jit(lambda head, given: jax.vmap(head)(*given))


def test_a_spec_that_says_its_head_reads_no_features_is_not_given_any():
    spec = SimpleNamespace(reads_offered=False, predicts="number")
    with pytest.raises(ContractFault, match="the spec's `reads_offered` is False; expected True"):
        testing.check_head(Head(Linear(5, 3, key=KEY), "none"), 5, 3, spec=spec, offered=2)


def test_a_spec_says_what_its_head_predicts():
    spec = SimpleNamespace(reads_offered=True, predicts="numbers")
    with pytest.raises(ContractFault, match="the spec's `predicts` is 'numbers'; expected one of number, fixed, quan"):
        testing.check_head(Head(Linear(5, 3, key=KEY), "none"), 5, 3, spec=spec, offered=2)


@pytest.mark.parametrize(
    ("spec", "built", "sentence"),
    [
        (QSpec(), ActorCriticSpec(), "`has_policy` is False, but its head gives `Returns.policy`; make the two agree"),
        (ActorCriticSpec(), QSpec(), "`has_policy` is True, but its head gives no `Returns.policy`; make the two agr"),
        (ActorCriticSpec(), TwinSpec(), "`has_twins` is False, but its head gives `Returns.twins`; make the two agree"),
        (QSpec(), QSpec(returns=QuantileSpec(quantiles=3)), "'number', but its head gives atoms with levels; qu"),
        (QSpec(returns=QuantileSpec()), QSpec(), "'quantiles', but its head gives atoms without lev"),
    ],
)
def test_what_a_spec_declares_of_its_head_is_what_the_head_gives(spec: Any, built: Any, sentence: str):
    with pytest.raises(ContractFault, match=sentence):
        testing.check_head(built.build(5, 3, KEY), 5, 3, spec=spec)


class Wrong(eqx.Module):
    """A part that says another width than it has."""

    part: Any
    width: int = 7

    def __call__(self, *given: Any) -> Any:
        return self.part(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)


@pytest.mark.parametrize(("part", "what"), [("encoder", "encoder"), ("working", "working memory")])
def test_a_part_whose_width_is_not_what_it_gives_is_named_before_the_first_step(part: str, what: str):
    space = spaces.Box((2,))
    spec = override_all(preset("drqn", space, 100), {"encoder.widths": "8", "working.hidden_size": "8"})
    network = build(spec, space, 3, KEY)
    wrong = replace(network, **{part: Wrong(getattr(network, part))})
    with pytest.raises(SpecError, match=rf"the {what} gives an array \[8\] where its `width` 7 promises \[7\]; make"):
        wrong(jnp.zeros((1, 2)), jnp.zeros(0, jnp.uint32))


@dataclass(frozen=True)
class Exploration:
    """Any action with probability one half, with a fault."""

    fault: str

    @property
    def by_episode(self) -> Any:
        return {"by_episode": 1, "kept": True}.get(self.fault, False)

    settled = 10

    def chance(self, step: int) -> Any:
        return {"chance": 2.0, "often": 0.9, "fades": 0.5 - 0.01 * step, "sometimes": 0.5 if step else None}.get(
            self.fault, 0.5
        )

    def report(self, step: int) -> Any:
        return {"half": jnp.float32(0.5) if self.fault == "report" else 0.5}

    def choose(self, decision: Any, bits: Any, episode: Any, step: Any) -> Any:
        q = decision.q if self.fault == "forbidden" else decision.preference
        action = jnp.where(bits[0] % 2 == 0, any_of(decision, bits[1]), q.argmax())
        return action.astype(jnp.float32 if self.fault == "dtype" else jnp.int32) + 9 * (self.fault == "range")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("by_episode", "`by_episode` is 1; expected True or False"),
        ("kept", "`by_episode` is True, but there is no `kept`; give the bits of an episode at each step"),
        ("chance", "`chance` at step 0 is 2.0; expected None, or a float from 0 to 1"),
        ("sometimes", "`chance` is a number at some steps and None at others"),
        ("often", r"the preferred action was chosen 0.6\d\d of the time at step 0, where a `chance` of 0.9 of any"),
        ("report", "`report` at step 0 is no finite numbers by name; use float"),
        ("dtype", r"`choose` gave float32\[\]; expected an int32 scalar"),
        ("range", r"`choose` gave action 12; expected one of 0 to 3"),
        ("forbidden", "`choose` gave an action that is not allowed, at step 0; see exploration.any_of"),
    ],
)
def test_a_fault_of_an_exploration_is_named(fault: str, sentence: str):
    with pytest.raises(ContractFault, match=sentence):
        testing.check_exploration(Exploration(fault))


def test_an_exploration_without_fault_passes_and_one_that_never_settles_does_not():
    testing.check_exploration(Exploration("none"))
    with pytest.raises(ContractFault, match="it still changes after step 10, which is `settled`"):
        testing.check_exploration(Never("none"))


class Never(Exploration):
    """It reports another number at every step."""

    def report(self, step: int) -> Any:
        return {"step": step}


@dataclass(frozen=True)
class Draw:
    """Uniform, with counters that it keeps, and with a fault."""

    fault: str
    compares = False

    @property
    def words(self) -> Any:
        return None if self.fault == "words" else 1

    def init(self, rows: int, lanes: int) -> Any:
        return {"seen": jnp.zeros(lanes, jnp.float16 if self.fault == "stored" else jnp.float32)}

    def grown(self, state: Any, growth: Any) -> Any:
        return {"seen": growth.after.cursor if self.fault == "grown" else state["seen"]}

    def draw(self, state: Any, ring: Any, reach: Any, bits: Any, embed: Any) -> Any:
        before, after = reach.before, reach.after
        bits = jnp.zeros_like(bits) if self.fault == "random" else bits
        after, before = (0 if self.fault == "after" else after), (0 if self.fault == "before" else before)
        row, lane = sampling.uniform_rows(ring, bits[:, 0], after, before)
        if self.fault == "embeds":
            embed(row[0], lane[0])
        row = {"number": row % ring.capacity, "type": row.astype(jnp.float32)}.get(self.fault, row)
        weight = jnp.ones(len(row)) / jnp.where(state["seen"][0] > 0, 0.0, 1.0)
        weight = weight[:3] if self.fault == "weights" else weight
        return (SimpleNamespace if self.fault == "type" else Drawn)(row=row, lane=lane, importance=weight)

    def learned(self, state: Any, drawn: Any, surprise: Any, keep: Any) -> Any:
        if self.fault == "learned":
            return {"seen": surprise.error}
        return {"seen": state["seen"] + (self.fault == "infinite") * keep + (self.fault == "refused")}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("words", "`words` is None; expected how many random words one example takes"),
        ("refused", "`learned` changed the state although `keep` is False"),
        ("stored", "'seen' of `init` is float16; expected an array of bool, int32, float32, uint32"),
        ("grown", r"`grown` made .*float32\[3\].* of `init` .*int32\[3\].*; keep structure, shapes and types"),
        ("learned", r"`learned` made .*float32\[3\].* of `init` .*float32\[16\].*; keep structure, shapes and types"),
        ("random", "in a ring that is not full one row was drawn 192 times; use the random words"),
        ("after", "was drawn; expected a startable one, from .* to below .*: see sampling.startable"),
        ("before", "in .* that has wrapped row .* was drawn; expected a startable one"),
        ("number", "in a ring that has wrapped row .* was drawn; expected a startable one"),
        ("type", r"`row` of the drawn is float32\[16\]; expected int32\[16\]"),
        ("embeds", "`draw` calls `embed`, but `compares` is False; say True, or leave it alone"),
        ("infinite", "importance is not finite, negative or 0 everywhere; expected weights"),
        ("weights", r"`importance` is float32\[3\]; expected None or float32\[16\]"),
    ],
)
def test_a_fault_of_a_draw_is_named(fault: str, sentence: str):
    with pytest.raises(ContractFault, match=sentence):
        testing.check_draw(Draw(fault))


def test_a_draw_without_fault_passes():
    testing.check_draw(Draw("none"))


@dataclass(frozen=True)
class Bootstrap:
    """The target of DQN, with a fault."""

    fault: str

    @property
    def asks(self) -> Any:
        return "everything" if self.fault == "asks" else "nothing"

    def __call__(self, step: Any, following: Any) -> Any:
        selector = following.returns.q if self.fault == "forbidden" else following.selector
        next_one = following.returns.of(selector.argmax())
        discount = 0.9 if self.fault == "end" else step.discount
        atoms = step.reward + discount * next_one.atoms
        atoms = atoms / 0 if self.fault == "finite" else atoms
        shares = next_one.probabilities * (0.5 if self.fault == "sum" else 1.0)
        if self.fault != "gradient":
            atoms, shares = jax.lax.stop_gradient((atoms, shares))
        if self.fault == "shape":
            return Distribution._make((atoms[None], shares[None], None, None))
        if self.fault == "logits":
            return next_one._replace(atoms=atoms, probabilities=shares)
        return (SimpleNamespace if self.fault == "kind" else Distribution)(atoms=atoms, probabilities=shares)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("asks", "`asks` is 'everything'; expected one of nothing, memory, successors"),
        ("kind", "the target is a SimpleNamespace; expected a Distribution"),
        ("shape", r"the target has atoms of shape \(1, 1\) and probabilities \(1, 1\); expected both to be \[atoms\]"),
        ("logits", "the target has logits or levels, which a prediction has; leave them out, as `target` does"),
        ("finite", "atoms are float32 or not finite; hide what is forbidden before a sum"),
        ("sum", "probabilities of the target are negative or do not sum to 1"),
        ("end", "after a termination, where the discount is 0, the target is not the reward; see `target`"),
        ("forbidden", "what a forbidden action is worth changes the target; choose by `selector`"),
        ("gradient", r"a gradient reaches '.*'; put jax.lax.stop_gradient around it"),
    ],
)
def test_a_fault_of_a_bootstrap_is_named(fault: str, sentence: str):
    with pytest.raises(ContractFault, match=sentence):
        testing.check_bootstrap(Bootstrap(fault))


def test_a_bootstrap_without_fault_passes():
    testing.check_bootstrap(Bootstrap("none"))


@dataclass(frozen=True)
class Loss:
    """The absolute error, with a fault."""

    fault: str

    @property
    def fits(self) -> Any:
        return "number" if self.fault == "fits" else ("number",)

    def __call__(self, predicted: Any, target: Any) -> Any:
        mean = target.mean if self.fault == "constant" else jax.lax.stop_gradient(target.mean)
        error = predicted.mean - mean
        return {
            "negative": -jnp.abs(error),
            "shape": jnp.abs(error)[None],
            "least": jnp.abs(error) + 1,
            "stopped": jax.lax.stop_gradient(jnp.abs(error)),
            "falls": jnp.exp(-jnp.abs(error) / 1e5) - 0.5,
            "root": jnp.sqrt(error**2),
            "overflows": jnp.expm1(jnp.abs(error)),
        }.get(self.fault, jnp.abs(error))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("fits", "`fits` is 'number'; expected a tuple of what a head may predict, with 'number' in it"),
        ("negative", "the loss is negative or not finite; expected a distance, at least 0"),
        ("overflows", "the loss is negative or not finite; expected a distance, at least 0"),
        ("shape", r"the loss is float32\[1\]; expected a float32 scalar of one example"),
        ("least", "the loss of a prediction that is its target is 1; expected 0"),
        ("stopped", "no gradient reaches the prediction; do not stop it"),
        ("constant", "a gradient reaches the target, a constant; put jax.lax.stop_gradient around it"),
        ("falls", "the loss falls as the prediction leaves its target; turn its sign"),
        ("root", "where the prediction is its target the gradient is not finite; look for a root at 0"),
    ],
)
def test_a_fault_of_a_loss_is_named(fault: str, sentence: str):
    with pytest.raises(ContractFault, match=sentence):
        testing.check_loss(Loss(fault))


def test_a_loss_without_fault_passes():
    testing.check_loss(Loss("none"))


@dataclass(frozen=True)
class Learner(QLearner):
    """A Q-learner with a fault."""

    fault_of: str = "none"

    @property
    def rhythm(self) -> Any:
        return Rhythm(0, 40, 1) if self.fault_of == "rhythm" else super().rhythm

    def mind(self, state: Any) -> Any:
        mind = super().mind(state)
        return jax.tree.map(lambda leaf: leaf + 1, mind) if self.fault_of == "mind" else mind

    def act(self, mind: Any, actor: Any, seen: Any) -> Any:
        acted = super().act(mind, actor, seen)
        if self.fault_of == "acted":
            return tuple(acted)
        if self.fault_of == "action":
            return acted._replace(action=acted.action + 7)
        return acted._replace(actor=replace(acted.actor, steps=acted.actor.steps * 1.0)) if self.fault_of == "actor" \
            else acted  # fmt: skip

    def observe(self, state: Any, experience: Any) -> Any:
        if self.fault_of == "padding":
            experience = experience._replace(keep=jnp.ones_like(experience.keep))
        return super().observe(state, experience)

    def learn(self, state: Any) -> Any:
        state, metrics = super().learn(state)
        return state, metrics | ({"more": metrics["loss"]} if self.fault_of == "metrics" else {})

    def nbytes(self) -> Any:
        return {"replay": 1.5} if self.fault_of == "nbytes" else super().nbytes()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            "rhythm",
            r"the rhythm is Rhythm\(acts=0, first=40, lag=1\); expected a Rhythm with acts >= 1, first >= 0 and lag",
        ),
        ("mind", "the mind's 'network.encoder.mlp.layers.0.weight' is no leaf of the state; take the state's own"),
        ("acted", "`act` gave a tuple without 'actor'; expected an Acted"),
        ("action", r"`act` gave actions \[.*\]; expected allowed ones of 3"),
        ("padding", "padding, where `keep` is False, left a trace: '.*' is .* apart"),
        ("metrics", r"`learn` reports \['loss', 'more', 'q_mean'\], and `metrics` says \['loss', 'q_mean'\]"),
        ("nbytes", "`nbytes` is no JSON values by name; use int"),
    ],
)
def test_a_fault_of_an_agent_is_named(fault: str, sentence: str):
    small = {"replay.capacity": 100, "replay.start": 8, "replay.batch_size": 2, "encoder.widths": "8"}
    space = spaces.Box((2,))
    with pytest.raises(ContractFault, match=sentence):
        testing.check_agent(Learner(override_all(preset("dqn", space, 100), small), space, 3, fault_of=fault))


def test_what_is_no_agent_is_told_what_it_lacks():
    with pytest.raises(ContractFault, match="the agent has no 'space'; expected space, actions, envs, rhythm"):
        testing.check_agent(object())
