"""What a page carries: every number comes back, texts are shown as they are, and contradictions are refused."""

import base64
import io
import json
import math
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import tolds

from engram.errors import EngramError
from engram.explaining import columns, data

LONG = ["", "</script>", "𝒂" * 300, "\u202eabc", "动作", "\ud800", "<b>&amp;"]
DRAWN = st.fixed_dictionaries(dict(
    seed=st.integers(0, 2**32), actions=st.integers(0, 50), heads=st.integers(0, 16),
    steps=st.integers(0, 3), texts=st.lists(st.text() | st.sampled_from(LONG), min_size=1),
))  # fmt: skip
VALID = jsonschema.Draft202012Validator(data.schema())


@given(st.lists(st.integers(-(2**53), 2**53)))
def test_whole_numbers_come_back_exactly(values):
    assert columns.numbers(columns.integers(values)).tolist() == values


@given(st.lists(st.none() | st.floats(width=64)))
def test_numbers_come_back_as_float32_or_better(values):
    back = columns.numbers(columns.floats(values))
    expected = np.asarray([np.nan if value is None else value for value in values], np.float64)
    np.testing.assert_allclose(back, expected, rtol=1e-7)
    assert np.array_equal(np.isnan(back), np.isnan(expected))


def test_a_column_of_one_value_holds_it_once():
    column = columns.floats([0.1] * 1000)
    assert column["repeat"]
    assert len(column["data"]) == 8
    np.testing.assert_array_equal(columns.numbers(column), np.full(1000, np.float32(0.1)))


@settings(max_examples=40)
@given(DRAWN)
def test_every_explanation_fits_the_schema(drawn):
    encoded = data.encode(tolds.wild(**drawn))
    VALID.validate(encoded)
    text = data.dumps(encoded)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == encoded


@settings(max_examples=40)
@given(DRAWN)
def test_numbers_of_every_step_come_back(drawn):
    told = tolds.wild(**drawn)
    encoded = data.encode(told)
    for name in ("value", "margin", "from_network", "rest", "reward"):
        back = columns.numbers(encoded["steps"][name])
        np.testing.assert_allclose(back, [getattr(step, name) for step in told.steps], rtol=1e-7)
    which = columns.numbers(encoded["steps"]["called"])
    names = [[encoded["texts"][name] for name in encoded["called"][place]] if place >= 0 else [] for place in which]
    assert names == [[data.shown(name, data.NAME) for name in step.called] for step in told.steps]
    q = columns.numbers(encoded["q"])
    assert q.shape == (len(told.steps), len(told.actions))
    np.testing.assert_allclose(q, np.reshape([step.q for step in told.steps], q.shape), rtol=1e-7)


def test_the_schema_refuses_what_is_not_the_format():
    encoded = data.encode(tolds.cartpole(3))
    for change in (
        {"format": "explain/2"}, {"count": -1}, {"surprise": 1}, {"q": {"dtype": "<f2", "shape": [], "data": ""}},
        {"images": {**encoded["images"], "sheets": [{"source": "https://example.org/a.png"}]}},
    ):  # fmt: skip
        assert not VALID.is_valid({**encoded, **change}), change


def test_a_pictures_sheets_hold_each_picture_once():
    told = tolds.atari(steps=130, side=2, memories=3)
    images = data.encode(told)["images"]
    seen = {step.picture.tobytes() for step in told.steps}
    seen |= {memory.picture.tobytes() for step in told.steps for memory in step.memories}
    assert sum(sheet["count"] for sheet in images["sheets"]) == len(seen)
    places = columns.numbers(data.encode(told)["steps"]["picture"])
    number = int(places[77])
    sheet = images["sheets"][columns.numbers(images["sheet"])[number]]
    slot = int(columns.numbers(images["slot"])[number])
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet["source"].split(",")[1]))).convert("RGB"))
    top, left = slot // sheet["columns"] * sheet["height"], slot % sheet["columns"] * sheet["width"]
    piece = whole[top : top + sheet["height"], left : left + sheet["width"]]
    np.testing.assert_array_equal(piece, told.steps[77].picture)


def test_attention_is_exact_where_small_and_within_a_255th_where_large():
    small, large = tolds.cartpole(5), tolds.atari(5, memories=1)
    encoded = data.encode(small)["attention"]
    assert encoded["scale"] is None
    expected = np.concatenate([step.attention.ravel() for step in small.steps])
    np.testing.assert_array_equal(columns.numbers(encoded["weights"]), expected)
    encoded = data.encode(large)["attention"]
    scale = np.repeat(columns.numbers(encoded["scale"]), 121)
    back = columns.numbers(encoded["weights"]) * scale / 255
    np.testing.assert_allclose(back, np.concatenate([step.attention.ravel() for step in large.steps]), atol=0.5 / 255)


def test_what_is_not_seen_is_shown_as_an_escape():
    assert data.shown("a\u202eb\x00c\n\ufeff\ud800") == "a\\u202eb\\u0000c\\n\\ufeff\\ud800"
    assert data.shown("x" * 300, 200) == "x" * 199 + "…"
    assert data.shown("動作 ← é 🙂") == "動作 ← é 🙂"


def test_an_explanation_that_contradicts_itself_is_refused_in_a_sentence():
    told = tolds.cartpole(4)
    step = told.steps[2]
    for change, words in (
        ({"q": [1.0]}, "1 values of `q` for 2 actions"),
        ({"action": 2}, "action 2, but actions go from 0 to 1"),
        ({"parts": step.parts[:2]}, "attention over 4 parts and 2 parts"),
        ({"memories": [replace(step.memories[0], without=[0.0])]}, "values of `without` for 2 actions"),
        ({"called": ["go", "look", "take"]}, "names for 3 actions on offer, but 2 actions"),
    ):
        steps = [*told.steps[:2], replace(step, **change), *told.steps[3:]]
        with pytest.raises(EngramError, match=words):
            data.encode(replace(told, steps=steps))
    with pytest.raises(EngramError, match="place 9, but 4 steps"):
        data.encode(replace(told, moments=[(9, "late")]))


def test_a_distribution_keeps_returns_that_come_again_once():
    atoms = [float(at) for at in range(-10, 11)]
    told = tolds.cartpole(6)
    pairs = [[(at, 1 / 21) for at in atoms]] * 2
    told = replace(told, steps=[replace(step, distribution=pairs) for step in told.steps])
    encoded = data.encode(told)["distribution"]
    assert columns.numbers(encoded["returns"]).tolist() == atoms
    assert columns.numbers(encoded["mass"]).tolist() == [255] * (6 * 2 * 21)


def test_numbers_that_json_cannot_hold_become_none():
    faithful = replace(tolds.faithful(), score=math.nan, interval=(-math.inf, 1.0))
    encoded = data.encode(replace(tolds.cartpole(2), faithful=[faithful]))
    assert encoded["faithful"][0]["score"] is None
    assert encoded["faithful"][0]["interval"] == [None, 1.0]
    VALID.validate(encoded)
