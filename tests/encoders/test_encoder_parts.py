"""What the parts of an observation are that each encoder attends to, and which numbers belong to each."""

from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import registry, spaces
from engram.agents.mind import ObservationSpec
from engram.agents.q_learning import AgentSpec
from engram.agents.sight import parts_of
from engram.encoders.encoder import default_parts
from engram.encoders.entities import EntitiesSpec
from engram.encoders.features import FeaturesSpec
from engram.encoders.impala import ImpalaSpec
from engram.encoders.parts import Parts, nearest_edges, number_parts
from engram.encoders.pixels import GridSpec, PixelsSpec
from engram.encoders.spatial import RelationalSpec, SpatialSpec
from engram.encoders.tokens import TokensSpec
from engram.encoders.vector import VectorSpec
from engram.nn.layers import Linear
from engram.specs import spec
from engram.testing import ContractFault, check_encoder
from engram.types import Encoding

BOARD, FRAME, ROWS = spaces.Box((10, 10, 4), "bool"), spaces.Box((36, 44), "uint8"), spaces.Box((5, 3), unordered=True)
MASKED = spaces.Dict((("entities", spaces.Box((5, 3))), ("mask", spaces.Box((5,), "bool"))))
WORDS = spaces.Dict((("text", spaces.Text(4, 7)), ("door", spaces.Discrete(3))))


@pytest.mark.parametrize(
    ("chosen", "space", "stack", "kind", "shape", "attended"),
    [
        (SpatialSpec(trunk="grid"), BOARD, 1, "grid", (8, 8), True),
        (SpatialSpec(), FRAME, 3, "grid", (1, 2), True),
        (RelationalSpec(trunk="grid", token_width=8, heads=2), BOARD, 2, "grid", (8, 8), True),
        (PixelsSpec(width=8), FRAME, 1, "grid", (1, 2), False),
        (GridSpec(width=8), BOARD, 1, "grid", (8, 8), False),
        (ImpalaSpec(channels=(4, 4), width=8), FRAME, 1, "grid", (6, 6), False),
        (EntitiesSpec(), ROWS, 2, "entities", (2, 5), True),
        (EntitiesSpec(), MASKED, 1, "entities", (1, 5), True),
        (FeaturesSpec(), spaces.Box((4,)), 2, "numbers", (2, 4), True),
        (FeaturesSpec(), WORDS, 1, "tokens", (1, 5), True),
        (TokensSpec(), WORDS, 1, "tokens", (1, 5), True),
        (VectorSpec(widths=(8,)), spaces.Box((4,)), 3, "numbers", (4,), False),
        (VectorSpec(widths=(8,)), spaces.Box((84, 84), "uint8"), 1, "grid", (8, 8), False),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "build") else None,
)
def test_every_encoder_says_what_its_parts_are(chosen, space, stack, kind, shape, attended):
    parts = chosen.parts(space, stack)
    assert (parts.kind, parts.shape, parts.attended) == (kind, shape, attended)
    assert len(parts.names) == parts.count
    assert len(set(parts.names)) == parts.count
    assert hash(parts) == hash(chosen.parts(space, stack))
    check_encoder(chosen.build(space, stack, jax.random.PRNGKey(0)), space, stack, spec=chosen)
    if kind == "grid":  # the boxes lie side by side and fill the picture
        area = sum((right - left) * (bottom - top) for left, top, right, bottom in parts.boxes)
        assert area == pytest.approx(1)
        assert len(parts.boxes) == parts.count


def test_a_place_is_the_pixels_whose_nearest_cell_it_is():
    edges = nearest_edges(84, ((8, 4), (4, 2), (3, 1)))  # the cells of the Nature CNN see 36 pixels, 8 apart
    assert edges == (0, 22, 30, 38, 46, 54, 62, 84)
    owner = np.asarray(PixelsSpec().parts(spaces.Box((84, 84), "uint8"), 2).owners())
    assert owner.shape == (2, 84, 84)
    assert owner[0, 0, 0] == 0
    assert owner[1, 83, 83] == 48
    assert owner[0, 21, 0] == 0
    assert owner[0, 22, 0] == 7
    assert owner[0, 0, 22] == 1
    first = np.asarray(PixelsSpec().parts(spaces.Box((4, 84, 84), "uint8"), 1).owners())
    assert (first == owner[:1, None]).all()  # channels before rows


