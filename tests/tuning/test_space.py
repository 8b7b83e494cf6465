"""The search space: what settings declare, what an agent uses of it, and what words narrow it to."""

import dataclasses

import numpy as np
import pytest
from support.kinds import own

from engram import registry, spaces, specs
from engram.agents.presets import PRESETS, preset
from engram.agents.spec import AgentSpec
from engram.errors import EngramError, SpecError
from engram.ranges import Linear, Log, OneOf, Times
from engram.specs import setting
from engram.tuning.space import Number, from_json, space_of, to_json, value_at

BOX = spaces.Box((4,))


def kinds() -> list[type]:
    """Every spec of an agent."""
    found: list[type] = [AgentSpec]
    found += [
        type_
        for field in dataclasses.fields(AgentSpec)
        if isinstance(type_ := specs.type_of(AgentSpec, field.name), type)
    ]
    found += [registry.find(role, name) for role in registry.roles() for name in own(role)]
    return [kind for kind in found if dataclasses.is_dataclass(kind)]


def test_every_declared_range_holds_values_of_its_setting():
    declared = 0
    for kind in kinds():
        for field in dataclasses.fields(kind):
            found = field.metadata.get("search")
            if found is None:
                continue
            declared += 1
            values = (
                found.values
                if isinstance(found, OneOf)
                else ()
                if isinstance(found, Times)
                else (found.low, found.high)
            )
            assert all(specs.fitted(kind, field.name, value) is not None for value in values)
            assert isinstance(found, OneOf) or found.low < found.high
    assert declared > 40


@pytest.mark.parametrize("search", [Linear(0, 2), Log(0.5, 1.5), OneOf(0.5, 1.5)])
def test_a_range_that_the_setting_does_not_allow_is_refused_where_it_is_declared(search):
    with pytest.raises(SpecError, match=r"1\.5|2"):
        setting(0.5, "a share", low=0, high=1, search=search)
    setting(0.5, "a share", low=0, high=1, search=OneOf(0.5, 1.0))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_space_of_every_preset_holds_its_own_values_and_only_such_as_it_takes(name):
    agent, drawn = preset(name, BOX, 20_000), np.random.default_rng(0)
    space = space_of(agent, ())
    for one in space:
        own = value_at(agent, one.path)
        assert one.nearest(own) in (own, specs.show(own)), one
        values = [one.low, one.high, drawn.uniform(one.low, one.high)] if isinstance(one, Number) else one.values
        for value in values:
            specs.unfinished(agent, {one.path: one.text(value)})
    assert from_json(to_json(space)) == space


def paths(name: str, *words: str, fixed: tuple[str, ...] = ()) -> list[str]:
    return [one.path for one in space_of(preset(name, BOX, 20_000), fixed, words)]


def test_only_what_the_agent_uses_is_searched():
    assert "optimizer.learning_rate" in paths("dqn")
    assert not any(path.startswith(("recall.", "external.", "draw.", "head.")) for path in paths("dqn"))
    assert {"recall.n_step", "external.neighbours"} <= set(paths("attention-dqn"))
    assert "replay.window" in paths("drqn")
    assert "replay.window" not in paths("dqn")
    assert {"draw.exponent", "head.noise", "head.returns.atoms"} <= set(paths("rainbow"))
    assert not any(path.startswith("exploration.") for path in paths("rainbow"))  # its noise explores
    assert "target.every" in paths("dqn")
    assert "target.rate" not in paths("dqn")
    assert "target.rate" in paths("auto")
    assert "discount" not in paths("dqn", fixed=("discount",))


def test_words_narrow_the_space_and_name_ranges():
    assert paths("dqn", "discount", "optimizer.learning_rate") == ["discount", "optimizer.learning_rate"]
    agent = preset("dqn", BOX, 20_000)
    (one,) = space_of(agent, (), ["n_step=1..30"])
    assert one == Number("n_step", 1, 30, whole=True, log=True)
    (one,) = space_of(agent, (), ["draw=uniform|prioritized"])
    assert one.told == "one of uniform, prioritized"
    head, width, noise = space_of(agent, (), ["head.width=64|128", "head=q|dueling", "head.noise=0..0.5"])
    assert [head.path, width.path, noise.path] == ["head", "head.width", "head.noise"]
    assert noise == Number("head.noise", 0, 0.5, whole=False, log=False)
    assert space_of(agent, (), ["head=q|dueling", "head.width"])[1].told == "one of 0, 64, 128, 256"
    (one,) = space_of(agent, (), ["encoder.widths=64|128,128"])
    assert one.told == "one of 64, 128,128"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["discont"], "did you mean 'discount'?"),
        (["envs"], "is a setting of the run, not of its agent"),
        (["gamma"], "'gamma' is called 'discount' here"),
        (["head.widht"], "'head.widht' is not a setting"),
        (["discount=0.5..1.5"], "discount = 1.5 is out of range; expected at most 1"),
        (["n_step=1.5..3"], "n_step = 1.5 has the wrong type"),
        (["n_step=5..2"], "has its ends in the wrong order"),
        (["reward.rescale"], "has no range of its own to search here; write one"),
        (["reward.rescale=false..true"], "is no number; write its values as"),
        (["anneal.n_step=5..9"], "--search anneal.n_step was given, but nothing reads it while anneal.updates = 0"),
        (["external=none|episodic", "recall.frozen_width=16|32"], "nothing reads it while recall.keys = online; set"),
        (["optimizer"], "is a group of settings; name one of optimizer.learning_rate"),
        (["head=q|duelling"], "did you mean 'dueling'?"),
        (["discount=0.9"], "is one value; write discount=0.9 alone to fix it"),
        (["discount="], "names no range"),
        (["discount", "discount=0.1..0.2"], "was given twice"),
        (["double"], "has no range of its own"),
        (["learn_every=1..4"], "is fixed by learn_every=VALUE and searched"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_in_a_sentence(words, said):
    with pytest.raises(EngramError) as refused:
        space_of(preset("dqn", BOX, 20_000), ("learn_every",), words)
    assert said in str(refused.value)


def test_an_empty_space_is_refused():
    agent = preset("dqn", BOX, 20_000)
    with pytest.raises(SpecError, match="nothing is left to search"):
        space_of(agent, [one.path for one in space_of(agent, ())])


def test_a_number_is_written_short_and_stays_in_its_range():
    one = Number("x", 1.2345e-5, 0.5, whole=False, log=True)
    assert [one.text(value) for value in (0.0123456, 1.2345e-5, 0.49999)] == ["0.0123", "1.2345e-05", "0.5"]
    assert Number("n", 1, 9, whole=True, log=False).text(3.0) == "3"
