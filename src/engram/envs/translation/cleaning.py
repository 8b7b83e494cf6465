"""Pairs of messages made fit to learn from: marks of menus gone, placeholders one token, no near-duplicates."""

import re
from collections.abc import Iterable, Iterator

from engram.envs.translation.corpus import key_of
from engram.envs.translation.vocabulary import PLACEHOLDERS

Pair = tuple[str, str]
# What a program fills in: %PRODUCTNAME, %1, %s, %-5.2f, %(name)s, $(ARG1), ${name}, $name$, $1, {0}, #COUNT#.
PLACEHOLDER = re.compile(
    r"%[A-Z][A-Z0-9_]*%?(?![a-z])|%\([^()]*\)[-+#0]*\d*(?:\.\d+)?[a-z]"
    r"|(?<!\d)%(?:\d+\$)?[-+#0]*\d*(?:\.\d+)?(?:hh?|ll?|z)?[sdiuxXfgeco](?![a-z])|%\d+(?:\$[a-z])?"
    r"|\$\([^)]*\)|\$\{[^}]*\}|\$[A-Za-z][A-Za-z0-9_]*\$?|(?<![A-Za-z])\$\d+|\{[^{}]*\}|#[A-Z]+#"
)
MARK = re.compile(r"~|_(?=\w)")  # the letter that follows is underlined in a menu
TAG = re.compile(r"<[^>]*>")


def cleaned(source: str, target: str) -> Pair | None:
    """The pair without marks, spaces joined, and placeholders as ⟨1⟩, ⟨2⟩, ... in the order of the source.

    None where it cannot be learned from: tags, several lines, a placeholder that the source does not have, or a
    translation that is the source.
    """
    names: dict[str, str] = {}
    source, _ = numbered(source, names)
    known = set(names)
    target, _ = numbered(target, names)
    if len(known) > len(PLACEHOLDERS) or set(names) - known or any(TAG.search(text) for text in (source, target)):
        return None
    if "\n" in source.strip() or "\n" in target.strip():
        return None
    source, target = (unmarked(text) for text in (source, target))
    return (source, target) if source and target and source != target else None


def unmarked(text: str) -> str:
    """The text without marks of menus, spaces joined."""
    return " ".join(MARK.sub("", text).split())


def numbered(text: str, names: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """The text with its placeholders as ⟨1⟩, ⟨2⟩, ..., and which each of them stands for; `names` are known already."""
    names = {} if names is None else names

    def one(found: re.Match) -> str:
        return names.setdefault(found.group(), PLACEHOLDERS[min(len(names), len(PLACEHOLDERS) - 1)])

    return PLACEHOLDER.sub(one, text), names


def filled(text: str, names: dict[str, str]) -> str:
    """The inverse of `numbered`, for as many as there are marks."""
    for name, mark in names.items():
        text = text.replace(mark, name)
    return text


def prepared(pairs: Iterable[Pair], words: tuple[int, int]) -> Iterator[Pair]:
    """Cleaned pairs of so many words in the source; of those whose sources have equal letters, the first alone."""
    seen = set()
    for pair in pairs:
        made = cleaned(*pair)
        if made is None or not words[0] <= len(made[0].split()) <= words[1]:
            continue
        key = key_of(made[0])
        if key and key not in seen:
            seen.add(key)
            yield made


def lost(source: str, target: str) -> int:
    """Placeholders of the source that its translation lacks."""
    return sum(max(0, source.count(mark) - target.count(mark)) for mark in PLACEHOLDERS)
