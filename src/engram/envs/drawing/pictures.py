"""`draw`: a small picture of a device environment's state, for people. No agent sees it.

An environment of yours is drawn by itself if it has a method `draw(state)`, or `draw(state, observation)`, that gives
rows x columns x 3 of uint8:

    def draw(self, state):
        picture = np.full((80, 80, 3), 255, np.uint8)
        picture[int(state.row), int(state.column)] = (200, 60, 50)
        return picture
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from engram.envs.drawing import battles, boards, cards, poles, roads, talk
from engram.envs.drawing.canvas import Picture
from engram.envs.limit import TimeLimited
from engram.envs.steady import Steady
from engram.errors import EnvironmentFault, is_fault, told
from engram.precision import in_32_bits

WIDEST = 1024  # pixels of a side of a picture of a user's own

Draw = Callable[..., Picture]
_WITH_OBSERVATION = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "Concentration")


@cache
def _drawn() -> dict[str, Draw]:
    """By the class of an environment of Engram's own."""
    carts = ("CartPole", "NoVelocityCartPole", "FlickeringCartPole", "UnscaledCartPole")
    return {
        **dict.fromkeys(carts, poles.cart),
        "Acrobot": poles.arm,
        "TwoLinkArm": poles.reaching,
        "MinAtar": boards.minatar,
        "SparseGrid": boards.maze,
        "TMaze": boards.t_maze,
        "Battleship": boards.ships,
        "Intersection": roads.crossing,
        "RepeatFirst": cards.repeat_first,
        "RepeatPrevious": cards.repeat_previous,
        "Autoencode": cards.autoencode,
        "CountRecall": cards.count_recall,
        "Concentration": cards.concentration,
        "ContextBandit": cards.bandit,
        "MemoryChain": cards.bits,
        "Dialogue": talk.dialogue,
        "SMAX": battles.field,
    }


def inner(env: Any, state: Any) -> tuple[Any, Any]:
    """An environment and its state without what Engram put around them."""
    while isinstance(env, TimeLimited | Steady):
        env, state = (env.env, state.inner) if isinstance(env, TimeLimited) else (env.env, state)
    return env, state


@in_32_bits
def draw(env: Any, state: Any, observation: Any = None) -> Picture | None:
    """A picture of one state, at most 160 pixels a side; None where nothing draws this environment.

    `observation` is that of the state. Without it, a card that the state does not hold lies face down.

    Raises EnvironmentFault, naming it, where an environment's own `draw` fails or gives something else.
    """
    env, state = inner(env, state)
    own = getattr(env, "draw", None)
    if callable(own):
        return _of_its_own(env, own, state, observation)
    name = type(env).__name__
    found = _drawn().get(name) if type(env).__module__.startswith("engram.envs.") else None
    if found is None:
        return None
    return found(env, state, observation) if name in _WITH_OBSERVATION else found(env, state)


def boxes(env: Any, state: Any, observation: Any = None) -> tuple[roads.Box | None, ...]:
    """Where the entities of the state's observation are in the picture; () where nobody knows."""
    env, state = inner(env, state)
    return tuple(roads.boxes(env, state, observation)) if type(env).__name__ == "Intersection" else ()


def _of_its_own(env: Any, own: Callable[..., Any], state: Any, observation: Any) -> Picture | None:
    name = type(env).__name__
    try:
        takes = len(inspect.signature(own).parameters)
        given = own(state, observation) if takes > 1 else own(state)
    except BaseException as error:
        if not is_fault(error):
            raise
        raise EnvironmentFault(f"{name}.draw failed ({told(error)}); mend it, or remove it") from error
    if given is None:
        return None
    picture = np.asarray(given)
    fits = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and 0 not in picture.shape
    if not fits or max(picture.shape[:2]) > WIDEST:
        raise EnvironmentFault(
            f"{name}.draw gave {picture.dtype}{list(picture.shape)}; expected uint8 [height, width, 3] of at most "
            f"{WIDEST} pixels a side, or None"
        )
    return picture
