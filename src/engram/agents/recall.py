"""An agent's use of its external memory: reading it for a decision, and writing down what came of earlier ones.

What is to be written is known only later: the return of an action is its next n rewards and the estimate of what
follows. So each environment's newest n actions wait in a line, and at every step the one that is n steps old is
labelled and written, a block of `envs` entries for each step. Its key is the one it had when it was acted on.

Where an episode was cut off (by a time limit, or because another one was begun), nothing is known of what would have
followed its last action. The returns of those before it then end at the observation which that action answered.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.agents.network import Network
from engram.agents.spec import AgentSpec
from engram.bits import fingerprint
from engram.external.memory import Entries
from engram.losses import bootstrap
from engram.losses.bootstrap import SuccessorsSpec
from engram.types import Decision, Key, TimeStep

RATE = 1e-3  # of the running means of squared errors: about the last thousand entries


class Waiting(NamedTuple):
    """What waits of an action for its return. Leading axes [n, envs]."""

    key: Float[Array, "*line embedding"]
    features: Float[Array, "*line features"]  # of the action, where actions are offered by their features
    hash: UInt32[Array, "*line 2"]
    action: Int[Array, "*line"]
    network: Float[Array, "*line"]  # the network's own Q of it
    memory: Float[Array, "*line"]  # the memory's, where it knew something
    known: Bool[Array, "*line"]
    best: Float[Array, "*line"]  # the estimate of the best action: what an earlier return bootstraps from
    frames: PyTree  # the stacked observation, or () if nothing keeps it


class Noted(NamedTuple):
    """What is known of an action when it is taken. Leading axes [time, envs]."""

    waiting: Waiting
    entries: Int[Array, "*batch reads"]  # what was read for the action, -1 for nothing
    weights: Float[Array, "*batch reads"]  # and how much each was attended, averaged over the heads


class Line(NamedTuple):
    """The newest n actions of every environment, and what they brought; a ring along its first axis."""

    waiting: Waiting
    reward: Float[Array, "n envs"]
    terminated: Bool[Array, "n envs"]
    done: Bool[Array, "n envs"]
    origin: Int[Array, "n envs 3"]


class RecallState(eqx.Module):
    """What an agent with an external memory keeps beside its replay."""

    store: PyTree
    line: Line
    steps: Int[Array, ""]  # of each environment
    episode: Int[Array, "envs"]
    moment: Int[Array, "envs"]  # step of the running episode
    past: PyTree  # UInt32[envs 2], what the running episode has shown so far; () without a working memory
    errors: Float[Array, "2"]  # running mean squared errors: the network's, the memory's, against the same returns
    turn: Int[Array, ""]  # the entry whose key is computed anew next
    overlap: Float[Array, ""]  # running share of an entry's neighbours that it still has when its key is fresh
    fault: Int[Array, "3"]  # environment, its episode and step of the first entry that was not finite, or -1
    projection: PyTree  # Float[inputs width] where keys are frozen, else ()


class Asked(NamedTuple):
    """What one observation is to the external memory."""

    key: Float[Array, "embedding"]
    offered: Float[Array, "actions features"] | None


def init(spec: AgentSpec, space: spaces.Space, actions: int, envs: int, params: Network, key: Key) -> RecallState:
    """Nothing remembered yet."""
    n = spec.recall.n_step
    frames = jax.tree.map(jnp.asarray, spaces.zeros(space, (envs, spec.observation.stack)))
    width = key_width(spec, params.working.width)
    inputs = flat(space, jax.tree.map(lambda leaf: leaf[0], frames)).shape[0]
    projection = jax.random.normal(key, (inputs, width)) / width**0.5 if spec.recall.keys == "frozen" else ()
    columns = optional_columns(spec, jax.tree.map(lambda leaf: leaf[0], frames))
    store = params.external.init(columns) if columns else params.external.init()
    offered = spaces.offered_features(space, actions)
    zeros = partial(jnp.zeros, (n, envs))
    waiting = Waiting(
        key=jnp.zeros((n, envs, width)),
        features=jnp.zeros((n, envs, offered)),
        hash=jnp.zeros((n, envs, 2), jnp.uint32),
        action=zeros(jnp.int32), network=zeros(), memory=zeros(), known=zeros(bool), best=zeros(),
        frames=jax.tree.map(lambda leaf: jnp.zeros((n, *leaf.shape), leaf.dtype), frames) if columns else (),
    )  # fmt: skip
    line = Line(waiting, zeros(), zeros(bool), zeros(bool), jnp.zeros((n, envs, 3), jnp.int32))
    none = partial(jnp.zeros, envs, jnp.int32)
    past = jnp.zeros((envs, 2), jnp.uint32) if spec.has_memory else ()
    return RecallState(
        store, line, steps=jnp.int32(0), episode=none(), moment=none(), past=past, errors=jnp.ones(2),
        turn=jnp.int32(0), overlap=jnp.ones(()), fault=jnp.full(3, -1, jnp.int32), projection=projection,
    )  # fmt: skip


def key_width(spec: AgentSpec, embedding: int) -> int:
    """Numbers in a key."""
    return spec.recall.frozen_width if spec.recall.keys == "frozen" else embedding


def optional_columns(spec: AgentSpec, frames: PyTree) -> dict[str, PyTree]:
    """What entries keep beside keys and values: to compute keys anew, or for the reading by successors."""
    number, columns = jnp.zeros(()), {}
    if spec.recall.refresh:
        columns |= {"observation": frames}
    if _by_successors(spec):
        columns |= {"reward": number, "discount": number, "successor": frames}
    return columns


# -- reading ---------------------------------------------------------------------------------------------------


def ask(
    spec: AgentSpec,
    state: RecallState,
    network: Network,
    target: Network,
    frames: PyTree,
    embedding: Float[Array, "embedding"],
) -> Asked:
    """The key of one stacked observation, whose embedding by the acting or learning network is given.

    No gradient flows into a frozen key, nor into one of the target network.
    """
    newest = jax.tree.map(lambda frame: frame[-1], frames)
    offered = spaces.offered_of(network.space, newest, network.actions)
    if spec.recall.keys == "frozen":
        embedding = flat(network.space, frames) @ state.projection
    elif spec.recall.keys == "target":
        embedding = jax.lax.stop_gradient(target.embed(frames))
    return Asked(key_of(spec, embedding), offered)


def key_of(spec: AgentSpec, embedding: Float[Array, "embedding"]) -> Float[Array, "embedding"]:
    """The key, or query, that an embedding makes."""
    return embedding / jnp.sqrt((embedding**2).sum() + 1e-6) if spec.recall.unit_keys else embedding


def consult(
    spec: AgentSpec, state: RecallState, network: Network, target: Network, frames: PyTree, decision: Decision
) -> tuple[Asked, Decision]:
    """What the network's decision for one stacked observation asks of the memory, and the decision with its answer."""
    asked = ask(spec, state, network, target, frames, decision.working.vector)
    return asked, recall(spec, state, network, asked, decision)


