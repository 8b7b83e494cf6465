"""One step of an agent as a plain function of named arrays: what every format of an export is made from.

    step = step_of(spec, mind)
    outputs = step.function(*inputs)        arrays in the order of `step.inputs` and `step.outputs`

What an agent keeps from one observation to the next goes in and comes out by name: output `next.X` is the input `X` of
the next step. The entries of an external memory are inputs. There are no parameters and no random numbers: noisy layers
are without noise, and quantiles that training draws lie at even levels (`Network.still`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from engram import spaces, trees
from engram.agents.mind import MindSpec
from engram.agents.network import Network, Previous
from engram.agents.policy import Mind
from engram.agents.recall.reading import consult
from engram.agents.statistics import as_learned
from engram.envs.host.parts import Part
from engram.errors import SpecError
from engram.exporting.lowering import Plain
from engram.types import Decision

NEXT = "next."  # what an output is called that goes in again
FRAMES, CARRY, ACTION, REWARD = "carry.frames", "carry.working", "carry.action", "reward"
MEMORY = {"key": "memory_keys", "value": "memory_values", "live": "memory_filled"}  # the usual columns of a store
# 16 bits, and 8 with a sign, are rare among the operations of other libraries: such numbers go in as 32 bits.
PLAIN = ("float32", "int32", "uint8", "bool")


class Shown(NamedTuple):
    """A part of the observation: how the environment shows it, and how it is stored."""

    port: "Port | None"  # None for one that no agent sees
    leaf: spaces.Leaf
    start: Any = 0  # what is taken off categories

    def stored(self, value: Array) -> Array:
        """The part as the network takes it."""
        value = value.reshape(self.leaf.shape)
        return value if np.all(np.asarray(self.start) == 0) else value - jnp.asarray(self.start, value.dtype)


class Port(NamedTuple):
    """One array that goes into a step, or comes out of it."""

    name: str
    shape: tuple[int, ...]  # without the batch
    dtype: str
    meaning: str
    batched: bool = True  # whether the batch is its first axis; the entries of a memory are for the whole batch


@dataclass(frozen=True)
class Step:
    """A step: `one` is of one example, `function` of a batch of them, a leading axis where a port is `batched`.

    `start`: what goes in besides the observation and the reward at an episode's first step, by the name of the input:
    rows of what is carried, without a batch, and the entries of the memory.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    one: Callable[..., tuple[Array, ...]]
    start: dict[str, np.ndarray]
    shown: tuple[Shown, ...] = ()  # the parts of the observation
    sizes: tuple[int, ...] = ()  # values of each number of an action, where each has a value of its own

    @property
    def axes(self) -> tuple[int | None, ...]:
        """Of each input the axis of the batch, as `vmap` takes it."""
        return tuple(0 if port.batched else None for port in self.inputs)

    @property
    def function(self) -> Callable[..., tuple[Array, ...]]:
        """The step of a batch."""
        return jax.vmap(self.one, in_axes=self.axes)

    def first(self, batch: int) -> dict[str, np.ndarray]:
        """`start` for a batch of episodes that begin."""
        batched = {port.name for port in self.inputs if port.batched}
        return {
            name: np.broadcast_to(value, (batch, *value.shape)) if name in batched else value
            for name, value in self.start.items()
        }


def step_of(spec: MindSpec, mind: Mind, parts: Sequence[Part] | None = None) -> Step:
    """The step of an agent. Raises SpecError where two of its arrays would have one name.

    `parts`: how a host environment shows the parts of an observation; None where it shows them as they are stored.
    """
    shown = _shown(mind.network.space, parts)
    start = _start(spec, mind, shown)
    carried = [_carried(name, value) for name, value in start.items()]
    stored = {} if mind.recall is None else _stored(mind.recall.store)
    inputs = [one.port for one in shown if one.port is not None] + carried
    if mind.network.reads_reward:
        inputs.append(Port(REWARD, (), "float32", "reward of the step before; 0 at an episode's first step"))
    inputs += [_entry(name, value) for name, value in stored.items()]
    if len({port.name for port in inputs}) < len(inputs):
        raise SpecError("two parts of the observation would be inputs of one name; rename one of them")
    names: list[str] = []

    def one(*arrays: Any) -> tuple[Array, ...]:
        given = dict(zip((port.name for port in inputs), arrays, strict=True))
        found = _outputs(spec, mind, shown, given)
        names[:] = [name for name, _ in found]
        return tuple(value for _, value in found)

    shapes = jax.eval_shape(one, *examples(inputs))
    outputs = [
        Port(
            name,
            tuple(shape.shape),
            str(shape.dtype),
            _TOLD.get(name) or f"{name.removeprefix(NEXT)} for the next step",
        )
        for name, shape in zip(names, shapes, strict=True)
    ]
    used = Plain(one, examples(inputs)).reads
    kept = [port for port, reads in zip(inputs, used, strict=True) if reads or port.batched]
    blank = {port.name: np.zeros(port.shape, port.dtype) for port in inputs if port not in kept}

    def pruned(*arrays: Any) -> tuple[Array, ...]:
        given: dict[str, Any] = blank | dict(zip((port.name for port in kept), arrays, strict=True))
        return one(*(given[port.name] for port in inputs))

    entries = {name: np.asarray(value) for name, value in stored.items() if name not in blank}
    sizes = tuple(mind.network.sizes) if spec.head.decouples else ()
    return Step(tuple(kept), tuple(outputs), pruned, start | entries, tuple(shown), sizes)


