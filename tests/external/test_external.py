"""External memories say what their entries say, keep what their eviction keeps, and tell what each entry did."""

import json
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kinds import own

import engram.agents.presets  # noqa: F401, registers every kind
from engram import registry, specs
from engram.errors import SpaceError, SpecError
from engram.external.episodic import Episodic, EpisodicSpec
from engram.external.eviction import EVICTIONS
from engram.external.memory import Entries, NoExternal, NoExternalSpec
from engram.external.store import WAYS, find
from engram.external.writing import Rule
from engram.testing import ContractFault, check_external

KERNELS = ("inverse-distance", "dot", "scaled-dot", "multi-head")


# Compiled once for each spec and shape.
WRITE = jax.jit(lambda memory, store, entries, keep: memory.write(store, entries, keep))
READ = jax.jit(lambda memory, store, query, offered=None: memory.read(store, query, offered))


def made(embedding: int = 2, actions: int = 2, offered: int = 0, **numbers: Any) -> Episodic:
    """A small memory."""
    return EpisodicSpec(**({"capacity": 8, "neighbours": 2} | numbers)).build(
        embedding, actions, offered, jax.random.PRNGKey(3)
    )


def block(
    keys: Any, actions: Any, values: Any, hashes: Any = None, features: Any = None, errors: Any = None
) -> Entries:
    """Entries whose hashes, where none are given, all differ from those of other keys."""
    keys = np.asarray(keys, np.float32)
    count = len(keys)
    if hashes is None:
        hashes = [zlib.crc32(row.tobytes()) for row in keys]
    words = np.stack([np.asarray(hashes, np.uint32), np.full(count, 7, np.uint32)], 1)
    return Entries(
        key=jnp.asarray(keys),
        action=jnp.asarray(actions, jnp.int32),
        features=jnp.zeros((count, 0)) if features is None else jnp.asarray(features, jnp.float32),
        value=jnp.asarray(values, jnp.float32),
        td_error=jnp.zeros(count) if errors is None else jnp.asarray(errors, jnp.float32),
        hash=jnp.asarray(words),
        origin=jnp.stack([jnp.zeros(count, jnp.int32), jnp.arange(count), jnp.arange(count)], 1),
    )


def written(memory: Episodic, entries: Entries, keep: Any = None, store: Any = None) -> Any:
    """The store after one block."""
    keep = jnp.ones(len(entries.value), bool) if keep is None else jnp.asarray(keep)
    return WRITE(memory, memory.init() if store is None else store, entries, keep)


# -- a read, worked by hand ------------------------------------------------------------------------------------

# Action 0 has keys (0, 0), (1, 0), (3, 0) with values 1, 2, 10; action 1 has one entry of value 5. The query is (1, 0).
KEYS, ACTIONS, VALUES = [[0, 0], [1, 0], [3, 0], [1, 1]], [0, 0, 0, 1], [1.0, 2, 10, 5]
QUERY = jnp.array([1.0, 0])


def softmax(*scores: float) -> np.ndarray:
    powers = np.exp(np.array(scores))
    return powers / powers.sum()


@pytest.mark.parametrize(
    "kernel, temperature, places, weights",
    [
        # Squared distances 0 and 1 with delta 1: kernels 1 and 1/2.
        ("inverse-distance", 1, (1, 0), [2 / 3, 1 / 3]),
        ("inverse-distance", 0.5, (1, 0), [4 / 5, 1 / 5]),
        # Products 3 and 1: (3, 0) and (1, 0) are what the query points to.
        ("dot", 1, (2, 1), softmax(3, 1)),
        ("dot", 2, (2, 1), softmax(1.5, 0.5)),
        ("scaled-dot", 1, (2, 1), softmax(3 / 2**0.5, 1 / 2**0.5)),
    ],
)
def test_a_read_is_the_kernel_over_the_nearest(kernel, temperature, places, weights):
    memory = made(kernel=kernel, delta=1.0, half_confidence_distance=1.0, temperature=temperature)
    read = READ(memory, written(memory, block(KEYS, ACTIONS, VALUES)), QUERY)
    np.testing.assert_array_equal(read.entries[0], [places, [4, -1]])
    np.testing.assert_allclose(read.weights[0], [weights, [1, 0]], rtol=1e-6)
    np.testing.assert_allclose(read.q, [np.dot(weights, np.take(VALUES, places)), 5], rtol=1e-6)
    np.testing.assert_allclose(read.confidence, [1, 1 / 2], rtol=1e-6)  # (1, 0) itself; (1, 1) at distance 1


