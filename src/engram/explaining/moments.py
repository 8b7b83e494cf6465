"""What is told of a step, a remembered experience and an episode: plain values, ready for a page, a table, a film.

Whoever shows an explanation reads these and nothing else. Numbers are Python's, arrays NumPy's, texts as a user may
have written them: whoever prints them escapes them.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Part:
    """One piece of an observation that an encoder can attend to: a place of a picture, a token, an entity, a number."""

    name: str  # "row 3, column 4", "word 2: key", "car 1", "pole angle"
    value: str = ""  # what it holds at this step, as text; "" where a picture says it
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom in the picture, 0 to 1
    word: bool = False  # whether `value` is a word, which says more than the name of its place

    @property
    def label(self) -> str:
        """The name, and the word that stands there."""
        return f"{self.name} ({self.value})" if self.word and self.value else self.name


@dataclass(frozen=True)
class Memory:
    """One remembered experience, as the decision of one step read it."""

    id: int  # names the entry in its store; what `engram memory` shows and deletes
    action: int  # it is an experience of this one; where actions are offered, it was read for this row of the step
    looked_at: float  # its weight in the read of the chosen action, or else the runner-up's, 0 to 1, mean over heads
    gave: float  # signed part of the margin that it is: see `contributions`
    mattered: float | None  # margin minus the margin without it (exact leave-one-out); None if not measured
    without: list[float] | None  # preference of every action without it; None if not measured
    value: float  # what it says the action is worth, in units of reward
    environment: int  # of training; -1 where the memory's kind does not keep it, like the next two
    episode: int
    step: int  # of that episode
    age: int | None = None  # writes since it was written; None where the kind does not keep it
    reads: float | None = None  # attention it received while training; None where the kind does not keep it
    picture: Picture | None = None  # what was seen then; None where no observation is kept
    facts: list[tuple[str, str]] = field(default_factory=list)  # names and values of what was seen, without a picture


@dataclass(frozen=True)
class Step:
    """One decision. Lists over actions have every action, also those that were not allowed."""

    t: int  # step of the episode, from 0
    episode: int
    action: int  # that was taken
    runner_up: int  # the best of the other allowed actions; the action itself where there is no other
    allowed: list[bool]
    q: list[float]  # the estimate of each action's return: network and memory together
    preference: list[float]  # what was chosen by: q, or the logits of a policy
    distribution: list[list[tuple[float, float]]] | None  # of each action: return and probability; None for a number
    value: float
    margin: float  # preference of the action minus that of the runner-up
    from_network: float  # margin = from_network + from_memories + rest
    from_memories: float
    rest: float  # what is neither, shown as a bar of its own
    without_memories: list[float] | None  # preference of every action with no memory at all; None without one
    share: list[float] | None  # the external memory's weight in the estimate of each action, 0 to 1
    memories: list[Memory]  # those shown, by how much they mattered
    others: tuple[int, float, float]  # memories read and not shown: how many, their weight, what they gave
    attention: Float[np.ndarray, "heads parts"]  # of the encoder over `parts`; (0, 0) without one
    parts: list[Part]
    recalled: list[tuple[int, float]]  # working memory: step of this episode, its weight (mean over heads)
    still_moves: list[tuple[int, float]]  # recall density: step of this episode, how far leaving it out moves Q now
    reward: float  # that followed
    terminated: bool  # this was the last step, and the task was over
    truncated: bool  # this was the last step, and the clock ran out
    picture: Picture | None  # what was seen; None where nothing draws it
    facts: list[tuple[str, str]]  # names and values of the observation's numbers
    sentence: str  # what was chosen, and by how much
    # Parts, by their place in `parts`, and the margin with each minus the margin with it covered by its mean over the
    # episode; empty where it was not measured.
    parts_mattered: list[tuple[int, float]] = field(default_factory=list)
    # Names of the actions on offer, where a number stands for another one at each step; numbers past them are none.
    called: list[str] = field(default_factory=list)

    @property
    def rows(self) -> range:
        """The numbers that stand for an action."""
        return range(len(self.called or self.preference))


@dataclass(frozen=True)
class World:
    """One thing of the task was another: what the agent chose there, and what leave-one-out had named."""

    edit: str  # "the cue is down, not up"
    episode: int
    step: int  # whose observation was edited
    asked: int  # step of the choice
    before: int  # action
    after: int  # action in the edited world
    first: str  # the step, or the part, that moves the margin most when it is left out
    named: bool  # whether that is what was edited, or shows it again


@dataclass(frozen=True)
class Curve:
    """What removing (or adding) more and more of what was looked at does to the margin, against controls."""

    what: str  # "memories", "history" or "input"
    way: str  # "deletion" or "insertion"
    sizes: list[int]  # how many were removed, or added
    ours: list[float]  # mean share of the margin that is left, in the order of attention
    random: list[float]  # the mean of random orders
    random_interval: list[tuple[float, float]]  # 95 %
    least: list[float]  # the least attended first
    oracle: list[float]  # by leave-one-out


@dataclass(frozen=True)
class Faithful:
    """Whether what was looked at is what mattered: a score with its interval, and the words for it."""

    what: str  # "memories", "history" or "input"
    score: float | None  # (ours - random) / (best - random); 0 is chance, 1 the best order known; None: not measured
    interval: tuple[float, float] | None  # 95 %, bootstrap over blocks of steps
    agreement: float | None  # Kendall's tau between weights and leave-one-out
    agreement_interval: tuple[float, float] | None
    shuffled: float | None  # the score of shuffled weights: must be near 0
    reinitialised: float | None  # the score after drawing the layers anew: must be near 0
    flips: float | None  # share of steps whose choice changes when what was looked at most is removed
    samples: int  # steps measured
    verdict: str
    curves: list[Curve]
    notes: list[str] = field(default_factory=list)  # how it was measured: fills, sizes, what was left out


@dataclass(frozen=True)
class Light:
    """One line of a memory's health."""

    name: str
    value: str
    state: str  # "good", "look" or "bad"
    rule: str  # by which it was judged


@dataclass(frozen=True)
class Health:
    """How an external memory is: its fill, ages, reads, duplicates, and how old its keys are."""

    entries: int
    capacity: int
    lights: list[Light]
    ages: list[tuple[float, float, int]]  # histogram: from, to (writes), entries
    reads: list[tuple[float, float, int]]  # histogram: from, to (attention received), entries
    effective: list[float]  # entries that a step attended to in effect, exp(entropy), for each step told


@dataclass(frozen=True)
class Told:
    """All that a page shows."""

    agent: str  # preset, and what it is made of
    env: str
    checkpoint: str  # 12 digits of the manifest's digest, or "unsaved"
    trained: int  # steps of the environment
    seed: int  # of the episodes told
    actions: list[str]  # their names; "action 0" and so on where each step has names of its own
    unit: str  # of `preference`: "Q" or "log-probability"
    steps: list[Step]
    returns: list[float]  # of each episode told
    moments: list[tuple[int, str]]  # key moments: place in `steps`, and why
    faithful: list[Faithful]  # empty where it was not measured
    health: Health | None  # None without an external memory
    notes: list[str]  # what was left out, thinned or cut, in sentences
    holds: list[str]  # what the file contains, for privacy
    versions: dict[str, str]
    worlds: list[World] = field(default_factory=list)  # edited ones; empty where the task cannot be edited
