"""The contract of explorations as a function: `check_exploration`."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from engram.heads.head import scalar
from engram.testing.contracts import ContractFault
from engram.types import Decision, Encoding, MemoryRead
from engram.working.memory import no_weights

TRIES = 2_000  # actions that are chosen to count how often each is
UNLIKELY = 5.0  # standard errors that a share may be from its chance


def check_exploration(spec: Any, actions: int = 4, *, seed: int = 0) -> None:
    """Hold an exploration to its contract, on random decisions between `actions` actions.

    Checked, at steps from 0 to beyond `settled`:

    - the action is an allowed one, an int32 scalar, and the same in a compiled batch;
    - `chance` is None, or the probability of a uniformly random action;
    - `report` is numbers;
    - nothing changes after `settled`;
    - kinds `by_episode` have `kept`, which gives the bits of an episode.

    Raises: ContractFault with the first thing that is wrong.
    """
    if not isinstance(spec.by_episode, bool):
        raise ContractFault(f"`by_episode` is {spec.by_episode!r}; expected True or False")
    if type(spec.settled) is not int or spec.settled < 0:
        raise ContractFault(f"`settled` is {spec.settled!r}; expected the step from which nothing changes, at least 0")
    keys = jax.random.split(jax.random.PRNGKey(seed), 5)
    decisions = _decisions(keys[0], actions, None)
    bits, episode = (jax.random.bits(key, (TRIES, 2), jnp.uint32) for key in keys[1:3])
    if spec.by_episode:
        episode = _check_kept(spec, episode, bits, jax.random.bits(keys[3], (TRIES, 2), jnp.uint32))
    else:
        episode = bits
    allowed = jax.random.bernoulli(keys[4], 0.5, (TRIES, actions)).at[:, -1].set(True)
    for step in sorted({0, spec.settled // 2, spec.settled, 2 * spec.settled + 1}):
        _check_numbers(spec, step)
        for one in (decisions, _decisions(keys[0], actions, allowed)):
            _check_choices(spec, one, bits, episode, step)
    _check_settled(spec, decisions, bits, episode)


def _decisions(key: Array, actions: int, allowed: Bool[Array, "tries actions"] | None) -> Decision:
    """Random decisions, with a leading axis."""
    q, seen, read = (
        jax.random.normal(one, (TRIES, size))
        for one, size in zip(jax.random.split(key, 3), (actions, 3, 2), strict=True)
    )
    nothing = jnp.zeros((TRIES, 0, 0))
    none = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (TRIES, *leaf.shape)), no_weights())
    return Decision(Encoding(seen, nothing), MemoryRead(read, *none), jax.vmap(scalar)(q), allowed)


def _check_kept(spec: Any, episode: Array, bits: Array, fresh: Array) -> Array:
    if not hasattr(spec, "kept"):
        raise ContractFault("`by_episode` is True, but there is no `kept`; give the bits of an episode at each step")
    if spec.chance(0) is not None:
        raise ContractFault("`by_episode` is True, but `chance` is a number, as if random actions were all; give None")
    opens = jnp.arange(len(bits)) % 2 == 0
    kept = spec.kept(episode[0], opens[0], bits[0], fresh[0])
    if kept.shape != (2,) or kept.dtype != jnp.uint32:
        raise ContractFault(f"`kept` gave {kept.dtype}{list(kept.shape)}; expected uint32[2], as it was given")
    return jax.jit(jax.vmap(spec.kept))(episode, opens, bits, fresh)


def _check_numbers(spec: Any, step: int) -> None:
    chance = spec.chance(step)
    if (chance is None) != (spec.chance(0) is None):
        raise ContractFault("`chance` is a number at some steps and None at others; give the one or the other")
    if chance is not None and not (isinstance(chance, float | int) and 0 <= chance <= 1):
        raise ContractFault(f"`chance` at step {step} is {chance!r}; expected None, or a float from 0 to 1")
    report = spec.report(step)
    try:
        json.dumps(report, allow_nan=False)
    except (TypeError, ValueError):
        report = None
    if not isinstance(report, dict) or not all(isinstance(value, int | float) for value in report.values()):
        raise ContractFault(f"`report` at step {step} is no finite numbers by name; use float() on each")


def _check_choices(spec: Any, given: Decision, bits: Array, episode: Array, step: int) -> None:
    first = jax.tree.map(lambda leaf: leaf[0], given)
    alone = spec.choose(first, bits[0], episode[0], step)
    if jnp.shape(alone) != () or jnp.asarray(alone).dtype != jnp.int32:
        raise ContractFault(
            f"`choose` gave {jnp.asarray(alone).dtype}{list(jnp.shape(alone))}; expected an int32 scalar"
        )
    action = _chosen(spec, given, bits, episode, step)
    actions = given.returns.atoms.shape[1]
    if (action < 0).any() or (action >= actions).any():
        raise ContractFault(f"`choose` gave action {int(action.max())}; expected one of 0 to {actions - 1}")
    if given.allowed is not None and not np.asarray(given.allowed)[np.arange(TRIES), action].all():
        raise ContractFault(f"`choose` gave an action that is not allowed, at step {step}; see exploration.any_of")
    if int(alone) != action[0]:
        raise ContractFault("`choose` gave another action in a compiled batch than alone; depend on its arguments only")
    chance = spec.chance(step)
    if chance is not None:
        _check_chance(given, action, float(chance), step)


CHOOSE = jax.jit(lambda spec, *given: jax.vmap(spec.choose, (0, 0, 0, None))(*given), static_argnums=0)


def _chosen(spec: Any, given: Decision, bits: Array, episode: Array, step: int) -> np.ndarray:
    """The actions of a compiled batch, in which the step is an array."""
    return np.asarray(CHOOSE(spec, given, bits, episode, jnp.int32(step)))


def _check_chance(given: Decision, action: np.ndarray, chance: float, step: int) -> None:
    """How often the preferred action is chosen, and the others."""
    preference = np.asarray(given.preference)
    possible = np.isfinite(preference).sum(1)
    expected = 1 - chance + chance / possible
    share = action == preference.argmax(1)
    error = np.sqrt((expected * (1 - expected)).sum()) + 1e-6
    if abs(share.sum() - expected.sum()) > UNLIKELY * error + 1e-3:
        raise ContractFault(
            f"the preferred action was chosen {share.mean():.3f} of the time at step {step}, where a `chance` of "
            f"{chance:g} of any action makes it {expected.mean():.3f}; give None where that is not all the exploring"
        )


def _check_settled(spec: Any, given: Decision, bits: Array, episode: Array) -> None:
    now, later = spec.settled, 2 * spec.settled + 1
    same = np.array_equal(_chosen(spec, given, bits, episode, now), _chosen(spec, given, bits, episode, later))
    if not same or spec.chance(now) != spec.chance(later) or spec.report(now) != spec.report(later):
        raise ContractFault(f"it still changes after step {now}, which is `settled`; give the step where it stops")
