"""`votes` by hand: what neighbours did is worth their return, all else the margin less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.errors import SpecError
from engram.external.memory import Entries
from engram.external.votes import VotesSpec
from engram.testing import check_external

KEY = jax.random.PRNGKey(0)


def entries(keys, actions, values) -> Entries:
    count = len(keys)
    return Entries(
        key=jnp.asarray(keys, jnp.float32), action=jnp.asarray(actions, jnp.int32), features=jnp.zeros((count, 0)),
        value=jnp.asarray(values, jnp.float32), td_error=jnp.zeros(count),
        hash=jnp.stack([jnp.arange(count, dtype=jnp.uint32)] * 2, 1), origin=jnp.zeros((count, 3), jnp.int32),
    )  # fmt: skip


def test_neighbours_vote_by_their_distance():
    """The query is at distances 0, 1 and 2 (squared 0, 1, 4) of three entries, of which two are read."""
    memory = VotesSpec(capacity=8, neighbours=2, temperature=0.5, margin=0.2, half_confidence_distance=0.1).build(
        2, 4, 0, KEY
    )
    block = entries([[0, 0], [1, 0], [2, 0]], [3, 1, 0], [0.6, 0.9, 5.0])
    store = memory.write(memory.init(), block, jnp.ones(3, bool))
    read = memory.read(store, jnp.zeros(2))
    near = 1 / (1 + np.exp(-2))  # exp(0) beside exp(-1 / 0.5)
    mean = near * 0.6 + (1 - near) * 0.9
    expected = [mean - 0.2, mean - 0.2 * near, mean - 0.2, mean - 0.2 * (1 - near)]
    np.testing.assert_allclose(read.q, expected, rtol=1e-5)
    np.testing.assert_allclose(read.confidence, 1.0)
    np.testing.assert_array_equal(np.asarray(read.entries)[0, 2], [0, 1])
    far = memory.read(store, jnp.array([0.0, 0.3]))
    np.testing.assert_allclose(far.confidence, 0.1 / (0.09 + 0.1), rtol=1e-5)


def test_it_keeps_the_contract_of_external_memories():
    spec = VotesSpec(capacity=60, neighbours=3)
    check_external(spec.build(5, 3, 0, KEY), 5, 3, spec=spec)


def test_actions_on_offer_and_too_many_neighbours_are_refused():
    with pytest.raises(SpecError, match="use external=episodic"):
        VotesSpec().build(4, 3, 2, KEY)
    with pytest.raises(SpecError, match="more than external.capacity = 4"):
        VotesSpec(capacity=4)
