"""Heads: what every one of them promises, and how the attention head treats actions."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import registry, specs
from engram.errors import SpaceError, SpecError
from engram.heads.attention import AttentionSpec
from engram.heads.head import scalar
from engram.heads.q import DuelingSpec, QSpec
from engram.heads.returns import CategoricalSpec, QuantileSpec
from engram.nn.attention import attend
from engram.registry import register

KEY = jax.random.PRNGKey(0)
WIDTH, ACTIONS, FEATURES = 6, 5, 3
STATE = jnp.linspace(-1, 1, WIDTH)
OFFERED = jax.random.normal(KEY, (ACTIONS, FEATURES))
ALLOWED = jnp.array([True, False, True, True, False])
SMALL = AttentionSpec(heads=1, action_width=4, hidden=7)
HEADS = [QSpec(), DuelingSpec(), DuelingSpec(width=4), AttentionSpec(), SMALL]
heads = pytest.mark.parametrize("spec", HEADS, ids=str)


@cache
def built(spec, offered=0):
    """A head with random parameters, made once for all tests; by NumPy, for that compiles nothing."""
    generator = np.random.default_rng(0)

    def drawn(leaf):
        return jnp.asarray(generator.standard_normal(leaf.shape) * leaf.shape[-1] ** -0.5, leaf.dtype)

    return jax.tree.map(drawn, jax.eval_shape(lambda: spec.build(WIDTH, ACTIONS, KEY, offered)))


@jax.jit
def run(head, state, offered=None, allowed=None):
    """What the head gives: compiled once for all tests that ask the same head."""
    return head(state, offered, allowed)


def same(a, b, tolerance=1e-5):
    """Equal to float32, for values of order 1 whose sums run in another order."""
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@heads
@pytest.mark.parametrize("allowed", [None, ALLOWED], ids=["all", "some"])
def test_a_head_gives_a_distribution_for_each_action_and_its_attention(spec, allowed):
    returns = run(built(spec), STATE, None, allowed)
    assert returns.q.shape == (ACTIONS,)
    assert np.isfinite(returns.q).all()
    same(returns.probabilities.sum(-1), np.ones(ACTIONS))
    count = spec.heads if isinstance(spec, AttentionSpec) else 0
    assert returns.attention.shape == (count, ACTIONS)
    same(returns.attention.sum(-1), np.ones(count))


@heads
def test_a_head_takes_actions_on_offer(spec):
    returns = run(built(spec, FEATURES), STATE, OFFERED, ALLOWED)
    assert returns.q.shape == (ACTIONS,)


@heads
@pytest.mark.parametrize("offered", [None, OFFERED], ids=["fixed", "offered"])
def test_all_that_a_head_holds_is_learned(spec, offered):
    head = built(spec, 0 if offered is None else FEATURES)
    assert {leaf.dtype for leaf in jax.tree.leaves(head)} == {jnp.dtype("float32")}
    states = jax.random.normal(KEY, (8, WIDTH))
    gradient = jax.vmap(jax.grad(lambda h, s: (run(h, s, offered).q ** 2).sum()), (None, 0))(head, states)
    for slope in jax.tree.leaves(gradient):
        assert np.isfinite(slope).all()
        assert np.abs(slope).max() > 0


@heads
def test_a_head_is_found_by_its_name_and_its_spec_survives_json(spec):
    assert registry.find("head", registry.name_of("head", type(spec))) is type(spec)
    assert specs.from_json(type(spec), specs.to_json(spec)) == spec


@heads
def test_a_batch_is_each_state_alone(spec):
    states = np.linspace(-1, 1, 3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)
    batch = jax.vmap(run, (None, 0))(built(spec), states)
    for index, state in enumerate(states):
        jax.tree.map(lambda a, b, i=index: same(a[i], b), batch, run(built(spec), state))


def test_a_scalar_has_one_atom_and_no_heads_unless_they_are_given():
    assert scalar(jnp.zeros(4)).attention.shape == (0, 4)
    weights = jnp.full((2, 4), 0.25)
    np.testing.assert_array_equal(scalar(jnp.zeros(4), weights).attention, weights)


@pytest.mark.parametrize("offered", [0, FEATURES], ids=["fixed", "offered"])
def test_the_attention_head_is_what_its_docstring_says(offered):
    head = built(SMALL, offered)
    returns = run(head, STATE, OFFERED if offered else None, ALLOWED)
    if offered:
        first, last = head.embed
        features = jnp.where(ALLOWED[:, None], OFFERED, 0)
        actions = jnp.stack([last(first(row)) for row in features])
    else:
        actions = head.table
    keys, values = jnp.split(jnp.stack([head.attention.key_value(row) for row in actions]), 2, axis=1)
    weights = attend(keys @ head.attention.query(STATE) / np.sqrt(4), ALLOWED)
    context = head.attention.output(weights @ values)
    out = head.output(head.joint(jnp.concatenate([STATE, context])))
    same(returns.attention[0], weights)
    same(returns.q, out[0] + actions @ out[1:] / np.sqrt(4))


def test_q_follows_an_action_on_offer_wherever_it_stands():
    head = built(AttentionSpec(), FEATURES)
    order = np.array([3, 1, 4, 0, 2])
    before, after = run(head, STATE, OFFERED, ALLOWED), run(head, STATE, OFFERED[order], ALLOWED[order])
    same(after.q, before.q[order])
    same(after.attention, before.attention[:, order])
    assert np.ptp(before.q) > 1e-3  # they are not all the same anyway


def test_equal_actions_have_equal_q_and_any_number_can_be_on_offer():
    head = built(AttentionSpec(), FEATURES)
    more = jnp.concatenate([OFFERED, OFFERED])
    returns = run(head, STATE, more)
    assert returns.q.shape == (2 * ACTIONS,)
    same(returns.q[:ACTIONS], returns.q[ACTIONS:])
    same(returns.q[:ACTIONS], run(head, STATE, OFFERED).q)  # every weight is halved, so what is read stays


@pytest.mark.parametrize("ghost", [7.0, 1e30, np.nan])
def test_a_forbidden_action_has_weight_0_and_no_influence_on_the_others(ghost):
    head = built(AttentionSpec(), FEATURES)

    @partial(jax.value_and_grad, argnums=(0, 1))
    def loss(head, offered):
        return (jnp.where(ALLOWED, run(head, STATE, offered, ALLOWED).q, 0) ** 2).sum()

    haunted = jnp.where(ALLOWED[:, None], OFFERED, ghost)
    results = [loss(head, offered) for offered in (OFFERED, haunted)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    np.testing.assert_array_equal(results[0][1][1][~ALLOWED], 0)
    np.testing.assert_array_equal(run(head, STATE, haunted, ALLOWED).attention[:, ~ALLOWED], 0)


def test_a_forbidden_action_of_a_fixed_set_learns_nothing_from_the_others():
    head = built(AttentionSpec())
    gradient = jax.grad(lambda h: (jnp.where(ALLOWED, run(h, STATE, None, ALLOWED).q, 0) ** 2).sum())(head)
    np.testing.assert_array_equal(gradient.table[~ALLOWED], 0)
    assert (gradient.table[ALLOWED] != 0).any(-1).all()


def test_where_every_action_is_forbidden_all_stays_finite():
    head = built(AttentionSpec(), FEATURES)
    nothing = jnp.zeros(ACTIONS, bool)
    returns = run(head, STATE, OFFERED, nothing)
    np.testing.assert_array_equal(returns.attention, np.zeros((4, ACTIONS)))
    gradient = jax.grad(lambda h: (run(h, STATE, OFFERED, nothing).q ** 2).sum())(head)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((returns, gradient)))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(AttentionSpec)])
def test_every_setting_of_the_attention_head_changes_something(name):
    value = {"action_width": 8, "heads": 2, "hidden": 16, "uniform": True, "returns": QuantileSpec(quantiles=3)}[name]
    q = [run(built(spec), STATE).q for spec in (AttentionSpec(), AttentionSpec(**{name: value}))]
    assert not np.allclose(*q)


def test_the_uniform_control_weighs_allowed_actions_the_same():
    returns = run(built(AttentionSpec(uniform=True)), STATE, None, ALLOWED)
    same(returns.attention, np.broadcast_to(np.asarray(ALLOWED) / 3, (4, ACTIONS)))


def test_what_the_attention_head_cannot_use_is_refused():
    with pytest.raises(SpecError, match="head.heads = 3 does not divide head.action_width = 64"):
        AttentionSpec(heads=3)
    with pytest.raises(SpaceError, match="built for actions of 3 features, but none were given; pass the"):
        built(AttentionSpec(), FEATURES)(STATE)
    with pytest.raises(SpaceError, match="built for a fixed set of actions, but 3 features of each were given"):
        built(AttentionSpec())(STATE, OFFERED)


@pytest.mark.parametrize("role", ["head", "returns"])
def test_a_part_of_a_users_own_need_not_tell_limits(role: str):
    before = registry.snapshot()
    try:
        mine = register(role, "mine-without-limits")(type("Mine", (), {"predicts": "fixed"}))
    finally:
        registry.restore(before)
    assert mine.limits is None
    assert (
        CategoricalSpec(low=-3, high=4).limits == DuelingSpec(returns=CategoricalSpec(low=-3, high=4)).limits == (-3, 4)
    )
