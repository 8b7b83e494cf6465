"""The families of environments that Engram knows beside Gymnasium's own. A new one is one line here.

Worker processes import this file, so it imports no JAX; `minatar.py`, whose games run on the device, is none of these.
"""

from engram.envs.adapters import atari, envpool, highway, minigrid, robotics, textworld
from engram.envs.adapters.adapter import Adapter

POPGYM = Adapter(("popgym-",), module="popgym", extra="memory")

# The first that owns an id has it: envpool's, which may be an Atari game of the old names, before those.
FAMILIES = (
    envpool.ADAPTER,
    atari.ADAPTER,
    highway.ADAPTER,
    minigrid.ADAPTER,
    POPGYM,
    robotics.ADAPTER,
    textworld.ADAPTER,
)
