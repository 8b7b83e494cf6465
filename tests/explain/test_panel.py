"""A step in a terminal and as a line: all estimates, what was looked at, and nothing that could steer the terminal."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from engram.explaining.moments import Memory, Part, Step
from engram.explaining.overlay import overlaid, resized
from engram.explaining.panel import PLAIN, Watched, line, panel, short, spark


def step(**changes: Any) -> Step:
    """A step of three actions, of which the second was chosen."""
    about: dict[str, Any] = {
        "t": 3, "episode": 0, "action": 1, "runner_up": 0, "allowed": [True, True, False], "q": [1.0, 2.0, 9.0],
        "preference": [1.0, 2.0, float("-inf")], "distribution": None, "value": 2.0, "margin": 1.0, "from_network": 1.0,
        "from_memories": 0.0, "rest": 0.0, "without_memories": None, "share": None, "memories": [],
        "others": (0, 0.0, 0.0), "attention": np.zeros((0, 0), np.float32), "parts": [], "recalled": [],
        "still_moves": [], "reward": 0.5, "terminated": False, "truncated": False, "picture": None,
        "facts": [("height (m)", "0.25"), ("speed", "3")], "sentence": "",
    }  # fmt: skip
    return Step(**(about | changes))


def memory(**changes: Any) -> Memory:
    about: dict[str, Any] = {
        "id": 7, "action": 1, "looked_at": 0.4, "gave": 0.25, "mattered": None, "without": None, "value": 1.0,
        "environment": 0, "episode": 12, "step": 40,
    }  # fmt: skip
    return Memory(**(about | changes))


def watched(*steps: Step, actions: tuple[str, ...] = ("left", "right", "fire")) -> Watched:
    found = Watched("dqn on Mine-v0", actions)
    for one in steps:
        found.add(one)
    return found


def drawn(one: Step, known: Watched, width: int = 100, colour: bool = False, height: int = 30, **how: Any) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor" if colour else None, record=True
    )
    console.print(panel(one, known, width, height, **how))
    return console.file.getvalue() if colour else console.export_text()  # type: ignore[attr-defined]


def test_a_line_tells_all_that_matters():
    one = step(memories=[memory()], recalled=[(0, 0.7), (2, 0.2)], terminated=True)
    told = line(one, watched(step(t=0), one))
    assert told == (
        "step 3  right  Q left=1 right=2  margin 1  value 2  reward 0.5  return 1  memories episode 12, step 40 40% "
        "gave +0.25  looked back at step 0 70%, step 2 20%  the episode is over"
    )


def test_where_actions_are_others_at_each_step_those_on_offer_are_shown_by_their_names():
    one = step(called=["go east", "look"], parts=[Part("text 1", "7", word=True), Part("place", "0.5")],
               attention=np.array([[0.75, 0.25]], np.float32), memories=[memory()])  # fmt: skip
    told = line(one, watched(one, actions=("action 0", "action 1", "action 2")))
    assert told.startswith("step 3  look  Q go-east=1 look=2  margin")
    assert "attended to text 1 (7) 75%, place 25%" in told
    text = drawn(one, watched(one))
    assert "▶ look" in text
    assert "more action" not in text
    assert "look  +0.25" in text  # the row that the memory was read for
    assert "fire" not in text
    near = step(called=["cook yellow potato with stove", "cook yellow potato with oven"])
    assert "Q cook-yellow-…-with-stove=1 cook-yellow-…o-with-oven=2" in line(near, watched(near))


def test_the_panel_shows_all_actions_and_marks_the_chosen_one():
    text = drawn(step(memories=[memory(), memory(id=8, episode=-1, step=-1)], recalled=[(0, 0.7)]), watched(step()))
    assert "▶ right" in text
    assert "× fire" in text
    assert "not allowed" in text
    assert "episode 12, step 40" in text
    assert "memory 8" in text
    assert "step 0" in text
    assert "height (m)" in text
    assert "0.25" in text


def test_it_fits_terminals_of_any_width():
    one = step(facts=[("a name that is much too long for any panel", "v" * 90)], memories=[memory()])
    for width in (40, 60, 84, 200):
        assert max(len(row) for row in drawn(one, watched(one), width).splitlines()) <= width
    full = step(
        memories=[memory(mattered=0.1)] * 9, recalled=[(at, 0.1) for at in range(9)],
        picture=np.zeros((160, 160, 3), np.uint8), attention=np.full((1, 9), 1 / 9, np.float32),
        sentence="Chose a1, 0.3 above a0. " * 9,
        parts=[Part(f"part {number}", "0.5") for number in range(9)], preference=[1.0] * 30, allowed=[True] * 30,
    )  # fmt: skip
    known = watched(full, actions=tuple(f"a{number}" for number in range(30)))
    for width, height in ((100, 24), (100, 40), (60, 24), (60, 50)):
        lines = drawn(full, known, width, height=height).splitlines()
        assert len(lines) < height
        assert "margin" in lines[-3]
        assert lines[-2].endswith("… │")


def test_a_picture_is_drawn_in_colour():
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:2] = (255, 0, 0)
    text = drawn(step(picture=picture), watched(step()), colour=True)
    assert "38;2;255;0;0;48;2;255;0;0m▀" in text
    assert "38;2;0;0;0;48;2;0;0;0m▀" in text
    assert "▀" not in drawn(step(picture=picture), watched(step()), blocks=PLAIN, pictured=False)


def test_names_of_strangers_cannot_steer_the_terminal():
    evil = "\x1b[31m\u202eup\n"
    one = step(facts=[(evil, evil)], parts=[Part(evil, evil)], attention=np.ones((1, 1), np.float32))
    known = watched(one, actions=(evil, evil, evil))
    known.title = evil
    for text in (line(one, known), drawn(one, known)):
        assert "\x1b[31m" not in text
        assert "\u202e" not in text
    assert "\n" not in line(one, known)
    assert "\n" not in short(evil)


def test_numbers_that_are_none_break_nothing():
    broken = step(preference=[float("nan"), float("inf"), float("-inf")], value=float("nan"))
    for one in (broken, step(preference=[1.0], allowed=[True], action=0, runner_up=0, q=[1.0])):
        known = watched(step(), one)
        assert drawn(one, known)
        assert line(one, known)
    many = step(preference=[*map(float, range(300))], allowed=[True] * 300, action=5, q=[0.0] * 300)
    known = watched(many, actions=tuple(f"a{number}" for number in range(300)))
    assert "and 282 more actions" in drawn(many, known, height=50)
    assert "and 288 more actions" in drawn(many, known)
    assert "▶ a5 " in drawn(many, known)


def test_a_new_episode_begins_a_new_line_of_values():
    known = watched(step(t=0, value=1.0), step(t=1, value=2.0), step(t=0, value=5.0, reward=2.0))
    assert (known.values, known.paid) == ([5.0], 2.0)
    assert spark([0, 1, 2, 7], 8) == "▁▂▃█"
    assert spark([1, 1], 8) == "▁▁"
    assert spark([float("nan")], 8) == ""


def test_places_that_were_attended_to_are_lighter():
    picture = np.full((4, 4, 3), 100, np.uint8)
    halves = [Part("left", box=(0, 0, 0.5, 1)), Part("right", box=(0.5, 0, 1, 1))]
    found = overlaid(step(picture=picture, parts=halves, attention=np.array([[0.0, 1.0]], np.float32)))
    assert found is not None
    assert found[0, 0].max() < 100 < found[0, 3].min() + 60
    assert (found[:, :2] == found[0, 0]).all()
    assert overlaid(step(picture=picture)) is picture
    one = [Part("car", box=(0.25, 0.25, 0.75, 0.75))]
    framed = overlaid(step(picture=picture, parts=one, attention=np.ones((1, 1), np.float32)))
    assert framed is not None
    assert (framed[0] == 100).all()
    assert (framed[1, 1] != 100).any()


def test_pictures_change_their_size_without_losing_what_is_small():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[3, 3] = 255
    assert resized(picture, 2, 2)[0, 0].tolist() == [16, 16, 16]
    larger = resized(picture, 24, 24)
    assert (larger[9:12, 9:12] == 255).all()
    assert larger.sum() == 255 * 3 * 9
    assert resized(picture, 5, 7).shape == (5, 7, 3)


def test_a_step_without_anything_seen_says_so():
    assert "nothing draws this environment" in drawn(replace(step(), facts=[]), watched(step()))
