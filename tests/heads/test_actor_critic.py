"""`actor-critic`: a policy over the actions and one value, of one embedding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.errors import SpecError
from engram.heads.actor_critic import START, ActorCriticSpec
from engram.heads.attention import AttentionSpec
from engram.heads.q import DuelingSpec, QSpec
from engram.heads.returns import CategoricalSpec, ImplicitSpec, QuantileSpec
from engram.heads.twin import TwinSpec
from engram.testing import check_head

KEY = jax.random.PRNGKey(3)
STATE = jnp.linspace(-1, 1, 6)
ATTENTION = AttentionSpec(heads=1, action_width=4, hidden=7)
KINDS = {
    "plain": (ActorCriticSpec(), 0),
    "layers and noise": (ActorCriticSpec(policy=DuelingSpec(width=4, noise=0.5), width=4), 0),
    "drawn quantiles": (ActorCriticSpec(policy=QSpec(noise=0.5), returns=ImplicitSpec(samples=3, cosines=4)), 0),
    "offered actions": (ActorCriticSpec(policy=ATTENTION, returns=QuantileSpec(quantiles=3)), 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_contract_of_heads(kind: str):
    spec, offered = KINDS[kind]
    check_head(spec.build(6, 5, KEY, offered), 6, 5, spec=spec, offered=offered)


def test_the_return_is_the_same_for_every_action_and_logits_are_a_tenth_of_what_its_policy_gives():
    head = ActorCriticSpec(policy=DuelingSpec(), returns=QuantileSpec(quantiles=3)).build(6, 5, KEY)
    found = head(STATE)
    np.testing.assert_array_equal(found.atoms, np.broadcast_to(found.atoms[:1], (5, 3)))
    np.testing.assert_allclose(found.policy, START * head.policy(STATE).q, rtol=1e-6)
    assert np.ptp(found.policy) > 0


def test_it_says_what_its_returns_do():
    spec = ActorCriticSpec(returns=CategoricalSpec(low=-2, high=3))
    assert (spec.predicts, spec.limits, spec.has_policy, spec.has_twins) == ("fixed", (-2, 3), True, False)


@pytest.mark.parametrize(("name", "policy"), [("actor-critic", ActorCriticSpec()), ("twin", TwinSpec())])
def test_a_policy_of_a_policy_is_refused(name, policy):
    """The Q of `actor-critic` is the same for every action: a policy of that would stay uniform for ever."""
    with pytest.raises(SpecError, match=f"^head.policy={name} has a policy of its own; set head.policy=q"):
        ActorCriticSpec(policy=policy)
