"""Pictures of what was seen: as the environment draws it, or the observation itself where that is an image."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.envs.device import DeviceEnv
from engram.envs.drawing.pictures import boxes, draw, inner
from engram.envs.names import Names, names_of
from engram.explaining.moments import Picture

COLOURS = (1, 3, 4)  # channels of an image
LONGEST_SIDE = 320  # of a picture, in pixels: an episode has thousands of them
SCREENS = ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR")  # one of them is set where one is
RENDERED = {"render_mode": "rgb_array"}  # the argument by which a Gymnasium environment draws pictures


@contextmanager
def without_notes() -> Iterator[None]:
    """Nothing is said of a mode of rendering that an environment does not declare."""
    notes = logging.getLogger("gymnasium")
    level = notes.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notes.setLevel(logging.ERROR)
        try:
            yield
        finally:
            notes.setLevel(level)


def without_screen() -> None:
    """Where there is no screen, pygame is told so: else it looks for one, and says that it finds none.

    A machine without a screen mostly has no sound either, of which twenty lines would be said. MuJoCo ends the process
    where it looks for a screen in vain; with EGL it needs none.
    """
    if sys.platform == "linux" and not any(os.environ.get(name) for name in SCREENS):
        os.environ["SDL_VIDEODRIVER"] = "dummy"
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        if "MUJOCO_GL" not in os.environ and find_library("EGL"):
            os.environ["MUJOCO_GL"] = "egl"


def renders(envs: Any) -> bool:
    """Whether a host environment draws pictures."""
    return getattr(instance(envs), "render_mode", None) == "rgb_array"


def rendered(envs: Any) -> Picture | None:
    """What a host environment draws of its state now; None where it draws nothing."""
    if not renders(envs):
        return None
    try:
        return as_picture(instance(envs).render())
    except Exception:  # of code that is not ours, and a picture is worth no run
        return None


def instance(envs: Any) -> Any:
    """The first of several host environments; None where they do not live in this process."""
    instances = getattr(envs, "instances", None) or [None]
    return instances[0]


def of_state(env: DeviceEnv, state: PyTree, observation: PyTree = None) -> Picture | None:
    """What a device environment looks like; None where nothing draws it. Some cards are seen by `observation` only."""
    return draw(env, state, observation)


def names_of_state(env: DeviceEnv, id: str | None, state: PyTree, observation: PyTree) -> Names | None:
    """What a device environment calls its parts in a state, and where they are; None where that is always the same."""
    bare, inside = inner(env, state)
    placed = boxes(bare, inside, observation)
    if not placed and not callable(getattr(bare, "parts", None)):
        return None
    own = names_of(bare, id, inside)
    return own if own.boxes else replace(own, boxes=placed)


def of_observation(space: spaces.Space, observation: PyTree) -> Picture | None:
    """The observation as a picture: its only image of bytes; None where it has none, or several."""
    leaves = zip(spaces.leaves(space), jax.tree.leaves(observation), strict=True)
    found = [as_picture(value) for (_, leaf), value in leaves if _is_image(leaf)]
    return found[0] if len(found) == 1 else None


def newest(frames: PyTree, step: int) -> PyTree:
    """The newest of the stacked observations at a step. Leaves are [steps, stack, ...]."""
    return jax.tree.map(lambda leaf: leaf[step, -1], frames)


def as_picture(image: Any) -> Picture | None:
    """An image of bytes in three colours, rows first; None for what is none."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        return None
    if image.ndim == 2:
        image = image[..., None]
    elif image.shape[2] not in COLOURS and image.shape[0] in COLOURS:
        image = np.moveaxis(image, 0, 2)
    if image.shape[2] not in COLOURS:
        return None
    coloured = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    return _smaller(coloured)


def _smaller(image: np.ndarray) -> Picture:
    """The picture with its longest side at most `LONGEST_SIDE`: each pixel the mean of a square of pixels."""
    by = -(-max(image.shape[:2]) // LONGEST_SIDE)
    if by == 1:
        return np.array(image)
    rows, columns = image.shape[0] // by * by, image.shape[1] // by * by
    squares = image[:rows, :columns].reshape(rows // by, by, columns // by, by, 3)
    return np.rint(squares.mean((1, 3))).astype(np.uint8)


def _is_image(leaf: spaces.Leaf) -> bool:
    return isinstance(leaf, spaces.Box) and leaf.dtype == "uint8" and len(leaf.shape) in (2, 3) and leaf.high == 255.0
