"""Keys: what an observation is to the external memory, and when two situations count as the same."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.bits import fingerprint
from engram.nn.observation import offered_of


class Query(NamedTuple):
    """What is asked about one observation."""

    key: Float[Array, "embedding"]
    offered: Float[Array, "actions features"] | None


def query_of(
    spec: MindSpec,
    projection: Float[Array, "inputs width"] | None,
    network: Network,
    target: Network,
    frames: PyTree,
    embedding: Float[Array, "embedding"],
) -> Query:
    """The query for one stacked observation, whose embedding by the acting or learning network is given.

    `projection` is that of `recall.keys=frozen`, else None.
    No gradient flows into a frozen key, nor into one of the target network.
    """
    newest = jax.tree.map(lambda frame: frame[-1], frames)
    offered = offered_of(network.space, newest, network.actions)
    if projection is not None:
        embedding = flat(network, frames) @ projection
    elif spec.recall.keys == "target":
        embedding = jax.lax.stop_gradient(target.embed(frames))
    return Query(key_of(spec, embedding), offered)


def key_of(spec: MindSpec, embedding: Float[Array, "embedding"]) -> Float[Array, "embedding"]:
    """The key, or query, that an embedding makes."""
    return embedding / jnp.sqrt((embedding**2).sum() + 1e-6) if spec.recall.unit_keys else embedding


def flat(network: Network, frames: PyTree) -> Float[Array, "inputs"]:
    """Everything that is seen of a stacked observation as one row of numbers."""
    leaves = jax.tree.leaves(network.seen(frames))
    return jnp.concatenate([leaf.reshape(-1).astype(jnp.float32) for leaf in leaves])


def history(
    spec: MindSpec,
    past: UInt32[Array, "envs 2"],
    present: UInt32[Array, "envs 2"],
    is_first: Bool[Array, "envs"],
    action: Int[Array, "envs"],
    reward: Float[Array, "envs"],
) -> tuple[UInt32[Array, "envs 2"], UInt32[Array, "envs 2"]]:
    """The hash of a situation with its past, and the past of the next one.

    With a working memory equal observations are different situations where what came before them differs. `present`
    is the hash of the observation, `past` covers all that its episode showed before.
    """
    before = jnp.where(is_first[:, None], jnp.uint32(0), past)
    situation = jax.vmap(fingerprint)((before, present))
    seen = spec.observation
    told = action if seen.previous_action else None, reward if seen.previous_reward else None
    return situation, jax.vmap(fingerprint)((situation, told)) if jax.tree.leaves(told) else situation
