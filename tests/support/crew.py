"""Actors of a cluster in this process, whose messages are lost, repeated, delayed and swapped as a test says."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engram.cluster.blocks import Name, Sent
from engram.runners.cluster import ActorGone
from engram.runners.collecting import Beginning, Collecting

Fault = Callable[["HereCrew", Sent], None]


class HereCrew:
    """See `runners.cluster.Crew`.

    `make_one(actor, incarnation)` makes an actor. `fault` puts a block that was collected into `inbox`, or does not.
    """

    description = "actors in this process"

    def __init__(self, make_one: Callable[[int, int], Collecting], actors: int, fault: Fault | None = None):
        self._make_one, self._fault = make_one, fault
        self.actors: list[Collecting | None] = [None] * actors
        self.minds: dict[int, list[np.ndarray]] = {}
        self.asked: deque[tuple[Name, int, int]] = deque()
        self.inbox: deque[Sent | ActorGone] = deque()
        self.collected: list[Name] = []
        self.dead: set[int] = set()

    def make(self, actor: int, incarnation: int, beginning: Beginning) -> None:
        one = self._make_one(actor, incarnation)
        one.begin(beginning)
        self.actors[actor] = one
        self.dead.discard(actor)
        self.asked = deque(entry for entry in self.asked if entry[0].actor != actor)

    def publish(self, version: int, mind: Sequence[np.ndarray]) -> None:
        self.minds[version] = [np.array(leaf) for leaf in mind]

    def forget(self, version: int) -> None:
        self.minds = {one: mind for one, mind in self.minds.items() if one >= version}

    def ask(self, name: Name, version: int, steps: int) -> None:
        self.asked.append((name, version, steps))

    def wait(self) -> list[Sent | ActorGone]:
        while not self.inbox:
            if not self.asked:  # a block was swallowed: its actor's time is up
                return [ActorGone(actor, "it sent no block in time") for actor in range(len(self.actors))]
            name, version, steps = self.asked.popleft()
            if name.actor in self.dead:
                self.asked = deque(entry for entry in self.asked if entry[0].actor != name.actor)
                return [ActorGone(name.actor, "its process ended")]
            one = self.actors[name.actor]
            assert one is not None
            sent = one.collect(name, version, steps, self.minds[version])
            self.collected.append(name)
            if self._fault is None:
                self.inbox.append(sent)
            else:
                self._fault(self, sent)
        return [self.inbox.popleft()]

    def capture(self, actor: int) -> Any:
        if actor in self.dead:
            return ActorGone(actor, "its process ended")
        one = self.actors[actor]
        return None if one is None else one.capture()

    def close(self) -> None:
        for one in self.actors:
            if one is not None:
                one.close()
