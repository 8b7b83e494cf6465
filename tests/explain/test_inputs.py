"""Covering parts of an observation, and telling them by name and value."""

import inspect
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.explained import trained

from engram import spaces
from engram.agents.mind import ObservationSpec, RewardSpec
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.entities import EntitiesSpec
from engram.encoders.features import FeaturesSpec
from engram.encoders.pixels import PixelsSpec
from engram.encoders.tokens import TokensSpec
from engram.encoders.vector import VectorSpec
from engram.envs.device import make_device
from engram.envs.names import Names, names_of
from engram.envs.steady import Steady
from engram.explaining import measuring, naming, trying
from engram.explaining.inputs import blurred, cover, facts, mean_of, number, parts_told, symbol, there
from engram.explaining.recording import record
from engram.explaining.telling import Teller
from engram.working.gated import GRUSpec
from engram.working.history import HistorySpec

MIXED = spaces.Dict((("action_mask", spaces.Box((2,), "bool")), ("a", spaces.Box((2,))), ("b", spaces.Discrete(5))))


def test_a_covered_place_is_that_of_the_fill_and_nothing_else_changes():
    space = spaces.Box((84, 84), "uint8")
    parts = PixelsSpec().parts(space, 2)
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 100, (2, 84, 84)), jnp.uint8)
    covered = jnp.arange(parts.count) == 8  # the second row's second place: pixels 22 to 30 of both
    found = np.array(jax.jit(partial(cover, parts))(frames, covered, jnp.full((84, 84), 200.0)))
    assert (found[:, 22:30, 22:30] == 200).all()
    found[:, 22:30, 22:30] = np.asarray(frames)[:, 22:30, 22:30]
    assert (found == np.asarray(frames)).all()
    assert found.dtype == np.uint8


def test_all_parts_together_are_all_that_is_seen():
    for chosen, space in [
        (PixelsSpec(), spaces.Box((84, 84), "uint8")),
        (VectorSpec(), spaces.Box((3,))),
        (FeaturesSpec(), spaces.Dict((("a", spaces.Box((2, 2))), ("b", spaces.Discrete(5))))),
        (EntitiesSpec(), spaces.Dict((("entities", spaces.Box((3, 2))), ("mask", spaces.Box((3,), "bool"))))),
    ]:
        parts = chosen.parts(space, 2)
        seen = jax.tree.map(jnp.asarray, spaces.zeros(space, (2,)))
        other = jax.tree.map(jnp.ones_like, seen)
        found = cover(parts, seen, jnp.ones(parts.count, bool), other)
        assert all((np.asarray(leaf) == 1).all() for leaf in jax.tree.leaves(found)), chosen
        kept = cover(parts, seen, jnp.zeros(parts.count, bool), other)
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(kept)), chosen


def test_of_a_set_only_rows_that_hold_something_are_there():
    space = spaces.Dict((("entities", spaces.Box((3, 2))), ("mask", spaces.Box((3,), "bool"))))
    parts = EntitiesSpec().parts(space, 1)
    seen = {"entities": np.array([[[0.0, 0.0], [0.0, -2.0], [0.0, 0.0]]]), "mask": np.array([[True, False, False]])}
    assert there(parts, seen).tolist() == [True, True, False]
    assert there(VectorSpec().parts(spaces.Box((2,)), 1), np.zeros((1, 2))).tolist() == [True, True]


def test_nothing_covered_is_what_was_chosen_also_where_rewards_are_seen_normalised():
    spec = AgentSpec(
        encoder=VectorSpec(widths=(8,)), working=GRUSpec(hidden_size=4), replay=ReplaySpec(window=8),
        reward=RewardSpec(normalize=True), observation=ObservationSpec(previous_action=True, previous_reward=True),
    )  # fmt: skip
    recording = record(trained(spec), pictured=False)
    episode = recording.episodes[0]
    parts = spec.encoder.parts(recording.agent.plan.space, 1)
    for step in (1, 4):
        frames = episode.kept.state.frames[step]
        found = measuring.covered(spec, recording.mind, parts, episode, step, np.zeros((1, parts.count), bool), frames)
        np.testing.assert_allclose(found[0], episode.kept.preference[step], rtol=1e-5, atol=1e-6)


