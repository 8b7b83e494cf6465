"""Observations as numbers of the network: scaled in one place by their bounds, in every encoder alike."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import registry, spaces
from engram.agents.presets import preset
from engram.nn.observation import flatten, offered_of, scaled
from engram.runners.numpy_program import numpy_program
from engram.spaces import Box, Dict

KEY = jax.random.PRNGKey(0)


def test_bytes_of_images_are_multiplied_by_one_255th_and_nothing_else():
    """To the bit as `x * (1 / 255)`, which it was when the dtype decided."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = jnp.asarray(image).astype(jnp.float32) * (1 / 255)
    np.testing.assert_array_equal(scaled(Box((16, 16), "uint8"), jnp.asarray(image)), expected)


def test_numbers_without_finite_bounds_are_taken_as_they_are():
    x = jnp.array([3e7, -2.0, 0.5])
    np.testing.assert_array_equal(scaled(Box((3,)), x), x)
    np.testing.assert_array_equal(scaled(Box((3,), "int16"), jnp.array([3, 4, 5], jnp.int16)), [3, 4, 5])


def test_bounds_become_one_and_zero_stays_zero():
    around, apart = Box((3,), low=-100, high=50), Box((3,), low=1000, high=1010)
    np.testing.assert_allclose(scaled(around, jnp.array([-100.0, 0.0, 50.0])), [-1, 0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(scaled(apart, jnp.array([1000.0, 1010.0, 0.0])), [-1, 1, 0], rtol=1e-6)
    mixed = Box((2,), low=(0.0, None), high=(200.0, None))
    np.testing.assert_allclose(scaled(mixed, jnp.array([[100.0, 7.0]] * 3)), [[0.5, 7.0]] * 3)


ROWS, BOARD, IMAGE = (4, 3), (6, 6, 2), (40, 40)
# Every encoder that reads numbers, with a space that it reads: low and high of 0..1000 as against 0..1.
READERS: dict[str, Callable[[float], spaces.Space]] = {
    "vector": lambda high: Box((3,), low=0, high=high),
    "features": lambda high: Box((3,), low=0, high=high),
    "entities": lambda high: Box(ROWS, low=0, high=high),
    "entities with a mask": lambda high: Dict((("entities", Box(ROWS, low=0, high=high)), ("mask", Box((4,), "bool")))),
    "grid": lambda high: Box(BOARD, low=0, high=high),
    "pixels": lambda high: Box(IMAGE, low=0, high=high),
    "spatial": lambda high: Box(IMAGE, low=0, high=high),
    "relational": lambda high: Box(IMAGE, low=0, high=high),
}


@pytest.mark.parametrize("name", READERS)
def test_every_encoder_scales_by_the_bounds(name: str):
    kind = registry.find("encoder", name.split(" ")[0])
    large, small = (kind().build(READERS[name](high), 1, KEY) for high in (1000, 1))
    seen = []
    for high in (1000, 1):
        parts = [
            jnp.ones((1, *leaf.shape), bool)
            if leaf.dtype == "bool"
            else high * jax.random.uniform(KEY, (1, *leaf.shape))
            for _, leaf in spaces.leaves(READERS[name](high))
        ]
        seen.append(jax.tree.unflatten(jax.tree.structure(spaces.zeros(READERS[name](high))), parts))
    np.testing.assert_allclose(large(seen[0]).embedding, small(seen[1]).embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32"])
@pytest.mark.parametrize("high", [1, 4, 100])
def test_small_codes_are_the_same_numbers_in_every_dtype(dtype: str, high: int):
    codes = np.arange(high + 1)
    box = Box((high + 1,), dtype, 0, high)
    expected = codes if high < 32 else codes / high
    np.testing.assert_allclose(flatten(box, jnp.asarray(codes.astype(dtype))), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "box", [Box((3,), low=0, high=1000), Box((3,), low=1000, high=1010), Box((3,), "uint8", 0, 255)]
)
def test_the_actor_in_numpy_scales_alike(box: Box):
    spec = preset("dqn", box, 1000).encoder
    encoder = spec.build(box, 1, KEY)
    low = box.low or 0
    x = np.array([[[low, low + 3, low + 10]], [[low + 1, low + 2, low + 9]]], box.dtype)

    def embed(encoder: Any, x: Any) -> Any:
        return jax.vmap(encoder)(x).embedding

    program = numpy_program(embed, encoder, x)
    assert program is not None
    program.load([np.asarray(leaf) for leaf in jax.tree.leaves(encoder)])
    np.testing.assert_allclose(program(x), embed(encoder, x), rtol=1e-5, atol=1e-6)


def test_features_of_offered_actions_are_scaled_too():
    space = Dict((("offered", Box((2, 3), low=0, high=500)), ("x", Box((1,)))))
    told = offered_of(space, {"offered": jnp.full((2, 3), 250.0), "x": jnp.zeros(1)}, 2)
    np.testing.assert_allclose(told, np.full((2, 3), 0.5))


def test_an_entity_at_the_lower_bound_is_there_all_the_same():
    """Rows of the smallest numbers are scaled to -1, rows of zeros are no entities."""
    encoder = registry.find("encoder", "entities")().build(Box((3, 2), low=100, high=300), 1, KEY)
    rows = jnp.array([[[200.0, 200.0], [100.0, 100.0], [0.0, 0.0]]])
    weights = encoder(rows).attention
    assert (np.asarray(weights[:, 1]) > 0).all()
    np.testing.assert_array_equal(weights[:, 2], 0)


def test_very_many_categories_are_told_by_their_digits():
    space = spaces.Discrete(300_000)
    flat = np.asarray(flatten(space, jnp.int32(37_001)))
    assert flat.shape == (spaces.features(space),)
    assert np.flatnonzero(flat).tolist() == [37_001 % 548, 548 + 37_001 // 548]


@pytest.mark.parametrize("space", [spaces.Discrete(300_000), spaces.MultiDiscrete((3, 300_000, 3))])
def test_tokens_of_very_many_categories_are_sums_of_few_rows(space: spaces.Space):
    encoder = registry.find("encoder", "tokens")().build(space, 1, KEY)
    assert encoder.tokenizer.table.shape[0] <= 3 + 2 * 548
    values = [5, 548 * 3 + 5, 299_999] if space == spaces.Discrete(300_000) else [[0, 5, 0], [0, 553, 0], [2, 5, 0]]
    tokens = [np.asarray(encoder.tokenizer(jnp.asarray([value], jnp.int32))[0]) for value in values]
    assert all(np.abs(a - b).max() > 0 for i, a in enumerate(tokens) for b in tokens[:i])
    if space == spaces.Discrete(300_000):
        table, identity = encoder.tokenizer.table, encoder.tokenizer.identity[0]
        np.testing.assert_allclose(tokens[1], table[5] + table[548 + 3] + identity[0][None], rtol=1e-6)