def test_frames_before_the_newest_are_parts_of_their_own_where_they_are_attended():
    parts = FeaturesSpec().parts(spaces.Box((2,)), 3).named(("angle", "speed"))
    assert parts.names == (
        "angle, 2 steps ago", "speed, 2 steps ago", "angle, 1 step ago", "speed, 1 step ago", "angle", "speed",
    )  # fmt: skip
    assert np.asarray(parts.owners()).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert np.asarray(number_parts(spaces.Box((2,)), 3).owners()).tolist() == [[0, 1]] * 3
    assert parts.named(("one",)) == parts  # not as many names


def test_what_may_be_done_belongs_to_no_part():
    space = spaces.Dict((("action_mask", spaces.Box((3,), "bool")), ("seen", spaces.Box((2,)))))
    parts = parts_of(AgentSpec(encoder=FeaturesSpec()), space)
    owners = parts.owners()
    assert owners["seen"].tolist() == [[0, 1]]
    assert owners["action_mask"].tolist() == [[-1] * 3]


def test_what_only_the_mixer_of_a_team_sees_belongs_to_no_part():
    units, mask = spaces.Box((3, 2), unordered=True), spaces.Box((4,), "bool")
    space = spaces.Dict((("units", units), ("action_mask", mask), ("team_state", spaces.Box((5,)))))
    owners = parts_of(AgentSpec(encoder=EntitiesSpec()), space).owners()
    assert owners["units"].tolist() == [[[0, 0], [1, 1], [2, 2]]]
    assert (owners["team_state"] == -1).all()
    assert (owners["action_mask"] == -1).all()


def test_flags_of_missing_numbers_are_parts_that_own_nothing():
    chosen = AgentSpec(encoder=FeaturesSpec(), observation=ObservationSpec(missing="mask", stack=2))
    parts = parts_of(chosen, spaces.Box((2,))).named(("angle", "speed"))
    assert parts.count == 8
    assert parts.names[4:] == ("angle", "speed", "angle is known", "speed is known")
    assert np.asarray(parts.owners()).tolist() == [[0, 1], [4, 5]]


class Attending(eqx.Module):
    """An encoder of one's own that attends over 3 numbers."""

    linear: Linear
    width: int = 2

    def __call__(self, frames: jax.Array) -> Encoding:
        x = frames[-1]
        return Encoding(self.linear(x), jnp.full((1, 3), 1 / 3))


def test_an_encoder_of_ones_own_needs_to_declare_none():
    shelves = registry.snapshot()
    try:

        @registry.register("encoder", "mine")
        @spec
        class Mine:
            def build(self, space: spaces.Space, stack: int, key: Any) -> Attending:
                return Attending(Linear(3, 2, key=key))

        class RowsOfMine(Mine):
            layout = "rows"

        assert default_parts(RowsOfMine(), ROWS, 1).shape == (1, 5)
        parts = Mine().parts(spaces.Box((3,)), 1)
        assert parts == Parts("numbers", spaces.Box((3,)), 1, (3,), ("number 1", "number 2", "number 3"))
        check_encoder(Mine().build(spaces.Box((3,)), 1, jax.random.PRNGKey(0)), spaces.Box((3,)), spec=Mine())
    finally:
        registry.restore(shelves)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (number_parts(spaces.Box((2,)), 1, attended=True), "`parts` are 2, and attention lies over 3; make the two"),
        (number_parts(spaces.Dict((("a", spaces.Box((3,))),)), 1, attended=True), "of another space than the one"),
        (Parts("numbers", spaces.Box((3,)), 1, (3,), ("one",)), "are 3 with 1 names; give each a name"),
        ("all", "`parts` gave a str; expected a value of encoders.parts"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts: Any, sentence: str):
    chosen = SimpleNamespace(layout="numbers", presence=-1, parts=lambda space, stack: parts)
    with pytest.raises(ContractFault, match=sentence):
        check_encoder(Attending(Linear(3, 2, key=jax.random.PRNGKey(0))), spaces.Box((3,)), spec=chosen)
