"""A user with a goal and an agenda, and a line on which words get lost: what an act of the agent is answered by.

The user is made of rules, not of people. He opens with what he asks for (or with the wish for a ticket), the film if he
wants a certain one, and one more thing that he wants. Then he answers:

| act of the agent      | the user                                                                              |
|-----------------------|---------------------------------------------------------------------------------------|
| request a slot        | informs what he wants of it; asks for it again if it is what he asks for; else does not mind |
| inform a value        | corrects it if he wants another; takes it for an answer if he asked; then goes on      |
| offer a ticket        | denies and corrects one value that is wrong; else goes on                             |
| read back             | denies and corrects one value that was heard wrong; else says yes                     |
| go on                 | goes on                                                                               |
| say that nothing fits | informs one thing that he wants, again                                                |

*Going on* means: one of the things that he has not said or not been told yet, at random, sometimes two that he wants at
once; after all of them the wish for a ticket, and after an offer that is right his thanks.

The rules are Engram's own, after the agenda of Schatzmann et al. 2007 (NAACL) and the task of Li et al. 2017 (arXiv
1612.05688).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from engram.envs.tasks.tickets import ANY, UNKNOWN

# Intents of the user.
REQUEST, INFORM, DENY, YES, THANKS = range(5)
INTENTS = ("request", "inform", "deny", "yes", "thanks")
# Kinds of acts of the agent.
ASK, TELL, OFFER, BOOK, READ_BACK, GO_ON, NOTHING_FITS, HANG_UP = range(8)
KINDS = ("request", "inform", "ticket", "taskcomplete", "confirm_question", "confirm_answer", "deny", "thanks")
NOT_KNOWN = -2  # of what was told: that the base does not know it
TWO_AT_ONCE = 0.3  # chance that the user says two things that he wants, where he goes on
NOBODY = -1  # no slot, no row


class Act(NamedTuple):
    """What the user says, or what is heard of it."""

    intent: Int[Array, ""]
    informs: Int[Array, "slots"]  # the number of a value, ANY, or UNKNOWN for a slot of which nothing is said
    asks: Int[Array, ""]  # a slot; their number for a ticket; NOBODY


class Spoken(NamedTuple):
    """What the agent says."""

    kind: Int[Array, ""]
    slot: Int[Array, ""]  # that it is about; NOBODY
    value: Int[Array, ""]  # that is told; NOT_KNOWN; UNKNOWN where nothing fits
    row: Int[Array, ""]  # that is offered or booked; NOBODY where none fits
    read: Int[Array, "slots"]  # what is read back: all values heard from the user; UNKNOWN for others
    order: Int[Array, "slots"]  # values of an offer or a booking: those of its row, and the amounts that were heard


class User(NamedTuple):
    """One user in one dialogue."""

    wanted: Int[Array, "slots"]  # a value, or UNKNOWN
    asked: Bool[Array, "slots"]
    said: Bool[Array, "slots"]  # what he wants and need not say any more
    told: Int[Array, "slots"]  # what he was told; NOT_KNOWN; UNKNOWN where nothing yet
    offered: Bool[Array, ""]  # whether a ticket was offered that is right


def opened(wanted: Int[Array, "slots"], asked: Bool[Array, "slots"], first: int, noise: Float[Array, "slots"]):
    """A user and his first act. `first`: the slot that he names first if he wants a value of it."""
    slots, places = wanted.size, jnp.arange(wanted.size)
    wants = wanted >= 0
    chosen = (places == first) & wants
    more = picked(wants & ~chosen, noise)
    chosen = chosen | ((places == more) & wants)
    asks = jnp.where(asked.any(), picked(asked, noise[::-1]), slots)
    nothing = jnp.full(slots, UNKNOWN)
    user = User(wanted, asked, chosen, nothing, jnp.bool_(False))
    return user, Act(jnp.int32(REQUEST), jnp.where(chosen, wanted, UNKNOWN), asks.astype(jnp.int32))


def picked(flags: Bool[Array, "slots"], noise: Float[Array, "slots"]) -> Int[Array, ""]:
    """One of the flagged slots, each as often as the others; NOBODY where none is flagged."""
    return jnp.where(flags.any(), jnp.where(flags, noise, -1.0).argmax(), NOBODY).astype(jnp.int32)


def answered(user: User, spoken: Spoken, noise: Float[Array, "slots"], chance: Float[Array, ""]) -> tuple[User, Act]:
    """What the user makes of what was said, and his answer.

    Args:
      noise, chance: uniform numbers in [0, 1).
    """
    user = _taken_in(user, spoken)
    kind, slots, places = spoken.kind, user.wanted.size, jnp.arange(user.wanted.size)
    wants, here = user.wanted >= 0, places == spoken.slot
    fails = ((kind == TELL) & (spoken.value == UNKNOWN)) | ((kind == OFFER) & (spoken.row < 0))
    again = picked(wants, noise)  # one thing that he wants, whether he said it or not

    # What is asked of him.
    requested = jnp.where(wants, user.wanted, jnp.where(user.told >= 0, user.told, ANY))
    returns = (kind == ASK) & (here & ~wants & user.asked & (user.told == UNKNOWN)).any()
    # What is wrong.
    wrong = jnp.select(
        [kind == TELL, kind == OFFER, kind == READ_BACK],
        [here & wants & (spoken.value != user.wanted), wants & (spoken.order != user.wanted), misheard(user, spoken)],
        jnp.zeros(slots, bool),
    )
    corrects = wrong.any() & ~fails
    wrongly = picked(wrong, noise)
    # What comes next of his own.
    unsaid, open_ = wants & ~user.said, user.asked & (user.told == UNKNOWN)
    following = picked(unsaid | open_, noise)
    asks_next = (open_ & (places == following)).any()
    ready = following < 0
    second = jnp.where(chance < TWO_AT_ONCE, picked(unsaid & (places != following), noise), NOBODY)
    own = unsaid & ((places == following) | (places == second)) & ~asks_next

    repeats = fails | (kind == NOTHING_FITS)
    replies = kind == ASK
    agrees = (kind == READ_BACK) & ~corrects
    goes_on = ~(repeats | replies | corrects | agrees)
    informs = jnp.where(
        goes_on,
        jnp.where(own, user.wanted, UNKNOWN),
        jnp.select(
            [repeats, replies & ~returns, corrects],
            [
                jnp.where(places == again, user.wanted, UNKNOWN),
                jnp.where(here, requested, UNKNOWN),
                jnp.where(places == wrongly, requested, UNKNOWN),
            ],
            jnp.full(slots, UNKNOWN),
        ),
    )
    asks = jnp.select(
        [goes_on & asks_next, goes_on & ready & ~user.offered, returns], [following, slots, spoken.slot], NOBODY
    )
    intent = jnp.select(
        [agrees, corrects, asks != NOBODY, goes_on & ready & user.offered], [YES, DENY, REQUEST, THANKS], INFORM
    )
    user = user._replace(said=user.said | (informs >= 0))
    return user, Act(intent.astype(jnp.int32), informs.astype(jnp.int32), asks.astype(jnp.int32))


def _taken_in(user: User, spoken: Spoken) -> User:
    """The user once he has heard what was said."""
    tells = (spoken.kind == TELL) & (jnp.arange(user.wanted.size) == spoken.slot) & (spoken.value != UNKNOWN)
    told = jnp.where(tells & user.asked, spoken.value, user.told)
    wants, offers = user.wanted >= 0, (spoken.kind == OFFER) & (spoken.row >= 0)
    met = wants & (spoken.order == user.wanted)
    fits = offers & (met | ~wants).all()
    said = user.said | (tells & (spoken.value == user.wanted)) | (offers & met)
    return user._replace(said=said, told=told, offered=jnp.where(offers, fits, user.offered))


def misheard(user: User, spoken: Spoken) -> Bool[Array, "slots"]:
    """What is read back and is neither what he wants nor what he was told."""
    right = jnp.where(user.wanted >= 0, spoken.read == user.wanted, (spoken.read == ANY) | (spoken.read == user.told))
    return (spoken.read != UNKNOWN) & ~right


def succeeds(user: User, spoken: Spoken) -> Bool[Array, ""]:
    """Whether a booking is what the user wants, and whether he was told of it what he asked for."""
    met = (user.wanted < 0) | (spoken.order == user.wanted)
    answer = jnp.where(spoken.order >= 0, spoken.order, NOT_KNOWN)
    return (spoken.kind == BOOK) & (spoken.row >= 0) & met.all() & (~user.asked | (user.told == answer)).all()


def heard(
    act: Act,
    counts: Int[np.ndarray, "slots"],
    slot_error: float,
    intent_error: float,
    noise: Float[Array, "3 slots"],
    chances: Float[Array, "4"],
) -> Act:
    """What is heard of an act.

    A slot of which something is said goes wrong with probability `slot_error`: another value, another slot with some
    value, or nothing is heard, a third of the time each. What is asked for goes wrong as often: another slot, or
    nothing, half of the time each. An intent is heard as another one with probability `intent_error`. What is asked
    for is heard in a request only.

    Args:
      counts: values of each slot.
      noise, chances: uniform numbers in [0, 1).
    """
    slots, places = act.informs.size, jnp.arange(act.informs.size)
    says = act.informs != UNKNOWN
    spoilt = says & (noise[0] < slot_error)
    way = jnp.floor(noise[1] * 3)
    size = jnp.asarray(counts)
    any_value = jnp.where(
        size > 0, jnp.floor(noise[2] * size).astype(jnp.int32), UNKNOWN
    )  # of a slot without values none
    other = (act.informs + 1 + jnp.floor(noise[2] * (size - 1)).astype(jnp.int32)) % jnp.maximum(size, 1)
    other = jnp.where(act.informs >= 0, jnp.where(size > 1, other, UNKNOWN), any_value)
    informs = jnp.where(spoilt, jnp.where(way == 0, other, UNKNOWN), act.informs)
    moved = spoilt & (way == 1)  # at most one is, which is all but always what happens
    to = (moved.argmax() + 1 + jnp.floor(chances[0] * (slots - 1)).astype(jnp.int32)) % slots
    informs = jnp.where(moved.any() & (places == to), any_value, informs)

    lost = (act.asks != NOBODY) & (chances[1] < slot_error)
    there = (jnp.maximum(act.asks, 0) + 1 + jnp.floor(chances[2] * 2 * (slots - 1)).astype(jnp.int32)) % slots
    asks = jnp.where(lost, jnp.where(chances[2] < 0.5, there, NOBODY), act.asks)
    wrong = chances[3] < intent_error
    shift = 1 + jnp.floor(chances[3] / max(intent_error, 1e-6) * (len(INTENTS) - 1)).astype(jnp.int32)
    intent = jnp.where(wrong, (act.intent + shift) % len(INTENTS), act.intent)
    return Act(intent, informs, jnp.where(intent == REQUEST, asks, NOBODY))
