"""Draws docs/img/crossing.png and docs/img/arm.png: a first moment of each task, as `engram watch` draws it.

uv run python docs/img/fields.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from engram.envs.device import make_device
from engram.envs.drawing.pictures import draw

HERE = Path(__file__).parent


def main() -> None:
    """Both pictures."""
    for id, name, seed in (("engram/Intersection-v0", "crossing", 3), ("engram/TwoLinkArm-v0", "arm", 5)):
        env = make_device(id)
        state, _ = jax.jit(env.reset)(jnp.array([0, seed], jnp.uint32))
        for _ in range(2):
            state, _ = jax.jit(env.step)(state, jnp.int32(env.actions - 1), jnp.array([1, seed], jnp.uint32))
        picture = draw(env, state)
        assert picture is not None
        plt.imsave(HERE / f"{name}.png", picture.repeat(3, 0).repeat(3, 1))


if __name__ == "__main__":
    main()
