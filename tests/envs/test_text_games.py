"""Text games: words and commands as arrays, scores as rewards, games that are made once."""

from inspect import unwrap
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from support.text_games import ROOMS, Coin

from engram import Trainer
from engram.cli.environments import check_environment
from engram.envs.host.make import make_host
from engram.envs.names import names_of
from engram.envs.textgames import textworld
from engram.envs.textgames.game import TextGame
from engram.envs.textgames.words import features_of, letter, letters, words_of
from engram.errors import EnvironmentFault, SpecError, UnknownName
from engram.spaces import Text, seen


def game(**about: Any) -> TextGame:
    return TextGame([Coin], rows=4, words=32, **about)


def read(env: TextGame, observation: dict[str, Any]) -> list[str]:
    """The words of an observation, by the names that the environment gives to symbols."""
    names = env.parts()["symbols"]
    return [names[letters(2048).index(one)] for one in observation["text"]]


def row(env: TextGame, command: str) -> int:
    return env.commands.index(command)


def test_a_game_is_played_by_the_commands_on_offer():
    env = game(render_mode="ansi")
    first, _ = env.reset(seed=0)
    assert env.commands == ["examine wall 0", "go east"]
    assert first["action_mask"].tolist() == [1, 1, 0, 0]
    assert first["offered"][1].tolist() == features_of("go east", 64).tolist()
    assert not first["offered"][2:].any()
    told = [env.step(row(env, command)) for command in ("go east", "go east", "take coin")]
    assert [step[1:3] for step in told] == [(0.0, False), (0.0, False), (1.0, True)]
    assert told[-1][4] == {"is_success": 1.0, "score": 1.0, "left_out": 0}
    assert env.render() == "> take coin\nTaken."
    assert env.reset()[1] == {"game": 0}
    assert env.commands == ["examine wall 0", "go east"]


def test_a_text_has_the_command_the_answer_what_is_carried_and_the_place_once():
    env = game()
    assert read(env, env.reset(seed=0)[0])[:3] == ["[said]", "welcome", "[carried]"]
    observation = env.step(row(env, "go east"))[0]
    words = "[command] go east [carried] you carry nothing [here] you are in the hall there are doors to the"
    assert read(env, observation)[:18] == words.split()
    assert observation["text"][:3] == "".join(letter(word, 2048) for word in words.split()[:3])
    assert observation["text"][1] == letter("go", 2048)
    status = f"{ROOMS['attic'][0]}\n\n>   -= Attic =-0/7"
    attic = read(env, env._observed("go east", status, {"admissible_commands": ["look"]}, over=False))
    assert [one.split("/")[-1] for one in attic[4:13]] == words_of(ROOMS["attic"][0])[:9]
    assert attic[10] == "[said]/coin"  # two words of one symbol: the agent cannot tell them apart either
    assert "7" not in attic
    forgetful = game(commanded=False)
    forgetful.reset(seed=0)
    assert read(forgetful, forgetful.step(row(forgetful, "go east"))[0])[0] == "[carried]"
    crowded = game(symbols=2)
    crowded.reset(seed=0)
    assert {"you", "welcome", "pantry"} <= {one for name in crowded.parts()["symbols"] for one in name.split("/")}


def test_what_is_new_in_an_episode_is_paid_once_and_never_in_the_test(tmp_path: Path):
    """Going back to a place is no discovery, and an answer to a look neither; to carry the coin is one."""
    env = game(discovery=0.25)
    for _ in range(2):  # what was met is forgotten with the episode
        env.reset(seed=0)
        commands = ("examine wall 0", "go east", "go west", "go east", "go east", "take coin")
        told = [env.step(row(env, command)) for command in commands]
        assert [reward for _, reward, *_ in told] == [0, 0.25, 0, 0, 0.25, 1.25]
        assert told[-1][4]["score"] == 1
    for made in (unwrap(textworld.coin_collector), unwrap(textworld.cooking)):
        paid = [made(split=split, discovery=0.25, folder=str(tmp_path))._discovery for split in ("train", "test")]
        assert paid == [0.25, 0]
        with pytest.raises(SpecError, match="discovery = 'much' was given; expected a number from 0 on"):
            made(split="test", discovery="much")
    for wrong in (-1, True, float("nan")):
        with pytest.raises(SpecError, match=r"discovery = .* was given; expected a number from 0 on"):
            game(discovery=wrong)


