"""Steps told while they are played: those of a recording, with names, boxes and cards as they are at each of them."""

from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from support.explained import KEY, Plan, trained
from support.text_games import Coin

from engram import Trainer, spaces
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.entities import EntitiesSpec
from engram.encoders.features import FeaturesSpec
from engram.encoders.tokens import TokensSpec
from engram.envs.device import make_device
from engram.envs.host.make import make_host
from engram.envs.names import names_of
from engram.envs.textgames.game import TextGame
from engram.errors import EngramError, SpecError
from engram.explaining.compared import compare
from engram.explaining.explanation import explain
from engram.explaining.recording import check_whole, record
from engram.explaining.tables import tables
from engram.explaining.text import step_lines
from engram.explaining.watching import watch
from engram.heads.attention import AttentionSpec
from engram.heads.decoupled import DecoupledSpec
from engram.play.trained import TrainedAgent
from engram.working.history import HistorySpec


def test_it_tells_the_steps_of_a_recording_and_hears_of_those_that_are_not_shown():
    agent = trained(AgentSpec(encoder=FeaturesSpec()), "engram/CartPole-v1", max_episode_steps=6)
    recorded = record(agent, seed=5).episodes[0]
    heard: list[Any] = []
    called: list[str] = []
    shown = (2, 3)
    steps = [
        *watch(agent, seed=5, shown=lambda t: t in shown, pass_by=lambda *one: heard.append(one), called=called.extend)
    ]
    assert [step.t for step in steps] == [2, 3]
    assert [one[0] for one in heard] == [t for t in range(recorded.length) if t not in shown]
    for step in steps:
        assert step.q == pytest.approx(recorded.kept.q[step.t].tolist())
        assert step.action == recorded.kept.action[step.t]
    assert called == ["left", "right"]
    assert [part.name for part in steps[0].parts][2] == "pole angle (rad)"
    assert steps[0].attention.shape[1] == 4
    assert steps[0].facts[2] == (steps[0].parts[2].name, steps[0].parts[2].value)
    assert steps[0].picture is not None


def test_entities_have_boxes_that_move_with_them():
    agent = trained(AgentSpec(encoder=EntitiesSpec()), "engram/Intersection-v0", env_args={"openings": 4})
    steps = [*watch(agent, max_episode_steps=3)]
    boxes = [step.parts[0].box for step in steps]
    assert all(boxes)
    assert boxes[0] != boxes[-1]
    kept = record(agent, max_episode_steps=3).episodes[0]
    assert kept.names is not None
    assert [one.boxes[0] for one in kept.names] == boxes


def test_a_card_that_only_the_observation_holds_is_drawn():
    memory = HistorySpec(window=4, layers=1, heads=1, hidden_size=8, inner=8)
    spec = AgentSpec(encoder=TokensSpec(), working=memory, replay=ReplaySpec(window=4))
    steps = [*watch(trained(spec, "engram/RepeatFirst-v0"), max_episode_steps=8)]
    middles = {step.facts[0][1]: step.picture[50, 80].tolist() for step in steps if step.picture is not None}  # type: ignore[index]
    assert len(middles) > 1
    back = [64, 84, 140]  # of a card that lies face down
    assert back not in middles.values()
    assert any(at < step.t for step in steps for at, _ in step.recalled)


