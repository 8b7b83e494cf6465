"""`engram/Translate-v0`: its reward against sacrebleu, its ends, and the pairs that it is given."""

import json
import struct
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu

from engram.envs.device import check_device_env, make_device
from engram.envs.translation import __main__ as command
from engram.envs.translation.chrf import sentence_chrf
from engram.envs.translation.cleaning import cleaned, lost, prepared
from engram.envs.translation.corpus import SPLITS, divided, find, key_of, write
from engram.envs.translation.demonstrations import played
from engram.envs.translation.sources import INDEX, VERSE, found, of_catalogues, of_verses, verses
from engram.envs.translation.vocabulary import END, Vocabulary, learned, letters
from engram.errors import SpecError

PHRASES = find("phrases")
KEY = jnp.zeros(2, jnp.uint32)


def test_chrf_is_that_of_sacrebleu():
    """Texts with repeated n-grams, shorter than six letters, and empty."""
    texts = [target for _, target in PHRASES.splits["test"][:40]]
    pairs = [(one[: 3 * i] + other[: i % 7], other) for i, (one, other) in enumerate(pairwise(texts))]
    pairs += [("aaaaaaa", "aaa"), ("aa", "aaaaaaaa"), ("", "der Hund"), ("abc", "abc"), ("x", "y")]
    hypotheses, references = (letters(side, 100) for side in zip(*pairs, strict=True))
    ours = jax.jit(jax.vmap(sentence_chrf))(hypotheses, references)
    theirs = [sacrebleu.sentence_chrf(one, [other]).score / 100 for one, other in pairs]
    np.testing.assert_allclose(ours, theirs, atol=2e-7)
    assert float(ours[-2]) == 1.0


def test_rewards_of_any_tokens_add_up_to_the_chrf_of_what_was_written():
    env = make_device("engram/Translate-v0", split="test")
    actions = np.random.default_rng(0).integers(1, env.actions, (16, env.places[1]))
    actions[::2, 7] = 0  # these end themselves

    def episode(sentence, actions):
        def one(state, action):
            state, step = env.step(state, action, KEY)
            return state, (step.reward, step.terminated)

        return jax.lax.scan(one, env.begin(sentence)[0], actions)[1]

    rewards, over = jax.jit(jax.vmap(episode))(jnp.arange(16), actions)
    for number, (row, earned, ended) in enumerate(zip(actions, rewards, over, strict=True)):
        size = int(np.argmax(ended)) + 1
        written = PHRASES.vocabulary.decode(row[:size])
        source, reference = PHRASES.splits["test"][number]
        assert size == 8 if number % 2 == 0 else size <= env.places[1], source
        expected = sacrebleu.sentence_chrf(written, [reference]).score / 100
        np.testing.assert_allclose(earned[:size].sum(), expected, atol=1e-6)


def test_the_reference_earns_one_and_is_shown_newest_first():
    given = played(make_device("engram/Translate-v0", split="valid"))
    ends = np.flatnonzero(given["terminated"])
    assert len(ends) == len(PHRASES.splits["valid"])
    sums = np.add.reduceat(given["reward"], np.concatenate([[0], ends[:-1] + 1]))
    np.testing.assert_allclose(sums, 1.0, atol=1e-6)
    first = given["action"][: ends[0] + 1]
    assert PHRASES.vocabulary.decode(first) == PHRASES.splits["valid"][0][1]
    last = given["observation.prefix"][ends[0]]
    assert [*last[: ends[0] + 1]] == [*(first[:-1] + 1)[::-1], 1]


@pytest.mark.parametrize("reward", ["final", "constant"])
def test_sparse_rewards_come_at_the_end(reward: str):
    env = make_device("engram/Translate-v0", reward=reward, context=1)
    target = PHRASES.encoded["train"].target[0]
    state, observation = env.begin(jnp.int32(0))
    assert observation["prefix"].shape == (1,)
    earned = []
    for symbol in target[target > 0]:
        state, step = env.step(state, jnp.int32(symbol - 1), KEY)
        earned.append(float(step.reward))
    assert earned[:-1] == [0.0] * (len(earned) - 1)
    assert earned[-1] == 1.0
    assert bool(step.terminated)


def test_it_keeps_the_contract_of_device_environments():
    check_device_env(make_device("engram/Translate-v0"), steps=8)


def test_near_duplicates_lie_on_one_side():
    pairs = [(f"Insert the {word}{mark}", "x") for word in "abcdefgh" for mark in ("", "...", ":", " ~?")]
    splits = divided(pairs)
    sides = [{key_of(source) for source, _ in splits[name]} for name in SPLITS]
    assert sum(map(len, sides)) == 8 == len(set.union(*sides))


