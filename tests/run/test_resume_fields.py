"""Every field's agent, stopped and taken up again, is bit for bit the one that never stopped.

Go, SMAX and hindsight have such a test beside their own; here are those whose environments or memories keep more than a
plain run does: traffic that is drawn anew, a translation memory that is filled from references, a user with errors on
the line, a game whose places are paid once an episode.
"""

from pathlib import Path
from typing import Any

import pytest
from support.resumed import played
from support.text_games import Coin

from engram import recipes
from engram.checkpoint.store import Loaded
from engram.envs.textgames.game import TextGame
from engram.envs.translation import __main__ as translation


def same(tmp_path: Path, env: Any, stops: list[int], **options: Any) -> list[Loaded]:
    """The run with stops is the run without; the checkpoints of the stops."""
    options |= {"evaluate_every": 0}
    whole = played(tmp_path / "plain", env, [], **options)
    *stopped, found = played(tmp_path / "stopped", env, stops, **options)
    assert stopped == list(whole[:2])
    assert whole[1][-1]["updates"] > 0
    return found


@pytest.mark.parametrize("name", ["preset", "gru"])
def test_driving(tmp_path: Path, name: str):
    """Whole episodes and begun ones; an order of the rows that each step draws, and seconds that are counted."""
    more: dict[str, dict[str, Any]] = {
        "preset": {},
        "gru": {"observation.stack": 1, "working": "gru", "working.hidden_size": 8, "replay.window": 4},
    }
    small = {"encoder.width": 16, "replay.batch_size": 8, "replay.start": 32, "replay.capacity": 256}
    task = recipes.find("engram/Intersection-v0", "13s").env_args
    same(tmp_path, "engram/Intersection-v0", [24, 64], preset="driving", envs=4, steps=128, log_every=32, save_every=24,
         env_args=task, overrides=small | more[name])  # fmt: skip


def test_translation_with_its_memory_of_references(tmp_path: Path):
    data = tmp_path / "phrases"
    translation.main([str(data), "--pairs", "60"])
    memory = {
        "external": "votes", "external.capacity": 256, "external.neighbours": 4, "recall.played": False,
        "recall.demonstrations": 8, "demos.ratio": 0.5, "conservative.on": "demonstrations",
        "conservative.weight": 1.0, "encoder.layers": 0, "encoder.width": 16, "encoder.token_width": 16,
        "replay.batch_size": 8, "replay.start": 32, "replay.capacity": 256,
    }  # fmt: skip
    same(tmp_path, "engram/Translate-v0", [48, 80], preset="cql", envs=4, steps=144, log_every=16, save_every=48,
         env_args={"data": str(data)}, demonstrations=data / "demonstrations.npz", overrides=memory)  # fmt: skip


@pytest.mark.parametrize("tracked", [True, False])
def test_dialogue_with_errors_on_the_line(tmp_path: Path, tracked: bool):
    small = {"encoder.widths": (16,), "rollout.steps": 8, "rollout.minibatches": 2}
    memory = {} if tracked else {"working": "gru", "working.hidden_size": 8}
    same(tmp_path, "engram/Dialogue-v0", [64, 128], preset="dialogue", envs=8, steps=256, log_every=64, save_every=64,
         env_args={"tracked": tracked, "slot_error": 0.1, "intent_error": 0.05},
         overrides=small | memory)  # fmt: skip


@pytest.mark.parametrize("working", ["none", "gru"])
def test_a_text_game_whose_places_are_paid_once_an_episode(tmp_path: Path, working: str):
    """The stops fall inside episodes, so that places are known which the rest of the episode does not pay."""
    memory = {"working": "gru", "working.hidden_size": 8, "replay.window": 4}
    small = {"encoder": "tokens", "encoder.layers": 0, "encoder.width": 16, "encoder.token_width": 16,
             "replay.batch_size": 8, "replay.start": 24, "replay.capacity": 128}  # fmt: skip

    def game() -> TextGame:
        return TextGame([Coin, lambda: Coin(begin="hall")], rows=4, words=16, discovery=0.1)

    small |= memory if working == "gru" else {"working": "none", "replay.window": 1}
    found = same(tmp_path, game, [18, 44], envs=2, steps=96, log_every=16, overrides=small)
    assert any(saved.arrays["episodes.running_length"].any() for saved in found)
    assert found[0].meta["state"]["env"]["levels"] == ["replayed"] * 2
