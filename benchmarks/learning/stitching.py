"""What two halves of a way are worth together: a graph memory beside tabular and fitted values of the same data.

    python -m benchmarks.learning.stitching                       5 mazes, all methods, and what a propagation costs
    python -m benchmarks.learning.stitching --mazes 2 --sizes 1000 --out /tmp/quick.json

In each maze (`engram/SparseGrid-v0`) there are two episodes. One goes part of the shortest way from the corner to the
goal, turns, and is cut back in the corner: it was paid nothing. The other begins off that way and goes straight to the
goal, through the cell where the first one turned. So the whole way is known, and no episode went it. The errors are
those of Q for the cells and actions of both episodes (*all*) and for the first half of the way (*first half*), beside
the optimal Q by value iteration, which is at most 1. *Greedy* is whether following Q among the actions that were tried
leads from the corner to the goal in the fewest steps.

  graph             the memory `graph`, entries written one by one, then one propagation
  best return       tabular episodic control (MFEC): the greatest return of any episode from that cell and action
  mean return       tabular Monte Carlo
  one-step, N       tabular Q-learning with step size 1, N passes over the transitions, each in random order
  network, N        a fitted Q of one-step targets: MLP of 2 x 64, Adam 1e-3, batches of 32, target copied every 100
                    updates, N updates
"""

import argparse
import sys
import time
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.record import Record, add_flags
from benchmarks.scores import summary
from engram.envs.tasks.maze import SparseGrid
from engram.external.graph import Graph, GraphSpec, GraphStore, propagate
from engram.external.memory import Entries
from engram.nn.layers import MLP, Linear

SIDE, DISCOUNT = 9, 0.95
Row = tuple[int, int, float, float, int, float]  # cell, action, reward, discount, next cell, return
Table = dict[tuple[int, int], float]  # Q by cell and action
METHODS = ("graph", "best return", "mean return", "one-step, 1", "one-step, 10", "one-step, 100", "network, 2000")


# -- two episodes ---------------------------------------------------------------------------------------------------


def shortest(env: SparseGrid, cell: int) -> list[int]:
    """Actions of a shortest way to the goal."""
    actions = []
    while cell != env.plan.goal:
        ends = env.plan.following[cell]
        actions.append(min(range(4), key=lambda action: env.plan.far[ends[action]]))
        cell = ends[actions[-1]]
    return actions


def walk(env: SparseGrid, cell: int, actions: list[int]) -> list[Row]:
    """An episode with its returns, nothing added for what was cut."""
    steps = []
    for action in actions:
        there = env.plan.following[cell][action]
        over = there == env.plan.goal
        steps.append((cell, action, float(over), 0.0 if over else DISCOUNT, there))
        cell = there
    rows, total = [], 0.0
    for step in reversed(steps):
        total = step[2] + step[3] * total
        rows.append((*step, total))
    return rows[::-1]


