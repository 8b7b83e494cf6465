"""Beams by hand, and what cannot be translated."""

import io
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram.agents.policy import PolicyState
from engram.cli.commands import main
from engram.envs.translation import __main__ as command
from engram.envs.translation.cleaning import filled, numbered
from engram.envs.translation.corpus import find
from engram.errors import SpecError
from engram.play.trained import TrainedAgent
from engram.play.translating import Beam, _grown, translate


def begun(beam: int, places: int) -> Beam:
    """Before the first token of one text; the policy keeps the number of the hypothesis."""
    shape = (1, beam)
    policy = PolicyState(jnp.arange(beam), None, jnp.zeros(beam, jnp.int32), None)
    total = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)[None]
    prefix = jnp.zeros((*shape, places), jnp.int16).at[..., 0].set(1)
    return Beam(policy, prefix, jnp.zeros((*shape, places), jnp.int32), total, jnp.zeros(shape, jnp.int32), total > 0)


def test_a_beam_finds_what_one_hypothesis_misses():
    """First 2 is likelier than 1, but what follows 1 is sure: (0.6, 0.4) then (0.5, 0.5) or (1, 0)."""
    first = jnp.log(jnp.array([1e-9, 0.4, 0.6]))
    then = {1: jnp.log(jnp.array([1.0, 1e-9, 1e-9])), 2: jnp.log(jnp.array([0.5, 0.25, 0.25]))}
    found = {}
    for beam in (1, 2):
        held = _grown(begun(beam, 3), jnp.broadcast_to(first, (1, beam, 3)), jnp.int32(0))
        held = _grown(held, jnp.stack([then[int(token)] for token in held.tokens[0, :, 0]])[None], jnp.int32(1))
        best = int((held.total / held.size)[0].argmax())
        found[beam] = held.tokens[0, best].tolist(), bool(held.over[0, best]), held
    assert found[1][:2] == ([2, 0, 0], True)
    assert found[2][:2] == ([1, 0, 0], True)
    held = found[2][2]
    assert held.prefix[0, 0].tolist() == [1, 2, 1]  # END, then token 1, newest first, as symbols
    stays = _grown(held, jnp.full((1, 2, 3), -5.0), jnp.int32(2))
    np.testing.assert_allclose(stays.total.max(), held.total.max())  # what is over costs nothing more
    assert stays.size.tolist() == [[2, 2]]


def test_hypotheses_keep_their_own_policy_and_what_they_did():
    held = begun(2, 2)._replace(total=jnp.zeros((1, 2)))
    logs = jnp.log(jnp.array([[[0.1, 0.8, 0.1], [0.01, 0.04, 0.95]]]))
    after = _grown(held, logs, jnp.int32(0))
    assert after.policy.frames.tolist() == [1, 0]  # the second hypothesis came first
    assert after.policy.action is not None
    assert after.policy.action.tolist() == [2, 1]


def test_what_a_program_fills_in_goes_through_a_translation_as_it_was():
    text, names = numbered("Save %PRODUCTNAME as %1")
    assert text == "Save ⟨1⟩ as ⟨2⟩"
    assert filled("⟨2⟩: ⟨1⟩ sichern", names) == "%1: %PRODUCTNAME sichern"


def test_another_vocabulary_of_the_same_size_is_refused(tmp_path, monkeypatch, capsys):
    """A folder that was made anew has as many pieces, which mean something else."""
    own = str(tmp_path / "own")
    command.main([own, "--pairs", "60"])
    small = {"replay.batch_size": 8, "encoder.layers": 0, "replay.start": 64}
    about = {"env_args": {"data": own}, "envs": 4, "steps": 200, "evaluate_every": 0, "overrides": small}
    with engram.Trainer("engram/Translate-v0", "cql", run=tmp_path / "run", **about) as trainer:
        trainer.learn()
    agent = engram.load(tmp_path / "run")
    assert len(translate(agent, ["the dog sees the cat"])) == 1
    one, marked = translate(agent, ["the dog sees the cat", "~The  dog sees the cat".lower()])
    assert one == marked  # marks of menus are taken out, as where it learned
    monkeypatch.setattr("sys.stdin", io.StringIO("the dog sees the cat\n\n" + 40 * "cat " + "\nquit\n"))
    capsys.readouterr()
    assert main(["play", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Type a sentence of at most")
    assert f"greedy> {one}" in told
    assert [line for line in told if "text 0 has 40 tokens; this agent translates 1 to" in line]
    with pytest.raises(SpecError, match=r"texts = 'the dog' was given; expected a list of texts"):
        translate(agent, "the dog")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="seed = 1 was given; this run has 1"):
        translate(agent, ["the dog"], seed=1)
    path = tmp_path / "own/corpus.json"
    content = json.loads(path.read_text())
    content["pieces"][5], content["pieces"][6] = content["pieces"][6], content["pieces"][5]
    path.write_text(json.dumps(content))
    find.cache_clear()
    with pytest.raises(SpecError, match="has another vocabulary than this agent learned"):
        translate(agent, ["the dog"])
    moved = (tmp_path / "own").rename(tmp_path / "moved")
    find.cache_clear()
    with pytest.raises(SpecError, match="has another vocabulary than this agent learned"):
        translate(agent, ["the dog"], data=str(moved))  # as long as its own is away, too
    content["pieces"][5], content["pieces"][6] = content["pieces"][6], content["pieces"][5]
    (moved / "corpus.json").write_text(json.dumps(content))
    find.cache_clear()
    assert translate(agent, ["the dog sees the cat"], data=str(moved)) == [one]


def test_an_agent_of_another_environment_is_refused():
    agent = object.__new__(TrainedAgent)
    agent.plan = SimpleNamespace(env="CartPole-v1")  # type: ignore[assignment]
    with pytest.raises(SpecError, match="this agent learned CartPole-v1"):
        translate(agent, ["the dog"])
