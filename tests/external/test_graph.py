"""The graph memory is a dictionary of what happened last, carried back along its edges; halves of a way add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.envs.tasks.maze import SparseGrid
from engram.errors import SpecError
from engram.external.graph import Graph, GraphSpec, lookup, propagate
from engram.external.memory import Entries

WRITE = jax.jit(lambda graph, store, entries, keep: graph.write(store, entries, keep), static_argnums=0)
READ = jax.jit(lambda graph, store, query: graph.read(store, query), static_argnums=0)
TOUCH = jax.jit(lambda graph, store, entries, weights: graph.touch(store, entries, weights), static_argnums=0)
PROPAGATE = jax.jit(propagate, static_argnums=1)


def built(actions=2, embedding=3, **numbers):
    return GraphSpec(**numbers).build(embedding, actions, 0, jax.random.PRNGKey(0))


def hash_of(name):
    """Hashes of small numbers: many share their first word, and that of 0 is what free places hold."""
    return (name // 3, 7 * (name % 3))


def entries(rows, embedding=3):
    """A block from rows (observation, action, reward, discount, next observation, value[, key])."""
    keys = [row[6] if len(row) > 6 else np.full(embedding, row[0]) for row in rows]
    column = lambda i, kind: jnp.array([row[i] for row in rows], kind)  # noqa: E731
    return Entries(
        key=jnp.array(np.array(keys), jnp.float32),
        action=column(1, jnp.int32),
        features=jnp.zeros((len(rows), 0)),
        value=column(5, jnp.float32),
        td_error=jnp.zeros(len(rows)),
        hash=jnp.array([hash_of(row[0]) for row in rows], jnp.uint32),
        origin=jnp.zeros((len(rows), 3), jnp.int32),
        reward=column(2, jnp.float32),
        discount=column(3, jnp.float32),
        following=jnp.array([hash_of(row[4]) for row in rows], jnp.uint32),
    )


def written(graph, store, *rows):
    """Rows written one at a time."""
    for row in rows:
        store = WRITE(graph, store, entries([row], graph.embedding), jnp.array([True]))
    return store


def known(store):
    """What the store holds, by hash: {hash: (place, key, {action: (reward, discount, following, base, q)})}."""
    found = {}
    for place in np.flatnonzero(np.asarray(store.written) >= 0):
        edges = {
            int(action): (
                float(store.reward[place, action]),
                float(store.discount[place, action]),
                tuple(store.following[place, action].tolist()),
                float(store.base[place, action]),
                float(store.q[place, action]),
            )
            for action in np.flatnonzero(np.asarray(store.known[place]))
        }
        assert tuple(store.hash[place].tolist()) not in found
        found[tuple(store.hash[place].tolist())] = (int(place), np.asarray(store.key[place]).tolist(), edges)
    return found


# -- against a model in plain Python ------------------------------------------------------------------------------


class Model:
    """The same memory as a dictionary."""

    def __init__(self, numbers, actions):
        self.numbers, self.actions = numbers, actions
        self.nodes, self.moment, self.writes = {}, 0, 0

    def write(self, rows, keep):
        rows = [row for row, kept in zip(rows, keep, strict=True) if kept]
        held = {hash_of(row[0]) for row in rows} & self.nodes.keys()
        for row in rows:
            if hash_of(row[0]) not in self.nodes:
                place, gone = self.vacant(held | {hash_of(other[0]) for other in rows})
                self.nodes.pop(gone, None)
                self.nodes[hash_of(row[0])] = {"place": place, "edges": {}, "read": -1}
        for name, action, reward, discount, following, value in rows:
            node = self.nodes[hash_of(name)]
            q = node["edges"][action][4] if action in node["edges"] else value
            node["edges"][action] = (reward, discount, hash_of(following), value, q)
            node |= {"key": [name] * 3, "written": self.moment}
        if not rows:
            return
        self.moment, self.writes = self.moment + 1, self.writes + 1
        if self.writes % self.numbers.every == 0:
            self.propagate()

    def vacant(self, stays):
        """The place to be filled next, and who leaves it."""
        taken = {node["place"] for node in self.nodes.values()}
        free = sorted(set(range(self.numbers.capacity)) - taken)
        if free:
            return free[0], None

        def last(hash):
            node = self.nodes[hash]
            moments = [node["written"]] + [node["read"]] * (self.numbers.eviction == "unread")
            return max(moments), node["place"]

        gone = min((hash for hash in self.nodes if hash not in stays), key=last)
        return self.nodes[gone]["place"], gone

    def propagate(self):
        """Value iteration; all discounts are 1/2 or 0, so 60 rounds settle it to 32 bits."""
        for node in self.nodes.values():
            node["edges"] = {a: (r, d, f, b, 0.0) for a, (r, d, f, b, _) in node["edges"].items()}
        for _ in range(60):
            best = {hash: max(edge[4] for edge in node["edges"].values()) for hash, node in self.nodes.items()}
            for node in self.nodes.values():
                for action, (r, d, f, b, _) in node["edges"].items():
                    value = r if d == 0 else r + d * best[f] if f in best else b
                    node["edges"][action] = (r, d, f, b, value)

    def touch(self, places, weights):
        for place, weight in zip(places, weights, strict=True):
            for node in self.nodes.values():
                if node["place"] == place and weight > 0:
                    node["read"] = self.moment
        self.moment += 1


ROW = st.tuples(
    st.integers(0, 8), st.integers(0, 1), st.integers(-2, 3), st.sampled_from([0.0, 0.5]), st.integers(0, 8),
    st.integers(-4, 4),
)  # fmt: skip
WRITES = st.tuples(st.lists(ROW, min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
TOUCHES = st.tuples(st.lists(st.integers(-1, 3), min_size=2, max_size=2), st.lists(st.sampled_from([0.0, 0.5]), min_size=2, max_size=2))  # fmt: skip # noqa: E501


@pytest.mark.parametrize("eviction", ["unread", "oldest"])
@settings(max_examples=60)
@given(events=st.lists(st.one_of(WRITES, TOUCHES), min_size=1, max_size=12))
def test_the_store_is_a_dictionary_of_what_happened_last(eviction, events):
    """Any writes and touches, blocks with repeats, places that are taken over; propagated at every second write."""
    graph = built(capacity=4, neighbours=2, every=2, eviction=eviction)
    store, model = graph.init(), Model(graph.numbers, 2)
    for first, second in events:
        if len(first) == 3:
            store = WRITE(graph, store, entries(first), jnp.array(second))
            model.write(first, second)
        else:
            ids = [place if place < 0 else 2 * place + action for action, place in enumerate(first)]
            store = TOUCH(graph, store, jnp.array(ids), jnp.array(second))
            model.touch(first, second)
        found = known(store)
        assert found.keys() == model.nodes.keys()
        for hash, (place, key, edges) in found.items():
            node = model.nodes[hash]
            assert (place, key, edges.keys()) == (node["place"], node["key"], node["edges"].keys())
            for action, edge in edges.items():
                expected = node["edges"][action]
                if edge[1] == 0:  # what follows an end does not matter
                    assert edge[0] == expected[0]
                else:
                    assert edge[:4] == expected[:4]
                assert edge[4] == pytest.approx(expected[4], abs=1e-4)  # sweeps end at a millionth of the greatest


def test_a_block_of_nothing_leaves_no_trace():
    """Also right after a propagation, and where the one entry of a block is not finite: that is counted as refused."""
    graph = built(capacity=4, neighbours=1, every=2)
    store = written(graph, graph.init(), (1, 0, 0, 0.5, 2, 0), (2, 0, 8, 0.0, 0, 8))
    nothing = WRITE(graph, store, entries([(3, 1, 1, 0.5, 1, 1)]), jnp.array([False]))
    jax.tree.map(np.testing.assert_array_equal, nothing, store)
    refused = WRITE(graph, store, entries([(3, 1, np.nan, 0.5, 1, 1)]), jnp.array([True]))
    jax.tree.map(np.testing.assert_array_equal, refused, store._replace(refused=refused.refused))
    assert int(refused.refused) == 1


@settings(max_examples=40)
@given(names=st.lists(st.integers(0, 11), min_size=0, max_size=6, unique=True))
def test_a_lookup_finds_what_is_there_and_nothing_else(names):
    graph = built(capacity=8, neighbours=2, every=100)
    store = written(graph, graph.init(), *((name, 0, 0, 0.0, 0, 0) for name in names))
    place, found = jax.jit(lookup)(store, jnp.array([hash_of(name) for name in range(12)], jnp.uint32))
    assert np.flatnonzero(found).tolist() == sorted(names)
    for name in names:
        assert store.hash[place[name]].tolist() == list(hash_of(name))


# -- values by hand -----------------------------------------------------------------------------------------------


def q_of(store, name, action=0):
    return known(store)[hash_of(name)][2][action][4]


def test_two_halves_that_met_in_no_episode_are_one_way_after_a_propagation():
    """1 -> 2 -> 3, cut; 4 -> 3 -> end with 8. Every return of the first half is 0; its value is 8 / 4 and 8 / 2."""
    graph = built(capacity=8, neighbours=1, every=100)
    store = written(graph, graph.init(), (1, 0, 0, 0.5, 2, 0), (2, 0, 0, 0.5, 3, 0))
    store = written(graph, store, (4, 0, 0, 0.5, 3, 0), (3, 1, 8, 0.0, 0, 8))
    assert (q_of(store, 1), q_of(store, 2)) == (0, 0)
    store = PROPAGATE(store, 10)
    assert [q_of(store, 1), q_of(store, 2), q_of(store, 4), q_of(store, 3, 1)] == [2, 4, 4, 8]


def test_a_value_travels_one_transition_in_a_sweep():
    graph = built(capacity=8, neighbours=1, every=100)
    store = written(graph, graph.init(), (1, 0, 0, 0.5, 2, 0), (2, 0, 0, 0.5, 3, 0), (3, 0, 8, 0.0, 0, 8))
    assert [q_of(PROPAGATE(store, sweeps), 1) for sweeps in (1, 2, 3)] == [0, 2, 2]


def test_an_unknown_successor_leaves_what_was_written():
    """5 was never seen: its edge is worth 7 as written, and what leads there half of it."""
    graph = built(capacity=8, neighbours=1, every=100)
    store = PROPAGATE(written(graph, graph.init(), (1, 0, 0, 0.5, 2, 1), (2, 0, 3, 0.5, 5, 7)), 10)
    assert (q_of(store, 2), q_of(store, 1)) == (7, 3.5)


def test_going_round_in_circles_is_worth_its_rewards_and_keeps_no_old_hope():
    """1 <-> 2 with rewards 1 and 0 and discount 1/2: 4/3 and 2/3, also after the way out that paid 90 is gone."""
    graph = built(capacity=8, neighbours=1, every=100)
    circle = [(1, 0, 1, 0.5, 2, 0), (2, 0, 0, 0.5, 1, 0)]
    store = PROPAGATE(written(graph, graph.init(), *circle, (2, 1, 90, 0.0, 0, 90)), 1000)
    assert q_of(store, 1) == 46
    store = PROPAGATE(written(graph, store, (2, 1, 0, 0.0, 0, 0)), 1000)
    np.testing.assert_allclose([q_of(store, 1), q_of(store, 2)], [4 / 3, 2 / 3], rtol=1e-5)  # a millionth, doubled


def test_without_a_discount_the_best_way_out_counts_and_circles_are_free():
    """1 <-> 2 for nothing, out of 2 for 5, or out of 1 over 3 for -1 and 7: all but the first way out is worth 6."""
    graph = built(capacity=8, neighbours=1, every=100)
    rows = [
        (1, 0, 0, 1.0, 2, 0),
        (2, 0, 0, 1.0, 1, 0),
        (2, 1, 5, 0.0, 0, 5),
        (1, 1, -1, 1.0, 3, 0),
        (3, 0, 7, 0.0, 0, 7),
    ]
    store = PROPAGATE(written(graph, graph.init(), *rows), 1000)
    assert [q_of(store, 1), q_of(store, 1, 1), q_of(store, 2), q_of(store, 2, 1)] == [6, 6, 6, 5]


def test_a_node_that_moves_in_is_not_taken_for_the_one_that_left():
    """Two places. 1 -> 2 -> end with 8; then 3 takes the place of 2, and 1 is worth what was written again; then 2
    comes back elsewhere, and is found.
    """
    graph = built(capacity=2, neighbours=1, every=1)
    store = written(graph, graph.init(), (2, 0, 8, 0.0, 0, 8), (1, 0, 0, 0.5, 2, 1))
    assert q_of(store, 1) == 4
    place = known(store)[hash_of(2)][0]
    store = written(graph, store, (3, 0, 100, 0.0, 0, 100))
    assert known(store)[hash_of(3)][0] == place
    assert q_of(store, 1) == 1
    graph = built(capacity=3, neighbours=1, every=1)
    store = written(graph, graph.init(), (2, 0, 8, 0.0, 0, 8), (4, 0, 0, 0.0, 0, 0), (1, 0, 0, 0.5, 2, 1))
    store = written(graph, store, (3, 0, 100, 0.0, 0, 100), (2, 0, 6, 0.0, 0, 6))
    assert known(store)[hash_of(2)][0] != known(store)[hash_of(3)][0]
    assert q_of(store, 1) == 3


def test_where_chance_decides_the_last_outcome_counts():
    """An action that pays 1 or 0 like a coin is worth whatever it paid last: no mean is kept."""
    graph = built(capacity=4, neighbours=1, every=1)
    store = graph.init()
    for paid in (1, 0, 0, 1, 0):
        store = written(graph, store, (1, 0, paid, 0.0, 0, paid), (2, 0, 0, 0.5, 1, 0))
        assert (q_of(store, 1), q_of(store, 2)) == (paid, paid / 2)


def test_values_are_carried_back_at_every_so_many_writes():
    graph = built(capacity=8, neighbours=1, every=3)
    rows = [(1, 0, 0, 0.5, 2, 0), (2, 0, 8, 0.0, 0, 8), (4, 0, 0, 0.5, 2, 0)]
    store = written(graph, graph.init(), *rows[:2])
    assert q_of(store, 1) == 0
    assert q_of(written(graph, store, rows[2]), 1) == 4


# -- reading ------------------------------------------------------------------------------------------------------


def test_a_read_by_hand():
    """Keys 0, 1 and 5 on a line, query 0, delta 1, two neighbours: kernels 1 and 1/2. Only node 1 knows action 1."""
    graph = built(embedding=1, capacity=4, neighbours=2, delta=1.0, half_confidence_distance=1.0, every=100)
    rows = [(0, 0, 6, 0.0, 0, 6, [0.0]), (1, 0, 9, 0.0, 0, 9, [1.0]), (1, 1, 4, 0.0, 0, 4, [1.0]),
            (2, 0, 99, 0.0, 0, 99, [5.0])]  # fmt: skip
    read = READ(graph, written(graph, graph.init(), *rows), jnp.zeros(1))
    np.testing.assert_allclose(read.weights, [[[2 / 3, 1 / 3], [0, 1]]], rtol=1e-6)
    assert read.entries.tolist() == [[[0, 2], [-1, 3]]]  # node x 2 actions + action
    np.testing.assert_allclose(read.q, [7, 4], rtol=1e-6)
    np.testing.assert_allclose(read.confidence, [1, 0.5], rtol=1e-6)
    equal = built(
        embedding=1, capacity=4, neighbours=2, delta=1.0, half_confidence_distance=1.0, every=100, uniform=True
    )
    np.testing.assert_allclose(READ(equal, written(graph, graph.init(), *rows), jnp.zeros(1)).q, [7.5, 4], rtol=1e-6)


def test_an_id_fetches_the_edge_that_was_read():
    graph = built(embedding=1, capacity=4, neighbours=2, every=2)
    store = written(graph, graph.init(), (1, 1, 3, 0.5, 2, 3, [1.0]), (2, 0, 8, 0.0, 0, 8, [2.0]))
    ids = jnp.array([1, 2, -1], jnp.int32)  # node 0, action 1; node 1, action 0; nothing
    found = graph.fetch(store, ids)
    assert graph.holds(store, jnp.arange(8)).tolist() == [False, True, True, False, False, False, False, False]
    assert found.key.tolist() == [[1], [2], [0]]
    assert found.action.tolist() == [1, 0, 0]
    assert found.value.tolist() == [3 + 0.5 * 8, 8, 0]  # as carried back, not as written
    assert found.reward.tolist() == [3, 8, 0]  # type: ignore[union-attr]
    assert found.hash.tolist() == [list(hash_of(1)), list(hash_of(2)), [0, 0]]
    assert found.following.tolist() == [list(hash_of(2)), list(hash_of(0)), [0, 0]]  # type: ignore[union-attr]
    assert int(store.held) == 2


def test_an_empty_graph_says_nothing():
    graph = built(capacity=4, neighbours=3)
    read = READ(graph, graph.init(), jnp.ones(3))
    assert read.vector.shape == (0,)
    assert read.weights.shape == read.entries.shape == (1, 2, 3)
    assert not read.weights.any()
    assert (read.entries == -1).all()
    assert read.q.tolist() == read.confidence.tolist() == [0, 0]


def test_the_gradient_of_a_read_is_finite_and_reaches_the_query_only():
    graph = built(embedding=1, capacity=4, neighbours=4, delta=1.0)
    rows = [(0, 0, 6, 0.0, 0, 6, [0.0]), (1, 0, 9, 0.0, 0, 9, [1.0])]
    store = written(graph, graph.init(), *rows)
    slope = lambda at: float(jax.grad(lambda query: graph.read(store, query).q[0])(jnp.array([at]))[0])  # noqa: E731
    step = 1e-2
    numeric = (READ(graph, store, jnp.array([0.3 + step])).q[0] - READ(graph, store, jnp.array([0.3 - step])).q[0]) / (
        2 * step
    )
    assert slope(0.3) == pytest.approx(float(numeric), rel=1e-2)  # a central difference in 32 bits
    assert np.isfinite(slope(0.0))
    moved = jax.grad(lambda key: graph.read(store._replace(key=key), jnp.array([0.3])).q[0])(store.key)
    assert not moved.any()


def test_what_is_read_stays_when_others_have_to_go():
    rows = [(1, 0, 0, 0.0, 0, 0), (2, 0, 0, 0.0, 0, 0)]
    for eviction, left in (("unread", 1), ("oldest", 2)):
        graph = built(capacity=2, neighbours=1, eviction=eviction)
        store = written(graph, graph.init(), *rows)
        read = READ(graph, store, jnp.full(3, 1.0))
        store = TOUCH(graph, store, read.entries.ravel(), read.weights.ravel())
        store = written(graph, store, (3, 0, 0, 0.0, 0, 0))
        assert known(store).keys() == {hash_of(left), hash_of(3)}


# -- stitching in mazes --------------------------------------------------------------------------------------------


def shortest(env, cell):
    """Actions of a shortest way from the cell to the goal."""
    way = []
    while cell != env.plan.goal:
        ends = env.plan.following[cell]
        way.append(min(range(4), key=lambda a: env.plan.far[ends[a]]))
        cell = ends[way[-1]]
    return way


def walk(env, cell, actions, discount):
    """Rows of an episode, without bootstrap: a walk that is cut short has returns of 0."""
    rows = []
    for action in actions:
        there = env.plan.following[cell][action]
        over = there == env.plan.goal
        rows.append([cell, action, float(over), 0.0 if over else discount, there, 0.0])
        cell = there
    total = 0.0
    for row in reversed(rows):
        total = row[2] + row[3] * total
        row[5] = total
    return rows


@pytest.mark.parametrize("layout", range(5))
def test_halves_of_a_way_through_a_maze_are_worth_the_whole_after_one_propagation(layout):
    """One episode goes part of the way to the goal and is cut on its way back; another comes from elsewhere and goes
    through the cell where the first turned. Then every step of the whole way has its optimal value, and the best return
    of any episode, which tabular episodic control keeps, is 0 for the first half.
    """
    discount, env = 0.9, SparseGrid(9, layout)
    best, way = env.optimal(discount), shortest(env, 0)
    path = walked(env, 0, way)
    turn, side = crossing(env, path)
    back = [(action + 2) % 4 for action in reversed(way[:turn])]
    rows = walk(env, 0, way[:turn] + back, discount)
    assert rows[-1][4] == 0
    second = walk(env, side, shortest(env, side), discount)
    assert not {row[0] for row in second} & set(path[:turn])
    rows += second

    graph = built(embedding=1, actions=4, capacity=81, neighbours=1, every=1000)
    store, returns = graph.init(), {}
    for row in rows:
        store = written(graph, store, (*row, [float(row[0])]))
        returns[row[0], row[1]] = max(row[5], returns.get((row[0], row[1]), 0.0))
    store = PROPAGATE(store, 1000)
    for cell, action in zip(path[:-1], way, strict=True):
        assert best[cell, action] == best[cell].max() > 0
        assert q_of(store, cell, action) == pytest.approx(best[cell, action], rel=1e-5)
    assert [returns[cell, action] for cell, action in zip(path[:turn], way, strict=False)] == [0.0] * turn


def crossing(env, path):
    """Where on the path, past its first third, a shortest way from off the path joins it; and where that one begins."""
    for turn in range(len(path) // 3, len(path) - 1):
        for cell in env.starts:
            cells = walked(env, cell, shortest(env, cell))
            if cell not in path and path[turn] in cells and not set(cells) & set(path[:turn]):
                return turn, cell
    raise AssertionError("nothing joins the path; take another maze")


def walked(env, cell, actions):
    """The cells of a walk."""
    cells = [cell]
    for action in actions:
        cells.append(env.plan.following[cells[-1]][action])
    return cells


# -- refusals -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_with_a_way_out():
    with pytest.raises(SpecError, match="external.neighbours = 10 exceeds external.capacity = 5"):
        GraphSpec(capacity=5)
    with pytest.raises(SpecError, match="actions apart by their number"):
        GraphSpec().build(3, 2, 4, jax.random.PRNGKey(0))
    graph = built(capacity=2, neighbours=1)
    rows = entries([(name, 0, 0, 0.0, 0, 0) for name in range(3)])
    with pytest.raises(SpecError, match="external.capacity = 2 is less than the 3 entries of a block"):
        graph.write(graph.init(), rows, jnp.ones(3, bool))
    bare = Entries(rows.key, rows.action, rows.features, rows.value, rows.td_error, rows.hash, rows.origin)
    with pytest.raises(SpecError, match="without reward, discount, following"):
        graph.write(graph.init(), bare, jnp.ones(3, bool))


def test_an_empty_store_can_be_donated():
    """No two of its arrays are the same buffer, which JAX refuses."""
    graph = built(capacity=4, neighbours=1)
    write = jax.jit(graph.write, donate_argnums=0)
    assert int(write(graph.init(), entries([(1, 0, 0, 0.0, 0, 0)]), jnp.array([True])).writes) == 1


def test_the_memory_has_no_learned_weights_and_is_static():
    graph = built()
    assert jax.tree.leaves(graph) == []
    assert hash(graph) == hash(built())
    assert isinstance(graph, Graph)
