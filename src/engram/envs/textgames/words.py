"""Words as symbols of a text, and commands as features of an action. Both follow from the letters of a word alone.

So no vocabulary is kept, a game that was never seen has symbols for all of its words, and agents of different games
see the same spaces. The price: of many words some share a symbol. Of 300 words among 2,048 symbols about 22 pairs do.

Worker processes import this file, so it imports no JAX.
"""

import re
from functools import lru_cache
from hashlib import blake2b

import numpy as np

_WORD = re.compile(r"[^\W_]+")  # of any script
_FIRST = 0x4E00  # of a range of 20,992 letters of Unicode, each of which stands for a symbol
MOST_SYMBOLS, MOST_FEATURES = 20_992, 512
LARGEST = 8  # of a feature


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, without marks and drawings."""
    return _WORD.findall(text.casefold())


def letters(symbols: int) -> str:
    """All symbols, each as the letter that stands for it in a text space of Gymnasium."""
    return "".join(map(chr, range(_FIRST, _FIRST + symbols)))


@lru_cache(maxsize=100_000)
def symbol(word: str, symbols: int) -> int:
    """The number of a word's letter among `letters(symbols)`, from 0 on."""
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest()) % symbols


def letter(word: str, symbols: int) -> str:
    """The letter of a word: one of `letters(symbols)`."""
    return chr(_FIRST + symbol(word, symbols))


@lru_cache(maxsize=100_000)
def _signs(word: str, features: int) -> np.ndarray:
    bits = np.frombuffer(blake2b(word.encode(), digest_size=features // 8).digest(), np.uint8)
    return 2 * np.unpackbits(bits).astype(np.int8) - 1


def features_of(command: str, features: int) -> np.ndarray:
    """int8 [features]: the sum of its words' signs, each drawn by the word, and kept within `LARGEST`.

    A layer over it is a layer over the bag of words, as in He et al. 2016 (arXiv 1511.04636), of fewer dimensions.
    """
    total = sum((_signs(word, features) for word in words_of(command)), np.zeros(features, np.int64))
    return np.clip(total, -LARGEST, LARGEST).astype(np.int8)
