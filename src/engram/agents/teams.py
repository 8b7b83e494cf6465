"""How a team learns: its agents are lanes next to each other, and what they are worth is mixed before the loss.

    target = r + gamma^n mixing(Q_target(s'_1, a'_1), ..., Q_target(s'_N, a'_N))

Each a'_i is what agent i prefers, as a mixing that never falls allows. All agents share one network. Without a mixing
nothing here is used: each lane then learns by itself.

Sources: Sunehag et al. 2018 (arXiv 1706.05296), Rashid et al. 2018 (arXiv 1803.11485), eq. 6.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from engram import spaces
from engram.agents.examples import Nets, Scored, Start, Transition, Window, score_transition, score_window
from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.agents.rollout import Examples, Rollout, Steps, bounds, decisions, mean, sure, taken
from engram.agents.spec import AgentSpec
from engram.losses.bootstrap import Following, double
from engram.losses.returns import NStep
from engram.nn.observation import scaled
from engram.types import Decision, Metrics


def by_team(leaf: Array, agents: int) -> Array:
    """[teams * agents, ...] as [teams, ..., agents]."""
    return jnp.moveaxis(leaf.reshape(-1, agents, *leaf.shape[1:]), 1, -1)


def of_team(leaf: Array, agents: int) -> Array:
    """What is the same for all agents of a team: [teams * agents, ...] as [teams, ...]."""
    return leaf[::agents]


def state_of(network: Network, frames: PyTree) -> Array | None:
    """The newest `team_state` of stacked observations, [*leading, stack, ...]; None where none is read."""
    if not network.reads_state:
        return None
    box: Any = spaces.part_called(network.space, spaces.TEAM_STATE)
    return scaled(box, frames[spaces.TEAM_STATE])[..., -1, :]


def mixed(network: Network, q: Float[Array, "*leading agents"], state: Array | None) -> Float[Array, "*leading"]:
    """The value of each team."""
    mix = network.mixing
    for _ in range(q.ndim - 1):
        mix = jax.vmap(mix, in_axes=(0, None if state is None else 0))
    return mix(q, state)


# -- from a replay ---------------------------------------------------------------------------------------------------


class Alone(NamedTuple):
    """What one agent knows of its action. Leading axes [batch * agents] or [batch * agents, window]."""

    q: Float[Array, "*batch"]
    following: Float[Array, "*batch"]  # what the next observation is worth to it
    step: NStep
    weight: Float[Array, "*batch"]


def alone(spec: AgentSpec, nets: Nets, frames: PyTree, decision: Decision, start: Start, following: Following) -> Alone:
    """In the place of `examples.score`."""
    del spec, nets, frames
    ahead = double(following.returns, following.selector).mean
    return Alone(decision.returns.of(start.action).mean, ahead, start.step, start.weight)


def loss(
    spec: AgentSpec, agents: int, params: Network, target: Network, batch: Transition | Window
) -> tuple[Float[Array, ""], Scored]:
    """The mean loss over the rows of teams that have a successor, and what it is made of. As `examples.loss`.

    `batch`: the examples of all agents, as `examples.draw` cuts them.
    """
    one: Any = score_window if spec.has_memory else score_transition
    each: Alone = jax.vmap(partial(one, spec, Nets(params, target, None), by=alone))(batch)
    now, ahead = (None if state is None else of_team(state, agents) for state in _states(spec, params, batch))
    q = mixed(params, by_team(each.q, agents), now)
    following = mixed(target, by_team(each.following, agents), ahead)
    step, weight = jax.tree.map(partial(of_team, agents=agents), (each.step, each.weight))
    goal = jax.lax.stop_gradient(step.reward + step.discount * following)
    shape = q.shape
    losses = jax.vmap(spec.loss)(sure(q.reshape(-1)), sure(goal.reshape(-1))).reshape(shape)
    error = jax.lax.stop_gradient(jnp.abs(goal - q))
    scored = Scored(losses, losses, q, error, weight)
    return (weight * losses).sum() / jnp.maximum(weight.sum(), 1.0), scored


def _states(spec: AgentSpec, network: Network, batch: Transition | Window) -> tuple[Array | None, Array | None]:
    """The state of the world at each example, and where its target bootstraps."""
    if isinstance(batch, Transition):
        return state_of(network, batch.observation), state_of(network, batch.following)
    every = state_of(network, batch.frames)
    if every is None:
        return None, None
    number = jnp.arange(spec.replay.window)
    ahead = jax.vmap(lambda state, offset: state[number + offset])(every, batch.start.step.offset)
    return every[:, : spec.replay.window], ahead


# -- from rollouts ---------------------------------------------------------------------------------------------------


def mixed_steps(network: Network, agents: int, rollout: Rollout, steps: Steps) -> Steps:
    """The steps of each team, [time, teams]: what comes next is worth to all what it is worth to each, mixed.

    Nothing is known of what acting knew: that is of each agent.
    """
    last, first = bounds(rollout).last, slice(None, None, agents)
    state = None
    if network.reads_state:
        box: Any = spaces.part_called(network.space, spaces.TEAM_STATE)
        shown = (tree[spaces.TEAM_STATE][:, first] for tree in (rollout.row.observation, rollout.following))
        now, final = (scaled(box, numbers) for numbers in shown)
        after = jnp.concatenate([now[1:], now[-1:]])
        state = jnp.where(last[:, first, None], final, after)
    values = steps.following.reshape(len(last), -1, agents)
    each = steps.reward[:, first], steps.discount[:, first], mixed(network, values, state), steps.ends[:, first]
    return Steps(*each, None)


def together(examples: Examples, agents: int) -> Examples:
    """Examples of teams: [lanes or rows, ...] as [teams, agents, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(len(leaf) // agents, agents, *leaf.shape[1:]), examples)


def rollout_loss(spec: MindSpec, agents: int, network: Network, batch: Examples) -> tuple[Float[Array, ""], Metrics]:
    """The loss of a minibatch of teams, [teams, agents, ...], and what is reported of it."""
    teams = len(batch.weight)
    every = jax.tree.map(lambda leaf: leaf.reshape(teams * agents, *leaf.shape[2:]), batch)
    decision, rows = decisions(spec, network, every)

    def each(leaf: Array) -> Array:  # [teams * time, agents, ...]: windows have an axis of time behind the agents
        split = leaf.reshape(teams, agents, -1, *leaf.shape[1:])
        return jnp.swapaxes(split, 1, 2).reshape(-1, agents, *leaf.shape[1:])

    q = each(taken(decision, rows).mean)
    shown = state_of(network, rows.frames)
    joint = mixed(network, q, None if shown is None else each(shown)[:, 0])
    counted = rows._replace(weight=each(rows.weight)[:, 0])
    losses = jax.vmap(spec.loss)(sure(joint), sure(each(rows.target)[:, 0]))
    return mean(counted, losses), {"q_mean": mean(counted, joint)}
