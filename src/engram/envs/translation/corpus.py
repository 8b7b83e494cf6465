"""A corpus: pairs of sentences in three splits, and the pieces that they are made of.

A folder of one holds

    corpus.json               its format, languages, origin, licence, lengths and pieces
    train.tsv, valid.tsv, test.tsv   a pair in each line: source, tab, target

The pairs are plain text, so that they can be read, and made by hand.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from engram.envs.translation.phrases import sentences
from engram.envs.translation.vocabulary import Vocabulary, letters, of_words
from engram.errors import SpecError, hint, told

FORMAT = "engram-corpus/1"
FILE = "corpus.json"
SPLITS = ("train", "valid", "test")
PHRASES = "phrases"  # the corpus that needs no folder
Pairs = Sequence[tuple[str, str]]


class Split(NamedTuple):
    """Sentences of a split, as text and as tokens (number of a piece + 1, 0 for nothing)."""

    pairs: Pairs
    source: Int[np.ndarray, "pairs places"]
    target: Int[np.ndarray, "pairs places"]  # each ends with END


@dataclass(frozen=True, eq=False)
class Corpus:
    """Fields:
    name: the folder. about: what `corpus.json` says of origin, licence and languages.
    splits: pairs by the name of the split.
    """

    name: str
    about: Mapping[str, Any]
    vocabulary: Vocabulary
    splits: Mapping[str, Pairs]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pieces and pairs: which token means what, and what is translated."""
        content = [self.vocabulary.pieces, [self.splits[name] for name in SPLITS]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    @cached_property
    def encoded(self) -> dict[str, Split]:
        """The splits as tokens, all with as many places as the longest sentence of the corpus needs."""
        ids = {name: [[self.vocabulary.encode(text) for text in pair] for pair in self.splits[name]] for name in SPLITS}
        sizes = [max((len(pair[side]) for rows in ids.values() for pair in rows), default=0) for side in (0, 1)]
        return {
            name: Split(
                self.splits[name],
                _padded([source for source, _ in rows], sizes[0]),
                _padded([[*target, 0] for _, target in rows], sizes[1] + 1),
            )
            for name, rows in ids.items()
        }

    @cached_property
    def references(self) -> dict[str, Int[np.ndarray, "pairs letters"]]:
        """The letters of each target without spaces, as code points; 0 after the last."""
        longest = max(len("".join(target.split())) for pairs in self.splits.values() for _, target in pairs)
        return {name: letters([target for _, target in pairs], longest) for name, pairs in self.splits.items()}


def _padded(rows: list[list[int]], places: int) -> Int[np.ndarray, "rows places"]:
    found = np.zeros((len(rows), places), np.int16)
    for row, numbers in zip(found, rows, strict=True):
        row[: len(numbers)] = np.asarray(numbers) + 1
    return found


def key_of(text: str) -> str:
    """What near-duplicates have in common: their letters in lower case, without all that is between them."""
    return "".join(letter for letter in text.lower() if letter.isalpha())


def split_of(source: str, shares: Sequence[float] = (0.8, 0.05, 0.15)) -> str:
    """The split of a source, by a hash of its letters: near-duplicates cannot lie on both sides."""
    digest = hashlib.sha256(key_of(source).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    ends = np.cumsum(shares)
    return next((name for name, end in zip(SPLITS, ends, strict=True) if place < end), SPLITS[-1])


def divided(pairs: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Pairs in splits by their source."""
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
    for source, target in pairs:
        found[split_of(source)].append((source, target))
    return found


def write(folder: Path, corpus: Corpus) -> None:
    """Makes the folder of a corpus. SpecError where something else lies there."""
    if folder.exists() and not (folder / FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise SpecError(f"{folder} holds other files; name a folder that is empty or does not exist")
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in corpus.splits.items():
        text = "".join(f"{source}\t{target}\n" for source, target in pairs)
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    content = {"format": FORMAT, **corpus.about, "pieces": corpus.vocabulary.pieces}
    (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@lru_cache(maxsize=4)
def find(name: str) -> Corpus:
    """The corpus `phrases`, or that of a folder.

    Raises SpecError, in one sentence, for a folder that is none, and for a line that holds no pair.
    """
    if name == PHRASES:
        return _phrases()
    folder = Path(name)
    if not (folder / FILE).is_file():
        near = f"; {hint(name, [PHRASES])}" if not folder.exists() and "/" not in name else ""
        raise SpecError(
            f"data = {name!r} was given, which is no folder with {FILE}{near}; make one: "
            f"python -m engram.envs.translation {name} --from libreoffice-de"
        )
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, not {FORMAT!r}")
        pieces = Vocabulary(tuple(content.pop("pieces")))
        about = {key: value for key, value in content.items() if key != "format"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise SpecError(f"{folder / FILE} cannot be read ({told(problem)}); make the folder anew") from None
    splits = {split: read_pairs(folder / f"{split}.tsv") for split in SPLITS}
    if not all(splits.values()):
        empty = next(split for split, pairs in splits.items() if not pairs)
        raise SpecError(f"{folder / f'{empty}.tsv'} holds no pair; give at least one line of source, tab, target")
    return Corpus(name, about, pieces, splits)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a file of source, tab, target. SpecError, naming the line, for a text without a pair."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise SpecError(f"{path} cannot be read ({told(problem)}); expected UTF-8 text: source, tab, target") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise SpecError(
                f"line {number} of {path} is {line[:60]!r}, a text without a pair; expected source, one tab, target"
            )
        found.append((parts[0], parts[1]))
    return found


def _phrases() -> Corpus:
    pairs = list(sentences())
    about = {"source": "en", "target": "de", "from": "a grammar of Engram's own", "licence": "Apache-2.0"}
    return Corpus(PHRASES, about, of_words(text for pair in pairs for text in pair), divided(pairs))