def examples(ports: Sequence[Port], batch: Any = None) -> list[jax.ShapeDtypeStruct]:
    """The shapes of arrays for these ports: of one example, or of a batch."""
    return [
        jax.ShapeDtypeStruct((batch, *port.shape) if batch is not None and port.batched else port.shape, port.dtype)
        for port in ports
    ]


# -- what goes in ----------------------------------------------------------------------------------------------------


def _shown(space: spaces.Space, parts: Sequence[Part] | None) -> list[Shown]:
    """The parts of an observation, in the order of `jax.tree.leaves`."""
    leaves = list(spaces.leaves(space))
    if parts is None:
        return [Shown(_port(space, path, leaf, leaf.shape, ""), leaf) for path, leaf in leaves]
    both = zip(leaves, parts, strict=True)
    return [
        Shown(_port(space, path, leaf, leaf.shape if isinstance(leaf, spaces.Text) else part.given_shape, _told(part)),
              leaf, 0 if isinstance(leaf, spaces.Text) else part.start)
        for (path, leaf), part in both
    ]  # fmt: skip


def _port(space: spaces.Space, path: str, leaf: spaces.Leaf, shape: tuple[int, ...], told: str) -> Port | None:
    """The input of a part; None for one that no agent sees."""
    dtype, named = leaf.dtype if leaf.dtype in PLAIN else "int32", isinstance(space, spaces.Dict)
    if named and path == spaces.TEAM_STATE:
        return None
    if named and path == spaces.MASK:
        return Port(path, shape, dtype, "which actions are allowed: 0 for a forbidden one, else 1")
    if named and path == spaces.OFFERED:
        return Port(path, shape, dtype, "the features of each action on offer")
    alone = named and path == "observation" and not isinstance(spaces.seen(space), spaces.Dict)
    name = "observation" if not path or alone else f"observation.{path}"
    return Port(name, shape, dtype, told or _meaning(leaf))


def _told(part: Part) -> str:
    """What a person must know to make the array of what an environment of Gymnasium shows."""
    leaf, start = part.stored, np.asarray(0 if isinstance(part.stored, spaces.Text) else part.start)
    if isinstance(leaf, spaces.Text):
        return f"a text of at most {leaf.length} characters: i + 1 for character i of `characters`, and 0 after its end"
    if isinstance(leaf, spaces.Box):
        return _meaning(leaf)
    low = f"from {start.flat[0]}" if (start == start.flat[0]).all() else f"from {start.tolist()}"
    return f"one of {leaf.n} categories, {low}" if isinstance(leaf, spaces.Discrete) else f"categories, {low}"


def _meaning(leaf: spaces.Leaf) -> str:
    """What the numbers of a part are, as they are stored."""
    if isinstance(leaf, spaces.Discrete):
        return f"one of {leaf.n} categories, from 0"
    if isinstance(leaf, spaces.MultiDiscrete):
        return "categories, from 0"
    if isinstance(leaf, spaces.Text):
        return f"a text as symbols 1 to {leaf.symbols}, and 0 after its end"
    bounds = "" if leaf.bounds == "none" else f", within {leaf.bounds}"
    return f"numbers as the environment shows them{bounds}"


def _start(spec: MindSpec, mind: Mind, shown: Sequence[Shown]) -> dict[str, np.ndarray]:
    """What an episode begins with, without a batch."""
    network, older = mind.network, spec.observation.stack - 1
    found: dict[str, Any] = {
        _frames_name(one.port): np.full(
            (older, *one.leaf.shape), spaces.blank(one.leaf.dtype, spec.may_be_blank), one.port.dtype
        )
        for one in shown if older and one.port is not None
    }  # fmt: skip
    found |= {name: np.asarray(value) for name, value in trees.named(network.working.init(), CARRY).items()}
    return found | ({ACTION: np.asarray(-1, np.int32)} if network.reads_action else {})


def _frames_name(port: Port) -> str:
    """What the older observations of a part are called."""
    inner = port.name.removeprefix("observation").removeprefix(".")
    return f"{FRAMES}.{inner}" if inner else FRAMES


def _carried(name: str, value: np.ndarray) -> Port:
    if name == ACTION:
        meaning = "the action of the step before; -1 at an episode's first step"
    elif name.startswith(FRAMES):
        meaning = f"the {len(value)} observations before this one, oldest first"
    else:
        meaning = "what the working memory keeps from one step to the next"
    return Port(name, value.shape, str(value.dtype), meaning)


