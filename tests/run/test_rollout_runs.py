"""Runs of agents that learn from rollouts: what is refused, what is stored, and what may be done afterwards."""

import io
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.bad_envs import Walk

import engram
from engram import Trainer, spaces, specs
from engram.agents.agent import Rhythm
from engram.agents.ppo import PPOSpec
from engram.agents.presets import preset
from engram.agents.rollout_learning import CollectSpec
from engram.cli.commands import main
from engram.envs.host.make import make_host
from engram.errors import CheckpointError, EngramError, SpecError
from engram.run.display import Display
from engram.run.making import learns, notes_at_start
from engram.run.plan import RunPlan, agent_from_json, agent_to_json
from engram.runners.host import HostRunner

DEVICE, HOST = "engram/CartPole-v1", "CartPole-v1"
SMALL: dict[str, Any] = {
    "encoder.widths": (8,), "rollout.steps": 8, "rollout.epochs": 2, "rollout.minibatches": 2,
}  # fmt: skip


def trained(env: Any, folder: Path | None = None, name: str = "ppo", steps: int = 128, **given: Any) -> Trainer:
    """A small run."""
    run = {"envs": 4, "log_every": 64} | given
    return Trainer(env, run=folder, preset=name, steps=steps, overrides=SMALL, **run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of PPO on the device; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    with trained(DEVICE, folder, log=["csv"]) as trainer:
        trainer.learn()
    return folder


# -- acting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [6, 8])
def test_every_rollout_is_by_the_newest_parameters_and_ends_with_what_followed(steps: int, monkeypatch):
    """Episodes of Walk take 4 steps: what a block of 6 ends with is shown next, and a block of 8 ends with an end."""
    space, envs = spaces.Box((2,)), 2
    chosen = {"encoder.widths": (8,), "rollout.epochs": 1, "rollout.minibatches": 1, "rollout.steps": steps}
    agent = specs.override_all(preset("ppo", space, 1_000), chosen).build(space, 2, envs)
    with closing(make_host(Walk, seed=3, envs=envs)) as batch:
        runner, blocks = HostRunner(agent, batch, 0, group=4), []
        settle = runner.learner.settle
        monkeypatch.setattr(runner.learner, "settle", lambda block, at: (blocks.append(block), settle(block, at)))
        runner.start()
        for moment in range(1, 4):
            network = jax.tree.map(np.array, runner.minds()[0].network)
            runner.advance(moment * steps * envs, lambda: False)
            assert len(blocks) == moment
            block = blocks[-1]
            frames = block.observation.reshape(steps * envs, 1, 2)
            decision = jax.vmap(network)(frames, np.zeros((steps * envs, 0), np.uint32))
            np.testing.assert_allclose(block.noted.known.value.reshape(-1), decision.value, rtol=1e-4, atol=1e-6)
            seen, done = runner.collector._observation, block.columns[-1, :, 4] == 1
            assert done.all() == (steps == 8 or moment == 2)
            assert (block.final_observation[-1] == seen).all() == (not done.any())
            assert runner.learner.report(moment * steps * envs)["updates"] == moment
        assert not any((block.final_observation[-1] == 0).all() for block in blocks)


def test_as_many_environments_as_a_rollout_needs_unless_somebody_says_how_many():
    for env, envs in ((DEVICE, 64), (HOST, 8)):
        with Trainer(env, preset="ppo", steps=2_000) as trainer:
            assert trainer.plan.envs == envs
    with Trainer(DEVICE, preset="pqn", steps=2_000, envs=3) as trainer:
        assert trainer.plan.envs == 3
    with Trainer(DEVICE, steps=2_000) as trainer:
        assert trainer.plan.envs == 1


# -- kinds of agents -------------------------------------------------------------------------------------------------


def test_another_kind_of_agent_is_taken_with_the_parts_that_it_needs():
    with pytest.raises(SpecError) as error:
        Trainer(DEVICE, steps=200, overrides={"agent": "ppo"})
    assert str(error.value) == (
        "agent=ppo needs a head with a policy, which head=q has not; set head=actor-critic, or use --preset ppo"
    )
    parts = {"agent": "ppo", "head": "actor-critic", "exploration": "sample", "rollout.steps": 16}
    with Trainer(DEVICE, steps=200, envs=2, overrides=parts) as trainer:
        assert isinstance(trainer.plan.agent, PPOSpec)
        assert trainer.plan.agent.rollout.steps == 16
    with pytest.raises(SpecError, match="^'rollout.stepps' is not a setting; did you mean 'rollout.steps'"):
        Trainer(DEVICE, steps=200, overrides={"agent": "pqn", "rollout.stepps": 16})
    with pytest.raises(EngramError, match="^no agent is called .nobodys.; known: ppo, pqn, q-learning"):
        Trainer(DEVICE, steps=200, overrides={"agent": "nobodys"})


@pytest.mark.parametrize("name", ["pqn", "ppo", "a2c", "ppo-rnn", "pqn-memory"])
def test_a_stored_plan_names_the_kind_and_a_q_learner_has_none(tmp_path: Path, name: str):
    space = spaces.Box((4,))
    agent = preset(name, space, 1_000)
    values = json.loads(json.dumps(agent_to_json(agent)))
    assert values["kind"] == name.partition("-")[0].replace("a2c", "ppo")
    assert agent_from_json(values) == agent
    other = preset("dqn", space, 1_000)
    assert "kind" not in agent_to_json(other)
    assert agent_from_json(json.loads(json.dumps(agent_to_json(other)))) == other


def test_a_plan_is_read_as_it_was_written(run: Path, tmp_path: Path):
    plan = RunPlan.read(run)
    assert isinstance(plan.agent, PPOSpec)
    plan.write(tmp_path)
    assert RunPlan.read(tmp_path) == plan
    assert RunPlan.read(tmp_path).digest() == plan.digest()
    values = json.loads((run / "run.json").read_text())
    values["agent"]["kind"] = "nobodys"
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="needs agent=nobodys, which is not known here"):
        RunPlan.read(tmp_path)


