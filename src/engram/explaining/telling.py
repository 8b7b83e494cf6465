"""Telling: recorded episodes as `Step`s, which say what was chosen, over what, and what gave how much of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engram.explaining import contributions, rereading, sentences, views
from engram.explaining.contributions import Read, Split
from engram.explaining.ledger import Ledger
from engram.explaining.moments import Memory, Step
from engram.explaining.naming import Names
from engram.explaining.recording import Episode, Recording
from engram.explaining.rereading import at
from engram.explaining.skipping import attended

SHOWN = 8  # remembered experiences of a step: those that mattered most, and those looked at most
RECALLED = 64  # past steps that a step tells of its working memory


class Teller:
    """What is the same for all steps of one recording: names, and what every entry of the memory says."""

    def __init__(self, recording: Recording, names: Names, shown: int = SHOWN):
        self.recording, self.names, self.shown = recording, names, shown
        self.spec, self.mind = recording.spec, recording.mind
        self.by_policy = recording.episodes[0].decision.returns.policy is not None
        self.ledger = None if self.mind.recall is None else Ledger.of(self.spec, self.mind)

    def steps(self, number: int, which: Sequence[int], moves: dict[int, list[tuple[int, float]]]) -> list[Step]:
        """These steps of an episode. `moves`: recall density, for the steps that it was measured at."""
        episode = self.recording.episodes[number]
        told = [self._plain(episode, number, step, self.names.at(self.recording, number, step)) for step in which]
        told = [replace(one, still_moves=_largest(moves.get(one.t, []))) for one in told]
        if self.ledger is None:
            return [self._worded(one) for one in told]
        reads = [self.read(episode, step) for step in which]
        splits = [self.split(episode, step, read) for step, read in zip(which, reads, strict=True)]
        told = self._with_memories(episode, told, reads, splits)
        return [self._worded(one) for one in told]

    # -- one step ----------------------------------------------------------------------------------------------------

    def read(self, episode: Episode, step: int) -> Read:
        """What was read at a step of the external memory."""
        read: Any = episode.decision.external
        assert self.ledger is not None
        assert episode.decision.share is not None
        ids = read.entries[step]
        return Read(read.weights[step], ids, self.ledger.worth(ids), episode.decision.share[step])

    def split(self, episode: Episode, step: int, read: Read | None = None) -> Split:
        """The margin of a step, taken apart."""
        return contributions.split(episode.choice(step), episode.kept.own[step], read, self.by_policy)

    def _plain(self, episode: Episode, number: int, step: int, names: Names) -> Step:
        """The step without what an external memory gave."""
        decision, chosen, last = episode.decision, episode.choice(step), step == episode.length - 1
        parted = self.split(episode, step)
        actions = len(episode.kept.preference[step])
        allowed = np.ones(actions, bool) if decision.allowed is None else decision.allowed[step]
        seen = views.newest(episode.kept.state.frames, step)
        return Step(
            t=step,
            episode=number,
            action=chosen.action,
            runner_up=chosen.runner_up,
            allowed=allowed.tolist(),
            q=_floats(episode.kept.q[step]),
            preference=self._preference(episode.kept.preference[step]),
            distribution=_distribution(episode, step),
            value=float(episode.kept.value[step]),
            margin=chosen.margin,
            from_network=parted.network,
            from_memories=parted.memories,
            rest=parted.rest,
            without_memories=None,
            share=None if decision.share is None else _floats(decision.share[step]),
            memories=[],
            others=(0, 0.0, 0.0),
            attention=np.asarray(decision.encoding.attention[step], np.float32),
            parts=names.parts(at(episode.kept.state.frames, step)),
            recalled=_largest(attended(episode, step)),
            still_moves=[],
            reward=float(episode.reward[step]) + 0.0,  # a reward of -0 is 0
            terminated=last and episode.terminated,
            truncated=last and episode.truncated,
            picture=episode.pictures[step],
            facts=names.facts(seen),
            sentence="",
            called=names.called(chosen.action, chosen.runner_up),
        )

    # -- remembered experiences --------------------------------------------------------------------------------------

    def _with_memories(self, episode: Episode, told: list[Step], reads: list[Read], splits: list[Split]) -> list[Step]:
        """The steps with the entries that they read, each left out once."""
        alone = _alone(episode)
        wanted = [self._candidates(episode, *each) for each in zip((one.t for one in told), reads, splits, strict=True)]
        steps = np.array([one.t for one, ids in zip(told, wanted, strict=True) for _ in range(len(ids) + 1)], int)
        hidden = np.array([[id] for ids in wanted for id in (-1, *ids)], int).reshape(-1, 1)
        query: Any = episode.kept.query
        found = rereading.without(self.spec, self.mind, query, episode.decision, steps, hidden)
        told_now, place = [], 0
        for one, parted, ids in zip(told, splits, wanted, strict=True):
            rows = found[place : place + len(ids) + 1]
            place += len(ids) + 1
            left_out = {id: (rows[0], row) for id, row in zip(ids, rows[1:], strict=True)}
            memories = [
                self._memory(one, entry, *left_out[entry.id]) for entry in parted.entries if entry.id in left_out
            ]
            memories.sort(key=lambda memory: (-abs(memory.mattered or 0.0), -memory.looked_at, memory.id))
            rest = [entry for entry in parted.entries if entry.id not in left_out]
            others = len(rest), sum(entry.weight for entry in rest), sum(entry.gave for entry in rest)
            told_now.append(
                replace(
                    one,
                    from_network=parted.network,
                    from_memories=parted.memories,
                    rest=parted.rest,
                    without_memories=self._preference(alone[one.t]),
                    memories=memories,
                    others=others,
                )
            )
        return told_now

    def _candidates(self, episode: Episode, step: int, read: Read, parted: Split) -> list[int]:
        """The entries to leave out: half of them for what they probably moved, the rest for how much they were looked
        at. So one that draws attention and moves nothing is among them.
        """
        entries = [entry for entry in parted.entries if entry.weight > 0]
        likely = contributions.likely_effects(parted, read, episode.choice(step))
        by_effect = sorted(entries, key=lambda entry: (-abs(likely[entry.id]), entry.id))
        chosen = [entry.id for entry in by_effect[: self.shown - self.shown // 4]]
        more = [entry.id for entry in entries if entry.id not in chosen]  # by weight
        return chosen + more[: self.shown - len(chosen)]

    def _memory(self, step: Step, entry: contributions.Entry, whole: np.ndarray, without: np.ndarray) -> Memory:
        a, b = step.action, step.runner_up
        mattered = 0.0 if a == b else float((whole[a] - whole[b]) - (without[a] - without[b]))
        assert self.ledger is not None
        about, space = self.ledger.entry(entry.id), self.recording.agent.plan.space
        taken = self.ledger.action(entry.id)
        return Memory(
            id=entry.id,
            action=entry.action if taken is None else taken,
            looked_at=entry.weight,
            gave=entry.gave,
            mattered=mattered,
            without=self._preference(without),
            value=about.value,
            environment=about.origin[0],
            episode=about.origin[1],
            step=about.origin[2],
            age=about.age,
            reads=about.reads,
            picture=None if about.seen is None else views.of_observation(space, about.seen),
            facts=[] if about.seen is None else self.names.facts(about.seen),
        )

    def _preference(self, row: np.ndarray) -> list[float]:
        """What is chosen by, as it is told: of a policy the logarithms of its probabilities."""
        row = np.asarray(row, np.float64)
        return _floats(row - np.logaddexp.reduce(row) if self.by_policy else row)

    def _worded(self, step: Step) -> Step:
        return replace(step, sentence=sentences.of_step(step, step.called or self.names.actions, self.by_policy))


def _alone(episode: Episode) -> np.ndarray:
    """The preference of every action had there been no external memory: the network's own, at each step."""
    allowed = episode.decision.allowed
    if allowed is None:
        return episode.kept.own
    return np.where(allowed | ~allowed.any(-1, keepdims=True), episode.kept.own, -np.inf)


def _floats(row: Any) -> list[float]:
    return [float(number) for number in np.asarray(row)]


def _largest(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The largest few, in the order of time; those of 0 are left out."""
    chosen = sorted((pair for pair in pairs if pair[1] > 0), key=lambda pair: (-pair[1], pair[0]))[:RECALLED]
    return sorted(chosen)


def _distribution(episode: Episode, step: int) -> list[list[tuple[float, float]]] | None:
    """The return of each action, its atoms moved by the memory's share; None where it is one number."""
    kept = episode.kept
    if kept.atoms is None:
        return None
    rows = zip(kept.atoms[step], kept.probabilities[step], strict=True)
    return [[(float(value), float(chance)) for value, chance in zip(*row, strict=True)] for row in rows]
