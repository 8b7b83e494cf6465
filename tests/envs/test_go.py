"""Go: rules, players, symmetries, engines by GTP, matches, and a person at the board."""

import stat
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram.agents import symmetry
from engram.cli.commands import main
from engram.envs.device import check_device_env, make_device
from engram.envs.go import gtp, rivals
from engram.envs.go.board import BLACK, WHITE, action_of, area, drawn, name_of, stones
from engram.envs.go.gtp import Engine, gnu_go
from engram.errors import EnvironmentFault, SpecError
from engram.play.match import rate

GO: Any = make_device("engram/Go-v0", size=3)
RESET, STEP = jax.jit(GO.reset), jax.jit(GO.step)
KEY = jnp.zeros(2, jnp.uint32)


def after(moves: str, env: Any = GO, step: Any = STEP) -> tuple[Any, list[Any]]:
    state, _ = jax.jit(env.reset)(KEY)
    steps = []
    for move in moves.split():
        state, one = step(state, jnp.int32(action_of(move, env.size)), KEY)
        steps.append(one)
    return state, steps


# -- the game --------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # pgx without jit takes half a minute
@pytest.mark.parametrize("opponent", ["self", "random"])
def test_it_keeps_the_contract_of_device_environments(opponent):
    check_device_env(make_device("engram/Go-v0", size=3, opponent=opponent), steps=3)


def test_black_moves_first_the_other_side_next_and_two_passes_are_scored():
    """Black has the middle row: 9 points against none; with a komi of 6.5 that is enough."""
    state, steps = after("B2 pass A2 pass C2 pass pass")
    assert [float(step.sign) for step in steps] == [-1.0] * 7
    assert [bool(step.terminated) for step in steps] == [False] * 6 + [True]
    assert float(steps[-1].reward) == 1.0  # of Black, who passed last
    board = stones(np.asarray(state.game.observation))
    assert board.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert area(board) == (9, 0)


def test_a_captured_stone_leaves_the_board_and_its_point_is_forbidden_where_it_has_no_liberty():
    state, steps = after("A2 A1 B1")
    assert stones(np.asarray(state.game.observation))[2].tolist() == [0, 1, 0]
    assert not steps[-1].observation["action_mask"][action_of("A1", 3)]
    assert steps[-1].observation["action_mask"][-1]  # the pass


def test_an_opponent_inside_answers_and_rewards_are_the_agents():
    env: Any = make_device("engram/Go-v0", size=3, opponent="random", max_moves=12)
    reset, step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step))
    keys = jnp.stack([jnp.arange(8, dtype=jnp.uint32), jnp.ones(8, jnp.uint32)], axis=1)
    state, shown = reset(keys)
    white = np.asarray(shown["board"][:, 0, 0, 2])
    assert {0, 1} == set(white.astype(int).tolist())  # either colour, which it keeps
    assert np.asarray(shown["board"][..., 1]).sum((1, 2)).tolist() == white.astype(int).tolist()
    state, out = step(state, jnp.asarray(np.asarray(shown["action_mask"]).argmax(1), jnp.int32), keys)
    assert np.asarray(out.sign).tolist() == [1.0] * 8
    assert np.asarray(out.observation["board"][:, 0, 0, 2]).tolist() == white.tolist()


def test_the_capturing_player_takes_what_it_can_and_no_one_passes_without_need():
    state, _ = after("A1 B2 C3 A2")  # Black to move; White may take A1 next
    one, _ = STEP(state, jnp.int32(action_of("C2", 3)), KEY)
    assert name_of(int(GO.player("capture")(one.game, KEY)), 3) == "B1"
    bits = jnp.stack([jnp.arange(40, dtype=jnp.uint32), jnp.zeros(40, jnp.uint32)], axis=1)
    moves = jax.vmap(lambda key: GO.player("random")(state.game, key))(bits)
    assert set(np.asarray(moves).tolist()) == set(np.flatnonzero(np.asarray(state.game.legal_action_mask))[:-1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 2}, "size = 2 was given for a board of Go; expected 3 to 19"),
        ({"komi": 7.0}, "komi = 7.0 was given, with which games can be drawn"),
        ({"opponent": "gnugo"}, "opponent = 'gnugo' does not suit engram/Go-v0"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, said):
    with pytest.raises(SpecError, match=said):
        make_device("engram/Go-v0", **arguments)