KINDS = {"action": np.int64, "reward": np.float64, "terminated": bool}


# -- what needs a replay ---------------------------------------------------------------------------------------------


def test_what_would_fill_a_replay_is_refused(run: Path, tmp_path: Path):
    told = r"was given for a replay, but this agent learns without one \(agent=ppo, rollouts of 8\); leave it out, or"
    episode = (np.zeros((3, 4), np.float32), np.zeros(2, np.int64), np.ones(2), True)
    with trained(HOST) as trainer, pytest.raises(SpecError, match=f"^prefill {told}"):
        trainer.prefill([episode])
    columns = {name: np.zeros(2, kind) for name, kind in KINDS.items()} | {"truncated": np.array([False, True])}
    np.savez(tmp_path / "shown.npz", observation=np.zeros((2, 4)), final_observation=np.zeros((1, 4)), **columns)
    with pytest.raises(SpecError, match=f"^demonstrations {told}"):
        trained(HOST, demonstrations=str(tmp_path / "shown.npz"))
    told = r"^start_with = 'replay' was given, but .*ppo@128 learned without one \(agent=ppo, .*take less from it"
    with pytest.raises(CheckpointError, match=told):
        trained(DEVICE, start_from=str(run), start_with="replay")


def test_a_run_without_a_replay_is_no_demonstration(run: Path):
    with pytest.raises(CheckpointError) as error:
        Trainer(DEVICE, preset="dqn", demonstrations=str(run), steps=100)
    assert str(error.value).startswith("demonstrations lie in a replay, but ")
    assert "ppo@128 learned without one (agent=ppo, rollouts of 8); name a run that has one" in str(error.value)


# -- after learning --------------------------------------------------------------------------------------------------


