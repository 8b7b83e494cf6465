"""`twin`: a policy and two estimates of one embedding, and where their gradients go."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.errors import SpecError
from engram.heads.actor_critic import ActorCriticSpec
from engram.heads.attention import AttentionSpec
from engram.heads.q import DuelingSpec, QSpec
from engram.heads.returns import QuantileSpec
from engram.heads.twin import TwinSpec
from engram.testing import check_head

KEY = jax.random.PRNGKey(3)
STATE = jnp.linspace(-1, 1, 6)
ATTENTION = AttentionSpec(heads=1, action_width=4, hidden=7)
PLAIN = TwinSpec()
OFFERING = TwinSpec(policy=ATTENTION, q=ATTENTION)


@pytest.mark.parametrize(
    ("spec", "offered"), [(PLAIN, 0), (TwinSpec(policy=DuelingSpec(width=4), q=QSpec(noise=0.5)), 0), (OFFERING, 3)]
)
def test_it_keeps_the_contract_of_heads_and_only_a_loss_moves_its_temperature(spec: TwinSpec, offered: int):
    head = spec.build(6, 5, KEY, offered)
    check_head(head, 6, 5, spec=spec, offered=offered, unreached=("log_temperature",))


@pytest.mark.parametrize(("join", "joined"), [("least", np.min), ("mean", np.mean)])
def test_q_is_the_least_or_the_mean_of_two_estimates_that_differ(join: str, joined):
    found = TwinSpec(join=join).build(6, 5, KEY)(STATE)
    assert found.twins.shape == (2, 5)
    assert np.abs(found.twins[0] - found.twins[1]).min() > 1e-3
    np.testing.assert_allclose(found.q, joined(np.asarray(found.twins), axis=0), rtol=1e-6)


@pytest.mark.parametrize("through", [False, True])
def test_the_policy_reaches_the_embedding_only_where_a_setting_says_so(through: bool):
    head = TwinSpec(train_through_policy=through).build(6, 5, KEY)
    of_policy, of_q = (jax.grad(lambda seen, one=one: one(head(seen))[0])(STATE) for one in (
        lambda returns: returns.policy, lambda returns: returns.q
    ))  # fmt: skip
    assert bool((of_policy != 0).any()) is through
    assert (of_q != 0).any()


def test_what_it_predicts_is_no_setting():
    assert PLAIN.predicts == "number"
    assert "predicts" not in {field.name for field in fields(TwinSpec)}


def test_the_temperature_begins_at_its_setting():
    np.testing.assert_allclose(jnp.exp(TwinSpec(temperature=0.2).build(6, 5, KEY).log_temperature), 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"q": QSpec(returns=QuantileSpec())}, "head.q gives one number for each action, but head.q.returns gives a"),
        (
            {"policy": ActorCriticSpec()},
            "head.policy=actor-critic has a policy of its own; set head.policy=q, dueling or",
        ),
        ({"q": PLAIN}, "head.q=twin has a policy of its own; set head.q=q, dueling or attention"),
        ({"temperature": 0.0}, "temperature = 0.0 is out of range; expected more than 0"),
    ],
)
def test_what_it_cannot_be_made_of_is_refused_in_a_sentence(settings: dict, sentence: str):
    with pytest.raises(SpecError, match=sentence):
        TwinSpec(**settings)
