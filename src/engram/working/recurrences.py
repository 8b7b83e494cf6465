"""Recurrences as functions of arrays: what a layer of a working memory repeats along time, and how its gradient is got.

Each goes through a window row by row (or chunk by chunk), because on a processor that is faster than an associative
scan: the state stays in the cache, and what can be one large matrix product is taken out of the loop. Gradients are
written by hand where automatic ones would keep, or add up, a matrix per row.

`is_first` empties the state before a row is read.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

State = tuple[Array, ...]
# Rows of a loop that are compiled as one piece: more hide its overhead, and take longer to compile.
ROWS_AT_ONCE = 4


# -- h' = a * h + b ----------------------------------------------------------------------------------------


@jax.custom_vjp
def diagonal(
    decay: Float[Array, "time state"], inputs: Float[Array, "time state"], initial: Float[Array, "state"]
) -> Float[Array, "time state"]:
    """h_t = decay_t * h_{t-1} + inputs_t, elementwise, for all t; h_{-1} is `initial`. A decay of 0 forgets.

    The gradient is the same recurrence backwards: g_t = dL/dh_t + decay_{t+1} * g_{t+1} is that of `inputs`, and
    g_t * h_{t-1} that of `decay`.
    """
    return _diagonal(decay, inputs, initial)


def _diagonal(decay: Array, inputs: Array, initial: Array, reverse: bool = False) -> Array:
    def row(state: Array, given: State) -> tuple[Array, Array]:
        state = given[0] * state + given[1]
        return state, state

    return jax.lax.scan(row, initial, (decay, inputs), reverse=reverse, unroll=ROWS_AT_ONCE)[1]


def _diagonal_forward(decay: Array, inputs: Array, initial: Array) -> tuple[Array, State]:
    states = _diagonal(decay, inputs, initial)
    return states, (decay, states, initial)


def _diagonal_backward(kept: State, slope: Array) -> State:
    decay, states, initial = kept
    later = jnp.concatenate([decay[1:], jnp.zeros_like(decay[:1])])
    slope = _diagonal(later, slope, jnp.zeros_like(initial), reverse=True)
    return slope * _before(states, initial), slope, decay[0] * slope[0]


diagonal.defvjp(_diagonal_forward, _diagonal_backward)


def _before(states: Float[Array, "time *state"], initial: Float[Array, "*state"]) -> Float[Array, "time *state"]:
    """What each row found: the state after the row before it."""
    return jnp.concatenate([initial[None], states[:-1]])


# -- h' = keep * lambda * h + b, complex, in real numbers --------------------------------------------------------


@jax.custom_vjp
def rotating(
    factor: Float[Array, "2 state"],
    keep: Float[Array, "time"],
    inputs: Float[Array, "time 2 state"],
    initial: Float[Array, "2 state"],
) -> Float[Array, "time 2 state"]:
    """h_t = keep_t * factor * h_{t-1} + inputs_t with complex numbers as (real, imaginary); h_{-1} is `initial`.

    `keep` is 0 where the state is emptied, else 1, and has no gradient. Backwards the factor is its conjugate.
    """
    return _rotating(factor, keep, inputs, initial)


def _rotating(factor: Array, keep: Array, inputs: Array, initial: Array, reverse: bool = False) -> Array:
    def row(state: Array, given: State) -> tuple[Array, Array]:
        state = given[0] * _times(factor, state) + given[1]
        return state, state

    return jax.lax.scan(row, initial, (keep, inputs), reverse=reverse, unroll=ROWS_AT_ONCE)[1]


def _times(left: Float[Array, "*time 2 state"], right: Float[Array, "*time 2 state"]) -> Float[Array, "*time 2 state"]:
    """The product of complex numbers."""
    a, b, c, d = left[..., 0, :], left[..., 1, :], right[..., 0, :], right[..., 1, :]
    return jnp.stack([a * c - b * d, a * d + b * c], axis=-2)


def _conjugate(number: Float[Array, "*time 2 state"]) -> Float[Array, "*time 2 state"]:
    return number * jnp.array([[1.0], [-1.0]])


def _rotating_forward(factor: Array, keep: Array, inputs: Array, initial: Array) -> tuple[Array, State]:
    states = _rotating(factor, keep, inputs, initial)
    return states, (factor, keep, states, initial)


def _rotating_backward(kept: State, slope: Array) -> tuple[Array | None, ...]:
    factor, keep, states, initial = kept
    later = jnp.concatenate([keep[1:], jnp.zeros_like(keep[:1])])
    slope = _rotating(_conjugate(factor), later, slope, jnp.zeros_like(initial), reverse=True)
    found = keep[:, None, None] * _before(states, initial)
    return (
        _times(slope, _conjugate(found)).sum(0),
        jnp.zeros_like(keep),
        slope,
        keep[0] * _times(_conjugate(factor), slope[0]),
    )


rotating.defvjp(_rotating_forward, _rotating_backward)


# -- h' = f(h W, x, h) -------------------------------------------------------------------------------------

Transition = Callable[[Array, Array, State], State]  # (h W, inputs, state) -> state, elementwise


def dense(
    transition: Transition,
    weight: Float[Array, "hidden gates"],
    inputs: Float[Array, "time gates"],
    is_first: Bool[Array, "time"],
    initial: State,
) -> State:
    """All states of state_t = transition(state_{t-1}[0] @ weight, inputs_t, state_{t-1}).

    `inputs` already holds the products with their own weights, from one matrix product over the window. The gradient of
    `weight` is one matrix product as well, by way of `products` below. Automatic differentiation would add it up row by
    row, and so read and write all weights at every row.
    """
    fixed = jax.lax.stop_gradient(weight)
    states = _dense(transition, *jax.lax.stop_gradient((weight, inputs, is_first, initial)))
    found = _found(is_first, initial, states)
    products = jax.lax.stop_gradient(found[0]) @ weight
    return _attached(transition, fixed, products, inputs, is_first, initial, states)


def _dense(transition: Transition, weight: Array, inputs: Array, is_first: Array, initial: State) -> State:
    def row(state: State, given: State) -> tuple[State, State]:
        state = tuple(jnp.where(given[1], 0.0, part) for part in state)
        state = transition(state[0] @ weight, given[0], state)
        return state, state

    return jax.lax.scan(row, initial, (inputs, is_first))[1]


def _found(is_first: Bool[Array, "time"], initial: State, states: State) -> State:
    pairs = zip(states, initial, strict=True)
    return tuple(jnp.where(is_first[:, None], 0.0, _before(part, start)) for part, start in pairs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attached(
    transition: Transition,  # noqa: ARG001
    weight: Array,  # noqa: ARG001
    products: Array,  # noqa: ARG001
    inputs: Array,  # noqa: ARG001
    is_first: Array,  # noqa: ARG001
    initial: State,  # noqa: ARG001
    states: State,
) -> State:
    """The states, with the gradient of having made each from products_t, inputs_t and the state before."""
    return states


def _attached_forward(_: Transition, *given: Any) -> tuple[State, tuple]:
    return given[-1], given


def _attached_backward(transition: Transition, kept: tuple, slopes: State) -> tuple:
    weight, products, inputs, is_first, initial, states = kept

    def row(slope: State, given: tuple) -> tuple[State, State]:
        product, inputs, first, state, outer = given
        back = jax.vjp(transition, product, inputs, state)[1]
        of_product, of_inputs, of_state = back(tuple(a + b for a, b in zip(slope, outer, strict=True)))
        of_state = (of_state[0] + of_product @ weight.T, *of_state[1:])
        return tuple(jnp.where(first, 0.0, part) for part in of_state), (of_product, of_inputs)

    start = jax.tree.map(jnp.zeros_like, initial)
    given = (products, inputs, is_first, _found(is_first, initial, states), slopes)
    of_initial, (of_products, of_inputs) = jax.lax.scan(row, start, given, reverse=True)
    return None, of_products, of_inputs, None, of_initial, None


_attached.defvjp(_attached_forward, _attached_backward)


# -- S' = decay * S + u k^T: fast weights ----------------------------------------------------------------------


def fast_weights(
    queries: Float[Array, "time heads keys"],
    keys: Float[Array, "time heads keys"],
    values: Float[Array, "time heads values"],
    rate: Float[Array, "time heads"] | None,
    log_decay: Float[Array, "time heads"] | None,
    is_first: Bool[Array, "time"],
    initial: Float[Array, "heads values keys"],
    chunk: int,
) -> tuple[Float[Array, "heads values keys"], Float[Array, "time heads values"]]:
    """A matrix per head that is written and read at every row; the last one, and what was read.

        S_t = a_t S_{t-1} + u_t k_t^T,      o_t = S_t q_t,      a_t = exp(log_decay_t), 1 without `log_decay`
        u_t = v_t                                               without `rate`: the sum of outer products
        u_t = rate_t (v_t - a_t S_{t-1} k_t)                    the delta rule: corrects what the key gives already

    Within a chunk of rows the u_t are the solution of a triangular system, and everything else is matrix products;
    only the matrices between chunks are kept for the gradient, and the insides of a chunk are computed again.

    Args:
      rate: 0 to 2. With keys of length 1, |1 - rate| <= 1 keeps the matrix bounded.
      log_decay: at most 0.
      chunk: rows per chunk. Memory is one matrix per chunk, and chunk^2 numbers inside one.

    Source: Schlag et al. 2021 (arXiv 2102.11174), eq. 19-24 for the delta rule; Yang et al. 2024 (arXiv 2412.06464),
    eq. 10 for the decay. Solving for the u_t directly is our form of their section 3.3.
    """
    time = queries.shape[0]
    chunk = min(chunk, time)
    ones = jnp.ones(keys.shape[:2])
    rows = (queries, keys, values, ones if rate is None else rate, 0.0 * ones if log_decay is None else log_decay)

    block = jax.checkpoint(partial(_heads, delta=rate is not None))
    if chunk == time:
        return block(initial, (*rows, is_first))
    # Rows that fill the last chunk up write nothing: their keys are 0, and their decay is 1.
    chunked = jax.tree.map(lambda x: _chunks(x, chunk), (*rows, is_first))
    state, read = jax.lax.scan(block, initial, chunked)
    return state, read.reshape(-1, *read.shape[2:])[:time]


def _chunks(x: Array, chunk: int) -> Array:
    missing = -x.shape[0] % chunk
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, chunk, *x.shape[1:])


def _heads(state: Float[Array, "heads values keys"], given: tuple[Array, ...], *, delta: bool) -> tuple[Array, Array]:
    """One chunk of every head."""
    one: Any = partial(_block, delta=delta)
    return jax.vmap(one, in_axes=(0, 1, 1, 1, 1, 1, None), out_axes=(0, 1))(state, *given)


def _block(
    state: Float[Array, "values keys"],
    queries: Float[Array, "time keys"],
    keys: Float[Array, "time keys"],
    values: Float[Array, "time values"],
    rate: Float[Array, "time"],
    log_decay: Float[Array, "time"],
    is_first: Bool[Array, "time"],
    *,
    delta: bool,
) -> tuple[Float[Array, "values keys"], Float[Array, "time values"]]:
    """One chunk of one head."""
    time = keys.shape[0]
    episode, total = jnp.cumsum(is_first), jnp.cumsum(log_decay)
    causal = jnp.arange(time)[:, None] >= jnp.arange(time)
    linked = causal & (episode[:, None] == episode)
    left = jnp.where(linked, jnp.exp(jnp.where(linked, total[:, None] - total, 0.0)), 0.0)  # of row j at row t
    from_start = jnp.where(episode == 0, jnp.exp(total), 0.0)  # of the state before the chunk
    written = values
    if delta:
        written = rate[:, None] * (values - from_start[:, None] * (keys @ state.T))
        if time > 1:
            matrix = rate[:, None] * left * (keys @ keys.T)
            written = _solve(matrix, written)
    read = from_start[:, None] * (queries @ state.T) + (left * (queries @ keys.T)) @ written
    return from_start[-1] * state + (left[-1][:, None] * written).T @ keys, read


def _solve(lower: Float[Array, "time time"], right: Float[Array, "time values"]) -> Float[Array, "time values"]:
    """x with (I + L) x = right, where L is what lies below the diagonal: forward substitution by halves.

    XLA's own triangular solve calls a library that, inside a loop and under `vmap`, can wait for ever for the very
    threads it runs on (JAX 0.10.2, two cores); and its batches are not matrix products.
    """
    time = right.shape[0]
    if time == 1:
        return right
    half = time // 2
    first = _solve(lower[:half, :half], right[:half])
    second = _solve(lower[half:, half:], right[half:] - lower[half:, :half] @ first)
    return jnp.concatenate([first, second])
