"""A run in pieces, or made longer, has the schedules of one long run; what was given outright stays."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import engram
from engram.agents.presets import preset
from engram.errors import CheckpointError, SpecError
from engram.run.plan import RunPlan
from engram.run.planning import longer, new_plan, replanned, with_envs
from engram.run.settings import Given, Session
from engram.run.trainer import Trainer
from engram.spaces import Box

SPACE = Box((4,))
SMALL = dict(encoder__widths=(8,), replay__capacity=300, replay__batch_size=8, replay__start=60)
# What a plan asks of environments.
MADE = SimpleNamespace(observation_space=SPACE, actions=2, envs=1, translator=SimpleNamespace(to_json=lambda: None))


def planned(steps: int | None = None, **given: Any) -> RunPlan:
    keywords = {"steps": steps} | given
    return new_plan("X-v0", Given.of(keywords, None), MADE, False, steps, None)


def schedules(plan: RunPlan) -> tuple[int, int]:
    return plan.agent.exploration.steps, plan.agent.optimizer.decay_steps


def test_forty_calls_of_500_follow_a_run_of_the_usual_length_from_the_second_on():
    plan = new_plan("X-v0", Given.of({}, None), MADE, False, 500, None)
    assert (plan.steps, plan.horizon, *schedules(plan)) == (500, 500, 50, 500)
    for calls in range(1, 40):
        plan = longer(plan, 500 * (calls + 1), 500 * calls)
        assert (plan.steps, plan.horizon, *schedules(plan)) == (500 * (calls + 1), 50_000, 5_000, 50_000)
    assert (plan.log_every, plan.save_every, plan.evaluate_every) == (500, 5_000, 5_000)
    plan = longer(plan, 50_500, 50_000)
    assert (plan.steps, plan.horizon, *schedules(plan)) == (50_500, 100_000, 10_000, 100_000)


def test_a_stated_total_that_is_passed_is_doubled_or_reaches_the_new_end():
    plan = planned(2_000)
    assert longer(plan, 1_500, 1_000) == plan
    assert schedules(longer(plan, 2_100, 2_000)) == (400, 4_000)
    assert schedules(longer(plan, 9_000, 2_000)) == (900, 9_000)


def test_a_longer_run_has_the_schedules_of_a_run_planned_so_long():
    for name in ("auto", "dqn", "drqn", "lru-dqn"):
        plan = replanned(planned(2_000, preset=name), 8_000, 8_000)
        like = preset(name, SPACE, 8_000)
        assert schedules(plan) == (like.exploration.steps, like.optimizer.decay_steps)
        assert plan.agent.replay == preset(name, SPACE, 2_000).replay, "sizes stay"


def test_what_was_given_follows_nothing():
    given = dict(exploration__steps=70, optimizer__decay_steps=90, log_every=11, save_every=12, evaluate_every=13)
    plan = replanned(planned(2_000, **given), 8_000, 8_000)
    assert schedules(plan) == (70, 90)
    assert (plan.log_every, plan.save_every, plan.evaluate_every) == (11, 12, 13)
    kind = replanned(planned(2_000, exploration="boltzmann"), 8_000, 8_000)
    assert kind.agent.exploration.steps == 800, "the name of a kind states no schedule"


def test_evaluations_fall_on_lines_of_metrics_and_short_runs_have_none():
    assert planned(50_000).evaluate_every == 5_000
    assert planned(1_999).evaluate_every == 11 * planned(1_999).log_every == 209
    assert planned(2_000, log_every=300).evaluate_every == 300
    assert planned(999).evaluate_every == 0
    assert planned(999, evaluate_every=100).evaluate_every == 100


def test_the_digest_of_a_plan_is_the_same_at_every_length_and_notices_all_else():
    plan = planned(2_000)
    assert replanned(plan, 8_000, 8_000).digest() == plan.digest()
    assert planned(2_000, exploration__steps=200).digest() != plan.digest()
    assert planned(2_000, discount=0.5).digest() != plan.digest()


@pytest.mark.parametrize("env", ["CartPole-v1", "engram/CartPole-v1"])
def test_a_run_made_longer_in_one_process_is_the_run_resumed_with_a_larger_total(tmp_path: Path, env: str):
    """Both follow 200 steps from step 100 on: twice the steps so far, and the new total."""
    digests = []
    with Trainer(env, run=tmp_path / "one", steps=100, **SMALL) as trainer:
        trainer.learn().learn(100)
        assert schedules(trainer.plan) == (20, 200)
        digests.append(trainer.state_digest())
    with Trainer(env, run=tmp_path / "two", steps=100, **SMALL) as trainer:
        trainer.learn()
    with Trainer(run=tmp_path / "two", resume=True, steps=200) as trainer:
        assert trainer.learn().steps == 200
        assert schedules(trainer.plan) == (20, 200)
        digests.append(trainer.state_digest())
    with Trainer(run=tmp_path / "two", resume=True) as trainer:
        assert schedules(trainer.plan) == (20, 200), "what is stored is what was followed"
    assert digests[0] == digests[1]


def test_a_schedule_acts_from_the_step_at_which_it_was_changed():
    """Exploration that had ended is back in the middle of its fall, for the actor too."""
    with Trainer("CartPole-v1", **SMALL) as trainer:
        trainer.learn(500)
        actor = trainer.runner.collector.actor
        assert actor._plain.chance(500) == pytest.approx(0.1)
        trainer.learn(10)
        assert actor._plain.chance(500) == pytest.approx(0.1 + 0.9 * (1 - 500 / 5_000))


def test_a_finished_run_says_so(tmp_path: Path):
    heard: list[str] = []

    class Notes:
        def on_note(self, trainer: Trainer, text: str) -> None:
            heard.append(text)

    with Trainer("CartPole-v1", run=tmp_path, steps=70, **SMALL) as trainer:
        trainer.learn()
    with Trainer(run=tmp_path, resume=True, callbacks=[Notes()]) as trainer:
        trainer.learn()
    assert heard == ["already at 70 of 70 steps; to go on, add --steps with a larger total"]
    assert engram.info(tmp_path)["step"] == 70


def test_a_second_trainer_of_this_process_is_told_to_close_the_first(tmp_path: Path):
    with Trainer("CartPole-v1", run=tmp_path, **SMALL) as first:
        first.learn(10)
        with pytest.raises(engram.EngramError, match=r"which is this one: call close\(\) of the Trainer that holds it"):
            Trainer(run=tmp_path, resume=True)
    Trainer(run=tmp_path, resume=True).learn(10)  # dropped without close(): it must hold nothing
    with Trainer(run=tmp_path, resume=True) as third:
        assert third.steps == 20


def test_a_start_that_is_refused_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(engram.EngramError, match="needs tensorboardX, which is not installed"):
        Trainer("CartPole-v1", run=tmp_path / "a", track=True, **SMALL).learn(10)
    refusing = engram.EarlyStop(threshold=1.0)
    said = "EarlyStop waits for evaluations, and this run has none"
    with Trainer("CartPole-v1", run=tmp_path / "a", callbacks=[refusing], **SMALL) as trainer:  # noqa: SIM117
        with pytest.raises(SpecError, match=said):
            trainer.learn(10)
    with Trainer("CartPole-v1", run=tmp_path / "a", **SMALL) as trainer:
        assert trainer.learn(10).steps == 10


def test_sizes_of_an_action_in_another_order_are_refused():
    given = {"overrides": {"head.sizes": (9,), "draw": "uniform"}, "steps": 500}
    with pytest.raises(SpecError, match=r"head.sizes = 9 was given, but the numbers of an action have 3,3 values"):
        engram.Trainer("engram/TwoLinkArm-v0", "her", **given)


def test_goals_of_one_side_are_refused_in_a_game_of_two():
    given = {"overrides": {"draw": "hindsight"}, "env_args": {"size": 3}, "steps": 500}
    with pytest.raises(SpecError, match=r"draw=hindsight was given, but in engram/Go-v0 two sides take turns"):
        engram.Trainer("engram/Go-v0", "dqn", **given)


def test_a_run_of_a_team_does_not_go_on_with_another_number_of_agents(tmp_path, monkeypatch):
    from engram.envs.tasks.team_games import MatrixGame

    given = {"encoder__widths": (8,), "replay__start": 16, "replay__capacity": 100, "replay__batch_size": 8}
    with engram.Trainer(
        "engram/MatrixGame-v0", "dqn", run=tmp_path / "team", steps=64, mixing="sum", **given
    ) as trainer:
        trainer.learn(32)
    monkeypatch.setattr(MatrixGame, "agents", 3)
    with pytest.raises(CheckpointError, match=r"now has .* for each of 3 agents, but .* for each of 2 agents"):
        engram.Trainer(run=tmp_path / "team", resume=True)


@pytest.mark.parametrize(("preset", "agent", "envs"), [
    ("pqn", None, 64), ("auto", "pqn", 64), ("auto", "ppo", 64), ("auto", None, None), ("dqn", "sac", None),
])  # fmt: skip
def test_an_agent_without_replay_steps_many_environments_however_it_was_named(preset, agent, envs):
    chosen = {} if agent is None else {"agent": agent}
    given = Given(run={"preset": preset}, agent=chosen, session=Session())
    assert with_envs("engram/CartPole-v1", given, None).run.get("envs") == envs
    stated = given._replace(run={"preset": preset, "envs": 3})
    assert with_envs("engram/CartPole-v1", stated, None).run["envs"] == 3
