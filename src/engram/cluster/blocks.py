"""Numbered blocks: which of them are learned, in which order, and an account of every one.

A learner *issues* block number s to an actor: "collect it with these parameters". The actor sends it back as often as
it likes. The ledger *accepts* it once. One block of each actor, all of one number, is a *round*. Rounds are accepted in
order, and in each the actors in theirs. So what is learned depends on no clock.

    issued = accepted + waiting + lost + outstanding
    received = accepted + waiting + duplicates + refused

*Lost* is a block that was issued to an actor which is gone. Its number is issued again, to the next *incarnation* of
that actor. What the former one still sends is refused, also where it comes from a node that was taken for dead.
"""

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from engram.errors import CheckpointError

UNACCEPTED = 2  # blocks of an actor that may be issued and not accepted: it collects one while one is on its way
NAMED = 100  # lost blocks that are named; further ones are counted


class Name(NamedTuple):
    """A block: who collects it, and which of theirs it is."""

    actor: int
    incarnation: int  # how often this actor was made anew before
    sequence: int  # the number of its round


class Sent(NamedTuple):
    """A block as it arrives. `version`: of the parameters that acted, the number of rounds they had learned from."""

    name: Name
    version: int
    steps: int  # of environments
    content: Any
    partial: int = 0  # reads of an external memory that a shard did not answer


