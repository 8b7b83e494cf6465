"""The reference translations of a corpus as demonstrations, in the form that `--demonstrations` reads."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from engram.envs.tasks.translate import Translate
from engram.precision import in_32_bits

AT_ONCE = 512  # sentences


@in_32_bits
def played(env: Translate) -> dict[str, np.ndarray]:
    """Every sentence of the split, translated as its reference is: the arrays of a file of demonstrations."""

    def episode(sentence: Int[jax.Array, ""], target: Int[jax.Array, "places"]):
        state, observation = env.begin(sentence)

        def one(carry, symbol):
            state, observation = carry
            state, step = env.step(state, jnp.maximum(symbol.astype(jnp.int32) - 1, 0), jnp.zeros(2, jnp.uint32))
            return (state, step.observation), (observation, step.reward, step.terminated, step.observation)

        return jax.lax.scan(one, (state, observation), target)[1]

    targets = env.corpus.encoded[env.split].target
    run, parts = jax.jit(jax.vmap(episode)), []
    for start in range(0, len(targets), AT_ONCE):
        numbers = np.arange(start, min(start + AT_ONCE, len(targets)))
        parts.append(jax.tree.map(np.asarray, run(numbers, targets[numbers])))
    seen, reward, terminated, after = jax.tree.map(lambda *each: np.concatenate(each), *parts)
    taken = targets > 0
    last = taken.sum(1) - 1, np.arange(len(targets))
    found = {f"observation.{name}": column[taken] for name, column in seen.items()}
    found |= {f"final_observation.{name}": column[last[1], last[0]] for name, column in after.items()}
    found |= {"action": targets[taken].astype(np.int32) - 1, "reward": reward[taken], "terminated": terminated[taken]}
    return found | {"truncated": np.zeros(taken.sum(), bool)}


def write(path: Path, data: str, reward: str = "chrf") -> int:
    """Writes the demonstrations of the training split of a corpus; how many steps they have."""
    arrays = played(Translate(data=data, reward=reward))  # type: ignore[arg-type]
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return len(arrays["reward"])
