"""Names for what an environment shows and takes: numbers, entities, actions, and where entities are in its picture.

An environment of yours may name its parts, on the host or on the device. Any of these will do, and any of the names
may be left out:

    metadata = {"parts": {"numbers": ["height (m)", "speed (m/s)"], "actions": ["fall", "push"]}}
    parts = {"entities": ["itself", "car 1", "car 2"]}        an attribute of the class or the object
    def parts(self): ...                                      a method: asked at every step, for boxes that move
    def parts(self, state): ...                               the same of a `DeviceEnv`

| name       | what it holds                                                                                |
|------------|----------------------------------------------------------------------------------------------|
| `numbers`  | a name for each number, category and symbol of one observation, in the order in which it lies |
| `entities` | a name for each row of a set                                                                 |
| `columns`  | a name for each number of such a row                                                         |
| `actions`  | a name for each action                                                                       |
| `offered`  | instead, where rows offer other actions at each step: a name for each up to the last on offer |
| `symbols`  | a name for each symbol of the texts, that of symbol 1 first; "" for one without a name        |
| `boxes`    | for each number or entity (left, top, right, bottom) in the picture, 0 to 1; None for nowhere |

Of well-known environments the names are known here. Worker processes import this file, so it imports no JAX.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from engram.errors import EnvironmentFault, is_fault, told

LONGEST_NAME = 60  # characters of a name that are kept
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Names:
    """Names of an environment's parts; () where there are none."""

    numbers: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    boxes: tuple[Box | None, ...] = ()
    columns: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()

    def over(self, other: "Names") -> "Names":
        """These names, and where there are none, those of `other`."""
        return Names(*(getattr(self, field.name) or getattr(other, field.name) for field in fields(self)))


NOTHING = Names()
ALL_OF_MINATAR = ("nothing", "left", "up", "right", "down", "fire")
MINATAR = {
    "asterix": (0, 1, 2, 3, 4),
    "breakout": (0, 1, 3),
    "freeway": (0, 2, 4),
    "seaquest": (0, 1, 2, 3, 4, 5),
    "space_invaders": (0, 1, 3, 5),
}
SUITS = ("spades", "diamonds", "clubs", "hearts")  # of popgym 1.0.7, in its order

_CART = ("cart position (m)", "cart velocity (m/s)", "pole angle (rad)", "pole velocity (rad/s)")
_PUSH = ("left", "right")
_ARM = (
    "cosine of shoulder", "sine of shoulder", "cosine of elbow", "sine of elbow",
    "shoulder velocity (rad/s)", "elbow velocity (rad/s)",
)  # fmt: skip
_REACH = (
    "tip x (m)", "tip y (m)", "goal x (m)", "goal y (m)", "cosine of shoulder", "sine of shoulder", "cosine of elbow",
    "sine of elbow", "shoulder velocity (10 rad/s)", "elbow velocity (10 rad/s)",
)  # fmt: skip
_TORQUE = ("torque -1", "torque 0", "torque +1")
_LANDER = (
    "x", "y", "x velocity", "y velocity", "angle (rad)", "turning (rad/s)", "left leg touches", "right leg touches",
)  # fmt: skip
_VEHICLES = ("own vehicle", *(f"vehicle {number}" for number in range(1, 15)))
_DRIVING = ("there", "x", "y", "vx", "vy", "cosine", "sine")
_COMPASS = ("up", "right", "down", "left")
# The first pattern that an id begins with decides.
_KNOWN: tuple[tuple[str, Names], ...] = (
    (r"engram/NoVelocityCartPole", Names(_CART[::2], actions=_PUSH)),
    (r"(engram/\w*|gymnax:)?CartPole-v", Names(_CART, actions=_PUSH)),
    (r"(engram/|gymnax:)?Acrobot-v", Names(_ARM, actions=_TORQUE)),
    (r"engram/TwoLinkArm", Names(_REACH)),
    (r"(gymnax:)?MountainCar-v", Names(("position", "velocity"), actions=("left", "nothing", "right"))),
    (r"MountainCarContinuous-v", Names(("position", "velocity"))),
    (r"(gymnax:)?Pendulum-v", Names(("cosine of angle", "sine of angle", "angular velocity (rad/s)"))),
    (r"LunarLanderContinuous-v", Names(_LANDER)),
    (r"LunarLander-v", Names(_LANDER, actions=("nothing", "left engine", "main engine", "right engine"))),
    (r"FrozenLake", Names(("place",), actions=("left", "down", "right", "up"))),
    (r"CliffWalking", Names(("place",), actions=_COMPASS)),
    (r"Taxi-v", Names(("state",), actions=("south", "north", "east", "west", "pick up", "drop off"))),
    (r"Blackjack-v", Names(("own sum", "dealer's card", "usable ace"), actions=("stick", "hit"))),
    (r"engram/\w*TMaze", Names(("at the junction", "cue or arm"), actions=("right", "up", "left", "down"))),
    (r"engram/SparseGrid", Names(actions=_COMPASS)),
    (r"engram/Intersection", Names((), _VEHICLES, ("slower", "keep", "faster"), (), _DRIVING)),
    (r"(intersection|roundabout)-v", Names((), _VEHICLES, ("slower", "keep", "faster"))),
    (r"(highway|merge)-", Names(actions=("lane left", "keep", "lane right", "faster", "slower"))),
    (r"(engram/|popgym-)Repeat", Names(("card",), actions=SUITS)),
    (r"(engram/|popgym-)Autoencode", Names(("watching", "card"), actions=SUITS)),
    (r"(engram/|popgym-)CountRecall", Names(("card", "asked for"))),
    (r"engram/Battleship", Names(("hit",))),
    (r"engram/Memory(Length|Size)", Names(actions=("bit 0", "bit 1"))),
    (r"MiniGrid-|BabyAI-", Names(actions=("turn left", "turn right", "forward", "pick up", "drop", "toggle", "done"))),
)


