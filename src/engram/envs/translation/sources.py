"""Where pairs come from: Debian packages, fetched and unpacked without being installed; Python packages; your files.

libreoffice-XX   messages of LibreOffice, English and language XX (MPL-2.0): package libreoffice-l10n-XX
bible-es         verses of the King James Version and of the Reina-Valera of 1909 (public domain): packages
                 sword-text-kjv and sword-text-sparv
django-XX        messages of the Python package Django or Sphinx where it is installed, English and language XX (BSD)
sphinx-XX
phrases          sentences of a small grammar
FILE.tsv         your own: source, tab, target
FOLDER           your own gettext catalogues (.mo), all below the folder
"""

import gettext
import importlib.metadata
import importlib.util
import re
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engram.envs.translation.corpus import PHRASES, read_pairs
from engram.envs.translation.phrases import sentences
from engram.errors import SpecError, hint, told

Pair = tuple[str, str]
OFFICE, BIBLE = "libreoffice-", "bible-es"
PACKAGES = {"django": "BSD-3-Clause", "sphinx": "BSD-2-Clause"}  # by their names in Python
LANGUAGE = r"[A-Za-z]{2,4}(_[A-Za-z]+)?"
MODULES = {"sword-text-kjv": "engKJV2006eb", "sword-text-sparv": "spaRV1909eb"}
NOT_TEXT = re.compile(r"<(note|title)\b.*?</\1>|<[^>]*>", re.DOTALL)
INDEX, VERSE = struct.Struct("<III"), struct.Struct("<IIH")  # offset, size, size unpacked; block, offset, size


class Found(NamedTuple):
    """Pairs as they lie in a source, and what is said of it."""

    pairs: list[Pair]
    about: dict[str, Any]


def found(name: str, work: Path) -> Found:
    """The pairs of a source by its name; packages are fetched into `work`. SpecError for what cannot be had."""
    if name == PHRASES:
        about = {"source": "en", "target": "de", "from": "a grammar of Engram's own", "licence": "Apache-2.0"}
        return Found(list(sentences()), about)
    if parts := re.fullmatch(f"({'|'.join(PACKAGES)})-({LANGUAGE})", name):
        return of_package(parts[1], parts[2])
    if re.fullmatch(f"{OFFICE}[a-z]{{2,3}}(-[a-z]+)?", name):
        language = name.removeprefix(OFFICE)
        root, package = unpacked(f"libreoffice-l10n-{language}", work)
        pairs = list(of_catalogues(root))
        return Found(pairs, {"source": "en", "target": language, "from": package, "licence": "MPL-2.0"})
    if name == BIBLE:
        (one, first), (other, second) = (unpacked(package, work) for package in MODULES)
        pairs = list(
            of_verses(*(verses(root, module) for root, module in zip((one, other), MODULES.values(), strict=True)))
        )
        return Found(pairs, {"source": "en", "target": "es", "from": f"{first}, {second}", "licence": "public domain"})
    if Path(name).is_file():
        return Found(read_pairs(Path(name)), {"from": Path(name).name})
    if Path(name).is_dir():
        return Found(list(of_catalogues(Path(name))), {"from": Path(name).name})
    raise SpecError(
        f"--from {name} names no source of pairs; expected libreoffice-de, django-de, sphinx-de (or another language), "
        f"{BIBLE}, {PHRASES}, a file of source, tab, target, or a folder of catalogues"
    )


def of_package(package: str, language: str) -> Found:
    """The messages of an installed Python package. SpecError where it is absent, or lacks the language."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SpecError(f"the package {package} is not installed; install it: uv pip install {package}")
    root = Path(spec.submodule_search_locations[0])
    pairs = list(of_catalogues(root, f"locale/{language}/**/*.mo"))
    if not pairs:
        languages = sorted({path.parents[1].name for path in root.rglob("locale/*/LC_MESSAGES/*.mo")})
        raise SpecError(f"{package} has no messages in {language!r}; {hint(language, languages)}")
    version = importlib.metadata.version(package)
    about = {"source": "en", "target": language, "from": f"{package} {version}", "licence": PACKAGES[package]}
    return Found(pairs, about)


def unpacked(package: str, work: Path) -> tuple[Path, str]:
    """The files of a Debian package, and its name with its version. It is fetched unless `work` holds it."""
    work.mkdir(parents=True, exist_ok=True)
    if not (debs := sorted(work.glob(f"{package}_*.deb"))):
        _run(["apt-get", "download", package], work, f"the package {package} could not be fetched")
        debs = sorted(work.glob(f"{package}_*.deb"))
    root = work / package
    _run(
        ["dpkg-deb", "-x", str(debs[-1].resolve()), str(root.resolve())], work, f"{debs[-1].name} could not be unpacked"
    )
    return root, debs[-1].name.removesuffix("_all.deb").replace("%3a", ":")


def _run(command: list[str], work: Path, problem: str) -> None:
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SpecError(
            f"{problem}: {told(error)}; this needs {command[0]} of Debian or Ubuntu; give a file of source, tab, "
            f"target instead"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise SpecError(
            f"{problem}: {last}; try `apt-get update`, or name a folder that holds the .deb with --packages"
        )


def of_catalogues(root: Path, pattern: str = "*.mo") -> Iterator[Pair]:
    """Message and translation of every gettext catalogue below a folder. One that cannot be read is left out."""
    for path in sorted(root.rglob(pattern)):
        try:
            with path.open("rb") as file:
                catalogue: Any = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        except (OSError, ValueError, LookupError, struct.error):  # in Latin-1, or with a charset that is none
            continue
        for key, target in catalogue.items():
            if isinstance(key, tuple):  # of several plurals the first
                key = key[0] if key[1] == 0 else ""
            source = key.rpartition("\x04")[2]  # before it stands where the message is shown
            if source:
                yield source, target


def verses(root: Path, module: str) -> list[str]:
    """Each slot of a SWORD module of kind zText, Old Testament first; "" where it holds nothing."""
    found = []
    folder = root / "usr/share/sword/modules/texts/ztext" / module
    for testament in ("ot", "nt"):
        try:
            index, slots, books = ((folder / f"{testament}.bz{kind}").read_bytes() for kind in "svz")
        except OSError as problem:
            raise SpecError(f"{module} has no verses ({told(problem)}); fetch its package anew") from None
        blocks = [zlib.decompress(books[at : at + size]) for at, size, _ in INDEX.iter_unpack(index)]
        for block, at, size in VERSE.iter_unpack(slots):
            text = blocks[block][at : at + size].decode("utf-8", "replace") if size else ""
            found.append(" ".join(NOT_TEXT.sub("", text).replace("¶", "").split()))
    return found


def of_verses(one: list[str], other: list[str]) -> Iterator[Pair]:
    """The verses that lie in the same slot. SpecError where the two are numbered otherwise."""
    if len(one) != len(other):
        raise SpecError(f"the two Bibles have {len(one)} and {len(other)} places, so their verses cannot be paired")
    yield from ((source, target) for source, target in zip(one, other, strict=True) if source and target)
