"""The contract of heads as a function: `check_head`."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from engram.testing.contracts import ContractFault, as_part, check_slopes, compare
from engram.types import Kind

LOOKS = 6  # embeddings that a head is tried with
LOOK = jax.jit(lambda head, given: jax.vmap(head)(*given))


def check_head(
    head: Any,
    width: int,
    actions: int,
    *,
    spec: Any = None,
    offered: int = 0,
    seed: int = 0,
    tolerance: float = 1e-4,
    unreached: tuple[str, ...] = (),
) -> None:
    """Hold a head to its contract, on random embeddings of `width` numbers and with actions allowed at random.

    Checked:

    - every leaf is a learned float32 array, or can be a constant;
    - `words` is a number of random words, and they make a difference;
    - atoms, logits, levels, attention, policy and twins have the forms of `Returns` and are finite;
    - a compiled batch gives the same;
    - the features of a forbidden action do not matter;
    - gradients are finite and reach every leaf.

    Args:
      spec: what the head was built by. Its `reads_offered`, `predicts`, `has_policy` and `has_twins` are then checked
        too.
      offered: features of each action, 0 for a fixed set.
      tolerance: how far a compiled batch may be from a single call, relative to 1 + the value.
      unreached: names (or their ends) of leaves that need no gradient, such as those of a control that ignores them.

    Raises: ContractFault with the first thing that is wrong.
    """
    head = as_part(head)
    if spec is not None:
        _check_spec(spec, offered)
    words = _checked_words(head)
    given = _random_looks(jax.random.PRNGKey(seed), width, actions, offered, words)
    found = _check_one(head, given, actions, tolerance)
    if spec is not None:
        _check_declared(spec, found)
    _check_bits(head, jax.tree.map(lambda leaf: leaf[0], given), words)
    if offered:
        _check_forbidden(head, given, tolerance)
    _check_gradient(head, given, unreached)


def _check_spec(spec: Any, offered: int) -> None:
    reads = getattr(spec, "reads_offered", None)
    if not isinstance(reads, bool) or (offered and not reads):
        raise ContractFault(f"the spec's `reads_offered` is {reads!r}; expected {bool(offered)}")
    predicts = getattr(spec, "predicts", None)
    if predicts not in get_args(Kind):
        raise ContractFault(f"the spec's `predicts` is {predicts!r}; expected one of {', '.join(get_args(Kind))}")


def _checked_words(head: Any) -> int:
    words = getattr(head, "words", None)
    if type(words) is not int or words < 0:
        raise ContractFault(f"`words` is {words!r}; expected how many random words a call takes, 0 for none")
    return words


def _random_looks(key: Array, width: int, actions: int, offered: int, words: int) -> tuple:
    """What a head is called with, with a leading axis of LOOKS."""
    keys = jax.random.split(key, 4)
    return (
        jax.random.normal(keys[0], (LOOKS, width)),
        jax.random.normal(keys[1], (LOOKS, actions, offered)) if offered else None,
        jax.random.bernoulli(keys[2], 0.5, (LOOKS, actions)).at[:, 0].set(True),
        jax.random.bits(keys[3], (LOOKS, words), jnp.uint32),
    )


def _check_declared(spec: Any, found: Any) -> None:
    """What the spec says of its head is what the head gives."""
    for name, leaf in {"policy": found.policy, "twins": found.twins}.items():
        says = bool(getattr(spec, f"has_{name}", False))
        if says != (leaf is not None):
            gives = "no " if says else ""
            raise ContractFault(
                f"the spec's `has_{name}` is {says}, but its head gives {gives}`Returns.{name}`; make the two agree"
            )
    levels = found.levels is not None
    if levels != (spec.predicts == "quantiles"):
        raise ContractFault(
            f"the spec's `predicts` is {spec.predicts!r}, but its head gives atoms with{'' if levels else 'out'} "
            f"levels; quantiles have levels, and nothing else has"
        )


def _check_one(head: Any, given: tuple, actions: int, tolerance: float) -> Any:
    """The first look: by itself, with all actions allowed and bits of 0, and in a compiled batch."""
    embedding, features, allowed, bits = jax.tree.map(lambda leaf: leaf[0], given)
    found = head(embedding, features, allowed, bits)
    _check_returns(found, actions)
    _check_returns(head(embedding, features, None, jnp.zeros_like(bits)), actions)
    together = jax.tree.map(lambda leaf: leaf[0], LOOK(head, given))
    compare(found, together, "a compiled batch gives otherwise than one call", tolerance)
    return found


def _check_returns(found: Any, actions: int) -> None:
    atoms, logits, levels = found.atoms, found.logits, found.levels
    if atoms.ndim != 2 or atoms.shape[0] != actions or logits.shape != atoms.shape:
        raise ContractFault(
            f"atoms have shape {atoms.shape} and logits {logits.shape}; expected both to be [actions atoms], with "
            f"{actions} actions: see heads.head.scalar for plain numbers"
        )
    attention = found.attention
    if attention.ndim != 2 or attention.shape[1] != actions:
        raise ContractFault(
            f"attention has shape {attention.shape}; expected [heads actions]: (0, {actions}) without attention"
        )
    for name, array in {"atoms": atoms, "logits": logits, "attention": attention}.items():
        if array.dtype != jnp.float32 or not np.isfinite(array).all():
            raise ContractFault(f"{name} are {array.dtype} or not finite; expected finite float32 numbers")
    weights = np.asarray(attention)
    if (weights < 0).any() or not np.isclose(weights.sum(-1), 1, atol=1e-5).all():
        raise ContractFault("a head's attention is negative or does not sum to 1; use nn.attention.attend")
    policy = found.policy
    if policy is not None and (policy.shape != (actions,) or not np.isfinite(policy).all()):
        raise ContractFault(f"the policy has shape {policy.shape} or is not finite; expected a logit of each action")
    twins = found.twins
    if twins is not None and (twins.shape != (2, actions) or not np.isfinite(twins).all()):
        raise ContractFault(f"the twins have shape {twins.shape} or are not finite; expected two Q of each action")
    if levels is None:
        return
    if levels.shape != atoms.shape or not ((np.asarray(levels) >= 0) & (np.asarray(levels) <= 1)).all():
        raise ContractFault(f"levels have shape {levels.shape} or leave 0..1; expected a share for each atom")


def _check_bits(head: Any, given: tuple, words: int) -> None:
    if not words:
        return
    other = (*given[:3], given[3] ^ jnp.uint32(0x5BD1E995))
    pairs = zip(jax.tree.leaves(head(*given)), jax.tree.leaves(head(*other)), strict=True)
    if all(np.array_equal(a, b) for a, b in pairs):
        raise ContractFault(f"other random words give the same returns; read the {words} words of `bits`, or take 0")


def _check_forbidden(head: Any, given: tuple, tolerance: float) -> None:
    """Whatever stands where an action is forbidden, the others are worth the same."""
    embedding, features, allowed, bits = given
    strange = jnp.where(allowed[..., None], features, jnp.nan)
    known, tried = (_told(LOOK(head, (embedding, one, allowed, bits))) for one in (features, strange))
    compare(
        {"q": jnp.where(allowed, known, 0)},
        {"q": jnp.where(allowed, tried, 0)},
        "what a forbidden action offers changes the worth of an allowed one; hide its features",
        tolerance,
    )


def _told(found: Any) -> Array:
    """What a head says of the actions: a policy's logits where it has one, else Q."""
    return found.q if found.policy is None else found.policy


def _check_gradient(head: Any, given: tuple, unreached: tuple[str, ...]) -> None:
    def loss(head: Any) -> Array:
        found = jax.vmap(head)(*given)
        first, second = jax.random.split(jax.random.PRNGKey(1))
        worth = (found.atoms * found.probabilities * jax.random.normal(first, found.atoms.shape)).sum()
        if found.policy is not None:
            worth += (found.policy * jax.random.normal(jax.random.fold_in(first, 1), found.policy.shape)).sum()
        return worth + (found.atoms * jax.random.normal(second, found.atoms.shape)).sum()

    check_slopes(jax.jit(jax.grad(loss))(head), unreached)
