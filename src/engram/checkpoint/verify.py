"""A second opinion on checkpoints. It shares no reader with the store: a fault in one is not a fault in both."""

import json
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import safe_open

_FOLDER = re.compile(r"step-([0-9]{9,18})\.([0-9]+)")
_CODES = {"bool": "BOOL", "float32": "F32", "float64": "F64"} | {
    f"{sign}int{bits}": f"{letter}{bits}" for sign, letter in (("", "I"), ("u", "U")) for bits in (8, 16, 32, 64)
}


def verify_folder(folder: Path, step: int | None = None) -> list[str]:
    """One sentence for each problem of the checkpoints in a folder (of one step, if given); empty means sound.

    Every byte that a checkpoint names is read and hashed; a segment shared by several is hashed once.
    """
    found = [path for path in (folder.iterdir() if folder.is_dir() else ()) if _FOLDER.fullmatch(path.name)]
    wanted = [path for path in found if step is None or _numbers(path)[0] == step]
    if not wanted:
        return [f"{folder} holds no checkpoint{'' if step is None else f' of step {step}'}"]
    hashes: dict[Path, str] = {}
    problems = []
    for path in sorted(wanted, key=lambda path: _numbers(path)[1]):
        try:
            _verify_one(path, hashes)
        except Exception as error:  # whatever a damaged file provokes is the finding, not a fault of the checker
            problems.append(f"checkpoint {path.name}: {type(error).__name__}: {error}")
    return problems


def _numbers(path: Path) -> tuple[int, int]:
    step, number = _FOLDER.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return int(step), int(number)


def _expect(right: bool, sentence: str) -> None:
    if not right:
        raise ValueError(sentence)


def _verify_one(path: Path, hashes: dict[Path, str]) -> None:
    _expect(not path.is_symlink(), "it is a link")
    text = (path / "manifest.json").read_bytes()
    promised = (path / "manifest.sha256").read_text("ascii")
    _expect(promised == sha256(text).hexdigest() + "  manifest.json\n", "manifest.json differs from manifest.sha256")
    manifest = json.loads(text, object_pairs_hook=_no_repeats)
    _expect(manifest["format"] == 1, f"format {manifest['format']} is not known here")
    _expect((manifest["step"], manifest["save"]) == _numbers(path), "its manifest belongs to another checkpoint")
    arrays = manifest["arrays"]
    _expect(arrays["file"] == "arrays.safetensors", "its arrays have a wrong file name")
    layouts = _tensors(_sealed(path, arrays, hashes))
    _expect(
        layouts == {name: (_CODES[one["dtype"]], one["shape"]) for name, one in arrays["tensors"].items()},
        "arrays.safetensors holds other arrays than the manifest says",
    )
    if manifest["replay"] is not None:
        _verify_replay(path.parent / "segments", manifest["replay"], hashes)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    _expect(not repeated, f"a JSON object repeats {repeated[:3]}")
    return dict(pairs)


def _sealed(folder: Path, entry: dict[str, Any], hashes: dict[Path, str]) -> Path:
    """The path of a file that is as long, and has the hash, that the manifest says."""
    path = folder / entry["file"]
    _expect(path.is_file() and not path.is_symlink() and path.parent == folder, f"{entry['file']!r} is missing")
    _expect(path.stat().st_size == entry["bytes"], f"{path.name} has the wrong size")
    if path not in hashes:
        digest = sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        hashes[path] = digest.hexdigest()
    _expect(hashes[path] == entry["sha256"], f"{path.name} has the wrong SHA-256")
    return path


def _tensors(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Name -> (safetensors type, shape) of a tensor file, as the safetensors library sees it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length), object_pairs_hook=_no_repeats)  # the library accepts repeated names
    with safe_open(path, framework="numpy") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
        return {name: (one.get_dtype(), list(one.get_shape())) for name, one in slices.items()}


def _verify_replay(folder: Path, replay: dict[str, Any], hashes: dict[Path, str]) -> None:
    """Every live row is in exactly one place: spans are put on a line and walked, lane by lane."""
    _expect(not folder.is_symlink(), "the folder 'segments' is a link")
    _expect(replay["capacity"] >= 1, "the replay has no capacity")
    spans: list[list[tuple[int, int]]] = [[] for _ in replay["cursors"]]
    for entry in replay["segments"]:
        path = _sealed(folder, entry, hashes)
        with safe_open(path, framework="numpy") as tensors:
            bounds = zip(tensors.get_tensor("start").tolist(), tensors.get_tensor("stop").tolist(), strict=True)
        bounds = list(bounds)
        _expect(len(bounds) == len(spans), f"{path.name} has another number of lanes than the manifest")
        for lane, span in zip(spans, bounds, strict=True):
            lane.append(span)
        _verify_rows(path, sum(stop - start for start, stop in bounds), replay["columns"])
    for lane, (cursor, lane_spans) in enumerate(zip(replay["cursors"], spans, strict=True)):
        live = range(max(0, cursor - replay["capacity"]), cursor)
        position = live.start
        for start, stop in sorted((max(start, live.start), stop) for start, stop in lane_spans if stop > start):
            if stop > live.start:
                _expect(start == position, f"replay lane {lane} misses or repeats rows from {min(start, position)}")
                position = stop
        _expect(position == live.stop, f"replay lane {lane} ends at row {position}, not at {live.stop}")


def _verify_rows(path: Path, rows: int, columns: dict[str, Any]) -> None:
    counts = dict.fromkeys(columns, 0)
    for name, (code, shape) in _tensors(path).items():
        if name in ("start", "stop"):
            continue
        column = name.partition("/")[2]
        expected = columns[column]
        _expect((code, shape[1:]) == (_CODES[expected["dtype"]], expected["shape"]), f"{path.name}: {name} is odd")
        counts[column] += shape[0]
    _expect(all(count == rows for count in counts.values()), f"{path.name} holds another number of rows than it names")
