"""Six tasks of POPGym, held against popgym itself: our hidden state in theirs, the same actions, every step equal."""

from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from popgym.envs import autoencode, battleship, concentration, count_recall, repeat_first, repeat_previous

from engram.envs.device import make_device, uniforms
from engram.envs.host.actions import joint_actions
from engram.envs.host.spaces import Observer
from engram.envs.tasks.battleship import SHIPS, BattleshipState, _place
from engram.spaces import Discrete, MultiDiscrete, Tuple

LEVELS = ["easy", "medium", "hard"]
NAMES = {
    "RepeatFirst": repeat_first,
    "RepeatPrevious": repeat_previous,
    "Autoencode": autoencode,
    "CountRecall": count_recall,
    "Concentration": concentration,
    "Battleship": battleship,
}
EPISODES = 4


def both(task, level):
    """Ours and theirs."""
    return make_device(f"engram/{task}-v0", level=level), getattr(NAMES[task], task + level.capitalize())()


@partial(jax.jit, static_argnums=(0, 1, 3))
def play(env, policy, keys, steps):
    """States [episode, steps + 1], first observations, actions and steps [episode, steps]; nothing is started again."""

    def episode(key):
        keys = jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key, impl="threefry2x32"), steps + 1))
        state, first = env.reset(keys[0])

        def advance(state, key):
            action = jnp.int32(policy(env, state, uniforms(key ^ 1, 3)))
            following, step = env.step(state, action, key)
            return following, (following, action, step)

        _, (states, actions, outcome) = jax.lax.scan(advance, state, keys[1:])
        states = jax.tree.map(lambda begun, later: jnp.concatenate([begun[None], later]), state, states)
        return states, first, actions, outcome

    return jax.vmap(episode)(keys)


def keys_of(seed, count):
    return jax.random.bits(jax.random.key(seed), (count, 2), "uint32")


def arranged(kinds, of_card):
    """Numbers of cards so that `of_card` of them are the `kinds`, each card once."""
    stock = {kind: np.flatnonzero(of_card == kind).tolist() for kind in np.unique(of_card)}
    return np.array([stock[int(kind)].pop() for kind in kinds])


def stack(deck, idx):
    """Let popgym's deck lie as `idx` after the next reset, instead of shuffled."""

    def reset(rng):
        type(deck).reset(deck, shuffle=False)
        deck.idx = idx

    deck.reset = reset


def compare(theirs, first, actions, outcome, translate=int):
    """Steps popgym with our actions until it ends, and returns how (terminated, truncated)."""
    read = Observer(theirs.observation_space)
    given, _ = theirs.reset(seed=0)
    same_observation(read(given), first)
    for step, action in enumerate(actions):
        given, reward, terminated, truncated, _ = theirs.step(translate(action))
        same_observation(read(given), jax.tree.map(lambda leaf, step=step: leaf[step], outcome.observation))
        np.testing.assert_allclose(outcome.reward[step], reward, rtol=1e-6)
        flags = bool(outcome.terminated[step]), bool(outcome.truncated[step])
        assert flags == (bool(terminated), bool(truncated)), f"at step {step}"
        if any(flags):
            return flags
    raise AssertionError("the episode did not end")


def same_observation(given, ours):
    for left, right in zip(given, jax.tree.leaves(ours), strict=True):
        np.testing.assert_array_equal(left, right)


def episodes(played):
    """Each episode of `play`, as NumPy."""
    played = jax.tree.map(np.asarray, played)
    for row in range(EPISODES):
        yield jax.tree.map(lambda leaf, row=row: leaf[row], played)


def half_right(env, state, chances):
    kind = type(env).__name__
    if kind == "RepeatFirst":
        answer = state.first
    elif kind == "RepeatPrevious":
        answer = state.recent[-1]
    elif kind == "Autoencode":
        answer = state.suits[env.relevant_step(state)]
    else:
        answer = state.counts[state.query]
    return jnp.where(chances[0] < 0.5, answer, jnp.floor(chances[1] * env.actions))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("task", ["RepeatFirst", "RepeatPrevious"])
def test_repeating_a_suit_is_popgyms(task, level):
    env, theirs = both(task, level)
    for _, first, actions, outcome in episodes(play(env, half_right, keys_of(1, EPISODES), env.cards - 1)):
        dealt = np.concatenate([first[None], outcome.observation])
        stack(theirs.deck, arranged(dealt, theirs.deck.suits_idx)[::-1])
        assert compare(theirs, first, actions, outcome) == (True, False)


@pytest.mark.parametrize("level", LEVELS)
def test_autoencode_is_popgyms(level):
    env, theirs = both("Autoencode", level)
    played = play(env, half_right, keys_of(2, EPISODES), 2 * env.cards - 1)
    for states, first, actions, outcome in episodes(played):
        stack(theirs.deck, arranged(states.suits[-1], theirs.deck.suits_idx)[::-1])
        assert compare(theirs, first, actions, outcome) == (True, False)


