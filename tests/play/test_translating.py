"""Beams by hand, and what cannot be translated."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from engram.agents.policy import PolicyState
from engram.errors import SpecError
from engram.play.trained import TrainedAgent
from engram.play.translating import Beam, _grown, translate


def begun(beam: int, places: int) -> Beam:
    """Before the first token of one text; the policy keeps the number of the hypothesis."""
    shape = (1, beam)
    policy = PolicyState(jnp.arange(beam), None, jnp.zeros(beam, jnp.int32), None)
    total = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)[None]
    prefix = jnp.zeros((*shape, places), jnp.int16).at[..., 0].set(1)
    return Beam(policy, prefix, jnp.zeros((*shape, places), jnp.int32), total, jnp.zeros(shape, jnp.int32), total > 0)


def test_a_beam_finds_what_one_hypothesis_misses():
    """First 2 is likelier than 1, but what follows 1 is sure: (0.6, 0.4) then (0.5, 0.5) or (1, 0)."""
    first = jnp.log(jnp.array([1e-9, 0.4, 0.6]))
    then = {1: jnp.log(jnp.array([1.0, 1e-9, 1e-9])), 2: jnp.log(jnp.array([0.5, 0.25, 0.25]))}
    found = {}
    for beam in (1, 2):
        held = _grown(begun(beam, 3), jnp.broadcast_to(first, (1, beam, 3)), jnp.int32(0))
        held = _grown(held, jnp.stack([then[int(token)] for token in held.tokens[0, :, 0]])[None], jnp.int32(1))
        best = int((held.total / held.size)[0].argmax())
        found[beam] = held.tokens[0, best].tolist(), bool(held.over[0, best]), held
    assert found[1][:2] == ([2, 0, 0], True)
    assert found[2][:2] == ([1, 0, 0], True)
    held = found[2][2]
    assert held.prefix[0, 0].tolist() == [1, 2, 1]  # END, then token 1, newest first, as symbols
    stays = _grown(held, jnp.full((1, 2, 3), -5.0), jnp.int32(2))
    np.testing.assert_allclose(stays.total.max(), held.total.max())  # what is over costs nothing more
    assert stays.size.tolist() == [[2, 2]]


def test_hypotheses_keep_their_own_policy_and_what_they_did():
    held = begun(2, 2)._replace(total=jnp.zeros((1, 2)))
    logs = jnp.log(jnp.array([[[0.1, 0.8, 0.1], [0.01, 0.04, 0.95]]]))
    after = _grown(held, logs, jnp.int32(0))
    assert after.policy.frames.tolist() == [1, 0]  # the second hypothesis came first
    assert after.policy.action is not None
    assert after.policy.action.tolist() == [2, 1]


def test_an_agent_of_another_environment_is_refused():
    agent = object.__new__(TrainedAgent)
    agent.plan = SimpleNamespace(env="CartPole-v1")  # type: ignore[assignment]
    with pytest.raises(SpecError, match="this agent learned CartPole-v1"):
        translate(agent, ["the dog"])
