"""TextWorld's games: a coin at the end of a chain of rooms, and meals by a cookbook.

Worker processes import this file, so it imports no JAX; textworld is imported only when a game is started.
"""

import gymnasium

from engram.envs.adapters.adapter import Adapter

PREFIX = "textworld/"
_GAMES = {"CoinCollector-v0": "coin_collector", "Cooking-v0": "cooking"}
_STEPS = 100  # commands of an episode


def register() -> None:
    """Makes the games known to Gymnasium."""
    for name, function in _GAMES.items():
        if PREFIX + name not in gymnasium.registry:
            entry = f"engram.envs.textgames.textworld:{function}"
            gymnasium.register(PREFIX + name, entry_point=entry, max_episode_steps=_STEPS)


ADAPTER = Adapter((PREFIX,), module="textworld", extra="text", by_hand=register)
