"""A run's setting is declared once: the trainer's keywords, the flags and run.json follow, and so do the refusals."""

import inspect
import json
from pathlib import Path

import pytest

from engram import specs
from engram.cli.flags import COMMANDS, flags_of
from engram.errors import CheckpointError, SpecError
from engram.run import settings
from engram.run.plan import LATER, RunPlan
from engram.run.settings import RUN, SESSION, Given, check
from engram.run.trainer import Trainer


def test_every_setting_is_a_keyword_with_help():
    keywords = inspect.signature(Trainer).parameters
    assert {"env", "callbacks", "loggers", "progress", "overrides", "settings", *RUN, *SESSION} == set(keywords)
    assert keywords["seeds"].default == 1
    told = Trainer.__init__.__doc__ or ""
    for name, field in (RUN | SESSION).items():
        assert f"  {name}: {field.metadata['help']}." in told


def test_every_setting_is_a_flag_and_no_other_flag_sets_a_run():
    names = {field.metadata["about"].name or name.replace("_", "-") for name, field in (RUN | SESSION).items()}
    others = {"help", "-h", "import"}
    assert {flag.removeprefix("--") for flag in flags_of(COMMANDS["train"])} - others == names


def test_every_setting_of_a_run_is_stored_and_none_of_a_session(tmp_path: Path):
    with Trainer("engram/CartPole-v1", "dqn", run=tmp_path, steps=9, track=False, save_every=7) as trainer:
        assert trainer.runner.steps == 0
        stored = json.loads((tmp_path / "run.json").read_text())
    assert set(stored) == {"format", "env", "agent", "space", "actions", "shown", "horizon", "follows",
                           "demonstration_rows", *RUN} - {*LATER}  # fmt: skip
    assert {"actors", "shards"} < {*LATER}  # at their defaults: runs of before are read, and their digests stay
    assert (stored["format"], stored["steps"], stored["save_every"]) == ("engram-run/5", 9, 7)
    assert RunPlan.read(tmp_path) == trainer.plan


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"sede": 3}, "'sede' is not a setting of a run or its agent; did you mean 'seed'?"),
        ({"worker_timout": 3}, "'worker_timout' is not a setting of a run or its agent; did you mean 'worker_timeout'"),
        ({"verbose": 1}, "'verbose' is not a setting of a run or its agent; progress is shown in a terminal or"),
        ({"device": "cuda"}, "'device' is not a setting of a run or its agent; JAX takes a GPU where it finds one"),
        ({"xyzzy": 1}, "'xyzzy' is not a setting of a run or its agent; engram show PRESET lists the settings"),
        ({"callback": ()}, "'callback' is not a setting of a run or its agent; did you mean 'callbacks'?"),
        (
            {"replay_capacity": 9},
            "'replay_capacity' is not a setting of a run or its agent; did you mean 'replay",
        ),
        ({"replay__capacty": 9}, "'replay.capacty' is not a setting; did you mean 'replay.capacity'?"),
        ({"overrides": {"save_every": "3"}}, "'save_every' is a setting of the run, not of its agent; write --save-ev"),
        ({"overrides": {"env_args": 3}}, "'env_args' is a setting of the run, not of its agent; write --env-arg NAME"),
    ],
)
def test_a_keyword_that_is_no_setting_is_answered_with_the_nearest_of_both(keywords: dict, sentence: str):
    with pytest.raises(SpecError) as caught:
        Trainer("engram/CartPole-v1", **keywords)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"action_bins": 1}, "action_bins = 1 was given; expected a whole number or none, at least 2"),
        ({"env_args": [3]}, "env_args = [3] was given; expected values by name"),
        ({"log": ("csv", 3)}, "log = ('csv', 3) was given; expected texts separated by commas"),
        ({"track": 1}, "track = 1 was given; expected true or false"),
        ({"seed": True}, "seed = True was given; expected a whole number, at least 0"),
        ({"seed": 2**32 - 1, "seeds": 2}, "seed = 4294967295 was given; expected seeds below 2^32 = 4294967296"),
        ({"worker_timeout": 0}, "worker_timeout = 0 was given; expected a number, more than 0"),
        ({"run": 3}, "run = 3 was given; expected a path or none"),
    ],
)
def test_a_wrong_value_is_answered_with_what_was_expected(given: dict, sentence: str):
    with pytest.raises(SpecError) as caught:
        check(given)
    assert str(caught.value) == sentence


def test_keywords_are_sorted_by_what_they_are_about():
    given = Given.of(
        {"preset": None, "env_args": {}, "seed": 3, "run": "r", "worker_timeout": 5, "head": "q", "head__width": 4},
        {"discount": 0.5},
    )
    assert given.run == {"seed": 3}
    assert given.session == settings.Session(run=Path("r"), worker_timeout=5.0)
    assert given.agent == {"discount": 0.5, "head": "q", "head.width": 4}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "engram-run/4"}, "has the format 'engram-run/4', but this version of Engram reads 'engram-run/5'; "
         "use the version that wrote it"),
        ({"format": None}, "has no format, but this version of Engram reads 'engram-run/5'; use the version"),
        ({"sed": 1}, "is damaged: it was found with 'sed', which is unknown; restore it from a copy"),
        ({"seed": ...}, "is damaged: it was found without 'seed'; restore it from a copy"),
        ({"seed": -1}, "is damaged: seed = -1 was given; expected a whole number, at least 0"),
        ({"actions": 0}, "is damaged: actions = 0 is out of range; expected at least 1"),
    ],
)  # fmt: skip
def test_a_run_file_of_another_form_is_refused_in_a_sentence(tmp_path: Path, change: dict, sentence: str):
    with Trainer("engram/CartPole-v1", "dqn", steps=9) as trainer:
        trainer.plan.write(tmp_path)
    stored = json.loads((tmp_path / "run.json").read_text()) | change
    (tmp_path / "run.json").write_text(json.dumps({name: item for name, item in stored.items() if item is not ...}))
    with pytest.raises(CheckpointError) as caught:
        RunPlan.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'run.json'} {sentence}")


def test_the_expected_value_is_told_in_words():
    assert specs.expected(settings.RunSettings, "steps") == "a whole number, at least 1"
    assert specs.type_of(settings.RunSettings, "action_bins") == int | None
    assert settings.default_of("save_every") == "a tenth of the run"
    assert settings.default_of("worker_timeout") == "60"
