"""Go: rules, players, symmetries, engines by GTP, matches, and a person at the board."""

import dataclasses
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram import specs
from engram.agents import pool as pools
from engram.agents import symmetry
from engram.agents.agent import Experience
from engram.agents.policy import Seen
from engram.agents.pool import PoolSpec
from engram.agents.presets import preset
from engram.bits import of_moves
from engram.cli.commands import main
from engram.envs.device import check_device_env, make_device
from engram.envs.go import game as game_of_go
from engram.envs.go import gtp, rivals
from engram.envs.go.board import BLACK, WHITE, action_of, area, drawn, name_of, stones
from engram.envs.go.game import GoState
from engram.envs.go.gtp import Engine, gnu_go
from engram.errors import EnvironmentFault, SpecError
from engram.exploration.openings import OpeningsSpec
from engram.play.match import Game, play_match, rate, summed_up
from engram.run.making import notes_at_start
from engram.types import TimeStep

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


def test_a_pass_that_would_end_the_game_is_seen():
    """The same stones, and another game: here a second pass is the last move."""
    quiet, passed = after("B2 pass A2")[1][-1], after("B2 A2 pass")[1][-1]
    assert not quiet.observation["board"][..., 3].any()
    assert passed.observation["board"][..., 3].all()


def test_no_move_of_a_game_repeats_an_earlier_position_of_it():
    """The mask is that of pgx without the moves for which pgx would end the game; none is played to find that out."""
    pgx: Any = game_of_go._played(GO)
    lanes, points, generator = 64, 9, np.random.default_rng(0)
    position = jax.jit(jax.vmap(GO.reset))(of_moves(0, 0, range(lanes)))[0].game
    rules = pgx._game

    @jax.jit
    @jax.vmap
    def verdict(position):
        ends = jax.vmap(lambda action: rules.step(position._x, action).is_psk)(jnp.arange(points))
        return rules.legal_action_mask(position._x)[:-1], ends

    anywhere, move = jax.jit(jax.vmap(GO.player("random"))), jax.jit(jax.vmap(GO.moved))
    repeats, lost = 0, 0
    for _ in range(27):
        allowed, ends = (np.asarray(one) for one in verdict(position))
        running = ~np.asarray(position.terminated)
        mask = np.asarray(position.legal_action_mask)
        np.testing.assert_array_equal(mask[running, :-1], (allowed & ~ends)[running])
        assert mask[:, -1].all()  # the pass
        repeats += int((allowed & ends)[running].sum())
        for lane in np.flatnonzero(running & (allowed & ends).any(-1))[:1]:  # who plays one against the mask loses
            state = GoState(jax.tree.map(lambda leaf, lane=lane: leaf[lane], position))
            _, out = STEP(state, jnp.int32((allowed & ends)[lane].argmax()), KEY)
            assert out.terminated
            assert float(out.reward) == -1
            lost += 1
        position = move(position, anywhere(position, generator.integers(0, 1 << 32, (lanes, 2), np.uint32)))
    assert repeats > 20
    assert lost
    assert not np.asarray(position._x.is_psk).any()


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
    board = np.zeros((1, 3, 3, 4), bool)
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


# -- exploration and the pool ----------------------------------------------------------------------------------------


def decision(q: list[float], allowed: list[bool]) -> Any:
    from engram.types import Decision, Encoding, MemoryRead, Returns

    shape = jnp.array(q)[:, None]
    nothing = MemoryRead(jnp.zeros(1), jnp.zeros((0, 1, 0)), jnp.zeros((0, 1, 0), jnp.int32))
    returns = Returns(shape, jnp.zeros_like(shape), jnp.zeros((0, len(q))))
    return Decision(Encoding(jnp.zeros(1), jnp.zeros((0, 0))), nothing, returns, jnp.array(allowed))


def test_openings_are_random_and_the_pass_is_drawn_rarely():
    spec = OpeningsSpec(start=0.0, end=0.0, opening=3, opening_share=0.5, last_weight=0.1)
    fresh = jax.random.bits(jax.random.PRNGKey(0), (4_000, 2), "uint32")
    kept = jax.vmap(lambda word: spec.kept(jnp.zeros(2, jnp.uint32), jnp.bool_(True), word, word))(fresh)
    left = np.asarray(kept[:, 0])
    np.testing.assert_allclose(np.bincount(left, minlength=4) / 4_000, [0.5, 1 / 6, 1 / 6, 1 / 6], atol=0.03)
    counts = [3]
    for _ in range(4):
        counts.append(int(spec.kept(jnp.array([counts[-1], 0], jnp.uint32), jnp.bool_(False), KEY, KEY)[0]))
    assert counts == [3, 2, 1, 0, 0]
    known = decision([5.0, 0.0, 0.0, 0.0], [True, False, True, True])
    opening, after = (jnp.array([count, 0], jnp.uint32) for count in (1, 0))
    moves = jax.vmap(lambda bits: spec.choose(known, bits, opening, 0))(fresh)
    np.testing.assert_allclose(np.bincount(moves, minlength=4) / 4_000, [1 / 2.1, 0, 1 / 2.1, 0.1 / 2.1], atol=0.03)
    assert int(spec.choose(known, fresh[0], after, 0)) == 0
    only = decision([0.0] * 4, [False, False, False, True])
    assert int(spec.choose(only, fresh[0], opening, 0)) == 3  # the pass, where there is nothing else