def test_points_have_the_names_that_players_use():
    assert [name_of(action, 9) for action in (0, 8, 72, 80, 81)] == ["A9", "J9", "A1", "J1", "pass"]
    assert all(action_of(name_of(action, 9), 9) == action for action in range(82))
    assert [action_of(word, 9) for word in ("", "I5", "A0", "A10", "nowhere")] == [None] * 5
    assert drawn(np.array([[1, 0], [0, -1]]), last=3).splitlines() == [" 2 X  . ", " 1 . (O)", "   A  B"]


# -- symmetries ------------------------------------------------------------------------------------------------------


def test_board_action_and_mask_turn_together_in_eight_ways():
    space = make_device("engram/Go-v0", size=3).observation_space
    board = np.zeros((1, 3, 3, 3), bool)
    board[0, 0, 1, 0] = True  # the point of action 1
    mask = np.array([[False, True] + [False] * 7 + [True]])
    seen = {"board": jnp.asarray(board), "action_mask": jnp.asarray(mask)}
    places = []
    for which in range(8):
        turned = symmetry.turned(space, 10, seen, jnp.int32(which))
        action = int(symmetry.turned_action(space, 10, jnp.int32(1), jnp.int32(which)))
        assert turned["board"][0, :, :, 0].reshape(-1)[action]
        assert np.flatnonzero(np.asarray(turned["action_mask"])[0]).tolist() == [action, 9]
        assert int(symmetry.turned_action(space, 10, jnp.int32(9), jnp.int32(which))) == 9
        places.append(action)
    assert sorted(places) == [1, 1, 3, 3, 5, 5, 7, 7]  # a point on the side; a corner square has eight images too


def test_the_eight_tables_differ_and_invert_each_other():
    forth, back = symmetry.tables(3)
    assert len({tuple(row) for row in forth.tolist()}) == 8
    assert all((one[other] == np.arange(9)).all() for one, other in zip(forth, back, strict=True))


# -- engines ---------------------------------------------------------------------------------------------------------

FAKE = '''#!{python}
"""Plays the first free point; {quirk}."""
import sys
size, taken = 0, set()
for line in sys.stdin:
    words = line.split()
    if words[0] == "boardsize":
        size = int(words[1])
    if words[0] == "clear_board":
        taken = set()
    if words[0] == "play":
        taken.add(words[2].upper())
    answer = ""
    if words[0] == "genmove":
        free = [f"{{c}}{{r}}" for r in range(1, size + 1) for c in "ABCDEFGHJ"[:size] if f"{{c}}{{r}}" not in taken]
        answer = free[0] if len(free) > 2 else "PASS"
        taken.add(answer)
        {genmove}
    if words[0] == "komi" and "{quirk}" == "refuses":
        print("? unknown komi\\n", flush=True)
    else:
        print(f"= {{answer}}\\r\\n\\r", flush=True)
'''


def fake(folder: Path, quirk: str = "plain", genmove: str = "pass") -> list[str]:
    file = folder / "engine"
    file.write_text(FAKE.format(python=sys.executable, quirk=quirk, genmove=genmove))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return [str(file)]


def test_an_engine_plays_and_hears(tmp_path):
    with Engine(fake(tmp_path)) as engine:
        engine.begin(3, 0.5)
        engine.play(BLACK, action_of("A1", 3))
        assert name_of(engine.choose(WHITE), 3) == "B1"
        engine.begin(3, 0.5)
        assert name_of(engine.choose(BLACK), 3) == "A1"


@pytest.mark.parametrize(
    ("quirk", "genmove", "said"),
    [
        ("refuses", "pass", "refused 'komi 0.5': unknown komi"),
        ("dies", "sys.exit()", "has ended at 'genmove B'"),
        ("sleeps", "import time; time.sleep(9)", "did not answer 'genmove B' within 1 s"),
        ("babbles", "answer = 'Z99'", "answered 'Z99' for a move on 3 x 3"),
    ],
)
def test_what_an_engine_does_wrong_is_one_sentence(tmp_path, quirk, genmove, said):
    with Engine(fake(tmp_path, quirk, genmove), patience=1.0) as engine, pytest.raises(EnvironmentFault, match=said):
        engine.begin(3, 0.5)
        engine.choose(BLACK)


