"""What a server answers is what the agent decides: of every kind, in sessions of their own, together or alone."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from support.served import served

import engram
from engram.play.trained import TrainedAgent

SMALL: dict[str, Any] = {"encoder__widths": (8,), "replay__capacity": 400, "replay__start": 60}
MEMORY: dict[str, Any] = {"external__capacity": 200, "external__neighbours": 4}
CART = "CartPole-v1"


class Mixed(gymnasium.Env):
    """Shows a number, a category, a word and which of three actions are allowed."""

    observation_space = spaces.Dict(
        {
            "number": spaces.Box(-1, 1, (2,), np.float32),
            "kind": spaces.Discrete(3, start=1),
            "word": spaces.Text(5, charset="abc"),
            "action_mask": spaces.Box(0, 1, (3,), np.int8),
        }
    )
    action_space = spaces.Discrete(3, start=10)

    def _seen(self) -> dict[str, Any]:
        mask = np.array([1, 0, 1], np.int8)
        return {"number": np.zeros(2, np.float32), "kind": 2, "word": "ab", "action_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        return self._seen(), 1.0, bool(self.np_random.random() < 0.2), False, {}


def made(env: Any, preset: str, steps: int = 0, **settings: Any) -> TrainedAgent:
    """An agent of a kind, which learned for so many steps."""
    with engram.Trainer(env, preset, seed=1, steps=max(steps, 100), **settings) as trainer:
        if steps:
            trainer.learn()
        return trainer.trained()


@pytest.fixture(scope="module")
def nec() -> TrainedAgent:
    return made(CART, "nec", 240, **SMALL, **MEMORY)


@pytest.fixture(scope="module")
def drqn() -> TrainedAgent:
    return made(CART, "drqn", encoder__widths=(8,), working__hidden_size=8)


def numbers(seed: int, steps: int = 6) -> list[list[float]]:
    """Observations of a cart, as JSON has them."""
    return np.random.default_rng(seed).normal(0, 0.3, (steps, 4)).astype(np.float32).tolist()


def predicted(agent: TrainedAgent, observations: list[Any], rewards: bool = False) -> list[Any]:
    """The actions of `predict`, one observation after another."""
    state, found = None, []
    for step, seen in enumerate(observations):
        array = np.array(seen, np.float32) if isinstance(seen, list) else seen
        action, state = agent.predict(array, state, reward=np.array([0.5 * step]) if rewards else None)
        found.append(np.asarray(action).tolist())
    return found


KINDS: dict[str, dict[str, Any]] = {
    "stacked frames": {"preset": "dqn", "observation__stack": 3, **SMALL},
    "an LSTM": {"preset": "drqn", "encoder__widths": (8,), "working__hidden_size": 8},
    "a policy": {"preset": "ppo", "encoder__widths": (8,)},
    "quantiles": {"preset": "qr-dqn", **SMALL},
    "the reward before": {
        "preset": "drqn", "encoder__widths": (8,), "working__hidden_size": 8, "observation__previous_reward": True,
        "observation__previous_action": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_those_of_predict(kind: str):
    settings = dict(KINDS[kind])
    agent, rewards = made(CART, settings.pop("preset"), **settings), kind == "the reward before"
    observations = numbers(3)
    with served(agent) as client:
        session, answers = None, []
        for step, seen in enumerate(observations):
            more: dict[str, Any] = {"reward": 0.5 * step} if rewards else {}
            answers.append(client.act(seen, session=session, **more))
            session = answers[-1]["session"]
    assert [answer["action"] for answer in answers] == predicted(agent, observations, rewards)
    assert all(len(answer["q"]) == 2 and np.isfinite(answer["q"]).all() for answer in answers)
    keeps = kind not in ("a policy", "quantiles")
    assert [answer["step"] for answer in answers] == ([*range(6)] if keeps else [None] * 6)
    if kind == "a policy":
        assert all(abs(sum(answer["policy"]) - 1) < 1e-6 for answer in answers)


def test_an_agent_of_several_motors_says_which_estimate_is_whose():
    """Of each torque of each joint, and not of each of the nine pairs."""
    agent = made("engram/TwoLinkArm-v0", "decqn", encoder__widths=(8,))
    seen = {name: [0.1] * size for name, size in (("observation", 6), ("achieved_goal", 2), ("desired_goal", 2))}
    with served(agent) as client:
        about, answer = client.ask("GET", "/agent")[1], client.act(seen)
    assert (about["actions"], about["sizes"]) == (9, [3, 3])
    shoulder, elbow = np.array(answer["q"]).reshape(2, 3)
    assert answer["number"] == 3 * shoulder.argmax() + elbow.argmax()


def test_what_is_remembered_is_told_by_id_weight_and_origin(nec: TrainedAgent):
    with served(nec) as client:
        answer = client.act(numbers(1)[0], memories=1_000)
        short = client.act(numbers(1)[0], memories=2)
    table = nec.memory.table()
    by_id = {id: place for place, id in enumerate(table["id"])}
    assert abs(sum(one["weight"] for one in answer["memories"]) - 1) < 1e-5  # the weights of a read sum to 1
    assert 0 <= answer["share"] <= 1
    for one in answer["memories"]:
        for name in ("action", "value", "episode", "step"):
            assert one[name] == table[name][by_id[one["id"]]]
        assert one["action"] == answer["number"]  # a table of its own for each action
    weights = [one["weight"] for one in answer["memories"]]
    assert weights == sorted(weights, reverse=True)
    assert short["memories"] == answer["memories"][:2]


def test_steps_of_the_episode_that_were_attended_to_are_told():
    agent = made(CART, "dtqn", encoder__widths=(8,), working__hidden_size=8, working__heads=2)
    with served(agent) as client:
        session = None
        for seen in numbers(2, 4):
            answer = client.act(seen, session=session)
            session = answer["session"]
    assert {one["step"] for one in answer["attended_steps"]} <= {0, 1, 2, 3}
    assert sum(one["weight"] for one in answer["attended_steps"]) > 0


def test_parts_words_categories_and_masks_are_read_as_the_environment_shows_them():
    agent = made(Mixed, "dqn", encoder="vector", **SMALL)
    seen = {"number": [0.5, -0.5], "kind": 3, "word": "cab", "action_mask": [1, 0, 1]}
    with served(agent) as client:
        answer = client.act(seen)
        assert answer["allowed"] == [True, False, True]
        assert answer["action"] in (10, 12)
        shown = {**seen, "number": np.array(seen["number"], np.float32), "action_mask": np.array([1, 0, 1], np.int8)}
        assert answer["action"] == agent.predict(shown)[0]
        flags = {**seen, "action_mask": [True, False, True]}  # true is 1
        assert client.act(flags)["q"] == answer["q"]
        wrong = [
            {**seen, "kind": 4}, {**seen, "kind": 1.5}, {**seen, "kind": True}, {**seen, "word": "dog"},
            {**seen, "word": "abcabc"}, {**seen, "word": 7}, {**seen, "action_mask": [0, 0, 0]},
            {**seen, "action_mask": [1, 0, 2]}, {**seen, "action_mask": [1, 0]}, {**seen, "more": 1},
            {name: part for name, part in seen.items() if name != "word"}, [seen], {},
        ]  # fmt: skip
        for one in wrong:
            status, answer, _ = client.try_act(one)
            assert (status, set(answer)) == (422, {"error"}), one


def test_a_missing_number_is_null_where_the_agent_takes_some():
    agent = made("engram/FlickeringCartPole-v0", "dqn", observation__missing="mask", **SMALL)
    seen = [0.1, None, 0.2, None]
    with served(agent) as client:
        array = np.array([0.1, np.nan, 0.2, np.nan], np.float32)
        assert client.act(seen)["action"] == int(agent.predict(array)[0])
    with served(made(CART, "dqn", **SMALL)) as client:
        assert client.try_act(seen)[0] == 422


def test_sessions_do_not_hear_of_each_other(drqn: TrainedAgent):
    courses = [numbers(seed) for seed in range(8)]
    with served(drqn) as client:

        def play(course: list[list[float]]) -> list[Any]:
            session, found = None, []
            for seen in course:
                answer = client.act(seen, session=session)
                session = answer["session"]
                found.append(answer["action"])
            return found

        with ThreadPoolExecutor(8) as pool:
            played = list(pool.map(play, courses))
    assert played == [predicted(drqn, course) for course in courses]


def test_answers_of_one_call_are_those_of_calls_of_their_own(drqn: TrainedAgent):
    course = numbers(5, 24)
    with served(drqn) as client:
        alone = [client.act(seen)["q"] for seen in course]
    with served(drqn, batch=8) as client, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seen: client.act(seen)["q"], course))
        batches = client.running.service.counts.batches
    np.testing.assert_allclose(together, alone, atol=1e-5)  # products of another size round differently
    assert batches < len(course)


def test_an_episode_begins_anew_in_a_session_that_goes_on(drqn: TrainedAgent):
    course = numbers(7, 3)
    with served(drqn) as client:
        first = client.act(course[0])
        client.act(course[1], session=first["session"])
        again = client.act(course[0], session=first["session"], episode_start=True)
    assert (again["q"], again["step"]) == (first["q"], 2)


def test_it_says_what_it_serves(drqn: TrainedAgent):
    with served(drqn) as client:
        status, about, _ = client.ask("GET", "/agent")
        assert status == 200
        assert about["needs_session"]
        assert about["env"] == CART
        assert not about["sessions"]["survive_restart"]
        status, counts, headers = client.ask("GET", "/metrics")
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'engram_requests_total{path="/agent",status="200"} 1' in counts["text"]
        assert client.ask("GET", "/health", token=None)[:2] == (200, {"status": "ok"})


def test_counts_are_in_the_format_of_prometheus(nec: TrainedAgent):
    with served(nec) as client:
        for seen in numbers(1, 3):
            client.act(seen)
        text = client.ask("GET", "/metrics")[1]["text"]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    buckets = [value for name, value in values.items() if name.startswith("engram_act_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == values["engram_act_seconds_count"] == 3
    assert values['engram_requests_total{path="/act",status="200"}'] == 3
    for line in text.splitlines():
        name = line.split()[2] if line.startswith("#") else line.split("{")[0].split()[0]
        assert name.startswith("engram_")
    assert json.dumps(sorted(values))  # each name once
    assert len(values) == len(lines)