def halves(env: SparseGrid) -> tuple[list[Row], list[Row], list[int]]:
    """The two episodes, and the cells of the first half of the way."""
    way = shortest(env, 0)
    path = [row[0] for row in walk(env, 0, way)]
    for turn in range(len(path) // 3, len(path)):
        for cell in env.starts:
            second = walk(env, cell, shortest(env, cell))
            cells = {row[0] for row in second}
            if cell not in path and path[turn] in cells and not cells & set(path[:turn]):
                back = [(action + 2) % 4 for action in reversed(way[:turn])]
                return walk(env, 0, way[:turn] + back), second, path[:turn]
    raise SystemExit(f"no shortest way joins that of {env}; leave this maze out")


# -- what each method makes of them ---------------------------------------------------------------------------------


def block(rows: list[Row]) -> Entries:
    """Rows as entries of a memory: a cell's number is its hash and its key."""
    cells, actions, rewards, discounts, following, values = (np.array(column) for column in zip(*rows, strict=True))
    hashes = [jnp.array(np.stack([np.zeros_like(one), one], 1), jnp.uint32) for one in (cells, following)]
    numbers = [jnp.array(one, jnp.float32) for one in (values, rewards, discounts)]
    count = len(rows)
    return Entries(
        key=jnp.array(cells[:, None], jnp.float32), action=jnp.array(actions, jnp.int32),
        features=jnp.zeros((count, 0)), value=numbers[0], td_error=jnp.zeros(count), hash=hashes[0],
        origin=jnp.zeros((count, 3), jnp.int32), reward=numbers[1], discount=numbers[2], following=hashes[1],
    )  # fmt: skip


def by_graph(rows: list[Row]) -> Table:
    graph = GraphSpec(capacity=SIDE**2, neighbours=1, every=len(rows)).build(1, 4, 0, jax.random.PRNGKey(0))
    store = graph.init()
    write = jax.jit(graph.write)
    for row in rows:  # the last write propagates
        store = write(store, block([row]), jnp.array([True]))
    place = {int(low): i for i, (_, low) in enumerate(store.hash.tolist()) if store.written[i] >= 0}
    return {(row[0], row[1]): float(store.q[place[row[0]], row[1]]) for row in rows}


def by_return(rows: list[Row], joined: Any) -> Table:
    found: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        found.setdefault((row[0], row[1]), []).append(row[5])
    return {pair: float(joined(returns)) for pair, returns in found.items()}


def by_steps(rows: list[Row], passes: int, seed: int) -> Table:
    q: Table = {(row[0], row[1]): 0.0 for row in rows}
    generator = np.random.default_rng(seed)
    for _ in range(passes):
        for i in generator.permutation(len(rows)):
            cell, action, reward, discount, there, _ = rows[i]
            q[cell, action] = reward + discount * max(q.get((there, other), 0.0) for other in range(4))
    return q


def by_network(rows: list[Row], updates: int, seed: int) -> Table:
    cells, actions, rewards, discounts, following, _ = (jnp.array(column) for column in zip(*rows, strict=True))
    keys = jax.random.split(jax.random.PRNGKey(seed), 3)
    params = (MLP(SIDE**2, (64, 64), key=keys[0]), Linear(64, 4, key=keys[1]))
    optimizer, eye = optax.adam(1e-3), jnp.eye(SIDE**2)

    def values(params: Any, cell: Any) -> Any:
        return jax.vmap(lambda x: params[1](params[0](x)))(eye[cell])

    def loss(params: Any, target: Any, drawn: Any) -> Any:
        best = values(target, following[drawn]).max(-1)
        q = jnp.take_along_axis(values(params, cells[drawn]), actions[drawn][:, None], 1)[:, 0]
        return ((rewards[drawn] + discounts[drawn] * best - q) ** 2).mean()

    def update(state: Any, given: Any) -> Any:
        params, target, moments = state
        number, key = given
        slope = jax.grad(loss)(params, target, jax.random.randint(key, (32,), 0, len(rows)))
        change, moments = optimizer.update(slope, moments)
        params = optax.apply_updates(params, change)
        target = jax.tree.map(lambda new, old: jnp.where(number % 100 == 99, new, old), params, target)
        return (params, target, moments), None

    given = (jnp.arange(updates), jax.random.split(keys[2], updates))
    params = jax.jit(lambda p: jax.lax.scan(update, (p, p, optimizer.init(p)), given)[0][0])(params)
    q = np.asarray(values(params, jnp.arange(SIDE**2)))
    return {(row[0], row[1]): float(q[row[0], row[1]]) for row in rows}


def table_of(method: str, rows: list[Row], seed: int) -> Table:
    kind, _, count = method.partition(", ")
    made = {
        "graph": lambda: by_graph(rows),
        "best return": lambda: by_return(rows, max),
        "mean return": lambda: by_return(rows, np.mean),
        "one-step": lambda: by_steps(rows, int(count), seed),
        "network": lambda: by_network(rows, int(count), seed),
    }
    return made[kind]()


def greedy(env: SparseGrid, q: Table) -> bool:
    """Whether Q leads the fewest steps to the goal; of equal ones the first action is taken."""
    cell = 0
    for _ in range(env.distance):
        tried = [action for action in range(4) if (cell, action) in q]
        if not tried:
            return False
        cell = env.plan.following[cell][max(tried, key=lambda action: q[cell, action])]
    return cell == env.plan.goal


def compare(layout: int) -> dict[str, dict[str, float]]:
    """Each method in one maze."""
    env = SparseGrid(SIDE, layout)
    first, second, half = halves(env)
    best, way = env.optimal(DISCOUNT), shortest(env, 0)
    found = {}
    for method in METHODS:
        q = table_of(method, first + second, layout)
        errors = {pair: abs(value - best[pair]) for pair, value in q.items()}
        ahead = [errors[pair] for pair in zip(half, way, strict=False)]
        found[method] = {
            "all": float(np.mean(list(errors.values()))),
            "first half": float(np.mean(ahead)),
            "greatest": float(max(errors.values())),
            "greedy": float(greedy(env, q)),
        }
    return found


# -- what it costs --------------------------------------------------------------------------------------------------


def filled(capacity: int, actions: int = 4) -> tuple[Graph, GraphStore]:
    """A graph without free places: a hundred long ways, side by side, and random edges between them."""
    graph = GraphSpec(capacity=capacity, every=1_000_000).build(64, actions, 0, jax.random.PRNGKey(0))
    generator, nodes = np.random.default_rng(0), np.arange(capacity)
    words = generator.integers(0, 1 << 32, (capacity, 2), dtype=np.uint32)
    there = generator.integers(0, capacity, (capacity, actions))
    there[:, 0] = np.minimum(nodes + 1, capacity - 1)
    ends = (nodes % max(capacity // 100, 2) == 0)[:, None] & (np.arange(actions) == 0)
    return graph, graph.init()._replace(
        key=jnp.array(generator.normal(size=(capacity, 64)), jnp.float32), hash=jnp.array(words),
        known=jnp.ones((capacity, actions), bool), reward=jnp.array(ends, jnp.float32),
        discount=jnp.array(np.where(ends, 0.0, 0.99), jnp.float32), following=jnp.array(words[there]),
        written=jnp.arange(capacity, dtype=jnp.int32), moment=jnp.int32(capacity),
    )  # fmt: skip


def costs(capacity: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of a write of 8 entries, a read of one query, and a propagation, none of the first call."""
    graph, store = filled(capacity)
    rows = block([(10**6 + i, 0, 0.0, 0.99, 10**6 + i + 1, 0.0) for i in range(8)])
    entries, keep = Entries(**{**vars(rows), "key": jnp.ones((8, 64))}), jnp.ones(8, bool)
    query = jnp.ones(64)
    write = jax.jit(graph.write, donate_argnums=0)
    read, spread = jax.jit(graph.read), jax.jit(partial(propagate, sweeps=1000))
    found: dict[str, list[float]] = {"write": [], "read": [], "propagate": []}
    for _ in range(repeats + 1):
        for name, work, rest in (
            ("propagate", spread, ()),
            ("read", read, (query,)),
            ("write", write, (entries, keep)),
        ):
            began = time.perf_counter()
            done = jax.block_until_ready(work(store, *rest))
            found[name].append((time.perf_counter() - began) * 1e3)
        store = done
    return {name: times[1:] for name, times in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mazes", type=int, default=5)
    parser.add_argument("--sizes", default="1000,10000,100000", help="nodes, for the costs; empty for none")
    parser.add_argument("--repeats", type=int, default=5)
    add_flags(parser, "stitching")
    options = parser.parse_args()
    record = Record(options, {"side": SIDE, "discount": DISCOUNT, "repeats": options.repeats})
    for layout in range(options.mazes):
        record.put(f"maze {layout}", compare(layout))
    for size in filter(None, options.sizes.split(",")):
        record.put(f"cost of {size}", costs(int(size), options.repeats))
    mazes = [part for name, part in record.parts.items() if name.startswith("maze")]
    columns, totals = ("first half", "all", "greatest", "greedy"), {}
    print(f"Errors of Q, means over {len(mazes)} mazes (Q is at most 1)\n\n| method | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for method in METHODS:
        totals[method] = {column: summary([maze[method][column] for maze in mazes]) for column in columns}
        means = [f"{totals[method][column]['mean']:.2g}" for column in columns]
        print(f"| {method} | {' | '.join(means)} |")
    print("\n| nodes, 4 actions | write 8 [ms] | read [ms] | propagate [ms] |\n|---|---|---|---|")
    for name, part in record.parts.items():
        if name.startswith("cost"):
            print(
                f"| {name[8:]} | {' | '.join(f'{median(part[one]):.2f}' for one in ('write', 'read', 'propagate'))} |"
            )
    record.summarize(totals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
