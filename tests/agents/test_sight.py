"""What an encoder is given of numbers that are missing or normalised: by hand, and for every encoder."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import registry, spaces
from engram.agents.mind import ObservationSpec
from engram.agents.network import build
from engram.agents.sight import Sight, sight_of
from engram.agents.spec import AgentSpec
from engram.encoders.entities import EntitiesSpec
from engram.encoders.features import FeaturesSpec
from engram.encoders.pixels import GridSpec, PixelsSpec
from engram.encoders.spatial import RelationalSpec, SpatialSpec
from engram.encoders.vector import VectorSpec
from engram.errors import SpaceError, SpecError
from engram.registry import register
from engram.specs import spec
from engram.testing.encoders import observations

NAN = float("nan")
MASK = ObservationSpec(missing="mask")
BOTH = ObservationSpec(missing="mask", normalize=True)
NORMALIZE = ObservationSpec(normalize=True)
ROWS = spaces.Dict((("entities", spaces.Box((5, 3))), ("mask", spaces.Box((5,)))))
MIXED = spaces.Dict(
    (("camera", spaces.Box((4, 4, 3), "uint8")), ("mode", spaces.Discrete(3)), ("speed", spaces.Box(())),
     ("window", spaces.Box((6, 2))), ("count", spaces.Box((2,), "int32")), ("action_mask", spaces.Box((2,), "int8")))
)  # fmt: skip


def sight(encoder, space, observation) -> Sight:
    found = sight_of(AgentSpec(encoder=encoder, observation=observation), space)
    assert found is not None
    return found


def test_a_missing_number_is_zero_and_its_flag_says_so():
    found = sight(VectorSpec(), spaces.Box((2,)), MASK)(None, jnp.array([[3.0, NAN]]))
    assert found.tolist() == [[3.0, 0.0, 1.0, 0.0]]
    assert sight(VectorSpec(), spaces.Box(()), MASK)(None, jnp.array([NAN, 2.0])).tolist() == [[0.0, 0.0], [2.0, 1.0]]


def test_what_is_missing_is_the_mean_where_numbers_are_normalised():
    """Of 1 and 3 the mean is 2 and the deviation 1; of the second number only a single value was met."""
    seen = sight(VectorSpec(), spaces.Box((2,)), BOTH)
    met = jnp.array([[[1.0, 5.0]], [[3.0, NAN]], [[99.0, 99.0]]])
    scales = seen.counted(seen.empty(), met, jnp.array([[True], [True], [False]]))
    assert [scale.count.tolist() for scale in scales] == [[2.0, 1.0]]
    np.testing.assert_allclose(seen(scales, jnp.array([[4.0, NAN]])), [[2.0, 0.0, 1.0, 0.0]], atol=1e-6)


def test_images_get_flags_as_channels_and_statistics_of_each_channel():
    image = jnp.arange(12.0).reshape(1, 2, 3, 2).at[0, 0, 0, 0].set(NAN)
    seen = sight(GridSpec(), spaces.Box((2, 3, 2)), BOTH)
    assert [scale.count.shape for scale in seen.empty()] == [(1, 1, 2)]
    found = seen(seen.empty(), image)
    assert found.shape == (1, 2, 3, 4)
    assert found[0, 0, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    single = sight(GridSpec(), spaces.Box((2, 3)), MASK)(None, image[..., 0])
    assert single.shape == (1, 2, 3, 2)
    assert single[0, 0, 0].tolist() == [0.0, 0.0]


def test_a_set_shares_statistics_and_rows_that_are_not_there_do_not_count():
    seen = sight(EntitiesSpec(), spaces.Box((3, 2)), BOTH)
    met = jnp.array([[[1.0, 10.0], [3.0, NAN], [0.0, 0.0]]])[None]
    [scale] = seen.counted(seen.empty(), met, jnp.ones((1, 1), bool))
    np.testing.assert_allclose((scale.origin + scale.mean)[0], [2.0, 10.0])
    found = seen((scale,), met[0])
    assert found["mask"].tolist() == [[True, True, False]]
    np.testing.assert_allclose(found["entities"][0], [[-1, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], atol=1e-5)


def test_a_presence_feature_still_says_what_is_there_when_it_is_normalised():
    seen = sight(EntitiesSpec(presence=0), spaces.Box((3, 2)), NORMALIZE)
    rows = jnp.array([[1.0, 5.0], [1.0, 6.0], [0.0, 7.0]])[None]
    scales = seen.counted(seen.empty(), rows[None], jnp.ones((1, 1), bool))
    assert seen(scales, rows)["mask"].tolist() == [[True, True, False]]


def test_categories_images_integers_and_masks_stay_as_they_are():
    seen = sight(VectorSpec(), MIXED, BOTH)
    given = observations(seen.space, (2,), np.random.default_rng(0))
    found = seen(seen.empty(), given)
    for name in ("camera", "mode", "count"):
        assert (found[name] == given[name]).all()
    assert set(found) == set(given) == {"camera", "mode", "count", "speed", "window"}
    assert found["window"].shape == (2, 6, 4)


CASES = [
    (VectorSpec(widths=(8,)), spaces.Box((3,))), (VectorSpec(widths=(8,)), MIXED),
    (FeaturesSpec(token_width=8, width=8), spaces.Tuple((spaces.Box((3,)), spaces.Discrete(2)))),
    (EntitiesSpec(token_width=8, width=8), spaces.Box((5, 3))), (EntitiesSpec(token_width=8, width=8), ROWS),
    (PixelsSpec(width=8), spaces.Box((3, 40, 40))), (GridSpec(width=8), spaces.Box((5, 5))),
    (SpatialSpec(trunk="grid", heads=1, width=8), spaces.Box((5, 5, 2))),
    (RelationalSpec(trunk="grid", token_width=8, heads=1, width=8), spaces.Box((5, 5, 2))),
]  # fmt: skip


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("observation", [MASK, NORMALIZE, BOTH], ids=["mask", "normalize", "both"])
@pytest.mark.parametrize(("encoder", "space"), CASES, ids=lambda value: type(value).__name__)
def test_every_encoder_of_numbers_takes_what_is_missing(encoder, space, observation, stack):
    """What is shown has the shapes that are promised, what is missing reaches no decision, and changes a flag."""
    spec = AgentSpec(encoder=encoder, observation=replace(observation, stack=stack))
    made = build(spec, space, 2, jax.random.PRNGKey(0))
    assert made.sight is not None
    frames = observations(space, (stack,), np.random.default_rng(1))
    if "action_mask" in str(space):
        frames["action_mask"] = jnp.ones((stack, 2), jnp.int8)
    network = made.seeing(scales_of(made.sight)) if observation.normalize else made
    lost = jax.tree.map(lambda leaf: jnp.full_like(leaf, NAN) if leaf.dtype == jnp.float32 else leaf, frames)
    for given in (frames, lost):
        shown = zip(spaces.leaves(made.sight.shown), jax.tree.leaves(network.seen(given)), strict=True)
        assert all(value.shape == (stack, *leaf.shape) for (_, leaf), value in shown)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(network.seen(given)))
        assert np.isfinite(network(given, jnp.zeros(network.words, jnp.uint32)).q).all()
    whole, nothing = network.embed(frames), network.embed(lost)
    assert not np.allclose(whole, nothing)


def scales_of(seen: Sight):
    from engram.agents.statistics import Scales

    return Scales(seen.empty(), None)


def test_before_an_episode_nothing_is_known():
    """The older frames of a stack are missing, not zeros that were seen."""
    from engram.agents.policy import push

    frames = push(jnp.full((1, 3, 2), 7.0), jnp.array([[1.0, 2.0]]), jnp.array([True]), True)
    assert sight(VectorSpec(), spaces.Box((2,)), MASK)(None, frames[0]).tolist() == [[0, 0, 0, 0]] * 2 + [[1, 2, 1, 1]]


@pytest.mark.parametrize("observation", [MASK, NORMALIZE])
def test_where_no_number_is_a_float_the_setting_is_refused(observation):
    with pytest.raises(
        SpaceError, match=r"observation\.(missing = mask|normalize = true) is for numbers of type float32"
    ):
        sight_of(AgentSpec(observation=observation), spaces.Box((4,), "uint8"))


def test_off_there_is_no_sight():
    assert sight_of(AgentSpec(), spaces.Box((4,))) is None
    assert partial(build, AgentSpec(), spaces.Box((4,)), 2)(jax.random.PRNGKey(0)).sight is None


# -- what a spec declares --------------------------------------------------------------------------------------


@pytest.fixture
def shelves():
    """Parts that a test registers are forgotten."""
    before = registry.snapshot()
    yield
    registry.restore(before)


def declaring(**declared: Any) -> Any:
    """An encoder's spec of a user, with these class attributes."""

    def build(self, space: spaces.Space, stack: int, key: jax.Array) -> Any:
        raise AssertionError("what it declares is asked for without building it")

    return register("encoder", "mine-declaring")(spec(type("Mine", (), declared | {"build": build})))()