def test_the_symbols_and_features_of_a_word_never_change():
    """They are part of what a stored agent has learned."""
    assert words_of("-= Pantry =-  You've 2 coins!\n $$\\__") == ["pantry", "you", "ve", "2", "coins"]
    assert words_of("Öffne die Tür; открой") == ["öffne", "die", "tür", "открой"]
    assert [letters(2048).index(letter(word, 2048)) for word in ("coin", "east")] == [1424, 425]
    east, west = features_of("go east", 64), features_of("go west", 64)
    assert east.tolist()[:8] == [-2, 0, 0, 2, -2, 0, -2, -2]
    assert (features_of("east go go", 16) != features_of("east go", 16)).any()
    assert (east != west).sum() > 10


def test_only_the_last_few_games_stay_begun():
    """Each game of TextWorld holds an interpreter in memory."""
    made: list[Coin] = []
    env = TextGame([lambda: made.append(Coin()) or made[-1]] * 30, rows=4)
    met = {env.reset(seed=seed)[1]["game"] for seed in range(200)}
    assert len(met) == 30
    assert sum(not one.closed for one in made) == 8
    before = len(made)
    env.reset(seed=199)  # the game of the last episode is begun already
    assert len(made) == before
    env.close()
    assert all(one.closed for one in made)


def test_one_game_can_be_asked_for(tmp_path: Path):
    for made in (unwrap(textworld.coin_collector), unwrap(textworld.cooking)):
        [one] = made(split="test", games=5, game=3, folder=str(tmp_path))._games
        assert one.args[2] == 1_000_003
        with pytest.raises(SpecError, match="game = 5 was given; expected a whole number from 0 to 4"):
            made(games=5, game=5, folder=str(tmp_path))
    levels = [unwrap(textworld.coin_collector)(game=game)._games[0].args[1]["level"] for game in (0, 19)]
    assert levels == [1, 20]


def test_of_too_many_commands_those_that_only_look_are_left_out():
    env = TextGame([lambda: Coin(looks=6)], rows=4)
    env.reset(seed=0)
    assert env.commands == ["examine wall 0", "examine wall 1", "examine wall 2", "go east"]
    assert env.step(3)[4]["left_out"] == 4


def test_it_is_an_environment_of_the_library():
    """Read, masked, named and resumed as any other: within an episode by playing its commands again."""
    envs = make_host(game, seed=1)
    assert envs.level == "replayed"
    assert seen(envs.observation_space) == Text(32, 2048)
    assert envs.actions == 4
    envs.reset()
    before = envs.step(np.array([1]))
    assert before.observation["action_mask"].tolist() == [[1, 1, 1, 0]]
    other = make_host(game, seed=1)
    other.reset()
    after = other.restore(*envs.capture())
    assert all((before.observation[name] == after[name]).all() for name in after)
    env = game()
    env.reset(seed=0)
    assert names_of(env).offered == ("examine wall 0", "go east")
    env.close()


@pytest.mark.parametrize(
    ("infos", "said"),
    [({}, "the game's infos have no 'admissible_commands'"), ({"admissible_commands": []}, "admits no command; end")],
)
def test_a_game_that_tells_no_command_is_named(infos: dict[str, Any], said: str):
    class Silent(Coin):
        def _infos(self) -> dict[str, Any]:
            return infos

    with pytest.raises(EnvironmentFault, match=said):
        TextGame([Silent]).reset(seed=0)


def test_games_are_drawn_by_the_seed_and_started_once():
    begun: list[str] = []

    def start(room: str) -> Coin:
        begun.append(room)
        return Coin(room)

    env = TextGame([lambda room=room: start(room) for room in ("pantry", "hall", "attic")])
    drawn = [env.reset(seed=seed)[1]["game"] for seed in range(20)]
    assert set(drawn) == {0, 1, 2}
    assert drawn == [env.reset(seed=seed)[1]["game"] for seed in range(20)]
    assert sorted(begun) == ["attic", "hall", "pantry"]


