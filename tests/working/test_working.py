"""Working memories keep their contract, are the recurrences that they say they are, and can learn to remember."""

import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kinds import own

from engram import registry, specs
from engram.errors import SpecError
from engram.testing import ContractFault, check_working
from engram.working import fast_weights, history, memory, slots  # noqa: F401, they register them
from engram.working.fast_weights import FastWeightsSpec
from engram.working.gated import GRUSpec, LRUSpec, LSTMSpec, MinGRUSpec
from engram.working.history import HistorySpec, waves
from engram.working.memory import NoMemory, scan_steps
from engram.working.recurrences import dense, diagonal, rotating

KINDS = own("working")
INPUTS = 5
# Small enough that everything is exercised within a dozen rows: a window and chunks shorter than that, several heads.
SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "state": 6,
    "window": 5,
    "inner": 8,
    "heads": 2,
    "head_width": 4,
    "chunk": 5,
    "slots": 4,
}


def small(kind: str, **numbers: Any) -> Any:
    """The spec of a kind, in small."""
    spec = registry.find("working", kind)
    fields = spec.__dataclass_fields__
    return spec(**{name: value for name, value in SMALL.items() if name in fields} | numbers)


def built(spec: Any, inputs: int = INPUTS) -> Any:
    return spec.build(inputs, jax.random.PRNGKey(3))


def rows(count: int, inputs: int = INPUTS, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.PRNGKey(seed), (count, inputs))


def opening(count: int, *places: int) -> jax.Array:
    return jnp.array([row in places for row in range(count)])


