"""Encoders: what every one of them promises, and what each attends to."""

import dataclasses
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import registry, spaces, specs
from engram.encoders.entities import EntitiesSpec
from engram.encoders.features import FeaturesSpec
from engram.encoders.pixels import GridSpec, PixelsSpec
from engram.encoders.spatial import RelationalSpec, SpatialSpec, coordinates, positions
from engram.encoders.tokens import Tokenizer, TokensSpec
from engram.encoders.vector import VectorSpec
from engram.errors import SpaceError, SpecError
from engram.nn.attention import attend
from engram.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple

KEY = jax.random.PRNGKey(0)
BOARD = Box((6, 7, 2), "bool")
IMAGE = Box((44, 52), "uint8")
MIXED = Dict((("card", Discrete(5)), ("speed", Box((2,))), ("word", Text(3, 9)), ("hands", MultiDiscrete((4, 4, 2)))))
SYMBOLS = Tuple((Discrete(5), Text(3, 9)))
CARS = Box((4, 3))
MASKED_CARS = Dict((("entities", Box((4, 3))), ("mask", Box((4,), "bool"))))

# spec, space, stack, heads, parts
CASES = {
    "vector": (VectorSpec(widths=(8,)), MIXED, 2, 0, 0),
    "pixels": (PixelsSpec(width=8), IMAGE, 2, 0, 0),
    "grid": (GridSpec(width=8), BOARD, 1, 0, 0),
    "features": (FeaturesSpec(), Box((5,)), 1, 8, 5),
    "features of anything, stacked": (FeaturesSpec(token_width=8, heads=2, width=6), MIXED, 2, 4, 18),
    "tokens": (TokensSpec(), SYMBOLS, 1, 8, 4),
    "tokens without a block, stacked": (TokensSpec(layers=0), MultiDiscrete((3, 3, 2)), 2, 4, 6),
    "spatial": (SpatialSpec(), IMAGE, 2, 4, 6),
    "spatial over a board": (SpatialSpec(trunk="grid", heads=3), BOARD, 2, 3, 20),
    "relational": (RelationalSpec(), IMAGE, 1, 4, 6),
    "relational over a board": (RelationalSpec(trunk="grid", layers=2), BOARD, 1, 8, 20),
    "entities": (EntitiesSpec(), CARS, 1, 2, 4),
    "entities with a mask, stacked": (EntitiesSpec(heads=4), MASKED_CARS, 2, 4, 8),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def observed(space, stack, seed=0):
    """A random observation of a space."""
    generator = np.random.default_rng(seed)

    def one(leaf):
        shape = (stack, *leaf.shape)
        if isinstance(leaf, Discrete):
            return generator.integers(leaf.n, size=shape).astype("int32")
        if isinstance(leaf, MultiDiscrete):
            return generator.integers(leaf.nvec, size=shape).astype("int32")
        if isinstance(leaf, Text):
            return generator.integers(1, leaf.symbols + 1, size=shape).astype("int16")
        if leaf.dtype == "float32":
            return generator.standard_normal(shape).astype("float32")
        return generator.integers(2 if leaf.dtype == "bool" else 256, size=shape).astype(leaf.dtype)

    return spaces.map_space(one, space)


def batch_of(space, stack, size):
    """The observations of the seeds 0 to size - 1."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(observed(space, stack, seed) for seed in range(size)))


@cache
def built(spec, space, stack=1):
    """An encoder with random parameters, made once for all tests; by NumPy, for that compiles nothing."""
    generator = np.random.default_rng(0)

    def drawn(leaf):
        return jnp.asarray(generator.standard_normal(leaf.shape) * leaf.shape[-1] ** -0.5, leaf.dtype)

    return jax.tree.map(drawn, jax.eval_shape(lambda: spec.build(space, stack, KEY)))


@jax.jit
def run(encoder, observation):
    """What the encoder gives: compiled once for all tests that ask the same encoder."""
    return encoder(observation)


@jax.jit
def learn(encoder, observation):
    """What the encoder gives, and the gradient of its embedding's square."""

    def loss(encoder):
        encoding = encoder(observation)
        return (encoding.embedding**2).sum(), encoding

    gradient, encoding = jax.grad(loss, has_aux=True)(encoder)
    return encoding, gradient


learn_batch = jax.jit(jax.vmap(learn, (None, 0)))


def same(a, b, tolerance=1e-5):
    """Equal to float32, for values of order 1 whose sums run in another order."""
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@cases
def test_an_encoder_gives_its_width_and_weights_over_its_parts(case):
    spec, space, stack, heads, parts = case
    encoder = built(spec, space, stack)
    encoding = run(encoder, observed(space, stack))
    assert encoding.embedding.shape == (encoder.width,)
    assert encoding.embedding.dtype == jnp.float32
    assert encoding.attention.shape == (heads, parts)
    assert (encoding.attention >= 0).all()
    same(encoding.attention.sum(-1), np.ones(heads))


@cases
def test_all_that_an_encoder_holds_is_learned(case):
    """Every leaf is a float array, and some observation gives it a gradient."""
    spec, space, stack, _, _ = case
    encoder = built(spec, space, stack)
    _, gradient = learn_batch(encoder, batch_of(space, stack, 8))
    for leaf, slope in zip(jax.tree.leaves(encoder), jax.tree.leaves(gradient), strict=True):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(slope).all()
        assert np.abs(slope).max() > 0


@cases
def test_a_batch_is_each_example_alone(case):
    spec, space, stack, _, _ = case
    encoder = built(spec, space, stack)
    batch, _ = learn_batch(encoder, batch_of(space, stack, 8))
    for index in range(8):
        alone = run(encoder, observed(space, stack, index))
        jax.tree.map(lambda a, b, i=index: same(a[i], b), batch, alone)


@cases
def test_an_encoder_is_found_by_its_name_and_its_spec_survives_json(case):
    spec = case[0]
    name = registry.name_of("encoder", type(spec))
    assert registry.find("encoder", name) is type(spec)
    assert specs.from_json(type(spec), specs.to_json(spec)) == spec


OTHER = {"width": 24, "token_width": 8, "heads": 2, "layers": 2, "uniform": True, "presence": 0}
# No image suits two trunks: see CASES. The others read what columns are called: see test_relative.py.
LEFT_OUT = ("trunk", "relative", "position", "velocity", "heading", "units")
SETTINGS = [
    (kind, name)
    for kind in ("features", "tokens", "spatial", "relational", "entities")
    for name in [field.name for field in dataclasses.fields(CASES[kind][0])]
    if name not in LEFT_OUT
]


@pytest.mark.parametrize(("kind", "name"), SETTINGS)
def test_every_setting_changes_something(kind, name):
    """The result's shape, its numbers, or who is attended."""
    spec, space, stack, _, _ = CASES[kind]
    heads = 4 if kind == "entities" else 2
    value = heads if name == "heads" else OTHER[name]
    observation = observed(space, stack)
    changed = dataclasses.replace(spec, **{name: value})
    encoders = [built(chosen, space, stack) for chosen in (spec, changed)]

    def shapes(encoder):
        return [leaf.shape for leaf in jax.tree.leaves((encoder, jax.eval_shape(encoder, observation)))]

    if shapes(encoders[0]) == shapes(encoders[1]):
        before, after = (run(encoder, observation).embedding for encoder in encoders)
        assert not np.allclose(before, after)


@pytest.mark.parametrize("kind", ["features", "tokens", "spatial", "relational", "entities"])
def test_the_uniform_control_weighs_all_parts_the_same_with_equal_parameters(kind):
    spec, space, stack, _, parts = CASES[kind]
    plain, control = (built(dataclasses.replace(spec, uniform=flag), space, stack) for flag in (False, True))
    assert [leaf.shape for leaf in jax.tree.leaves(plain)] == [leaf.shape for leaf in jax.tree.leaves(control)]
    attention = run(control, observed(space, stack)).attention
    same(attention, np.full(attention.shape, 1 / parts))


@pytest.mark.parametrize("spec", [FeaturesSpec, TokensSpec, RelationalSpec, EntitiesSpec])
def test_heads_that_do_not_divide_the_width_are_refused(spec):
    with pytest.raises(SpecError, match="encoder.heads = 3 does not divide encoder.token_width = 64"):
        spec(heads=3)


# Features and tokens.


def test_a_number_is_its_value_times_a_direction_plus_an_identity():
    tokenizer = Tokenizer(Box((2,)), 2, 3, key=KEY)
    tokens, known = tokenizer(jnp.array([[0.0, 0.0], [2.0, -1.0]]))
    assert known is None
    same(tokens[:2], tokenizer.identity[0])
    same(tokens[2:], tokenizer.identity[1] + jnp.array([[2.0], [-1.0]]) * tokenizer.directions)


def test_bytes_are_read_as_0_to_1():
    tokenizer = Tokenizer(Box((1,), "uint8", 0, 255), 1, 3, key=KEY)
    same(tokenizer(jnp.array([[255]], jnp.uint8))[0], tokenizer.identity[0] + tokenizer.directions)


def test_places_share_a_table_only_where_their_vocabularies_are_equally_large():
    """4 + 2 rows for the hands, 5 for the card, 9 for the word's letters: in the order of names, card first."""
    tokenizer = Tokenizer(MIXED, 1, 3, key=KEY)
    assert tokenizer.table.shape == (5 + (4 + 2) + 9, 3)
    observation = {
        "card": jnp.array([4]),
        "hands": jnp.array([[3, 1, 0]]),
        "speed": jnp.zeros((1, 2)),
        "word": jnp.array([[9, 1, 0]], jnp.int16),
    }
    tokens, known = tokenizer(observation)
    rows = tokens - tokenizer.identity[0]
    same(rows[:4], tokenizer.table[jnp.array([4, 5 + 3, 5 + 1, 5 + 4])])
    same(rows[4:6], jnp.zeros((2, 3)))
    same(rows[6:8], tokenizer.table[jnp.array([11 + 8, 11])])
    np.testing.assert_array_equal(known, [True] * 8 + [False])


@pytest.mark.parametrize("layers", [0, 1])
def test_what_follows_the_end_of_a_text_weighs_nothing_and_learns_nothing(layers):
    encoder = built(TokensSpec(layers=layers), Text(4, 9))
    text = jnp.array([[3, 7, 0, 0]], jnp.int16)
    np.testing.assert_array_equal(run(encoder, text).attention[:, 2:], 0)
    same(run(encoder, text).attention.sum(-1), np.ones(4 + 4 * layers))
    _, gradient = learn(encoder, text)
    np.testing.assert_array_equal(gradient.tokenizer.identity[0, 2:], 0)
    assert (gradient.tokenizer.identity[0, :2] != 0).any(-1).all()
    unused = np.setdiff1d(np.arange(9), [2, 6])
    np.testing.assert_array_equal(gradient.tokenizer.table[unused], 0)


def test_an_empty_text_attends_to_nothing_and_keeps_gradients_finite():
    encoder = built(TokensSpec(), Text(4, 9))
    text = jnp.zeros((1, 4), jnp.int16)
    np.testing.assert_array_equal(run(encoder, text).attention, np.zeros((8, 4)))
    _, gradient = learn(encoder, text)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((run(encoder, text), gradient)))


