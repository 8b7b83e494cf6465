"""One step as named arrays: the same as the agent's own policy, whatever is carried along."""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces, specs
from engram.agents.policy import Mind, Seen
from engram.agents.presets import preset
from engram.envs.host.spaces import Observer
from engram.errors import SpecError
from engram.exporting.parity import check, difference, observed
from engram.exporting.step import Step, step_of
from engram.external.memory import Entries
from engram.play.playing import Policy
from engram.spaces import Box, Dict, Discrete

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.house.export_parity import CASES as EVERY

NUMBERS, ACTIONS, ENVS, BATCH, STEPS = Box((3,)), 4, 2, 2, 4
MASKED = Dict((("action_mask", Box((ACTIONS,), "bool")), ("observation", NUMBERS)))
SMALL = {"encoder.widths": (8,)}


def made(name: str, space: spaces.Space = NUMBERS, envs: int = ENVS, **settings: Any) -> tuple[Any, Mind]:
    """A fresh agent's spec and mind; two underscores of a setting stand for a dot."""
    chosen = SMALL | {path.replace("__", "."): value for path, value in settings.items()}
    spec = specs.override_all(preset(name, space, 1_000), chosen)
    agent = spec.build(space, ACTIONS, envs)
    return spec, agent.mind(agent.init(jax.random.PRNGKey(0)))


def filled(mind: Mind, count: int = 12) -> Mind:
    """The mind with random entries in its memory."""
    assert mind.recall is not None
    generator = np.random.default_rng(0)
    number, width = generator.standard_normal, mind.network.external.width
    entries = Entries(
        key=jnp.asarray(number((count, width)), jnp.float32),
        action=jnp.arange(count, dtype=jnp.int32) % ACTIONS,
        features=jnp.zeros((count, 0)),
        value=jnp.asarray(number(count), jnp.float32),
        td_error=jnp.zeros(count),
        hash=jnp.asarray(generator.integers(0, 1 << 32, (count, 2), dtype=np.uint32)),
        origin=jnp.zeros((count, 3), jnp.int32),
    )
    store = mind.network.external.write(mind.recall.store, entries, jnp.ones(count, bool))
    return dataclasses.replace(mind, recall=dataclasses.replace(mind.recall, store=store))


CASES: dict[str, partial[tuple[Any, Mind]]] = {
    "a vector": partial(made, "dqn"),
    "a stack": partial(made, "dqn", observation__stack=3),
    "a stack that begins with nothing known": partial(made, "dqn", observation__stack=2, observation__missing="mask"),
    "a GRU, previous action and reward": partial(
        made, "drqn", working="gru", working__hidden_size=8, observation__previous_action=True,
        observation__previous_reward=True,
    ),
    "a transformer": partial(made, "dtqn", working__hidden_size=8, working__window=3, working__heads=2),
    "decoupled actions and the previous one": partial(
        made, "drqn", head="decoupled", head__sizes=(2, 2), observation__previous_action=True, working__hidden_size=8
    ),
    "a mask": partial(made, "dqn", MASKED),
    "a policy": partial(made, "ppo", MASKED, 8),
    "drawn quantiles": partial(made, "iqn"),
}  # fmt: skip


# Of each kind of part and each preset the case that an export is tried with; a few always, the others slow.
ALWAYS = (
    "working=lstm", "working=slots", "external=votes", "external=graph", "external=product-key", "external=chunked",
    "head=twin", "head=attention, offered", "observation.normalize", "encoder=entities",
)  # fmt: skip
ALL = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in EVERY if name != "preset smax"]


@pytest.mark.parametrize("name", ALL)
def test_a_step_of_every_kind_of_part_is_what_the_policy_does(name: str):
    """So that an export which is held against the step is held against the agent."""
    spec, mind = EVERY[name].mind()
    follow(spec, mind, step_of(spec, mind))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_is_what_the_policy_does(case: partial[tuple[Any, Mind]]):
    """Along two episodes, the second of which begins with `start` again."""
    spec, mind = case()
    follow(spec, mind, step_of(spec, mind))


def test_a_step_reads_the_entries_that_it_is_given():
    spec, mind = made("attention-dqn", external__capacity=40, external__neighbours=3, recall__refresh=0)
    mind = filled(mind)
    step = step_of(spec, mind)
    names = [port.name for port in step.inputs]
    assert names == ["observation", "memory_keys", "memory_length", "memory_values", "memory_filled"]
    follow(spec, mind, step)
    given = [np.asarray((step.first(1) | {"observation": np.ones((1, 3), np.float32)})[name]) for name in names]
    without = [np.zeros_like(value) if value.dtype == bool else value for value in given]
    named = dict(zip([port.name for port in step.outputs], jax.jit(step.function)(*without), strict=True))
    assert (np.asarray(named["share"]) == 0).all()
    assert (np.asarray(named["entries.memory"]) == -1).all()


