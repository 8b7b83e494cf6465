"""Draws docs/img/translation.png: what each token of three translations earns. Run: python docs/img/translation.py"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from engram.envs.device import make_device

SENTENCE = "the happy horse does not know the tired dog"
WRITTEN = {
    "the reference": "das frohe Pferd kennt den müden Hund nicht",
    "wrong case, no negation": "das frohe Pferd kennt der müde Hund",
    "the source itself": SENTENCE,
}


def main() -> None:
    """Writes the picture beside this file."""
    env = make_device("engram/Translate-v0", split="test")
    pieces = env.corpus.vocabulary  # type: ignore[attr-defined]
    sentence = [source for source, _ in env.corpus.splits["test"]].index(SENTENCE)  # type: ignore[attr-defined]
    step = jax.jit(env.step)
    figure, panels = plt.subplots(len(WRITTEN), 1, figsize=(7.5, 5.4), sharey=True, layout="constrained")
    for panel, (name, text) in zip(panels, WRITTEN.items(), strict=True):
        state, _ = env.begin(jnp.int32(sentence))  # type: ignore[attr-defined]
        tokens, earned = [*pieces.encode(text), 0], []
        for token in tokens:
            state, after = step(state, jnp.int32(token), jnp.zeros(2, jnp.uint32))
            earned.append(float(after.reward))
        names = [pieces.pieces[token].replace("▁", "") for token in tokens]
        panel.bar(range(len(tokens)), earned, color=["#3f51b5" if one >= 0 else "#d84315" for one in earned])
        panel.axhline(0, color="black", linewidth=0.6)
        panel.set_xticks(range(len(tokens)), names)
        panel.set_title(f"{name}: {sum(earned):.2f} in all", fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    figure.supylabel("change of chrF")
    figure.savefig(Path(__file__).with_name("translation.png"), dpi=110)


if __name__ == "__main__":
    main()