def test_past_selves_play_one_side_each_in_the_first_lanes():
    """Of 16 lanes with a share of a half and two members: lanes 0, 1 and 4, 5 move first, 2, 3 and 6, 7 second."""
    chosen = PoolSpec(share=0.5, size=2)
    assert chosen.lanes(16) == 8
    first = np.flatnonzero(pools.theirs(chosen, 16, jnp.ones(16)))
    second = np.flatnonzero(pools.theirs(chosen, 16, -jnp.ones(16)))
    assert (first.tolist(), second.tolist()) == ([0, 1, 4, 5], [2, 3, 6, 7])


def test_the_pool_keeps_the_newest_selves_and_those_choose_where_they_move():
    """A member whose Q prefers another action plays it in its lanes, on its side, and nowhere else."""
    spec = specs.override_all(
        preset("go", GO.observation_space, 1_000),
        {"turns": True, "encoder.widths": (8,), "pool.size": 2, "pool.share": 0.5, "pool.every": 2,
         "exploration.opening": 0, "exploration.start": 0.0, "exploration.end": 0.0},
    )  # fmt: skip
    agent = spec.build(GO.observation_space, GO.actions, 16)
    state = jax.jit(agent.init)(jax.random.PRNGKey(3))
    params = state.learner.params
    other = dataclasses.replace(params, head=jax.tree.map(jnp.negative, params.head))  # its best move is our worst
    pool = state.learner.pool
    for _ in range(2):
        pool = pools.after_rollout(spec.pool, pool, other)
    assert (int(pool.kept), int(pool.rollouts)) == (1, 0)
    own, past = jax.tree.leaves(state.learner.params), jax.tree.leaves(pool.past)
    assert all((two[1] == one).all() for one, two in zip(own, past, strict=True))
    assert all((two[0] == one).all() for one, two in zip(jax.tree.leaves(other), past, strict=True))
    mind = dataclasses.replace(agent.mind(state), past=pool.past)
    _, shown = jax.vmap(GO.reset)(jnp.zeros((16, 2), jnp.uint32))
    seen = Seen(shown, jnp.ones(16, bool), jnp.zeros(16), jnp.ones(16))
    acted = jax.jit(agent.act)(mind, state.actor, seen)
    frames = jax.tree.map(lambda leaf: leaf[:1, None][0], shown)
    by_other = int(other(frames, jnp.zeros(0, jnp.uint32)).preference.argmax())
    by_own = int(state.learner.params(frames, jnp.zeros(0, jnp.uint32)).preference.argmax())
    assert by_other != by_own
    expected = [by_other if lane in (0, 4) else by_own for lane in range(16)]  # member 0, where it moves first
    assert acted.action.tolist() == expected
    assert np.flatnonzero(acted.noted.known.theirs).tolist() == [0, 1, 4, 5]


def test_results_against_the_past_are_the_agents_own():
    """A past self that made the winning move has beaten the agent. Of four games, the pool's two are won and lost."""
    chosen = PoolSpec(share=0.5, size=1)
    pool = pools.PoolState(None, jnp.int32(0), jnp.int32(0), jnp.zeros(()))
    yes, none = jnp.ones((1, 4), bool), jnp.zeros((1, 4), jnp.int32)
    ended = Experience(TimeStep(None, ~yes, none, jnp.ones((1, 4)), yes), yes, None, yes, None)
    both = pools.with_results(chosen, pool, ended, jnp.array([[True, False, False, False]]))
    assert float(both.result) == 0.0
    lost = pools.with_results(chosen, pool, ended, jnp.array([[True, True, False, False]]))
    np.testing.assert_allclose(lost.result, -(1 - 0.99**2), rtol=1e-5)


