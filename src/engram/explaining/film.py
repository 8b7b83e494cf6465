"""A step as a picture, and an episode as a film: what was seen with the overlay, all estimates, what was attended to.

Pictures and gifs are made by Pillow, which comes with matplotlib. An mp4 needs the extra `video`.
"""

import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from engram.errors import SpecError, WriteFailed, install, unwritten
from engram.explaining.moments import Step
from engram.explaining.overlay import overlaid, resized
from engram.explaining.panel import Watched, attended_groups, most_attended, short
from engram.run.display import clean

Frame = Any  # an image of Pillow, which is imported where it is needed
SIZE = 640, 360
SIDE, LEFT, TOP = 320, 12, 30  # of the square for what was seen
BESIDE, ALONG = 348, 276  # where the rest begins, and how wide it is
PAPER, INK, DIM, FAINT = (250, 248, 243), (43, 45, 66), (120, 120, 130), (226, 221, 211)
BAR, CHOSEN, GOLD, RED = (120, 162, 200), (226, 122, 44), (196, 150, 30), (200, 66, 58)
MOST_ROWS = 9  # actions that get a bar
FILMS = (".gif", ".mp4")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
COLOURS = 128  # of a gif's frame
FASTEST = 50.0  # pictures a second of a gif: most programs show no more


def framed(step: Step, watched: Watched, scale: int = 1) -> Frame:
    """One step as a picture of 640 x 360 pixels, or `scale` times as many each way."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIZE[0] * scale, SIZE[1] * scale), PAPER)
    pen = _Pen(ImageDraw.Draw(image), scale)
    pen.text(LEFT, 8, f"{short(watched.title, 48)}", INK, 13)
    ends = ", the episode is over" if step.terminated else ", the clock ran out" if step.truncated else ""
    pen.text(624, 8, f"step {step.t}{ends}", DIM, 13, "ra")
    _seen(image, pen, step, scale)
    bottom = _estimates(pen, step, watched)
    _remembered(pen, step, watched, bottom + 8)
    _course(pen, step, watched)
    return image


class _Pen:
    """Draws in the coordinates of a picture of 640 x 360."""

    def __init__(self, draw: Any, scale: int):
        self._draw, self._scale = draw, scale
        self._fonts: dict[int, Any] = {}

    def text(self, x: float, y: float, words: str, colour: tuple[int, int, int], size: int, anchor: str = "la") -> None:
        from PIL import ImageFont

        font = self._fonts.setdefault(size, ImageFont.load_default(size * self._scale))
        with suppress(UnicodeEncodeError):  # a font without these letters
            self._draw.text((x * self._scale, y * self._scale), words, fill=colour, font=font, anchor=anchor)

    def box(self, left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        corners = [round(one * self._scale) for one in (left, top, right, bottom)]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            self._draw.rectangle([corners[0], corners[1], corners[2] - 1, corners[3] - 1], fill=colour)

    def line(self, points: list[tuple[float, float]], colour: tuple[int, int, int], width: float = 1.5) -> None:
        places = [(x * self._scale, y * self._scale) for x, y in points]
        self._draw.line(places, fill=colour, width=max(1, round(width * self._scale)), joint="curve")


def _seen(image: Frame, pen: _Pen, step: Step, scale: int) -> None:
    """What was seen, as large as it fits; or names and values."""
    from PIL import Image

    picture = overlaid(step)
    if picture is None:
        _facts(pen, step)
        return
    height, width, _ = picture.shape
    larger = min(SIDE * scale / height, SIDE * scale / width)
    larger = float(int(larger)) if larger >= 2 else larger  # whole pixels stay sharp
    tall, wide = max(1, round(height * larger)), max(1, round(width * larger))
    left, top = LEFT * scale + (SIDE * scale - wide) // 2, TOP * scale + (SIDE * scale - tall) // 2
    image.paste(Image.fromarray(resized(picture, tall, wide)), (left, top))


def _facts(pen: _Pen, step: Step) -> None:
    weights = {name: share for name, _, share in most_attended(step)}
    room = 19
    for row, (name, value) in enumerate(step.facts[:room]):
        y = 36 + 15 * row
        pen.text(16, y, short(name, 26), DIM, 11)
        pen.text(236, y, short(value, 14), INK, 11, "ra")
        pen.box(244, y + 2, 244 + 66 * weights.get(short(name), 0.0), y + 11, GOLD)
    if not step.facts:
        pen.text(164, 170, "nothing draws this environment", DIM, 12, "ma")


def _estimates(pen: _Pen, step: Step, watched: Watched) -> float:
    """A bar for each action, the chosen one orange with an arrow. Returns where it ends."""
    order = [*step.rows]
    if len(order) > MOST_ROWS:
        order = sorted(sorted(order, key=lambda one: (one != step.action, -step.preference[one]))[:MOST_ROWS])
    pen.text(BESIDE, 34, f"{watched.unit} of each action", DIM, 11)
    span = watched.highest - watched.lowest
    tall = 20 if len(order) <= 5 else 16
    for row, action in enumerate(order):
        y, value, chosen = 50 + tall * row, step.preference[action], action == step.action
        allowed = step.allowed[action]
        share = (value - watched.lowest) / span if allowed and np.isfinite(value) and span > 0 else 0.0
        if chosen:
            pen.line([(BESIDE + 1, y + 3), (BESIDE + 6, y + 7), (BESIDE + 1, y + 11)], CHOSEN, 2)
        pen.text(BESIDE + 11, y, short(watched.name(action, step), 15, middle=True), INK if allowed else DIM, 12)
        pen.box(462, y + 1, 462 + 4 + 96 * share, y + tall - 6, CHOSEN if chosen else BAR if allowed else FAINT)
        pen.text(624, y, f"{value:.4g}" if allowed else "not allowed", INK if chosen else DIM, 12, "ra")
    return 50.0 + tall * len(order)


def _remembered(pen: _Pen, step: Step, watched: Watched, top: float) -> None:
    """What was attended to: remembered experiences, steps of this episode, parts of the input."""
    on_picture = any(part.box for part in step.parts)
    groups = [one for one in attended_groups(step, watched) if not (on_picture and one[0] == "attended to")]
    room = int((256 - top) / 15) - len(groups)
    y = top
    for place, (head, rows) in enumerate(groups):
        shown = rows[: max(1, min(5, room // (len(groups) - place)))]
        room -= len(shown)
        pen.text(BESIDE, y, head, DIM, 11)
        y += 15
        for name, share, more in shown:
            pen.text(BESIDE + 11, y, short(name, 22), INK, 11)
            pen.box(482, y + 2, 482 + 2 + 50 * min(1.0, share), y + 11, GOLD)
            pen.text(624, y, f"{share:.0%}  {more}".strip(), DIM, 11, "ra")
            y += 15
        y += 3


def _course(pen: _Pen, step: Step, watched: Watched) -> None:
    """The value so far, with rewards as ticks; reward, return and margin in words."""
    told = f"value {step.value:.4g}   reward {step.reward:g}   return {watched.paid:g}   margin {step.margin:.3g}"
    pen.text(BESIDE, 292, told, INK, 11)
    first, stop, _ = clean(step.sentence).partition(". ")  # the others have no room
    for row, words in enumerate(wrap(first + stop.strip(), 50)[:2]):
        pen.text(BESIDE, 262 + 14 * row, words, DIM, 11)
    values = np.asarray(watched.values[-300:], np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, span = values.min(), max(float(np.ptp(values)), 1e-9)
    width = ALONG / max(len(values) - 1, 30)
    points = [(BESIDE + width * place, 346 - 34 * (value - low) / span) for place, value in enumerate(values)]
    pen.box(BESIDE, 350, 624, 351, FAINT)
    for place, paid in enumerate(watched.rewards[-300:]):
        if paid != 0:
            pen.box(BESIDE + width * place, 348, BESIDE + width * place + 1.5, 353, BAR if paid > 0 else RED)
    if len(points) > 1:
        pen.line(points, INK)
    x, y = points[-1]
    pen.box(x - 2, y - 2, x + 2, y + 2, CHOSEN)


# -- files -----------------------------------------------------------------------------------------------------------


def check_ending(path: Path, endings: tuple[str, ...], what: str) -> None:
    """SpecError where a file's name does not end as one of these, and for an mp4 that nothing here can write."""
    if path.suffix.lower() not in endings:
        raise SpecError(f"{what} {str(path)!r} ends with none of {', '.join(endings)}; choose one of these")
    if not path.parent.is_dir():
        raise SpecError(f"{what} {str(path)!r} lies in no folder that is there; make {path.parent} first")
    if path.suffix.lower() == ".mp4":
        _writer()