def recall(spec: AgentSpec, state: RecallState, network: Network, asked: Asked, decision: Decision) -> Decision:
    """The decision with what the external memory says, and its share in the estimate."""
    read = network.external.read(state.store, asked.key, asked.offered)
    certain = read.confidence if spec.recall.confidence == "near" else (read.confidence > 0).astype(jnp.float32)
    share = jax.lax.stop_gradient(spec.recall.share * trust(spec, state) * certain)
    return dataclasses.replace(decision, external=read, share=share)


def trust(spec: AgentSpec, state: RecallState) -> Float[Array, ""]:
    """The memory's weight against the network's, by the inverse of their mean squared errors; 1 where not asked for.

    Two unbiased estimates with independent errors are best joined in this proportion.
    """
    network, memory = state.errors
    return network / (network + memory) if spec.recall.trust else jnp.ones(())


def read_when_learning(spec: AgentSpec) -> bool:
    """Whether the loss of a row asks the memory about that row."""
    return spec.has_external and (spec.recall.through or spec.recall.pull > 0 or _by_successors(spec))


def _by_successors(spec: AgentSpec) -> bool:
    return isinstance(spec.bootstrap, SuccessorsSpec)


def by_successors(
    state: RecallState,
    target: Network,
    told: Decision,
    action: Int[Array, ""],
    plain: Float[Array, ""],
) -> Float[Array, ""]:
    """The target of an action by what followed entries similar to it, as far as they are near; the rest is `plain`."""
    read, store = told.external, state.store
    weights = (read.weights[:, action] / read.weights.shape[0]).reshape(-1)  # each head has chosen entries of its own
    entries = read.entries[:, action].reshape(-1)
    place = jnp.where(entries >= 0, entries, 0)
    where = place // store.value.shape[1], place % store.value.shape[1]
    frames = jax.tree.map(lambda column: column[where], store.successor)
    # A place that holds nothing has no successor: what the network makes of its zeros may be minus infinity.
    value = jnp.where(entries >= 0, jax.vmap(target)(frames).preference.max(-1), 0.0)
    found = bootstrap.from_successors(weights, store.reward[where], store.discount[where], value, plain)
    # Weights sum to 1 however far the nearest are: a situation that was given up must not be taught by strangers.
    return jax.lax.stop_gradient(bootstrap.blend(plain, found, read.confidence[action]))


