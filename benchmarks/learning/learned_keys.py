"""Keys as a trained network makes them, for `memory_cost.py --keys`: embeddings of observations of its own play.

    uv run engram train minatar-asterix --steps 200000 encoder.width=64 --run .benchmarks/keys/asterix
    python -m benchmarks.learning.learned_keys .benchmarks/keys/asterix --out .benchmarks/keys/asterix.npy

The agent plays on, epsilon-greedy, in many environments at once, and every observation that it has not seen yet
becomes a key of length 1, as in an agent's memory. Rows are in random order, so that the last ones, which
`memory_cost.py` asks with, are as likely as any; none of them is the same observation as another row.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import engram
from engram.agents.recall.keys import key_of
from engram.bits import fingerprint
from engram.envs.device import make_device

ENVS, CALL = 64, 500  # environments side by side, and their steps in one compiled call


def play(env, spec, mind, epsilon, state, key):
    """CALL steps of all environments: the new state, and a key and a hash for every observation."""

    def step(carry, bits):
        env_state, observation = carry
        frames = jax.tree.map(lambda leaf: leaf[:, None], observation)
        decision = jax.vmap(mind.network)(frames)
        words = jax.random.split(bits, 4)
        random = jax.random.randint(words[0], (ENVS,), 0, env.actions)
        action = jnp.where(jax.random.uniform(words[1], (ENVS,)) < epsilon, random, decision.preference.argmax(-1))
        moved, out = jax.vmap(env.step)(env_state, action, jax.random.bits(words[2], (ENVS, 2)))
        fresh, first = jax.vmap(env.reset)(jax.random.bits(words[3], (ENVS, 2)))
        over = out.terminated | out.truncated
        pick = lambda new, old: jnp.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old)  # noqa: E731
        carry = jax.tree.map(pick, (fresh, first), (moved, out.observation))
        keys = jax.vmap(partial(key_of, spec))(decision.working.vector)
        return carry, (keys, jax.vmap(fingerprint)(frames))

    return jax.lax.scan(step, state, jax.random.split(key, CALL))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of a device environment")
    parser.add_argument("--count", type=int, default=1_340_000, help="keys wanted")
    parser.add_argument("--epsilon", type=float, default=0.1, help="share of random actions")
    parser.add_argument("--steps", type=int, default=20_000_000, help="give up after so many")
    parser.add_argument("--out", type=Path, required=True, help="the .npy file")
    options = parser.parse_args()
    agent = engram.load(options.run)
    env, spec, mind = make_device(str(agent.plan.env), **(agent.plan.env_args or {})), agent.plan.agent, agent.minds[0]
    if spec.observation.stack > 1 or spec.has_memory:
        parser.error(f"{options.run} stacks observations or has a working memory; give a run that does neither")
    key = jax.random.PRNGKey(7_204_000)
    state = jax.vmap(env.reset)(jax.random.bits(key, (ENVS, 2)))
    advance = jax.jit(partial(play, env, spec))
    seen: set[int] = set()
    rows: list[np.ndarray] = []
    steps = 0
    while len(seen) < options.count and steps < options.steps:
        key, now = jax.random.split(key)
        state, (keys, hashes) = advance(mind, options.epsilon, state, now)
        words = np.asarray(hashes).reshape(-1, 2).astype(np.uint64)
        whole = (words[:, 0] << np.uint64(32) | words[:, 1]).tolist()
        fresh = [place for place, one in enumerate(whole) if not (one in seen or seen.add(one))]
        rows.append(np.asarray(keys).reshape(len(whole), -1)[fresh])
        steps += len(whole)
        if steps % (CALL * ENVS * 20) == 0:
            print(f"{steps:,} steps, {len(seen):,} distinct observations", file=sys.stderr, flush=True)
    found = np.concatenate(rows)[: options.count]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.save(options.out, found[np.random.default_rng(0).permutation(len(found))])
    print(f"{len(found):,} keys of {found.shape[1]} numbers after {steps:,} steps: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