@pytest.mark.parametrize("level", LEVELS)
def test_count_recall_is_popgyms(level):
    env, theirs = both("CountRecall", level)
    for _, first, actions, outcome in episodes(play(env, half_right, keys_of(3, EPISODES), env.cards - 1)):
        seen = np.concatenate([first[None], outcome.observation])
        for deck, column in ((theirs.value_deck, 0), (theirs.query_deck, 1)):
            stack(deck, arranged(seen[:, column], theirs.deck_idx_type)[::-1])
        assert compare(theirs, first, actions, outcome) == (True, False)


def remembering(env, state, chances):
    """The place to turn for one who forgets no card: a pair if one is known, else a card never seen."""
    known, open_ = state.cards >= 0, ~state.paired
    places = jnp.arange(env.places)
    alike = (state.cards[:, None] == state.cards[None, :]) & known[:, None] & open_[:, None] & known & open_
    alike &= places[:, None] != places[None, :]
    partner = alike[state.first]
    wanted = jnp.where(state.first >= 0, partner, alike.any(1))
    unseen = ~known & (places != state.first)
    return jnp.where(wanted.any(), wanted.argmax(), unseen.argmax())


def forgetful(env, state, chances):
    """Now and then a random place: face up already, or turned just before."""
    careless = jnp.where(chances[2] < 0.3, state.first, jnp.floor(chances[1] * env.places))
    return jnp.where(chances[0] < 0.25, jnp.maximum(careless, 0), remembering(env, state, chances))


def careless(env, state, chances):
    return jnp.floor(chances[0] * env.actions)


@pytest.mark.parametrize(
    "level, policy",
    [*((level, policy) for level in LEVELS for policy in (remembering, forgetful)), ("hard", careless)],
)
def test_concentration_is_popgyms(level, policy):
    """Cards that were never turned are given to popgym in any order: they do not matter."""
    env, theirs = both("Concentration", level)
    ends = set()
    for states, first, actions, outcome in episodes(play(env, policy, keys_of(4, EPISODES), env.max_steps)):
        over = (outcome.terminated | outcome.truncated).argmax() + 1
        table = jax.tree.map(lambda leaf, over=over: leaf[over], states)
        kinds, rest = table.cards.copy(), np.repeat(np.arange(env.kinds), table.left)
        kinds[kinds < 0] = rest
        stack(theirs.deck, arranged(kinds, theirs.deck_idx_type))
        ends.add(compare(theirs, first, actions, outcome))
    assert ends == ({(True, False)} if policy is remembering else {(False, True)} if policy is careless else ends)


def test_turning_cards_with_luck_returns_one_and_ends_the_game():
    """Of several draws, one that pairs the card is taken: 52 cards in 52 steps."""
    env = make_device("engram/Concentration-v0", level="hard")
    step_of, keys = jax.jit(env.step), list(keys_of(5, 200))
    state, _ = env.reset(keys[0])
    rewards = []
    for place in range(52):
        outcomes = [step_of(state, jnp.int32(place), key) for key in keys] if place % 2 else None
        state, step = (
            max(outcomes, key=lambda outcome: float(outcome[1].reward))
            if outcomes
            else step_of(state, jnp.int32(place), keys[0])
        )
        rewards.append(float(step.reward))
    np.testing.assert_allclose(sum(rewards), 1.0, rtol=1e-5)
    assert (bool(step.terminated), bool(step.truncated)) == (True, False)


def test_turned_cards_are_a_shuffled_deck():
    """Whatever the order of turning: two cards are of one rank with probability 3/51 (5 standard errors)."""
    env, count = make_device("engram/Concentration-v0", level="hard"), 4000
    states, *_ = play(env, lambda env, state, chances: (state.steps * 7) % 52, keys_of(6, count), 52)
    cards = np.asarray(states.cards[:, -1])
    assert ((cards[..., None] == np.arange(13)).sum(1) == 4).all()
    for one, other in [(0, 7), (0, 51), (25, 26), (14, 21), (45, 1)]:
        share = np.mean(cards[:, one] == cards[:, other])
        assert abs(share - 3 / 51) < 5 * np.sqrt(3 / 51 * 48 / 51 / count)


def half_hits(env, state, chances):
    fields = jnp.arange(env.actions)
    target = jnp.where((state.ships & ~state.shots).ravel(), fields, -1).max()
    return jnp.where(chances[0] < 0.3, target, jnp.floor(chances[1] * env.actions))


def in_order(env, state, chances):
    return state.steps


def hits(env, state, chances):
    return jnp.argmax((state.ships & ~state.shots).ravel())


def always_the_first(env, state, chances):
    return 0


@pytest.mark.parametrize(
    "level, policy, ends",
    [
        ("easy", hits, {(True, False)}),
        ("easy", in_order, None),
        ("easy", always_the_first, {(False, True)}),
        *((level, half_hits, {(True, False)}) for level in LEVELS),
    ],
)
def test_battleship_is_popgyms(level, policy, ends):
    """Their board is replaced by ours after their reset; our joint action is theirs by the order of `joint_actions`."""
    env, theirs = both("Battleship", level)
    joint, begin = joint_actions(theirs.action_space), theirs.reset
    seen = set()
    for states, first, actions, outcome in episodes(play(env, policy, keys_of(7, EPISODES), env.actions)):

        def reset(seed, board=states.ships[0]):
            given = begin(seed=seed)
            assert theirs.board.sum() == board.sum()
            theirs.board = board.astype(np.int8)
            return given

        theirs.reset = reset
        seen.add(compare(theirs, first, actions, outcome, lambda action: joint[action]))
    assert ends is None or seen == ends


