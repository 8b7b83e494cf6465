"""Draws docs/img/crossing.png, arm.png and battle.png: a moment of each task, as `engram watch` draws it.

uv run --extra smax python docs/img/fields.py
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from jaxtyping import Array, Int

from engram.envs.device import make_device
from engram.envs.drawing.pictures import draw
from engram.spaces import MASK

HERE = Path(__file__).parent
# Task, picture, seed, steps before the picture, how much larger it is.
MOMENTS = (
    ("engram/Intersection-v0", "crossing", 3, 2, 3),
    ("engram/TwoLinkArm-v0", "arm", 5, 2, 3),
    ("smax-2s3z", "battle", 4, 10, 3),
)


def main() -> None:
    """All three."""
    for id, name, seed, steps, larger in MOMENTS:
        env: Any = make_device(id)
        state, shown = jax.jit(env.reset)(jnp.array([0, seed], jnp.uint32))
        step = jax.jit(env.step)
        for number in range(steps):
            action = jnp.int32(env.actions - 1) if not hasattr(env, "agents") else charge(shown[MASK])
            state, taken = step(state, action, jnp.array([1 + number, seed], jnp.uint32))
            shown = taken.observation
        picture = draw(env, state)
        assert picture is not None
        plt.imsave(HERE / f"{name}.png", picture.repeat(larger, 0).repeat(larger, 1))


def charge(mask: Int[Array, "agents actions"]) -> Int[Array, "agents"]:
    """What no training is needed for: each unit attacks whom it can, else walks towards the enemy, else stops."""
    right, stop, attacks = 1, 4, 5
    walks = jnp.where(mask[:, right], right, stop)
    return jnp.where(mask[:, attacks:].any(1), attacks + mask[:, attacks:].argmax(1), walks).astype(jnp.int32)


if __name__ == "__main__":
    main()
