"""`phrases`: English and German sentences from a small grammar of our own, for tests and for the first hour.

German changes the article and the adjective with gender and case, and moves the verb; neither can be had word by word.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

PAIRS = 3_000


class Noun(NamedTuple):
    """A noun of one language or the other; m, f or n."""

    english: str
    german: str
    gender: str


NOUNS = tuple(
    Noun(*line.split())
    for line in (
        "dog Hund m",
        "cat Katze f",
        "child Kind n",
        "man Mann m",
        "woman Frau f",
        "horse Pferd n",
        "baker Bäcker m",
        "queen Königin f",
        "girl Mädchen n",
        "doctor Arzt m",
        "duck Ente f",
        "sheep Schaf n",
    )
)
ADJECTIVES = {
    "small": "klein", "old": "alt", "young": "jung", "tired": "müde", "happy": "froh", "clever": "klug",
    "quiet": "still", "good": "gut",
}  # fmt: skip
# Plain form and third person of each.
VERBS = {
    ("see", "sees"): "sieht", ("hear", "hears"): "hört", ("like", "likes"): "mag", ("find", "finds"): "findet",
    ("look for", "looks for"): "sucht", ("know", "knows"): "kennt", ("visit", "visits"): "besucht",
    ("help out", "helps out"): "unterstützt",
}  # fmt: skip
TIMES = {"today": "heute", "often": "oft", "every morning": "jeden Morgen", "at night": "nachts"}
ARTICLES = {"subject": {"m": "der", "f": "die", "n": "das"}, "object": {"m": "den", "f": "die", "n": "das"}}


def _noun_phrase(random: np.random.Generator, role: str) -> tuple[str, str]:
    """An English noun phrase, and the German one as subject or object."""
    noun = NOUNS[random.integers(len(NOUNS))]
    article = ARTICLES[role][noun.gender]
    if random.random() < 0.4:
        return f"the {noun.english}", f"{article} {noun.german}"
    english, german = list(ADJECTIVES.items())[random.integers(len(ADJECTIVES))]
    ending = "n" if article == "den" else ""
    stem = german if german.endswith("e") else german + "e"
    return f"the {english} {noun.english}", f"{article} {stem}{ending} {noun.german}"


def _sentence(random: np.random.Generator) -> tuple[str, str]:
    """A sentence and its translation."""
    (who, wer), (whom, wen) = _noun_phrase(random, "subject"), _noun_phrase(random, "object")
    (plain, third), verb = list(VERBS.items())[random.integers(len(VERBS))]
    when, wann = list(TIMES.items())[random.integers(len(TIMES))]
    forms = (
        (f"{who} {third} {whom}", f"{wer} {verb} {wen}"),
        (f"{who} {third} {whom} {when}", f"{wer} {verb} {wann} {wen}"),
        (f"{when} {who} {third} {whom}", f"{wann} {verb} {wer} {wen}"),
        (f"we know that {who} {third} {whom}", f"wir wissen , dass {wer} {wen} {verb}"),
        (f"does {who} {plain} {whom} ?", f"{verb} {wer} {wen} ?"),
        (f"{who} does not {plain} {whom}", f"{wer} {verb} {wen} nicht"),
    )
    return forms[random.integers(len(forms))]


def sentences(count: int = PAIRS, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Pairs that all differ in their source, always the same ones for a seed."""
    random, seen = np.random.default_rng(seed), set()
    while len(seen) < count:
        source, target = _sentence(random)
        if source not in seen:
            seen.add(source)
            yield source, target
