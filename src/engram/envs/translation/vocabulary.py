"""Pieces of words as tokens. Nothing here needs the library that finds good pieces; `learned` alone does."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from engram.errors import SpecError, install

END = "<end>"  # ends every target; before the first token of one it stands for the beginning
UNKNOWN = "<unk>"
WORD = "▁"  # begins a piece that begins a word
PLACEHOLDERS = tuple(f"⟨{number}⟩" for number in range(1, 10))  # stand for %1, $(ARG1), ... in the order of the source
FIRST = (END, UNKNOWN)
MOST = 32_766  # pieces: a token is a number of 16 bits, and 0 is none


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by number. In arrays a token is its number + 1, and 0 stands for nothing."""

    pieces: tuple[str, ...]

    def __post_init__(self):
        if len(self.pieces) > MOST:
            raise SpecError(f"{len(self.pieces):,} pieces were given; expected at most {MOST:,}")
        named = all(isinstance(piece, str) and piece for piece in self.pieces)
        if self.pieces[:2] != FIRST or not named or len(set(self.pieces)) < len(self.pieces):
            raise SpecError(f"the pieces begin with {self.pieces[:2]}; expected {FIRST}, then pieces that all differ")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.pieces))

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's pieces, always the longest that fits next; a letter without a piece is `UNKNOWN`."""
        found = []
        for word in text.split():
            rest = WORD + word
            while rest:
                sizes = range(min(len(rest), self._longest), 0, -1)
                size = next((size for size in sizes if self._is_piece(rest[:size])), 0)
                if size or rest[0] != WORD:
                    found.append(self._numbers[rest[:size]] if size else 1)
                rest = rest[max(size, 1) :]
        return found

    def _is_piece(self, text: str) -> bool:
        return text in self._numbers and text not in FIRST

    def decode(self, numbers: Any) -> str:
        """The text of a sequence of pieces up to the first END."""
        pieces = []
        for number in map(int, numbers):
            if number == 0:
                break
            pieces.append(self._letters(number) if number == 1 else self.pieces[number])
        return "".join(pieces).replace(WORD, " ").strip()

    def _letters(self, number: int) -> str:
        return {0: "", 1: "\ufffd"}.get(number, self.pieces[number].replace(WORD, ""))

    @cached_property
    def letters(self) -> Int[np.ndarray, "tokens longest"]:
        """The letters that each token adds to a text without spaces, as code points. Row 0 is empty."""
        told = ["", *(self._letters(number) for number in range(len(self.pieces)))]
        return letters(told, max(map(len, told)))


def letters(texts: Sequence[str], longest: int) -> Int[np.ndarray, "texts longest"]:
    """Code points of texts without their spaces; 0 after the last."""
    found = np.zeros((len(texts), longest), np.int32)
    for row, text in zip(found, texts, strict=True):
        points = [ord(letter) for letter in "".join(text.split())]
        row[: len(points)] = points
    return found


def of_words(texts: Iterable[str]) -> Vocabulary:
    """Whole words as pieces."""
    return Vocabulary((*FIRST, *sorted({WORD + word for text in texts for word in text.split()})))


def learned(texts: Iterable[str], size: int) -> Vocabulary:
    """At most `size` pieces found by byte-pair encoding (Sennrich et al. 2016), placeholders among them.

    Raises SpecError without the library `tokenizers`, and for a size below the number of letters.
    """
    try:
        import tokenizers  # of the extra `translate`
        from tokenizers import models, pre_tokenizers, trainers
    except ImportError:
        raise SpecError(f"finding pieces of words needs the library tokenizers; {install('translate')}") from None
    texts = list(texts)
    alphabet = sorted({letter for text in texts for letter in text if not letter.isspace()})
    least = len(alphabet) + len(FIRST) + 1 + 2 * len(PLACEHOLDERS)
    if size < least:
        raise SpecError(f"{size} pieces were asked for, but the texts have {len(alphabet)} letters; ask for {least}")
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD, prepend_scheme="always")  # type: ignore[assignment]
    held = [*FIRST, *PLACEHOLDERS]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(PLACEHOLDERS), special_tokens=held, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(texts, trainer)
    own = sorted(model.get_vocab().items(), key=lambda item: item[1])
    rest = [piece for piece, _ in own if piece not in held]
    marks = [WORD + mark for mark in PLACEHOLDERS]
    return Vocabulary((*FIRST, *PLACEHOLDERS, *marks, *(piece for piece in rest if piece not in marks)))
