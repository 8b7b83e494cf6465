"""What an exported policy computes beside the agent's own: every kind of part and every preset, at opset 17 and 23.

    python -m benchmarks.house.export_parity                     all: about 10 minutes
    python -m benchmarks.house.export_parity --cases 'head*'     some of them; --list shows all

Each case is an agent with random parameters and, where it has one, a filled external memory. It is exported, run in
onnxruntime along 3 steps of 16 random observations, and held against the agent in JAX. The difference is normwise: see
`engram.exporting.parity`. Latency is of one observation, as its median over 200 calls on one thread: of the file in
onnxruntime, and of the agent's compiled step and its `predict`.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Record, add_flags
from engram import registry, spaces, specs
from engram.agents.mind import MindSpec
from engram.agents.policy import Mind
from engram.agents.presets import PRESETS, preset
from engram.agents.recall.keys import key_of
from engram.errors import EngramError
from engram.exporting.onnx import converted, runner
from engram.exporting.parity import compared, observed
from engram.exporting.step import Step, step_of
from engram.external.memory import Entries
from engram.play.playing import Policy
from engram.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple

OPSETS = (17, 23)
ACTIONS, ENVS = 3, 8
NUMBERS, IMAGE, BOARD = Box((4,)), Box((84, 84), "uint8"), Box((10, 10, 4), "bool")
MIXED = Dict((("card", Discrete(5)), ("hands", MultiDiscrete((4, 2))), ("speed", Box((2,))), ("word", Text(3, 9))))
SYMBOLS, CARS = Tuple((Discrete(5), Text(3, 9))), Box((6, 5))
MASKED = Dict((("action_mask", Box((ACTIONS,), "bool")), ("observation", NUMBERS)))
OFFERED = Dict((*MASKED.items, ("offered", Box((ACTIONS, 5)))))
TRAFFIC = Box((5, 7), columns=spaces.columns_of(("presence", "x", "y", "vx", "vy", "cos_h", "sin_h")))
TEAM = Dict((*MASKED.items, ("team_state", Box((6,)))))


@dataclasses.dataclass(frozen=True)
class Case:
    """An agent to export: settings over a preset, for observations of a space."""

    space: spaces.Space = NUMBERS
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    preset: str = "dqn"
    actions: int = ACTIONS

    def spec(self) -> MindSpec:
        return specs.override_all(preset(self.preset, self.space, 1_000), self.settings)

    def mind(self) -> tuple[MindSpec, Mind]:
        spec = self.spec()
        agent = spec.build(self.space, self.actions, ENVS)
        mind = agent.mind(jax.jit(agent.init)(jax.random.PRNGKey(0)))
        return spec, mind if mind.recall is None else filled(spec, mind)


def of(space: spaces.Space = NUMBERS, preset: str = "dqn", actions: int = ACTIONS, **settings: str) -> Case:
    """A case; two underscores of a name stand for a dot."""
    return Case(space, {name.replace("__", "."): value for name, value in settings.items()}, preset, actions)


WORKING = ("gru", "lstm", "mingru", "lru", "history", "slots")
MEMORY: dict[str, Any] = {
    "external__capacity": "600",
    "external__neighbours": "10",
    "preset": "attention-dqn",
    "recall__refresh": "0",
}
CASES: dict[str, Case] = {
    "encoder=vector": of(MIXED, encoder="vector"),
    "encoder=vector, norm": of(encoder="vector", encoder__norm="true"),
    "encoder=pixels": of(IMAGE, encoder="pixels"),
    "encoder=grid": of(BOARD, encoder="grid", encoder__norm="true"),
    "encoder=impala": of(IMAGE, encoder="impala"),
    "encoder=features": of(encoder="features"),
    "encoder=tokens": of(SYMBOLS, encoder="tokens"),
    "encoder=entities": of(CARS, encoder="entities"),
    "encoder=spatial": of(IMAGE, encoder="spatial"),
    "encoder=relational": of(BOARD, encoder="relational", encoder__trunk="grid"),
    "working=none": of(),
    **{f"working={name}": of(preset="drqn", working=name) for name in WORKING},
    "working=fast-weights": of(preset="lru-dqn", working="fast-weights"),
    "working=fast-weights, sum": of(preset="lru-dqn", working="fast-weights", working__rule="sum"),
    "working=gru, 2 layers": of(preset="drqn", working="gru", working__layers="2"),
    "working=history over gru": of(preset="drqn", working="history", working__over="gru"),
    "head=q": of(),
    "head=q, noisy": of(head__noise="0.5"),
    "head=dueling": of(head="dueling", head__width="16"),
    "head=attention": of(head="attention"),
    "head=attention, offered": of(OFFERED, head="attention"),
    "head=decoupled": of(preset="decqn", actions=6, head__sizes="2,3"),
    "head=actor-critic": of(MASKED, preset="ppo"),
    "head=twin": of(preset="sac"),
    "returns=scalar": of(),
    "returns=categorical": of(preset="c51"),
    "returns=quantile": of(preset="qr-dqn"),
    "returns=implicit": of(preset="iqn"),
    "external=episodic": of(external="episodic", **MEMORY),
    "external=episodic, scaled-dot": of(external="episodic", external__kernel="scaled-dot", **MEMORY),
    "external=episodic, multi-head": of(external="episodic", external__kernel="multi-head", **MEMORY),
    "external=episodic, offered": of(OFFERED, head="attention", external="episodic", **MEMORY),
    "external=episodic, frozen keys": of(external="episodic", recall__keys="frozen", **MEMORY),
    "external=episodic, shuffle": of(external="episodic", external__shuffle="true", **MEMORY),
    "external=chunked": of(external="chunked", **MEMORY | {"external__size": "20", "external__probes": "4"}),
    "external=votes": of(external="votes", **MEMORY),
    "external=graph": of(external="graph", recall__n_step="1", **MEMORY | {"preset": "dqn"}),
    "external=product-key": of(
        external="product-key",
        external__codes="32",
        external__neighbours="10",
        preset="attention-dqn",
        recall__refresh="0",
    ),
    "observation.stack=4": of(IMAGE, observation__stack="4", encoder="pixels"),
    "observation.missing=mask": of(observation__missing="mask", observation__stack="2"),
    "observation.normalize": of(observation__normalize="true"),
    "previous action and reward": of(
        preset="drqn", working="gru", observation__previous_action="true", observation__previous_reward="true"
    ),
    "previous joint action": of(
        preset="drqn", actions=6, head="decoupled", head__sizes="2,3", observation__previous_action="true"
    ),
    "action_mask": of(MASKED),
}
OF_PRESETS = {
    "smax": TEAM, "go": Box((5, 5, 17), "bool"), "dialogue": OFFERED, "cql": SYMBOLS, "driving": TRAFFIC, "btr": IMAGE,
}  # fmt: skip
CASES |= {f"preset {name}": of(OF_PRESETS.get(name, NUMBERS), preset=name) for name in PRESETS}


def filled(spec: MindSpec, mind: Mind, count: int = 256) -> Mind:
    """The mind with random entries in its memory."""
    memory, recall, network = mind.network.external, mind.recall, mind.network
    assert recall is not None
    generator = np.random.default_rng(0)
    width = spec.recall.key_width(network.working.width)
    keys = jnp.asarray(np.abs(generator.standard_normal((count, width))), jnp.float32)
    stacked = spaces.zeros(network.space, (count, spec.observation.stack))
    hashes = generator.integers(0, 1 << 32, (count, 2), dtype=np.uint32)
    features = spaces.offered_features(network.space, network.actions)
    entries = Entries(
        key=jax.vmap(lambda key: key_of(spec, key))(keys),
        action=jnp.asarray(generator.integers(0, network.actions, count), jnp.int32),
        features=jnp.asarray(generator.standard_normal((count, features)), jnp.float32),
        value=jnp.asarray(generator.standard_normal(count), jnp.float32),
        td_error=jnp.zeros(count),
        hash=jnp.asarray(hashes),
        origin=jnp.zeros((count, 3), jnp.int32),
        observation=stacked,
        reward=jnp.asarray(generator.standard_normal(count), jnp.float32),
        discount=jnp.full(count, 0.9),
        successor=stacked,
        following=jnp.asarray(np.roll(hashes, 1, 0)),
    )
    write, store = jax.jit(lambda *block: memory.write(*block)), recall.store  # it may hold arrays
    for start in range(0, count, 32):
        block = jax.tree.map(lambda leaf, start=start: leaf[start : start + 32], entries)
        store = write(store, block, jnp.ones(32, bool))
    return dataclasses.replace(mind, recall=dataclasses.replace(recall, store=store))


# -- measuring -------------------------------------------------------------------------------------------------------


def measured(spec: MindSpec, mind: Mind, opset: int) -> dict[str, Any]:
    """Size, difference and latency of one export; `refused` with a sentence where there is none."""
    try:
        step = step_of(spec, mind)
        begun = time.perf_counter()
        content = converted(step, opset)
        seconds = time.perf_counter() - begun
        run = runner(content, threads=1)
        found = compared(step, run)
    except EngramError as error:
        return {"refused": str(error)}
    return {
        "bytes": len(content),
        "seconds": seconds,
        "difference": found["difference"],
        "other_actions": found["actions"],
        "outputs": found["outputs"],
        **latencies(spec, mind, step, run),
    }


def latencies(spec: MindSpec, mind: Mind, step: Step, run: Callable[..., Any]) -> dict[str, float]:
    """Microseconds of one observation: onnxruntime, the compiled step, and `Policy`, which `predict` calls."""
    seen = observed(step, np.random.default_rng(0), 1)
    given = {port.name: np.ascontiguousarray((step.first(1) | seen)[port.name]) for port in step.inputs}
    function, arrays = jax.jit(step.function), list(given.values())
    policy = Policy(mind, spec)
    one = [shown.stored(jnp.asarray(seen[shown.port.name][0]))[None] for shown in step.shown if shown.port]
    leaves = iter(one)
    rows = jax.tree.unflatten(
        jax.tree.structure(spaces.zeros(mind.network.space)),
        [
            np.asarray(next(leaves)) if shown.port else np.zeros((1, *shown.leaf.shape), np.float32)
            for shown in step.shown
        ],
    )
    reward = np.zeros(1, np.float32)
    state = policy.act(rows, None, None, reward, None)[1]
    return {
        "onnxruntime_us": timed(lambda: run(given)),
        "jax_us": timed(lambda: jax.block_until_ready(function(*arrays))),
        "predict_us": timed(lambda: policy.act(rows, state, None, reward, None)),
    }


def timed(call: Callable[[], Any], count: int = 200) -> float:
    """The median of so many calls, after 5 that are not counted, in microseconds."""
    times = []
    for _ in range(count + 5):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1e6 * median(times[5:])


def missing() -> list[str]:
    """Kinds of Engram's parts that no case is of."""
    named = " ".join(CASES)
    roles = ("encoder", "working", "head", "returns", "external")
    kinds = [
        f"{role}={name}" for role in roles for name in registry.names(role)
        if (role, name) != ("external", "none") and registry.find(role, name).__module__.startswith("engram.")
    ]  # fmt: skip
    return [kind for kind in kinds if kind not in named]


def checked() -> None:
    """Raises SystemExit for a kind of part without a case, and for a case that is no agent."""
    if lost := missing():
        raise SystemExit(f"no case is of {', '.join(lost)}")
    for name, case in CASES.items():
        try:
            case.spec()
        except EngramError as error:
            raise SystemExit(f"{name}: {error}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="*", help="a pattern of names")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    add_flags(parser, "export")
    options = parser.parse_args()
    chosen = {name: case for name, case in CASES.items() if fnmatch(name, options.cases)}
    if options.list:
        print("\n".join(chosen))
        return
    checked()
    record = Record(options, {"opsets": OPSETS, "batch": 16, "steps": 3})
    for name, case in chosen.items():
        left = [opset for opset in OPSETS if f"{name} @{opset}" not in record.parts]
        made = case.mind() if left else None
        for opset in left:
            assert made is not None
            key, found = f"{name} @{opset}", measured(*made, opset)
            record.put(key, found)
            told = found.get("refused") or " ".join(
                f"{what} {value:.3g}" for what, value in found.items() if isinstance(value, float | int)
            )
            print(f"{key}: {told}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