def test_the_order_of_symbols_makes_a_difference():
    encoder = built(TokensSpec(), Text(2, 9))
    first, second = (run(encoder, np.array([text], np.int16)).embedding for text in ([1, 2], [2, 1]))
    assert not np.allclose(first, second, atol=1e-2)


def test_tokens_refuse_numbers_and_name_the_part():
    with pytest.raises(SpaceError, match="categories and text, but the observation is Box.*; use encoder=features for"):
        TokensSpec().build(Box((3,)), 1, KEY)
    with pytest.raises(SpaceError, match="but 'speed' of the observation is Box"):
        TokensSpec().build(MIXED, 1, KEY)


@pytest.mark.parametrize("space", [Box((33, 32)), Text(1025, 3), Box((0,))], ids=str)
def test_too_many_features_or_none_are_refused(space):
    with pytest.raises(SpaceError, match="attends over each of them, 1 to 1024; use encoder=spatial for images, or"):
        FeaturesSpec().build(space, 1, KEY)


# Images.


def test_a_query_for_a_channel_looks_where_the_channel_is_bright():
    """One pixel is lit; the convolution copies the centre of its window into channel 0, for which the queries ask."""
    encoder = built(SpatialSpec(trunk="grid"), Box((6, 7)))
    weight = jnp.zeros((16, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    encoder = eqx.tree_at(
        lambda e: (e.trunk.convolutions[0].weight, e.pooling.queries),
        encoder,
        (weight, jnp.zeros_like(encoder.pooling.queries).at[:, 0].set(20.0)),
    )
    image = jnp.zeros((1, 6, 7)).at[0, 2, 4].set(1.0)
    attention = run(encoder, image).attention.reshape(4, 4, 5)
    assert attention[0, 1, 3] == attention.max()
    assert attention[0, 1, 3] > 0.9  # score 20 sqrt(15) / sqrt(32) = 13.7 against 0, for 19 rivals


def test_a_query_for_a_place_looks_there_whatever_it_shows():
    """Half a wave over four rows is highest in the first: 0.92, 0.38 and less at their centres."""
    encoder = built(SpatialSpec(trunk="grid"), Box((6, 7)))
    waves = jnp.zeros((4, 4)).at[1, 0].set(100.0).reshape(-1)
    queries = jnp.zeros_like(encoder.pooling.queries).at[:, 16:].set(waves)
    encoder = eqx.tree_at(lambda e: e.pooling.queries, encoder, queries)
    attention = run(encoder, np.zeros((1, 6, 7), np.float32)).attention
    # A score of 100 (0.92 - 0.38) / sqrt(32) = 9.6 between the first two rows, and equal scores along a row.
    np.testing.assert_allclose(attention.reshape(4, 4, 5)[:, 0], np.full((4, 5), 0.2), atol=1e-4)


def test_what_is_where_can_be_told_from_the_embedding():
    encoder = built(SpatialSpec(trunk="grid"), Box((6, 7)))
    images = [jnp.zeros((1, 6, 7)).at[0, row, column].set(1.0) for row, column in ((2, 2), (3, 5))]
    assert not np.allclose(*(run(encoder, image).embedding for image in images), atol=1e-2)


@pytest.mark.parametrize("sides", [(7, 7), (8, 8), (1, 3), (22, 16)], ids=str)
def test_every_cell_has_a_place_of_its_own(sides):
    cells = sides[0] * sides[1]
    for basis in (positions(*sides), coordinates(*sides)):
        distances = np.abs(np.asarray(basis)[:, None] - np.asarray(basis)[None]).max(-1) + np.eye(cells)
        assert distances.min() > 1e-3


def test_coordinates_by_hand():
    np.testing.assert_allclose(coordinates(2, 3), [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]])


def test_what_a_cell_received_is_the_mean_over_all_cells():
    """Against the weights of the block, computed again from its parts."""
    encoder = built(RelationalSpec(trunk="grid"), BOARD)
    board = jnp.asarray(observed(BOARD, 1))
    tokens = jax.vmap(encoder.embed)(jnp.concatenate([encoder.trunk(board), coordinates(4, 5)], axis=1))
    _, weights = encoder.blocks[0](tokens)
    same(run(encoder, board).attention, np.asarray(weights).mean(1))


@pytest.mark.parametrize("spec", [SpatialSpec, RelationalSpec])
def test_what_is_no_image_or_does_not_fit_the_convolutions_is_refused(spec):
    with pytest.raises(SpaceError, match="image is too small for a 4 x 4 convolution; use encoder.trunk=grid"):
        spec().build(Box((10, 10, 4), "bool"), 1, KEY)
    with pytest.raises(SpaceError, match="an image encoder needs one array of rows x columns"):
        spec().build(Box((10,)), 1, KEY)
    with pytest.raises(SpaceError, match="82 x 82 places to attend over, more than 1024; use encoder.trunk=nature"):
        spec(trunk="grid").build(Box((84, 84), "uint8"), 1, KEY)


@pytest.mark.parametrize("kind", [SpatialSpec, RelationalSpec])
def test_channels_may_come_first(kind):
    first, last = Box((3, 44, 52), "uint8"), Box((44, 52, 3), "uint8")
    image = observed(last, 2)
    a, b = run(built(kind(), last, 2), image), run(built(kind(), first, 2), np.moveaxis(image, 3, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Entities.


def reordered(rows, order):
    """Stacked entities, those of the newest frame in another order."""
    return np.concatenate([rows[:-1], rows[-1:, order]])


@pytest.mark.parametrize("stack", [1, 2])
def test_the_order_of_all_but_the_ego_makes_no_difference(stack):
    encoder = built(EntitiesSpec(), CARS, stack)
    rows = observed(CARS, stack)
    order = np.array([0, 3, 1, 2])
    before, after = run(encoder, rows), run(encoder, reordered(rows, order))
    same(after.embedding, before.embedding)
    same(after.attention[:, -4:], before.attention[:, -4:][:, order])
    other = run(encoder, reordered(rows, np.array([1, 0, 2, 3])))
    assert not np.allclose(other.embedding, before.embedding, atol=1e-2)


@pytest.mark.parametrize("ghost", [5.0, 1e30, np.nan])
def test_an_entity_that_is_not_there_has_no_influence_and_no_gradient(ghost):
    encoder = built(EntitiesSpec(), MASKED_CARS)
    rows, mask = observed(CARS, 1), np.array([[True, True, False, True]])

    @partial(jax.value_and_grad, argnums=(0, 1))
    def loss(encoder, rows):
        return (run(encoder, {"entities": rows, "mask": mask}).embedding ** 2).sum()

    plain = loss(encoder, rows)
    haunted = loss(encoder, np.where(np.arange(4)[:, None] == 2, np.float32(ghost), rows))
    jax.tree.map(np.testing.assert_array_equal, plain, haunted)
    np.testing.assert_array_equal(plain[1][1][0, 2], 0)
    np.testing.assert_array_equal(run(encoder, {"entities": rows, "mask": mask}).attention[:, 2], 0)


def test_fewer_entities_are_the_same_as_masked_ones():
    """The parameters do not know how many there are."""
    rows = observed(CARS, 1)
    four, three = built(EntitiesSpec(), CARS), built(EntitiesSpec(), Box((3, 3)))
    padded = run(four, np.where(np.arange(4)[:, None] == 3, np.float32(0), rows))
    fewer = run(three, rows[:, :3])
    same(padded.embedding, fewer.embedding)
    same(padded.attention[:, :3], fewer.attention)


def test_presence_is_a_feature_or_a_row_that_is_not_zero():
    rows = jnp.array([[[0.0, 1.0], [0.5, 1.0], [0.0, 1.0], [0.0, 0.0]]])  # the ego counts as there in any case
    named = run(built(EntitiesSpec(presence=0), Box((4, 2))), rows)
    np.testing.assert_array_equal(named.attention > 0, np.broadcast_to([True, True, False, False], (2, 4)))
    unnamed = run(built(EntitiesSpec(), Box((4, 2))), rows)
    np.testing.assert_array_equal(unnamed.attention > 0, np.broadcast_to([True, True, True, False], (2, 4)))


def test_the_ego_asks_and_all_entities_answer():
    """Against the definition: softmax of the ego's query and the entities' keys, then ego + what was read."""
    encoder = built(EntitiesSpec(heads=1, token_width=8), CARS)
    rows = jnp.asarray(observed(CARS, 1)[0])
    embedded = jnp.stack([encoder.ego(rows[0]), *(encoder.others(row) for row in rows[1:])])
    keys, values = jnp.split(jnp.stack([encoder.attention.key_value(row) for row in embedded]), 2, axis=1)
    weights = attend(keys @ encoder.attention.query(embedded[0]) / np.sqrt(8))
    encoding = run(encoder, rows[None])
    same(encoding.attention[0], weights)
    same(encoding.embedding, encoder.dense(embedded[0] + encoder.attention.output(weights @ values)))


WRONG = [
    Box((4,)),
    Box((4, 3, 2)),
    Discrete(3),
    Dict((("entities", Box((4, 3))),)),
    Dict((("entities", Box((4, 3))), ("mask", Box((3,))))),
    Dict((("entities", Box((4, 3))), ("mask", Box((4,))), ("more", Box((1,))))),
]


@pytest.mark.parametrize("space", WRONG, ids=str)
def test_entities_of_the_wrong_shape_are_refused(space):
    with pytest.raises(SpaceError, match="needs one array of entities x features, or a Dict of 'entities'.*; use"):
        EntitiesSpec().build(space, 1, KEY)


def test_a_presence_that_is_no_feature_is_refused():
    with pytest.raises(SpecError, match="encoder.presence = 3 names none of the 3 features of an entity; choose 0 to"):
        EntitiesSpec(presence=3).build(CARS, 1, KEY)


# -- what all share --------------------------------------------------------------------------------------------


@cases
def test_the_width_that_an_encoder_states_is_that_of_its_embedding(case):
    spec, space, stack, *_ = case
    encoder = built(spec, space, stack)
    assert jax.eval_shape(encoder, observed(space, stack)).embedding.shape == (encoder.width,)
