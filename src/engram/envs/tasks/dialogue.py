"""Book cinema tickets in a conversation: acts of the agent, what it has heard, the base, and the environment."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram import spaces
from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.envs.tasks import agenda, wording
from engram.envs.tasks.agenda import (
    ASK,
    BOOK,
    HANG_UP,
    INTENTS,
    KINDS,
    NOBODY,
    NOT_KNOWN,
    OFFER,
    READ_BACK,
    REQUEST,
    TELL,
    YES,
    Act,
    Spoken,
    User,
)
from engram.envs.tasks.tickets import ANY, SPLITS, UNKNOWN, Tickets, tickets
from engram.errors import SpecError, hint

FILM = "moviename"  # what a user names first
MATCHES = (0, 1, 3, 10)  # rows that fit: none, one, up to 3, up to 10, more


class Acts(NamedTuple):
    """Kind and slot of each act of the agent, by its number."""

    kind: Int[np.ndarray, "acts"]
    slot: Int[np.ndarray, "acts"]  # NOBODY where it is about none
    names: tuple[str, ...]


def acts_of(data: Tickets) -> Acts:
    """An inform for each slot of the base, `ticket` and `taskcomplete`; a request for each slot; four others."""
    base = [slot for slot in range(len(data.slots)) if not data.amount[slot]]
    listed = [(TELL, slot, f"inform {data.slots[slot]}") for slot in base]
    listed += [(OFFER, NOBODY, "inform ticket"), (BOOK, NOBODY, "inform taskcomplete")]
    listed += [(ASK, slot, f"request {name}") for slot, name in enumerate(data.slots)]
    listed += [(kind, NOBODY, KINDS[kind]) for kind in range(READ_BACK, HANG_UP + 1)]
    kinds, slots, names = zip(*listed, strict=True)
    return Acts(np.array(kinds), np.array(slots), names)


class Heard(NamedTuple):
    """What the agent's side of the line knows: it does not know the user's goal."""

    values: Int[Array, "slots"]  # the number of a value, ANY, or UNKNOWN
    of_user: Bool[Array, "slots"]  # whether the user said it, or else the agent
    sure: Bool[Array, "slots"]  # heard twice, or read back and agreed to
    asked: Bool[Array, "slots_and_ticket"]  # what was asked for and not told yet
    act: Act  # the last one that was heard
    action: Int[Array, ""]  # the agent's last act; NOBODY at first
    found: Bool[Array, ""]  # whether anything fitted it
    shown: Bool[Array, ""]  # whether a ticket was offered, and nothing new was heard since
    turns: Int[Array, ""]  # acts of the agent


class DialogueState(NamedTuple):
    """Both sides of a conversation."""

    user: User
    heard: Heard
    spoken: Spoken  # the agent's last act, in words; for drawings
    success: Bool[Array, ""]  # whether the last act was a booking that the user wanted


class _Base(NamedTuple):
    """Rows as sets of bits: see `Tickets.having`."""

    having: UInt32[np.ndarray, "values words"]
    starts: Int[np.ndarray, "slots"]
    known: UInt32[np.ndarray, "slots words"]


@lru_cache(maxsize=8)
def _base(data: Tickets) -> _Base:
    return _Base(*data.having())


@register_device("engram/Dialogue-v0")
@dataclass(frozen=True)
class Dialogue:
    """Sell cinema tickets to a synthetic user by acts such as `request city` and `inform theater`, over a noisy line.

    The user has a goal: values that the showing must have, and slots whose values he asks for. A base of showings fills
    in what the agent informs; `inform ticket` offers the first row that fits all that was heard; `inform taskcomplete`
    books it, and ends the dialogue. It succeeds if the booked row has all that the user wants, the amounts are right,
    and the user was told of this row what he asked for. What is asked for and not in the row must be told as not known.

    Acts: `inform` each slot of the base, `inform ticket`, `inform taskcomplete`, `request` each slot, and
    `confirm_question` (reads back what was heard), `confirm_answer` (go on), `deny` (nothing fits), `thanks` (hangs up,
    a failure). With the base that is shipped they are 29.
    Observation, `tracked`: of each slot whether it was heard, told, does not matter, is sure, is asked for, can be
    told, was in the last act of the user or the agent; and intent, rows that fit, clock. Not tracked: the last act of
    the user as it was heard and the last of the agent; everything else must be remembered.
    `described`: each act is offered by features of its kind and its slot, so `head=attention`; else a fixed set.
    Reward: -1 for each act; with the last one 2 * max_turn on success, -max_turn on failure. Terminated by a booking,
    by `thanks`, and as a failure when `max_turn` turns are over, half of which are the agent's. Never truncated.

    Rows and goals are Engram's own, made from `data_seed`, or read from `base` and `goals`. A fifth of the distinct
    goals is `split=test`. `ceiling` is the share of the split's goals that a row meets.
    How the user answers and what the line does: `envs/tasks/agenda.py`. He is synthetic; real users are not like him.

    Args:
      base, goals: JSON files (`docs/dialogue.md`), or as `base` a folder with one of each.
      split: whose goals the users have: train, test or all.
      slot_error, intent_error: chances that a slot, an intent is heard wrong.
      max_turn: turns of user and agent together.
    """

    base: str | None = None
    goals: str | None = None
    data_seed: int = 1  # of 0 to 2 the one whose held-out goals are as hard as the others
    split: str = "train"
    tracked: bool = True
    described: bool = True
    slot_error: float = 0.0
    intent_error: float = 0.0
    max_turn: int = 40

    def __post_init__(self):
        at_least(self, "max_turn", 4)
        at_least(self, "data_seed", 0)
        if (self.base or self.goals) and self.data_seed != Dialogue.data_seed:
            raise SpecError(
                f"data_seed = {self.data_seed} is for goals that are made, and files were named; leave it out"
            )
        for name in ("slot_error", "intent_error"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name} = {getattr(self, name)} is no chance below 1; give 0 to 0.99, such as 0.05")
        if self.split not in SPLITS:
            raise SpecError(f"no split is called {self.split!r}; {hint(self.split, SPLITS)}")
        if not len(self._goals):
            raise SpecError(f"split = {self.split!r} has no goals; give more goals, or split=all")

    # -- what it is made of ----------------------------------------------------------------------------------

    @property
    def data_digest(self) -> str:
        """What base and goals are, which a run goes on with."""
        return self.data.digest

    @property
    def data(self) -> Tickets:
        """Base and goals."""
        return tickets(self.base or "", self.goals or "", self.data_seed)

    @property
    def ceiling(self) -> float:
        """The share of the split's goals that a row of the base meets."""
        return self.data.ceiling(self.split)

    @cached_property
    def acts(self) -> Acts:
        """What the agent may do."""
        return acts_of(self.data)

    @cached_property
    def _goals(self) -> Int[np.ndarray, "goals"]:
        return self.data.of_split(self.split)

    @property
    def actions(self) -> int:
        return len(self.acts.names)

    @property
    def parts(self) -> dict[str, list[str]]:
        """Names of acts and of what is seen."""
        slots = self.data.slots
        intents = [f"user: {name}" for name in INTENTS]
        if self.tracked:
            of_slots = [f"{slot} {flag}" for slot in slots for flag in FLAGS]
            fits = ["no row fits", "one row fits", "few rows fit", "some rows fit", "many rows fit"]
            rest = ["ticket asked for", "ticket offered", "nothing was found", "turn"]
            numbers = [*of_slots, *intents, *fits, *(f"agent: {name}" for name in KINDS), *rest]
        else:
            informed = [f"user: {flag} {slot}" for flag in ("inform", "any") for slot in slots]
            asked = [f"user: request {slot}" for slot in (*slots, "ticket")]
            agent = [f"agent: {name}" for name in self.acts.names]
            numbers = [*informed, *asked, *intents, *agent, "nothing was found", "turn"]
        return {"actions": list(self.acts.names), "numbers": numbers}

    @property
    def observation_space(self) -> spaces.Space:
        seen = spaces.Box((len(self.parts["numbers"]),), low=0, high=1)
        items: list[tuple[str, spaces.Space]] = [("seen", seen)]
        if self.tracked:
            items.append((spaces.MASK, spaces.Box((self.actions,), "bool")))
        if self.described:
            features = len(KINDS) + len(self.data.slots) + (len(FLAGS) if self.tracked else 2) + 1
            items.append((spaces.OFFERED, spaces.Box((self.actions, features), "bool")))
        return spaces.Dict(tuple(items)) if len(items) > 1 else seen

    # -- the environment -------------------------------------------------------------------------------------

    def reset(self, key: UInt32[Array, "2"]) -> tuple[DialogueState, Any]:
        which, *noise = self._noise(key)
        goal = jnp.asarray(self._goals)[jnp.floor(which[0] * len(self._goals)).astype(jnp.int32)]
        data = self.data
        first = data.slots.index(FILM) if FILM in data.slots else 0
        wanted, asked = jnp.asarray(data.wanted)[goal], jnp.asarray(data.asked)[goal]
        user, act = agenda.opened(wanted, asked, first, noise[0][0])
        heard = self.listen(self.silence(), self._over_the_line(act, noise))
        state = DialogueState(user, heard, self._nothing_said(), jnp.bool_(False))
        return state, self.observe(heard)

    def step(
        self, state: DialogueState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[DialogueState, DeviceStep]:
        chances, *noise = self._noise(key)
        heard, spoken = self.speak(state.heard, action)
        success = agenda.succeeds(state.user, spoken)
        user, act = agenda.answered(state.user, spoken, noise[0][0], chances[0])
        heard = self.listen(heard, self._over_the_line(act, noise))
        over = (spoken.kind == BOOK) | (spoken.kind == HANG_UP) | (heard.turns >= self.max_turn // 2)
        last = jnp.where(success, 2.0 * self.max_turn, -1.0 * self.max_turn)
        reward = jnp.where(over, last, 0.0) - 1.0
        following = DialogueState(user, heard, spoken, success)
        return following, DeviceStep(self.observe(heard), reward, over, jnp.bool_(False), success=success)

    def _noise(self, key: UInt32[Array, "2"]) -> tuple[Float[Array, "2"], Float[Array, "4 slots"], Float[Array, "4"]]:
        slots = len(self.data.slots)
        numbers = uniforms(key, 6 + 4 * slots)
        return numbers[:2], numbers[6:].reshape(4, slots), numbers[2:6]

    def _over_the_line(self, act: Act, noise: Any) -> Act:
        if not self.slot_error and not self.intent_error:
            return act
        counts = np.array([len(values) for values in self.data.values])
        of_slots, chances = noise
        return agenda.heard(act, counts, self.slot_error, self.intent_error, of_slots[1:], chances)

    # -- the agent's side of the line ------------------------------------------------------------------------

    def silence(self) -> Heard:
        """What is known before the first word."""
        slots = len(self.data.slots)
        no, nobody = jnp.zeros(slots, bool), jnp.int32(NOBODY)
        nothing = jnp.full(slots, UNKNOWN, jnp.int32)
        act = Act(jnp.int32(REQUEST), nothing, nobody)
        asked = jnp.zeros(slots + 1, bool)
        return Heard(nothing, no, no, asked, act, nobody, jnp.bool_(True), jnp.bool_(False), jnp.int32(0))

    def _nothing_said(self) -> Spoken:
        nothing = jnp.full(len(self.data.slots), UNKNOWN, jnp.int32)
        nobody = jnp.int32(NOBODY)
        return Spoken(nobody, nobody, nobody, nobody, nothing, nothing)

    def listen(self, heard: Heard, act: Act) -> Heard:
        """What is known once `act` was heard."""
        says = act.informs != UNKNOWN
        again = says & (act.informs == heard.values)
        agreed = (act.intent == YES) & (heard.action >= 0) & (self._kind(heard.action) == READ_BACK)
        sure = jnp.where(says, again, heard.sure) | (agreed & heard.of_user & (heard.values != UNKNOWN))
        asks = jnp.arange(heard.asked.size) == act.asks
        settled = jnp.append(says, False)
        return heard._replace(
            values=jnp.where(says, act.informs, heard.values),
            of_user=heard.of_user | says,
            sure=sure,
            asked=(heard.asked & ~settled) | asks,
            act=act,
            shown=heard.shown & ~(says & ~again).any(),
        )

    def speak(self, heard: Heard, action: Int[Array, ""]) -> tuple[Heard, Spoken]:
        """What an act comes to in words, and what is known after it."""
        kind, slot = self._kind(action), jnp.asarray(self.acts.slot, jnp.int32)[action]
        here = jnp.arange(heard.values.size) == slot
        fitting, all_but = self._fitting(heard.values)
        known = jnp.asarray(_base(self.data).known)
        own = jnp.maximum(slot, 0)
        choices = jnp.stack([fitting & known[own], all_but[own] & known[own], fitting, all_but[own]])
        possible = (choices != 0).any(1)
        tells, offers = kind == TELL, (kind == OFFER) | (kind == BOOK)
        # One that fits and knows the slot; else one that fits all but what was heard of this slot.
        chosen = jnp.where(tells, jnp.where(possible[0], 0, 1), 2)
        row = jnp.where(possible[chosen], _first(choices[chosen]), NOBODY)
        values = jnp.where(row >= 0, jnp.asarray(self.data.rows)[jnp.maximum(row, 0)], UNKNOWN)
        untold = jnp.where(possible[3], NOT_KNOWN, UNKNOWN)
        value = jnp.where(tells, jnp.where(row >= 0, values[own], untold), UNKNOWN)
        order = jnp.where(offers & (row >= 0), jnp.where(self.data.amount, heard.values, values), UNKNOWN)
        read = jnp.where((kind == READ_BACK) & heard.of_user, heard.values, UNKNOWN)
        spoken = Spoken(kind, slot, value, jnp.where(offers, row, NOBODY), read, order)
        found = ~((tells & (value == UNKNOWN)) | (offers & (row < 0)))
        told = tells & here & (value >= 0)
        changed = told & (value != heard.values)
        answered = jnp.append(tells & here & (value != UNKNOWN), (kind == OFFER) & (row >= 0))
        shown = jnp.where(offers, row >= 0, heard.shown & ~changed.any())
        return (
            heard._replace(
                values=jnp.where(told, value, heard.values),
                of_user=heard.of_user & ~changed,
                sure=heard.sure & ~changed,
                asked=heard.asked & ~answered,
                action=action.astype(jnp.int32),
                found=found,
                shown=shown,
                turns=heard.turns + 1,
            ),
            spoken,
        )

    # -- for people ------------------------------------------------------------------------------------------

    def converse(self, agent: Any, ask: Any, tell: Any, seed: int) -> None:
        """A person is the user: see `engram/play/conversation.py`."""
        wording.converse(self, agent, ask, tell, seed)

    def _kind(self, action: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.asarray(self.acts.kind, jnp.int32)[action]

    def _fitting(self, values: Int[Array, "slots"]) -> tuple[UInt32[Array, "words"], UInt32[Array, "slots words"]]:
        """The rows that fit all values, and, for each slot, those that fit all other values."""
        base = _base(self.data)
        everything = len(base.having) - 1
        heard = (values >= 0) & ~jnp.asarray(self.data.amount)
        sets = jnp.asarray(base.having)[jnp.where(heard, base.starts + values, everything)]
        full = jnp.asarray(base.having[everything])
        before, after = [full], [full]
        for slot in range(len(values) - 1):
            before.append(before[-1] & sets[slot])
            after.append(after[-1] & sets[-1 - slot])
        all_but = jnp.stack([one & other for one, other in zip(before, reversed(after), strict=True)])
        return before[-1] & sets[-1], all_but

    # -- what is seen ----------------------------------------------------------------------------------------

    def observe(self, heard: Heard) -> Any:
        """What the agent sees."""
        seen = self._tracked(heard) if self.tracked else self._raw(heard)
        if not self.tracked and not self.described:
            return seen[0]
        vector, of_slots, mask = seen
        parts: dict[str, Any] = {"seen": vector}
        if self.tracked:
            parts[spaces.MASK] = mask
        if self.described:
            parts[spaces.OFFERED] = self._offered(heard, of_slots)
        return parts

    def _tracked(self, heard: Heard) -> tuple[Array, Array, Array]:
        fitting, all_but = self._fitting(heard.values)
        can = (all_but != 0).any(1)
        about = jnp.arange(heard.values.size) == jnp.asarray(self.acts.slot)[heard.action]
        valued = heard.values >= 0
        flags = jnp.stack(
            [
                valued & heard.of_user,
                valued & ~heard.of_user,
                heard.values == ANY,
                heard.sure,
                heard.asked[:-1],
                can & ~self.data.amount,
                heard.act.informs != UNKNOWN,
                about & (heard.action >= 0),
            ],
            axis=1,
        )
        count = jax.lax.population_count(fitting).sum().astype(jnp.int32)
        fits = (count > np.array([-1, *MATCHES])) & (count <= np.array([*MATCHES, 1 << 30]))
        intent = jnp.arange(len(INTENTS)) == heard.act.intent
        last = (jnp.arange(len(KINDS)) == self._kind(heard.action)) & (heard.action >= 0)
        rest = jnp.stack([heard.asked[-1], heard.shown, ~heard.found])
        told = jnp.concatenate([flags.reshape(-1), intent, fits, last, rest]).astype(jnp.float32)
        return jnp.append(told, self._clock(heard)), flags, self._sensible(heard, can, count > 0)

    def _sensible(self, heard: Heard, can: Bool[Array, "slots"], fits: Bool[Array, ""]) -> Bool[Array, "acts"]:
        """Acts of which something can come: a row to tell of or to offer, something to read back."""
        kind, slot = self.acts.kind, np.maximum(self.acts.slot, 0)
        reads = (heard.of_user & (heard.values != UNKNOWN)).any()
        sensible = jnp.where(kind == TELL, can[slot], True)
        sensible = jnp.where((kind == OFFER) | (kind == BOOK), fits, sensible)
        return jnp.where(kind == READ_BACK, reads, sensible)

    def _raw(self, heard: Heard) -> tuple[Array, Array, None]:
        informs, asks = heard.act.informs, jnp.arange(heard.asked.size) == heard.act.asks
        said = informs != UNKNOWN
        intent = jnp.arange(len(INTENTS)) == heard.act.intent
        own = jnp.arange(self.actions) == heard.action
        told = jnp.concatenate([said, informs == ANY, asks, intent, own, ~heard.found[None]])
        vector = jnp.append(told.astype(jnp.float32), self._clock(heard))
        return vector, jnp.stack([said, asks[:-1]], axis=1), None

    def _offered(self, heard: Heard, of_slots: Bool[Array, "slots flags"]) -> Bool[Array, "acts features"]:
        """Of each act: its kind, its slot, what is seen of the slot, and whether it was the last."""
        kinds = self.acts.kind[:, None] == np.arange(len(KINDS))
        slots = self.acts.slot[:, None] == np.arange(len(self.data.slots))
        flags = of_slots[np.maximum(self.acts.slot, 0)] & (self.acts.slot >= 0)[:, None]
        last = (jnp.arange(self.actions) == heard.action)[:, None]
        return jnp.concatenate([kinds, slots, flags, last], axis=1)

    def _clock(self, heard: Heard) -> Float[Array, ""]:
        return (2 * heard.turns / self.max_turn).clip(0, 1).astype(jnp.float32)


FLAGS = ("heard", "told", "does not matter", "sure", "asked for", "can be told", "in the last act", "of the last act")


def _first(rows: UInt32[Array, "words"]) -> Int[Array, ""]:
    """The first row of a set that is not empty."""
    word = (rows != 0).argmax()
    lowest = rows[word] & (~rows[word] + 1)
    return (32 * word + jax.lax.population_count(lowest - 1)).astype(jnp.int32)
