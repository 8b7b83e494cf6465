"""`engram.testing.check_encoder` passes what keeps the contract, and says what breaks it."""

from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from engram import spaces
from engram.encoders.vector import VectorSpec
from engram.nn.layers import Linear
from engram.testing import ContractFault, check_encoder
from engram.types import Encoding

MIXED = spaces.Dict((("a", spaces.Box((3, 2), "uint8")), ("b", spaces.Discrete(5)), ("c", spaces.Text(4, 7))))


@pytest.mark.parametrize("space", [spaces.Box((4,)), MIXED, spaces.MultiDiscrete((3, 9))], ids=["box", "dict", "many"])
def test_an_encoder_of_engrams_passes(space: spaces.Space):
    check_encoder(VectorSpec(widths=(8,)).build(space, 2, jax.random.PRNGKey(0)), space, 2)


class Broken(eqx.Module):
    """An encoder of 4 numbers, with a fault."""

    linear: Linear
    unused: jax.Array
    fault: str = eqx.field(static=True)
    width: int = eqx.field(static=True, default=3)

    def __call__(self, frames: jax.Array) -> Any:
        embedding = self.linear(frames[-1])
        embedding = {
            "width": lambda: embedding[:2],
            "nan": lambda: embedding / 0 - embedding / 0,
            "root": lambda: jnp.sqrt(0 * embedding + 0 * self.unused),
        }.get(self.fault, lambda: embedding + (0 if self.fault == "unused" else self.unused))()
        attention = {"shape": jnp.zeros(0), "sum": jnp.ones((1, 3))}.get(self.fault, jnp.zeros((0, 0)))
        made = SimpleNamespace if self.fault == "shape" else Encoding  # whose types are checked in tests
        return made(embedding=embedding, attention=attention)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("width", r"the embedding is float32\[2\], and `width` is 3; expected float32 numbers, and `width` to be how"),
        ("nan", "the embedding or attention is not finite; look for a division"),
        ("root", "the gradient of '.*' is not finite; look for a division or a root at 0"),
        ("unused", "no gradient reaches 'unused'; use it, or remove it"),
        ("shape", r"attention has shape \(0,\); expected \[heads parts\], which is \(0, 0\) without attention"),
        ("sum", "a head's attention is negative or sums to neither 1 nor 0"),
        ("leaf", "the leaf 'unused' is float16; expected a learned float32 array: make it one, or a static field"),
    ],
)
def test_a_fault_is_named(fault: str, sentence: str):
    key = jax.random.PRNGKey(0)
    unused = jnp.ones(3, jnp.float16) if fault == "leaf" else jnp.ones(3)
    with pytest.raises(ContractFault, match=sentence):
        check_encoder(Broken(Linear(4, 3, key=key), unused, fault), spaces.Box((4,)), seed=1)


def test_a_sound_one_of_the_same_kind_passes():
    check_encoder(Broken(Linear(4, 3, key=jax.random.PRNGKey(0)), jnp.ones(3), "none"), spaces.Box((4,)))


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"layout": "channel", "presence": -1}, "`layout` is 'channel'; expected one of numbers, channels, rows"),
        ({"layout": "rows", "presence": "id"}, "`presence` is 'id'; expected the index of a feature, or -1"),
        ({}, "the spec is not registered"),
    ],
)
def test_what_a_spec_declares_is_checked(declared: dict[str, Any], sentence: str):
    encoder = VectorSpec(widths=(8,)).build(spaces.Box((4,)), 1, jax.random.PRNGKey(0))
    with pytest.raises(ContractFault, match=sentence):
        check_encoder(encoder, spaces.Box((4,)), spec=SimpleNamespace(**declared))