def array(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# -- the contract, for every kind ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind):
    """Equal steps and unroll, resets, storable carries, float32 leaves, batches, gradients: see check_working."""
    check_working(built(small(kind)), INPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_spec_round_trips_through_json(kind):
    spec = small(kind)
    assert specs.from_json(type(spec), json.loads(json.dumps(specs.to_json(spec)))) == spec


@pytest.mark.parametrize("numbers", [{"rule": "sum"}, {"rule": "mean"}, {"rule": "delta", "writes": 2}], ids=str)
def test_every_rule_of_fast_weights_keeps_the_contract(numbers):
    check_working(built(small("fast-weights", **numbers)), INPUTS)


@pytest.mark.parametrize("kind", ["gru", "lru"])
def test_several_layers_keep_the_contract(kind):
    check_working(built(small(kind, layers=2)), INPUTS)


@pytest.mark.parametrize("numbers", [{"over": small("gru")}, {"over": small("lru"), "window": 20}])
def test_history_keeps_the_contract_over_a_recurrence(numbers):
    check_working(built(small("history", layers=1, **numbers)), INPUTS)


def test_history_with_a_clock_keeps_the_contract_and_tells_equal_steps_apart():
    check_working(built(small("history", clock=True)), INPUTS)
    equal = jnp.ones((4, INPUTS))
    for clock in (False, True):
        memory = built(small("history", clock=clock))
        read = UNROLL(memory, memory.init(), equal, opening(4, 0, 2))[1].vector
        assert np.allclose(read[0], read[1], atol=1e-5) != clock
        np.testing.assert_allclose(read[2:], read[:2], atol=1e-5)  # the clock starts anew with each episode


def test_waves_are_sines_and_cosines_from_short_to_long():
    found = waves(jnp.array([0, 3]), 4)
    np.testing.assert_allclose(found[0], [0, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found[1], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)], atol=1e-6)


def test_uniform_history_keeps_the_contract_and_ignores_content():
    built_memory = built(small("history", uniform=True, layers=1))
    check_working(built_memory, INPUTS, unreached=("position", "query_key_value.bias"))
    read = UNROLL(built_memory, built_memory.init(), rows(4), opening(4, 0))[1]
    np.testing.assert_allclose(read.weights[2, 0, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_two_modules_of_one_spec_have_the_same_structure(kind):
    """So trees of parameters, targets and moments can be mapped over each other."""
    first, second = small(kind).build(INPUTS, jax.random.PRNGKey(0)), small(kind).build(INPUTS, jax.random.PRNGKey(1))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    hash(jax.tree.structure(first))


# A few kinds with everything at once: any resets, any place where the window is cut in two.
@pytest.mark.parametrize("kind", ["lstm", "mingru", "lru", "fast-weights", "history", "slots"])
@settings(max_examples=25)
@given(resets=st.lists(st.booleans(), min_size=12, max_size=12), seed=st.integers(0, 5))
def test_unroll_equals_steps_with_resets_anywhere(kind, resets, seed):
    made, is_first, window = CACHED[kind], jnp.array(resets), rows(12, seed=seed)
    used = UNROLL(made, made.init(), window[::-1], opening(12))[0]
    expected, got = STEPS(made, used, window, is_first), UNROLL(made, used, window, is_first)
    # Sums in another order, repeated over 12 rows of numbers of order 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), expected, got)


CACHED = {kind: built(small(kind)) for kind in ("lstm", "mingru", "lru", "fast-weights", "history", "slots")}
UNROLL = jax.jit(lambda made, *given: made.unroll(*given))
STEPS = jax.jit(scan_steps)


@pytest.mark.parametrize("kind", ["gru", "fast-weights", "history", "slots"])
@pytest.mark.parametrize("cut", [1, 4, 11])
def test_a_window_in_two_pieces_is_one_window(kind, cut):
    made, window, is_first = built(small(kind)), rows(12), opening(12, 3)
    whole = UNROLL(made, made.init(), window, is_first)
    carry, first = UNROLL(made, made.init(), window[:cut], is_first[:cut])
    carry, second = UNROLL(made, carry, window[cut:], is_first[cut:])
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), whole, (carry, joined))


# -- what the contract test finds --------------------------------------------------------------------------------


class Faulty(eqx.Module):
    """A sum of inputs that breaks the contract in one way at a time."""

    weight: jax.Array
    fault: str = eqx.field(static=True)
    width: int = eqx.field(static=True, default=INPUTS)

    def init(self):
        return jnp.zeros(INPUTS, jnp.complex64 if self.fault == "carry" else jnp.float32)

    def step(self, carry, inputs, is_first):
        if self.fault != "forgets":
            carry = jnp.where(is_first, 0, carry)
        carry = carry + inputs
        weights = jnp.full((1, 1, 2), 0.4 if self.fault == "weights" else 0.5)
        entries = jnp.array([[[0, -1 if self.fault == "entries" else 1]]])
        scale = jnp.ones(()) if self.fault == "gradient" else self.weight.astype(jnp.float32)
        return carry, memory.MemoryRead(carry * scale, weights, entries)

    def unroll(self, carry, inputs, is_first):
        if self.fault == "unroll":
            is_first = is_first.at[-1].set(False)
        return scan_steps(self, carry, inputs, is_first)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("leaf", "'weight' is float16; expected a learned float32 array"),
        ("carry", "is complex64; expected an array of bool, int32, float32"),
        ("forgets", "what came before `is_first` is still remembered"),
        ("unroll", "`unroll` reads otherwise than steps do"),
        ("weights", "sum to neither 1 nor 0"),
        ("entries", "an entry of -1, which stands for nothing, has a weight"),
        ("gradient", "no gradient reaches 'weight'"),
    ],
)
def test_a_broken_memory_is_told_what_it_breaks(fault, said):
    check_working(Faulty(jnp.ones(()), "none"), INPUTS)
    weight = jnp.ones((), jnp.float16 if fault == "leaf" else jnp.float32)
    with pytest.raises(ContractFault, match=said):
        check_working(Faulty(weight, fault), INPUTS)


def test_no_memory_gives_back_its_input():
    read = NoMemory(2).step((), jnp.array([1.0, 2.0]), jnp.array(False))[1]
    assert read.vector.tolist() == [1.0, 2.0]
    assert read.weights.shape == (0, 1, 0)


# -- recurrences -------------------------------------------------------------------------------------------------


def test_diagonal_by_hand():
    """h = 0.5 h + x from 4: 0.5 * 4 + 1 = 3; forgotten, 2; 0.5 * 2 + 3 = 4."""
    states = diagonal(jnp.array([[0.5], [0.0], [0.5]]), jnp.array([[1.0], [2.0], [3.0]]), jnp.array([4.0]))
    assert states[:, 0].tolist() == [3.0, 2.0, 4.0]


