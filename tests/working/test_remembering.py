"""Probes: an agent with each working memory that no result speaks for solves a task that nothing else can solve."""

from typing import Any

import pytest

from engram import Trainer

SMALL: dict[str, Any] = {
    "encoder.widths": (16,), "encoder.norm": True, "head": "q", "working.hidden_size": 16, "n_step": 1, "discount": 0.9,
    "target.rate": 0.05, "optimizer.learning_rate": 3e-3, "replay.batch_size": 32, "replay.window": 6,
    "replay.capacity": 4_000, "replay.start": 500, "exploration.steps": 1_500,
}  # fmt: skip
MATRICES = {"working": "fast-weights", "working.heads": 2, "working.head_width": 8}
MEMORIES: tuple[dict[str, Any], ...] = (
    {"working": "gru"},
    {"working": "lstm"},
    *(MATRICES | {"working.rule": rule} for rule in ("sum", "mean", "delta", "gated-delta")),
)


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.get("working.rule", memory["working"]))
def test_a_bit_shown_5_steps_before_it_is_asked_for_is_told_and_guessed_with_an_emptied_memory(memory: dict[str, Any]):
    """The return is 1 for the right answer and -1 for the wrong one, so 1 with a memory and 0 on average without."""
    with Trainer(
        "engram/MemoryLength-v0", preset="lru-dqn", seed=0, env_args={"length": 5}, overrides=SMALL | memory
    ) as trainer:
        trainer.learn(6_000)
        assert trainer.evaluate(episodes=60).mean == 1.0
        # Sixty coins: 4 standard deviations of their mean.
        assert abs(trainer.evaluate(episodes=60, forget=True).mean) < 0.52
