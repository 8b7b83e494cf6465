"""`head=decoupled` (DecQN): values, targets and gradients worked by hand, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import specs
from engram.agents.network import Network, build
from engram.agents.spec import AgentSpec
from engram.errors import SpaceError, SpecError
from engram.exploration.exploration import any_of
from engram.heads.decoupled import DecoupledHead, DecoupledSpec
from engram.losses.bootstrap import Following, PlainSpec
from engram.losses.regression import SquaredSpec
from engram.losses.returns import NStep
from engram.spaces import Box
from engram.types import Decision, Distribution, Encoding, MemoryRead, Returns, digits, numbered

KEY = jax.random.PRNGKey(0)
SIZES = (2, 3)  # of a number of 2 values and one of 3
Q = jnp.array([1.0, 3.0, 0.0, 5.0, 2.0])  # 1, 3 of the first; 0, 5, 2 of the second


def returns(q: jax.Array, sizes: tuple[int, ...] = SIZES) -> Returns:
    return Returns(q[:, None], jnp.zeros((q.size, 1)), jnp.zeros((0, q.size)), sizes=sizes)


def decision(q: jax.Array) -> Decision:
    none = MemoryRead(jnp.zeros(1), jnp.zeros((0, 1, 0)), jnp.zeros((0, 1, 0), jnp.int32))
    return Decision(Encoding(jnp.zeros(1), jnp.zeros((0, 0))), none, returns(q), None)


@given(st.lists(st.integers(2, 5), min_size=1, max_size=5), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_actions_are_numbered_as_in_a_grid_of_numpy(sizes: list[int], number: int):
    action = number % int(np.prod(sizes))
    told = digits(jnp.int32(action), tuple(sizes))
    assert told.tolist() == [int(one) for one in np.unravel_index(action, sizes)]
    assert int(numbered(told, tuple(sizes))) == action


def test_an_action_is_worth_the_mean_of_its_numbers_and_the_best_has_the_best_of_each():
    told = returns(Q)
    worth = [float(told.of(jnp.int32(action)).mean) for action in range(6)]
    assert worth == [0.5, 3.0, 1.5, 1.5, 4.0, 2.5]
    assert (int(told.best(Q)), float(told.most(Q))) == (4, 4.0)
    assert int(decision(Q).best) == 4
    assert float(decision(Q).value) == 4.0


def test_each_whole_action_has_a_preference_to_be_told():
    """The mean over its numbers': what `of` gives one by one, and the largest of it is what `most` is."""
    told = decision(jnp.stack([Q, Q[::-1]])[0])
    assert told.of_actions.tolist() == [float(returns(Q).of(jnp.int32(action)).mean) for action in range(6)]
    assert float(told.of_actions.max()) == float(told.value)
    assert returns(Q, ()).whole(Q).tolist() == Q.tolist()


def test_the_target_is_worked_by_hand():
    """The online Q prefers (0, 2), which the target network says is worth (1 + 2)/2: 1 + 0.5 * 1.5."""
    step = NStep(jnp.float32(1.0), jnp.float32(0.5), jnp.int32(1))
    selector = jnp.array([2.0, 1.0, 0.0, 0.0, 9.0])
    assert float(PlainSpec()(step, Following(returns(Q), selector)).mean) == 1.75
    assert float(PlainSpec()(step, Following(returns(Q), Q)).mean) == 1 + 0.5 * 4.0


def test_the_gradient_reaches_the_chosen_values_alone_and_each_gets_its_share():
    """Half the squared error of (1, 0), worth 1.5, to 2.5: -1 in all, half of it for each of two numbers."""
    target = Distribution(jnp.array([2.5]), jnp.ones(1))

    def loss(q: jax.Array) -> jax.Array:
        return SquaredSpec()(returns(q).of(jnp.int32(3)), target)

    np.testing.assert_allclose(loss(Q), 0.5)
    np.testing.assert_allclose(jax.grad(loss)(Q), [0, -0.5, -0.5, 0, 0])


def test_exploring_reaches_every_joint_action():
    words = jnp.arange(60, dtype=jnp.uint32)
    found = jax.vmap(lambda word: any_of(decision(Q), word))(words)
    assert np.bincount(np.asarray(found), minlength=6).tolist() == [10] * 6


def test_a_memory_is_shown_each_number_of_the_action_before():
    network = Network(None, None, None, None, Box((2,)), 6, sizes=SIZES)
    assert network._one_hot(jnp.int32(5)).tolist() == [0, 1, 0, 0, 1]


def test_it_finds_the_best_value_of_each_number():
    """Each joint action of two dials is paid minus their distances from 1 and 3; the mean is fitted to it exactly."""
    head = DecoupledSpec(sizes=(3, 4)).build(1, 12, KEY)
    first, second = digits(jnp.arange(12), (3, 4)).T
    paid = -(jnp.abs(first - 1) + jnp.abs(second - 3)).astype(jnp.float32)

    def worth(head: DecoupledHead) -> jax.Array:
        told = head(jnp.ones(1))
        return jax.vmap(lambda action: told.of(action).mean)(jnp.arange(12))

    @jax.jit
    def fitted(head: DecoupledHead) -> DecoupledHead:
        slope = jax.grad(lambda head: ((worth(head) - paid) ** 2).mean())
        return jax.lax.fori_loop(0, 500, lambda _, head: jax.tree.map(lambda p, g: p - g, head, slope(head)), head)

    found = fitted(head)
    np.testing.assert_allclose(worth(found), paid, atol=1e-3)
    told = found(jnp.ones(1))
    assert int(told.best(told.q)) == 7


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"exploration": "boltzmann"}, "exploration=boltzmann is about whole actions, which head=decoupled"),
        ({"bootstrap": "actions"}, "bootstrap=actions weighs whole actions, which head=decoupled has no values of"),
        ({"external": "episodic"}, "external=episodic is about whole actions"),
        ({"reward.rescale": True}, "reward.rescale = true is about whole actions"),
        ({"demos.ratio": 0.25, "demos.margin_weight": 1.0}, "demos.margin_weight = 1.0 compares whole actions"),
        ({"head.sizes": (1, 3)}, "each number of an action needs at least 2 values"),
    ],
)
def test_what_needs_values_of_whole_actions_is_refused(changes, sentence):
    with pytest.raises(SpecError, match=sentence):
        specs.override_all(AgentSpec(head=DecoupledSpec()), changes)


def test_sizes_that_are_not_the_environments_are_refused():
    with pytest.raises(SpecError, match=r"head.sizes = 2,3 are 6 joint actions, but the environment has 12; leave"):
        build(AgentSpec(head=DecoupledSpec(sizes=SIZES)), Box((2,)), 12, KEY)
    from engram.envs.host.actions import check_few_of

    with pytest.raises(SpaceError, match=r"3 x 3 x 3 x 3 x 3 x 3 x 3 = 2,187 joint actions; .* or head=decoupled"):
        check_few_of((3,) * 7)