def crossing(stack: int = 1) -> Teller:
    spec = AgentSpec(encoder=EntitiesSpec(token_width=8, width=8), observation=ObservationSpec(stack=stack))
    recording = record(trained(spec, "engram/Intersection-v0"), pictured=False)
    return Teller(recording, naming.Names.of(recording))


def test_vehicles_are_left_out_and_those_that_are_not_there_are_no_parts():
    teller = crossing()
    episode = teller.recording.episodes[0]
    (subject,) = measuring.observations(teller, "fast", np.random.default_rng(0))
    assert subject.fill == "left out"
    for one, (items, case) in enumerate(zip(subject.items, subject.cases, strict=True)):
        rows = episode.kept.state.frames[subject.places[one][1], -1]
        assert items.tolist() == [row for row in range(len(rows)) if rows[row].any()]
        assert len(case.weights) == len(items)
        whole = subject.without(np.array([one]), np.zeros((1, len(items)), bool))[0]
        np.testing.assert_allclose(whole, episode.kept.preference[subject.places[one][1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("id", "stack"), [("engram/Intersection-v0", 1), ("engram/Intersection-v0", 2), ("engram/RepeatFirst-v0", 1)]
)
def test_edited_worlds_of_a_page_name_what_is_there(id, stack):
    if id == "engram/Intersection-v0":
        teller = crossing(stack)
    else:
        memory = HistorySpec(window=8, layers=1, heads=1, hidden_size=8, inner=8)
        recording = record(trained(AgentSpec(working=memory, replay=ReplaySpec(window=8)), id), pictured=False)
        teller = Teller(recording, naming.Names.of(recording))
    found = trying.edited(teller, "fast", np.random.default_rng(0))
    assert 0 < len(found) <= trying.WORLDS["fast"]
    for world in found:
        assert world.step <= world.asked
        if id == "engram/RepeatFirst-v0":
            assert int(world.first.split()[1]) <= world.asked
            assert world.named == (int(world.first.split()[1]) == world.step)  # the first card is shown once
            continue
        seen = teller.recording.episodes[world.episode].kept.state.frames[world.asked]
        names = [part.name for part in parts_told(teller.names.seen, None, teller.names.known)]
        place = names.index(world.first) % len(seen[-1])  # of the newest frame
        assert place > 0  # not the agent's own row
        assert seen[-1][place].any()
        assert world.named == (world.edit == f"vehicle {place} is not there")


def test_many_ways_of_covering_can_be_tried_at_once():
    parts = VectorSpec().parts(spaces.Box((3,)), 2)
    frames = jnp.arange(6.0).reshape(2, 3)
    found = jax.vmap(lambda covered: cover(parts, frames, covered, jnp.zeros((2, 3))))(jnp.eye(3, dtype=bool))
    assert np.asarray(found[1]).tolist() == [[0, 0, 2], [3, 0, 5]]


def test_what_may_be_done_is_never_covered():
    seen = spaces.seen(MIXED)
    parts = VectorSpec().parts(seen, 1)
    whole = type(parts)(**{**vars(parts), "space": MIXED})
    frames = jax.tree.map(lambda leaf: jnp.ones_like(jnp.asarray(leaf)), spaces.zeros(MIXED, (1,)))
    found = cover(whole, frames, jnp.ones(3, bool), jax.tree.map(jnp.zeros_like, frames))
    assert np.asarray(found["action_mask"]).all()
    assert not np.asarray(found["a"]).any()


def test_fills_keep_their_dtypes():
    space = spaces.Dict((("a", spaces.Box((16, 16), "uint8")), ("b", spaces.Discrete(5))))
    seen = {"a": np.arange(512, dtype=np.uint8).reshape(2, 16, 16), "b": np.array([1, 4], np.int32)}
    mean = mean_of(space, seen)
    assert (mean["a"].dtype, mean["b"]) == (np.uint8, 4)
    smooth = blurred(space, {"a": seen["a"][0], "b": 1})
    assert smooth["a"].dtype == np.uint8
    assert int(np.ptp(smooth["a"][8])) < int(np.ptp(seen["a"][0][8]))
    assert smooth["b"] == 1
    missing = mean_of(spaces.Box((2,)), np.array([[1.0, np.nan], [3.0, np.nan]], np.float32))
    assert missing.tolist() == [2.0, 0.0]


def test_facts_are_names_and_values():
    names = Names(numbers=("height", "speed", "gear"))
    seen = {"action_mask": np.ones(2, bool), "a": np.array([0.5, np.nan], np.float32), "b": np.int32(3)}
    assert facts(MIXED, seen, names) == [("height", "0.5"), ("speed", "missing"), ("gear", "3")]
    assert facts(MIXED, seen)[0] == ("a 1", "0.5")
    rows = np.array([[1, 0.25], [0, 0], [1, 2]], np.float32)
    told = facts(spaces.Box((3, 2), unordered=True), rows, Names(entities=("itself", "bus", "car")))
    assert told == [("itself", "1  0.25"), ("car", "1  2")]
    assert facts(spaces.Box((84, 84), "uint8"), np.zeros((84, 84), np.uint8)) == []
    assert facts(spaces.Box((100,)), np.zeros(100))[-1] == ("and more", "36 numbers")
    assert facts(spaces.Text(5, 9), np.array([3, 1, 2, 0, 0], np.int16)) == [("text", "3 1 2")]
    assert number(1e9) == "1e+09"


def test_parts_are_told_with_name_value_and_box():
    parts = FeaturesSpec().parts(spaces.Box((2,)), 2)
    told = parts_told(parts, np.array([[1, 2], [3, 4.5]]), Names(("x", "y"), boxes=(None, (0.0, 0.0, 0.5, 0.5))))
    assert [(one.name, one.value) for one in told] == [
        ("x, 1 step ago", "1"), ("y, 1 step ago", "2"), ("x", "3"), ("y", "4.5"),
    ]  # fmt: skip
    assert told[3].box == (0.0, 0.0, 0.5, 0.5)
    assert told[1].box is None
    place = parts_told(PixelsSpec().parts(spaces.Box((84, 84), "uint8"), 1))[0]
    assert (place.name, place.value, place.box[:2]) == ("row 1, column 1", "", (0.0, 0.0))


def test_names_of_an_environment_whose_dtypes_drift_are_its_own():
    env: Any = SimpleNamespace(parts={"actions": ["fall", "push"]})
    spec = AgentSpec(encoder=VectorSpec(widths=(8,)))
    plan = SimpleNamespace(agent=spec, space=spaces.Box((2,)), actions=2, env=None, shown=None)
    agent = SimpleNamespace(plan=plan, world_name=None)
    recording: Any = SimpleNamespace(agent=agent, env=Steady(env, ()), episodes=[SimpleNamespace(names=None)])
    assert inspect.unwrap(naming.Names.of.__func__)(naming.Names, recording).actions == ["fall", "push"]  # type: ignore[attr-defined]


def test_symbols_of_a_text_are_told_by_their_names():
    space = spaces.Dict((("count", spaces.Discrete(9)), ("said", spaces.Text(3, 2))))
    names = Names(symbols=("yes", "no"))
    assert facts(space, {"count": 2, "said": np.array([2, 1, 0])}, names) == [("count", "2"), ("said", "no yes")]
    parts = TokensSpec().parts(space, 1)
    seen = {"count": np.array([2]), "said": np.array([[2, 1, 0]])}
    assert [one.value for one in parts_told(parts, seen, names)][-3:] == ["no", "yes", ""]
    assert [one.value for one in parts_told(parts, seen)][-3:] == ["2", "1", "0"]
    assert [symbol(one, ("yes", "no")) for one in (0, 1, 2, 3, 4)] == ["", "yes", "no", "", "4"]  # 4 has no name
    assert symbol(2, ("yes", "")) == "#2"  # not taken for a word of the text


def test_translation_names_its_symbols_as_its_actions():
    env: Any = make_device("engram/Translate-v0")
    known = names_of(env)
    assert known.symbols == known.actions
    assert len(known.symbols) == env.actions


def test_a_text_is_told_by_its_characters():
    shown = {"observation": {"kind": "dict", "parts": {"said": {"kind": "text", "characters": " abc"}}}}
    assert naming._letters(shown) == {"said": " abc"}
    assert naming._read(" abc", "2 3 1 4 0 0") == "ab c"
    assert naming._letters(None) == {}