@pytest.mark.parametrize(
    "pair, expected",
    [
        (("_Save ~%PRODUCTNAME", "%PRODUCTNAME _sichern"), ("Save ⟨1⟩", "⟨1⟩ sichern")),
        (("$(ARG1) of  %2", "%2 von $(ARG1)"), ("⟨1⟩ of ⟨2⟩", "⟨2⟩ von ⟨1⟩")),
        (("%(count)d of %s", "%s von %(count)d"), ("⟨1⟩ of ⟨2⟩", "⟨2⟩ von ⟨1⟩")),
        (("%-10s has %5d (%.2f)", "%-10s hat %5d (%.2f)"), ("⟨1⟩ has ⟨2⟩ (⟨3⟩)", "⟨1⟩ hat ⟨2⟩ (⟨3⟩)")),
        (("US$5 and 50%Off", "5 und 50%Weg"), ("US$5 and 50%Off", "5 und 50%Weg")),
        (
            ("%dMB of %R rows, 20%c", "%dMB von %R Zeilen, 20%c"),
            ("⟨1⟩MB of ⟨2⟩ rows, 20%c", "⟨1⟩MB von ⟨2⟩ Zeilen, 20%c"),
        ),
        (("%(size).2f at %1$n", "%(size).2f bei %1$n"), ("⟨1⟩ at ⟨2⟩", "⟨1⟩ bei ⟨2⟩")),
        (("100% of it", "100% davon"), ("100% of it", "100% davon")),
        (("Print", "%1 drucken"), None),
        (("<b>Print</b>", "Drucken"), None),
        (("Index", "Index"), None),
    ],
)
def test_pairs_are_cleaned(pair, expected):
    assert cleaned(*pair) == expected


def test_of_equal_letters_one_source_is_kept_and_lost_placeholders_are_counted():
    pairs = [("Insert ~Row", "a"), ("Insert Row...", "b"), ("One", "c"), ("Delete it now", "d")]
    assert list(prepared(pairs, (2, 3))) == [("Insert Row", "a"), ("Delete it now", "d")]
    assert (lost("⟨1⟩ of ⟨2⟩", "⟨2⟩ von"), lost("⟨1⟩", "⟨1⟩ ⟨1⟩")) == (1, 0)


def test_catalogues_are_read_and_one_in_another_encoding_is_left_out(tmp_path: Path):
    def catalogue(pairs: list[tuple[bytes, bytes]]) -> bytes:
        at, heads, body = 28 + 16 * len(pairs), [b"", b""], b""
        for side in (0, 1):
            for pair in pairs:
                heads[side] += struct.pack("<2I", len(pair[side]), at + len(body))
                body += pair[side] + b"\0"
        count = len(pairs)
        return struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0) + heads[0] + heads[1] + body

    head = (b"", b"Content-Type: text/plain; charset=UTF-8\n")
    good = [head, (b"menu|save\x04_Save", b"_Sichern"), (b"%d row\0%d rows", b"%d Zeile\0%d Zeilen")]
    (tmp_path / "a.mo").write_bytes(catalogue(good))
    (tmp_path / "b.mo").write_bytes(catalogue([head, (b"x", b"\xe4")]))
    (tmp_path / "c.mo").write_bytes(b"no catalogue")
    for name, field in (("d", b"charset=CHARSET"), ("e", b""), ("f", b"charset=UTF-8\nPlural-Forms: nplurals=2")):
        (tmp_path / f"{name}.mo").write_bytes(
            catalogue([(b"", b"Content-Type: text/plain; " + field + b"\n"), (b"y", b"z")])
        )
    assert set(of_catalogues(tmp_path)) - {("y", "z")} == {("_Save", "_Sichern"), ("%d row", "%d Zeile")}
    assert set(found(str(tmp_path), tmp_path).pairs) >= {("_Save", "_Sichern"), ("%d row", "%d Zeile")}


def test_messages_of_an_installed_package_are_learned_from(tmp_path: Path):
    """Real text: what Django says to its users, in German."""
    pairs, about = found("django-de", tmp_path)
    assert ("Please enter a valid value.", "Bitte einen gültigen Wert eingeben.") not in pairs  # it ends otherwise
    assert ("Enter a valid value.", "Bitte einen gültigen Wert eingeben.") in pairs
    assert about["from"].startswith("django ")
    assert about["licence"] == "BSD-3-Clause"
    words = [str(tmp_path / "made"), "--from", "django-de", "--pieces", "400"]
    assert command.main(words) == 0
    made = find(str(tmp_path / "made"))
    assert sum(map(len, made.splits.values())) > 300
    assert all(made.vocabulary.decode(made.vocabulary.encode(text)) == text for text in made.splits["train"][7])
    env = make_device("engram/Translate-v0", data=str(tmp_path / "made"), split="test")
    check_device_env(env, steps=4)
    with pytest.raises(SpecError, match="django has no messages in 'zh_hans'; did you mean 'zh_Hans'"):
        found("django-zh_hans", tmp_path)


