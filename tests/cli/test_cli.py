"""The command line: what is read, what is said, which exit code is given. Most tests put a small trainer in place."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram import specs
from engram.agents.presets import PRESETS, preset
from engram.agents.spec import AgentSpec
from engram.agents.unread import check_read
from engram.cli.commands import DESCRIPTION, main
from engram.cli.flags import COMMANDS, environment_argument, flags_of, split_settings
from engram.envs.device import make_device
from engram.errors import EngramError, LearningFault, SpecError, UnknownName
from engram.play.evaluation import Evaluation
from engram.run.curve import plot_curve
from engram.run.metrics import RunLog, read_metrics

whole_program = pytest.mark.usefixtures("real_trainer")


AGENT = {role: {"kind": "x"} for role in ("encoder", "working", "external", "head")}


class Stopped(EngramError):
    exit_code = 75


class FakeTrainer:
    """Records how it was made; learns by logging three lines."""

    made: ClassVar[dict] = {}
    all_made: ClassVar[list[dict]] = []
    problem: BaseException | None = None
    at_start: BaseException | None = None
    elsewhere: ClassVar[dict[str, object]] = {}
    step = 30

    def __init__(self, env, *, run, callbacks=(), progress=None, **given):
        FakeTrainer.made = {"env": env, "run": run} | given
        FakeTrainer.all_made.append(FakeTrainer.made)
        if FakeTrainer.at_start:
            raise FakeTrainer.at_start
        self.run, self.callbacks = Path(run), callbacks
        agent = AgentSpec()
        seeds = {"seed": given.get("seed", 0), "seeds": given.get("seeds", 1)}
        self.plan = SimpleNamespace(env=env, env_args={}, preset="auto", agent=agent, steps=30, **seeds)
        self.closed, self.steps = False, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def tell(self, event, *values):
        for callback in self.callbacks:
            getattr(callback, event, lambda *_: None)(self, *values)

    def learn(self, steps=None):
        self.tell("on_note", "preset dqn for \x1b[31mBox(4)")
        self.tell("on_start")
        (self.run / "run.json").parent.mkdir(parents=True, exist_ok=True)
        plan = {"env": self.plan.env, "preset": "auto", "steps": 30, "envs": 1, "agent": AGENT}
        (self.run / "run.json").write_text(json.dumps(plan | {n: getattr(self.plan, n) for n in ("seed", "seeds")}))
        with RunLog(self.run, None) as log:
            for step in (10, 20, 30):
                self.steps = step
                metrics = {"step": step, "total": 30, "return_mean": float(step + self.plan.seed), "loss": None}
                log.write(metrics)
                self.tell("on_metrics", metrics)
        self.tell("on_save", SimpleNamespace(step=30, id="3fa94be0c1d2"))
        if FakeTrainer.problem:
            raise FakeTrainer.problem
        self.tell("on_stop", "done")
        return self

    def evaluate(self, episodes=20, seed=None, **elsewhere):
        FakeTrainer.elsewhere = elsewhere
        print("a library says hello")
        os.write(1, b"and so does C\n")
        return Evaluation.of([[float(seed or 0)] * episodes], [7] * episodes)


@pytest.fixture(autouse=True)
def fake_trainer(request, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENGRAM_DEBUG", raising=False)
    if "real_trainer" in request.fixturenames:
        return
    module = ModuleType("engram.run.trainer")
    module.Trainer = FakeTrainer  # type: ignore[attr-defined]
    module.load = lambda run, at="newest": FakeTrainer(None, run=run, at=at)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engram.run.trainer", module)
    monkeypatch.setattr("engram.run.plan.info", lambda run, verify=False: {
        "env": "X-v0", "steps": 30000, "verified": verify, "checkpoints": [{"step": 30, "id": "3fa9"}], "seeds": [0, 1],
    })  # fmt: skip
    monkeypatch.setattr("engram.run.curve.plot_curve", lambda folder, title, **_: Path(folder, f"{title}.png").touch())
    monkeypatch.setattr("engram.cli.early.check_words", lambda *_: None)  # X is no environment
    monkeypatch.setattr(FakeTrainer, "made", {})
    monkeypatch.setattr(FakeTrainer, "all_made", [])
    monkeypatch.setattr(FakeTrainer, "problem", None)
    monkeypatch.setattr(FakeTrainer, "at_start", None)


@pytest.fixture
def real_trainer():
    """Asked for by tests of the whole program."""


# -- reading -----------------------------------------------------------------------------------------------


def test_the_curve_shows_evaluations_beside_training(monkeypatch):
    """Of seeds the mean; a line with nothing but an evaluation leaves no hole in the curve of training."""
    figures: list[Any] = []
    monkeypatch.setattr("engram.run.curve.write_picture", lambda figure, path: figures.append(figure))
    with RunLog(Path("r"), None) as log:
        log.write({"step": 10, "return_mean": [1.0, 3.0], "loss": None})
        log.write({"step": 15, "evaluation_return": [5.0, 7.0]})
        log.write({"step": 20, "return_mean": [2.0, 4.0], "loss": 1.0, "evaluation_return": [4.0, 8.0]})
    plot_curve("r")
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figures[0].axes[0].get_lines()}
    assert drawn["training: mean of the last 100 episodes"] == [[10, 2], [20, 3]]
    assert drawn["evaluation: greedy episodes"] == [[15, 6], [20, 6]]
    assert drawn["best evaluation: 6"] == [[20, 6]], "of equals the newest"


def test_settings_are_taken_out_wherever_they_stand_and_the_last_one_wins():
    words = ["a.b=1", "CartPole-v1", "--steps", "5", "c=x=y", "a.b=2"]
    assert split_settings("train", words) == (["CartPole-v1", "--steps", "5"], {"a.b": "2", "c": "x=y"})


def test_what_follows_a_flag_is_its_value_even_if_it_looks_like_a_setting():
    words = ["X", "--env-arg", "map_name=8x8", "--run", "a=b", "--resume", "c=d", "--run=e=f", "g=h"]
    rest, settings = split_settings("train", words)
    assert rest == ["X", "--env-arg", "map_name=8x8", "--run", "a=b", "--resume", "--run=e=f"]
    assert settings == {"c": "d", "g": "h"}


@given(
    st.lists(
        st.sampled_from(["X", "--seed", "3", "a=1", "b.c=", "--track", "--env-arg", "k=v", "-5", "A=1"]), max_size=8
    )
)
def test_no_word_is_lost_or_changed(words):
    try:
        rest, settings = split_settings("train", words)
    except UnknownName:  # "-5" where no value is expected
        return
    taken = [word for word in words if word in ("a=1", "b.c=", "k=v")]
    assert [word for word in rest if word not in taken] == [word for word in words if word not in taken]
    assert {f"{path}={value}" for path, value in settings.items()} | set(rest) == set(words)


def test_flags_know_whether_a_value_follows():
    flags = flags_of(COMMANDS["train"])
    alone = {name for name, value in flags.items() if not value}
    assert alone == {"--help", "-h", "--async", "--resume", "--new-episodes", "--track", "--trust"}
    assert {"--steps", "--env-arg", "--run", "--save-every", "--action-bins"} <= set(flags)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1), ("a=1.5", 1.5), ("a=true", True), ("a=False", False), ("a=None", None), ("a=[1, 'x']", [1, "x"]),
        ("a=(1, 2)", [1, 2]), ("a=8x8", "8x8"), ("a=b=c", "b=c"), ("a=", ""), ("a='1'", "1"), ("a=1e999", "1e999"),
        ("a=b'x'", "b'x'"), ("a={1: 2}", {"1": 2}),
    ],
)  # fmt: skip
def test_an_environment_argument_is_a_json_value_or_a_text(text, value):
    assert environment_argument(text) == ("a", value)


def test_an_environment_argument_without_a_name_is_refused():
    with pytest.raises(SpecError, match=r"--env-arg '8x8' is not of the form name=value"):
        environment_argument("8x8")


# -- sentences and exit codes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence", "code"),
    [
        ("tarin X", "'tarin' is not a command of engram; did you mean 'train'? (see engram --help)", 2),
        ("train X --sed 3", "engram train has no flag '--sed'; did you mean '--seed'? (see engram train --help)", 2),
        ("train X --sead=3", "engram train has no flag '--sead'; did you mean '--seed'? (see engram train --help)", 2),
        ("train --env X", "engram train has no flag '--env'; write ENV alone, as in: engram train ENV", 2),
        ("evaluate --run X", "engram evaluate has no flag '--run'; write RUN alone, as in: engram evaluate RUN", 2),
        ("train", "engram train needs an environment, such as CartPole-v1; `engram list envs` shows the names", 2),
        ("train --resume", "--resume needs the run to go on with; add --run DIR", 2),
        (
            "train X --env-arg 3",
            "--env-arg '3' is not of the form name=value; write for example --env-arg map_name=8x8",
            2,
        ),
        ("info . x.y=1", "engram info takes no settings, but 'x.y=1' was given; leave it out", 2),
        ("evaluate nowhere", "there is no run directory 'nowhere'; start a run with: engram train ENV", 66),
        ("train --resume --run no", "there is no run directory 'no'; start a run with: engram train ENV", 66),
    ],
)
def test_a_mistake_is_answered_by_one_sentence_with_the_way_out(capsys, words, sentence, code):
    assert main(words.split()) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"engram: {sentence}\n")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("train X --steps q", "'q' was given; write a whole number"),
        ("train X --steps 0", "'0' was given; write a whole number"),
        ("train X --steps 1.5", "'1.5' was given; write a whole number"),
        ("train X --seed -1", "'-1' was given; write a whole number"),
        ("train X --steps", "Missing value for argument '--steps'"),
        ("train X Y", "Unrecognized options: Y; a setting is written path=value, without spaces"),
        ("train X learning_rate 0.1", "Unrecognized options: learning_rate, 0.1; a setting is written path=value"),
        ("list", "Missing from engram list: envs|presets|parts|recipes"),
        ("list foo", "engram list has no 'foo'; known: envs, parts, presets, recipes"),
        ("evaluate", "RUN"),
    ],
)
def test_a_wrong_value_exits_with_2_and_says_which(capsys, words, part):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
    assert err.startswith("engram: ")
    assert err.count("\n") == 1, "one sentence, no box"


def test_the_nearest_run_is_named(capsys):
    RunLog(Path("runs/CartPole-v1-auto-seed0"), None).close()
    assert main(["info", "runs/CartPole-v1-auto-sed0"]) == 66
    assert "did you mean 'runs/CartPole-v1-auto-seed0'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (SpecError("replay.capacity = 0 is out of range"), 2, "replay.capacity = 0 is out of range"),
        (LearningFault("loss is nan \x1b[2J\nat step 3"), 65, "loss is nan \\x1b[2J\\nat step 3"),
        (Stopped("stopped at step 30 after saving"), 75, "stopped at step 30 after saving"),
        (MemoryError(), 2, "the memory of this machine does not suffice; lower --envs, --seeds, or re"
         "play.capacity or rollout.steps"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 2, "the memory of this machine does not suffice; lower --envs, "
         "--seeds, or replay.capacity or rollout.steps"),
        (OSError(28, "No space left on device", "runs/x"), 74, "runs/x could not be written: No space left on device; "
         "make room there"),
        (KeyboardInterrupt(), 130, "stopped; nothing was left to save"),
    ],
)  # fmt: skip
def test_what_stops_a_run_is_one_sentence_and_its_exit_code(capsys, monkeypatch, problem, code, sentence):
    monkeypatch.setattr(FakeTrainer, "problem", problem)
    assert main(["train", "X", "--run", "r"]) == code
    assert capsys.readouterr().err == f"engram: {sentence}\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(FakeTrainer, "problem", RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "X"])


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_traceback_can_be_asked_for(monkeypatch, way):
    monkeypatch.setattr(FakeTrainer, "problem", SpecError("wrong"))
    if way == "variable":
        monkeypatch.setenv("ENGRAM_DEBUG", "1")
    with pytest.raises(SpecError):
        main(["train", "X"] + ["--traceback"] * (way == "flag"))


# -- train -------------------------------------------------------------------------------------------------


def test_only_what_was_given_reaches_the_trainer():
    assert main(["train", "X"]) == 0
    assert FakeTrainer.made == {"env": "X", "run": Path("runs/X-auto-seed0"), "overrides": {}}


def test_every_flag_reaches_the_trainer():
    words = (
        "train minatar-breakout --preset dqn --steps 1e6 --envs 4 --async --seed 7 --seeds 3 --run r "
        "--action-bins 5 --env-arg a=1 --env-arg b=c --track --log csv,wandb --save_every 1_000 --log-every 9 "
        "replay.capacity=50000 head=dueling"
    )
    assert main(shlex.split(words)) == 0
    assert FakeTrainer.made == {
        "env": "minatar-breakout", "preset": "dqn", "steps": 1_000_000, "envs": 4, "asynchronous": True, "seed": 7,
        "seeds": 3, "run": Path("r"), "action_bins": 5, "env_args": {"a": 1, "b": "c"}, "track": True,
        "log": "csv,wandb", "save_every": 1000, "log_every": 9,
        "overrides": {"replay.capacity": "50000", "head": "dueling"},
    }  # fmt: skip


def test_a_run_is_resumed_without_naming_its_environment():
    main(["train", "X", "--run", "r"])
    assert main(["train", "--resume", "--run", "r", "--steps", "60"]) == 0
    assert FakeTrainer.made == {"env": None, "run": Path("r"), "resume": True, "steps": 60, "overrides": {}}


def test_no_run_is_ever_overwritten(capsys):
    for name in ("ALE-Pong-v5-dqn-seed3", "ALE-Pong-v5-dqn-seed3-2", "ALE-Pong-v5-dqn-seed3-3"):
        assert main(["train", "ALE/Pong-v5", "--preset", "dqn", "--seed", "3"]) == 0
        assert FakeTrainer.made["run"] == Path("runs", name)


def seeds_made() -> list[tuple]:
    return [
        (str(made["run"]), made.get("seed"), made.get("resume", False), made["overrides"])
        for made in FakeTrainer.all_made
    ]


def test_seeds_of_a_host_environment_learn_one_after_another_each_in_its_directory():
    assert main(shlex.split("train CartPole-v1 --seed 3 --seeds 2 a.b=1")) == 0
    folder = "runs/CartPole-v1-auto-seeds3-4"
    assert seeds_made() == [(f"{folder}/seed{seed}", seed, False, {"a.b": "1"}) for seed in (3, 4)]
    assert not any("seeds" in made for made in FakeTrainer.all_made)


def test_seeds_of_a_device_environment_are_one_run(capsys):
    assert main(shlex.split("train engram/CartPole-v1 --seeds 2 --run r")) == 0
    summary = "r: 2 seeds, 30 steps, return of the last 100 training episodes 30 [30, 30] (30 to 30)"
    assert summary in capsys.readouterr().out.splitlines()
    assert FakeTrainer.all_made == [{"env": "engram/CartPole-v1", "run": Path("r"), "seeds": 2, "overrides": {}}]


def test_a_group_of_seeds_that_was_stopped_goes_on_where_it_was(monkeypatch, capsys):
    words = shlex.split("train CartPole-v1 --seeds 3 --run r a.b=1")
    monkeypatch.setattr(FakeTrainer, "problem", Stopped("stopped at step 30 after saving"))
    assert main(words) == 75
    assert "to go on with every seed, add --run r --resume to the command\n" in capsys.readouterr().err
    monkeypatch.setattr(FakeTrainer, "problem", None)
    FakeTrainer.all_made.clear()
    assert main([*words, "--resume"]) == 0
    assert seeds_made() == [
        ("r/seed0", 0, True, {}),
        ("r/seed1", 1, False, {"a.b": "1"}),
        ("r/seed2", 2, False, {"a.b": "1"}),
    ]
    FakeTrainer.all_made.clear()
    assert main(["train", "--resume", "--run", "r"]) == 0
    assert [made["run"].name for made in FakeTrainer.all_made] == ["seed0", "seed1", "seed2"]
    Path("r/seeds.json").write_text('{"seeds": [0, 1, 2, 3]}')  # as the first save of a group tells
    capsys.readouterr()
    assert main(["train", "--resume", "--run", "r"]) == 0
    assert capsys.readouterr().err == (
        "engram: seed3 of r has not begun; to begin it, add --run r --resume to the whole command\n"
    )


def test_a_run_that_could_not_begin_leaves_no_directory(monkeypatch):
    monkeypatch.setattr(FakeTrainer, "at_start", UnknownName("no environment is called 'X'"))
    assert main(["train", "X"]) == 2
    assert not Path("runs").exists()


def test_a_run_that_could_not_begin_leaves_the_others(monkeypatch):
    assert main(["train", "X"]) == 0
    monkeypatch.setattr(FakeTrainer, "at_start", UnknownName("no environment is called 'Y'"))
    assert main(["train", "Y"]) == 2
    assert [path.name for path in Path("runs").iterdir()] == ["X-auto-seed0"]
    Path("runs/X-auto-seed0").rename("kept")
    assert main(["train", "Y"]) == 2
    assert list(Path("runs").iterdir()) == [], "a folder `runs` of the user's own stays"


def test_training_shows_notes_progress_and_saves_as_plain_lines(capsys):
    assert main(["train", "X", "--run", "my run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "preset dqn for \\x1b[31mBox(4)"
    assert lines[1].startswith("step 10/30  done 33%  return 10 ")
    assert "saved step 30 id 3fa94be0c1d2" in lines
    assert any(line.startswith("step 30/30  done 100%  return 30 ") for line in lines)
    assert lines[-1] == "done: my run holds the run and learning-curve.png; next: engram evaluate 'my run'"


# -- the other commands ------------------------------------------------------------------------------------


def test_json_stands_alone_on_standard_output(capfd):
    main(["train", "X", "--run", "r"])
    capfd.readouterr()
    assert main(["evaluate", "r", "--episodes", "3", "--seed", "5", "--json"]) == 0
    out, err = capfd.readouterr()
    found = {"run": "r", "step": 30, "mean": 5.0, "std": 0.0, "episodes": 3, "returns": [5.0] * 3, "per_seed": [5.0]}
    assert json.loads(out) == found | {"lengths": [7] * 3, "cut": 0}
    assert "a library says hello" in err
    assert "and so does C" in err


def test_another_environment_to_evaluate_in_is_passed_on_and_named(capfd):
    Path("r").mkdir()
    assert main(["evaluate", "r", "--env", "Other-v0", "--env-arg", "size=9", "--episodes", "1", "--json"]) == 0
    assert FakeTrainer.elsewhere == {"env": "Other-v0", "env_args": {"size": 9}}
    found = json.loads(capfd.readouterr().out)
    assert (found["env"], found["env_args"]) == ("Other-v0", {"size": 9})
    assert main(["evaluate", "r"]) == 0
    assert FakeTrainer.elsewhere == {}
    assert FakeTrainer.made["at"] == "newest"
    assert main(["evaluate", "r", "--at", "best"]) == 0
    assert FakeTrainer.made["at"] == "best"


def test_without_json_a_table_is_printed(capsys):
    Path("r").mkdir()
    assert main(["evaluate", "r"]) == 0
    assert "episodes  20\n" in capsys.readouterr().out
    assert main(["info", "r", "--verify"]) == 0
    assert capsys.readouterr().out == (
        "env                 X-v0\nsteps               30,000\nverified            yes\ncheckpoints.0.step  30\n"
        "checkpoints.0.id    3fa9\nseeds               0, 1\n"
    )


def test_damage_that_verification_found_is_an_error(monkeypatch, capsys):
    Path("r").mkdir()
    monkeypatch.setattr("engram.run.plan.info", lambda run, verify: {"problems": ["step 30: bad sum"]})
    assert main(["info", "r", "--verify", "--json"]) == 66
    out, err = capsys.readouterr()
    assert json.loads(out) == {"problems": ["step 30: bad sum"]}
    assert err == "engram: r is damaged: step 30: bad sum; resuming uses the newest checkpoint that is whole\n"


@pytest.mark.parametrize("name", list(PRESETS))
def test_show_prints_lines_that_make_the_preset_from_any_other(capsys, name):
    assert main(["show", name, "--steps", "7000", "discount=0.5"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"# {name} for engram/CartPole-v1"
    words = [word for line in lines for word in shlex.split(line, comments=True)]
    rest, settings = split_settings("train", words)
    assert rest == []
    space = make_device("engram/CartPole-v1").observation_space
    made = specs.override_all(preset("dqn", space, 99), settings)
    assert made == specs.override(preset(name, space, 7000), "discount", 0.5)
    check_read(made, settings)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("show dnq", "no preset is called 'dnq'; did you mean 'dqn'?"),
        ("show dqn --env CartPol-v1", "did you mean 'CartPole-v1'?"),
        ("show dqn replay.capcity=3", "'replay.capcity' is not a setting; did you mean 'replay.capacity'?"),
        ("show dqn discount=2", "discount = 2.0 is out of range; expected at most 1"),
    ],
)
def test_show_says_what_is_wrong_with_a_name_or_value(capsys, words, sentence):
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("engram: ")
    assert err.endswith(f"{sentence}\n")


def test_show_makes_the_preset_for_the_environment(capsys):
    assert main(["show", "dqn", "--env", "CartPole-v1"]) == 0
    assert "encoder=vector " in capsys.readouterr().out
    assert main(["show", "dqn", "--env", "minatar-breakout"]) == 0
    assert "encoder=grid " in capsys.readouterr().out


def test_list_names_presets_environments_and_parts(capsys):
    assert main(["list", "presets"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PRESETS)
    assert main(["list", "envs"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"CartPole-v1", "engram/CartPole-v1"} <= set(names)
    assert main(["list", "parts"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"encoder=vector", "head=dueling"} <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 1 for line in lines), "each says what it is"


# -- the program -------------------------------------------------------------------------------------------


def engram(*words: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "engram", *words], capture_output=True, text=True, **more)


@pytest.mark.parametrize("text", [DESCRIPTION, *(command.__doc__ for command in COMMANDS.values())])
def test_what_help_begins_with_fits_80_columns(text):
    """There, tyro joins the lines of a paragraph and wraps none."""
    assert max(len(" ".join(paragraph.split())) for paragraph in text.split("\n\n")) <= 80


def test_help_and_mistakes_are_answered_without_loading_jax():
    code = (
        "import sys; from engram.cli.commands import main;"
        "codes = [main([]), main(['train', '--help']), main(['train', 'X', '--sed'])];"
        "print(codes, {'jax', 'numpy', 'matplotlib', 'gymnasium', 'equinox'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[0, 0, 2] set()"
    assert all(command in done.stdout for command in COMMANDS)


def test_the_exit_code_of_the_process_is_that_of_the_problem():
    assert engram("info", "nowhere").returncode == 66
    assert engram("--version").stdout.strip().count(".") == 2


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_reader_that_goes_away_is_no_error(word):
    words = [sys.executable, "-m", "engram", word]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_pipe_that_breaks_elsewhere_is_not_taken_for_a_reader_that_left(monkeypatch):
    monkeypatch.setattr(FakeTrainer, "problem", BrokenPipeError("a worker died"))
    with pytest.raises(BrokenPipeError):
        main(["train", "X"])


def test_a_terminal_without_unicode_gets_escapes():
    done = engram("train", "X", "--sé", env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 2
    assert "'--s\\xe9'" in done.stderr


# -- end to end --------------------------------------------------------------------------------------------

SMALL = ["--steps", "600", "--save-every", "300", "replay.capacity=1000"]


@whole_program
def test_a_run_is_trained_resumed_evaluated_and_described(capsys):
    assert main(["train", "CartPole-v1", "--run", "r", *SMALL]) == 0
    assert main(["train", "--resume", "--run", "r", "--steps", "900"]) == 0
    steps = [row["step"] for row in read_metrics("r")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 900
    assert Path("r/learning-curve.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main(["evaluate", "r", "--episodes", "2", "--seed", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == len(found["returns"]) == 2
    assert main(["train", "CartPole-v1", "--run", "r"]) == 2
    assert "r already holds a run" in capsys.readouterr().err
    assert main(["info", "r", "--verify", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"env", "preset", "steps", "checkpoints", "state_digest"} <= set(facts)
    assert main(["info", "r"]) == 0


@whole_program
@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("train CartPol-v1", "CartPole-v1"),
        ("train CartPole-v1 --preset dnq", "dqn"),
        ("train CartPole-v1 replay.capcity=3", "did you mean 'replay.capacity'?"),
        ("train CartPole-v1 replay.capacity=many", "replay.capacity"),
    ],
)
def test_wrong_names_are_answered_by_one_line_and_leave_nothing(capsys, words, part):
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("engram: ")
    assert err.count("\n") == 1
    assert part in err
    assert not Path("runs").exists()


@whole_program
def test_a_terminated_run_saves_and_exits_with_75():
    words = [
        sys.executable,
        "-m",
        "engram",
        "train",
        "CartPole-v1",
        "--run",
        "r",
        "--steps",
        "1e7",
        "--log-every",
        "500",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert isinstance(process.stdout, io.TextIOBase)
        for line in process.stdout:
            if line.startswith("step "):
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "engram train --run r --resume" in err.splitlines()[-1]
