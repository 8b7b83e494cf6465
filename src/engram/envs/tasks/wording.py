"""A dialogue in words: typed acts of a person, the sentences that the agent says, and the whole conversation."""

import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from engram.envs.tasks.agenda import (
    ASK,
    BOOK,
    DENY,
    GO_ON,
    HANG_UP,
    INFORM,
    NOBODY,
    NOT_KNOWN,
    NOTHING_FITS,
    OFFER,
    READ_BACK,
    REQUEST,
    TELL,
    THANKS,
    YES,
    Act,
    Spoken,
)
from engram.envs.tasks.tickets import ANY, TICKET, UNKNOWN, Tickets
from engram.errors import EngramError, hint

if TYPE_CHECKING:
    from engram.envs.tasks.dialogue import Dialogue

SPOKEN = {  # what people call the slots of the base that is shipped
    "moviename": "film", "starttime": "time", "numberofpeople": "number of people", "video_format": "format",
    "theater_chain": "chain", "distanceconstraints": "place", "zip": "zip code", "critic_rating": "rating",
    "mpaa_rating": "age rating", "numberofkids": "number of children",
}  # fmt: skip
QUESTIONS = {
    "moviename": "Which film would you like to see?", "theater": "Which theater?", "starttime": "At what time?",
    "date": "On which day?", "numberofpeople": "For how many people?", "city": "In which city?",
    "state": "In which state?",
}  # fmt: skip
REMARKS = {
    GO_ON: "I see. Go on.", NOTHING_FITS: "I find nothing. What did I get wrong?",
    HANG_UP: "I have nothing for you. Good bye.",
}  # fmt: skip
WORDS = {"yes": YES, "right": YES, "no": DENY, "deny": DENY, "thanks": THANKS, "bye": THANKS, "inform": INFORM}
ASKING = ("request", "which", "what")
FREE = ("any", "anything", "whatever")
MARKS = "?.!"  # that end an act
HELP = """Type acts, with a comma between two:
  inform city seattle   or: city seattle    what you want
  request theater       or: theater?        what you ask for; also: request ticket
  any city                                  you do not mind
  yes, no city boston, thanks
  values city           the values that are known of a slot
  help, quit"""


class NotUnderstood(EngramError):
    """What was typed is no act."""


def called(slot: str) -> str:
    """What people call a slot."""
    return SPOKEN.get(slot, slot.replace("_", " "))


def read_act(text: str, data: Tickets) -> Act:
    """An act as a person types it.

    >>> read_act("inform city seattle, request theater", tickets("", "", 1))

    Raises NotUnderstood, with the nearest word, for anything else.
    """
    informs, asks, intent = np.full(len(data.slots), UNKNOWN, np.int32), NOBODY, None
    for part in _parts(text.lower(), data):
        words = _words(part, data)
        if not words:
            continue
        first = words[0].rstrip(MARKS)
        asking = part.endswith("?") or first in ASKING
        if first in WORDS:
            intent = WORDS[first]
        words = words[first in ASKING or first in WORDS :]
        if not words:
            continue
        if asking and " ".join(words).rstrip(MARKS) == TICKET:
            asks, intent = len(data.slots), REQUEST
            continue
        free = words[0] in FREE and len(words) > 1
        slot, value = _slot(words[free:], data)
        if free or (len(value) == 1 and value[0].rstrip(MARKS) in FREE):
            informs[slot] = ANY
        elif asking and not value:
            asks, intent = slot, REQUEST
        else:
            informs[slot] = _value(slot, " ".join(value), data)
    if intent is None and asks == NOBODY and (informs == UNKNOWN).all():
        raise NotUnderstood(f"{text!r} says nothing; type such as: city {_example('city', data)}, theater?")
    return Act(jnp.int32(INFORM if intent is None else intent), jnp.asarray(informs), jnp.int32(asks))


def _parts(text: str, data: Tickets) -> list[str]:
    """The acts of a line, which commas and semicolons divide; those within a value that is known divide nothing."""
    inner = {value.lower() for own in data.values for value in own if re.search("[,;]", value)}
    kept = sorted((value for value in inner if value in text), key=len, reverse=True)
    for number, value in enumerate(kept):
        text = text.replace(value, f"\0{number}\0")
    parts = [part.strip() for part in re.split("[,;]", text)]
    for number, value in enumerate(kept):
        parts = [part.replace(f"\0{number}\0", value) for part in parts]
    return [part for part in parts if part.rstrip(MARKS)]


def _words(part: str, data: Tickets) -> list[str]:
    """The words of an act; `slot=value` is two."""
    before, sign, value = part.partition("=")
    words = before.split()
    first = words[:1] if words and words[0] in (*WORDS, *ASKING) else []
    name = "".join(words[len(first) :])
    return [*first, name, *value.split()] if sign and name in _names(data) else part.split()


def _names(data: Tickets) -> dict[str, int]:
    """The slots by their own names and by what people call them, in lower case and without spaces."""
    names = {called(slot).replace(" ", "").lower(): place for place, slot in enumerate(data.slots)}
    return names | {slot.lower(): place for place, slot in enumerate(data.slots)}


def _slot(words: list[str], data: Tickets) -> tuple[int, list[str]]:
    """The slot that the words begin with, and the words after that."""
    names = _names(data)
    for count in range(len(words), 0, -1):
        if (name := "".join(words[:count]).rstrip(MARKS)) in names:
            return names[name], words[count:]
    raise NotUnderstood(f"no slot is called {words[0]!r}; {hint(words[0], data.slots)}")