def _stored(store: PyTree) -> dict[str, Any]:
    """The arrays of an external memory, by the names of inputs: their own, or the path where that is taken."""
    found: dict[str, Any] = {}
    for path, leaf in trees.named(store).items():
        own = path.split(".")[-1]
        name = MEMORY.get(own, f"memory_{own}")
        found[f"memory.{path}" if name in found else name] = leaf
    return found


def _entry(name: str, value: Any) -> Port:
    told = {
        "memory_keys": "the key of each entry",
        "memory_values": "the value of each entry, in units of return",
        "memory_filled": "which places hold an entry",
        "memory_length": "the squared length of each key",
    }
    meaning = told.get(name, f"`{name[7:]}` of the memory, as its kind keeps it")  # without "memory_"
    return Port(name, tuple(value.shape), str(value.dtype), meaning, batched=False)


# -- what comes out --------------------------------------------------------------------------------------------------


def _outputs(spec: MindSpec, mind: Mind, shown: Sequence[Shown], given: dict[str, Array]) -> list[tuple[str, Array]]:
    """The outputs by name, of inputs by name."""
    network = mind.network
    newest, frames = _frames(spec, network, shown, given)
    if mind.recall is not None:
        leaves = [given[name] for name in _stored(mind.recall.store)]
        store = jax.tree.unflatten(jax.tree.structure(mind.recall.store), leaves)
        mind = replace(mind, recall=replace(mind.recall, store=store))
    like = network.working.init()
    carry = jax.tree.unflatten(jax.tree.structure(like), [given[name] for name in trees.named(like, CARRY)])
    action: Any = given.get(ACTION, jnp.int32(0))
    reward: Any = given.get(REWARD, jnp.zeros(()))
    is_first = action < 0  # the carry that an episode begins with is an empty one already
    previous = Previous(jnp.maximum(action, 0), as_learned(spec, network.scales, reward))
    carry, decision = network.step(carry, frames, is_first, previous, network.still)
    if mind.recall is not None:
        target = network if mind.target is None else mind.target.seeing(network.scales)
        decision = consult(spec, mind.recall, network, target, frames, decision)[1]
    taken = decision.best.astype(jnp.int32)
    found = [*_estimates(decision), ("action", taken), *newest]
    found += [(NEXT + name, leaf) for name, leaf in trees.named(carry, CARRY).items()]
    found += [(NEXT + ACTION, taken)] if network.reads_action else []
    return found + _attention(decision)


def _frames(
    spec: MindSpec, network: Network, shown: Sequence[Shown], given: dict[str, Array]
) -> tuple[list[tuple[str, Array]], PyTree]:
    """The older frames of the next step, and the stacked observation [stack, ...] of this one."""
    leaves, older = [], []
    for one in shown:
        if one.port is None:
            leaves.append(jnp.zeros((spec.observation.stack, *one.leaf.shape), one.leaf.dtype))
            continue
        stacked = one.stored(given[one.port.name])[None]
        if spec.observation.stack > 1:
            name = _frames_name(one.port)
            stacked = jnp.concatenate([given[name], stacked])
            older.append((NEXT + name, stacked[1:]))
        leaves.append(stacked)
    return older, jax.tree.unflatten(jax.tree.structure(spaces.zeros(network.space)), leaves)


def _estimates(decision: Decision) -> list[tuple[str, Array]]:
    """Q, or the logits of a policy and the value under it."""
    if decision.returns.policy is None:
        return [("q", decision.q)]
    found = [("logits", decision.returns.policy)]
    if decision.returns.twins is not None:
        found.append(("q", decision.q))
    return [*found, ("value", decision.value)]


def _attention(decision: Decision) -> list[tuple[str, Array]]:
    """The weights of each attention that there is, and what they are over."""
    external = decision.external
    found = [
        ("weights.encoder", decision.encoding.attention),
        ("weights.working", decision.working.weights),
        ("weights.actions", decision.returns.attention),
    ]
    if external is not None:
        found += [("weights.memory", external.weights), ("entries.memory", external.entries)]
        found += [] if decision.share is None else [("share", decision.share)]
    return [(name, value) for name, value in found if 0 not in value.shape]


_TOLD = {
    "q": "Q of each action: the mean of its return",
    "logits": "the policy's logits; softmax makes probabilities of them",
    "value": "what the observation is worth under the policy",
    "action": "the best action that is allowed",
    "weights.encoder": "attention of the encoder: heads, parts of the observation",
    "weights.working": "attention of the working memory: heads, 1, steps or places",
    "weights.actions": "attention of the head: heads, actions",
    "weights.memory": "attention of the external memory: heads, actions, entries that were read",
    "entries.memory": "the numbers of the entries that were read; -1 for none",
    "share": "the external memory's weight in Q of each action, 0 to 1",
}
