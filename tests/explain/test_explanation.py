"""`engram.explain`: what it tells of agents of every kind, that it is the same for a seed, and what it refuses."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from support import tolds
from support.explained import trained

import engram
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.features import FeaturesSpec
from engram.encoders.vector import VectorSpec
from engram.errors import SpecError
from engram.explaining import page, trying
from engram.explaining.explanation import Explanation, _about, _holds, dumped
from engram.explaining.highlights import key_moments
from engram.explaining.recording import record
from engram.explaining.sentences import of_step
from engram.explaining.text import lines, step_lines
from engram.explaining.worlds import Edit, replayed
from engram.external.episodic import EpisodicSpec
from engram.heads.q import QSpec
from engram.heads.returns import QuantileSpec
from engram.specs import override_all
from engram.working.history import HistorySpec

ALL = AgentSpec(
    encoder=FeaturesSpec(token_width=8, heads=2),
    working=HistorySpec(window=4, layers=1, heads=2, hidden_size=8, inner=8),
    external=EpisodicSpec(capacity=40, neighbours=4, half_confidence_distance=1.0),
    head=QSpec(),
    replay=ReplaySpec(window=4),
)
PLAIN = AgentSpec(encoder=VectorSpec(widths=(8,)))


@pytest.fixture(scope="module")
def told() -> Explanation:
    """An agent with everything: attention over its input, over its history and over what it remembers."""
    return engram.explain(trained(ALL, fill=30), seed=1, faithfulness="fast", max_episode_steps=6)


def test_parts_add_up_and_every_kind_of_looking_is_told(told: Explanation):
    for step in told.told.steps:
        assert step.from_network + step.from_memories + step.rest == pytest.approx(step.margin)
        assert abs(step.rest) <= 1e-5 * max(1, abs(step.margin))
        gave = sum(one.gave for one in step.memories) + step.others[2]
        assert gave == pytest.approx(step.from_memories)
        assert step.attention.shape[1] == len(step.parts) == 4
        assert [part.name for part in step.parts] == [
            "cart position (m)", "cart velocity (m/s)", "pole angle (rad)", "pole velocity (rad/s)",
        ]  # fmt: skip
        assert (step.picture is not None, len(step.facts)) == (True, 4)
    later = told.step(5)
    assert [past for past, _ in later.recalled] == [2, 3, 4, 5]
    assert [past for past, _ in later.still_moves] == [2, 3, 4]
    assert len(told.memories(5)) == 8
    effects = [abs(one.mattered or 0) for one in told.memories(5)]
    assert effects == sorted(effects, reverse=True)
    assert told.told.actions == ["left", "right"]


def test_faithfulness_is_measured_of_each_of_them(told: Explanation):
    assert [one.what for one in told.faithfulness] == ["memories", "history", "input"]
    assert all(one.samples and one.curves and one.interval is not None for one in told.faithfulness)
    assert any("the worst of these fills" in note for note in told.faithfulness[2].notes)


def test_sentences_claim_no_reasons(told: Explanation):
    words = " ".join([*lines(told.told), *step_lines(told.told, told.step(3))]).lower()
    assert not any(word in words for word in ("because", "understands", "wants"))
    assert told.step(3).sentence.startswith("Chose ")


def test_it_is_json_and_a_page_and_the_same_for_a_seed(told: Explanation, tmp_path: Path):
    again = engram.explain(trained(ALL, fill=30), seed=1, faithfulness="fast", max_episode_steps=6)
    assert dumped(again) == dumped(told)
    assert again.save(tmp_path / "a.html").read_bytes() == told.save(tmp_path / "b.html").read_bytes()
    found = json.loads(dumped(told))
    assert found["steps"][2]["margin"] == told.step(2).margin
    assert "picture" not in found["steps"][2]
    bare = told.without_pictures()
    assert all(step.picture is None for step in bare.told.steps)
    assert "without pictures" in bare.told.notes
    assert len(bare.save(tmp_path / "c.html").read_bytes()) < len((tmp_path / "a.html").read_bytes())


def test_steps_can_be_chosen_and_off_measures_nothing():
    found = engram.explain(trained(PLAIN), steps=(2, 4), faithfulness="off", episodes=2)
    assert [(step.episode, step.t) for step in found.told.steps] == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert found.faithfulness == []
    assert found.told.health is None
    assert found.step(2).memories == []
    assert found.step(2).without_memories is None


def test_distributions_are_told():
    spec = replace(PLAIN, head=QSpec(returns=QuantileSpec(quantiles=4)), loss=engram_loss())
    step = engram.explain(trained(spec), faithfulness="off", max_episode_steps=2).step(0)
    assert step.distribution is not None
    for action, row in enumerate(step.distribution):
        assert sum(chance for _, chance in row) == pytest.approx(1.0)
        assert sum(value * chance for value, chance in row) == pytest.approx(step.q[action], abs=1e-5)


def engram_loss() -> Any:
    from engram.losses.distributional import QuantileHuberSpec

    return QuantileHuberSpec()


def test_a_policy_is_told_by_its_probabilities():
    from engram.agents.ppo import PPOSpec
    from engram.exploration.sample import SampleSpec
    from engram.heads.actor_critic import ActorCriticSpec

    spec = PPOSpec(
        encoder=VectorSpec(widths=(8,)), head=ActorCriticSpec(), exploration=SampleSpec(),
        external=EpisodicSpec(capacity=40, neighbours=4),
    )  # fmt: skip
    found = engram.explain(trained(spec, fill=30), faithfulness="off", max_episode_steps=2)
    step = found.step(1)
    assert found.told.unit == "log-probability"
    assert sum(np.exp(step.preference)) == pytest.approx(1.0)
    assert (step.from_memories, step.from_network) == (0.0, pytest.approx(step.margin, abs=1e-6))
    assert [one.mattered for one in step.memories] == [0.0] * len(step.memories)
    assert any("of which the external memory is no part" in note for note in found.told.notes)


def test_a_policy_beside_two_estimates_of_q_is_told_by_its_probabilities():
    from engram.agents.sac import SACSpec

    for memory in ({}, {"working": "gru", "working.hidden_size": 8, "replay.window": 4}):
        spec = override_all(SACSpec(encoder=VectorSpec(widths=(8,))), memory)
        found = engram.explain(trained(spec), faithfulness="fast", max_episode_steps=3)
        step = found.step(1)
        assert found.told.unit == "log-probability"
        assert sum(np.exp(step.preference)) == pytest.approx(1.0)
        assert step.margin == pytest.approx(abs(step.preference[0] - step.preference[1]), abs=1e-6)
        assert (step.from_memories, len(step.memories)) == (0.0, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"faithfulness": "much"}, "faithfulness = 'much' was given; expected fast, full, off"),
        ({"steps": (3, 3)}, "steps = 3:3 holds no step; write the first and the one after the last, as in 0:50"),
        (
            {"steps": (900, None)},
            "steps = 900: lies outside of the episode, which had 11 steps; write a first step below 11",
        ),
        ({"episodes": 0}, "episodes = 0 was given; expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_told_is_refused_in_a_sentence(given: dict[str, Any], said: str):
    with pytest.raises(SpecError) as caught:
        engram.explain(trained(PLAIN, "engram/PassiveTMaze-v0"), **given)
    assert str(caught.value) == said


def test_no_agent_and_no_such_step():
    with pytest.raises(SpecError, match=r"^int was given; expected a run's directory, a Trainer, or what engram.load"):
        engram.explain(3)
    found = engram.explain(trained(PLAIN), faithfulness="off", steps=(1, 3), max_episode_steps=4)
    with pytest.raises(SpecError) as caught:
        found.step(7)
    assert str(caught.value) == "step 7 is not told of episode 0; its steps 1 to 2 are"
    with pytest.raises(SpecError, match="episode 4 is not told; there are 1, counted from 0"):
        found.step(1, episode=4)


def test_key_moments_say_why(told: Explanation):
    steps = told.told.steps
    found = dict(key_moments(steps, 0.99))
    assert len(found) <= 10
    assert list(found) == sorted(found)
    largest = max(range(len(steps)), key=lambda place: steps[place].margin)
    assert "largest margin" in found[largest]
    ended = [*steps[:-1], replace(steps[-1], terminated=True)]
    assert dict(key_moments(ended, None))[len(steps) - 1].endswith("last step")


def test_a_page_says_what_it_holds_of_training():
    bare = tolds.cartpole(3).steps
    bare = [replace(step, memories=[replace(one, facts=[]) for one in step.memories]) for step in bare]
    assert bare[0].memories
    seen = replace(bare[0], memories=[replace(bare[0].memories[0], facts=[("pole angle", "0.1")])])
    told = "numbers of the observations of training that were remembered"
    assert told not in _holds(bare, True)
    assert told in _holds([seen], True)


def test_parts_are_covered_and_the_memory_is_poisoned(told: Explanation):
    measured = [step for step in told.told.steps if step.parts_mattered]
    assert len(measured) == len(told.told.steps)
    assert all(part < len(step.parts) for step in measured for part, _ in step.parts_mattered)
    assert any(effect != 0 for step in measured for _, effect in step.parts_mattered)
    assert told.told.health is not None
    names = [light.name for light in told.told.health.lights]
    assert {"same episode", "poisoned by strange frames (measured)"} <= set(names)
    chinese = json.loads(page.source("words.json"))["zh"]["sentences"]
    assert {*names, *(part for light in told.told.health.lights for part in light.rule.split("; "))} <= set(chinese)
    assert told.told.worlds == []


def test_a_world_that_is_not_edited_is_played_as_it_was():
    """The words of chance are those that the environment was given."""
    agent = trained(AgentSpec(encoder=VectorSpec(widths=(4,))), "engram/ContextBandit-v0")
    recording = record(agent, 2, seed=3, pictured=False)
    episode = recording.episodes[1]
    first = jax.tree.map(lambda leaf: leaf[0], (episode.states, episode.kept.state.frames))
    edit = Edit("nothing", first[0], jax.tree.map(lambda leaf: leaf[-1], first[1]), 0)
    played = replayed(recording.env, edit, episode.kept.action[:12], trying._keys(recording, 1, 12))
    own = jax.tree.map(lambda leaf: leaf[:13, -1], episode.kept.state.frames)
    assert all(map(np.array_equal, jax.tree.leaves(played), jax.tree.leaves(own)))


def test_sentences_and_notes_say_how_far_leaving_out_went(told: Explanation):
    step = told.step(5)
    assert "mattered most of the 8 left out" in of_step(replace(step, others=(3, 0.1, 0.0)), ["left", "right"], False)
    assert "mattered most:" in of_step(replace(step, others=(0, 0.0, 0.0)), ["left", "right"], False)
    among = "a step left out is still among the stacked frames of the steps after it"
    assert among not in told.told.notes
    teller: Any = SimpleNamespace(by_policy=False, ledger=None, recording=SimpleNamespace(episodes=[]))
    teller.spec = SimpleNamespace(has_memory=True, observation=SimpleNamespace(stack=4))
    assert among in inspect.unwrap(_about)(teller)