class Verdict(Enum):
    """What becomes of a block that arrives."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"  # it came before
    GAP = "gap"  # one before it is missing
    STALE = "stale"  # of an incarnation that is gone
    UNASKED = "unasked"  # it was never issued


@dataclass
class Account:
    """Sums over a run. `lost` names blocks; `lost_steps` counts the steps that they would have had, at most."""

    issued: int = 0
    accepted: int = 0
    accepted_steps: int = 0
    received: int = 0
    duplicates: int = 0
    gaps: int = 0
    stale: int = 0
    unasked: int = 0
    lost_blocks: int = 0
    lost_steps: int = 0
    lost: list[list[int]] = field(default_factory=list)
    restarts: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "Account":
        """The inverse of `to_json`. Raises CheckpointError for anything else."""
        try:
            return cls(**values)
        except TypeError as error:
            raise CheckpointError(f"the checkpoint's account of blocks cannot be read ({error})") from None


class Ledger:
    """The blocks of all actors.

    Args:
      steps: of environments, in a block of one actor.
      ahead: rounds that may be issued beyond the one that is to be accepted next.
    """

    def __init__(self, actors: int, steps: int, ahead: int = UNACCEPTED):
        self.actors, self.steps, self.ahead = actors, steps, min(ahead, UNACCEPTED)
        self.accepted = 0  # rounds
        self.account = Account()
        self.incarnations = [0] * actors
        self._issued = [0] * actors  # the sequence that each actor is issued next
        self._waiting: list[dict[int, Sent]] = [{} for _ in range(actors)]

    def due(self) -> list[Name]:
        """The blocks that are to be issued now, in order: no actor has more than `ahead` that are not accepted."""
        return [
            Name(actor, self.incarnations[actor], sequence)
            for sequence in range(self.accepted, self.accepted + self.ahead)
            for actor in range(self.actors)
            if sequence >= self._issued[actor]
        ]

    def issue(self, name: Name) -> None:
        """Notes that a block was asked for. Blocks of an actor are issued in order."""
        if name.sequence != self._issued[name.actor] or name.incarnation != self.incarnations[name.actor]:
            raise ValueError(f"{name} was issued out of turn")
        if name.sequence >= self.accepted + self.ahead:
            raise ValueError(f"{name} would be more than {self.ahead} blocks that are not accepted")
        self._issued[name.actor] += 1
        self.account.issued += 1

    def outstanding(self, actor: int) -> list[int]:
        """The numbers that were issued to an actor and did not arrive yet."""
        waiting = self._waiting[actor]
        return [number for number in range(self.accepted, self._issued[actor]) if number not in waiting]

    def offer(self, sent: Sent) -> Verdict:
        """Takes a block that arrived, or says why not."""
        self.account.received += 1
        verdict = self._judged(sent.name)
        if verdict is Verdict.TAKEN:
            self._waiting[sent.name.actor][sent.name.sequence] = sent
            return verdict
        counts = {Verdict.DUPLICATE: "duplicates", Verdict.GAP: "gaps", Verdict.STALE: "stale"}
        counter = counts.get(verdict, "unasked")
        setattr(self.account, counter, getattr(self.account, counter) + 1)
        return verdict

    def _judged(self, name: Name) -> Verdict:
        actor, incarnation, sequence = name
        if not 0 <= actor < self.actors or incarnation > self.incarnations[actor]:
            return Verdict.UNASKED
        if sequence < self.accepted or sequence in self._waiting[actor]:
            return Verdict.DUPLICATE
        if incarnation < self.incarnations[actor]:
            return Verdict.STALE
        if sequence >= self._issued[actor]:
            return Verdict.UNASKED
        return Verdict.GAP if sequence != self.outstanding(actor)[0] else Verdict.TAKEN

    @property
    def ready(self) -> bool:
        """Whether a block of every actor is there for the round that is next."""
        return all(self.accepted in waiting for waiting in self._waiting)

    def take(self) -> list[Sent]:
        """The next round, in the order of the actors; it is accepted by this. Raises ValueError if it is not there."""
        if not self.ready:
            raise ValueError(f"round {self.accepted} is not there")
        taken = [waiting.pop(self.accepted) for waiting in self._waiting]
        self.accepted += 1
        self.account.accepted += len(taken)
        self.account.accepted_steps += sum(sent.steps for sent in taken)
        return taken

    def waiting(self) -> list[list[Sent]]:
        """What arrived of each actor and is not accepted, in order."""
        return [[waiting[number] for number in sorted(waiting)] for waiting in self._waiting]

    def begin_anew(self, actor: int) -> Name:
        """An actor is gone: what it owes is lost, and its next incarnation begins. The first block that it owes."""
        account, owed = self.account, self.outstanding(actor)
        for sequence in owed:
            name = Name(actor, self.incarnations[actor], sequence)
            account.lost_blocks += 1
            account.lost_steps += self.steps
            if len(account.lost) < NAMED:
                account.lost.append(list(name))
        self.incarnations[actor] += 1
        account.restarts += 1
        first = owed[0] if owed else self._issued[actor]
        self._issued[actor] = first
        return Name(actor, self.incarnations[actor], first)

    @property
    def balances(self) -> bool:
        """Whether both sums at the head of this file hold."""
        account, waiting = self.account, sum(map(len, self._waiting))
        owed = sum(len(self.outstanding(actor)) for actor in range(self.actors))
        refused = account.duplicates + account.gaps + account.stale + account.unasked
        return (
            account.issued == account.accepted + waiting + account.lost_blocks + owed
            and account.received == account.accepted + waiting + refused
        )

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the blocks that wait. Nothing may be outstanding."""
        if any(self.outstanding(actor) for actor in range(self.actors)):
            raise ValueError("blocks are on their way; wait for them before a checkpoint")
        return {"accepted": self.accepted, "incarnations": self.incarnations, "account": self.account.to_json()}

    def restore(self, values: dict[str, Any], waiting: list[list[Sent]]) -> None:
        """As it was at `to_json`. With another number of actors every incarnation is later than all there were."""
        self.accepted, self.account = values["accepted"], Account.from_json(values["account"])
        before = values["incarnations"]
        same = len(before) == self.actors
        self.incarnations = list(before) if same else [max(before) + 1] * self.actors
        self._waiting = [{sent.name.sequence: sent for sent in blocks} for blocks in waiting]
        self._issued = [self.accepted + len(blocks) for blocks in waiting]
        if not same:  # the same rounds, cut into other blocks
            more = sum(map(len, waiting)) - (len(waiting[0]) * len(before) if waiting else 0)
            self.account.issued += more
            self.account.received += more
