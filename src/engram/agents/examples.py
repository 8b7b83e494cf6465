"""What one update learns from: examples made of drawn rows, and their loss.

Two kinds. Without a working memory an example is a `Transition`: the row it starts at and the row it bootstraps from,
all that a network without memory needs. With one it is a `Window` of successive rows, through which the network is
unrolled: every row after the burn-in is a start, and bootstraps from a later row of the same window.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.agents import symmetry
from engram.agents.network import Network, Previous
from engram.agents.recall import reading
from engram.agents.recall.state import RecallState
from engram.agents.spec import AgentSpec
from engram.agents.statistics import Scales, as_learned
from engram.losses.bootstrap import Following, Here, Similar
from engram.losses.conservative import conservative
from engram.losses.margin import large_margin
from engram.losses.returns import NStep, annealed, discounts, n_step, squashed, stretched
from engram.replay import elsewhere, hindsight, sampling
from engram.replay.draw import Drawn, Replay, Surprise
from engram.replay.elsewhere import Elsewhere
from engram.replay.ring import Ring
from engram.types import Decision, Distribution, Metrics

LOOKS = 3  # forward passes of one transition at most: the observation, and the next one by both networks


class Start(NamedTuple):
    """What is known of the action of one row."""

    action: Int[Array, "*batch"]
    step: NStep
    weight: Float[Array, "*batch"]  # 0 for a final row, which teaches nothing; else 1
    shown: Float[Array, "*batch"] | None = None  # 1 for a demonstration, else 0; None where that makes no difference


class Transition(NamedTuple):
    """One example to learn from. Observations carry a leading axis [stack]."""

    start: Start
    observation: PyTree
    following: PyTree  # the observation to bootstrap from
    bits: UInt32[Array, "looks words"]  # for the forward passes


class Window(NamedTuple):
    """Successive rows of one lane; leaves have a leading axis [rows], or [window] where so said."""

    start: Start  # [window]
    carry: PyTree  # of the working memory before the first row
    frames: PyTree  # [rows, stack, ...]
    is_first: Array  # bool [rows]
    previous: Previous
    bits: UInt32[Array, "two rows words"]


class Scored(NamedTuple):
    """One prediction beside its target. Leading axes [batch] or [batch, window]."""

    loss: Float[Array, "*batch"]
    own: Float[Array, "*batch"]  # of the loss, the part of the return against its target
    q: Float[Array, "*batch"]  # of the action taken, in units of return
    error: Float[Array, "*batch"]  # absolute difference to the target, as the network predicts it
    weight: Float[Array, "*batch"]
    told: dict[str, Float[Array, "*batch"]] | None = None  # what else is reported, by name


class Horizon(NamedTuple):
    """How far a target looks."""

    powers: Float[Array, "n_1"]  # gamma^0 to gamma^n, n being the most rewards in a target
    rewards: Int[Array, ""] | None = None  # that count now; None for all


class Nets(NamedTuple):
    """What scores an example: the network that learns, the one that lags behind, and what is remembered."""

    params: Network
    target: Network
    recall: RecallState | None


# What one action is taught, a `Scored`: of the observation, the decision there and what followed. `score` is the
# Q-learner's.
Score = Callable[[Any, Nets, PyTree, Decision, Start, Following], PyTree]


# -- drawing ---------------------------------------------------------------------------------------------------------


def words(spec: AgentSpec, network: Network, agents: int = 1) -> int:
    """Random words that one example takes: to draw its row, to place its window, and for its forward passes.

    `agents`: whose rows are learned from together.
    """
    return spec.draw.words + _placing(spec) + network.words * _looks(spec) * agents + _turning(spec)


def _placing(spec: AgentSpec) -> int:
    return int(spec.has_memory and spec.replay.align)


def _turning(spec: AgentSpec) -> int:
    return int(spec.symmetry == "board")


def _looks(spec: AgentSpec) -> int:
    return 2 * spec.rows if spec.has_memory else LOOKS


def horizon(spec: AgentSpec, updates: Int[Array, ""] | None) -> Horizon:
    """How far targets look after so many updates of the annealing; None without one."""
    if updates is None:
        return Horizon(discounts(spec.discount, spec.n_step))
    first, last = (spec.anneal.n_step, spec.anneal.discount), (spec.n_step, spec.discount)
    rewards, powers = annealed(updates / spec.anneal.updates, first, last)
    return Horizon(powers, rewards)


def draw(
    spec: AgentSpec,
    network: Network,
    replay: Replay,
    bits: UInt32[Array, "batch words"],
    updates: Int[Array, ""] | None = None,
    agents: int = 1,
) -> tuple[Drawn, Transition | Window]:
    """The rows of a batch, and the examples that start at them; leaves have a leading axis [batch].

    `updates`: of the annealing so far; None without one. `agents`: of a team, which are learned from together; the
    examples are then those of all agents of each drawn row's team, next to each other: [batch * agents].
    """
    far = horizon(spec, updates)
    ring, first, last = replay.ring, spec.draw.words, spec.draw.words + _placing(spec)
    embed = partial(_embedded, spec, network, ring)
    drawn = spec.draw.draw(replay.drawing, ring, spec.reach, bits[:, :first], embed)
    passes = bits[:, last:-1] if _turning(spec) else bits[:, last:]
    row, lane = drawn.row, drawn.lane
    if spec.has_memory and spec.replay.align:
        begin = partial(sampling.back_to_start, ring, reach=spec.replay.window - 1, before=spec.rows_before)
        row = jax.vmap(begin)(row, lane, bits[:, first])
    if isinstance(ring.rows.observation, Elsewhere):
        ring, row, lane, whole = elsewhere.fetched(ring, row, lane, spec.reach)
        drawn = drawn._replace(whole=whole)
    if agents > 1:
        row, lane = sampling.of_team(row, lane, agents)
        passes = passes.reshape(len(row), passes.shape[1] // agents)
    cut: Any = partial(window if spec.has_memory else transition, spec, ring, scales=network.scales, far=far)
    if drawn.goal is None:
        found = jax.vmap(cut)(row, lane, passes)
    else:
        found = jax.vmap(lambda *at: cut(*at[:3], goal=at[3]))(row, lane, passes, drawn.goal)
    if drawn.whole is not None:
        found = found._replace(start=_of_whole(found.start, drawn.whole))
    return drawn, _turned(spec, network, found, bits)


def _of_whole(start: Start, whole: Bool[Array, "batch"]) -> Start:
    """The starts, of which those whose rows are lost teach nothing."""
    return start._replace(weight=start.weight * whole.reshape(-1, *[1] * (start.weight.ndim - 1)))


def _turned(
    spec: AgentSpec, network: Network, batch: Transition | Window, bits: UInt32[Array, "batch words"]
) -> Transition | Window:
    """Each example by a symmetry of its own, where these are learned from."""
    if not _turning(spec):
        return batch

    def one(example: Any, word: UInt32[Array, ""]) -> Any:
        which = symmetry.drawn(word)
        observe = partial(symmetry.turned, network.space, network.actions, which=which)
        act = partial(symmetry.turned_action, network.space, network.actions, which=which)
        example = example._replace(start=example.start._replace(action=act(example.start.action)))
        if isinstance(example, Transition):
            return example._replace(observation=observe(example.observation), following=observe(example.following))
        previous = example.previous._replace(action=act(example.previous.action))
        return example._replace(frames=observe(example.frames), previous=previous)

    return jax.vmap(one)(batch, bits[:, -1])


def _embedded(
    spec: AgentSpec, network: Network, ring: Ring, row: Int[Array, ""], lane: Int[Array, ""]
) -> Float[Array, "embedding"]:
    return network.embed(sampling.stacked(ring, row, lane, spec.observation.stack, spec.may_be_blank))


def loss(
    spec: AgentSpec,
    recall: RecallState | None,
    params: Network,
    target: Network,
    batch: Transition | Window,
    importance: Float[Array, "batch"] | None,
    by: Score,
) -> tuple[Float[Array, ""], Scored]:
    """The mean loss of a batch over the rows that have a successor, and what it is made of.

    `importance` weighs the examples of a batch and leaves the number of rows that the mean is over as it is. `by`: what
    gives the loss of one action.
    """
    one: Any = score_window if spec.has_memory else score_transition
    scored = jax.vmap(partial(one, spec, Nets(params, target, recall), by=by))(batch)
    each = scored.weight * scored.loss
    if importance is not None:
        each = each * importance.reshape(-1, *[1] * (each.ndim - 1))
    return each.sum() / jnp.maximum(scored.weight.sum(), 1.0), scored


def told(scored: Scored) -> Metrics:
    """What is reported of a batch: the mean Q of the actions taken, and all else, over the rows with a successor."""
    each = {"q_mean": scored.q, **(scored.told or {})}
    rows = jnp.maximum(scored.weight.sum(), 1.0)
    return {name: (scored.weight * value).sum() / rows for name, value in each.items()}


def sound(scored: Scored) -> Bool[Array, ""]:
    """Whether all errors are finite. A loss may be where its target is not: fixed atoms end at their range."""
    return (jnp.isfinite(scored.error) | (scored.weight == 0)).all()


def surprise(scored: Scored) -> Surprise:
    """How wrong each example was; of a window 0.9 of the greatest and 0.1 of the mean over the rows of its loss."""

    def one(each: Float[Array, "*batch"]) -> Float[Array, "batch"]:
        each = jnp.where(scored.weight > 0, scored.weight * each, 0.0)
        if each.ndim == 1:
            return each
        return 0.9 * each.max(1) + 0.1 * each.sum(1) / jnp.maximum(scored.weight.sum(1), 1.0)

    taught = scored.weight > 0 if scored.weight.ndim == 1 else None  # another window of that row may teach
    return Surprise(one(scored.error), jax.lax.stop_gradient(one(scored.own)), taught)


# -- transitions -----------------------------------------------------------------------------------------------------


def transition(
    spec: AgentSpec,
    ring: Ring,
    row: Int[Array, ""],
    lane: Int[Array, ""],
    bits: UInt32[Array, "words"],
    scales: Scales | None = None,
    far: Horizon | None = None,
    goal: Int[Array, ""] | None = None,
) -> Transition:
    """The n-step transition that starts at one row of the replay. `goal`: see `Drawn.goal`."""
    far = far or horizon(spec, None)
    rows = sampling.rows_from(ring, row, lane, spec.rows)
    paid = rows.reward[:-1]
    if goal is not None:
        paid = hindsight.rewards(ring, row, lane, goal, paid, spec.draw.rule)
    reward = as_learned(spec, scales, paid)
    sign = None if rows.sign is None else rows.sign[:-1]
    step = n_step(reward, rows.terminated[:-1], rows.is_first[1:], far.powers, far.rewards, sign)
    observe = partial(sampling.stacked, ring, lane=lane, stack=spec.observation.stack, unknown=spec.may_be_blank)
    weight = 1.0 - rows.is_first[1].astype(jnp.float32)
    start = Start(rows.action[0], step, weight)
    now, later = observe(row), observe(row + step.offset)
    if goal is not None:
        now = hindsight.wanting(ring, row, lane, goal, now)
        later = hindsight.wanting(ring, row + step.offset, lane, goal, later)
    return Transition(start, now, later, bits.reshape(LOOKS, -1))


def score_transition(spec: AgentSpec, nets: Nets, example: Transition, by: Score) -> PyTree:
    """What `by` says of one transition, such as its loss."""
    now, lag, ahead = example.bits
    lagged = nets.target(example.following, lag)
    online = nets.params(example.following, ahead) if needs_online(spec) else lagged
    following = look_ahead(spec, nets, example.following, online, lagged)
    if spec.bootstrap.asks == "here":
        preference = nets.target(example.observation, lag).preference
        following = following._replace(here=Here(preference, example.start.action))
    decision = nets.params(example.observation, now)
    return by(spec, nets, example.observation, decision, example.start, following)


# -- windows ---------------------------------------------------------------------------------------------------------


def window(
    spec: AgentSpec,
    ring: Ring,
    row: Int[Array, ""],
    lane: Int[Array, ""],
    bits: UInt32[Array, "words"],
    scales: Scales | None = None,
    far: Horizon | None = None,
) -> Window:
    """The window that begins at one row of the replay, with n-step targets for each of its first `window` rows."""
    far = far or horizon(spec, None)
    size, n = spec.replay.window, spec.most_steps
    before = sampling.rows_from(ring, row - 1, lane, spec.rows)
    rows = sampling.rows_from(ring, row, lane, spec.rows)
    starts = jnp.arange(size)[:, None] + jnp.arange(n)
    reward = as_learned(spec, scales, rows.reward)
    returns = jax.vmap(partial(n_step, powers=far.powers, count=far.rewards))
    more = {} if rows.sign is None else {"sign": rows.sign[starts]}
    step = returns(reward[starts], rows.terminated[starts], rows.is_first[starts + 1], **more)
    begun = jnp.cumsum(rows.is_first[:size]) > 0  # the carry is as it was when acting, however early that is
    learned = begun | (jnp.arange(size) >= spec.replay.burn_in)
    weight = learned & ~rows.is_first[1 : size + 1]
    return Window(
        start=Start(rows.action[:size], step, weight.astype(jnp.float32)),
        carry=sampling.carry_at(ring, row, lane),
        frames=sampling.stacked_window(ring, row, lane, spec.rows, spec.observation.stack, spec.may_be_blank),
        is_first=rows.is_first,
        previous=Previous(before.action, as_learned(spec, scales, before.reward)),
        bits=bits.reshape(2, spec.rows, -1),
    )


def score_window(spec: AgentSpec, nets: Nets, example: Window, by: Score) -> PyTree:
    """What `by` says of every row of a window, its memory filled from the first row on. Leaves [window].

    The gradient flows back to the first row, the burn-in included: it may hold what a later row needs.

    Sources: Hausknecht & Stone 2015 (arXiv 1507.06527) for windows, Kapturowski et al. 2019 for stored carries and the
    burn-in, Esslinger et al. 2022 (arXiv 2206.01078) for a loss at every row.
    """
    carry = example.carry if spec.replay.stored_carry else nets.params.working.init()
    seen = example.frames, example.is_first, example.previous
    _, online = nets.params.unroll(carry, *seen, example.bits[0])
    _, lagged = nets.target.unroll(carry, *seen, example.bits[1])
    following = jax.vmap(partial(look_ahead, spec, nets))(example.frames, online, lagged)
    number = jnp.arange(spec.replay.window)
    following = jax.tree.map(lambda leaf: leaf[number + example.start.step.offset], following)
    frames, decision = jax.tree.map(lambda leaf: leaf[: spec.replay.window], (example.frames, online))
    if spec.bootstrap.asks == "here":
        preference = lagged.preference[: spec.replay.window]
        following = following._replace(here=Here(preference, example.start.action))
    return jax.vmap(partial(by, spec, nets))(frames, decision, example.start, following)


# -- both ------------------------------------------------------------------------------------------------------------


def needs_online(spec: AgentSpec) -> bool:
    """Whether the network that learns must look at the next observation as well: to pick, or to ask the memory."""
    return spec.double or (spec.recall.keys == "online" and spec.bootstrap.asks == "memory")


def look_ahead(spec: AgentSpec, nets: Nets, frames: PyTree, online: Decision, lagged: Decision) -> Following:
    """What is known of an observation to bootstrap from."""
    selector = (online if spec.double else lagged).preference
    if spec.bootstrap.asks != "memory" or nets.recall is None:
        return Following(lagged.returns, selector)
    told = reading.consult(spec, nets.recall, nets.params, nets.target, frames, online)[1]
    return Following(lagged.returns, selector, told.external.q, told.share)  # type: ignore[union-attr]


def score(
    spec: AgentSpec, nets: Nets, frames: PyTree, decision: Decision, start: Start, following: Following
) -> Scored:
    """The loss of one action's return against its target, and what an external memory adds to it."""
    if spec.asks_when_learning and nets.recall is not None:
        decision = reading.consult(spec, nets.recall, nets.params, nets.target, frames, decision)[1]
    following = following._replace(similar=_similar(spec, nets, decision, start.action))
    target = bootstrapped(spec, start.step, following)
    own = decision.returns.of(start.action)
    predicted = decision.returned(start.action) if spec.recall.train_through_memory else own
    loss = spec.loss(predicted, target)
    error = jnp.abs(target.mean - predicted.mean)
    every = loss + (_imitation(spec, decision, own, start.action) + _margin(spec, decision, start))
    if spec.conservative.weight:
        every = every + held_down(spec, decision.returns.q, decision.allowed, start)
    q = stretched(predicted.mean) if spec.reward.rescale else predicted.mean
    return Scored(every, loss, q, jax.lax.stop_gradient(error), start.weight)


