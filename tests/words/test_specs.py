"""Specs round-trip, check themselves, and answer wrong names with the right one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram import registry, spaces, specs
from engram.agents.presets import PRESETS, preset
from engram.agents.spec import AgentSpec
from engram.agents.told import reasons
from engram.errors import SpecError, UnknownName
from engram.exploration.greedy import EpsilonGreedySpec
from engram.external.votes import VotesSpec
from engram.heads.q import DuelingSpec, QSpec

SPACES = [
    spaces.Box((4,)), spaces.Box((84, 84), "uint8"), spaces.Box((10, 10, 4), "bool"), spaces.Discrete(500),
    spaces.Tuple((spaces.Discrete(3), spaces.Discrete(4))),
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_round_trips_through_json(name, space):
    made = preset(name, space, 10_000)
    assert specs.from_json(type(made), json.loads(json.dumps(specs.to_json(made)))) == made
    assert hash(made) == hash(preset(name, space, 10_000))
    assert reasons(made, space).startswith("encoder ")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_shown_line_is_an_override_that_changes_nothing(name):
    made = preset(name, SPACES[0], 10_000)
    for path, _, value, _ in specs.describe(made):
        assert specs.override(made, path, specs.show(value)) == made


@given(st.integers(8, 10**9), st.floats(1e-9, 10), st.lists(st.integers(1, 512), min_size=1, max_size=4))
def test_texts_become_values_of_the_declared_type(capacity, rate, widths):
    made = specs.override(AgentSpec(), "replay.capacity", str(capacity))
    made = specs.override(made, "optimizer.learning_rate", repr(rate))
    made = specs.override(made, "encoder.widths", ",".join(map(str, widths)))
    assert (made.replay.capacity, made.optimizer.learning_rate, made.encoder.widths) == (capacity, rate, tuple(widths))


def test_numbers_may_be_written_as_people_write_them():
    for text in ("1e6", "1_000_000", "1000000"):
        assert specs.override(AgentSpec(), "replay.capacity", text).replay.capacity == 1_000_000
    assert specs.override(AgentSpec(), "discount", "1").discount == 1.0


def test_naming_another_kind_takes_it_and_keeps_what_both_have():
    made = specs.override(AgentSpec(), "head", "dueling")
    assert made.head == DuelingSpec()
    made = specs.override(made, "head.width", "64")
    assert made.head.width == 64
    assert specs.override(made, "head", "dueling") is not None
    assert specs.override(made, "head", "q").head == QSpec()


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("replay.capacty", "9", "'replay.capacty' is not a setting; did you mean 'replay.capacity'?"),
        ("reply.capacity", "9", "'reply.capacity' is not a setting; did you mean 'replay'?"),
        ("discount", "high", "discount = high has the wrong type; expected a number"),
        ("discount", "1.5", "discount = 1.5 is out of range; expected at most 1"),
        ("discount", "nan", "discount = nan is not a finite number; give one that is"),
        ("replay.batch_size", "2.5", "replay.batch_size = 2.5 has the wrong type; expected an integer"),
        ("replay.batch_size", "0", "replay.batch_size = 0 is out of range; expected at least 1"),
        ("recall.confidence", "far", "recall.confidence = far has the wrong type; expected near or known"),
        (
            "encoder.widths",
            "64,wide",
            "encoder.widths = 64,wide has the wrong type; expected integers separated by commas",
        ),
        ("replay", "9", "'replay' is a group of settings; name one of replay.capacity"),
        ("discount.rate", "1", "'discount.rate' goes too deep: 'discount' is a single setting"),
        ("optimizer.learning_rate", "0", "optimizer.learning_rate = 0.0 is out of range; expected more than 0"),
        ("replay.capacity", "true", "replay.capacity = true has the wrong type; expected an integer"),
    ],
)
def test_a_wrong_override_is_answered_in_one_sentence(path, text, sentence):
    with pytest.raises(SpecError) as caught:
        specs.override(AgentSpec(), path, text)
    assert str(caught.value).startswith(sentence)


def test_an_unknown_part_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="no head is called 'deuling'; did you mean 'dueling'?"):
        specs.override(AgentSpec(), "head", "deuling")


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="no preset is called 'dnq'; did you mean 'dqn'?"):
        preset("dnq", SPACES[0])


def test_stored_specs_refuse_what_they_do_not_know():
    value = specs.to_json(AgentSpec())
    with pytest.raises(SpecError, match="'discont' is not a setting of AgentSpec; did you mean 'discount'?"):
        specs.from_json(AgentSpec, {**value, "discont": 1})
    with pytest.raises(SpecError, match="'discount' is missing"):
        specs.from_json(AgentSpec, {name: item for name, item in value.items() if name != "discount"})
    with pytest.raises(UnknownName, match="no encoder is called 'os.system'"):
        specs.from_json(AgentSpec, {**value, "encoder": {"kind": "os.system"}})


def test_a_replay_too_small_for_one_window_is_refused():
    with pytest.raises(SpecError, match=r"replay.capacity = 10 cannot hold one window of 1 rows with n_step = 9"):
        specs.override(specs.override(AgentSpec(), "n_step", "9"), "replay.capacity", "10")


def test_two_parts_cannot_share_a_name():
    with pytest.raises(ValueError, match="head 'q' is already engram.heads.q.QSpec"):
        registry.register("head", "q")(EpsilonGreedySpec)


def test_registering_twice_leaves_the_first():
    assert registry.find("head", "q") is QSpec
    assert registry.name_of("head", QSpec) == "q"


def test_epsilon_falls_linearly_and_then_stays():
    chosen = EpsilonGreedySpec(start=1.0, end=0.1, steps=100)
    assert [round(float(chosen.epsilon(step)), 6) for step in (0, 50, 100, 1000)] == [1.0, 0.55, 0.1, 0.1]


def test_another_kind_of_a_part_keeps_what_was_chosen_and_has_its_own_defaults():
    """A memory of 100 steps stays one; a temperature that nobody chose is the new kind's."""
    agent = specs.override_all(AgentSpec(), {"external": "episodic", "external.neighbours": 7})
    votes = specs.override(agent, "external", "votes")
    assert (votes.external.neighbours, votes.external.temperature) == (7, VotesSpec().temperature)
    memory = {"working": "lstm", "working.hidden_size": 32, "replay.window": 8}
    long = specs.override(specs.override_all(AgentSpec(), memory), "working", "fast-weights")
    assert (long.working.hidden_size, long.working.horizon) == (32, 1000)  # of an lstm 0 means as usual
