"""Every kind of a part is there for a reason that can be looked up: a result, a preset, or a test that shows it."""

import ast
from pathlib import Path

import pytest
from support.kinds import own

from engram import registry
from engram.agents.presets import PRESETS

ROOT = Path(__file__).parents[2]
RESULTS = "docs/results.md: "  # followed by words of one line
PRESET = "preset "
BREAKOUT, CARTPOLE = RESULTS + "**MinAtar Breakout**", RESULTS + "| CartPole-v1 | 50,000 |"
DISTRIBUTIONS = "tests/agents/test_agent.py::test_distributions_and_priorities_learn_the_true_value"
PROBES = "tests/agents/test_rollout_probes.py::test_it_finds_the_values_and_the_policy_of_a_probe"
PROBE = (
    "tests/working/test_remembering.py::"
    "test_a_bit_shown_5_steps_before_it_is_asked_for_is_told_and_guessed_with_an_emptied_memory"
)

# What shows what each kind is for. One without a line here is added with its result or probe, or does not stay.
SHOWN = {
    "agent": {"q-learning": CARTPOLE, "pqn": PROBES, "ppo": PROBES, "sac": PRESET + "sac"},
    "working": {
        "none": CARTPOLE,
        "gru": PROBE,
        "lstm": PROBE,
        "fast-weights": PROBE,
        "mingru": RESULTS + "| passive T-maze 500 | minGRU",
        "lru": RESULTS + "| passive T-maze 100 | LRU",
        "history": RESULTS + "| RepeatPrevious (medium) | `history`",
        "slots": RESULTS + "500 greedy episodes each: `slots` regrets",
    },
    "encoder": {
        "vector": CARTPOLE,
        "grid": BREAKOUT,
        "pixels": PRESET + "dqn",
        "impala": "tests/encoders/test_impala.py::test_the_published_network_has_as_many_weights",
        "entities": RESULTS + "**Driving**",
        "spatial": "tests/encoders/test_encoders.py::test_what_is_where_can_be_told_from_the_embedding",
        "relational": "tests/encoders/test_encoders.py::test_what_a_cell_received_is_the_mean_over_all_cells",
        "features": "tests/agents/test_agent.py::test_every_variant_learns_the_true_value",
        "tokens": PRESET + "auto",
    },
    "head": {
        "actor-critic": PROBES,
        "q": CARTPOLE,
        "dueling": "tests/agents/test_agent.py::test_every_variant_learns_the_true_value",
        "attention": "tests/heads/test_heads.py::test_q_follows_an_action_on_offer_wherever_it_stands",
        "twin": PRESET + "sac",
        "decoupled": "tests/heads/test_decoupled.py::test_it_finds_the_best_value_of_each_number",
    },
    "exploration": {
        "sample": PROBES,
        "openings": PRESET + "go",
        "epsilon-greedy": CARTPOLE,
        "boltzmann": "tests/agents/test_windows.py::test_boltzmann_exploration_draws_by_the_softmax_of_q",
        "parameter-noise": RESULTS + "| passive T-maze 100 | LRU, windows of an episode, parameter noise",
    },
    "external": {
        "none": CARTPOLE,
        "episodic": PRESET + "attention-dqn",
        "chunked": RESULTS + "| `chunked` | 0.20 / 1.00",
        "product-key": RESULTS + "| `product-key` (exact by its own score)",
        "graph": RESULTS + "graph memory **1e-7**",
        "votes": "tests/external/test_votes.py::test_neighbours_vote_by_their_distance",
    },
    "draw": {
        "uniform": CARTPOLE,
        "hindsight": "tests/replay/test_hindsight.py::test_an_example_is_what_plain_python_makes_of_its_episode",
        "similar": "tests/replay/test_draw.py::test_similar_rows_are_learned_from",
        "prioritized": "tests/replay/test_prioritized.py::test_an_agent_draws_what_surprises_it",
    },
    "bootstrap": {
        "plain": CARTPOLE,
        "memory": RESULTS + "| memory (reading 1) |",
        "actions": RESULTS + "| actions, temperature 0.1 (reading 2) |",
        "successors": RESULTS + "| successors (reading 3) |",
        "munchausen": "tests/agents/test_agent.py::test_munchausen_learns_its_own_fixed_point",
    },
    "loss": {
        "huber": CARTPOLE,
        "squared": PRESET + "dqn",
        "cross-entropy": DISTRIBUTIONS,
        "hl-gauss": DISTRIBUTIONS,
        "quantile-huber": DISTRIBUTIONS,
    },
    "mixing": {
        "none": CARTPOLE,
        "sum": PRESET + "smax",
        "monotonic": "tests/agents/test_teams.py::"
        "test_a_monotonic_mixing_learns_the_two_step_game_and_a_sum_prefers_its_worse_half",
    },
    "returns": {
        "scalar": CARTPOLE,
        "categorical": DISTRIBUTIONS,
        "quantile": DISTRIBUTIONS,
        "implicit": DISTRIBUTIONS,
    },
}
KINDS = [(role, kind) for role, shown in SHOWN.items() for kind in shown]


@pytest.mark.parametrize("role", SHOWN)
def test_every_kind_of_the_package_names_what_shows_what_it_is_for(role: str):
    assert set(own(role)) == set(SHOWN[role])


@pytest.mark.parametrize(("role", "kind"), KINDS, ids=lambda part: part)
def test_what_shows_a_kind_is_there(role: str, kind: str):
    assert found(SHOWN[role][kind])


def test_every_role_of_the_package_is_looked_at():
    assert set(SHOWN) == set(registry.roles())


@pytest.mark.parametrize("role", SHOWN)
def test_every_kind_stands_among_the_parts_of_the_page_of_algorithms(role: str):
    """In the row of its role, which begins with the setting that chooses it."""
    rows = (ROOT / "docs" / "algorithms.md").read_text().splitlines()
    setting = "head.returns" if role == "returns" else role
    row = next(row for row in rows if row.startswith(f"| `{setting}=` |"))
    assert [kind for kind in SHOWN[role] if f"`{kind}`" not in row] == []


def test_what_is_not_there_is_not_found():
    assert not found(RESULTS + "a result that nobody had")
    assert not found(PRESET + "no-preset")
    assert not found("tests/house/test_kinds.py::test_nothing")


def found(evidence: str) -> bool:
    """Whether a line of the results, a preset or a test function is where the evidence says."""
    if evidence.startswith(RESULTS):
        lines = (ROOT / "docs" / "results.md").read_text().splitlines()
        return any(evidence.removeprefix(RESULTS) in line for line in lines)
    if evidence.startswith(PRESET):
        return evidence.removeprefix(PRESET) in PRESETS
    path, name = evidence.split("::")
    body = ast.parse((ROOT / path).read_text()).body
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in body)
