"""Makes a folder of sentence pairs for `engram/Translate-v0`, with its vocabulary and demonstrations.

    python -m engram.envs.translation data/office-de --from libreoffice-de
    engram train engram/Translate-v0 --env-arg data=data/office-de \\
        --demonstrations data/office-de/demonstrations.npz ...

Near-duplicates of a source (equal letters in lower case) are left out. Train, valid and test are divided by a hash of
the source, 80 to 5 to 15.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engram.envs.translation import demonstrations
from engram.envs.translation.cleaning import prepared
from engram.envs.translation.corpus import FILE, PHRASES, Corpus, Pairs, divided, find, write
from engram.envs.translation.sources import BIBLE, found
from engram.envs.translation.vocabulary import MOST, Vocabulary, learned, of_words
from engram.errors import EXIT_INPUT_OUTPUT, EngramError, SpecError

SOURCES = "libreoffice-XX, bible-es, django-XX, sphinx-XX, phrases, FILE.tsv, or a FOLDER of gettext catalogues (.mo)"


USUAL: dict[str, Any] = {"pieces": 1_200, "words": (2, 12), "tokens": 18}
LONGER = {BIBLE: {"pieces": 1_500, "words": (2, 20), "tokens": 32}}  # verses are sentences, messages mostly are not


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command with these words, or those of the command line; its exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m engram.envs.translation", description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="where the pairs go")
    parser.add_argument("--from", dest="source", default=PHRASES, help=SOURCES)
    parser.add_argument(
        "--pieces", type=int, help=f"pieces of the vocabulary, of both languages together; {_told('pieces')} by default"
    )
    parser.add_argument(
        "--words", type=int, nargs=2, metavar=("LEAST", "MOST"), help=f"of a source; {_told('words')} by default"
    )
    parser.add_argument("--tokens", type=int, help=f"the longest sentence, in pieces; {_told('tokens')} by default")
    parser.add_argument("--pairs", type=int, help="the most pairs that are kept, the first ones; all by default")
    parser.add_argument(
        "--reward", default="chrf", choices=("chrf", "final", "constant"), help="that the references are told to earn"
    )
    parser.add_argument("--packages", type=Path, help="a folder that holds or is given the Debian packages")
    options = parser.parse_args(words)
    given = {name: getattr(options, name) is not None for name in USUAL}
    for name, usual in (USUAL | LONGER.get(options.source, {})).items():
        if not given[name]:
            setattr(options, name, usual)
    begun = not options.folder.exists()
    try:
        _check(options, given)
        options.folder.mkdir(parents=True, exist_ok=True)  # before anything is fetched for it
        with tempfile.TemporaryDirectory() as temporary:
            made = corpus(options, Path(options.packages or temporary))
        write(options.folder, made)
        find.cache_clear()  # of a folder that was there before
        steps = demonstrations.write(options.folder / "demonstrations.npz", str(options.folder), options.reward)
    except EngramError as problem:
        print(f"{problem}", file=sys.stderr)
        with suppress(OSError):  # of a folder that is not empty
            if begun:
                options.folder.rmdir()
        return problem.exit_code
    except OSError as problem:
        where = problem.filename or options.folder
        print(f"{where} cannot be used ({problem.strerror}); name a folder that you may write to", file=sys.stderr)
        return EXIT_INPUT_OUTPUT
    counts = ", ".join(f"{len(pairs):,} {name}" for name, pairs in made.splits.items())
    pieces = len(made.vocabulary.pieces)
    print(
        f"{options.folder / FILE}: {counts} pairs, of {made.about['pairs_read']:,} that were read; {pieces:,} pieces; "
        f"{steps:,} demonstrated tokens"
    )
    return 0


def _told(name: str) -> str:
    """What a number is by default."""
    usual, of_bible = (
        " ".join(map(str, value)) if isinstance(value, tuple) else value for value in (USUAL[name], LONGER[BIBLE][name])
    )
    return f"{usual}, of {BIBLE} {of_bible},"


def _check(options: argparse.Namespace, given: dict[str, bool]) -> None:
    """Raises SpecError for numbers that cannot be, and for what the source does not read."""
    least, most = options.words
    if not 1 <= least <= most:
        raise SpecError(f"--words {least} {most} was given; expected two numbers of at least 1, the lower one first")
    if options.pairs is not None and options.pairs < 1:
        raise SpecError(f"--pairs {options.pairs} was given; expected at least 1")
    if options.pieces > MOST:
        raise SpecError(f"--pieces {options.pieces:,} was given; expected at most {MOST:,}")
    if str(options.folder) == PHRASES:
        raise SpecError(f"{PHRASES!r} is the name of the corpus that comes with Engram; choose another folder")
    if options.source == PHRASES:
        for name in ("words", "pieces"):
            if given[name]:
                raise SpecError(
                    f"--{name} was given, but {PHRASES} are whole and have a piece for each word; leave it out"
                )


def corpus(options: argparse.Namespace, work: Path) -> Corpus:
    """The corpus that was asked for. SpecError where too little is left of it."""
    pairs, about = found(options.source, work)
    kept = list(prepared(pairs, tuple(options.words))) if options.source != PHRASES else pairs
    kept = kept[: options.pairs]
    splits: Any = divided(kept)
    if not splits["train"]:
        raise SpecError(f"{len(pairs)} pairs were read and none is left to learn from; give more, or widen --words")
    texts = [text for pair in splits["train"] for text in pair]
    pieces = (
        of_words(text for pair in kept for text in pair)
        if options.source == PHRASES
        else learned(texts, options.pieces)
    )
    short = {name: _short(pieces, each, options.tokens) for name, each in splits.items()}
    if lacking := [name for name, each in short.items() if not each]:
        raise SpecError(f"no pair is left in {lacking[0]}; give more text, or raise --tokens {options.tokens}")
    return Corpus(str(options.folder), {**about, "pairs_read": len(pairs)}, pieces, short)


def _short(pieces: Vocabulary, pairs: Pairs, tokens: int) -> Pairs:
    """The pairs of at most so many tokens on either side, END included."""
    return [pair for pair in pairs if max(len(pieces.encode(text)) for text in pair) < tokens]


if __name__ == "__main__":
    sys.exit(main())