def test_a_package_that_is_not_installed_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match="the package sphinx is not installed; install it: uv pip install sphinx"):
        found("sphinx-zh_CN", tmp_path)


def test_verses_are_paired_by_their_place(tmp_path: Path):
    folder = tmp_path / "usr/share/sword/modules/texts/ztext/mine"
    folder.mkdir(parents=True)
    texts = [b"", b"<w>In the</w> beginning<note>or: first</note>", b"\xc2\xb6 And"]
    block = zlib.compress(b"".join(texts))
    for testament in ("ot", "nt"):
        (folder / f"{testament}.bzs").write_bytes(INDEX.pack(0, len(block), len(b"".join(texts))))
        at = np.cumsum([0, *map(len, texts)])
        slots = [VERSE.pack(0, int(start), len(text)) for start, text in zip(at, texts, strict=False)]
        (folder / f"{testament}.bzv").write_bytes(b"".join(slots))
        (folder / f"{testament}.bzz").write_bytes(block)
    read = verses(tmp_path, "mine")
    assert read == ["", "In the beginning", "And"] * 2
    assert list(of_verses(read, ["a", "b", "", "c", "", "d"])) == [("In the beginning", "b"), ("And", "d")]
    with pytest.raises(SpecError, match="6 and 1 places"):
        list(of_verses(read, ["a"]))


def test_pieces_give_a_text_back():
    texts = [text for pair in PHRASES.splits["train"][:300] for text in pair]
    pieces = learned([*texts, "⟨1⟩ of ⟨2⟩"], 120)
    assert len(pieces.pieces) <= 120
    for text in (*texts[:50], "⟨2⟩ sieht ⟨1⟩"):
        assert pieces.decode(pieces.encode(text)) == text
    assert len(pieces.encode("⟨1⟩")) == 1
    assert pieces.decode([*pieces.encode("der Hund"), 0, 5]) == "der Hund"
    assert pieces.decode(pieces.encode("Žo")) == "\ufffdo"
    with pytest.raises(SpecError, match="20 pieces were asked for"):
        learned(texts, 20)


def test_a_folder_of_ones_own_pairs_is_made_and_played(tmp_path: Path, capsys):
    mine = tmp_path / "mine.tsv"
    some = [pair for name in SPLITS for pair in PHRASES.splits[name][:40]]
    mine.write_text("".join(f"{source}\t{target}\n" for source, target in some))
    assert command.main([str(tmp_path / "made"), "--from", str(mine), "--pieces", "90", "--tokens", "40"]) == 0
    assert "demonstrated tokens" in capsys.readouterr().out
    env = make_device("engram/Translate-v0", data=str(tmp_path / "made"))
    with np.load(tmp_path / "made/demonstrations.npz") as given:
        assert given["observation.source"].shape[1:] == (env.places[0],)
        np.testing.assert_allclose(given["reward"].sum(), len(env.corpus.splits["train"]), rtol=1e-5)
    assert env.parts["actions"][0] == END


def test_references_of_another_reward_are_what_a_control_learns_from(tmp_path: Path):
    """At the end 1, whatever was written: with chrF in half of each batch it would be no control."""
    assert command.main([str(tmp_path / "one"), "--pairs", "60", "--reward", "constant"]) == 0
    with np.load(tmp_path / "one/demonstrations.npz") as given:
        np.testing.assert_array_equal(given["reward"], given["terminated"])


def test_verses_are_longer_than_messages(tmp_path: Path, monkeypatch):
    """Without flags: of messages 12 words at most, of verses 20."""
    asked = []
    monkeypatch.setattr(command, "corpus", lambda options, work: asked.append(options) or no_corpus())
    for source, more in (("bible-es", []), ("libreoffice-de", []), ("bible-es", ["--words", "2", "9"])):
        command.main([str(tmp_path / "made"), "--from", source, *more])
    assert [(one.pieces, tuple(one.words), one.tokens) for one in asked] == [
        (1_500, (2, 20), 32), (1_200, (2, 12), 18), (1_500, (2, 9), 32),
    ]  # fmt: skip


def no_corpus() -> None:
    raise SpecError("enough")