def test_rotating_by_hand():
    """A factor of i turns 1 into i, i into -1; what is not kept is forgotten."""
    zeros, one = jnp.zeros((3, 2, 1)), jnp.array([[1.0], [0.0]])
    states = rotating(jnp.array([[0.0], [1.0]]), jnp.array([1.0, 1.0, 0.0]), zeros, one)
    assert states[:, :, 0].tolist() == [[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]


def _plain_diagonal(decay, inputs, initial):
    states = []
    for a, b in zip(decay, inputs, strict=True):
        initial = a * initial + b
        states.append(initial)
    return jnp.stack(states)


def _plain_rotating(factor, keep, inputs, initial):
    factor, state = jax.lax.complex(*factor), jax.lax.complex(*initial)
    states = []
    for k, b in zip(keep, inputs, strict=True):
        state = k * factor * state + jax.lax.complex(*b)
        states.append(jnp.stack([state.real, state.imag]))
    return jnp.stack(states)


def _tanh(product, given, state):
    return jnp.tanh(product[:3] + given[:3] + state[1]), state[1] * 0.9 + product[3:] * given[3:]


def _plain_dense(weight, inputs, is_first, initial):
    states = []
    for x, first in zip(inputs, is_first, strict=True):
        initial = jax.tree.map(lambda part: jnp.where(first, 0.0, part), initial)  # noqa: B023
        initial = _tanh(initial[0] @ weight, x, initial)
        states.append(initial)
    return jax.tree.map(lambda *parts: jnp.stack(parts), *states)


def _drawn(*shapes: tuple[int, ...]) -> list[jax.Array]:
    return [jax.random.normal(jax.random.PRNGKey(i), shape) for i, shape in enumerate(shapes)]


def _same_gradients(ours, plain, given):
    """Values and gradients of a weighted sum of all states, with respect to everything that is given."""

    def weighted(run):
        return lambda *given: sum(
            (part * jnp.cos(jnp.arange(part.size)).reshape(part.shape)).sum() for part in jax.tree.leaves(run(*given))
        )

    places = tuple(range(len(given)))
    expected, got = (jax.jit(jax.value_and_grad(weighted(run), places))(*given) for run in (plain, ours))
    # The same products, added up in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), expected, got)


def test_gradient_of_diagonal_is_that_of_its_definition():
    _same_gradients(diagonal, _plain_diagonal, _drawn((6, 3), (6, 3), (3,)))


def test_gradient_of_rotating_is_that_of_its_definition():
    keep = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    factor, inputs, initial = _drawn((2, 3), (6, 2, 3), (2, 3))
    ours = lambda factor, inputs, initial: rotating(factor, keep, inputs, initial)  # noqa: E731
    plain = lambda factor, inputs, initial: _plain_rotating(factor, keep, inputs, initial)  # noqa: E731
    _same_gradients(ours, plain, (factor, inputs, initial))


@pytest.mark.parametrize("places", [(), (0,), (2, 3)])
def test_gradient_of_dense_is_that_of_its_definition(places):
    is_first = opening(5, *places)
    weight, inputs, *initial = _drawn((3, 6), (5, 6), (3,), (3,))
    ours = lambda weight, inputs, *initial: dense(_tanh, weight, inputs, is_first, initial)  # noqa: E731
    plain = lambda weight, inputs, *initial: _plain_dense(weight, inputs, is_first, initial)  # noqa: E731
    _same_gradients(ours, plain, (weight, inputs, *initial))


# -- each kind against its formula, in NumPy and 64 bits ---------------------------------------------------------------


def _outputs(made: Any, window: jax.Array) -> np.ndarray:
    return array(UNROLL(made, made.init(), window, opening(len(window), 0))[1].vector)


def test_gru_is_the_usual_gru():
    made, window = built(GRUSpec(hidden_size=4)), rows(6)
    cell = made.cells[0]
    w, b, u = array(cell.weight.weight), array(cell.weight.bias), array(cell.recurrent).T
    h = np.zeros(4)
    for x, got in zip(array(window), _outputs(made, window), strict=True):
        r = sigmoid(w[:4] @ x + b[:4] + u[:4] @ h)
        z = sigmoid(w[4:8] @ x + b[4:8] + u[4:8] @ h)
        n = np.tanh(w[8:] @ x + b[8:] + r * (u[8:] @ h))
        h = (1 - z) * n + z * h
        np.testing.assert_allclose(got, h, atol=1e-6)  # 32 bits against 64


def test_lstm_is_the_usual_lstm():
    made, window = built(LSTMSpec(hidden_size=4)), rows(6)
    cell = made.cells[0]
    w, b, u = array(cell.weight.weight), array(cell.weight.bias), array(cell.recurrent).T
    h, c = np.zeros(4), np.zeros(4)
    for x, got in zip(array(window), _outputs(made, window), strict=True):
        i, f, o, g = np.split(w @ x + b + u @ h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(got, h, atol=1e-6)  # 32 bits against 64


def test_mingru_is_its_formula():
    made, window = built(MinGRUSpec(hidden_size=4)), rows(6)
    w, b = array(made.cells[0].weight.weight), array(made.cells[0].weight.bias)
    h = np.zeros(4)
    for x, got in zip(array(window), _outputs(made, window), strict=True):
        z = sigmoid(w[:4] @ x + b[:4])
        h = z * h + (1 - z) * (w[4:] @ x + b[4:])
        np.testing.assert_allclose(got, h, atol=1e-6)  # 32 bits against 64


def test_lru_is_its_formula_in_complex_numbers():
    made, window = built(LRUSpec(hidden_size=4, state=3)).cells[0], rows(6, 4)
    lam = np.exp(-np.exp(array(made.log_rate)) + 1j * np.exp(array(made.log_phase)))
    b = array(made.write[:3]) + 1j * array(made.write[3:])
    c = array(made.read[:, :3]) - 1j * array(made.read[:, 3:])
    h = np.zeros(3, complex)
    got = array(UNROLL(made, made.init(), window, opening(6, 0))[1])
    for x, y in zip(array(window), got, strict=True):
        h = lam * h + np.exp(array(made.log_gamma)) * (b @ x)
        np.testing.assert_allclose(y, (c @ h).real + array(made.skip) * x, atol=1e-5)  # 32 bits against 64


def test_lru_starts_on_the_ring_that_it_is_told():
    cell = built(LRUSpec(hidden_size=4, state=500, min_radius=0.9, max_radius=0.999)).cells[0]
    radius = np.exp(-np.exp(array(cell.log_rate)))
    assert 0.9 - 1e-5 < radius.min() < 0.905 < 0.995 < radius.max() < 0.999 + 1e-5  # 500 draws fill the range
    np.testing.assert_allclose(np.exp(array(cell.log_gamma)), np.sqrt(1 - radius**2), rtol=1e-2)  # 1 - r^2 is small


def _fast_weights(cell: Any, window: np.ndarray) -> list[np.ndarray]:
    """What a layer of fast weights gives, one head and one write at a time, by the rule itself."""
    heads, size, writes = cell.heads, cell.head_width, cell.writes
    state = np.zeros((heads, size + cell.averages, size))
    out = []
    for x in window:
        queries, keys, values, rate, decay = (array(part) for part in cell._split(cell.inward(jnp.asarray(x))[None]))
        read = np.zeros((heads, size))
        for head in range(heads):
            for write in range(writes):
                feature = _silu_unit if cell.delta else lambda x: 1 + np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
                k, q, v = feature(keys[write, head]), feature(queries[0, head]), values[write, head]
                v = np.append(v, 1.0) if cell.averages else v
                if cell.gated and write == 0:
                    state[head] = state[head] * sigmoid(decay[0, head])
                u = 2 * sigmoid(rate[write, head]) * (v - state[head] @ k) if cell.delta else v
                state[head] = state[head] + np.outer(u, k)
            found = state[head] @ q
            found = found[:-1] / (found[-1] + 1e-5) if cell.averages else found / np.sqrt((found**2).mean() + 1e-5)
            read[head] = found
        out.append(array(cell.outward.weight) @ read.reshape(-1) + array(cell.outward.bias))
    return out


def _silu_unit(x: np.ndarray) -> np.ndarray:
    x = x * sigmoid(x)
    return x / np.sqrt((x**2).sum() + 1e-6)


RULES = [{"rule": "sum"}, {"rule": "mean"}, {"rule": "delta"}, {"rule": "gated-delta"}]


@pytest.mark.parametrize("numbers", [*RULES, {"rule": "delta", "writes": 2}, {"writes": 2}], ids=str)
def test_fast_weights_are_written_one_after_another(numbers):
    """The chunked form is the rule, over chunks that do not divide the window."""
    cell = built(FastWeightsSpec(hidden_size=4, heads=2, head_width=3, chunk=4, **numbers)).cells[0]
    window = rows(10, 4)
    got = UNROLL(cell, cell.init(), window, opening(10, 0))[1]
    np.testing.assert_allclose(got, _fast_weights(cell, array(window)), atol=1e-4)  # a triangular system in 32 bits


def test_a_key_written_again_gives_its_last_value():
    """The delta rule with rate 1: keys e1, e2, e1 with values 1, 2, 3; then e1 gives 3 and e2 gives 2."""
    from engram.working.recurrences import fast_weights as written

    keys = jnp.eye(2)[jnp.array([0, 1, 0, 0, 1])][:, None]
    values = jnp.array([1.0, 2.0, 3.0, 0.0, 0.0])[:, None, None]
    rate = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])[:, None]
    read = written(keys, keys, values, rate, None, opening(5, 0), jnp.zeros((1, 1, 2)), 2)[1]
    np.testing.assert_allclose(read[:, 0, 0], [1, 2, 3, 3, 2], atol=1e-6)


