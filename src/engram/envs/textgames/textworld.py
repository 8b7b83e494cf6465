"""Games of TextWorld (Côté et al. 2018, arXiv 1806.11532), made once from kept seeds and played from the disk.

Games of training have the seeds 0, 1, 2 and so on, those of the test 1,000,000 and so on: none is in both. A game that
is not there yet is made when it is first played, which takes seconds, and is then kept under its settings and seed.

Worker processes import this file, so it imports no JAX; textworld is imported only when a game is started.
"""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engram.envs.textgames.game import Game, TextGame, check_discovery
from engram.errors import SpecError, hint

SPLITS, FOODS, ROOMS = ("train", "test"), ("train", "valid", "test"), (1, 6, 9, 12)
FIRST_TEST = 1_000_000  # seed of the first game of the test
MOST_GAMES = 100_000
MOST_ROOMS = 100  # that TextWorld finds names for


def coin_collector(
    level: int = 20,
    easiest: int | None = None,
    guided: bool = False,
    split: str = "train",
    games: int | None = None,
    game: int | None = None,
    folder: str | None = None,
    words: int = 160,
    rows: int = 32,
    features: int = 64,
    commanded: bool = True,
    discovery: float = 0.0,
    render_mode: str | None = None,
) -> TextGame:
    """A coin at the other end of a chain of rooms (Yuan et al. 2018, arXiv 1806.11525).

    Args:
      level: 1 to 150, or 201 to 233. The shortest way takes (level - 1) % 100 + 1 commands; from 101 on there are dead
        ends beside it, from 201 on more of them.
      easiest: games of training go evenly from this level to `level`; None: from the first of the same hundred. The
        test has `level` alone.
      guided: whether the game tells the whole way when it begins.
      split: train or test. games: how many there are; None for 20 of training and 10 of the test. game: the one of this
        number alone, from 0 on; None for all of them, drawn for each episode.
      folder: where games are kept; None for the user's cache folder.
      discovery: see `TextGame`; not of games of the test. words, rows, features, commanded,
        render_mode: likewise.
    """
    _whole("level", level, 1, 300)
    _flags(guided=guided, commanded=commanded)
    begin = level - (level - 1) % 100 if easiest is None else _whole("easiest", easiest, 1, level)
    count = number_of(games, split)
    steps = max(1, count - 1)
    levels = [level if split == "test" else begin + round((level - begin) * one / steps) for one in range(count)]
    for one in levels:
        if (rooms := (1 + (one - 1) // 100) * ((one - 1) % 100 + 1)) > MOST_ROOMS:
            raise SpecError(
                f"level = {level} was given, whose games have levels up to {one} with {rooms} rooms; TextWorld makes "
                f"{MOST_ROOMS} at most: levels 1 to 150 and 201 to 233"
            )
    chosen = [{"level": one, "guided": guided} for one in levels]
    made = [_game("coin_collector", one, _seed(split, number), folder) for number, one in enumerate(chosen)]
    about = {"words": words, "rows": rows, "features": features, "commanded": commanded, "render_mode": render_mode}
    return TextGame(_chosen(made, game), discovery=_paid(discovery, split), **about)


def cooking(
    recipe: int = 1,
    take: int = 1,
    rooms: int = 1,
    cook: bool = False,
    cut: bool = False,
    open: bool = False,
    drop: bool = False,
    foods: str = "train",
    split: str = "train",
    games: int | None = None,
    game: int | None = None,
    folder: str | None = None,
    words: int = 240,
    rows: int = 32,
    features: int = 64,
    commanded: bool = True,
    discovery: float = 0.0,
    render_mode: str | None = None,
) -> TextGame:
    """A meal by the cookbook: find what it asks for, cut and cook it as it says, prepare it and eat.

    Args:
      recipe: ingredients, 1 to 3. take: how many of them must be fetched, 1 to `recipe`.
      rooms: 1, 6, 9 or 12. cook, cut: whether ingredients are cooked, cut.
      open: whether doors and containers are closed. drop: whether little can be carried.
      foods: train, or what TextWorld keeps apart as valid and test: foods and preparations that those do not have.
      split, games, game, folder, words, rows, features, commanded, discovery, render_mode: as of `coin_collector`.
    """
    _whole("recipe", recipe, 1, 3)
    _whole("take", take, 1, recipe)
    _flags(cook=cook, cut=cut, open=open, drop=drop, commanded=commanded)
    _one_of("rooms", rooms, ROOMS)
    _one_of("foods", foods, FOODS)
    chosen = {"recipe": recipe, "take": take, "go": rooms, "cook": cook, "cut": cut, "open": open, "drop": drop}
    chosen |= {"split": foods}
    seeds = [_seed(split, number) for number in range(number_of(games, split))]
    made = [_game("cooking", {**chosen, "recipe_seed": seed}, seed, folder) for seed in seeds]
    about = {"words": words, "rows": rows, "features": features, "commanded": commanded, "render_mode": render_mode}
    return TextGame(_chosen(made, game), discovery=_paid(discovery, split), **about)


def cache_folder() -> Path:
    """Where games are kept: under $ENGRAM_CACHE, else under `engram` in the user's cache folder."""
    given, base = os.environ.get("ENGRAM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(given or (Path(base) if base else Path.home() / ".cache") / "engram") / "textworld"


def kept(challenge: str, settings: Mapping[str, Any], seed: int, folder: Path, make: Callable[..., None]) -> Path:
    """The file of a game; `make(challenge, settings, seed, path)` writes it, and others beside it, if there is none."""
    told = "-".join(f"{name}{int(value) if isinstance(value, bool) else value}" for name, value in settings.items())
    path = folder / f"{challenge}-{told}-seed{seed}.z8"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    print(f"making the text game {path}, once", file=sys.stderr, flush=True)
    with TemporaryDirectory(dir=folder) as temporary:
        make(challenge, settings, seed, Path(temporary) / path.name)
        for one in sorted(Path(temporary).iterdir(), key=lambda one: one.name == path.name):  # the game itself last
            one.replace(folder / one.name)
    return path


def _game(challenge: str, settings: Mapping[str, Any], seed: int, folder: str | None) -> Callable[[], Game]:
    return partial(_started, challenge, settings, seed, cache_folder() if folder is None else Path(folder))


def _started(challenge: str, settings: Mapping[str, Any], seed: int, folder: Path) -> Game:
    path = kept(challenge, settings, seed, folder, _make)
    infos = import_module("textworld").EnvInfos(
        admissible_commands=True, description=True, inventory=True, max_score=True, won=True
    )
    return import_module("textworld.gym.envs").TextworldGymEnv([str(path)], request_infos=infos)


def _make(challenge: str, settings: Mapping[str, Any], seed: int, path: Path) -> None:
    """TextWorld makes and compiles a game."""
    textworld, generator = import_module("textworld"), import_module("textworld.generator")
    _, make, _ = import_module("textworld.challenges").CHALLENGES[f"tw-{challenge}"]
    options = textworld.GameOptions()
    options.seeds, options.path, options.file_ext = seed, str(path.with_suffix("")), path.suffix
    options.grammar.only_last_action = not settings.get("guided", True)
    with redirect_stdout(StringIO()):
        generator.compile_game(make(dict(settings), options), options)


def _seed(split: str, number: int) -> int:
    return number + (FIRST_TEST if split == "test" else 0)


def number_of(games: int | None, split: str) -> int:
    """How many games a split has."""
    _one_of("split", split, SPLITS)
    if games is None:
        return 20 if split == "train" else 10
    return _whole("games", games, 1, MOST_GAMES)


def _chosen(made: list[Callable[[], Game]], game: int | None) -> list[Callable[[], Game]]:
    """All games, or the one of a number."""
    return made if game is None else [made[_whole("game", game, 0, len(made) - 1)]]


def _paid(discovery: Any, split: str) -> float:
    """What is paid for what is new: nothing in games of the test. SpecError for what is no reward from 0 on."""
    check_discovery(discovery)
    return 0.0 if split == "test" else discovery


def _whole(name: str, given: Any, low: int, high: int) -> int:
    if type(given) is not int or not low <= given <= high:
        raise SpecError(f"{name} = {given!r} was given; expected a whole number from {low} to {high:,}")
    return given


def _flags(**given: Any) -> None:
    """SpecError for what is neither true nor false: `no` as a text would be taken for yes."""
    for name, value in given.items():
        if not isinstance(value, bool):
            raise SpecError(f"{name} = {value!r} was given; expected true or false")


def _one_of(name: str, given: Any, known: tuple[Any, ...]) -> None:
    if given not in known:
        texts = isinstance(given, str) and isinstance(known[0], str)
        way_out = hint(given, known) if texts else f"choose from {', '.join(map(str, known))}"
        raise SpecError(f"{name} = {given!r} was given; {way_out}")
