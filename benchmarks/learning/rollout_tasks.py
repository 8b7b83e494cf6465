"""Tasks that need a memory, learned from rollouts: actor-critics with a memory and without, and PQN over a GRU.

    python -m benchmarks.learning.rollout_tasks --cells 'tmaze-50-*' --seeds 5 --first-seed 20
    python -m benchmarks.learning.rollout_tasks --cells 'pqn-*' --seeds 5 --first-seed 20
    python -m benchmarks.learning.rollout_tasks --list

The preset with 64 environments, and a longer trace and more entropy where it has a working memory (`FAR`). In the
T-maze all agents take smaller steps of fewer epochs (`PATIENT`): what is rewarded there is first met after 50 right
steps, and a policy that is sure by then never turns. Found on seeds 0 and 1, among eight ways of trace, entropy, epochs
and step size. `ppo` sees one observation, `ppo-rnn` has a GRU,
`ppo-attention` a causal transformer over the last 64 steps in its place, `ppo-memory` an external memory in its critic.
The cells `pqn-TASK` are POPGym's, by `pqn-rnn`, all with one configuration: what an action of theirs brings comes at
once, so values look one step ahead (`AT_ONCE`, found on CountRecall, seed 0, among four ways). `pqn-TASK-forgetting` is
the control whose GRU is emptied before every step, `pqn-TASK-clock` the one that sees nothing of the task but how long
the episode has lasted.

What is played and scored is said in `memory_tasks`, whose flags these are.
"""

import sys
from typing import Any

from benchmarks.learning.memory_tasks import SOLVED, Cell, main

ENVS = 64
ATTENTION: dict[str, Any] = {"working": "history", "working.window": 64, "working.layers": 1}
# What an action was good for may lie far ahead. On CartPole without velocities the preset's own numbers are better.
FAR = {"trace": 0.95, "entropy_weight": 0.03}
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {}),
    "ppo-rnn": ("ppo-rnn", FAR),
    "ppo-attention": ("ppo-rnn", ATTENTION | FAR),
    "ppo-memory": ("ppo-memory", {}),
}
PATIENT = {"optimizer.learning_rate": 3e-4, "rollout.steps": 128, "rollout.epochs": 4, "trace": 0.95,
           "entropy_weight": 0.03}  # fmt: skip
AT_ONCE = {"trace": 0.0, "discount": 0.9}
TASKS: dict[str, tuple[str, dict[str, Any], int, float | None]] = {
    "tmaze-50": ("engram/PassiveTMaze-v0", {"length": 50}, 1_000_000, SOLVED),
    "RepeatPrevious": ("engram/RepeatPrevious-v0", {"level": "easy"}, 1_000_000, None),
    "SparseGrid": ("engram/SparseGrid-v0", {}, 500_000, None),
}
# The best of POPGym's 13 models after 15 million steps (Morad et al. 2023), where it is known here.
POPGYM = {
    "RepeatPrevious": 1.0, "RepeatFirst": 1.0, "CountRecall": 0.509, "Autoencode": -0.283,
    "Concentration": None, "Battleship": None,
}  # fmt: skip


def beside(task: str, agent: str) -> Cell:
    """An actor-critic in one task."""
    (env, arguments, steps, success), (preset, settings) = TASKS[task], AGENTS[agent]
    settings = settings | PATIENT if task.startswith("tmaze") else settings
    return Cell(f"{task}-{agent}", env, steps, preset, arguments, settings, ENVS, success)


def popgym(task: str, control: str = "", **settings: Any) -> Cell:
    """PQN over a GRU in one of POPGym's tasks."""
    name, clock = f"pqn-{task}" + (f"-{control}" if control else ""), control == "clock"
    env, preset = (f"clock:{task}", "pqn") if clock else (f"engram/{task}-v0", "pqn-rnn")
    published = None if control else POPGYM[task]
    return Cell(name, env, 5_000_000, preset, {"level": "easy"}, AT_ONCE | settings, ENVS, published=published)


CELLS = {
    cell.name: cell
    for cell in (
        *(beside(task, agent) for task in TASKS for agent in AGENTS),
        *(popgym(task) for task in POPGYM),
        *(popgym(task, "forgetting", forget=True) for task in POPGYM),
        *(popgym(task, "clock") for task in POPGYM),
    )
}


if __name__ == "__main__":
    sys.exit(main(CELLS, __doc__, "rollout-tasks"))
