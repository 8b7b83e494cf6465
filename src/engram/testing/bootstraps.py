"""The contract of bootstraps as a function: `check_bootstrap`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from engram.losses.bootstrap import Following, Here, Similar
from engram.losses.returns import NStep
from engram.testing.contracts import ContractFault, compare
from engram.trees import named
from engram.types import Distribution, Returns

ASKS = ("nothing", "memory", "successors", "here")
CASES = 8  # random steps, and what is known of the observation after each
ENTRIES = 4
CALL = jax.jit(lambda spec, step, following: jax.vmap(spec)(step, following), static_argnums=0)


def check_bootstrap(spec: Any, actions: int = 3, *, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Hold a bootstrap to its contract, on random returns of `actions` actions, as numbers and as distributions.

    Checked:

    - `asks` is one of those there are;
    - the target has a probability for each atom, they sum to 1, and it is finite, also where a memory knows nothing;
    - a compiled batch gives the same;
    - the value of a forbidden action does not matter;
    - after a termination the target is the reward, unless it reads successors or the present;
    - no gradient reaches the target.

    Args:
      tolerance: how far a compiled batch may be from a single call, relative to 1 + the value.

    Raises: ContractFault with the first thing that is wrong.
    """
    if getattr(spec, "asks", None) not in ASKS:
        raise ContractFault(f"`asks` is {getattr(spec, 'asks', None)!r}; expected one of {', '.join(ASKS)}")
    for atoms in (1, 5):
        for known in (True, False):
            key = jax.random.fold_in(jax.random.PRNGKey(seed), 2 * atoms + known)
            _check_case(spec, _given(spec, actions, atoms, known, key), tolerance)


def _given(spec: Any, actions: int, atoms: int, known: bool, key: Array) -> tuple[NStep, Following]:
    """Steps of which every other one ends, and what follows them; leading axis [CASES]. `known`: to a memory."""
    keys = iter(jax.random.split(key, 12))

    def normal(*shape: int) -> Array:
        return jax.random.normal(next(keys), (CASES, *shape))

    logits = normal(actions, atoms) if atoms > 1 else jnp.zeros((CASES, actions, 1))
    returns = Returns(normal(actions, atoms), logits, jnp.zeros((CASES, 0, actions)))
    allowed = jax.random.bernoulli(next(keys), 0.5, (CASES, actions)).at[:, 0].set(True)
    selector = jnp.where(allowed, normal(actions), -jnp.inf)
    memory = share = similar = None
    if spec.asks == "memory":
        memory = normal(actions) * known
        share = jax.random.uniform(next(keys), (CASES, actions)) * known
    if spec.asks == "successors":
        weights = jax.nn.softmax(normal(ENTRIES)) * known
        near = jax.random.uniform(next(keys), (CASES,)) * known
        similar = Similar(weights, normal(ENTRIES), jnp.full((CASES, ENTRIES), 0.9), normal(ENTRIES), near)
    here = None
    if spec.asks == "here":
        here = Here(normal(actions), jnp.zeros(CASES, jnp.int32))
    step = NStep(normal(), 0.9 * (jnp.arange(CASES) % 2), jnp.ones(CASES, jnp.int32))
    return step, Following(returns, selector, memory, share, similar, here)


def _check_case(spec: Any, given: tuple[NStep, Following], tolerance: float) -> None:
    alone = spec(*jax.tree.map(lambda leaf: leaf[0], given))
    if not isinstance(alone, Distribution):
        raise ContractFault(f"the target is a {type(alone).__name__}; expected a Distribution")
    if alone.logits is not None or alone.levels is not None:
        raise ContractFault("the target has logits or levels, which a prediction has; leave them out, as `target` does")
    if alone.atoms.ndim != 1 or alone.probabilities.shape != alone.atoms.shape:
        raise ContractFault(
            f"the target has atoms of shape {alone.atoms.shape} and probabilities {alone.probabilities.shape}; "
            f"expected both to be [atoms]"
        )
    step, following = given
    together = CALL(spec, step, following)
    compare(alone, jax.tree.map(lambda leaf: leaf[0], together), "a compiled batch gives otherwise", tolerance)
    for name, array in named({"atoms": together.atoms, "probabilities": together.probabilities}).items():
        if array.dtype != jnp.float32 or not np.isfinite(array).all():
            raise ContractFault(f"{name} are {array.dtype} or not finite; hide what is forbidden before a sum")
    probabilities = np.asarray(together.probabilities)
    if (probabilities < 0).any() or not np.isclose(probabilities.sum(-1), 1, atol=1e-4).all():
        raise ContractFault("probabilities of the target are negative or do not sum to 1")
    _check_end(step, following, together)
    _check_forbidden(spec, step, following, together, tolerance)
    _check_gradient(spec, step, following)


def _check_end(step: NStep, following: Following, target: Any) -> None:
    if following.similar is not None and np.any(following.similar.confidence):
        return  # what followed similar steps counts as well
    if following.here is not None:
        return  # so does what the present says
    ended = np.asarray(step.discount) == 0
    atoms, reward = np.asarray(target.atoms)[ended], np.asarray(step.reward)[ended]
    reached = np.asarray(target.probabilities)[ended] > 0
    if not (np.isclose(atoms, reward[:, None], atol=1e-5) | ~reached).all():
        raise ContractFault("after a termination, where the discount is 0, the target is not the reward; see `target`")


def _check_forbidden(spec: Any, step: NStep, following: Following, target: Any, tolerance: float) -> None:
    """Changes what the network and a memory say of forbidden actions."""
    forbidden = jnp.isneginf(following.selector)
    returns = following.returns
    strange = Returns(
        jnp.where(forbidden[..., None], 1e4, returns.atoms), returns.logits, returns.attention, returns.levels
    )
    memory = None if following.memory is None else jnp.where(forbidden, 1e4, following.memory)
    changed = CALL(spec, step, following._replace(returns=strange, memory=memory))
    fault = "what a forbidden action is worth changes the target; choose by `selector`"
    compare({"mean": target.mean}, {"mean": changed.mean}, fault, tolerance)


def _check_gradient(spec: Any, step: NStep, following: Following) -> None:
    def total(known: tuple[NStep, Following]) -> Array:
        target = jax.vmap(spec.__call__)(*known)
        return (target.atoms**2).sum() + (target.probabilities**2).sum()

    slopes = jax.jit(jax.grad(total, allow_int=True))((step, following))
    for name, slope in named(slopes).items():
        if slope.dtype != jax.dtypes.float0 and (np.any(slope) or not np.isfinite(slope).all()):
            raise ContractFault(f"a gradient reaches {name.partition('.')[2]!r}; put jax.lax.stop_gradient around it")