def names_of(env: Any = None, id: str | None = None, state: Any = None) -> Names:
    """The names of an environment's parts: its own, and for what it does not name, those known of its id.

    Args:
      env: a host environment (wrapped or not) or a `DeviceEnv`; None for one that is known by its id alone.
      id: the id that it was made by. state: of a `DeviceEnv` whose `parts` depend on it.

    Raises EnvironmentFault for names of another form.
    """
    known = Names() if env is None else _own(env, state).over(_of_layers(env))
    return known.over(_of_id(id or _spec_id(env)))


def action_names(env: Any = None, id: str | None = None, count: int = 0) -> list[str]:
    """A name for each of `count` actions: those of the environment, or `action 0` and so on where it names another
    number of them.
    """
    known = [*names_of(env, id).actions]
    if len(known) != count and id is not None:
        known = _of_kind(id, count) or known
    return known if len(known) == count else [f"action {number}" for number in range(count)]


def _of_id(id: str | None) -> Names:
    return next((names for pattern, names in _KNOWN if re.match(pattern, id or "")), NOTHING)


def _of_kind(id: str, count: int) -> list[str]:
    """Names of actions whose number depends on arguments."""
    game = id.removeprefix("minatar-")
    if id.startswith("minatar-") and game in MINATAR:
        return [*ALL_OF_MINATAR] if count == len(ALL_OF_MINATAR) else [ALL_OF_MINATAR[one] for one in MINATAR[game]]
    if re.match(r"(engram/|popgym-)CountRecall", id):
        return [str(number) for number in range(count)]
    if id.startswith("engram/ContextBandit"):
        return [f"arm {number + 1}" for number in range(count)]
    if id.startswith(("engram/Concentration", "popgym-Concentration")):
        return [f"card {number + 1}" for number in range(count)]
    if id.startswith("engram/Battleship"):
        side = round(count**0.5)
        return [f"{chr(ord('A') + row)}{column + 1}" for row in range(side) for column in range(side)]
    return []


def _spec_id(env: Any) -> str | None:
    return getattr(getattr(env, "spec", None), "id", None)


def _of_layers(env: Any) -> Names:
    """What an Atari game calls its actions."""
    meanings = getattr(getattr(env, "unwrapped", env), "get_action_meanings", None)
    if meanings is None:
        return NOTHING
    try:
        return Names(actions=tuple(name.lower() for name in _texts("actions", meanings())))
    except Exception:  # a game's wrapper may have none
        return NOTHING


def _own(env: Any, state: Any) -> Names:
    """What the environment itself names."""
    inner = getattr(env, "unwrapped", env)
    declared = getattr(inner, "parts", None)
    name = type(inner).__name__
    if declared is None:
        metadata = getattr(inner, "metadata", None)
        declared = metadata.get("parts") if isinstance(metadata, Mapping) else None
    if callable(declared):
        on_device = hasattr(inner, "observation_space") and isinstance(getattr(inner, "actions", None), int)
        if on_device and state is None:
            return NOTHING
        try:
            declared = declared(state) if on_device else declared()
        except BaseException as error:
            if not is_fault(error):
                raise
            raise EnvironmentFault(f"{name}.parts failed ({told(error)}); mend it, or remove it") from error
    return NOTHING if declared is None else _read(declared, name)


def _read(declared: Any, name: str) -> Names:
    known = [field.name for field in fields(Names)]
    if not isinstance(declared, Mapping) or not set(declared) <= set(known):
        raise EnvironmentFault(
            f"the parts of {name} are {declared!r:.120}; expected a dict with some of {', '.join(known)}"
        )
    try:
        texts = {key: _texts(key, value) for key, value in declared.items() if key != "boxes"}
        return Names(**texts, boxes=_boxes(declared.get("boxes", ())))
    except (TypeError, ValueError):
        raise EnvironmentFault(
            f"the parts of {name} are {declared!r:.120}; expected lists of texts, and boxes of 4 numbers or None"
        ) from None


def _texts(key: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(key)
    return tuple(str(value)[:LONGEST_NAME] for value in values)


def _boxes(values: Any) -> tuple[Box | None, ...]:
    found: list[Box | None] = []
    for value in values:
        box = None if value is None else tuple(min(1.0, max(0.0, float(one))) for one in value)
        if box is not None and len(box) != 4:
            raise ValueError("a box has 4 numbers")
        found.append(box)  # type: ignore[arg-type]
    return tuple(found)