def bootstrapped(spec: AgentSpec, step: NStep, following: Following) -> Distribution:
    """The target, as the network predicts it: h(r + gamma h^-1(Z')) where returns are rescaled by h.

    Source: Kapturowski et al. 2019, section 2.3.
    """
    if not spec.reward.rescale:
        return spec.bootstrap(step, following)
    returns = eqx.tree_at(lambda each: each.atoms, following.returns, stretched(following.returns.atoms))
    similar, here = following.similar, following.here
    plain = Following(
        returns,
        _stretched_preference(following.selector),
        None if following.memory is None else stretched(following.memory),
        following.share,
        None if similar is None else similar._replace(value=stretched(similar.value)),
        None if here is None else here._replace(preference=_stretched_preference(here.preference)),
    )
    target = spec.bootstrap(step, plain)
    return target._replace(atoms=squashed(target.atoms))


def _stretched_preference(preference: Float[Array, "actions"]) -> Float[Array, "actions"]:
    """Forbidden actions stay at minus infinity."""
    forbidden = jnp.isneginf(preference)
    return jnp.where(forbidden, preference, stretched(jnp.where(forbidden, 0.0, preference)))


def _similar(spec: AgentSpec, nets: Nets, told: Decision, action: Int[Array, ""]) -> Similar | None:
    if spec.bootstrap.asks != "successors" or nets.recall is None or told.external is None:
        return None
    return reading.similar(nets.recall, nets.target, told.external, action)


