"""Losses and targets beside those of rlax, which others wrote: 200 random cases each, to 1e-5.

rlax knows no Munchausen target; NumPy in float64 stands for it here.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.agents.examples import bootstrapped
from engram.agents.mind import RewardSpec
from engram.agents.spec import AgentSpec
from engram.losses.bootstrap import Following, Here, MunchausenSpec, PlainSpec
from engram.losses.distributional import CrossEntropySpec, QuantileHuberSpec, projected
from engram.losses.policy import clipped_surrogate, entropy
from engram.losses.regression import huber, squared
from engram.losses.returns import NStep, advantages, discounts, lambda_returns, n_step, squashed, stretched
from engram.types import Distribution, Returns

CASES, ACTIONS = 200, 4
CLOSE = dict(rtol=1e-5, atol=1e-5)
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


@pytest.fixture(scope="module")
def rlax() -> Any:
    import rlax  # takes seconds: only a process that runs these tests pays

    return rlax


def normal(seed: int, *shapes: tuple[int, ...], scale: float = 1.0) -> list[jax.Array]:
    """One array of each shape for every case."""
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.normal(size=(CASES, *shape)) * scale, jnp.float32) for shape in shapes]


def integers(seed: int, high: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(high, size=CASES), jnp.int32)


def same(ours: Any, theirs: Any, *given: Any) -> None:
    """Both functions of every case, and whatever trees of numbers they give."""
    found, expected = (jax.jit(jax.vmap(function))(*given) for function in (ours, theirs))
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), found, expected)


def step(reward: jax.Array, discount: jax.Array) -> NStep:
    return NStep(reward, discount, jnp.int32(1))


def returns(atoms: jax.Array, logits: jax.Array) -> Returns:
    return Returns(atoms, logits, jnp.zeros((0, len(atoms))))


def numbers(q: jax.Array) -> Returns:
    return returns(q[:, None], jnp.zeros((len(q), 1)))


def test_the_target_of_double_q_learning(rlax: Any):
    q, following, selector, reward, discount = normal(0, (ACTIONS,), (ACTIONS,), (ACTIONS,), (), ())

    def ours(q, action, reward, discount, following, selector):
        target = PlainSpec()(step(reward, discount), Following(numbers(following), selector)).mean
        return target - q[action]

    same(ours, rlax.double_q_learning, q, integers(0, ACTIONS), reward, discount, following, selector)


def test_regressions_of_numbers(rlax: Any):
    prediction, target = normal(1, (), (), scale=3)
    same(squared, lambda prediction, target: rlax.l2_loss(prediction, target), prediction, target)
    for width in (0.3, 1.0, 5.0):
        theirs = lambda prediction, target: rlax.huber_loss(target - prediction, width)  # noqa: B023, E731
        same(partial(huber, width=width), theirs, prediction, target)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_returns_of_n_steps(rlax: Any, n: int):
    """Where a time limit cuts an episode, lambda of rlax is 0: it bootstraps there."""
    reward, value = normal(n, (n,), (n + 1,))
    random = np.random.default_rng(n)
    terminated, first = (jnp.asarray(random.random((CASES, n)) < 0.2) for _ in range(2))

    def ours(reward, terminated, first, value):
        found = n_step(reward, terminated, first, discounts(0.9, n))
        return found.reward + found.discount * value[found.offset]

    def theirs(reward, terminated, first, value):
        goes_on = jnp.append(1.0 - first[1:], 1.0)
        return rlax.n_step_bootstrapped_returns(reward, 0.9 * (1.0 - terminated), value[1:], n, goes_on)[0]

    same(ours, theirs, reward, terminated, first, value)


TIME = 7  # steps of a rollout


def rollout(seed: int) -> list[jax.Array]:
    """Rewards, discounts, values, what final observations are worth, and where a time limit ends an episode.

    A fifth of the steps terminate and a fifth meet a time limit, some of them both; the last one ends the rollout.
    """
    reward, value, shown = normal(seed, (TIME,), (TIME + 1,), (TIME,))
    random = np.random.default_rng(seed)
    terminated, limit = (random.random((CASES, TIME)) < 0.2 for _ in range(2))
    limit[:, -1] = True
    return [reward, jnp.asarray(np.where(terminated, 0, 0.9), jnp.float32), value, shown, jnp.asarray(limit)]


@pytest.mark.parametrize("trace", [0.0, 0.65, 0.95, 1.0])
def test_returns_along_a_rollout(rlax: Any, trace: float):
    """Where a time limit cuts an episode, lambda of rlax is 0: it bootstraps there, from the final observation."""

    def ours(reward, discount, value, shown, limit):
        following = jnp.where(limit, shown, value[1:])
        return lambda_returns(reward, discount, following, limit | (discount == 0), trace)

    def theirs(reward, discount, value, shown, limit):
        following = jnp.where(limit, shown, value[1:])
        return rlax.lambda_returns(reward, discount, following, jnp.where(limit, 0.0, trace))

    same(ours, theirs, *rollout(8))


@pytest.mark.parametrize("trace", [0.0, 0.65, 0.95, 1.0])
def test_advantages_along_a_rollout(rlax: Any, trace: float):
    """rlax knows no final observation: there, a reward stands for what it is worth more than the next one."""

    def ours(reward, discount, value, shown, limit):
        following = jnp.where(limit, shown, value[1:])
        return advantages(reward, discount, value[:-1], following, limit | (discount == 0), trace)

    def theirs(reward, discount, value, shown, limit):
        more = jnp.where(limit, discount * (shown - value[1:]), 0.0)
        lambdas = jnp.where(limit, 0.0, trace)
        return rlax.truncated_generalized_advantage_estimation(reward + more, discount, lambdas, value)

    same(ours, theirs, *rollout(9))


def test_the_clipped_policy_gradient_and_its_gradient(rlax: Any):
    """By logits, over a batch of six steps in each case."""
    logits, old, gain = normal(10, (6, ACTIONS), (6, ACTIONS), (6,))
    action = jnp.asarray(np.random.default_rng(10).integers(ACTIONS, size=(CASES, 6)), jnp.int32)

    def logs(logits, action):
        return jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]

    def ours(logits, old, gain, action):
        return clipped_surrogate(logs(logits, action), logs(old, action), gain, 0.2).mean()

    def theirs(logits, old, gain, action):
        ratio = jnp.exp(logs(logits, action) - logs(old, action))
        return rlax.clipped_surrogate_pg_loss(ratio, gain, 0.2)

    same(jax.value_and_grad(ours), jax.value_and_grad(theirs), logits, old, gain, action)


def test_the_entropy_of_a_policy_and_its_gradient(rlax: Any):
    (logits,) = normal(11, (6, ACTIONS), scale=2)
    ours = lambda logits: entropy(jax.nn.log_softmax(logits)).mean()  # noqa: E731
    theirs = lambda logits: -rlax.entropy_loss(logits, jnp.ones(6))  # noqa: E731
    same(jax.value_and_grad(ours), jax.value_and_grad(theirs), logits)


def test_a_projection_upon_atoms(rlax: Any):
    atoms, logits = normal(2, (9,), (9,), scale=4)
    grid = jnp.linspace(-5.0, 5.0, 21)
    same(
        lambda atoms, logits: projected(Distribution(atoms, jax.nn.softmax(logits)), grid),
        lambda atoms, logits: rlax.categorical_l2_project(atoms, jax.nn.softmax(logits), grid),
        atoms, logits,
    )  # fmt: skip


def test_categorical_double_q_learning_and_its_gradient(rlax: Any):
    shape = (ACTIONS, 21)
    logits, following, selector, reward, discount = normal(3, shape, shape, (ACTIONS,), (), ())
    grid = jnp.linspace(-2.0, 3.0, 21)
    atoms = jnp.broadcast_to(grid, shape)

    def ours(logits, action, reward, discount, following, selector):
        target = PlainSpec()(step(reward, discount), Following(returns(atoms, following), selector))
        return CrossEntropySpec()(returns(atoms, logits).of(action), target)

    def theirs(logits, action, reward, discount, following, selector):
        return rlax.categorical_double_q_learning(grid, logits, action, reward, discount, grid, following, selector)

    given = logits, integers(3, ACTIONS), reward, discount, following, selector
    same(jax.value_and_grad(ours), jax.value_and_grad(theirs), *given)


@pytest.mark.parametrize("width", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("drawn", [False, True], ids=["qr-dqn", "iqn"])
def test_quantile_regression_and_its_gradient(rlax: Any, width: float, drawn: bool):
    """With fixed levels, and with drawn ones, of which a target has another number. rlax does not divide by width."""
    predicted, targets = 7, (5 if drawn else 7)
    atoms, following, chooses, reward, discount = normal(
        4, (ACTIONS, predicted), (ACTIONS, targets), (ACTIONS, 6), (), ()
    )
    levels = jnp.broadcast_to((jnp.arange(predicted) + 0.5) / predicted, (CASES, predicted))
    if drawn:
        levels = jnp.asarray(np.random.default_rng(4).random((CASES, predicted)), jnp.float32)

    def ours(atoms, levels, action, reward, discount, chooses, following):
        told = Following(returns(following, jnp.zeros_like(following)), chooses.mean(-1))
        target = PlainSpec()(step(reward, discount), told)
        level = jnp.broadcast_to(levels, atoms.shape)
        made = Returns(atoms, jnp.zeros_like(atoms), jnp.zeros((0, ACTIONS)), level)
        return (width or 1.0) * QuantileHuberSpec(width=width)(made.of(action), target)

    def theirs(atoms, levels, action, reward, discount, chooses, following):
        return rlax.quantile_q_learning(atoms.T, levels, action, reward, discount, chooses.T, following.T, width)

    given = atoms, levels, integers(4, ACTIONS), reward, discount, chooses, following
    same(jax.value_and_grad(ours), jax.value_and_grad(theirs), *given)


def test_rescaled_returns(rlax: Any):
    """rlax in 64 bits, since the inverse as it is written loses all but four digits in 32."""
    random = np.random.default_rng(5)
    value = np.float32(random.normal(size=1_000) * 10.0 ** random.uniform(-3, 4, size=1_000))
    with jax.enable_x64(True):
        wide = jnp.asarray(value, jnp.float64)
        expected = [np.asarray(function(wide)) for function in (rlax.signed_hyperbolic, rlax.signed_parabolic)]
    assert expected[0].dtype == np.float64
    for ours, theirs in zip((squashed, stretched), expected, strict=True):
        np.testing.assert_allclose(jax.jit(ours)(value), theirs, rtol=1e-5)


def test_a_rescaled_target_of_double_q_learning(rlax: Any):
    """h(r + gamma h^-1(Q')): the whole target, in 64 bits there."""
    following, selector, reward, discount = normal(7, (ACTIONS,), (ACTIONS,), (), (), scale=3)
    spec = AgentSpec(reward=RewardSpec(rescale=True))

    def ours(following, selector, reward, discount):
        return bootstrapped(spec, step(reward, discount), Following(numbers(following), selector)).mean

    def theirs(following, selector, reward, discount):
        row = jnp.zeros((1, ACTIONS)), jnp.zeros(1, int), following[None], selector.argmax()[None]
        return rlax.transformed_n_step_q_learning(
            *row, reward[None], discount[None], 1, tx_pair=rlax.SIGNED_HYPERBOLIC_PAIR
        )[0]

    found = jax.jit(jax.vmap(ours))(following, selector, reward, discount)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(leaf), jnp.float64) for leaf in (following, selector, reward, discount)]
        expected = np.asarray(jax.vmap(theirs)(*wide))
    assert expected.dtype == np.float64
    np.testing.assert_allclose(found, expected, **CLOSE)


