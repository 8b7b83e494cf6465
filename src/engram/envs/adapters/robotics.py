"""Gymnasium-Robotics' arms and hands on MuJoCo: Gymnasium's own, with goals in their observations.

Its Fetch arms refuse MuJoCo from 3.12 on, so the extra holds an earlier one. Importing the package prints a line on
other versions of its Adroit hands; that is left out.

Worker processes import this file, so it imports no JAX; the package is imported only when one of its tasks is made.
"""

from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO

from engram.envs.adapters.adapter import Adapter


def register() -> None:
    """Makes the tasks known to Gymnasium."""
    with redirect_stderr(StringIO()):
        import_module("gymnasium_robotics")


ADAPTER = Adapter(
    ("Fetch", "HandReach", "HandManipulate", "PointMaze_", "AntMaze_", "AdroitHand", "FrankaKitchen"),
    module="gymnasium_robotics",
    extra="robotics",
    by_hand=register,
)
