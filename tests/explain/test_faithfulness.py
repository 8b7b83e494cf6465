"""Faithfulness on agents of which the truth is known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from engram.explaining import faithfulness
from engram.explaining.faithfulness import Case, measure


@dataclass
class Made:
    """A subject whose items each add something to the preference of one action; what is removed adds nothing."""

    effects: np.ndarray  # [cases, items]: added to the margin of action 0 over action 1
    weights: np.ndarray
    base: float = 1.0
    what: str = "memories"
    fresh: np.ndarray | None = None
    asked: int = 0
    per_episode: int = 1000

    @property
    def cases(self) -> list[Case]:
        fresh = [None] * len(self.weights) if self.fresh is None else self.fresh
        each = enumerate(zip(self.weights, fresh, strict=True))
        return [Case(weights, 0, 1, other, divmod(n, self.per_episode)) for n, (weights, other) in each]

    def without(self, which: np.ndarray, removed: np.ndarray) -> np.ndarray:
        self.asked += len(which)
        margin = self.base + np.where(removed, 0.0, self.effects[which]).sum(1)
        return np.stack([margin, np.zeros(len(margin))], 1).astype(np.float32)

    def only(self, which: np.ndarray, removed: np.ndarray) -> np.ndarray:
        return self.without(which, removed)


def made(seed: int, cases: int = 12, items: int = 12) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random, random.dirichlet(np.ones(items), cases), random.normal(size=(cases, items)) / items


def test_an_agent_that_follows_what_it_looks_at_scores_near_one():
    random, weights, _ = made(0)
    found = measure(Made(weights * 3, weights), random)
    assert found.score == pytest.approx(1.0)
    assert found.agreement == pytest.approx(1.0)
    assert found.verdict == faithfulness.FAITHFUL
    assert abs(found.shuffled) < 0.15
    assert [curve.way for curve in found.curves] == ["deletion", "insertion"]
    for curve in found.curves:
        assert curve.sizes == [1, 2, 4, 8]
        np.testing.assert_allclose(curve.ours, curve.oracle)


def test_an_agent_that_ignores_what_it_looks_at_is_not_shown():
    random, weights, _ = made(1)
    found = measure(Made(np.zeros_like(weights), weights), random)
    assert (found.score, found.interval, found.flips) == (0.0, (0.0, 0.0), 0.0)
    assert found.verdict == faithfulness.NO_EFFECT
    assert found.verdict.startswith("not shown")


def test_a_decoy_that_is_looked_at_and_does_nothing_is_exposed():
    """Half of the weight on an item without effect; what matters is looked at least."""
    random, _, _ = made(2)
    weights = np.tile(np.array([0.5, *np.linspace(0.1, 0.02, 8)]), (12, 1))
    effects = np.tile(np.array([0.0, *np.linspace(0.0, 1.0, 8)]), (12, 1))
    found = measure(Made(effects, weights), random)
    assert found.score < 0.1
    assert found.verdict == faithfulness.MISLEADING


@pytest.mark.parametrize(("alike", "agents"), [(1, 200), (3, 60)])
def test_no_link_is_called_faithful_or_misleading_in_at_most_one_of_twenty_agents(alike: int, agents: int):
    """Agents whose weights say nothing of what matters; also where the steps of an episode are the same step."""
    verdicts = []
    for seed in range(agents):
        random, weights, effects = made(seed, cases=8 if alike == 1 else 6, items=8)
        subject = Made(np.repeat(effects, alike, 0), np.repeat(weights, alike, 0), per_episode=alike)
        verdicts.append(measure(subject, random, orders=8).verdict)
    assert sum(verdict in (faithfulness.FAITHFUL, faithfulness.WEAK) for verdict in verdicts) <= agents // 20
    assert sum(not verdict.startswith("not shown") for verdict in verdicts) <= agents // 10


def test_few_episodes_are_told():
    random, weights, _ = made(6)
    one, six = (measure(Made(weights * 3, weights, per_episode=size), random) for size in (12, 2))
    assert any(note.startswith("one episode: ") for note in one.notes)
    assert any("of 6 episodes" in note for note in six.notes)


def test_a_removal_that_raises_the_margin_is_drawn_above_it():
    random, weights, _ = made(7)
    found = measure(Made(-weights, weights, base=3.0), random)
    assert found.score == pytest.approx(1.0)
    assert all(low < high for low, high in zip(found.curves[0].ours, found.curves[0].ours[1:], strict=False))
    assert found.curves[0].ours[0] > 1.0


def test_the_known_item_is_found_in_each_of_a_hundred_agents():
    for seed in range(100):
        random, weights, _ = made(seed, cases=4, items=8)
        known = random.integers(0, 8, 4)
        effects = np.zeros((4, 8))
        effects[np.arange(4), known] = 1.0
        weights[np.arange(4), known] = 1.0
        found = measure(Made(effects, weights), random, orders=4)
        assert found.score == pytest.approx(1.0)
        assert found.curves[0].ours[0] == pytest.approx(1 - 1 / 2)


def test_layers_drawn_anew_and_too_few_steps_are_told():
    random, weights, _ = made(3)
    alike = measure(Made(weights, weights, fresh=weights), random)
    assert alike.reinitialised == pytest.approx(1.0)
    assert alike.verdict == faithfulness.UNLEARNED
    assert any("drawn anew" in note for note in alike.notes)
    other = measure(Made(weights, weights, fresh=random.permuted(weights, axis=1)), random)
    assert abs(other.reinitialised) < 0.3
    assert measure(Made(weights[:3], weights[:3]), random).verdict == faithfulness.TOO_FEW
    assert measure(Made(weights[:3, :1], weights[:3, :1]), random).score is None


def test_choices_that_turn_are_counted():
    random, weights, _ = made(4)
    effects = np.zeros_like(weights)
    effects[np.arange(len(weights)), weights.argmax(1)] = np.where(np.arange(len(weights)) % 2, 3.0, 0.5)
    assert measure(Made(effects, weights, base=-1.0), random).flips == pytest.approx(0.5)


def test_the_same_seed_gives_the_same_numbers():
    def run() -> Any:
        _, weights, effects = made(5)
        return measure(Made(effects, weights), np.random.default_rng(0))

    assert run() == run()


@pytest.mark.parametrize(
    ("score", "interval", "shuffled", "verdict"),
    [
        (0.6, (0.3, 0.8), 0.0, faithfulness.FAITHFUL),
        (0.3, (0.1, 0.5), 0.0, faithfulness.WEAK),
        (0.1, (-0.1, 0.3), 0.0, faithfulness.NOT_SHOWN),
        (-0.4, (-0.6, -0.2), 0.0, faithfulness.MISLEADING),
        (0.6, (0.3, 0.8), 0.5, faithfulness.INVALID),
    ],
)
def test_verdicts(score: float, interval: tuple[float, float], shuffled: float, verdict: str):
    assert faithfulness.judged(score, interval, shuffled, 20) == verdict