# -- history -----------------------------------------------------------------------------------------------------


def test_history_names_the_steps_that_it_read():
    """Window of 3, episodes of 4 and 2 rows: each row sees itself and the two before it in its own episode."""
    made = built(small("history", window=3, layers=1, heads=2))
    read = UNROLL(made, made.init(), rows(6), opening(6, 0, 4))[1]
    assert read.entries.shape == (6, 2, 1, 3)
    expected = [[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [1, 2, 3], [-1, -1, 0], [-1, 0, 1]]
    assert read.entries[:, 1, 0].tolist() == expected
    known = np.array(expected) >= 0
    assert (array(read.weights[:, 0, 0])[~known] == 0).all()
    np.testing.assert_allclose(read.weights.sum(-1), 1, rtol=1e-6)


def test_history_attends_to_the_key_that_answers():
    """Queries and keys that only match between equal inputs put all weight on the earlier equal input."""
    made = built(HistorySpec(window=6, layers=1, heads=1, hidden_size=4, inner=4), 4)
    eye = jnp.eye(4)
    block = made.blocks[0]
    matrix = jnp.concatenate([30 * eye, 30 * eye, eye])
    made = eqx.tree_at(
        lambda m: (
            m.project.weight,
            m.project.bias,
            m.blocks[0].query_key_value.weight,
            m.blocks[0].query_key_value.bias,
        ),
        made,
        (eye, jnp.zeros(4), matrix, jnp.zeros(12)),
    )
    # The present row matches itself too; distance 0 is made impossible, as a learned position could.
    made = eqx.tree_at(lambda m: m.blocks[0].position, made, block.position.at[0, 0].set(-1e6))
    read = UNROLL(made, made.init(), eye[jnp.array([2, 0, 1, 3, 0])], opening(5, 0))[1]
    best = read.entries[-1, 0, 0, int(read.weights[-1, 0, 0].argmax())]
    assert best == 1
    assert read.weights[-1, 0, 0].max() > 0.99


def _plain_history(made: Any, window: np.ndarray, heads: int, reach: int) -> np.ndarray:
    """One layer for one episode, a row at a time, from all rows kept in a list."""

    def normal(x):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    def linear(layer, x):
        return array(layer.weight) @ x + array(layer.bias)

    block, keys, values, out = made.blocks[0], [], [], []
    for x in window:
        row = linear(made.project, x)
        q, k, v = np.split(linear(block.query_key_value, normal(row)), 3)
        keys, values = [*keys, k][-reach:], [*values, v][-reach:]
        read = []
        for part, bias in zip(np.split(np.arange(len(q)), heads), array(block.position), strict=True):
            ago = np.arange(len(keys))[::-1]
            scores = np.array([q[part] @ key[part] for key in keys]) / np.sqrt(len(part)) + bias[ago]
            weights = np.exp(scores - scores.max())
            read.append(weights / weights.sum() @ np.array([value[part] for value in values]))
        row = row + linear(block.outward, np.concatenate(read))
        row = row + linear(block.down, np.maximum(linear(block.up, normal(row)), 0))
        out.append(normal(row))
    return np.array(out)


@pytest.mark.parametrize("count", [3, 5, 12])
def test_history_is_plain_attention_over_a_list(count):
    """For windows of rows shorter than, as long as, and longer than what it looks back at."""
    made = built(small("history", layers=1))
    position = jax.random.normal(jax.random.PRNGKey(9), (2, 5))
    made = eqx.tree_at(lambda m: m.blocks[0].position, made, position)
    window = rows(count)
    np.testing.assert_allclose(_outputs(made, window), _plain_history(made, array(window), 2, 5), atol=1e-4)


def test_history_cannot_see_further_than_its_layers_reach():
    """Two layers with a window of 3 reach 4 steps back: an input 5 steps ago changes nothing, one 4 ago does."""
    made, window = built(small("history", window=3, layers=2)), rows(8)
    last = _outputs(made, window)[-1]
    for ago, same in ((5, True), (4, False)):
        changed = _outputs(made, window.at[7 - ago].add(1.0))[-1]
        assert np.array_equal(last, changed) == same


def test_training_does_not_pay_for_weights_that_nobody_reads(monkeypatch):
    """The compiled gradient costs the same if the weights in the read are not computed at all."""
    made, window = built(small("history")), rows(12)

    def loss(made):
        return made.unroll(made.init(), window, opening(12, 0))[1].vector.sum()

    def cost():
        compiled = jax.jit(jax.grad(lambda made: loss(made))).lower(made).compile()
        return compiled.cost_analysis(), compiled.memory_analysis().temp_size_in_bytes

    with_weights = cost()
    monkeypatch.setattr(history.Visible, "by_distance", lambda self, weights: jnp.zeros((12, 2, 1, 5)))
    assert cost() == with_weights


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(SpecError, match="working.heads = 3 does not divide working.hidden_size = 128"):
        HistorySpec(heads=3)


def test_radii_that_are_no_range_are_refused():
    with pytest.raises(SpecError, match="working.min_radius = 0.9 is not below working.max_radius = 0.8"):
        LRUSpec(max_radius=0.8)


# -- learning to remember ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        GRUSpec(hidden_size=16, horizon=20),
        LRUSpec(hidden_size=16, state=16),
        HistorySpec(window=32, layers=1, hidden_size=16, heads=2),
    ],
    ids=["gru", "lru", "history"],
)
def test_a_bit_shown_once_can_be_learned_to_be_told_20_steps_later(spec):
    """Row 0 has the bit, all others noise; a linear readout of row 20 must tell it."""
    made, steps, batch = built(spec, 2), 21, 64
    params = (made, jnp.zeros(made.width))
    optimizer = optax.adam(1e-2)

    def draw(key):
        bits_key, noise_key = jax.random.split(key)
        bits = jax.random.bernoulli(bits_key, shape=(batch,)) * 2.0 - 1.0
        noise = jax.random.normal(noise_key, (batch, steps, 2)) * jnp.array([0.0, 1.0])
        return bits, noise.at[:, 0, 0].set(bits)

    def score(params, window):
        made, readout = params
        vectors = made.unroll(made.init(), window, opening(steps, 0))[1].vector
        return vectors[-1] @ readout

    def loss(params, bits, windows):
        return jax.nn.softplus(-bits * jax.vmap(score, (None, 0))(params, windows)).mean()

    def update(state, key):
        params, moments = state
        slope = jax.grad(loss)(params, *draw(key))
        change, moments = optimizer.update(slope, moments)
        return (optax.apply_updates(params, change), moments), None

    @jax.jit
    def learn(params):
        keys = jax.random.split(jax.random.PRNGKey(0), 300)
        return jax.lax.scan(update, (params, optimizer.init(params)), keys)[0][0]

    bits, windows = draw(jax.random.PRNGKey(99))
    told = jax.jit(jax.vmap(score, (None, 0)))(learn(params), windows) * bits > 0
    assert told.all()  # a coin would have to fall right 64 times


def test_selectivity_scales_the_gates_of_mingru_and_nothing_else():
    """With selective gates one event is still there after 200 equal inputs; without, nearly nothing is."""
    plain, selective = (
        MinGRUSpec(hidden_size=64, horizon=1000, selectivity=s).build(3, jax.random.PRNGKey(0)) for s in (1.0, 40.0)
    )
    gates = jax.tree.leaves(plain)[0].shape[0] // 2
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(selective), strict=True):
        scale = 40.0 if one.ndim == 2 else 1.0
        np.testing.assert_allclose(other[:gates], scale * one[:gates], rtol=1e-6)
        np.testing.assert_array_equal(other[gates:], one[gates:])
    window = jnp.zeros((200, 3)).at[:, 0].set(0.3)
    kept = []
    for made in (plain, selective):
        ends = [
            UNROLL(made, made.init(), window.at[1, 1].set(cue), opening(200, 0))[1].vector[-1] for cue in (-1.0, 1.0)
        ]
        kept.append(float(jnp.abs(ends[1] - ends[0]).max()))
    assert kept[1] > 10 * kept[0]