class Cart(gymnasium.Env):
    """A host environment whose boxes move."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Any:
        self.time += 1
        return np.full(2, self.time / 10, np.float32), 1.0, False, self.time >= 4, {}

    def parts(self) -> dict[str, Any]:
        left = self.time / 10
        return {"numbers": ["place", "speed"], "actions": ["stay", "go"], "boxes": [(left, 0, left + 0.1, 1), None]}


@dataclass(frozen=True)
class HostPlan(Plan):
    """The plan of a run in an environment object."""


def test_a_host_environment_names_its_parts_at_every_step():
    agent = trained(AgentSpec(encoder=FeaturesSpec()), "engram/NoVelocityCartPole-v0")
    plan = HostPlan(None, agent.plan.agent, spaces.Box((2,)), 2)
    called: list[str] = []
    steps = [*watch(TrainedAgent(plan, agent.minds, Cart), episodes=2, called=called.extend)]
    assert called == ["stay", "go"]
    assert [step.t for step in steps] == [0, 1, 2, 3] * 2
    assert [step.episode for step in steps] == [0] * 4 + [1] * 4
    assert [part.name for part in steps[0].parts] == ["place", "speed"]
    assert [step.parts[0].box[0] for step in steps[:4]] == pytest.approx([0, 0.1, 0.2, 0.3])  # type: ignore[index]
    assert steps[3].truncated
    assert not steps[3].terminated


def test_commands_and_words_are_told_by_the_names_of_their_step():
    """Row 0 is another command in each room: tables, texts and `watch` tell that of the step."""

    def make() -> TextGame:
        return TextGame([lambda: Coin(looks=0)], words=32, rows=4)  # it has to move

    space = make_host(make, seed=0).observation_space
    spec = AgentSpec(encoder=TokensSpec(layers=0), head=AttentionSpec())
    agent = spec.build(space, 4, 1)
    mind = agent.mind(agent.init(KEY))
    played = TrainedAgent(HostPlan(None, spec, space, 4), [mind], make)
    told = explain(played, seed=2, max_episode_steps=12, faithfulness="off").told
    env, called = make(), []
    env.reset()
    for number, one in enumerate(told.steps):
        called.append(env.commands[one.action])
        assert one.called == env.commands
        assert f"Chose {env.commands[one.action]}" in one.sentence
        assert any(f"* {env.commands[one.action]}: " in line for line in step_lines(told, one))
        [(name, words)] = one.facts
        assert name == "text"
        assert f"[here] you are in the {env._game.room}" in words  # type: ignore[attr-defined]
        assert [part.value for part in one.parts if part.value] == words.split()
        assert one.parts[0].label == f"symbol 1 ({words.split()[0]})"
        if number + 1 < len(told.steps):
            env.step(one.action)
    assert len({tuple(step.called) for step in told.steps}) > 1
    seen = [*watch(played, seed=2, max_episode_steps=12)]
    assert [step.called[step.action] for step in seen] == called
    assert [step.facts for step in seen][-1] == told.steps[-1].facts
    assert told.actions == [f"action {number}" for number in range(4)]
    found = tables(told)
    assert [row[2] for row in found["steps"][1:]] == called
    assert [row[3] for row in found["actions"][1:]] == [name for step in told.steps for name in step.called]
    others = (TrainedAgent(played.plan, [agent.mind(agent.init(jax.random.PRNGKey(key)))], make) for key in range(20))
    compared = (compare(played, other, seed=2, max_episode_steps=12).differences for other in others)
    for one in next(each for each in compared if each):  # the first that would have chosen otherwise
        offered = told.steps[one.t].called
        assert one.called == (offered[one.first], offered[one.second])


class Breaking(Cart):
    """A host environment that draws itself, and breaks."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.zeros((8, 8, 3), np.uint8)

    def step(self, action: int) -> Any:
        raise EngramError("the cart broke")


def test_what_an_environment_that_draws_raises_is_told():
    agent = trained(AgentSpec(encoder=FeaturesSpec()), "engram/NoVelocityCartPole-v0")
    gymnasium.register("Breaking-v0", Breaking)
    try:
        plan = HostPlan("Breaking-v0", agent.plan.agent, spaces.Box((2,)), 2)
        with pytest.raises(EngramError, match="the cart broke"):
            next(watch(TrainedAgent(plan, agent.minds, None)))
    finally:
        del gymnasium.registry["Breaking-v0"]