# -- writing ---------------------------------------------------------------------------------------------------


def note(spec: AgentSpec, asked: Asked, frames: PyTree, decision: Decision, action: Int[Array, ""]) -> Noted:
    """What is to be remembered of one action when it is taken."""
    read = decision.external
    waiting = Waiting(
        key=asked.key,
        features=jnp.zeros(0) if asked.offered is None else asked.offered[action],
        hash=fingerprint(frames),
        action=action,
        network=decision.returns.q[action],
        memory=read.q[action],
        known=read.confidence[action] > 0,
        best=decision.preference.max(),
        frames=frames if spec.recall.refresh or _by_successors(spec) else (),
    )
    weights = read.weights[:, action] / max(read.weights.shape[0], 1)
    return Noted(waiting, read.entries[:, action].reshape(-1), weights.reshape(-1))


def remember(
    spec: AgentSpec,
    external: Any,
    state: RecallState,
    noted: Noted,
    row: TimeStep,
    done: Bool[Array, "envs"],
    keep: Bool[Array, "envs"],
) -> RecallState:
    """After one step of every environment: notes what was read, writes the actions that are n steps old, lines up this.

    The last action of an episode that was cut off is not written; see the head of this module for those before it.
    """
    n, state = spec.recall.n_step, _broken_off(state, row.is_first)
    line, now, past = state.line, noted.waiting, state.past
    store = external.touch(state.store, noted.entries.reshape(-1), noted.weights.reshape(-1))
    if spec.has_memory:
        hashes, past = _history(spec, past, now, row)
        now = now._replace(hash=hashes)
    place = state.steps % n
    old, origin = jax.tree.map(lambda leaf: leaf[place], (line.waiting, line.origin))
    came = _outcome(spec, line, now, place)
    entries = Entries(
        key=jax.lax.stop_gradient(old.key),
        action=old.action,
        features=old.features,
        value=came.value,
        td_error=came.value - old.network,
        # Chance may follow equal observations by different ones, and what follows is not to be averaged here.
        hash=jax.vmap(fingerprint)((old.hash, origin)) if _by_successors(spec) else old.hash,
        origin=origin,
        observation=old.frames,
        reward=came.reward,
        discount=came.discount,
        successor=came.frames if _by_successors(spec) else (),
        following=came.hash,
    )
    written = (state.steps >= n) & came.known & keep
    store = external.write(store, entries, written)
    envs = jnp.arange(done.shape[0])
    put = partial(jax.tree.map, lambda old, new: old.at[place].set(new))
    here = jnp.stack([envs, state.episode, state.moment], axis=1)
    return dataclasses.replace(
        state,
        store=store,
        line=put(line, Line(now, _clip(spec, row.reward), row.terminated, done, here)),
        steps=state.steps + 1,
        episode=state.episode + done,
        moment=jnp.where(done, 0, state.moment + 1),
        past=past,
        errors=_judged(state.errors, old, came.value, written & old.known),
        fault=_fault(state.fault, entries, written & (store.refused > state.store.refused)),
    )


