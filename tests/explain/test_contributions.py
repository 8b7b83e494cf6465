"""The parts of a margin add up to it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.explained import entries, trained, with_entries

from engram.agents.mind import RewardSpec
from engram.agents.spec import AgentSpec
from engram.encoders.vector import VectorSpec
from engram.explaining import measuring
from engram.explaining.contributions import Choice, Entry, Read, choice, likely_effects, split
from engram.explaining.ledger import Ledger
from engram.explaining.recording import record
from engram.external.chunked import ChunkedSpec
from engram.external.episodic import EpisodicSpec
from engram.external.graph import GraphSpec
from engram.external.product_key import ProductKeySpec
from engram.external.votes import VotesSpec
from engram.play.trained import TrainedAgent

PLAIN = AgentSpec(encoder=VectorSpec(widths=(8,)))
BY_HAND = Read(
    weights=np.array([[[0.75, 0.25], [1.0, 0.0]]]),
    ids=np.array([[[3, 4], [7, -1]]]),
    values=np.array([[[2.0, 4.0], [6.0, 0.0]]]),
    share=np.array([0.5, 0.25]),
)


def test_a_margin_by_hand():
    """Q(0) = .5 * 1 + .5 * (.75 * 2 + .25 * 4) = 1.75; Q(1) = .75 * .2 + .25 * 6 = 1.65."""
    chosen = choice(np.array([1.75, 1.65]), 0)
    assert chosen == Choice(0, 1, pytest.approx(0.1))
    parted = split(chosen, np.array([1.0, 0.2]), BY_HAND)
    assert parted.network == pytest.approx(1.0 - 0.2)
    assert parted.memories == pytest.approx(0.75 - 1.45)
    assert parted.rest == pytest.approx(0.0)
    assert parted.entries == [
        Entry(7, 1, 1.0, pytest.approx(-1.45)), Entry(3, 0, 0.75, pytest.approx(0.375)),
        Entry(4, 0, 0.25, pytest.approx(0.375)),
    ]  # fmt: skip


def test_a_number_added_to_all_returns_changes_no_part():
    moved = BY_HAND._replace(values=np.where(BY_HAND.ids >= 0, BY_HAND.values + 100, 0.0))
    chosen = Choice(0, 1, 0.1)
    parted = split(chosen, np.array([1.0, 0.2]), BY_HAND)
    other = split(chosen, np.array([101.0, 100.2]), moved)
    assert (other.network, other.memories) == (pytest.approx(parted.network), pytest.approx(parted.memories))


def test_what_leaving_out_would_do_by_hand():
    """M(0) = 2.5: without entry 3 it is 4, so Q(0) would rise by .75; entry 7 stands alone in its read."""
    chosen = choice(np.array([1.75, 0.9]), 0)
    likely = likely_effects(split(chosen, np.array([1.0, 0.2]), BY_HAND), BY_HAND, chosen)
    assert likely[3] == pytest.approx(0.5 * (2 - 2.5) * 0.75 / 0.25)
    assert likely[4] == pytest.approx(0.5 * (4 - 2.5) * 0.25 / 0.75)


def test_votes_give_the_margin_that_they_make():
    """Entries 3 and 4 were of action 0, and say .1 less of action 1: M(0) = 1, M(1) = .9, at a share of a half."""
    read = Read(
        weights=np.array([[[0.6, 0.4], [0.6, 0.4]]]),
        ids=np.array([[[3, 4], [3, 4]]]),
        values=np.array([[[1.0, 1.0], [0.9, 0.9]]]),
        share=np.array([0.5, 0.5]),
    )
    parted = split(Choice(0, 1, 0.05), np.array([0.5, 0.5]), read)
    assert (parted.network, parted.rest) == (0.0, pytest.approx(0.0))
    assert parted.memories == pytest.approx(0.05)
    assert [entry.gave for entry in parted.entries] == pytest.approx([0.03, 0.02])


def test_an_entry_of_both_reads_gave_to_both():
    read = Read(np.array([[[1.0]]]), np.array([[[5]]]), np.array([[[2.0]]]), np.array([0.5, 0.25]))
    parted = split(Choice(0, 1, 0.5), np.zeros(2), read)
    assert parted.entries == [Entry(5, 0, 1.0, pytest.approx(0.5))]
    assert parted.rest == pytest.approx(0.0)


def test_forbidden_actions_are_no_runners_up():
    preference = np.array([3.0, -np.inf, 1.0])
    assert choice(preference, 0, np.array([True, False, True])) == Choice(0, 2, 2.0)
    assert choice(preference, 0, np.array([True, False, False])) == Choice(0, 0, 0.0)
    assert choice(np.array([3.0]), 0) == Choice(0, 0, 0.0)


def test_a_policy_chooses_by_its_logits_alone():
    parted = split(Choice(0, 1, 0.3), np.array([0.2, -0.1]), BY_HAND, by_policy=True)
    assert (parted.network, parted.memories) == (pytest.approx(0.3), 0.0)
    assert [entry.gave for entry in parted.entries] == [0.0, 0.0, 0.0]


KINDS: dict[str, Any] = {
    "episodic": EpisodicSpec(capacity=80, neighbours=6),
    "multi-head": EpisodicSpec(capacity=80, neighbours=6, kernel="multi-head", heads=2),
    "chunked": ChunkedSpec(capacity=80, size=10, probes=2, neighbours=6),
    "graph": GraphSpec(capacity=80, neighbours=6),
    "product-key": ProductKeySpec(),
    "votes": VotesSpec(capacity=80, neighbours=6),
}


@pytest.mark.parametrize(("kind", "normalized"), [*((kind, False) for kind in KINDS), ("episodic", True)])
def test_every_kind_of_memory_adds_up(kind: str, normalized: bool):
    recall = replace(PLAIN.recall, n_step=1)
    spec = replace(PLAIN, external=KINDS[kind], reward=RewardSpec(normalize=normalized), recall=recall)
    agent = trained(spec)
    recording = record(agent, pictured=False)
    keys = np.tile(recording.episodes[0].kept.query.key[:3], (20, 1))  # so that what is asked for is found
    mind = with_entries(recording.mind, entries(recording.mind, 60, 2, keys=keys))
    recording = record(TrainedAgent(agent.plan, [mind], None), pictured=False)
    episode, ledger = recording.episodes[0], Ledger.of(spec, mind)
    read: Any = episode.decision.external
    gave = 0.0
    for step in range(episode.length):
        seen = Read(
            read.weights[step], read.entries[step], ledger.worth(read.entries[step]), episode.decision.share[step]
        )
        chosen = choice(episode.kept.preference[step], int(episode.kept.action[step]))
        parted = split(chosen, episode.kept.own[step], seen)
        assert abs(parted.rest) <= 1e-5 * max(1, abs(chosen.margin))
        assert parted.network + parted.memories + parted.rest == pytest.approx(chosen.margin)
        gave = max(gave, abs(parted.memories))
    assert gave > 1e-3


def test_layers_drawn_anew_are_told_by_the_mean_over_heads():
    ids = np.array([[[[4, 7], [9, 9]]], [[[4, 8], [9, 9]]]]).reshape(1, 2, 2, 2)
    weights = np.array([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9], [0.5, 0.5]]).reshape(1, 2, 2, 2)
    found = measuring._weights_of(SimpleNamespace(entries=ids, weights=weights), Choice(0, 0, 0.0))
    assert found == pytest.approx({4: 0.45, 8: 0.45, 7: 0.1})
