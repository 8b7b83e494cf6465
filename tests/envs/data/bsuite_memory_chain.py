"""Records episodes of bsuite's memory chain for test_memory_envs.py, which must not depend on bsuite's many packages.

From the project's folder:

    uv run --no-project --with bsuite==0.3.6 python tests/envs/data/bsuite_memory_chain.py
"""

import json
from pathlib import Path

import numpy as np
from bsuite.environments.memory_chain import MemoryChain

CASES = [(1, 1), (2, 1), (5, 1), (30, 1), (2, 3), (2, 8), (2, 40)]  # (length, size)


def episode(env: MemoryChain, generator: np.random.Generator) -> dict:
    """One episode with random actions: what was hidden, seen, done and paid."""
    moment = env.reset()
    observations, actions, rewards = [moment.observation[0].tolist()], [], []
    while not moment.last():
        actions.append(int(generator.integers(2)))
        moment = env.step(actions[-1])
        observations.append(moment.observation[0].tolist())
        rewards.append(float(moment.reward))
    assert moment.discount == 0
    context, query = env._context.tolist(), int(env._query)
    return dict(context=context, query=query, actions=actions, observations=observations, rewards=rewards)


def main() -> None:
    """Write bsuite_memory_chain.json beside this file."""
    generator = np.random.default_rng(0)
    cases = []
    for length, size in CASES:
        env = MemoryChain(memory_length=length, num_bits=size, seed=length + size)
        cases.append(dict(length=length, size=size, episodes=[episode(env, generator) for _ in range(3)]))
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path(__file__).with_suffix(".json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