class _Outcome(NamedTuple):
    """What came of an action. Leading axis [envs]."""

    value: Float[Array, "envs"]
    reward: Float[Array, "envs"]  # the discounted sum of the rewards that count
    discount: Float[Array, "envs"]  # of the estimate of what follows them: 0 where the episode ended
    hash: UInt32[Array, "envs 2"]  # of the observation that follows them
    frames: PyTree
    known: Bool[Array, "envs"]  # False for the last action of an episode that was cut off


def _outcome(spec: AgentSpec, line: Line, now: Waiting, place: Int[Array, ""]) -> _Outcome:
    """The return of the oldest actions in line, those at `place`; `now` followed the newest."""
    n = spec.recall.n_step
    order = (place + jnp.arange(n)) % n  # oldest first
    done = line.done[order]
    over = jnp.cumsum(done, axis=0) > 0
    inside = jnp.concatenate([jnp.ones_like(over[:1]), ~over[:-1]])  # up to the end of its episode
    final = order[inside.sum(0) - 1], jnp.arange(done.shape[1])  # the last action of that episode in line
    cut = over[-1] & ~line.terminated[final]
    counted = inside & ~(cut & done)
    powers = jnp.asarray(np.float32(spec.discount) ** np.arange(n + 1, dtype=np.float32))
    steps = counted.sum(0)
    reward = (jnp.where(counted, line.reward[order], 0.0) * powers[:-1, None]).sum(0)
    discount = jnp.where(over[-1] & ~cut, 0.0, powers[steps])

    def following(waited: Array, new: Array) -> Array:
        return jnp.where(cut.reshape(-1, *[1] * (new.ndim - 1)), waited[final], new)

    waiting = line.waiting
    best, hash, frames = jax.tree.map(
        following, (waiting.best, waiting.hash, waiting.frames), (now.best, now.hash, now.frames)
    )
    return _Outcome(reward + discount * best, reward, discount, hash, frames, steps > 0)


def _history(
    spec: AgentSpec, past: UInt32[Array, "envs 2"], now: Waiting, row: TimeStep
) -> tuple[UInt32[Array, "envs 2"], UInt32[Array, "envs 2"]]:
    """The hashes of the present and all that its episode showed before, and of both and the action that was taken.

    With a working memory equal observations are different situations where what came before them differs.
    """
    before = jnp.where(row.is_first[:, None], jnp.uint32(0), past)
    present = jax.vmap(fingerprint)((before, now.hash))
    seen = spec.observation
    told = now.action if seen.previous_action else (), row.reward if seen.previous_reward else ()
    return present, jax.vmap(fingerprint)((present, told)) if jax.tree.leaves(told) else present


def _judged(
    errors: Float[Array, "2"], old: Waiting, value: Float[Array, "envs"], judged: Bool[Array, "envs"]
) -> Float[Array, "2"]:
    """The running squared errors of the network and of the memory, with those that can be compared with a return."""
    squared = jnp.stack([(value - old.network) ** 2, (value - old.memory) ** 2])
    mean = (squared * judged).sum(1) / jnp.maximum(judged.sum(), 1)
    rate = jnp.minimum(RATE * judged.sum(), 1.0)
    return errors + jnp.where(judged.any(), rate, 0.0) * (mean - errors)


def _fault(fault: Int[Array, "3"], entries: Entries, refused: Bool[Array, "envs"]) -> Int[Array, "3"]:
    """Where the first entry came from that was refused, which is why some of these were: it is not finite."""
    numbers = (entries.key, entries.features, entries.value[:, None], entries.td_error[:, None])
    bad = refused & ~jnp.isfinite(jnp.concatenate(numbers, axis=1)).all(1)
    return jnp.where((fault[0] < 0) & bad.any(), entries.origin[bad.argmax()], fault)


