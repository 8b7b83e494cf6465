"""The conservative term in closed form, its gradient, and which rows have it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import specs
from engram.agents.examples import Start, held_down
from engram.agents.presets import preset
from engram.errors import SpecError
from engram.losses.conservative import conservative
from engram.losses.margin import large_margin
from engram.losses.returns import NStep
from engram.spaces import Box

Q = jnp.array([1.0, 3.0, -2.0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_it_is_the_formula_and_its_gradient_is_softmax_less_the_action(temperature: float):
    powers = np.exp(np.array([1.0, 3.0, -2.0]) / temperature)
    found, slope = jax.value_and_grad(conservative)(Q, None, jnp.int32(0), temperature)
    np.testing.assert_allclose(found, temperature * np.log(powers.sum()) - 1.0, rtol=1e-6)
    np.testing.assert_allclose(slope, powers / powers.sum() - [1.0, 0.0, 0.0], atol=1e-6)


def test_equal_values_cost_the_logarithm_of_their_number_and_one_alone_nothing():
    np.testing.assert_allclose(conservative(jnp.full(8, 5.0), None, jnp.int32(3), 0.1), 0.1 * np.log(8), rtol=1e-5)
    only = jnp.array([False, False, True])
    np.testing.assert_allclose(conservative(Q, only, jnp.int32(2), 1.0), 0.0, atol=1e-6)


def test_what_is_forbidden_does_not_count_but_what_was_done_does():
    allowed = jnp.array([True, False, True])
    np.testing.assert_allclose(conservative(Q, allowed, jnp.int32(0), 1.0), np.log(1 + np.exp(-3)), rtol=1e-5)
    np.testing.assert_allclose(conservative(Q, allowed, jnp.int32(1), 1.0), conservative(Q, None, jnp.int32(1), 1.0))
    slope = jax.grad(conservative)(Q, allowed, jnp.int32(0), 1.0)
    assert slope[1] == 0
    assert np.isfinite(slope).all()


def test_cold_it_is_the_margin_loss_without_a_margin():
    np.testing.assert_allclose(
        conservative(Q, None, jnp.int32(0), 1e-3), large_margin(Q, None, jnp.int32(0), 0.0), atol=1e-5
    )


def test_demonstrations_alone_need_some():
    spec = preset("dqn", Box((3,)), 100)
    with pytest.raises(SpecError, match="set demos.ratio=0.25, or conservative.on=all"):
        specs.override_all(spec, {"conservative.weight": 1.0, "conservative.on": "demonstrations"})
    both = {"conservative.weight": 1.0, "conservative.on": "demonstrations", "demos.ratio": 0.25}
    assert specs.override_all(spec, both).marks_demonstrations


def test_where_no_demonstrations_are_kept_none_are_held_down():
    """As where a learner is made by hand without them: then nobody marks rows."""
    step = NStep(jnp.zeros(()), jnp.ones(()), jnp.int32(1))
    start = Start(jnp.int32(0), step, jnp.ones(()))
    some = {"conservative.weight": 1.0, "conservative.on": "demonstrations", "demos.ratio": 0.25}
    spec: Any = specs.override_all(preset("dqn", Box((3,)), 100), some)
    of_all = specs.override(spec, "conservative.on", "all")
    assert float(held_down(spec, Q, None, start)) == 0.0
    assert float(held_down(spec, Q, None, start._replace(shown=jnp.ones(())))) > 1.0
    assert float(held_down(of_all, Q, None, start)) > 1.0