@pytest.mark.parametrize(
    ("env", "overrides", "told"),
    [
        ("engram/CartPole-v1", {"pool.share": 0.2}, "here there is one side only; set pool.share=0"),
        ("engram/CartPole-v1", {"symmetry": "board"}, "turns square boards whose points are the actions"),
        ("engram/Go-v0", {"working": "gru"}, "past selves play, which have no memory of their own"),
        ("engram/Go-v0", {"pool.size": 99}, "does not suffice for pool.size = 99 past selves on either side"),
        (
            "engram/Go-v0",
            {"exploration.opening": 0, "exploration.opening_share": 0.9},
            "nothing reads it while explorat",
        ),
    ],
)
def test_what_games_do_not_have_is_said_in_a_sentence(env, overrides, told):
    with pytest.raises(SpecError, match=told):
        engram.Trainer(env, "go", steps=2_000, overrides=overrides).learn()


@pytest.mark.parametrize(("envs", "size", "share"), [(128, 4, 0.2), (16, 3, 0.2), (8, 1, 0.2), (1, 4, 0.0)])
def test_few_environments_have_a_smaller_pool_or_none(envs: int, size: int, share: float):
    with engram.Trainer("engram/Go-v0", "go", steps=2_000, envs=envs) as trainer:
        pool = trainer.plan.agent.pool
    assert (pool.size, pool.share) == (size, share)


# -- engines ---------------------------------------------------------------------------------------------------------