def _broken_off(state: RecallState, is_first: Bool[Array, "envs"]) -> RecallState:
    """The state in which a new episode begins here, also where the one before did not end: it counts as cut off."""
    line = state.line
    newest = (state.steps - 1) % line.done.shape[0]
    broken = is_first & ~line.done[newest] & (state.steps > 0)
    line = line._replace(
        done=line.done.at[newest].set(line.done[newest] | broken),
        terminated=line.terminated.at[newest].set(line.terminated[newest] & ~broken),
    )
    return dataclasses.replace(
        state, line=line, moment=jnp.where(broken, 0, state.moment), episode=state.episode + broken
    )


def _clip(spec: AgentSpec, reward: Float[Array, "envs"]) -> Float[Array, "envs"]:
    return reward.clip(-spec.reward_clip, spec.reward_clip) if spec.reward_clip else reward


def refresh(spec: AgentSpec, network: Network, state: RecallState) -> RecallState:
    """The keys of the next few entries computed anew from their observations, and how far the first had drifted.

    `network` is the one whose embeddings are keys. Drift is measured as the share of the entries nearest to the stored
    key that are also among the nearest to the fresh one.
    """
    store, external = state.store, network.external
    size = store.live.size
    ids = (state.turn + jnp.arange(min(spec.recall.refresh, size))) % size
    table, place = ids // store.live.shape[1], ids % store.live.shape[1]
    frames = jax.tree.map(lambda column: column[table, place], store.observation)
    fresh = jax.lax.stop_gradient(jax.vmap(lambda frame: key_of(spec, network.embed(frame)))(frames))
    old, features = store.key[table[0], place[0]][: fresh.shape[1]], store.features[table[0], place[0]]
    read = partial(external.read, store, offered=features[None] if features.shape[0] else None)
    before, after = read(old).entries[0], read(fresh[0]).entries[0]
    mine = before[table[0]], after[table[0]]
    shared = ((mine[0][:, None] == mine[1]) & (mine[0] >= 0)[:, None]).sum() / jnp.maximum((mine[0] >= 0).sum(), 1)
    live = store.live[table[0], place[0]]
    overlap = jnp.where(live, state.overlap + 0.01 * (shared - state.overlap), state.overlap)
    return dataclasses.replace(
        state, store=external.rekey(store, ids, fresh), turn=(ids[-1] + 1) % size, overlap=overlap
    )


def report(spec: AgentSpec, state: PyTree) -> dict[str, Any]:
    """What a log line says of an external memory; a value per seed is a list if there are several."""
    if not isinstance(state, RecallState):
        return {}
    network, memory = np.moveaxis(np.asarray(state.errors), -1, 0)
    found = {"memory_entries": np.asarray(state.store.live).reshape(*network.shape, -1).sum(-1)}
    if spec.recall.trust:
        found["memory_trust"] = network / (network + memory)
    if spec.recall.refresh:
        found["memory_overlap"] = np.asarray(state.overlap)
    return {name: value.tolist() if value.size > 1 else value.item() for name, value in found.items()}


def refused(state: PyTree) -> tuple[int, list[int]]:
    """How many entries were not written because their numbers were not finite, and where the first came from.

    That is the place of its seed, its environment, its episode and its step of it; -1 where nothing was refused.
    """
    if not isinstance(state, RecallState):
        return 0, [0, -1, -1, -1]
    faults = np.asarray(state.fault).reshape(-1, 3)
    seed = int((faults[:, 0] >= 0).argmax())
    return int(np.asarray(state.store.refused).sum()), [seed, *faults[seed].tolist()]


# -- keys ------------------------------------------------------------------------------------------------------


def flat(space: spaces.Space, frames: PyTree) -> Float[Array, "inputs"]:
    """Everything that is seen of a stacked observation as one row of numbers."""
    leaves = jax.tree.leaves(spaces.seen_of(space, frames))
    return jnp.concatenate([leaf.reshape(-1).astype(jnp.float32) for leaf in leaves])
