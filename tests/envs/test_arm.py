"""The two-link arm: held against Lagrange's equations, which are derived here from where its rods are."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.envs.device import make_device
from engram.envs.tasks.arm import ArmState, _moved, tip

KEY = jnp.zeros(2, jnp.uint32)
ROD, KILOGRAM, DAMPING = 0.5, 1.0, 0.5


def energy(angles: Any, speeds: Any) -> Any:
    """Kinetic energy: of each rod that of its middle, and that of turning about it, m l² / 12."""

    def middles(angles: Any) -> Any:
        turns = jnp.cumsum(angles)
        rods = ROD * jnp.stack([jnp.cos(turns), jnp.sin(turns)], 1)
        return jnp.stack([rods[0] / 2, rods[0] + rods[1] / 2])

    _, moving = jax.jvp(middles, (angles,), (speeds,))
    turning = jnp.cumsum(speeds)
    return 0.5 * KILOGRAM * (moving**2).sum() + 0.5 * KILOGRAM * ROD**2 / 12 * (turning**2).sum()


def lagrange(angles: Any, speeds: Any, torque: Any) -> Any:
    """q'' of d/dt dL/dq' - dL/dq = torque - damping q', where L is the kinetic energy."""
    momentum = jax.grad(energy, 1)
    mass = jax.jacobian(momentum, 1)(angles, speeds)
    along = jax.jacobian(momentum, 0)(angles, speeds) @ speeds
    return jnp.linalg.solve(mass, torque - DAMPING * speeds - along + jax.grad(energy)(angles, speeds))


def test_its_rods_are_driven_as_lagrange_has_it():
    draw = np.random.default_rng(0)
    angles, speeds = draw.uniform(-3, 3, (200, 2)), draw.uniform(-4, 4, (200, 2))
    torque = draw.uniform(-3, 3, (200, 2))
    states = jnp.asarray(np.concatenate([angles, speeds], 1), jnp.float32)
    after = jax.vmap(_moved)(states, jnp.asarray(torque, jnp.float32))
    wanted = jax.vmap(lagrange)(*(jnp.asarray(one, jnp.float32) for one in (angles, speeds, torque)))
    # A difference of float32 speeds over 10 ms: 4e-7 / 0.01, and accelerations are up to 300 rad/s².
    np.testing.assert_allclose((after[:, 2:] - states[:, 2:]) / 0.01, wanted, rtol=2e-4, atol=5e-3)


def test_where_its_tip_is_by_hand():
    for angles, place in (
        ([0, 0], [1, 0]),
        ([np.pi / 2, 0], [0, 1]),
        ([0, np.pi / 2], [0.5, 0.5]),
        ([0, np.pi], [0, 0]),
    ):
        np.testing.assert_allclose(tip(jnp.array([*angles, 0.0, 0.0])), place, atol=1e-6)


@pytest.mark.parametrize(("far", "there"), [(0.049, True), (0.051, False)])
@pytest.mark.parametrize("dense", [False, True])
def test_a_step_pays_and_succeeds_within_five_centimetres(far: float, there: bool, dense: bool):
    env: Any = make_device("engram/TwoLinkArm-v0", dense=dense)
    still = ArmState(jnp.zeros(4), jnp.array([1.0 - far, 0.0]), jnp.int32(48))
    state, out = jax.jit(env.step)(still, jnp.int32(4), KEY)  # the middle of 3 x 3: no torque
    np.testing.assert_allclose(out.reward, -far if dense else float(there) - 1, atol=1e-6)
    assert (bool(out.success), bool(out.truncated), bool(out.terminated)) == (there, False, False)
    _, last = jax.jit(env.step)(state, jnp.int32(4), KEY)
    assert bool(last.truncated)


def test_goals_lie_in_a_ring_every_area_of_it_alike():
    env: Any = make_device("engram/TwoLinkArm-v0")
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.PRNGKey(3)))(jnp.arange(4_000))
    goals = np.asarray(jax.vmap(lambda key: env.reset(key)[0].goal)(keys.astype(jnp.uint32)))
    radius = np.hypot(*goals.T)
    assert 0.2 <= radius.min() < radius.max() <= 0.95
    inner = (0.6**2 - 0.2**2) / (0.95**2 - 0.2**2)
    assert abs((radius < 0.6).mean() - inner) < 4 * (inner * (1 - inner) / 4_000) ** 0.5
    assert abs(goals.mean(0)).max() < 4 * 0.7 / 4_000**0.5
