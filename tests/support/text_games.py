"""A text game of three rooms in a row, written by hand, with the interface of TextWorld's games."""

from typing import Any

ROOMS = {
    "pantry": ("You are in the pantry. There is a door to the east.", {"east": "hall"}),
    "hall": ("You are in the hall. There are doors to the east and to the west.", {"east": "attic", "west": "pantry"}),
    "attic": ("You are in the attic. A coin lies on the floor.", {"west": "hall"}),
}


class Coin:
    """Two commands to the east lead to the coin; taking it scores 2 of 2 points and ends the game."""

    def __init__(self, begin: str = "pantry", looks: int = 1):
        self.begin, self.looks, self.closed = begin, looks, False

    def reset(self) -> tuple[str, dict[str, Any]]:
        self.room, self.won = self.begin, False
        return f"Welcome!\n{ROOMS[self.room][0]}", self._infos()

    def step(self, command: str) -> tuple[str, float, bool, dict[str, Any]]:
        verb, _, what = command.partition(" ")
        said = "Nothing special."
        if verb == "go":
            self.room = ROOMS[self.room][1][what]
            said = ROOMS[self.room][0]
        if verb == "take":
            self.won, said = True, "Taken."
        return said, 2.0 * self.won, self.won, self._infos()

    def close(self) -> None:
        self.closed = True

    def _infos(self) -> dict[str, Any]:
        description, exits = ROOMS[self.room]
        commands = [f"examine wall {number}" for number in range(self.looks)]
        commands += [f"go {direction}" for direction in exits] + ["take coin"] * (self.room == "attic")
        carried = "You carry a coin." if self.won else "You carry nothing."
        return {
            "admissible_commands": sorted(commands),
            "description": description,
            "inventory": carried,
            "max_score": 2,
            "won": self.won,
        }