def test_without_the_library_of_pieces_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(SpecError, match=r"needs the library tokenizers; .*uv sync --extra translate"):
        learned(["the dog"], 20)


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_fetched(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    for words in ([str(tmp_path / "file" / "made")], [str(tmp_path / "file")]):
        assert command.main([*words, "--from", "libreoffice-de"]) == 74
        said = capsys.readouterr().err
        assert said.startswith(str(tmp_path / "file"))
        assert said.endswith("name a folder that you may write to\n")
    assert command.main([str(tmp_path / "new"), "--from", "nowhere"]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("folder", "words", "said"),
    [
        (
            "a",
            ["--words", "12", "2"],
            "--words 12 2 was given; expected two numbers of at least 1, the lower one first",
        ),
        ("a", ["--pairs", "-1"], "--pairs -1 was given; expected at least 1"),
        ("a", ["--pieces", "40000"], "--pieces 40,000 was given; expected at most 32,766"),
        (
            "a",
            ["--pieces", "50"],
            "--pieces was given, but phrases are whole and have a piece for each word; leave it out",
        ),
        ("phrases", [], "'phrases' is the name of the corpus that comes with Engram; choose another folder"),
    ],
)
def test_numbers_that_cannot_be_are_refused_and_leave_nothing(tmp_path: Path, monkeypatch, capsys, folder, words, said):
    monkeypatch.chdir(tmp_path)
    assert command.main([folder, *words]) == 2
    assert capsys.readouterr().err == f"{said}\n"
    assert not Path(folder).exists()


def test_a_mark_of_byte_order_and_pieces_that_are_nothing_or_alike(tmp_path: Path):
    (tmp_path / "a.tsv").write_bytes("\ufeffone\teins\n".encode())
    assert found(str(tmp_path / "a.tsv"), tmp_path).pairs == [("one", "eins")]
    for pieces in ((END, "<unk>", ""), (END, "<unk>", "a", "a"), ("<unk>", END)):
        with pytest.raises(SpecError, match="expected .*, then pieces that all differ"):
            Vocabulary(pieces)


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("train.tsv", "one\teins\ntwo\n", "line 2 of .*train.tsv is 'two', a text without a pair"),
        ("train.tsv", "one\teins\tuno\n", "line 1 of .*a text without a pair"),
        ("valid.tsv", "\n", "valid.tsv holds no pair"),
        ("corpus.json", "{}", "corpus.json cannot be read"),
    ],
)
def test_bad_data_is_refused_in_a_sentence(tmp_path: Path, file: str, text: str, said: str):
    write(tmp_path / "made", PHRASES)
    (tmp_path / "made" / file).write_text(text)
    with pytest.raises(SpecError, match=said):
        make_device("engram/Translate-v0", data=str(tmp_path / "made"))


def test_what_is_no_corpus_or_no_source_is_told(tmp_path: Path):
    with pytest.raises(SpecError, match=r"data = 'phrase'.*did you mean 'phrases'"):
        make_device("engram/Translate-v0", data="phrase")
    with pytest.raises(SpecError, match="split = 'tset' .*wants one of train, valid, test"):
        make_device("engram/Translate-v0", split="tset")
    with pytest.raises(SpecError, match="--from nowhere names no source"):
        found("nowhere", tmp_path)
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(SpecError, match="holds other files"):
        write(tmp_path, PHRASES)
    with pytest.raises(SpecError, match="the pieces begin with"):
        Vocabulary(("a", "b"))


def test_a_corpus_is_told_from_another_of_the_same_size(tmp_path: Path):
    """By which tokens mean what, and by its sentences; not by where it lies."""
    for name in ("one", "two"):
        write(tmp_path / name, PHRASES)
    digests = [make_device("engram/Translate-v0", data=str(tmp_path / name)).data_digest for name in ("one", "two")]
    assert digests[0] == digests[1] == make_device("engram/Translate-v0").data_digest
    pairs = (tmp_path / "two" / "train.tsv").read_text().splitlines()
    (tmp_path / "two" / "train.tsv").write_text("\n".join([*pairs[1:], pairs[0]]) + "\n")
    find.cache_clear()
    assert make_device("engram/Translate-v0", data=str(tmp_path / "two")).data_digest != digests[0]


def test_a_written_corpus_is_read_back(tmp_path: Path):
    write(tmp_path / "made", PHRASES)
    again = find(str(tmp_path / "made"))
    assert again.splits == PHRASES.splits
    assert again.vocabulary == PHRASES.vocabulary
    assert json.loads((tmp_path / "made/corpus.json").read_text())["licence"] == "Apache-2.0"
