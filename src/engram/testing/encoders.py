"""The contract of encoders as a function: `check_encoder`."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.encoders.encoder import Layout
from engram.encoders.parts import Parts
from engram.testing.contracts import ContractFault, as_part, check_slopes


def check_encoder(
    encoder: Any,
    space: spaces.Space,
    stack: int = 1,
    *,
    spec: Any = None,
    seed: int = 0,
    tolerance: float = 1e-4,
    unreached: tuple[str, ...] = (),
) -> None:
    """Hold an encoder, built for observations of `space` of which `stack` come together, to its contract.

    Checked:

    - every leaf is a learned float32 array, or can be a constant;
    - the embedding is `width` finite float32 numbers;
    - attention is [heads parts], and a head's weights sum to 1 or 0;
    - a compiled batch gives the same;
    - gradients are finite and reach every leaf.

    Args:
      spec: what the encoder was built by. Its `layout`, `presence` and `parts` are then checked too.
      tolerance: how far a compiled batch may be from a single observation, relative to 1 + the value.
      unreached: names (or their ends) of leaves that need no gradient.

    Raises: ContractFault with the first thing that is wrong.
    """
    encoder = as_part(encoder)
    if spec is not None:
        _check_spec(spec)
    batch = observations(space, (8, stack), np.random.default_rng(seed))
    single = jax.tree.map(lambda leaf: leaf[0], batch)
    _check_encoding(encoder, encoder(single))
    if spec is not None:
        _check_parts(spec, space, stack, np.asarray(encoder(single).attention).shape[1])
    alone, together = encoder(single), jax.jit(jax.vmap(encoder))(batch)
    for name in ("embedding", "attention"):
        one, first = np.asarray(getattr(alone, name)), np.asarray(getattr(together, name)[0])
        if one.shape != first.shape or not np.allclose(one, first, rtol=tolerance, atol=tolerance):
            raise ContractFault(f"{name!r} of a compiled batch differs from that of one observation")
    _check_gradient(encoder, batch, unreached)


def _check_spec(spec: Any) -> None:
    if not hasattr(spec, "layout"):
        raise ContractFault('the spec is not registered; put @register("encoder", "name") above its class')
    if spec.layout not in get_args(Layout):
        raise ContractFault(f"the spec's `layout` is {spec.layout!r}; expected one of {', '.join(get_args(Layout))}")
    if type(spec.presence) is not int or spec.presence < -1:
        raise ContractFault(f"the spec's `presence` is {spec.presence!r}; expected the index of a feature, or -1")


def _check_parts(spec: Any, space: spaces.Space, stack: int, attended: int) -> None:
    if not hasattr(spec, "parts"):
        return
    parts = spec.parts(space, stack)
    if not isinstance(parts, Parts):
        raise ContractFault(f"the spec's `parts` gave a {type(parts).__name__}; expected a value of encoders.parts")
    if parts.attended and parts.count != attended:
        raise ContractFault(
            f"the spec's `parts` are {parts.count}, and attention lies over {attended}; make the two agree, or declare "
            f"attended=False"
        )
    if parts.kind != "none" and len(parts.names) != parts.count:
        raise ContractFault(f"the spec's `parts` are {parts.count} with {len(parts.names)} names; give each a name")
    owners = parts.owners()
    if jax.tree.structure(owners) != jax.tree.structure(spaces.zeros(space)):
        raise ContractFault("the spec's `parts` are of another space than the one given; pass `space` on to them")
    numbers = np.concatenate([owner.reshape(-1) for owner in jax.tree.leaves(owners)])
    if numbers.max() >= parts.count or (parts.kind != "none" and not np.isin(np.arange(parts.count), numbers).all()):
        raise ContractFault("some of the spec's `parts` are no numbers of the observation; check shape and edges")


def _check_encoding(encoder: Any, found: Any) -> None:
    embedding, attention = found.embedding, np.asarray(found.attention)
    if not isinstance(encoder.width, int) or embedding.shape != (encoder.width,) or embedding.dtype != jnp.float32:
        raise ContractFault(
            f"the embedding is {embedding.dtype}{list(embedding.shape)}, and `width` is {encoder.width!r}; expected "
            f"float32 numbers, and `width` to be how many"
        )
    if not np.isfinite(embedding).all() or not np.isfinite(attention).all():
        raise ContractFault("the embedding or attention is not finite; look for a division or a logarithm at 0")
    if attention.ndim != 2:
        raise ContractFault(
            f"attention has shape {attention.shape}; expected [heads parts], which is (0, 0) without attention"
        )
    total = attention.sum(-1)
    if (attention < 0).any() or not (np.isclose(total, 1, atol=1e-5) | (total == 0)).all():
        raise ContractFault("a head's attention is negative or sums to neither 1 nor 0; use nn.attention.attend")


def _check_gradient(encoder: Any, batch: PyTree, unreached: tuple[str, ...]) -> None:
    def loss(encoder: Any) -> jax.Array:
        embeddings = jax.vmap(encoder)(batch).embedding
        return (embeddings * jax.random.normal(jax.random.PRNGKey(1), embeddings.shape)).sum()

    check_slopes(jax.jit(jax.grad(loss))(encoder), unreached)


def observations(space: spaces.Space, leading: tuple[int, ...], random: np.random.Generator) -> PyTree:
    """Random observations: every number that a leaf may hold, and normal ones where it holds any."""

    def draw(leaf: spaces.Leaf) -> jax.Array:
        shape = (*leading, *leaf.shape)
        if isinstance(leaf, spaces.Box):
            if np.dtype(leaf.dtype).kind == "f":
                return jnp.asarray(random.normal(size=shape), leaf.dtype)
            return jnp.asarray(random.integers(0, 2 if leaf.dtype == "bool" else 100, shape), leaf.dtype)
        if isinstance(leaf, spaces.Text):
            return jnp.asarray(random.integers(0, leaf.symbols, shape), leaf.dtype)
        most = leaf.nvec if isinstance(leaf, spaces.MultiDiscrete) else leaf.n
        return jnp.asarray(random.integers(0, np.broadcast_to(most, shape)), leaf.dtype)

    return spaces.map_space(draw, space)
