"""Losses between distributions against numbers worked by hand, and against float64 written another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from engram.agents.spec import AgentSpec
from engram.errors import SpecError
from engram.heads.q import QSpec
from engram.heads.returns import CategoricalSpec, Implicit, ImplicitSpec, QuantileSpec
from engram.losses.distributional import (
    CrossEntropySpec,
    HLGaussSpec,
    QuantileHuberSpec,
    projected,
    quantile_huber,
    smoothed,
)  # fmt: skip
from engram.specs import override_all
from engram.types import Distribution

ATOMS = jnp.array([-1.0, 0.0, 1.0, 2.0])
RANDOM = np.random.default_rng(0)


def distribution(atoms, probabilities, **more) -> Distribution:
    return Distribution(jnp.array(atoms, jnp.float32), jnp.array(probabilities, jnp.float32), **more)


@pytest.mark.parametrize(
    ("atoms", "probabilities", "expected"),
    [
        ([0.0], [1.0], [0, 1, 0, 0]),  # on an atom
        ([0.25], [1.0], [0, 0.75, 0.25, 0]),  # between two: by nearness
        ([-9.0, 9.0], [0.3, 0.7], [0.3, 0, 0, 0.7]),  # outside: to the outermost
        ([0.5, 1.5], [0.5, 0.5], [0, 0.25, 0.5, 0.25]),
        ([2.0], [1.0], [0, 0, 0, 1]),
    ],
)
def test_a_projection_by_hand(atoms, probabilities, expected):
    np.testing.assert_allclose(projected(distribution(atoms, probabilities), ATOMS), expected, atol=1e-6)


def test_a_projection_keeps_the_mean_of_what_lies_inside_and_sums_to_one():
    for _ in range(20):
        atoms, shares = RANDOM.uniform(-1, 2, 7), RANDOM.dirichlet(np.ones(7))
        found = np.asarray(projected(distribution(atoms, shares), ATOMS))
        assert found.sum() == pytest.approx(1, abs=1e-5)
        assert found @ np.asarray(ATOMS) == pytest.approx(atoms @ shares, abs=1e-5)


def test_atoms_that_a_memory_has_moved_together_are_no_division_by_zero():
    assert np.isfinite(projected(distribution([0.5], [1.0]), jnp.ones(4))).all()
    assert np.isfinite(smoothed(jnp.float32(0.5), jnp.ones(4), 0.75)).all()


def test_the_smoothed_target_is_the_normal_distribution_in_bins():
    """By scipy in float64: bins of width 1 around each atom, renormalised over what they cover."""
    edges = np.array([-1.5, -0.5, 0.5, 1.5, 2.5])
    for mean in (-1.0, 0.3, 1.9):
        below = norm.cdf(edges, mean, 0.75)
        expected = np.diff(below) / (below[-1] - below[0])
        np.testing.assert_allclose(smoothed(jnp.float32(mean), ATOMS, 0.75), expected, atol=1e-6)
    np.testing.assert_allclose(smoothed(jnp.float32(99.0), ATOMS, 0.75), smoothed(jnp.float32(2.0), ATOMS, 0.75))


def test_cross_entropy_by_hand_and_its_gradient():
    """Logits 0, 0, log 2, 0: probabilities 1/5, 1/5, 2/5, 1/5. The gradient is probabilities - target."""
    logits = jnp.log(jnp.array([1.0, 1.0, 2.0, 1.0]))

    def loss(logits):
        return CrossEntropySpec()(Distribution(ATOMS, jax.nn.softmax(logits), logits), distribution([0.5], [1.0]))

    assert float(loss(logits)) == pytest.approx(-0.5 * np.log(1 / 5) - 0.5 * np.log(2 / 5), rel=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(logits), np.array([0.2, 0.2, 0.4, 0.2]) - [0, 0.5, 0.5, 0], atol=1e-6)


def test_quantile_huber_by_hand():
    """Levels 1/4 and 3/4 at 0 and 1; targets 0.5 (1/2) and 3 (1/2); width 1.

    0: u = 0.5, 3 -> 0.25 * (0.125, 2.5); 1: u = -0.5, 2 -> 0.25 * 0.125 and 0.75 * 1.5.
    """
    predicted = distribution([0.0, 1.0], [0.5, 0.5], levels=jnp.array([0.25, 0.75]))
    target = distribution([0.5, 3.0], [0.5, 0.5])
    expected = 0.5 * 0.25 * (0.125 + 2.5) + 0.5 * (0.25 * 0.125 + 0.75 * 1.5)
    assert float(quantile_huber(predicted, target, 1.0)) == pytest.approx(expected)
    pinball = 0.5 * 0.25 * (0.5 + 3) + 0.5 * (0.25 * 0.5 + 0.75 * 2)
    assert float(quantile_huber(predicted, target, 0.0)) == pytest.approx(pinball)


def test_quantile_huber_in_float64_by_loops():
    levels, atoms = RANDOM.uniform(size=5), RANDOM.normal(size=5)
    values, shares = RANDOM.normal(size=7) * 3, RANDOM.dirichlet(np.ones(7))
    for width in (0.5, 2.0):
        expected = 0.0
        for level, atom in zip(levels, atoms, strict=True):
            for value, share in zip(values, shares, strict=True):
                u = value - atom
                huber = 0.5 * u * u if abs(u) <= width else width * (abs(u) - 0.5 * width)
                expected += share * abs(level - (u < 0)) * huber / width
        predicted = distribution(atoms, np.full(5, 0.2), levels=jnp.array(levels, jnp.float32))
        found = quantile_huber(predicted, distribution(values, shares), width)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_best_quantiles_are_those_of_the_target():
    """Gradient descent on the pinball loss over 400 equal targets ends at their quantiles."""
    values = jnp.sort(jnp.array(RANDOM.normal(size=400), jnp.float32))
    target = Distribution(values, jnp.full(400, 1 / 400))
    levels = (jnp.arange(5) + 0.5) / 5
    step = jax.jit(
        jax.grad(lambda atoms: QuantileHuberSpec(width=0)(Distribution(atoms, jnp.full(5, 0.2), None, levels), target))
    )
    atoms = jnp.zeros(5)
    for number in range(2_000):
        atoms = atoms - 0.05 / (1 + number / 200) * step(atoms)
    np.testing.assert_allclose(atoms, np.quantile(np.asarray(values), np.asarray(levels)), atol=0.05)


@pytest.mark.parametrize("loss", [QuantileHuberSpec(width=2.0), QuantileHuberSpec(width=0.1)])
def test_no_width_silences_the_weight_of_an_example(loss):
    """The slope far from the target is the level, whatever the width: the importance of a row multiplies it."""
    target = distribution([100.0], [1.0])
    levels = jnp.array([0.25, 0.75])
    slope = jax.grad(lambda atoms: loss(Distribution(atoms, jnp.full(2, 0.5), None, levels), target))(jnp.zeros(2))
    np.testing.assert_allclose(slope, -levels, rtol=1e-5)


def test_implicit_levels_are_one_in_each_part_and_follow_the_words():
    made = ImplicitSpec(samples=4, cosines=8).build(3, jax.random.PRNGKey(0))
    assert isinstance(made, Implicit)
    assert made.words == 4

    def rows(seen):
        return jnp.stack([seen.sum(), -seen.sum()])[:, None], jnp.zeros((0, 2))

    bits = jnp.array([0, 1 << 31, 0xFFFFFFFF, 1 << 30], jnp.uint32)
    found = made(rows, jnp.ones(3), bits)
    np.testing.assert_allclose(found.levels[0], [0.0, 0.375, 0.75, 0.8125], atol=1e-6)
    waves = np.cos(np.pi * np.outer(np.asarray(found.levels[0], np.float64), np.arange(8)))
    weight, bias = np.asarray(made.level.weight, np.float64), np.asarray(made.level.bias, np.float64)
    np.testing.assert_allclose(found.atoms[0], np.maximum(waves @ weight.T + bias, 0).sum(1), rtol=1e-5)
    np.testing.assert_allclose(found.atoms[1], -found.atoms[0])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"loss": "cross-entropy"},
            "loss=cross-entropy compares probabilities of fixed returns, but head=q predicts one number; set "
            "head.returns=categorical, or another loss",
        ),
        (
            {"loss": "quantile-huber", "head.returns": "categorical"},
            "loss=quantile-huber compares quantiles, but head=q predicts probabilities of fixed returns",
        ),
        (
            {"head.returns": "categorical", "head.returns.low": "5", "head.returns.high": "5", "loss": "hl-gauss"},
            "head.returns.low = 5.0 is not below head.returns.high = 5.0; give a range that holds the returns",
        ),
        ({"head.returns": "categorical", "head.returns.atoms": "1"}, "head.returns.atoms = 1 is out of range"),
        ({"head.returns": "quantile", "head.returns.quantiles": "0"}, "head.returns.quantiles = 0 is out of range"),
    ],
)
def test_what_does_not_fit_is_one_sentence(settings, sentence):
    with pytest.raises(SpecError, match=sentence):
        override_all(AgentSpec(), settings)


def test_what_fits_is_taken():
    for returns, loss in (
        (CategoricalSpec(), CrossEntropySpec()), (CategoricalSpec(), HLGaussSpec()),
        (QuantileSpec(), QuantileHuberSpec()), (ImplicitSpec(), QuantileHuberSpec()),
    ):  # fmt: skip
        assert AgentSpec(head=QSpec(returns=returns), loss=loss).head.predicts in loss.fits