def follow(spec: Any, mind: Mind, step: Step) -> None:
    """Plays random observations with both, and compares actions and estimates."""
    policy, function = Policy(mind, spec), jax.jit(step.function)
    generator = np.random.default_rng(1)
    for _ in range(2):
        state, carried = policy.begin(BATCH), step.first(BATCH)
        for time in range(STEPS):
            seen = observed(step, generator, BATCH)
            parts = [jax.vmap(one.stored)(jnp.asarray(seen[one.port.name])) for one in step.shown if one.port]
            tree = jax.tree.unflatten(jax.tree.structure(spaces.zeros(mind.network.space)), parts)
            reward = seen.get("reward", np.zeros(BATCH, np.float32)) * (time > 0)
            if "reward" in seen:
                seen["reward"] = reward
            first = np.full(BATCH, time == 0)
            state, action, kept = policy.look(state, Seen(tree, first, reward), kept_of)
            named = dict(carried | seen)
            found = function(*(np.asarray(named[port.name]) for port in step.inputs))
            outputs = {port.name: np.asarray(value) for port, value in zip(step.outputs, found, strict=True)}
            assert (outputs["action"] == action).all()
            for name in ("q", "logits", "value"):
                if name in outputs:
                    # Two programs of the same numbers: rounding of sums of a few numbers of order 1.
                    np.testing.assert_allclose(outputs[name], kept[name], rtol=1e-5, atol=1e-6)
            carried = {name: outputs.get(f"next.{name}", value) for name, value in carried.items()}


def kept_of(_: Seen, looked: Any) -> dict[str, Any]:
    decision = looked.decision
    logits = decision.q if decision.returns.policy is None else decision.returns.policy
    return {"q": decision.q, "logits": logits, "value": decision.value}


def test_what_no_read_asks_is_no_input():
    spec, mind = made("attention-dqn", external__capacity=40, external__neighbours=3, recall__refresh=0)
    names = {port.name for port in step_of(spec, mind).inputs}
    assert not names & {"memory_hash", "memory_origin", "memory_index", "memory_clock"}


def test_a_forbidden_action_is_not_taken():
    spec, mind = made("dqn", MASKED)
    step = step_of(spec, mind)
    mask = np.eye(ACTIONS, dtype=bool)
    outputs = step.function(jnp.asarray(mask), jnp.ones((ACTIONS, 3)))
    named = dict(zip([port.name for port in step.outputs], outputs, strict=True))
    assert np.asarray(named["action"]).tolist() == [0, 1, 2, 3]


def test_categories_are_given_as_the_environment_counts_them():
    shown = gymnasium.spaces.Dict(
        {"card": gymnasium.spaces.Discrete(3, start=5), "speed": gymnasium.spaces.Box(-1, 1, (2,))}
    )
    observer = Observer(shown)
    spec, mind = made("dqn", observer.space)
    raw, stored = step_of(spec, mind, observer.parts), step_of(spec, mind)
    assert [port.name for port in raw.inputs] == ["observation.card", "observation.speed"]
    assert raw.inputs[0].meaning == "one of 3 categories, from 5"
    speeds = jnp.ones((1, 2))
    theirs, ours = raw.function(jnp.array([6]), speeds), stored.function(jnp.array([1]), speeds)
    np.testing.assert_array_equal(theirs[0], ours[0])


def test_what_no_agent_of_a_team_sees_is_no_input():
    team = Dict((("observation", NUMBERS), ("team_state", Box((5,)))))
    spec, mind = made("dqn", team)
    assert [port.name for port in step_of(spec, mind).inputs] == ["observation"]


def test_two_inputs_of_one_name_are_refused():
    spec, mind = made("dqn", Dict((("a", Dict((("b", Discrete(2)),))), ("a.b", Discrete(2)))))
    with pytest.raises(SpecError, match="rename one of them"):
        step_of(spec, mind)


def test_an_export_that_acts_otherwise_is_refused_but_for_a_tie():
    """All else is as it should be; its mask was lost, or the worst was taken."""
    spec, mind = made("dqn", MASKED)
    step = step_of(spec, mind)

    def run(given: Any, act: Any, step: Step) -> dict[str, np.ndarray]:
        outputs = step.function(*(given[port.name] for port in step.inputs))
        found = {port.name: np.asarray(value) for port, value in zip(step.outputs, outputs, strict=True)}
        return found | {"action": act(found["q"], given["action_mask"]).astype(found["action"].dtype)}

    assert check(step, partial(run, step=step, act=lambda q, mask: np.where(mask, q, -np.inf).argmax(-1))) == 0
    for act in (lambda q, mask: q.argmax(-1), lambda q, mask: np.where(mask, q, np.inf).argmin(-1)):
        with pytest.raises(SpecError, match=r"takes another action than the agent in \d+ of 48 observations"):
            check(step, partial(run, step=step, act=act))
    flat = dataclasses.replace(mind, network=jax.tree.map(lambda leaf: 0 * leaf, mind.network))
    equal = step_of(spec, flat)  # every action is worth the same
    assert check(equal, partial(run, step=equal, act=lambda q, mask: 3 - mask[:, ::-1].argmax(-1))) == 0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.1, 0.2], [0.1, 0.3], 0.1),  # below 1 the size counts as 1
        ([10.0, 20.0], [10.0, 21.0], 0.05),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([-np.inf, 1.0], [-np.inf, 1.0], 0.0),
        ([1.0], [1.0, 1.0], np.inf),
    ],
)
def test_a_difference_is_over_the_size_of_the_output(one: list[float], other: list[float], expected: float):
    assert difference(np.array(one), np.array(other)) == pytest.approx(expected)
