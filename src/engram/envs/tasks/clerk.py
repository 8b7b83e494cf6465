"""Agents made of rules for `engram/Dialogue-v0`: what a learned one is held against."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from engram.envs.tasks.agenda import ASK, BOOK, HANG_UP, NOBODY, OFFER, REQUEST, TELL, THANKS
from engram.envs.tasks.dialogue import Dialogue, Heard
from engram.envs.tasks.tickets import UNKNOWN
from engram.errors import UnknownName, hint

BASICS = ("moviename", "starttime", "city", "date", "theater", "numberofpeople")  # in the order they are asked for
Rule = Callable[[Dialogue, Heard], Int[Array, ""]]


def basics(env: Dialogue, heard: Heard) -> Int[Array, ""]:
    """Without listening: requests the basic slots one after another, offers a ticket and books."""
    order = [act for act in (_act(env, ASK, slot) for slot in BASICS) if act is not None]
    order += [_act(env, OFFER), _act(env, BOOK)]
    return jnp.asarray(order)[jnp.minimum(heard.turns, len(order) - 1)]


def clerk(env: Dialogue, heard: Heard) -> Int[Array, ""]:
    """Requests the basic slots that were not heard, tells what is asked for, offers a ticket, and books if it is right.

    It offers again after everything that it hears anew, and books once the user thanks or asks for the ticket.
    """
    choices: list[tuple[Any, int | None]] = [(_unheard(env, heard, slot), _act(env, ASK, slot)) for slot in BASICS]
    names = env.data.slots
    choices += [(heard.asked[names.index(slot)], _act(env, TELL, slot)) for slot in names]
    wants_it = (heard.act.intent == THANKS) | (heard.act.asks == len(names))
    choices += [(~heard.shown, _act(env, OFFER)), (wants_it | (heard.act.intent == REQUEST), _act(env, BOOK))]
    open_ = [(flag, act) for flag, act in choices if act is not None]
    flags = jnp.stack([jnp.asarray(flag) for flag, _ in open_])
    last = open_[-1][1]  # the booking
    return jnp.where(flags.any(), jnp.array([act for _, act in open_])[flags.argmax()], last)


def at_random(env: Dialogue, bits: Int[Array, ""], allowed: Bool[Array, "acts"] | None = None) -> Int[Array, ""]:
    """Any act but hanging up: a control. `bits`: a random whole number of 0 or more."""
    likely = jnp.asarray(env.acts.kind != HANG_UP) & (True if allowed is None else allowed)
    place = bits % jnp.maximum(likely.sum(), 1)
    return jnp.argmax(jnp.cumsum(likely) > place).astype(jnp.int32)


RULES: dict[str, Rule] = {"clerk": clerk, "basics": basics}


def rule(name: str) -> Rule:
    """The rule agent of that name; UnknownName, with the nearest, for any other."""
    if name not in RULES:
        raise UnknownName(f"no rule agent is called {name!r}; {hint(name, RULES)}")
    return RULES[name]


def _act(env: Dialogue, kind: int, slot: str | None = None) -> int | None:
    """The number of an act; None where the base has no such slot."""
    names = env.data.slots
    if slot is not None and slot not in names:
        return None
    place = NOBODY if slot is None else names.index(slot)
    found = np.flatnonzero((env.acts.kind == kind) & (env.acts.slot == place))
    return int(found[0]) if found.size else None


def _unheard(env: Dialogue, heard: Heard, slot: str) -> Bool[Array, ""]:
    if slot not in env.data.slots:
        return jnp.bool_(False)
    place = env.data.slots.index(slot)
    return (heard.values[place] == UNKNOWN) & ~heard.asked[place]