def test_gnu_go_that_is_not_there_is_named_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(gtp, "GAMES", tmp_path / "gnugo")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match="GNU Go is not installed; on Debian or Ubuntu: apt-get install gnugo"):
        gnu_go(1)
    with pytest.raises(SpecError, match="level 11 of GNU Go was given; expected 0 to 10"):
        gnu_go(11)
    with pytest.raises(SpecError, match="write gnugo:LEVEL with a level from 0 to 10"):
        rivals.rival(GO, "gnugo", 0)


# -- an agent --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rollouts of the preset on the smallest board."""
    folder = tmp_path_factory.mktemp("runs") / "go"
    overrides = {"encoder.widths": (16,), "pool.size": 1, "pool.every": 1, "rollout.steps": 4}
    about: dict[str, Any] = {"envs": 16, "steps": 256, "env_args": {"size": 3}, "evaluate_every": 0}
    with engram.Trainer("engram/Go-v0", "go", run=folder, overrides=overrides, **about) as trainer:
        trainer.learn()
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*words]) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def test_a_match_plays_every_opening_twice_and_tells_intervals(capsys, run, monkeypatch, tmp_path):
    import json

    found = json.loads(said(capsys, "match", str(run), "--games", "6", "--against", "random", "--json"))
    assert (found["as_first"]["games"], found["as_second"]["games"]) == (3, 3)
    openings = found["openings"]
    assert openings["both_lost"] + openings["one_each"] + openings["both_won"] == 3
    assert found["all"]["interval"][0] <= found["all"]["rate"] <= found["all"]["interval"][1]
    itself = json.loads(said(capsys, "match", str(run), "--games", "4", "--against", f"{run}@newest", "--json"))
    assert itself["openings"]["one_each"] == 2  # both are deterministic and alike: whoever has the better side wins
    monkeypatch.setattr(rivals, "gnu_go", lambda level, seed=0: fake(tmp_path))
    by_pipe = json.loads(said(capsys, "match", str(run), "--games", "2", "--against", "gnugo:1", "--json"))
    assert by_pipe["all"]["games"] == 2
    assert by_pipe["given_up"] <= 2  # the engine knows no rules: a forbidden move forfeits


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--against", "nobody"], "--against nobody is no run directory and nobody that the game knows (random,"),
        (["--side", "black"], "--side black was given; expected both, first, second"),
        (["--against", "gnugo:12"], "level 12 of GNU Go was given; expected 0 to 10"),
    ],
)
def test_a_match_that_cannot_be_is_one_sentence(capsys, run, words, told):
    assert told in said(capsys, "match", str(run), *words, code=2)


def test_wilsons_interval():
    """Of 8 of 10: 0.490 to 0.943, as tables have it."""
    found = rate(8, 10)
    np.testing.assert_allclose([found.rate, found.low, found.high], [0.8, 0.4902, 0.9433], atol=1e-4)
    assert rate(0, 5).low == 0.0
    assert rate(5, 5).high == 1.0


def test_a_person_plays_takes_back_passes_and_is_told_the_score(capsys, run, monkeypatch):
    import io

    typed = "red\nblack\nZ9\nB2\nundo\nundo\nB2\nB2\n" + "pass\n" * 30
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    told = said(capsys, "play", str(run))
    assert "'red' is no colour; type b or w" in told
    assert "'Z9' is no move; type a point such as B2, pass, undo, resign, or quit" in told
    assert "there is no move of yours to take back" in told
    assert "B2 is not allowed here: it is taken" in told
    assert "(X)" not in told.split("White plays")[0]
    assert " wins." in told


def test_a_run_of_the_preset_resumes_exactly(run, tmp_path):
    overrides = {"encoder.widths": (16,), "pool.size": 1, "pool.every": 1, "rollout.steps": 4}
    about: dict[str, Any] = {"envs": 16, "steps": 256, "env_args": {"size": 3}, "evaluate_every": 0}
    folder = tmp_path / "again"
    with engram.Trainer("engram/Go-v0", "go", run=folder, overrides=overrides, **about) as trainer:
        trainer.learn(128)
    with engram.Trainer(run=folder, resume=True) as trainer:
        trainer.learn()
    from engram.run.plan import info

    assert info(folder)["state_digest"] == info(run)["state_digest"]