def write_picture(step: Step, watched: Watched, path: Path, scale: int = 2) -> None:
    """One step as a picture of 1280 x 720 pixels. Raises WriteFailed."""
    image = framed(step, watched, scale)
    if path.suffix.lower() == ".png":
        image = image.quantize(COLOURS)  # a third of the bytes
    try:
        image.save(path)
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None


def write_film(frames: Iterable[Frame], path: Path, per_second: float) -> int:
    """Pictures as a film, a gif or an mp4, and how many they were. Raises WriteFailed, and SpecError for none.

    Pictures are written as they come, so that a long episode needs no memory for it.
    """
    counted = _Counted(frames)
    write: Callable[..., None] = _gif if path.suffix.lower() == ".gif" else _mp4
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        write(iter(counted), beside, per_second)
        beside.replace(path)
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None
    finally:  # also after Ctrl-C: half a film is none, and one that was there stays
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return counted.number


class _Counted:
    """Counts what it hands on."""

    def __init__(self, frames: Iterable[Frame]):
        self._frames, self.number = frames, 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            self.number += 1
            yield frame


def _gif(frames: Iterator[Frame], path: Path, per_second: float) -> None:
    first = next(frames, None)
    if first is None:
        raise SpecError("no step was there to film; give other --steps")
    rest = (frame.quantize(COLOURS) for frame in frames)
    length = round(1000 / min(per_second, FASTEST))
    first.quantize(COLOURS).save(path, save_all=True, append_images=rest, duration=length, loop=0)


def _mp4(frames: Iterator[Frame], path: Path, per_second: float) -> None:
    writer: Any = None
    try:
        for frame in frames:
            if writer is None:
                writer = _writer()(str(path), frame.size, fps=per_second, quality=7, macro_block_size=1)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*fork")  # ffmpeg is another program at once
                    writer.send(None)
            writer.send(np.ascontiguousarray(np.asarray(frame)))
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise SpecError("no step was there to film; give other --steps")


def _writer() -> Callable[..., Any]:
    """What writes an mp4; SpecError where it is not installed."""
    try:
        return import_module("imageio_ffmpeg").write_frames
    except ImportError:
        raise SpecError(f"an mp4 needs the package imageio-ffmpeg; {install('video')}, or write a .gif") from None
