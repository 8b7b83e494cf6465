"""`welcome`: modules with functions, numbers and switches among their leaves become parts with learned leaves only."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.kinds import own

from engram import registry
from engram.agents import presets  # noqa: F401, registers every part
from engram.errors import SpecError
from engram.nn.welcome import built, is_learned, welcome
from engram.spaces import Box, Dict, Text
from engram.trees import named

KEY, OTHER = jax.random.PRNGKey(0), jax.random.PRNGKey(1)


class Mixed(eqx.Module):
    """A part of another library's modules, with a leaf of every kind that is not learned."""

    mlp: eqx.nn.MLP
    drop: eqx.nn.Dropout
    nothing: None
    order: jax.Array
    table: np.ndarray
    scale: float
    shrink: Any
    double: Any
    width: int = eqx.field(static=True, default=3)

    def __init__(self, key: jax.Array, by: float = 2.0, order: tuple[int, ...] = (1, 0)):
        self.mlp = eqx.nn.MLP(2, 3, 8, 2, key=key)
        self.drop = eqx.nn.Dropout(0.5, inference=True)
        self.nothing = None
        self.order = jnp.array(order)
        self.table = np.ones(3, np.float32)
        self.scale = by
        self.shrink = partial(jnp.clip, max=0.5)
        self.double = lambda x: by * x

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.double(self.shrink(self.drop(self.mlp(x[self.order]))) * self.table) + self.scale

    def step(self, x: jax.Array) -> jax.Array:
        """A method that is not a call."""
        return self(x) + self.order.at[0].add(1)[0]


def test_what_has_only_learned_leaves_is_given_back_itself():
    linear = eqx.nn.Linear(2, 3, key=KEY)
    assert welcome(linear) is linear
    assert built(lambda key: linear, KEY) is linear


WITHIN = {
    "vector": Box((4,)),
    "features": Box((4,)),
    "grid": Box((10, 10, 4), "bool"),
    "pixels": Box((84, 84), "uint8"),
    "spatial": Box((84, 84), "uint8"),
    "impala": Box((84, 84), "uint8"),
    "relational": Box((84, 84), "uint8"),
    "entities": Dict((("entities", Box((5, 7))), ("mask", Box((5,), "bool")))),
    "tokens": Text(8, 20),
}
GIVEN = {"working": (5,), "external": (6, 3, 0), "head": (6, 3)}
OWN = [(role, name) for role in ("encoder", *GIVEN) for name in own(role)]


@pytest.mark.parametrize(("role", "name"), OWN, ids=lambda word: word)
def test_engrams_own_parts_pass_through_unchanged(role: str, name: str):
    given = (WITHIN[name], 1) if role == "encoder" else GIVEN[role]
    passed = []

    def passes(key: jax.Array) -> None:
        part = registry.find(role, name)().build(*given, key=key)
        passed.append(all(map(is_learned, jax.tree.leaves(part))) and welcome(part) is part)

    jax.eval_shape(passes, KEY)  # computes nothing
    assert passed == [True]


def test_calls_methods_and_attributes_are_those_of_the_part():
    part, x = Mixed(KEY), jnp.array([0.3, -0.2])
    guest = welcome(part)
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(guest))
    np.testing.assert_array_equal(guest(x), part(x))
    np.testing.assert_array_equal(guest.step(x), part.step(x))
    assert (guest.width, guest.scale, hasattr(guest, "read")) == (3, 2.0, False)
    assert next(iter(named(guest))) == "learned.mlp.layers.0.weight"


def test_a_gradient_reaches_what_is_learned_and_nothing_else():
    x = jnp.array([0.3, -0.2])
    slope = jax.grad(lambda guest: guest(x).sum())(welcome(Mixed(KEY)))
    assert set(named(slope)) == {f"learned.mlp.layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")}
    assert any(np.any(leaf) for leaf in jax.tree.leaves(slope))


def test_a_program_for_one_serves_every_equal_one():
    first, second = welcome(Mixed(KEY)), welcome(Mixed(OTHER))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    traced = []

    @jax.jit
    def call(guest: Any, x: jax.Array) -> jax.Array:
        traced.append(1)
        return guest(x)

    call(first, jnp.ones(2)), call(second, jnp.ones(2))
    assert len(traced) == 1
    for other in (Mixed(KEY, by=3.0), Mixed(KEY, order=(0, 1))):
        assert jax.tree.structure(first) != jax.tree.structure(welcome(other))
        np.testing.assert_array_equal(call(welcome(other), jnp.ones(2)), other(jnp.ones(2)))
    assert len(traced) == 3


def test_it_is_built_in_a_compiled_program_as_outside_of_one():
    inside = jax.jit(partial(built, Mixed))(KEY)
    assert jax.tree.structure(inside) == jax.tree.structure(built(Mixed, KEY))
    seeds = jax.vmap(partial(built, Mixed))(jnp.stack([KEY, OTHER]))
    assert seeds.learned.mlp.layers[0].weight.shape == (2, 8, 2)
    assert jax.tree.structure(seeds) == jax.tree.structure(inside)


class Odd(eqx.Module):
    """A part with one leaf."""

    leaf: Any


def test_what_can_be_neither_learned_nor_constant_is_refused():
    with pytest.raises(SpecError, match=r"\.leaf of the part is a set, which cannot be compared by value; make it an"):
        welcome(Odd({1}))
    with pytest.raises(SpecError, match=r"\.leaf of the part is key<fry>; expected numbers known when it is built"):
        welcome(Odd(jax.random.key(0)))


def test_true_and_one_are_two_constants():
    structures = [jax.tree.structure(welcome(Odd(leaf))) for leaf in (True, 1, 1.0)]
    assert len(set(structures)) == 3
