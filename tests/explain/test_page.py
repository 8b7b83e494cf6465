"""The one file: what is in it, how large it is, and what no part of its script may do."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from support import tolds

from engram.errors import EngramError, WriteFailed
from engram.explaining import columns, data, faithfulness, page, pictures, tables
from engram.explaining.explanation import Explanation
from engram.explaining.sentences import of_step

LARGEST = 80_000  # bytes of script and style


def block(text: str, name: str) -> str:
    """The inside of the script element with an id, as a browser would cut it."""
    return text.split(f'<script type="application/json" id="{name}">')[1].split("</script>")[0]


def test_the_same_explanation_gives_the_same_bytes():
    assert page.render(tolds.atari(60, seed=3)) == page.render(tolds.atari(60, seed=3))
    assert page.render(tolds.atari(3, seed=3)) != page.render(tolds.atari(3, seed=4))


def test_the_data_block_is_the_encoded_explanation():
    told = tolds.cartpole(5)
    assert json.loads(block(page.render(told), "data")) == data.encode(told)


def test_the_policy_names_the_script_and_the_style_and_allows_nothing_else():
    text = page.render(tolds.cartpole(2))
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    [policy] = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
        "style-src": f"'{page.digest(style)}'", "script-src": f"'{page.digest(script)}'",
    }  # fmt: skip
    assert text.isascii()


def test_script_and_style_stay_readable_and_small():
    sources = [page.program(), page.source("page.css")]
    assert sum(map(len, sources)) <= LARGEST
    for name in (*page.SCRIPTS, "page.css"):
        text = page.source(name)
        assert text.isascii()
        assert max(map(len, text.splitlines())) <= (150 if name.endswith("css") else 120), f"{name} has a long line"


# What lets a text become markup, code or an address.
FORBIDDEN = (
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|DOMParser|srcdoc",
    r"document\.write|\beval\b|\bFunction\b|import\(|importScripts",
    r"\.on[a-z]+\s*=|[\"']on[a-z]+[\"']",
    r"\.(src|href|action|data)\s*=(?!=)",
    r"`",
    r"setTimeout\(\s*[\"']|setInterval\(\s*[\"']",
    r"fetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|localStorage|cookie",
)
# The two addresses that are set: a picture of the file itself, and a file made by the page.
ALLOWED = ("image.src = data.images.sheets[index].source;", "link.href = address;")


def faults(script: str) -> list[str]:
    """Lines of `script` that do what is forbidden; comments aside."""
    lines = [re.sub(r"\s*// .*", "", line) for line in script.splitlines()]
    lines = [line for line in lines if line.strip() not in ALLOWED]
    return [line for line in lines for pattern in FORBIDDEN if re.search(pattern, line)]


def test_no_line_of_the_script_can_turn_a_text_into_markup_or_code():
    assert faults(page.program()) == []


@pytest.mark.parametrize("line", [
    "element.innerHTML = text;", "eval(text)", "new Function(text)()", "link.onclick = go;", "link.href = told.env;",
    "setTimeout('go()', 1)", "const text = `<b>${name}</b>`;", 'make("a", { "onclick": text })', "fetch(address)",
])  # fmt: skip
def test_the_lint_finds_what_it_is_for(line):
    assert faults(line)


def test_attributes_are_named_by_the_script_only():
    calls = re.findall(r"setAttribute\(([^,]+),", page.program())
    assert set(calls) == {
        "name",
        '"aria-label"',
        '"aria-valuetext"',
        '"aria-selected"',
        '"aria-current"',
        '"aria-labelledby"',
    }


def test_every_word_is_there_in_both_languages():
    words = json.loads(page.source("words.json"))
    assert set(words["en"]) == set(words["zh"])
    for name, text in words["en"].items():
        assert sorted(re.findall(r"\{\w+\}", str(text))) == sorted(re.findall(r"\{\w+\}", str(words["zh"][name]))), name
    script = page.program() + page.source("page.html")
    used = set(re.findall(r'(?:say|remark|heading)\("(\w+)"', script)) | set(
        re.findall(r'data-(?:word|label)="(\w+)"', script)
    )
    assert {word for word in used if not word.endswith("_")} <= set(words["en"])


def test_verdicts_are_known_in_chinese():
    known = json.loads(page.source("words.json"))["zh"]["sentences"]
    verdicts = {value for name, value in vars(faithfulness).items() if name.isupper() and isinstance(value, str)}
    assert len(verdicts) >= 7
    assert verdicts <= set(known)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("by_policy", [True, False])
@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("mattered", [0.25, -0.25, 0.0])
@pytest.mark.parametrize("without", [[1.0, 0.0], [0.0, 1.0], None])
def test_every_clause_of_a_sentence_is_known_in_chinese(alone, by_policy, others, mattered, without):
    """In the page the same rules are JavaScript's, of which these use what Python has too."""
    step = tolds.cartpole(3).steps[1]
    first = replace(step.memories[0], mattered=mattered)
    for memory in (first, replace(first, episode=-1)):
        step = replace(step, action=0, runner_up=0 if alone else 1, memories=[memory], others=(others, 0.0, 0.0))
        step = replace(step, share=[0.5, 0.5], without_memories=without)
        told = of_step(step, ["A. 1", "B, 2"], by_policy)
        for said, meant in json.loads(page.source("words.json"))["zh"]["clauses"]:
            told = re.sub(said, meant.replace("$", "\\"), told, count=1)
        assert not re.search("[a-z]|[.:] *$|。。", told.replace("A. 1", "").replace("B, 2", "")), told
        assert told.endswith("。")


