"""Names and typos are answered without JAX, and as JAX would have it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engram import spaces, specs
from engram.agents.mind import MindSpec, RecallSpec
from engram.agents.presets import PRESETS, preset
from engram.agents.spec import AnnealSpec
from engram.agents.unread import Unread, check_read
from engram.cli import environments
from engram.cli.commands import main
from engram.cli.early import SPACES, check_words
from engram.envs.device import device_ids
from engram.envs.host.make import host_ids
from engram.errors import SpecError
from engram.registry import register
from engram.replay.uniform import UniformSpec
from engram.run.familiar import _NO_SETTINGS, FAMILIAR
from engram.run.settings import RUN, SESSION, Given, check_names
from engram.run.trainer import Trainer


def alone(code: str, folder: Path) -> list[str]:
    """The lines that a process of its own prints; the last is what it has of JAX."""
    ends = "\nimport sys; print(sorted({'jax', 'jaxlib', 'equinox', 'optax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + ends], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_lists_and_mistakes_load_no_jax_and_say_the_same(tmp_path):
    commands = [
        ("list presets", 0), ("list parts", 0), ("list envs", 0), ("list recipes", 0), ("list env --filter tmaze", 0),
        ("show dqn", 0), ("show dtqn --env engram/PassiveTMaze-v0 --steps 900 working.heads=2", 0),
        ("show env engram/PassiveTMaze-v0", 0), ("show dnq", 2), ("show dqn discount=2", 2),
        ("show dqn replay.burn_in=99 replay.window=9", 2), ("train CartPole-v1 --preset dnq", 2),
        ("train CartPol-v1", 2), ("train engram/CartPol-v1", 2), ("train CartPole-v1 learning_rate=1", 2),
        ("train CartPole-v1 replay.capacity=many", 2), ("train CartPole-v1 --recipe bst", 2), ("lst envs", 2),
    ]  # fmt: skip
    words = [words.split() for words, _ in commands]
    code = (
        f"import sys; from engram.cli.commands import main; sys.stderr = sys.stdout\nprint([main(w) for w in {words}])"
    )
    *said, codes, loaded = alone(code, tmp_path)
    assert loaded == "[]"
    assert json.loads(codes) == [code for _, code in commands]
    *said_with_jax, _, loaded_with_jax = alone(f"import jax\n{code}", tmp_path)
    assert "jax" in loaded_with_jax
    assert said_with_jax == said
    assert not any(tmp_path.iterdir())


def test_a_host_environment_is_shown_without_jax(tmp_path):
    code = (
        "from engram.cli.commands import main\n"
        "main(['show', 'env', 'CartPole-v1']), main(['show', 'dqn', '--env', 'Taxi-v4'])"
    )
    *said, loaded = alone(code, tmp_path)
    assert loaded == "[]"
    assert said[0].endswith("balance a pole on a cart")
    assert "# dqn for Taxi-v4" in said


def test_what_blanks_cannot_answer_is_answered_with_jax(tmp_path):
    code = (
        "from engram.cli.blank import without_jax\n"
        "def work():\n"
        "    import jax.numpy as jnp\n"
        "    return int(jnp.arange(4).sum())\n"
        "print(without_jax(work))"
    )
    assert alone(code, tmp_path) == ["6", "['jax', 'jaxlib']"]


def test_parts_read_with_blanks_are_forgotten(tmp_path):
    code = (
        "from engram.cli.names import preset_lines\nfrom engram.cli.blank import without_jax\n"
        "import sys\nfrom engram import registry\n"
        "without_jax(preset_lines)\nprint(registry.snapshot(), 'engram.agents' in sys.modules, 'jax' in sys.modules)\n"
        "from engram.agents.spec import AgentSpec\nprint(AgentSpec().encoder.widths)"
    )
    assert alone(code, tmp_path)[:2] == ["{} False False", "(128, 128)"]


def test_every_preset_can_be_made_for_the_observations_that_stand_for_all():
    for name in PRESETS:
        made = [preset(name, spaces.from_json(space)) for space in SPACES]
        assert all(isinstance(agent, MindSpec) for agent in made)


# -- environments ----------------------------------------------------------------------------------------------------


def test_the_stored_ids_and_arguments_are_those_of_the_installed_packages():
    stored, found = json.loads(environments.FILE.read_text()), json.loads(json.dumps(environments.gather()))
    extras = ("gymnasium-robotics", "textworld")  # which need not be installed
    assert {name: one for name, one in stored.items() if name not in extras or name in found} == found, (
        "python -m engram.cli.environments writes the file anew"
    )
    assert sorted(environments.host_arguments()) == sorted(host_ids())


def test_another_version_of_a_package_is_asked_itself(monkeypatch):
    stored = json.loads(environments.FILE.read_text())
    stored["minigrid"] |= {"version": "0.0.1", "groups": []}
    monkeypatch.setattr(environments, "_stored", lambda: stored)
    assert "MiniGrid-Empty-5x5-v0" in environments.host_arguments()
    environments.check_environment("Surely-Not-v0")  # passes: only who was asked can say


def test_every_environment_has_a_line_with_its_arguments(capsys):
    assert main(["list", "envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    assert {*device_ids(), *host_ids()} == set(rows)
    silent = [name for name, text in rows.items() if text.strip() in ("device:", "host:", "device", "host")]
    assert silent == []
    assert rows["engram/PassiveTMaze-v0"].endswith("[length=10, cue_at=start]")
    assert main(["list", "envs", "TMAZE"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {
        "engram/ActiveTMaze-v0", "engram/PassiveTMaze-v0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("env engram/RepeatPrevious-v0", ["Discrete(n=4)", "4 discrete", "--env-arg level=easy", "Correlation"]),
        ("env CartPole-v1", ["Box(shape=(4,)", "Discrete(2)", "--env-arg sutton_barto_reward=false"]),
        ("env Pendulum-v1", ["the actions Box(-2.0, 2.0, (1,), float32) are continuous", "give --action-bins N"]),
        ("env Pendulum-v1 --action-bins 5", ["5 discrete"]),
        ("environment engram/PassiveTMaze-v0 --env-arg length=30", ["--env-arg length=30"]),
    ],
)
def test_show_env_tells_observation_actions_and_arguments(capsys, words, parts):
    assert main(["show", *words.split()]) == 0
    out = capsys.readouterr().out
    assert [part for part in parts if part not in out] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("show env", "engram show env needs an environment, as in: engram show env CartPole-v1"),
        ("show env CartPol-v1", "no environment is called 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ("show env cartpole-v1", "no environment is called 'cartpole-v1'; did you mean 'CartPole-v1'?"),
        ("show dqn CartPole-v1", "'CartPole-v1' was given beside 'dqn'; for an environment: --env CartPole-v1"),
        ("list environmnts", "engram list has no 'environmnts'; did you mean 'envs'?"),
        ("list envs zzz", "no line of `engram list envs` holds 'zzz'; leave the text out to see all"),
        ("list envs a --filter b", "two texts were given, 'a' and 'b'; leave one of them out"),
    ],
)
def test_a_word_that_nothing_is_called_gets_a_way_out(capsys, words, sentence):
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"engram: {sentence}\n"


# -- familiar names --------------------------------------------------------------------------------------------------


def test_every_familiar_name_means_a_setting_and_is_none_itself():
    known = {*RUN, *SESSION}
    for space in SPACES:
        for name in ("dqn", "drqn", "c51", "qr-dqn", "ppo", "per-dqn"):
            known |= {row[0] for row in specs.describe(preset(name, spaces.from_json(space)))}
    assert {way.path for way in FAMILIAR.values()} <= known
    assert not {*FAMILIAR, *_NO_SETTINGS} & {*RUN, *SESSION, *(path for path in known if "." not in path)}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("lr", "'lr' is called 'optimizer.learning_rate' here; write optimizer.learning_rate=VALUE, in Python "
         "optimizer__learning_rate=VALUE"),
        ("gamma", "'gamma' is called 'discount' here; write discount=VALUE"),
        ("buffer_size", "'buffer_size' is called 'replay.capacity' here; write replay.capacity=VALUE, in Python "
         "replay__capacity=VALUE"),
        ("total_timesteps", "'total_timesteps' is called 'steps' here; write --steps N, in Python steps="),
        ("n_envs", "'n_envs' is called 'envs' here; write --envs K, in Python envs="),
        ("target_update_interval", "'target_update_interval' is called 'target.every' here (counted in updates, not in "
         "environment steps); write target.every=VALUE, in Python target__every=VALUE"),
        ("optimizer.lr", "'optimizer.lr' is called 'optimizer.learning_rate' here; write optimizer.learning_rate=VALUE"
         ", in Python optimizer__learning_rate=VALUE"),
        ("per_alpha", "'per_alpha' is called 'draw.exponent' here (of draw=prioritized); write draw.exponent=VALUE, in "
         "Python draw__exponent=VALUE"),
        ("draw.beta", "'draw.beta' is called 'draw.correction' here (of draw=prioritized); write draw.correction=VALUE"
         ", in Python draw__correction=VALUE"),
        ("head.returns.v_max", "'head.returns.v_max' is called 'head.returns.high' here (of head.returns=categorical); "
         "write head.returns.high=VALUE, in Python head__returns__high=VALUE"),
    ],
)  # fmt: skip
def test_a_familiar_name_is_answered_with_ours_in_python_and_on_the_command_line(capsys, name, sentence):
    with pytest.raises(SpecError) as caught:
        Trainer("engram/CartPole-v1", overrides={name: 1})
    assert str(caught.value) == sentence
    assert main(["train", "engram/CartPole-v1", f"{name}=1"]) == 2
    assert capsys.readouterr().err == f"engram: {sentence}\n"


@pytest.mark.parametrize("name", ["learning_rate", "batch_size", "train_freq", "policy_kwargs", "eval_freq"])
def test_other_familiar_names_are_keywords_that_are_answered_too(name):
    with pytest.raises(SpecError, match=f"'{name}' is called '.*' here"):
        Trainer("engram/CartPole-v1", **{name: 1})


@pytest.mark.parametrize(
    ("preset", "name", "sentence"),
    [
        ("ppo", "batch_size", "'batch_size' is called 'rollout.minibatches' here (how many there are of a rollout, not "
         "the size of one); write rollout.minibatches=VALUE, in Python rollout__minibatches=VALUE"),
        ("ppo", "n_steps", "'n_steps' is called 'rollout.steps' here (of each environment); write rollout.steps=VALUE, "
         "in Python rollout__steps=VALUE"),
        ("pqn", "buffer_size", "'buffer_size' is called 'replay.capacity' here (of agents that learn from a replay), "
         "which this agent does not have; leave it out"),
        ("pqn", "clip", "'clip' is a setting of agent=ppo, which this agent=pqn does not have; leave it out, or "
         "choose another preset"),
        ("sac", "rollout.steps", "'rollout.steps' is a setting of agent=ppo and agent=pqn, which this agent=sac does "
         "not have; leave it out, or choose another preset"),
        ("ppo", "replay.batch_size", "'replay.batch_size' is a setting of agent=q-learning and agent=sac, which this "
         "agent=ppo does not have; leave it out, or choose another preset"),
        ("sac", "alpha", "'alpha' is called 'head.temperature' here (where it begins; it is learned, for "
         "target_entropy); write head.temperature=VALUE, in Python head__temperature=VALUE"),
        ("sac", "draw.alpha", "'draw.alpha' is called 'draw.exponent' here (of draw=prioritized); write draw.exponent="
         "VALUE, in Python draw__exponent=VALUE"),
        ("a2c", "per_alpha", "'per_alpha' is called 'draw.exponent' here (of draw=prioritized), which this agent does "
         "not have; leave it out"),
        ("dqn", "gae_lambda", "'gae_lambda' is called 'trace' here (of agents that learn from rollouts: pqn, ppo, a2c)"
         ", which this agent does not have; leave it out"),
        ("dqn", "n_steps", "'n_steps' is called 'n_step' here (of ppo, a2c and pqn: rollout.steps); write "
         "n_step=VALUE"),
    ],
)  # fmt: skip
def test_a_familiar_name_means_what_the_agent_has(preset, name, sentence):
    with pytest.raises(SpecError) as caught:
        Trainer("engram/CartPole-v1", preset, overrides={name: 1})
    assert str(caught.value) == sentence


def test_a_familiar_name_as_a_flag_and_a_setting_as_a_flag(capsys):
    assert main(["train", "X", "--learning-rate", "1"]) == 2
    assert "it is called 'optimizer.learning_rate' here: write optimizer.learning_rate=VALUE" in capsys.readouterr().err
    assert main(["train", "X", "--device", "cuda"]) == 2
    assert "JAX takes a GPU where it finds one" in capsys.readouterr().err
    assert main(["train", "X", "--discount", "1"]) == 2
    assert "settings of the agent have no dashes: write discount=VALUE" in capsys.readouterr().err


def test_a_setting_of_a_part_that_another_setting_chooses_is_no_foreign_name():
    agent = preset("dqn", spaces.from_json(SPACES[0]))
    check_names(agent, {"encoder": "tokens", "encoder.layers": "2"})


@register("draw", "test-beta")
@specs.spec
class BetaSpec(UniformSpec):
    """With a setting that elsewhere is a name of one of ours."""

    beta: float = specs.setting(0.5, "how much")


def test_a_setting_of_a_part_of_ones_own_may_have_any_name():
    agent = preset("dqn", spaces.from_json(SPACES[0]))
    check_names(agent, {"draw": "test-beta", "draw.beta": "1"})
    with pytest.raises(SpecError, match="'draw.beta' is called 'draw.correction' here"):
        check_names(agent, {"draw": "prioritized", "draw.beta": "1"})


def test_a_setting_that_waits_for_another_is_refused_at_once_but_a_recipe_may_hold_it(capsys):
    """What a recipe names and another setting turns off was typed by nobody."""
    assert main(["train", "engram/CartPole-v1", "anneal.n_step=5"]) == 2
    said = capsys.readouterr().err
    assert "anneal.n_step = 5 was given, but nothing reads it while anneal.updates = 0; set anneal.updates=" in said
    assert main(["show", "dqn", "recall.n_step=5"]) == 2
    assert "nothing reads it while external = none; set external=episodic, or leave it out" in capsys.readouterr().err
    without = {"external": "none", "bootstrap": "plain"}
    given = Given.of({"recipe": "best"}, without, "engram/SparseGrid-v0")
    assert given.typed == without.keys() < given.agent.keys()
    with Trainer("engram/SparseGrid-v0", recipe="best", progress=False, **without) as trainer:
        assert not trainer.plan.agent.has_external
    check_words("engram/SparseGrid-v0", {"recipe": "best"}, without)
    with Trainer("minatar-asterix", recipe="best", external="none", progress=False) as trainer:
        assert trainer.plan.agent.recall.imitation_weight == 0  # of the recipe, which was 0.1


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("drqn", {"working": "none", "replay.window": 1}),
        ("attention-dqn", {"external": "none", "bootstrap": "plain", "recall.refresh": 0}),
        ("nec", {"external": "none", "bootstrap": "plain", "recall.train_through_memory": False}),
        ("emdqn", {"external": "none", "recall.imitation_weight": 0}),
    ],
)
def test_a_memory_may_be_turned_off_with_all_that_belongs_to_it(name: str, changes: dict[str, Any]):
    with Trainer("engram/CartPole-v1", name, overrides=changes, progress=False) as trainer:
        assert not trainer.plan.agent.has_memory
        assert not trainer.plan.agent.has_external


def test_whole_groups_of_settings_are_told_by_what_they_change():
    agent = preset("dqn", spaces.from_json(SPACES[0]))
    for group in (RecallSpec(), AnnealSpec()):
        check_read(agent, ["recall", "anneal"])
        name = {RecallSpec: "recall", AnnealSpec: "anneal"}[type(group)]
        changed = specs.override(agent, name, replace(group, n_step=7))
        with pytest.raises(Unread, match=f"{name}.n_step = 7 was given, but nothing reads it"):
            check_read(changed, [name])


def test_the_way_out_is_one_that_the_agent_takes():
    agent = preset("sac", spaces.from_json(SPACES[0]))
    with pytest.raises(Unread, match="nothing reads it while external = none; leave it out$"):
        check_read(specs.override(agent, "recall.n_step", 5), ["recall.n_step"])
    agent = preset("dqn", spaces.from_json(SPACES[0]))
    with pytest.raises(Unread, match="while working = none; set working=gru replay.window=64, or leave it out$"):
        check_read(specs.override(agent, "replay.align", False), ["replay.align"])