def _value(slot: int, text: str, data: Tickets) -> int:
    name, values = data.slots[slot], data.values[slot]
    if not text:
        raise NotUnderstood(f"{name} has no value here; type such as: {name} {_example(name, data)}, or {name}?")
    lower = [value.lower() for value in values]
    for one in (text, text.rstrip(MARKS)):  # a value may end with a mark of its own
        if one in lower:
            return lower.index(one)
    raise NotUnderstood(f"no {called(name)} is called {text.rstrip(MARKS)!r}; {hint(text.rstrip(MARKS), values)}")


def _example(name: str, data: Tickets) -> str:
    values = data.values[data.slots.index(name)] if name in data.slots else ()
    return values[0] if values else "..."


# -- what is said ----------------------------------------------------------------------------------------------------


def sentence(spoken: Spoken, data: Tickets) -> str:
    """What the agent says, in words."""
    kind, slot = int(spoken.kind), int(spoken.slot)
    name = data.slots[slot] if slot >= 0 else ""
    value = int(spoken.value)
    if kind == ASK:
        return QUESTIONS.get(name, f"Which {called(name)}?")
    if kind == TELL:
        if value == UNKNOWN:
            return "I find nothing that fits."
        return f"The {called(name)} is {data.values[slot][value]}." if value >= 0 else f"I know no {called(name)}."
    order = _listed(np.asarray(spoken.order), data)
    if kind == OFFER:
        return f"I can offer: {order}." if int(spoken.row) >= 0 else "I have no ticket that fits."
    if kind == BOOK:
        return f"Booked: {order}." if int(spoken.row) >= 0 else "I cannot book anything that fits."
    if kind == READ_BACK:
        return f"I heard: {_listed(np.asarray(spoken.read), data)}. Is that right?"
    return REMARKS.get(kind, "...")


def act_in_words(act: Act, data: Tickets) -> str:
    """An act of the user, as it could be typed."""
    informs, asks, intent = np.asarray(act.informs), int(act.asks), int(act.intent)
    parts = [
        f"{name} {data.values[place][value]}" if value >= 0 else f"any {name}"
        for place, (name, value) in enumerate(zip(data.slots, informs, strict=True))
        if value != UNKNOWN
    ]
    first = {DENY: ["no"], YES: ["yes"], THANKS: ["thanks"]}.get(intent, [])
    parts = [" ".join([*first, *parts[:1]]), *parts[1:]] if first or parts else []
    if asks != NOBODY:
        parts.append(f"{TICKET if asks == len(data.slots) else data.slots[asks]}?")
    return ", ".join(parts) or "..."


def _listed(values: Any, data: Tickets) -> str:
    told = [
        f"{called(name)} {data.values[place][value]}" if value >= 0 else f"any {called(name)}"
        for place, (name, value) in enumerate(zip(data.slots, np.asarray(values).tolist(), strict=True))
        if value not in (UNKNOWN, NOT_KNOWN) or value == ANY
    ]
    return ", ".join(told) or "nothing"


def goal_in_words(goal: int, data: Tickets) -> str:
    """What a user with this goal wants."""
    wants = _listed(data.wanted[goal], data)
    asks = [called(name) for name, flag in zip(data.slots, data.asked[goal], strict=True) if flag]
    return f"You want a ticket with {wants}." + (f" You ask for: {', '.join(asks)}." if asks else "")


# -- a conversation --------------------------------------------------------------------------------------------------


def converse(env: "Dialogue", agent: Any, ask: Any, tell: Any, seed: int) -> None:
    """A person is the user. A goal is proposed, which nobody has to follow. What is typed is heard as it is."""
    data, goals = env.data, env.data.of_split(env.split)
    goal = int(goals[int(np.random.default_rng(seed).random() * len(goals))])
    tell("You call to buy cinema tickets. A goal, if you like one:\n  " + goal_in_words(goal, data))
    tell(HELP)
    listen, speak, observe = jax.jit(env.listen), jax.jit(env.speak), jax.jit(env.observe)
    heard, state = env.silence(), None
    while int(heard.turns) < env.max_turn // 2:
        heard = listen(heard, _typed(ask, tell, data))
        action, state = agent.predict(jax.tree.map(np.asarray, observe(heard)), state)
        heard, spoken = speak(heard, jnp.int32(action))
        tell(f"agent> {sentence(spoken, data)}   [{env.acts.names[int(action)]}]")
        if int(spoken.kind) == BOOK:
            wanted, order = data.wanted[goal], np.asarray(spoken.order)
            right = int(spoken.row) >= 0 and bool(((wanted < 0) | (wanted == order)).all())
            tell("The ticket is what the goal wants." if right else "The ticket is not what the goal wants.")
            return
        if int(spoken.kind) == HANG_UP:
            tell("The agent hung up.")
            return
    tell(f"The {env.max_turn} turns of a dialogue are over, and nothing is booked.")


def _typed(ask: Any, tell: Any, data: Tickets) -> Act:
    """The next act that is understood."""
    while True:
        line = ask("you> ")
        word, _, rest = line.strip().lower().partition(" ")
        try:
            if word == "help" or not word:
                tell(HELP)
            elif word == "values":
                place, _ = _slot(rest.split() or [""], data)
                tell(f"{data.slots[place]}: {', '.join(data.values[place])}")
            else:
                return read_act(line, data)
        except NotUnderstood as problem:
            tell(str(problem))