def test_a_thousand_steps_of_an_atari_game_fit_two_megabytes():
    told = tolds.atari(1000)
    assert len(page.render(told)) <= 2_000_000


def test_a_page_above_its_limit_keeps_the_key_moments_whole_and_says_so(tmp_path):
    told = replace(tolds.atari(200, side=8, memories=2), moments=[(0, "first"), (199, "last")])
    limit = 0.9 * len(page.render(told)) / 1e6
    text = page.write(told, tmp_path / "page.html", max_mb=limit).read_text()
    assert len(text) <= limit * 1e6
    carried = json.loads(block(text, "data"))
    kept = columns.numbers(carried["steps"]["kept"])
    places = [place for place, _ in told.moments]
    near = [any(abs(step - place) <= 50 for place in places) for step in range(200)]
    assert kept.astype(bool).tolist() == near
    assert "pictures, attention and memories are kept for 102 of 200 steps" in carried["meta"]["notes"][0]
    assert columns.numbers(carried["steps"]["value"]).size == 200
    assert not columns.numbers(carried["reads"]["count"])[~kept.astype(bool)].any()


def test_a_page_above_what_was_asked_or_above_fifty_megabytes_is_refused(tmp_path, monkeypatch):
    with pytest.raises(EngramError, match=r"above 0\.05 MB: tell fewer steps"):
        page.write(tolds.cartpole(3), tmp_path / "page.html", max_mb=0.05)
    assert not (tmp_path / "page.html").exists()
    monkeypatch.setattr(page, "MAX_MB", 0.01)
    assert page.write(tolds.cartpole(3), tmp_path / "page.html").exists()  # nobody asked for less than 50
    monkeypatch.setattr(page, "REFUSED_MB", 0.01)
    with pytest.raises(EngramError, match=r"above 0\.01 MB"):
        page.write(tolds.cartpole(3), tmp_path / "other.html")


def test_a_page_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(WriteFailed, match="no-folder"):
        page.write(tolds.cartpole(2), tmp_path / "no-folder" / "page.html")


def test_a_language_that_the_page_does_not_speak_is_refused():
    with pytest.raises(EngramError, match="'fr'; a page speaks en or zh"):
        page.render(tolds.cartpole(2), language="fr")


def test_markup_around_the_data_is_escaped():
    told = replace(tolds.cartpole(2), env="</title><script>x()</script>", notes=['"><img src=x>'])
    text = page.render(told)
    assert text.count("<script") == 3
    assert "<img" not in text
    assert "&lt;/title&gt;" in text


def test_a_reader_without_scripts_gets_the_moments():
    told = tolds.cartpole(9)
    summary = page.render(told).split("<noscript>")[1].split("</noscript>")[0]
    assert "Only the items marked measured were tested by removing them." in summary
    for place, why in told.moments:
        assert why in summary
        assert page.safe(told.steps[place].sentence) in summary


def test_a_notebook_shows_the_page_in_a_frame_that_can_reach_nothing():
    text = page.notebook(tolds.cartpole(2))
    head, rest = text.split('srcdoc="')
    assert 'sandbox="allow-scripts"' in head
    assert '"' not in rest.removesuffix('"></iframe>')


def test_pictures_that_lose_detail_are_said_to(monkeypatch):
    monkeypatch.setattr(pictures, "HEAVY", 10)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    told = tolds.cartpole(2)
    told = replace(told, steps=[replace(step, picture=noise) for step in told.steps])
    assert data.encode(told)["images"]["lossy"]
    assert not data.encode(tolds.atari(2))["images"]["lossy"]


def test_an_explanation_writes_its_tables(tmp_path):
    told = replace(tolds.cartpole(3), faithful=[tolds.faithful()])
    files = Explanation(told).csv(tmp_path)
    assert {path.name for path in files} >= {"steps.csv", "memories.csv", "recall.csv", "moments.csv"}
    moments = [row.split(",") for row in (tmp_path / "moments.csv").read_text().splitlines()]
    assert [(int(t), why) for _, t, why in moments[1:]] == [(told.steps[place].t, why) for place, why in told.moments]
    head, first = list(csv.reader((tmp_path / "faithfulness.csv").read_text().splitlines()))[:2]
    row, each = dict(zip(head, first, strict=True)), told.faithful[0]
    said = each.shuffled, each.reinitialised, *(each.agreement_interval or (None, None))
    written = [row[name] for name in ("shuffled", "reinitialised", "agreement_low", "agreement_high")]
    assert written == ["" if one is None else str(one) for one in said]
    assert row["notes"] == "; ".join(each.notes)


def test_tables_hold_what_the_steps_say(tmp_path):
    told = tolds.cartpole(12)
    told = replace(told, actions=["=cmd()", "right"], faithful=[tolds.faithful()])
    files = {path.stem: path for path in tables.write_csv(told, tmp_path / "tables")}
    names = {"steps", "memories", "attention", "recall", "observed", "moments", "faithfulness", "health"}
    assert set(files) == names
    with files["steps"].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["margin"]) for row in rows] == [step.margin for step in told.steps]
    assert [row["action"] for row in rows] == ["'=cmd()" if step.action == 0 else "right" for step in told.steps]
    assert [float(row["q right"]) for row in rows] == [step.q[1] for step in told.steps]
    with files["memories"].open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(len(step.memories) for step in told.steps)
    with files["observed"].open(encoding="utf-8", newline="") as file:
        rows = [row["value"] for row in csv.DictReader(file)]
    assert rows == [value for step in told.steps for _, value in step.facts]
    assert any(value.startswith("-") for value in rows)