def _imitation(spec: AgentSpec, told: Decision, own: Distribution, action: Int[Array, ""]) -> Float[Array, ""] | float:
    """A loss that draws the network's own Q to the value stored for the same action, as far as that is near."""
    if not spec.recall.imitation_weight or told.external is None:
        return 0.0
    # No gradient through the read: the loss could be escaped by moving away from what is remembered.
    read: Any = jax.lax.stop_gradient((told.external.q, told.external.confidence))
    held, certain = (part[action] for part in read)
    return spec.recall.imitation_weight * certain * spec.loss(own, Distribution(held[None], jnp.ones(1)))


def _margin(spec: AgentSpec, told: Decision, start: Start) -> Float[Array, ""] | float:
    """The weighted large-margin loss of a demonstration, of the network's own Q."""
    if start.shown is None or not spec.demos.margin_weight:
        return 0.0
    lacks = large_margin(told.returns.q, told.allowed, start.action, spec.demos.margin)
    return spec.demos.margin_weight * start.shown * lacks


def held_down(
    spec: AgentSpec, q: Float[Array, "actions"], allowed: Bool[Array, "actions"] | None, start: Start
) -> Float[Array, ""]:
    """The weighted conservative term of one action, of the network's own Q; 0 for rows that do not have it."""
    held = spec.conservative
    term = held.weight * conservative(q, allowed, start.action, held.temperature)
    if held.on == "all":
        return term
    return jnp.zeros(()) if start.shown is None else start.shown * term