@pytest.mark.usefixtures("shelves")
def test_an_encoder_that_declares_nothing_sees_each_number_for_itself():
    seen = sight(declaring(), spaces.Box((2, 3)), MASK)
    assert seen.shown == spaces.Box((2, 6))
    assert sight(declaring(layout="channels"), spaces.Box((2, 3)), MASK).shown == spaces.Box((2, 3, 2))


@pytest.mark.usefixtures("shelves")
def test_rows_of_a_users_own_may_leave_presence_out():
    rows = jnp.array([[[1.0, NAN], [2.0, NAN], [0.0, 0.0]]])  # the first is the agent's own, and always there
    shown = sight(declaring(layout="rows"), spaces.Box((3, 2)), MASK)(None, rows)
    assert shown["mask"].tolist() == [[True, True, False]]
    shown = sight(declaring(layout="rows", presence=1), spaces.Box((3, 2)), MASK)(None, rows)
    assert shown["mask"].tolist() == [[True, False, False]]


@pytest.mark.usefixtures("shelves")
def test_a_layout_that_there_is_not_is_refused():
    with pytest.raises(SpecError, match=r"Mine.layout is 'channel'; expected numbers, channels, rows"):
        sight(declaring(layout="channel"), spaces.Box((2,)), MASK)


@pytest.mark.usefixtures("shelves")
def test_a_spec_that_was_registered_first_gets_the_default_too():
    early = register("test-role", "early")(type("Early", (), {}))
    own = register("test-role", "own")(type("Own", (), {"ability": 3}))
    registry.declare("test-role", ability=1)
    late = register("test-role", "late")(type("Late", (), {}))
    assert (early.ability, own.ability, late.ability) == (1, 3, 1)
