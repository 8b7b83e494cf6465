"""Translate a sentence, one target token at a time, for the change of its chrF."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from engram.bits import below, hashed
from engram.envs.device import DeviceStep, at_least, register_device
from engram.envs.translation.chrf import sentence_chrf
from engram.envs.translation.corpus import SPLITS, Corpus, find
from engram.spaces import Dict, Text

BEGIN = 1  # the symbol of END, which also stands before the first token


class TranslateState(NamedTuple):
    """Which sentence, and what was written of its translation."""

    sentence: Int[Array, ""]
    prefix: Int[Array, "places"]  # newest token first, then END for the beginning, then 0
    letters: Int[Array, "letters"]  # code points without spaces, 0 after the last
    used: Int[Array, ""]  # letters that are written
    score: Float[Array, ""]  # chrF so far
    steps: Int[Array, ""]


class Shown(NamedTuple):
    """The arrays of a split."""

    source: Int[Array, "pairs places"]
    target: Int[Array, "pairs places"]
    reference: Int[Array, "pairs letters"]
    pieces: Int[Array, "tokens longest"]  # the letters that each token adds


@register_device("engram/Translate-v0")
@dataclass(frozen=True)
class Translate:
    """Translate a sentence, one target token at a time.

    Observation: `source`, the tokens of the sentence, and `prefix`, those that were written, *newest first*: so a place
    says how long ago a token came. The beginning of the target is a token of its own, END. `data` names the sentences:
    `phrases`, 3,000 of a small English-German grammar, or a folder that `python -m engram.envs.translation` makes.
    Actions: the pieces of the vocabulary that source and target share; 0 is END. There is no action for padding.
    Terminated by END, and where another token might not fit. A sentence is drawn for each episode from `split`.

    Reward, by `reward`:
      chrf: the change of the sentence's chrF, 0 to 1, at each token. A return is the chrF of the whole sentence, and
        the reference itself gets 1.
      final: the same sum, at the last step.
      constant: 1 at the last step whatever was written. A control: what an agent gains by it is not the reward's doing
        (Choshen et al. 2020, arXiv 1907.01752).

    Args:
      data: see above. split: train, valid or test.
      context: newest tokens of the prefix that are shown, 0 for all. 1 is for agents with a working memory.

    `step` does not read its key. chrF is that of sacrebleu's defaults, recomputed at each token from all pairs of
    letters, on the device.
    """

    data: str = "phrases"
    split: Literal["train", "valid", "test"] = "train"
    reward: Literal["chrf", "final", "constant"] = "chrf"
    context: int = 0

    def __post_init__(self):
        at_least(self, "context", 0)
        find(self.data)  # a folder that is none is named now

    @property
    def corpus(self) -> Corpus:
        """The sentences."""
        return find(self.data)

    @property
    def data_digest(self) -> str:
        """What the sentences and their tokens are, which a run goes on with."""
        return self.corpus.digest

    @property
    def places(self) -> tuple[int, int]:
        """Tokens of the longest source and of the longest target, its END included."""
        one = self.corpus.encoded[SPLITS[0]]
        return one.source.shape[1], one.target.shape[1]

    @property
    def observation_space(self) -> Dict:
        source, target = self.places
        symbols = len(self.corpus.vocabulary.pieces)
        shown = min(self.context or target, target)
        return Dict((("prefix", Text(shown, symbols)), ("source", Text(source, symbols))))

    @property
    def actions(self) -> int:
        return len(self.corpus.vocabulary.pieces)

    @property
    def parts(self) -> dict[str, list[str]]:
        """The pieces as names of actions and of symbols."""
        pieces = [piece.replace("▁", " ").strip() or "(space)" for piece in self.corpus.vocabulary.pieces]
        return {"actions": pieces, "symbols": pieces}

    @property
    def most_letters(self) -> int:
        """Letters that a translation may have: those of the longest reference, and two pieces more."""
        return self.corpus.references[SPLITS[0]].shape[1] + 2 * self.corpus.vocabulary.letters.shape[1]

    @property
    def shown(self) -> Shown:
        """The arrays of this split, as constants of a program."""
        split, corpus = self.corpus.encoded[self.split], self.corpus
        arrays = split.source, split.target, corpus.references[self.split], corpus.vocabulary.letters
        return Shown(*(jnp.asarray(array) for array in arrays))

    def reset(self, key: UInt32[Array, "2"]) -> tuple[TranslateState, dict[str, Array]]:
        pairs = len(self.corpus.splits[self.split])
        return self.begin(below(hashed(key, 1)[0], pairs))

    def begin(self, sentence: Int[Array, ""]) -> tuple[TranslateState, dict[str, Array]]:
        """The beginning of an episode of one sentence of the split."""
        prefix = jnp.zeros(self.places[1], jnp.int16).at[0].set(BEGIN)
        nothing = jnp.zeros(self.most_letters, jnp.int32)
        state = TranslateState(
            jnp.asarray(sentence, jnp.int32), prefix, nothing, jnp.int32(0), jnp.float32(0), jnp.int32(0)
        )
        return state, self._observe(state)

    def step(
        self, state: TranslateState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[TranslateState, DeviceStep]:
        shown = self.shown
        symbol = (action + 1).astype(jnp.int16)
        piece = shown.pieces[symbol]
        # A piece is as wide as the longest one; what follows its letters is 0, as is all that follows the text.
        written = jax.lax.dynamic_update_slice(state.letters, piece, (state.used,))
        used = state.used + (piece > 0).sum(dtype=jnp.int32)
        score = sentence_chrf(written, shown.reference[state.sentence])
        prefix = jnp.concatenate([symbol[None], state.prefix[:-1]])
        steps = state.steps + 1
        full = (steps >= self.places[1]) | (used + len(piece) > self.most_letters)
        over = (action == 0) | full
        following = TranslateState(state.sentence, prefix, written, used, score, steps)
        earned = {
            "chrf": score - state.score,
            "final": jnp.where(over, score, 0.0),
            "constant": over.astype(jnp.float32),
        }[self.reward]
        return following, DeviceStep(self._observe(following), earned, over, jnp.bool_(False))

    def _observe(self, state: TranslateState) -> dict[str, Array]:
        _, target = self.places
        return {
            "prefix": state.prefix[: min(self.context or target, target)],
            "source": self.shown.source[state.sentence],
        }