def test_multi_head_scores_projected_keys_and_averages_heads():
    memory = made(kernel="multi-head", heads=2)
    eye = jnp.array([[[1.0, 0]], [[0.0, 1]]])  # head 0 sees the first number, head 1 the second
    memory = eqx.tree_at(lambda memory: memory.projections, memory, (eye, eye))
    store = written(memory, block([[1, 2], [2, -1], [-9, -9]], [0, 0, 0], [1.0, 4, 0]))
    read = READ(memory, store, jnp.array([1.0, 1]))
    np.testing.assert_array_equal(read.entries[:, 0], [[1, 0], [0, 1]])
    first, second = softmax(2, 1), softmax(2, -1)
    np.testing.assert_allclose(read.weights[:, 0], [first, second], rtol=1e-6)
    expected = (first @ [4, 1] + second @ [1, 4]) / 2
    np.testing.assert_allclose(read.q[0], expected, rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_empty_memory_knows_nothing(kernel):
    memory = made(kernel=kernel, heads=2)
    read = READ(memory, memory.init(), QUERY)
    assert not read.weights.any()
    assert (read.entries == -1).all()
    assert not read.q.any()
    assert not read.confidence.any()


def test_with_a_small_delta_a_read_is_a_tabular_lookup():
    memory = made(capacity=64, neighbours=8, delta=1e-12)
    keys = np.random.default_rng(0).normal(size=(16, 2)) * 30  # far from 0, where products would lose the distance
    values = np.arange(16.0)
    store = written(memory, block(keys, np.arange(16) % 2, values))
    for place in range(16):
        read = READ(memory, store, jnp.asarray(keys[place], jnp.float32))
        np.testing.assert_allclose(read.q[place % 2], values[place], atol=1e-6)
        assert read.confidence[place % 2] == 1


def test_confidence_falls_with_distance():
    memory = made(half_confidence_distance=0.1)
    store = written(memory, block([[0, 0]], [0], [1.0]))
    found = [float(READ(memory, store, jnp.array([x, 0.0])).confidence[0]) for x in (0, 0.1, 1, 10)]
    np.testing.assert_allclose(found, [1, 0.1 / 0.11, 0.1 / 1.1, 0.1 / 100.1], rtol=1e-6)


def test_uniform_weights_the_nearest_alike():
    memory = made(uniform=True)
    read = READ(memory, written(memory, block(KEYS, ACTIONS, VALUES)), QUERY)
    np.testing.assert_allclose(read.weights[0], [[0.5, 0.5], [1, 0]])
    np.testing.assert_allclose(read.q, [1.5, 5])


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_shuffled_entries_have_the_values_of_other_live_ones(count):
    memory = made(capacity=32, neighbours=1, shuffle=True)
    keys = np.arange(2.0 * count).reshape(count, 2)
    store = written(memory, block(keys, np.zeros(count), np.arange(count) + 1.0))
    found = np.array([float(READ(memory, store, jnp.asarray(key, jnp.float32)).q[0]) for key in keys])
    assert set(found) <= set(range(1, count + 1))
    assert (found != np.arange(count) + 1).all()


def test_offered_actions_are_read_by_their_features():
    memory = made(offered=1, capacity=8, neighbours=1)
    store = written(memory, block([[0, 0], [0, 0]], [0, 1], [3.0, 4], features=[[1.0], [2.0]]))
    read = READ(memory, store, jnp.zeros(2), jnp.array([[2.0], [1.0], [2.0]]))
    np.testing.assert_allclose(read.q, [4, 3, 4])
    np.testing.assert_allclose(read.confidence, 1)
    for wrong in (None, jnp.zeros((2, 3))):
        with pytest.raises(SpaceError, match="was built for 1 features"):
            READ(memory, store, jnp.zeros(2), wrong)


# -- writing ---------------------------------------------------------------------------------------------------


def test_a_re_encounter_moves_the_value_and_overwrites_the_key():
    memory = made(alpha=0.25)
    store = written(memory, block([[0, 0]], [1], [8.0], hashes=[5]))
    store = written(memory, block([[1, 2]], [1], [4.0], hashes=[5]), store=store)
    assert int(store.live.sum()) == 1
    np.testing.assert_allclose(store.value[1, 0], 8 + 0.25 * (4 - 8))
    np.testing.assert_array_equal(store.key[1, 0], [1, 2])
    np.testing.assert_allclose(store.length[1, 0], 5)


def test_max_keeps_the_best_return():
    memory = made(update="max")
    store = written(memory, block([[0, 0]] * 3, [0] * 3, [1.0, 7, 3], hashes=[5] * 3))
    assert float(store.value[0, 0]) == 7
    store = written(memory, block([[0, 0]], [0], [6.0], hashes=[5]), store=store)
    assert float(store.value[0, 0]) == 7


def test_what_is_not_finite_is_refused_and_counted():
    memory = made()
    keys = [[0, np.nan], [1, 1], [2, 2], [3, 3]]
    store = written(memory, block(keys, [0, 0, 0, 7], [1.0, np.inf, 3, 4], hashes=[1, 2, 3, 4]))
    assert int(store.refused) == 3
    assert int(store.clock) == int(store.live.sum()) == 1
    assert int(written(memory, block(keys, [0] * 4, [1.0] * 4), keep=[False] * 4).refused) == 0


@pytest.mark.parametrize("kernel", ["inverse-distance", "dot", "scaled-dot"])
def test_a_weight_tells_what_its_entry_changes(kernel: str):
    """Q without entry i is q + w_i (q - v_i) / (1 - w_i), as read from a memory into which i was never written."""
    memory = made(kernel=kernel, capacity=16, neighbours=8)
    generator = np.random.default_rng(0)
    keys, values = generator.normal(size=(5, 2)), generator.normal(size=5)
    read = READ(memory, written(memory, block(keys, [0] * 5, values)), QUERY)
    q, order = read.q[0], read.entries[0, 0, :5]
    weights = np.empty(5)
    weights[order] = read.weights[0, 0, :5]
    for left_out in range(5):
        store = written(memory, block(keys, [0] * 5, values), keep=np.arange(5) != left_out)
        expected = q + weights[left_out] * (q - values[left_out]) / (1 - weights[left_out])
        np.testing.assert_allclose(READ(memory, store, QUERY).q[0], expected, atol=1e-5)


# -- settings --------------------------------------------------------------------------------------------------


def test_the_spec_round_trips_through_json():
    spec = EpisodicSpec(kernel="dot", eviction="merge", capacity=77)
    assert specs.from_json(EpisodicSpec, json.loads(json.dumps(specs.to_json(spec)))) == spec
    assert registry.find("external", "episodic") is EpisodicSpec


@pytest.mark.parametrize(
    "numbers, words",
    [
        ({"neighbours": 9}, "neighbours = 9 is more than external.capacity = 8"),
        ({"neighbours": 5}, "more than the 4 entries that each of 2 actions has"),
        ({"kernel": "multi-head", "heads": 3}, "external.heads = 3 does not divide"),
        ({"alpha": 0.0}, "alpha = 0.0 is out of range"),
        ({"delta": 0.0}, "delta = 0.0 is out of range"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(numbers, words):
    with pytest.raises(SpecError, match=words):
        made(**numbers)


# -- the contract ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_keeps_the_contract(kernel):
    check_external(made(5, 3, capacity=30, neighbours=4, kernel=kernel, heads=5), 5, 3)


@pytest.mark.parametrize("eviction", EVICTIONS)
def test_every_eviction_keeps_the_contract_with_offered_actions(eviction):
    memory = made(5, 3, 2, capacity=20, neighbours=4, eviction=eviction)
    check_external(memory, 5, 3, offered=2, spec=memory.chosen)


@pytest.mark.parametrize("control", ["uniform", "shuffle"])
def test_controls_keep_the_contract(control):
    check_external(made(5, 3, capacity=30, neighbours=4, **{control: True}), 5, 3)


def sized(kind: str) -> Any:
    """A small spec of a kind."""
    sizes = {"capacity": 60, "neighbours": 4, "size": 5, "codes": 4, "every": 10}
    spec = registry.find("external", kind)
    return spec(**{name: size for name, size in sizes.items() if name in spec.__dataclass_fields__})


@pytest.mark.parametrize("kind", own("external"))
def test_every_kind_keeps_the_contract(kind):
    spec = sized(kind)
    check_external(spec.build(6, 3, 0, jax.random.PRNGKey(3)), 6, 3, spec=spec)


@pytest.mark.parametrize("kind", ["episodic", "chunked", "product-key"])
def test_every_kind_that_takes_features_keeps_the_contract_with_offered_actions(kind):
    spec = sized(kind)
    check_external(spec.build(4, 3, 2, jax.random.PRNGKey(3)), 4, 3, spec=spec, offered=2)


def test_kinds_can_do_what_their_specs_say():
    able = {kind: sized(kind) for kind in own("external")}
    assert {kind for kind, spec in able.items() if not spec.present} == {"none"}
    assert {kind for kind, spec in able.items() if spec.one_step} == {"graph"}
    assert {kind for kind, spec in able.items() if spec.refreshes} == {"episodic", "votes"}
    assert not EpisodicSpec(eviction="merge").refreshes
    assert {kind for kind, spec in able.items() if "successor" in spec.keeps} == {"episodic", "chunked", "votes"}


def test_a_fetch_is_what_was_written():
    memory = made(capacity=16, offered=1)
    kept = {"observation": {"image": jnp.zeros((2, 2), jnp.uint8)}, "reward": jnp.zeros(())}
    entries = block([[1, 2], [3, 4]], [0, 1], [5.0, 6], features=[[7.0], [8]], errors=[0.5, -0.5])
    seen = {"image": jnp.arange(8, dtype=jnp.uint8).reshape(2, 2, 2)}
    entries = Entries(**vars(entries) | {"observation": seen, "reward": jnp.array([9.0, 10])})
    store = written(memory, entries, store=memory.init(kept))
    found = jax.jit(memory.fetch)(store, jnp.array([1, -1, 0]))
    expected = jax.tree.map(lambda x: jnp.stack([x[1], jnp.zeros_like(x[0]), x[0]]), entries)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert memory.holds(store, jnp.array([1, -1, 0, 2])).tolist() == [True, False, True, False]
    assert int(store.held) == 2


def test_a_column_that_a_kind_cannot_keep_is_refused():
    with pytest.raises(SpecError, match="external=product-key was asked to keep 'reward', but can keep no column"):
        sized("product-key").build(6, 3, 0, jax.random.PRNGKey(3)).init({"reward": jnp.zeros(())})


def test_no_memory_keeps_the_contract():
    check_external(NoExternal(3), 5, 3, spec=NoExternalSpec())


class Broken(eqx.Module):
    """An episodic memory with one fault."""

    inner: Episodic
    fault: str = eqx.field(static=True)

    @property
    def capacity(self):
        return self.inner.capacity

    def init(self, kept=None):
        if self.fault == "keeps anything":
            kept = {name: example for name, example in (kept or {}).items() if name != "no such column"}
        if self.fault == "keeps nothing":
            kept = {name: example for name, example in (kept or {}).items() if name == "no such column"}
        return self.inner.init(kept)

    def fetch(self, store, ids):
        found = self.inner.fetch(store, jnp.maximum(ids, 0) if self.fault == "fetches nothing" else ids)
        if self.fault == "fetches another":
            return eqx.tree_at(lambda found: found.value, found, found.value + 1)
        return found

    def holds(self, store, ids):
        return ids < self.capacity if self.fault == "holds nothing" else self.inner.holds(store, ids)

    def rekey(self, store, ids, embeddings):
        if self.fault == "old key":
            return store
        where = ids // self.inner.places, ids % self.inner.places
        if self.fault == "not finite key":
            return eqx.tree_at(lambda store: store.key, store, store.key.at[where].set(embeddings))
        return self.inner.rekey(store, ids, embeddings)

    def write(self, store, entries, keep):
        if self.fault == "keeps all":
            keep = jnp.ones_like(keep)
        if self.fault == "shape":
            return eqx.tree_at(lambda store: store.value, store, store.value[:, :1])
        written = self.inner.write(store, entries, keep)
        if self.fault == "not finite":
            return eqx.tree_at(lambda store: store.value, written, written.value + 0 * entries.value.sum())
        return written

    def touch(self, store, entries, weights):
        if self.fault == "touches nothing":
            return eqx.tree_at(lambda store: store.attention, store, store.attention.at[0, entries].add(weights))
        return self.inner.touch(store, entries, weights)

    def read(self, store, query, offered=None):
        read = self.inner.read(store, query, offered)
        broken = {
            "weights": lambda: {"weights": read.weights * 0.5},
            "confidence": lambda: {"confidence": read.confidence * 3},
            "empty": lambda: {"confidence": jnp.ones_like(read.confidence)},
            "unknown": lambda: {"entries": read.entries - 2},
            "twice": lambda: {"entries": jnp.where(read.entries >= 0, 1, -1)},
            "gradient": lambda: {"q": read.q + store.value.sum()},
            "actions": lambda: {"q": read.q[:1]},
        }.get(self.fault, dict)
        changed = broken()  # tree_at, for shapes that the constructor would not take
        return eqx.tree_at(lambda read: [getattr(read, name) for name in changed], read, list(changed.values()))


@pytest.mark.parametrize(
    "fault, words",
    [
        ("keeps all", "not to be kept left a trace"),
        ("shape", "`write` made a store of"),
        ("not finite", "that was not finite got into"),
        ("touches nothing", "left a trace"),
        ("weights", "sum to neither 1 nor 0"),
        ("confidence", "expected numbers from 0 to 1"),
        ("empty", "is not 0 for an action of which nothing is known"),
        ("unknown", "below -1"),
        ("twice", "the same entry twice"),
        ("gradient", "a gradient reaches"),
        ("actions", "q, confidence and vector have shapes"),
        ("fetches another", "`fetch` gives another 'value'"),
        ("fetches nothing", "for -1, which stands for nothing"),
        ("holds nothing", "`holds` of its id and of -1"),
        ("keeps anything", "`init` keeps a column that is not in `keeps`"),
        ("keeps nothing", "which `init` was asked for"),
        ("old key", "after `rekey` a key is not the fresh one"),
        ("not finite key", "changed where the fresh one is not finite"),
    ],
)
def test_a_broken_memory_is_told_what_it_breaks(fault, words):
    inner = made(4, 2, capacity=60, neighbours=3)
    with pytest.raises(ContractFault, match=words):
        check_external(Broken(inner, fault), 4, 2, spec=inner.chosen)


@pytest.mark.parametrize(
    ("abilities", "words"),
    [
        ({"present": 1}, "the spec has no 'present' of type bool"),
        ({"keeps": {"reward"}}, "the spec has no 'keeps' of type frozenset"),
        ({"keeps": frozenset({"rewards"})}, "`keeps` has 'rewards'"),
        ({"refreshes": True}, "does not keep 'observation'"),
    ],
)
def test_a_spec_without_abilities_is_told_which(abilities, words):
    fine = {"present": True, "keeps": frozenset(), "one_step": False, "refreshes": False}
    spec = type("Spec", (), {"build": EpisodicSpec.build, **fine, **abilities})()
    with pytest.raises(ContractFault, match=words):
        check_external(made(4, 2, capacity=60, neighbours=3), 4, 2, spec=spec)


# -- the container, against a model in plain Python --------------------------------------------------------------


class Model:
    """What a store should hold: lists of places, each None or a dictionary; blocks taken one entry at a time."""

    def __init__(self, tables: int, places: int, rule: Rule):
        self.rule, self.places = rule, places
        self.rows: list[list[dict | None]] = [[None] * places for _ in range(tables)]
        self.cursor, self.clock = [0] * tables, 0

    def live(self) -> dict[int, dict]:
        flat = [row for table in self.rows for row in table]
        return {number: row for number, row in enumerate(flat) if row is not None}

    def update(self, row: dict, one: dict) -> None:
        """A re-encounter."""
        value = row["value"] + self.rule.alpha * (one["value"] - row["value"])
        row["value"] = max(row["value"], one["value"]) if self.rule.update == "max" else value
        row |= {name: one[name] for name in ("td_error", "written")} | {"latest": one["key"]}

    def write(self, block: list[dict]) -> None:
        fresh: dict[tuple, dict] = {}
        for one in block:
            self.clock += 1
            one = one | {"written": self.clock, "read": 0, "attention": 0.0, "count": 1}
            name = one["table"], one["hash"]
            known = next((row for row in self.rows[one["table"]] if row and row["hash"] == one["hash"]), None)
            if known or name in fresh:
                self.update(known or fresh[name], one)
            else:
                fresh[name] = one
        for row in [*self.live().values(), *fresh.values()]:
            if "latest" in row:  # the key is the last one's, or moves once towards it where several were merged
                row["key"] = row["key"] + (row.pop("latest") - row["key"]) / row["count"]
        for table, rows in enumerate(self.rows):
            self.place(table, rows, [one for one in fresh.values() if one["table"] == table])

    def place(self, table: int, rows: list[dict | None], new: list[dict]) -> None:
        if self.rule.eviction == "oldest":
            for one in new:
                rows[self.cursor[table]] = one
                self.cursor[table] = (self.cursor[table] + 1) % self.places
            return
        free = [place for place, row in enumerate(rows) if row is None]
        if self.rule.eviction == "merge":
            for place, one in zip(free, new, strict=False):
                rows[place] = one
            self.merge(rows, new[len(free) :])
            return
        order = sorted(range(self.places), key=lambda place: (rows[place] is not None, self.worth(rows[place]), place))
        for place, one in zip(order, new[-self.places :], strict=False):
            rows[place] = one

    def merge(self, rows: list[dict | None], new: list[dict]) -> None:
        before = [row["key"] for row in rows if row]
        for one in new:
            distances = [((key - one["key"]) ** 2).sum() for key in before]
            row: Any = rows[int(np.argmin(distances))]
            for name in ("key", "value", "td_error"):
                row[name] = (row["count"] * row[name] + one[name]) / (row["count"] + 1)
            row |= {"count": row["count"] + 1, "written": max(one["written"], row["written"])}

    def worth(self, row: dict | None) -> float:
        if row is None:
            return 0
        return {
            "least-read": max(row["read"], row["written"]),
            "least-attended": (row["attention"] + 1) / (self.clock - row["written"] + self.places * len(self.rows)),
            "least-surprising": abs(row["td_error"]),
        }[self.rule.eviction]

    def touch(self, number: int, weight: float) -> None:
        row = self.live().get(number)
        if row:
            row |= {"read": self.clock, "attention": row["attention"] + weight}


TOUCH = jax.jit(lambda memory, store, ids, weights: memory.touch(store, ids, weights))
FIND = jax.jit(find)
SIZE = 5  # of a block, and more than the places of a table
entry = st.tuples(st.integers(0, 7), st.integers(0, 1), st.integers(-8, 8), st.booleans())
steps = st.lists(
    st.tuples(st.lists(entry, min_size=SIZE, max_size=SIZE), st.lists(st.integers(-1, 7), min_size=3, max_size=3)),
    min_size=1,
    max_size=6,
)


def agree(store: Any, model: Model) -> None:
    """Every live entry is as the model has it, and is the one that its hash finds; no other hash finds anything."""
    live = model.live()
    assert np.flatnonzero(store.live).tolist() == sorted(live)
    for name in ("key", "value", "td_error", "written", "read", "attention", "count"):
        column = np.asarray(getattr(store, name)).reshape(store.capacity, -1)
        for number, row in live.items():
            np.testing.assert_allclose(column[number], row[name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(store.length, (store.key**2).sum(-1), rtol=1e-6)
    assert int(store.clock) == model.clock
    pairs = [(hashed, action) for hashed in range(8) for action in range(len(model.rows))]
    expected = {(row["hash"], row["table"]): number for number, row in live.items()}
    found = FIND(store, jnp.array([[h, 7] for h, _ in pairs], jnp.uint32), jnp.array([a for _, a in pairs], jnp.int32))
    assert found.tolist() == [expected.get(pair, -1) for pair in pairs]


@pytest.mark.parametrize("update", ["tabular", "max"])
@pytest.mark.parametrize("eviction", EVICTIONS)
@settings(max_examples=20)
@given(steps=steps, seed=st.integers(0, 9))
def test_a_store_does_what_a_list_of_entries_does(eviction, update, steps, seed):
    """Every entry is in one bucket, whose ways are just enough: nothing that is out of date may block them."""
    numbers = dict(eviction=eviction, update=update, alpha=0.5)
    memory = made(capacity=8, **numbers)
    store, model = memory.init(), Model(2, 4, Rule(update, 0.5, eviction))
    store = eqx.tree_at(lambda store: store.index, store, store.index[:1])
    generator = np.random.default_rng(seed)
    for rows, reads in steps:
        hashes, actions, values, keep = zip(*rows, strict=True)
        keys, errors = generator.normal(size=(SIZE, 2)).astype(np.float32), generator.normal(size=SIZE)
        store = written(memory, block(keys, actions, values, hashes, errors=errors), keep, store)
        names = ("key", "table", "value", "hash", "td_error", "keep")
        lists = zip(keys, actions, values, hashes, errors.astype(np.float32), keep, strict=True)
        model.write([one for one in (dict(zip(names, row, strict=True)) for row in lists) if one.pop("keep")])
        agree(store, model)
        weights = generator.integers(0, 8, 3) / 8
        store = TOUCH(memory, store, jnp.array(reads, jnp.int32), jnp.asarray(weights, jnp.float32))
        for number, weight in zip(reads, weights, strict=True):
            model.touch(number, weight)


def test_ways_that_run_out_forget_where_an_entry_is_but_not_the_entry():
    memory = made(capacity=32, actions=1)
    store = memory.init()
    store = eqx.tree_at(lambda store: store.index, store, store.index[:1])
    count = 20
    for row in range(count):
        store = written(memory, block([[row, 0]], [0], [1.0], hashes=[row]), store=store)
    found = FIND(store, jnp.array([[row, 7] for row in range(count)], jnp.uint32), jnp.zeros(count, jnp.int32))
    assert int(store.live.sum()) == count
    assert ((found == -1) | (found == jnp.arange(count))).all()
    assert int((found >= 0).sum()) == WAYS


# -- what it costs -----------------------------------------------------------------------------------------------


def products(jaxpr: Any) -> list[Any]:
    """Every product of matrices in a program."""
    inner = [products(sub) for eqn in jaxpr.eqns for sub in jax.extend.core.jaxprs_in_params(eqn.params)]
    return [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"] + [eqn for sub in inner for eqn in sub]


@pytest.mark.parametrize("offered", [0, 2])
def test_a_batch_of_queries_is_one_product_with_the_keys(offered):
    memory = made(4, 3, offered, capacity=300)
    given = jnp.zeros((32, 3, offered)) if offered else None
    read = jax.vmap(lambda store, query, given: memory.read(store, query, given), (None, 0, 0))
    found = products(jax.make_jaxpr(read)(memory.init(), jnp.zeros((32, 4)), given).jaxpr)
    large = [eqn for eqn in found if any(300 in var.aval.shape for var in eqn.invars)]
    assert len(large) == 1
    assert large[0].params["dimension_numbers"][1] == ((), ())  # no batch of products


@pytest.mark.parametrize("eviction", EVICTIONS)
def test_writing_copies_no_table(eviction):
    memory = made(16, 2, capacity=5000, eviction=eviction)
    entries = block(np.zeros((8, 16)), [0] * 8, [0.0] * 8)
    program = jax.jit(lambda store, entries, keep: memory.write(store, entries, keep), donate_argnums=0)
    text = program.lower(memory.init(), entries, jnp.ones(8, bool)).compile().as_text()
    copies = [line for line in text.splitlines() if " copy(" in line and "f32[2,2500,16]" in line]
    assert not copies
