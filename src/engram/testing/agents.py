"""The contract of agents as a function: `check_agent`."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram.agents.agent import Acted, Agent, AgentState, Experience, Rhythm
from engram.agents.policy import Seen
from engram.nn.observation import mask_of
from engram.spaces import MASK
from engram.testing import contracts
from engram.testing.contracts import ContractFault, form
from engram.testing.encoders import observations
from engram.trees import named
from engram.types import TimeStep

MEMBERS = tuple(name for name in vars(Agent) if not name.startswith("_"))
MOMENTS = 2  # of learning that are tried
LONGEST = 7  # steps of an episode, on average
compare = partial(contracts.compare, equal_nan=True)  # a state holds NaN where an agent takes it as missing
ACT = jax.jit(lambda agent, *given: agent.act(*given), static_argnums=0)
OBSERVE = jax.jit(lambda agent, *given: agent.observe(*given), static_argnums=0)
LEARN = jax.jit(lambda agent, state: agent.learn(state), static_argnums=0)


def check_agent(agent: Any, *, seed: int = 0) -> None:
    """Hold an agent to its contract, in a random environment of its space, for two moments of learning.

    Checked:

    - every member of the protocol is there, and the agent is a hashable value;
    - `init`, `act`, `observe` and `learn` keep structure, shapes and types;
    - they give the same for the same key, compiled or not;
    - they change only their own parts of the state, of which the mind is leaves;
    - actions are allowed ones, and padding leaves no trace;
    - answers to a runner's questions have the form that it needs.

    Give it an agent that begins to learn early, or it takes long.

    Raises: ContractFault with the first thing that is wrong.
    """
    _check_members(agent)
    state = agent.init(jax.random.PRNGKey(seed))
    _check_init(agent, state, seed)
    _check_mind(agent, state)
    random = np.random.default_rng(seed)
    steps = max(1, -(-agent.rhythm.first // (agent.envs * agent.rhythm.acts)))
    opens = np.ones(agent.envs, bool)
    for moment in range(steps + MOMENTS - 1):
        state, opens = _block(agent, state, random, opens, first=moment == 0)
        if moment >= steps - 1:
            state = _learned(agent, state)
    _check_asked(agent, state)


def _check_members(agent: Any) -> None:
    if lacking := _lacks(agent, MEMBERS):
        raise ContractFault(f"the agent has no {lacking[0]!r}; expected {', '.join(MEMBERS)}: see agents/agent.py")
    try:
        hash(agent)
    except TypeError as error:
        raise ContractFault("the agent cannot be hashed; make it a frozen dataclass of specs and numbers") from error
    rhythm = agent.rhythm
    if _lacks(rhythm, Rhythm._fields) or rhythm.acts < 1 or rhythm.first < 0 or rhythm.lag not in (0, 1):
        raise ContractFault(f"the rhythm is {rhythm!r}; expected a Rhythm with acts >= 1, first >= 0 and lag 0 or 1")
    if not isinstance(agent.metrics, tuple) or not all(isinstance(name, str) for name in agent.metrics):
        raise ContractFault(f"`metrics` is {agent.metrics!r}; expected a tuple of names")


def _lacks(value: Any, names: tuple[str, ...]) -> list[str]:
    """Those of the names that a value has no attribute of."""
    return [name for name in names if not hasattr(value, name)]


def _check_init(agent: Any, state: Any, seed: int) -> None:
    if lacking := _lacks(state, ("actor", "learner", "replay", "recall")):
        raise ContractFault(f"the state has no {lacking[0]!r}; expected an AgentState")
    for name, leaf in named(state).items():
        if not isinstance(leaf, jax.Array):
            raise ContractFault(f"the state's {name!r} is a {type(leaf).__name__}; expected an array")
    again = jax.jit(agent.init)(jax.random.PRNGKey(seed))
    _same_form("init", state, again, "compiled")
    compare(state, again, "the same key gives another agent when `init` is compiled", 1e-5)
    other = agent.init(jax.random.PRNGKey(seed + 1))
    if jax.tree.structure(other) != jax.tree.structure(state):
        raise ContractFault("another key gives a state of another structure; keep what depends on the key in arrays")


def _check_mind(agent: Any, state: AgentState) -> None:
    own = {id(leaf) for leaf in jax.tree.leaves(state)}
    for name, leaf in named(agent.mind(state)).items():
        if id(leaf) not in own:
            raise ContractFault(f"the mind's {name!r} is no leaf of the state; take the state's own arrays")
    without = replace(state, actor=None)
    numbered = jax.tree.unflatten(jax.tree.structure(without), range(len(jax.tree.leaves(without))))
    places, shared = jax.tree.leaves(agent.mind(numbered)), list(agent.shared(numbered))
    if not all(isinstance(place, int) for place in places):
        raise ContractFault("the mind is made of more than leaves of the state without its actor; give those alone")
    if len({*places, *shared}) < len(places) + len(shared):
        raise ContractFault("a leaf of the mind is there twice, or is `shared` between seeds; give each once")


def _block(
    agent: Any, state: AgentState, random: np.random.Generator, opens: np.ndarray, first: bool
) -> tuple[AgentState, np.ndarray]:
    """The state after as many random steps as lie between two moments of learning, and where episodes begin next."""
    envs, rows, noted, ends = agent.envs, [], [], []
    for _ in range(agent.rhythm.acts):
        seen = Seen(_seen(agent, random), jnp.asarray(opens), jnp.asarray(random.normal(size=envs), jnp.float32))
        mind = agent.mind(state)
        acted = ACT(agent, mind, state.actor, seen)
        if first and not rows:
            _check_acted(agent, mind, state.actor, seen, acted)
        done = random.random(envs) < 1 / LONGEST
        reward = jnp.asarray(random.normal(size=envs), jnp.float32)
        terminated = jnp.asarray(done & (random.random(envs) < 0.5))
        rows.append(TimeStep(seen.observation, seen.is_first, acted.action, reward, terminated))
        noted.append(acted.noted)
        ends.append(jnp.asarray(done))
        state, opens = replace(state, actor=acted.actor), done
    stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    final = stack(*[_seen(agent, random) for _ in rows])
    keep = jnp.ones((len(rows), envs), bool)
    experience = Experience(stack(*rows), jnp.stack(ends), final, keep, stack(*noted))
    return _observed(agent, state, experience), opens


def _seen(agent: Any, random: np.random.Generator) -> PyTree:
    """A random observation of every environment, of which some action may be taken."""
    found = observations(agent.space, (agent.envs,), random)
    if isinstance(found, dict) and MASK in found:
        found[MASK] = found[MASK].at[:, 0].set(jnp.ones((), found[MASK].dtype))
    return found


def _check_acted(agent: Any, mind: PyTree, actor: PyTree, seen: Seen, acted: Any) -> None:
    if lacking := _lacks(acted, Acted._fields):
        raise ContractFault(f"`act` gave a {type(acted).__name__} without {lacking[0]!r}; expected an Acted")
    _same_form("act", actor, acted.actor, "the actor")
    action = np.asarray(acted.action)
    if action.shape != (agent.envs,) or action.dtype != np.int32:
        raise ContractFault(f"actions are {action.dtype}{list(action.shape)}; expected int32[{agent.envs}]")
    allowed = mask_of(agent.space, seen.observation, agent.actions)
    legal = (action >= 0) & (action < agent.actions)
    if not legal.all() or (allowed is not None and not np.asarray(allowed)[np.arange(agent.envs), action].all()):
        raise ContractFault(f"`act` gave actions {action.tolist()}; expected allowed ones of {agent.actions}")
    again = agent.act(mind, actor, seen)
    compare((acted.action, acted.actor), (again.action, again.actor), "`act` gives otherwise when not compiled", 1e-4)


def _observed(agent: Any, state: AgentState, experience: Experience) -> AgentState:
    after = OBSERVE(agent, state, experience)
    _same_form("observe", state, after, "the state")
    compare(state.actor, after.actor, "`observe` changed the actor", 0)
    padding = OBSERVE(agent, state, experience._replace(keep=jnp.zeros_like(experience.keep)))
    compare(state, padding, "padding, where `keep` is False, left a trace", 0)
    apart = OBSERVE(agent, replace(state, actor=None), experience)
    if apart.actor is not None:
        raise ContractFault(
            "`observe` made an actor where the state has None; leave it, for a runner keeps it elsewhere"
        )
    return after


def _learned(agent: Any, state: AgentState) -> AgentState:
    after, metrics = LEARN(agent, state)
    _same_form("learn", state, after, "the state")
    compare(state.actor, after.actor, "`learn` changed the actor", 0)
    compare(
        after, LEARN(agent, state)[0], "the same state learns otherwise a second time; draw from a key of the state", 0
    )
    if set(metrics) != set(agent.metrics):
        raise ContractFault(f"`learn` reports {sorted(metrics)}, and `metrics` says {sorted(agent.metrics)}")
    for name, value in metrics.items():
        if value.shape != () or value.dtype != jnp.float32 or not np.isfinite(value):
            raise ContractFault(
                f"the metric {name!r} is {value.dtype}{list(value.shape)} or not finite; expected a number"
            )
    apart = LEARN(agent, replace(state, actor=None))[0]
    compare(replace(after, actor=None), apart, "without an actor `learn` gives otherwise", 0)
    return after


def _check_asked(agent: Any, state: AgentState) -> None:
    rows = agent.rows(state)
    if not (isinstance(rows, tuple) and all(hasattr(ring, "cursor") for ring in rows)):
        raise ContractFault(f"`rows` gives {rows!r:.80}, but a tuple of rings was expected: () if it keeps none")
    put_back = agent.with_rows(state, rows)
    if jax.tree.structure(put_back) != jax.tree.structure(state):
        raise ContractFault("`with_rows` of the state's own `rows` gives a state of another structure")
    compare(state, put_back, "`with_rows` of the state's own `rows` changed it", 0)
    if rows and len(jax.tree.leaves(agent.with_rows(state, ()))) >= len(jax.tree.leaves(state)):
        raise ContractFault("`with_rows` of () leaves the rows in the state; put None in their place")
    own = {id(leaf) for leaf in jax.tree.leaves(state)}
    if not all(id(leaf) in own for leaf in agent.shared(state)):
        raise ContractFault("`shared` gives what is no leaf of the state; give the state's own arrays")
    step = agent.envs * agent.rhythm.acts
    for seeds in ([0], ()):  # as on the device, and as on the host
        if (fault := agent.fault(state, step, seeds)) is not None:
            raise ContractFault(f"`fault` says of a sound state: {fault}")
    _check_told("report", agent.report(state, step), (int, float, list, str, type(None)))
    sizes = agent.nbytes()
    _check_told("nbytes", sizes, (int,))


def _check_told(name: str, told: Any, kinds: tuple[type, ...]) -> None:
    try:
        json.dumps(told, allow_nan=False)
    except (TypeError, ValueError):
        told = None
    if not isinstance(told, dict) or not all(isinstance(value, kinds) for value in told.values()):
        raise ContractFault(f"`{name}` is no JSON values by name; use int() and float() on each")


def _same_form(way: str, before: Any, after: Any, what: str) -> None:
    one, other = form(before), form(after)
    if one != other or jax.tree.structure(before) != jax.tree.structure(after):
        changed = sorted({name for name in one | other if one.get(name) != other.get(name)}) or ["the structure"]
        name = changed[0]
        raise ContractFault(
            f"`{way}` made {what} another: {name!r} was {one.get(name)} and is {other.get(name)}; keep structure, "
            f"shapes and types"
        )