FAKE = '''#!{python}
"""Plays the first free point; {quirk}."""
import os, sys
size, taken = 0, set()
log = open("{log}-" + str(os.getpid()), "a")
for line in sys.stdin:
    print(line.strip(), file=log, flush=True)
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
    file.write_text(FAKE.format(python=sys.executable, quirk=quirk, genmove=genmove, log=folder / "heard"))
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
    def game(engine: Engine) -> None:
        engine.begin(3, 0.5)
        engine.choose(BLACK)

    with Engine(fake(tmp_path, quirk, genmove), patience=1.0) as engine, pytest.raises(EnvironmentFault, match=said):
        game(engine)


def test_gnu_go_that_is_not_there_is_named_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(gtp, "GAMES", tmp_path / "gnugo")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match="GNU Go is not installed; on Debian or Ubuntu: apt-get install gnugo"):
        gnu_go(1)
    (tmp_path / "gnugo").touch()
    assert {"--chinese-rules", "--positional-superko", "--capture-all-dead"} < {*gnu_go(1)}  # the rules of pgx
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
    marked = shutil.copytree(run, tmp_path / "go@3x3")  # a folder's name may have the mark of a checkpoint
    for rival in (f"{marked}", f"{marked}@newest"):
        itself = json.loads(said(capsys, "match", str(run), "--games", "4", "--against", rival, "--json"))
        assert itself["openings"]["one_each"] == 2  # both are deterministic and alike: whoever has the better side wins
    words = ("--games", "9", "--against", "capture", "--side", "first", "--free-moves", "1", "--opening-moves", "1")
    free = json.loads(said(capsys, "match", str(run), *words, "--json"))
    assert "as_second" not in free
    assert free["openings"]["interval"] is None  # none is played twice
    monkeypatch.setattr(rivals, "gnu_go", lambda level, seed=0: fake(tmp_path))
    by_pipe = json.loads(said(capsys, "match", str(run), "--games", "2", "--against", "gnugo:1", "--json"))
    assert by_pipe["all"]["games"] == 2
    # The engine of each game heard the moves of the other colour, and was asked for those of its own.
    games = [file.read_text() for file in tmp_path.glob("heard-*")]
    lines = [[line.split() for line in game.splitlines() if line.startswith(("play", "genmove"))] for game in games]
    asked = [{words[1] for words in game if words[0] == "genmove"} for game in lines]
    assert sorted(map(sorted, asked)) == [["B"], ["W"]]  # colours were swapped
    for game, own in zip(lines, asked, strict=True):
        told = [words for words in game if words[0] == "play"]
        assert len(told) > 1
        assert {words[1] for words in told[-1:]} == {"B", "W"} - own
        assert all(re.fullmatch("[A-C][1-3]|pass", words[2], re.IGNORECASE) for words in told)


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


def test_a_rival_hears_of_every_move_but_its_own_and_the_last(run):
    """What ends a game may be forbidden by the rules of an engine, which is not told of it."""
    heard = []

    class Listening(rivals.SimplePlayers):
        def hear(self, turn, side, action):
            heard.append(int(turn.sum()))

    with engram.load(run) as agent:
        env: Any = agent.device_world()
        about = {"games": 6, "opening_moves": 0, "side": "first"}
        played = play_match(env, agent.minds[0], agent.plan.agent, Listening(env, "random", 0), **about)[1]
    assert sum(heard) == sum(len(game.moves) // 2 for game in played)  # of an odd number of moves the agent's is last


def test_an_agent_that_looks_back_is_told_what_evaluations_do_not_show():
    about: dict[str, Any] = {"envs": 16, "steps": 256, "env_args": {"size": 3}}
    for stack, told in ((1, False), (2, True)):
        changed = {"observation.stack": stack, "pool.share": 0.0}
        with engram.Trainer("engram/Go-v0", "go", overrides=changed, **about) as trainer:
            made = make_device("engram/Go-v0", size=3)
            notes = [*notes_at_start(trainer.plan, trainer.agent, made, True)]
        assert any("judge it by engram match" in note for note in notes) is told


def test_where_the_environment_plays_the_other_side_no_past_self_does():
    about: dict[str, Any] = {"envs": 16, "steps": 256, "progress": False, "overrides": {"pool.size": 1}}
    inside = {"env_args": {"size": 3, "opponent": "capture"}}
    with engram.Trainer("engram/Go-v0", "go", **about | inside) as trainer:
        assert trainer.plan.agent.pool.share == 0
        assert trainer.plan.agent.turns
    asked = {"overrides": {"pool.share": 0.2}}
    with pytest.raises(SpecError, match=r"pool.share = 0.2 lets past selves play .* the environment plays it itself"):
        engram.Trainer("engram/Go-v0", "go", **about | inside | asked)
    with engram.Trainer("engram/Go-v0", "go", **about | {"env_args": {"size": 3}}) as trainer:
        assert trainer.plan.agent.pool.share == 0.2


def test_a_game_that_knows_nobody_asks_for_a_run(capsys, tmp_path):
    folder = tmp_path / "nim"
    with engram.Trainer("engram/Nim-v0", "dqn", run=folder, steps=32, overrides={"replay.start": 16}) as trainer:
        trainer.learn()
        assert {*trainer.evaluate(2).returns} <= {-1.0, 1.0}  # whose side each step is goes with it
    told = said(capsys, "match", str(folder), code=2)
    assert "--against was not given, and this game knows nobody; name a run, as in --against RUN" in told


def test_wilsons_interval():
    """Of 8 of 10: 0.490 to 0.943, as tables have it."""
    found = rate(8, 10)
    np.testing.assert_allclose(np.array([found.rate, found.low, found.high], float), [0.8, 0.4902, 0.9433], atol=1e-4)
    assert rate(0, 5).low == 0.0
    assert rate(5, 5).high == 1.0
    assert rate(0, 0) == (0, 0, 0.0, None, None)


def games_of(*results: float, moves: int) -> list[Game]:
    """Openings played twice, of so many different games in turn."""
    return [
        Game(number // 2, 1 - 2 * (number % 2), result, (number % moves,), False)
        for number, result in enumerate(results)
    ]


def test_games_that_repeat_say_nothing_new():
    """40 games of which 4 differ are known as well as 4 games. Openings that all came out alike have no spread."""
    mixed = (1.0, 1.0, -1.0, -1.0)
    told = summed_up(games_of(*mixed * 10, moves=40), 0.0, 0)
    assert (told.all_games, told.distinct) == (rate(20, 40), 40)
    assert told.first == rate(10, 20)
    assert told.pair_interval is not None
    again = summed_up(games_of(*mixed * 10, moves=4), 0.0, 0)
    assert again.distinct == 4
    assert again.all_games == rate(2, 4)._replace(games=40, won=20)
    assert again.first == rate(1, 2)._replace(games=20, won=10)
    assert again.pair_interval == (0.0, 1.0)  # two openings, of which one was won twice and one lost twice
    often = [Game(number // 2, 1 - 2 * (number % 2), 1.0, (number % 2,), False) for number in range(180)]
    seldom = [Game(90 + number // 2, 1 - 2 * (number % 2), -1.0, (2 + number,), False) for number in range(20)]
    low, high = summed_up(often + seldom, 0.0, 0).pair_interval or (1.0, 0.0)
    assert low < 0.9 <= high  # one pair that was won ninety times, ten that were lost
    alike = summed_up(games_of(*(1.0,) * 40, moves=40), 0.0, 0)
    assert alike.pair_interval is None
    one = summed_up(games_of(*(1.0,) * 400, moves=1), 0.0, 0).all_games
    assert (one.rate, round(one.low or 0, 3), one.high) == (1.0, 0.342, 1.0)  # as Black once and as White once


def test_openings_that_begin_with_free_moves_are_no_pairs():
    told = summed_up(games_of(*(1.0, 1.0, -1.0, -1.0) * 10, moves=40), 0.0, 0, paired=False)
    assert told.pairs == (0, 0, 0)
    assert told.pair_interval is None
    assert told.all_games.low is not None


def test_chance_is_another_at_each_move_and_the_same_in_both_games_of_a_pair():
    words = [of_moves(7, time, [0, 0, 1]) for time in range(4)]
    assert len({tuple(np.asarray(one[0]).tolist()) for one in words}) == 4
    for one in words:
        np.testing.assert_array_equal(one[0], one[1])
        assert (one[0] != one[2]).any()


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


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("go", {"working": "gru", "pool.share": 0.0}, "but not what a working memory carries into it"),
        ("drqn", {"replay.stored_carry": True}, "but not the carry that it begins with"),
        ("ppo", {}, "how likely an action is with how likely it was before it was turned"),
    ],
)
def test_what_cannot_be_turned_is_said_in_a_sentence(name, changes, told):
    with pytest.raises(SpecError, match=told):
        specs.override_all(preset(name, GO.observation_space, 1_000), {"symmetry": "board", **changes})


def test_past_selves_of_a_run_that_begins_with_another_are_what_it_begins_with(run):
    overrides = {"encoder.widths": (16,), "pool.size": 2, "rollout.steps": 4}
    about: dict[str, Any] = {"envs": 40, "steps": 256, "env_args": {"size": 3}, "start_from": str(run)}
    with engram.Trainer("engram/Go-v0", "go", overrides=overrides, **about) as trainer:
        learner = trainer.runner._run.agent.learner  # type: ignore[attr-defined]
    for now, past in zip(jax.tree.leaves(learner.params), jax.tree.leaves(learner.pool.past), strict=True):
        np.testing.assert_array_equal(past, np.stack([now, now], axis=1))  # behind the axis of seeds


def test_every_setting_of_games_changes_the_program():
    """Of the preset: symmetries, signs, and all about the pool; and symmetries of an agent with a replay."""
    import hashlib
    from functools import partial

    from engram.runners import device
    from engram.runners.common import Tally

    def digest(spec: Any, env: Any = GO) -> str:
        agent = spec.build(env.observation_space, env.actions, 8)
        start, run = jax.make_jaxpr(partial(device.init, agent, env), return_shape=True)(jax.random.PRNGKey(0))
        cycle = jax.make_jaxpr(partial(device.cycle, agent, env, True))(run, jax.eval_shape(lambda: Tally.empty(agent)))
        numbers = [np.asarray(number).tolist() for made in (start, cycle) for number in made.consts]
        return hashlib.sha256(f"{start} {cycle} {numbers}".encode()).hexdigest()

    small = {"turns": True, "encoder.widths": (8,), "rollout.steps": 2, "rollout.minibatches": 2, "pool.size": 1}
    base = specs.override_all(preset("go", GO.observation_space, 1_000), small)
    changes = [
        {"pool.share": 0.5}, {"pool.size": 2, "pool.share": 0.5}, {"pool.every": 7}, {"symmetry": "off"},
        {"turns": False, "pool.share": 0.0}, {"pool.share": 0.0},
    ]  # fmt: skip
    found = [digest(base), *(digest(specs.override_all(base, change)) for change in changes)]
    dqn = specs.override_all(preset("dqn", GO.observation_space, 1_000), {"turns": True, "encoder": "vector"})
    found += [digest(dqn), digest(specs.override(dqn, "symmetry", "board"))]
    assert len(set(found)) == len(found)


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


def test_the_agent_that_a_person_plays_has_seen_every_move_of_the_game():
    """Also what was taken back is gone from what it remembers."""

    class Remembers:
        def predict(self, observation: Any, state: Any = None) -> tuple[int, Any]:
            empty = np.flatnonzero(observation["action_mask"][:-1])
            return int(empty[0]), (*(state or ()), "seen")

        def took(self, state: Any, action: Any) -> Any:
            return (*state, name_of(int(action), 3))

    heard: list[Any] = []

    class Spying(Remembers):
        def predict(self, observation: Any, state: Any = None) -> tuple[int, Any]:
            heard.append(state)
            return super().predict(observation, state)

    lines = iter(["black", "B2", "undo", "C3", "resign", "n"])
    GO.converse(Spying(), lambda _: next(lines), lambda _: None, 0)
    opening = "seen", "B2"
    reply = next(past[3] for past in heard if past and len(past) == 4)
    assert heard == [
        None,  # the first position, which the person moves in
        opening,  # after B2
        (*opening, "seen", reply),  # where the person takes B2 back
        None,
        ("seen", "C3"),
        heard[-1],
    ]
    assert heard[-1][:3] == ("seen", "C3", "seen")