def test_a_run_tells_what_it_is_and_what_it_learned(run: Path, capsys):
    facts = engram.info(run)
    assert (facts["preset"], facts["envs"], facts["step"]) == ("ppo", 4, 128)
    assert facts["agent"]["kind"] == "ppo"
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agent"] == facts["agent"]
    assert main(["info", str(run)]) == 0
    assert "ppo" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert "q_mean" not in row
        assert row["entropy"] > 0
        assert np.isfinite([row["loss"], row["policy_loss"], row["value_loss"], row["clipped"]]).all()
    assert rows[-1]["updates"] == 128 // 32 * 4
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert "entropy" in header


def test_it_is_evaluated_and_predicts(run: Path, capsys):
    assert main(["evaluate", str(run), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    with engram.load(run) as agent:
        shown = np.full(4, 0.01, np.float32)
        action, _ = agent.predict(shown)
        assert action in (0, 1)
        drawn = {int(agent.predict(shown, deterministic=False)[0]) for _ in range(40)}
        assert drawn == {0, 1}, "a fresh policy is nearly uniform"
        assert agent.evaluate(episodes=2).mean > 0


def test_a_run_begins_with_what_another_one_learned(tmp_path: Path):
    with trained(DEVICE, tmp_path / "old", "pqn") as trainer:
        trainer.learn()
        old = jax.tree.map(np.array, trainer.runner.minds()[0])
    with trained(DEVICE, tmp_path / "new", "pqn", start_from=str(tmp_path / "old")) as trainer:
        jax.tree.map(np.testing.assert_array_equal, trainer.runner.minds()[0], old)
        assert trainer.steps == 0
        trainer.learn()
    assert engram.info(tmp_path / "new")["step"] == 128


@pytest.mark.parametrize("env", [DEVICE, HOST])
def test_the_display_shows_what_there_is(env: str, tmp_path: Path, capsys):
    """An agent with a policy has no Q to show."""
    words = ["train", env, "--preset", "ppo", "--envs", "4", "--steps", "128", "--log-every", "64"]
    assert main([*words, "--run", str(tmp_path), *[f"{name}={show(value)}" for name, value in SMALL.items()]]) == 0
    said = capsys.readouterr()
    assert " entropy 0." in said.out
    assert "Q " not in said.out
    display = Display(128, io.StringIO())
    display.judges = ("entropy",)
    assert dict(display.panel())["entropy"] == "nothing learned yet"
    display.update({"step": 64, "loss": 1.0, "entropy": 0.5})
    assert dict(display.panel())["entropy"] == "0.5"
    assert "Q" not in dict(display.panel())


def show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Notes:
    """What a run says."""

    def __init__(self):
        self.told: list[str] = []

    def on_note(self, trainer: Trainer, text: str) -> None:
        self.told.append(text)


def test_a_run_of_a_single_rollout_learns_and_says_nothing_else():
    """Two environments: its last step is that at which learning begins."""
    notes = Notes()
    with trained(HOST, steps=16, envs=2, callbacks=[notes]) as trainer:
        assert trainer.learn().runner.report()["updates"] == 4
    assert [text for text in notes.told if "nothing will be learned" in text] == []
    assert "a rollout of 8 steps of every environment: " in " ".join(notes.told)
    assert "(one observation is taken to tell enough: --preset pqn-rnn or ppo-rnn if not)" in notes.told[0]


@pytest.mark.parametrize(
    ("steps", "envs", "group", "rhythm", "on_device", "expected"),
    [
        (32, 4, 1, Rhythm(8, 32, 0), True, True),
        (31, 4, 1, Rhythm(8, 32, 0), True, True),  # it ends with the cycle
        (31, 4, 1, Rhythm(8, 32, 0), False, True),  # it ends with a step of all environments
        (28, 4, 1, Rhythm(8, 32, 0), False, False),
        (1_000, 1, 1, Rhythm(4, 1_000, 1), True, True),
        (996, 1, 1, Rhythm(4, 1_000, 1), True, False),
        (998, 1, 1, Rhythm(4, 998, 1), True, True),
        (998, 1, 1, Rhythm(4, 998, 1), False, False),
        (1_000, 1, 8, Rhythm(4, 1_000, 1), False, False),  # 31 blocks of 32 are full
        (1_024, 1, 8, Rhythm(4, 1_000, 1), False, True),
        (3, 1, 1, Rhythm(4, 0, 1), False, False),
    ],
)
def test_a_run_that_is_too_short_to_learn_is_known(
    run: Path, steps: int, envs: int, group: int, rhythm: Rhythm, on_device: bool, expected: bool
):
    plan = replace(RunPlan.read(run), steps=steps, envs=envs, group=group)
    assert learns(plan, rhythm, on_device) is expected


@pytest.mark.parametrize(
    ("name", "envs", "told"),
    [
        ("dqn", 32, "pqn"), ("attention-dqn", 32, "pqn-memory"), ("drqn", 32, "pqn-rnn"),
        ("dqn", 31, None), ("pqn", 32, None),
    ],
)  # fmt: skip
def test_many_environments_of_an_agent_with_a_replay_are_told_of_another_way(name: str, envs: int, told: str | None):
    with Trainer(DEVICE, preset=name, steps=96, envs=envs) as trainer:
        plan, runner = trainer.plan, trainer.runner
        found = [note for note in notes_at_start(plan, runner.agent, None, True) if "are many" in note]
        together, turned = (
            [*notes_at_start(other, runner.agent, None, True)]
            for other in (replace(plan, agents=2), replace(plan, agent=replace(plan.agent, turns=True)))
        )
        demonstrated = [*notes_at_start(replace(plan, demonstration_rows=5), runner.agent, None, True)]
    start = (
        f"{envs} environments on the device are many: --preset {told} learns from rollouts of them, without a replay"
    )
    assert [note.startswith(start) for note in found] == [True] * (told is not None)
    for name, notes in (("smax", together), ("go", turned)):
        assert any(f"--preset {name}" in note for note in notes) == (told is not None)
    assert not any("are many" in note for note in demonstrated)


@pytest.mark.parametrize(
    ("env", "name", "told"),
    [
        ("engram/Dialogue-v0", "auto", "pqn"),
        ("engram/Dialogue-v0", "drqn", "pqn-rnn"),
        ("engram/TwoLinkArm-v0", "decqn", "pqn head=decoupled"),
        ("engram/TwoLinkArm-v0", "her", None),  # nothing learns from goals in hindsight without a replay
    ],
)
def test_what_is_told_can_be_made(env: str, name: str, told: str | None):
    """Whoever follows the sentence gets an agent."""
    with Trainer(env, preset=name, steps=96, envs=32) as trainer:
        notes = [*notes_at_start(trainer.plan, trainer.agent, None, True)]
    found = [note.partition("--preset ")[2].partition(" learns")[0] for note in notes if "are many" in note]
    assert found == ([] if told is None else [told])
    for words in found:
        other, *settings = words.split()
        with Trainer(env, preset=other, steps=96, envs=32, overrides=dict(word.split("=") for word in settings)):
            pass


def test_where_a_run_ends_is_told_if_it_is_beyond_what_was_asked():
    def told(**given: Any) -> list[str]:
        with Trainer(DEVICE, preset="pqn", **given) as trainer:
            return [note for note in notes_at_start(trainer.plan, trainer.agent, None, True) if "ends at" in note]

    assert told(steps=1_000, envs=4, rollout__steps=64) == [
        "the run ends at step 1,024: with whole rollouts, of 256 steps each"
    ]
    assert told(steps=1_024, envs=4, rollout__steps=64) == []
    # One rollout, fitted to the run: 16 steps of each environment.
    assert told(steps=1_000, envs=64) == ["the run ends at step 1,024: with whole rollouts, of 1,024 steps each"]
    with Trainer(DEVICE, preset="pqn", steps=2_000, envs=64, rollout__steps=64) as trainer:
        assert trainer.plan.agent.rollout.steps == 64


def test_numbers_that_do_not_go_together_are_refused_before_the_first_step():
    with pytest.raises(SpecError, match="rollout.minibatches = 7 does not divide the 64 steps of a rollout"):
        Trainer(DEVICE, preset="ppo", steps=1_000, envs=4, rollout__steps=16, rollout__minibatches=7)


def test_a_distribution_that_the_loss_does_not_see_is_said():
    with Trainer(DEVICE, preset="pqn", steps=96, envs=4, overrides={"head.returns": "quantile"}) as trainer:
        notes = [*notes_at_start(trainer.plan, trainer.agent, None, True)]
    assert (
        "of the distribution of returns the loss sees the mean alone; to learn it whole: loss=quantile-huber" in notes
    )
    whole = {"head.returns": "quantile", "loss": "quantile-huber"}
    with Trainer(DEVICE, preset="pqn", steps=96, envs=4, overrides=whole) as trainer:
        assert not any("mean alone" in note for note in notes_at_start(trainer.plan, trainer.agent, None, True))


def test_one_environment_is_told_to_be_few():
    with Trainer(DEVICE, preset="pqn", steps=96, envs=1) as trainer:
        notes = [*notes_at_start(trainer.plan, trainer.agent, None, True)]
    assert any("a rollout of one environment is one course of events" in note for note in notes)


def test_a_rollout_that_was_given_whole_stays():
    given = CollectSpec(steps=8, epochs=2, minibatches=3)
    with pytest.raises(SpecError, match="rollout.minibatches = 3 does not divide the 32 steps"):
        Trainer(DEVICE, preset="pqn", steps=96, envs=4, overrides={"rollout": given})
    whole = CollectSpec(steps=8, epochs=2, minibatches=16)
    with Trainer(DEVICE, preset="pqn", steps=96, envs=4, overrides={"rollout": whole}) as trainer:
        assert trainer.plan.agent.rollout == whole


@pytest.mark.parametrize("name", ["pqn", "ppo", "ppo-rnn"])
def test_a_run_from_another_has_as_many_environments(tmp_path: Path, name: str):
    """Without a preset the agent is that of the other run; of one environment a rollout could not be divided."""
    small = {"encoder__widths": (8,), "steps": 4_096}
    with Trainer(DEVICE, run=tmp_path, preset=name, envs=16, **small) as trainer:
        trainer.save()
    with Trainer(DEVICE, start_from=str(tmp_path), steps=2_048) as trainer:
        assert trainer.plan.envs == 16
        assert trainer.plan.preset == name
    with Trainer(HOST, start_from=str(tmp_path), steps=2_048) as trainer:
        assert trainer.plan.envs == 8
    with Trainer(DEVICE, start_from=str(tmp_path), steps=2_048, envs=3) as trainer:  # minibatches are made to divide
        assert trainer.plan.envs == 3


def test_many_environments_on_the_host_are_told_of_no_other_way():
    notes = Notes()
    given: dict[str, Any] = {"encoder__widths": (8,), "replay__start": 64, "replay__batch_size": 8}
    with Trainer(HOST, preset="dqn", steps=96, envs=32, callbacks=[notes], **given) as trainer:
        trainer.learn()
    assert not any("are many" in text for text in notes.told)


@pytest.mark.slow
def test_its_settings_are_searched(tmp_path: Path):
    found = engram.tune(
        DEVICE, study=tmp_path, trials=2, search=["clip", "trace"], overrides=SMALL, preset="ppo", steps=128,
        seeds=1, envs=4, evaluate_every=64, evaluate_episodes=1,
    )  # fmt: skip
    assert [trial["outcome"] for trial in found.trials] == ["complete", "complete"]