def test_both_flags_come_together_at_the_last_field():
    """A ship on the last field, shot at in order: sunk with the last shot that there is."""
    env, theirs = both("Battleship", "easy")
    board = np.zeros((8, 8), bool)
    for row, length in enumerate(SHIPS):
        board[7 - 2 * row, 8 - length :] = True
    state = BattleshipState(jnp.asarray(board), jnp.zeros((8, 8), bool), jnp.int32(0), jnp.int32(0))
    theirs.reset(seed=0)
    theirs.board = board.astype(np.int8)
    step_of, total = jax.jit(env.step), 0.0
    for action in range(64):
        state, step = step_of(state, jnp.int32(action), jnp.zeros(2, jnp.uint32))
        _, _, terminated, truncated, _ = theirs.step(divmod(action, 8))
        assert (bool(step.terminated), bool(step.truncated)) == (terminated, truncated) == (action == 63, action == 63)
        total += float(step.reward)
    np.testing.assert_allclose(total, 0, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_hitting_every_time_returns_one_in_twelve_shots(level):
    env = make_device("engram/Battleship-v0", level=level)
    *_, outcome = play(env, hits, keys_of(8, 50), 12)
    np.testing.assert_allclose(outcome.reward.sum(1), 1.0, rtol=1e-6)
    assert np.asarray(outcome.terminated[:, -1]).all()
    assert not np.asarray(outcome.terminated[:, :-1]).any()


@pytest.mark.parametrize("level", LEVELS)
def test_ships_lie_as_popgym_places_them(level):
    """Share of ships at each field, and of neighbouring pairs of them: within 5 standard errors of popgym's boards."""
    env, theirs = both("Battleship", level)
    ours, count = 20_000, 2_000
    state, _ = jax.jit(jax.vmap(env.reset))(keys_of(9, ours))
    boards = np.asarray(state.ships, np.float64)
    assert (boards.sum((1, 2)) == sum(SHIPS)).all()
    theirs.reset(seed=3)
    expected = np.stack([theirs.reset()[0] or theirs.board.copy() for _ in range(count)]).astype(np.float64)
    for measure in (
        lambda board: board,
        lambda board: board[:, 1:] * board[:, :-1],
        lambda board: board[:, :, 1:] * board[:, :, :-1],
    ):
        one, other = measure(boards), measure(expected)
        error = np.sqrt(one.var(0) * (1 / ours + 1 / count))
        assert (np.abs(one.mean(0) - other.mean(0)) < 5 * error).all()
    # All four ships in all: how often fields touch, in number of pairs.
    touching = [
        (b[:, 1:] * b[:, :-1]).sum((1, 2)) + (b[:, :, 1:] * b[:, :, :-1]).sum((1, 2)) for b in (boards, expected)
    ]
    error = np.sqrt(touching[0].var() * (1 / ours + 1 / count))
    assert abs(touching[0].mean() - touching[1].mean()) < 5 * error


def test_a_ship_is_uniform_over_the_placements_that_are_left():
    """On 8 x 8 with the first row taken a ship of two has 7 x 7 + 8 x 6 placements, each with its share (5 errors)."""
    count, taken = 20_000, jnp.zeros((8, 8), bool).at[0].set(True)
    chances = jax.vmap(lambda key: uniforms(key, 2))(keys_of(10, count))
    boards = np.asarray(jax.jit(jax.vmap(partial(_place, taken, 2)))(chances))
    kinds, counts = np.unique(boards.reshape(count, -1), axis=0, return_counts=True)
    assert counts.size == 7 * 7 + 8 * 6
    assert not (kinds & np.asarray(taken).ravel()).any()
    assert np.abs(counts / count - 1 / 97).max() < 5 * np.sqrt(1 / 97 / count)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("task", NAMES)
def test_spaces_and_actions_are_popgyms(task, level):
    """The registered ids are the classes compared above, and their spaces hold the same categories as ours."""
    env, theirs = both(task, level)
    registered = gymnasium.spec(f"popgym-{task}{level.capitalize()}-v0")
    assert registered.entry_point in (type(theirs), f"{type(theirs).__module__}:{type(theirs).__name__}")
    assert env.actions == len(joint_actions(theirs.action_space))
    parts = Observer(theirs.observation_space).parts
    space = env.observation_space
    ours = [
        leaf.n if isinstance(leaf, Discrete) else leaf.nvec
        for leaf in (space.items if isinstance(space, Tuple) else [space])
    ]
    assert isinstance(space, Discrete | MultiDiscrete | Tuple)
    for part, sizes in zip(parts, ours, strict=True):
        np.testing.assert_array_equal(part.sizes, sizes)
