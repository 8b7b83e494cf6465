"""Settings that nothing reads while another one is off: whoever gives one of them is told which other it waits for."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from engram import specs
from engram.agents.mind import MindSpec
from engram.errors import SpecError

T = TypeVar("T")


class Unread(SpecError):
    """A setting was given that nothing reads. `path`: that setting. `switch`: the one that it waits for."""

    def __init__(self, agent: MindSpec, path: str, needs: "Needs", word: str = ""):
        """`word`: how the setting was given, where that is not as a value."""
        self.path, self.switch = path, needs.switch
        shown = {known: value for known, _, value, _ in specs.describe(agent)}
        given = f"{path} = {specs.show(shown[path])}" if path in shown else path
        switch = f"{needs.switch} = {specs.show(shown[needs.switch])}"
        super().__init__(
            f"{word or given} was given, but nothing reads it while {switch}; set {needs.on}, or leave it out"
        )


class Needs(NamedTuple):
    """What a setting, or all settings of a group, are only read with.

    switch: the path of the other setting. on: how to set it, in a message. where: whether a value of it is on.
    """

    switch: str
    on: str
    where: Callable[[Any], bool] = bool


ANNEAL = Needs("anneal.updates", "anneal.updates=10000")
CONSERVATIVE = Needs("conservative.weight", "conservative.weight=1")
RESET = Needs("optimizer.reset_every", "optimizer.reset_every=40000")
POOL = Needs("pool.share", "pool.share=0.2")
RELATIVE = Needs("encoder.relative", "encoder.relative=true")
EXTERNAL = Needs("external", "external=episodic", lambda kind: kind != "none")
WORKING = Needs("working", "working=gru", lambda kind: kind != "none")

# By path, or by the name of a group; the longest that fits counts first. An agent without the switch always reads.
NEEDS: dict[str, tuple[Needs, ...]] = {
    "anneal.n_step": (ANNEAL,),
    "anneal.discount": (ANNEAL,),
    "demos.margin": (Needs("demos.margin_weight", "demos.margin_weight=1 and demos.ratio=0.25"),),
    "conservative.temperature": (CONSERVATIVE,),
    "conservative.on": (CONSERVATIVE,),
    "optimizer.reset_encoder": (RESET,),
    "optimizer.reset_rest": (RESET,),
    "optimizer.decay_steps": (
        Needs("optimizer.final_fraction", "optimizer.final_fraction=0", lambda fraction: fraction < 1),
    ),
    "pool.size": (POOL,),
    "pool.every": (POOL,),
    "encoder.position": (RELATIVE,),
    "encoder.velocity": (RELATIVE,),
    "encoder.heading": (RELATIVE,),
    "encoder.units": (RELATIVE,),
    "external.heads": (Needs("external.kernel", "external.kernel=multi-head", lambda kernel: kernel == "multi-head"),),
    "external.alpha": (Needs("external.update", "external.update=tabular", lambda update: update == "tabular"),),
    "recall.frozen_width": (EXTERNAL, Needs("recall.keys", "recall.keys=frozen", lambda keys: keys == "frozen")),
    "recall": (EXTERNAL,),
    "replay.window": (WORKING,),
    "replay.burn_in": (WORKING,),
    "replay.align": (WORKING,),
    "replay.stored_carry": (WORKING,),
}


def lacking(agent: MindSpec, path: str) -> Needs | None:
    """What must be on for the setting to be read, and is not; None where the agent reads it."""
    values = {known: value for known, _, value, _ in specs.describe(agent)}
    for needs in NEEDS.get(path) or NEEDS.get(path.partition(".")[0], ()):
        if needs.switch in values and not needs.where(values[needs.switch]):
            return needs
    return None


def check_read(agent: MindSpec, given: Collection[str]) -> None:
    """Raises Unread for the first of the paths `given` that nothing reads in this agent."""
    for path in given:
        if (needs := lacking(agent, path)) is not None:
            raise Unread(agent, path, needs)


def where_read(make: Callable[[Mapping[str, Any]], T], given: Mapping[str, Any], switches: Collection[str]) -> T:
    """What `make` makes of the settings but for those that wait for one of the `switches`, which others choose."""
    while True:
        try:
            return make(given)
        except Unread as refused:
            if refused.switch not in switches:
                raise
            given = {path: value for path, value in given.items() if path != refused.path}
