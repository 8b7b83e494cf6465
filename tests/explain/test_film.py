"""A step as a picture and an episode as a film."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engram.errors import SpecError, WriteFailed
from engram.explaining.film import FILMS, check_ending, framed, write_film, write_picture
from engram.explaining.moments import Part

from test_panel import memory, step, watched  # isort: skip


def picture(shade: int) -> np.ndarray:
    found = np.zeros((20, 30, 3), np.uint8)
    found[..., 1] = shade
    return found


def test_what_was_seen_stands_in_the_picture():
    one = step(picture=picture(200), memories=[memory()], recalled=[(0, 0.5)])
    found = np.asarray(framed(one, watched(one)))
    assert found.shape == (360, 640, 3)
    assert (found[180, 100] == (0, 200, 0)).all()
    assert np.asarray(framed(one, watched(one), 2)).shape == (720, 1280, 3)
    other = step(picture=picture(200), action=0, preference=[2.0, 1.0, float("-inf")])
    assert (np.asarray(framed(other, watched(other))) != found).any()


def test_all_sorts_of_steps_are_drawn():
    for one in (
        step(facts=[]),
        step(preference=[float("nan")] * 3),
        step(preference=[1.0] * 40, allowed=[True] * 40, q=[1.0] * 40),
        step(attention=np.ones((2, 2), np.float32) / 2, parts=[Part("a", "1"), Part("b", "2")]),
        step(memories=[memory()] * 9, recalled=[(time, 0.1) for time in range(30)], facts=[("ü 中 \U0001f600", "1")]),
    ):
        known = watched(one, actions=tuple(f"action {number}" for number in range(40)))
        assert framed(one, known).size == (640, 360)


def test_actions_on_offer_are_drawn_by_the_names_of_their_step():
    def drawn(*called: str) -> np.ndarray:
        one = step(called=[*called])
        return np.asarray(framed(one, watched(one, actions=("action 0", "action 1", "action 2"))))

    assert (drawn("go east", "look") != drawn("go west", "look")).any()
    assert (drawn("go east", "look") != drawn("go east", "look", "take coin")).any()  # the third has no bar


def test_a_picture_is_small(tmp_path: Path):
    random = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    one = step(picture=random, memories=[memory()] * 5)
    write_picture(one, watched(one), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (1280, 720)
    assert (tmp_path / "a.png").stat().st_size < 60_000


def test_a_gif_has_every_step(tmp_path: Path):
    steps = [step(t=time, picture=picture(60 * time)) for time in range(4)]
    count = write_film((framed(one, watched(one)) for one in steps), tmp_path / "a.gif", 20)
    film = Image.open(tmp_path / "a.gif")
    assert (count, film.n_frames, film.info["duration"]) == (4, 4, 50)  # type: ignore[attr-defined]


def test_an_mp4_has_every_step(tmp_path: Path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    steps = [step(t=time, picture=picture(60 * time)) for time in range(4)]
    assert write_film((framed(one, watched(one)) for one in steps), tmp_path / "a.mp4", 20) == 4
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))[0] == 4


def test_half_a_film_is_none(tmp_path: Path):
    def frames():
        yield framed(step(), watched(step()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_film(frames(), tmp_path / "a.gif", 20)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.gif").write_bytes(b"an earlier film")
    with pytest.raises(SpecError, match="no step was there to film; give other --steps"):
        write_film(iter(()), tmp_path / "a.gif", 20)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an earlier film"]


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SpecError, match=r"--video 'a.avi' ends with none of .gif, .mp4; choose one of these"):
        check_ending(Path("a.avi"), FILMS, "--video")
    with pytest.raises(SpecError, match="lies in no folder that is there; make .*/none first"):
        check_ending(tmp_path / "none" / "a.gif", FILMS, "--video")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(SpecError, match=r"an mp4 needs the package imageio-ffmpeg; .*--extra video.* or write a .gif"):
        check_ending(tmp_path / "a.mp4", FILMS, "--video")
    with pytest.raises(WriteFailed, match="could not be written"):
        write_picture(step(), watched(step()), tmp_path / "gone" / "a.png")