def test_a_game_is_made_once_and_found_under_its_settings_and_seed(tmp_path: Path, capsys: pytest.CaptureFixture):
    asked: list[tuple[Any, ...]] = []

    def make(challenge: str, settings: dict[str, Any], seed: int, path: Path) -> None:
        asked.append((challenge, settings, seed))
        path.write_text("story")
        path.with_suffix(".json").write_text("{}")

    paths = [textworld.kept("coin_collector", {"level": 3}, 7, tmp_path / "games", make) for _ in range(2)]
    assert paths == [tmp_path / "games" / "coin_collector-level3-seed7.z8"] * 2
    assert asked == [("coin_collector", {"level": 3}, 7)]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [
        paths[0].with_suffix(end).name for end in (".json", ".z8")
    ]
    assert capsys.readouterr().err.count("making the text game") == 1


def test_games_of_training_rise_to_the_level_and_the_test_has_other_seeds():
    def drawn(**about: Any) -> list[tuple[int, int]]:
        return [(one.args[1]["level"], one.args[2]) for one in textworld.coin_collector(**about)._games]

    assert drawn(level=120, games=3) == [(101, 0), (111, 1), (120, 2)]
    assert drawn(easiest=20, games=2) == [(20, 0), (20, 1)]
    assert drawn(split="test", games=2) == [(20, 1_000_000), (20, 1_000_001)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: textworld.coin_collector(level=301), "level = 301 was given; expected a whole number from 1 to 300"),
        (lambda: textworld.coin_collector(split="tset"), "split = 'tset' was given; did you mean 'test'"),
        (lambda: textworld.coin_collector(games=0), "games = 0 was given"),
        (lambda: textworld.cooking(rooms=5), "rooms = 5 was given; choose from 1, 6, 9, 12"),
        (lambda: textworld.cooking(take=2), "take = 2 was given; expected a whole number from 1 to 1"),
        (lambda: textworld.cooking(take=0), "take = 0 was given; expected a whole number from 1 to 1"),
        (
            lambda: textworld.coin_collector(level=160),
            "whose games have levels up to 151 with 102 rooms",
        ),
        (lambda: textworld.coin_collector(level=234, split="test"), "levels up to 234 with 102 rooms"),
        (lambda: unwrap(textworld.coin_collector)(guided="no"), "guided = 'no' was given; expected true or false"),
        (lambda: unwrap(textworld.cooking)(cut="no"), "cut = 'no' was given; expected true or false"),
        (lambda: unwrap(textworld.cooking)(commanded=1), "commanded = 1 was given; expected true or false"),
        (lambda: TextGame([]), "no game was given"),
        (lambda: game(features=12), "features = 12 was given; expected a multiple of 8"),
    ],
)
def test_a_wrong_argument_is_told_in_a_sentence(make: Any, said: str):
    with pytest.raises(SpecError, match=said):
        make()


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engram.envs.adapters.adapter.find_spec", lambda name: None)
    monkeypatch.delitem(gymnasium.registry, "textworld/CoinCollector-v0", raising=False)
    check_environment("textworld/CoinCollector-v0")  # which leaves it to the maker
    with pytest.raises(UnknownName, match=r"textworld/CoinCollector-v0 needs the package textworld; .*--extra text"):
        make_host("textworld/CoinCollector-v0", seed=0)


@pytest.mark.slow
def test_an_agent_learns_where_the_coin_is(tmp_path: Path):
    """By attention over the commands on offer, from words."""
    overrides = {"encoder.layers": 0, "working": "gru", "replay.window": 16}
    about = {"steps": 1_500, "envs": 4, "max_episode_steps": 20, "seed": 1, "run": tmp_path / "run", "progress": False}
    games = [Coin, lambda: Coin(looks=3)]
    with Trainer(env=lambda: TextGame(games, rows=8, words=40), overrides=overrides, **about) as trainer:
        trainer.learn()
        assert trainer.evaluate().success_rate == 1.0