class TwoMotors(gymnasium.Env):
    """Two torques move a point; what is wanted is shown."""

    observation_space = gymnasium.spaces.Box(-2, 2, (4,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.goal, self.steps = np.zeros(2), self.np_random.uniform(-1, 1, 2), 0
        return self.seen(), {}

    def seen(self) -> np.ndarray:
        return np.concatenate([self.at, self.goal]).astype(np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at, self.steps = self.at + 0.2 * np.asarray(action), self.steps + 1
        return self.seen(), -float(np.abs(self.at - self.goal).sum()), self.steps == 5, False, {}

    def render(self) -> np.ndarray:
        return np.full((8, 8, 3), 9 * self.steps, np.uint8)


def test_an_agent_of_motors_is_told_by_its_whole_actions():
    """Q of each pair of torques is the mean of both; the film shows the arm, and an explanation what moved it."""
    small: dict[str, Any] = {"encoder": "features", "encoder.width": 16, "replay.start": 32, "replay.batch_size": 8}
    with Trainer(TwoMotors, preset="decqn", action_bins=3, steps=96, evaluate_every=0, overrides=small) as trainer:
        trainer.learn()
        agent = trainer.trained()
        called: list[str] = []
        steps = [*watch(agent, called=called.extend)]
        told = explain(agent).told
        several = [*watch(agent, 2, shown=lambda t: t == 1)]
    assert called == ["-1 -1", "-1 0", "-1 +1", "0 -1", "0 0", "0 +1", "+1 -1", "+1 0", "+1 +1"]
    assert len(steps) == 5
    for step in steps:
        worth = np.array(step.q).reshape(3, 3)
        np.testing.assert_allclose(worth - worth[:, :1], np.broadcast_to(worth[:1] - worth[0, 0], (3, 3)), atol=1e-6)
        assert step.action == int(np.argmax(step.preference))
        assert step.picture is not None
        assert called[step.action] in step.sentence
    assert [step.q for step in told.steps] == [step.q for step in steps]
    assert [step.t for step in several] == [1, 1]


def test_of_too_many_joint_actions_none_is_told():
    """Seven motors of three torques. Plain actions, such as 1,200 pieces of words, are told however many they are."""
    cart = trained(AgentSpec(encoder=FeaturesSpec()), "engram/CartPole-v1")
    for spec, actions in ((AgentSpec(encoder=FeaturesSpec(), head=DecoupledSpec(sizes=(3,) * 7)), 3**7),
                          (AgentSpec(encoder=FeaturesSpec()), 1_200)):  # fmt: skip
        built = spec.build(cart.plan.space, actions, 1)
        agent = TrainedAgent(replace(cart.plan, agent=spec, actions=actions), [built.mind(built.init(KEY))], None)
        if actions == 1_200:
            check_whole(agent)
            continue
        with pytest.raises(SpecError, match=r"7 motors have 2,187 joint actions, .* 1,024 at most; use engram evalu"):
            next(watch(agent))


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (gymnasium.spaces.Box(-1, 1, (1, 2)), ["-1 -1", "-1 +1", "+1 -1", "+1 +1"]),
        (gymnasium.spaces.MultiBinary((1, 2)), ["0 0", "0 1", "1 0", "1 1"]),
        (gymnasium.spaces.MultiDiscrete([2, 2]), ["0 0", "0 1", "1 0", "1 1"]),
    ],
)
def test_actions_of_several_numbers_are_called_by_them(space: Any, names: list[str]):
    """Whatever their shape; only torques have a sign."""

    class Still(TwoMotors):
        action_space = space

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            assert np.shape(action) == space.shape
            return super().step(np.zeros(2))

    bins = 2 if isinstance(space, gymnasium.spaces.Box) else None
    small: dict[str, Any] = {"replay__start": 32, "replay__batch_size": 8}
    with Trainer(Still, preset="dqn", action_bins=bins, steps=40, evaluate_every=0, **small) as trainer:
        called: list[str] = []
        next(watch(trainer.trained(), called=called.extend))
    assert called == names


def test_an_arm_of_our_own_is_called_by_its_torques():
    assert names_of(make_device("engram/TwoLinkArm-v0")).actions[:4] == ("-3 -1.5", "-3 0", "-3 +1.5", "0 -1.5")