def munchausen(spec: MunchausenSpec, case: dict[str, np.ndarray]) -> tuple[float, float]:
    """Mean and second moment of the target, action by action in float64."""

    def policy(q: np.ndarray) -> np.ndarray:
        raised = np.exp((q - q.max()) / spec.temperature)
        return raised / raised.sum()

    here = spec.temperature * np.log(max(policy(case["here"])[case["action"]], 1e-300))
    reward = case["reward"] + spec.scale * min(max(here, spec.floor), 0.0)
    moments = np.zeros(2)
    for chance, atoms in zip(policy(case["selector"]), case["atoms"], strict=True):
        if chance > 1e-300:
            worth = reward + case["discount"] * (atoms - spec.temperature * np.log(chance))
            moments += chance * np.array([worth.mean(), (worth**2).mean()])
    return moments[0], moments[1]


@pytest.mark.parametrize("temperature", [0.03, 1.0])
@pytest.mark.parametrize("floor", [-1.0, -0.1])
def test_the_target_of_munchausen_in_float64(temperature: float, floor: float):
    """Quantiles that follow, four actions of which the last is forbidden in a third of the cases."""
    spec = MunchausenSpec(scale=0.9, temperature=temperature, floor=floor)
    atoms, selector, here, reward, discount = normal(6, (ACTIONS, 5), (ACTIONS,), (ACTIONS,), (), ())
    action = integers(6, ACTIONS - 1)
    selector, here = (q.at[::3, -1].set(-jnp.inf) for q in (selector, here))

    def ours(atoms, selector, here, action, reward, discount):
        told = Following(returns(atoms, jnp.zeros_like(atoms)), selector, here=Here(here, action))
        found = spec(step(reward, discount), told)
        return found.mean, (found.probabilities * found.atoms**2).sum()

    given = dict(atoms=atoms, selector=selector, here=here, action=action, reward=reward, discount=discount)
    found = np.stack(jax.jit(jax.vmap(ours))(*given.values()), 1)
    wide = {name: np.asarray(leaf, np.float64 if name != "action" else int) for name, leaf in given.items()}
    expected = [munchausen(spec, {name: leaf[case] for name, leaf in wide.items()}) for case in range(CASES)]
    np.testing.assert_allclose(found, expected, **CLOSE)
