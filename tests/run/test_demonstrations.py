"""A run that is given demonstrations: what it takes, that it goes on exactly, and what it refuses."""

import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from run.test_resume import played  # what a run with stops is compared by

import engram.run.recorded
from engram import spaces
from engram.checkpoint.store import CheckpointStore
from engram.cli.commands import main
from engram.errors import CheckpointError, EngramError, SpecError
from engram.replay.ring import Ring
from engram.run.plan import RunPlan
from engram.run.recorded import COLUMNS, _nested, _of_lane
from engram.run.trainer import Trainer

SMALL: dict[str, Any] = dict(
    preset="dqn", encoder__widths=(8,), replay__capacity=300, replay__batch_size=8, replay__start=60, evaluate_every=0,
)  # fmt: skip
KEPT = SMALL | dict(demos__ratio=0.25)
LENGTHS = (3, 100, 2)


def arrays(width: int = 4) -> dict[str, np.ndarray]:
    """Three episodes; the second is cut off."""
    steps, ends = sum(LENGTHS), np.cumsum(LENGTHS) - 1
    over, cut = np.zeros(steps, bool), np.zeros(steps, bool)
    over[ends[[0, 2]]], cut[ends[1]] = True, True
    return dict(
        observation=0.001 * np.arange(width * steps, dtype=np.float32).reshape(steps, width), terminated=over,
        truncated=cut, action=np.arange(steps) % 2, reward=np.arange(steps, dtype=np.float64),
        final_observation=-np.arange(3 * width, dtype=np.float32).reshape(3, width),
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "shown.npz", **arrays())  # type: ignore[arg-type]
    return tmp_path / "shown.npz"


def rows_of(trainer: Trainer) -> Any:
    runner = trainer.runner
    state = runner._run.agent if trainer.on_device else runner.learner.state
    return jax.tree.map(np.asarray, runner.agent.rows(state))


def check(ring: Ring, lane: int, start: int, number: int) -> None:
    """That a lane holds the rows of one episode of the file from this row on."""
    given, steps = arrays(), LENGTHS[number]
    of = slice(sum(LENGTHS[:number]), sum(LENGTHS[: number + 1]))
    place, final = slice(start, start + steps), start + steps
    rows = ring.rows
    np.testing.assert_array_equal(rows.observation[place, lane], given["observation"][of])
    np.testing.assert_array_equal(rows.observation[final, lane], given["final_observation"][number])
    for name in ("action", "reward", "terminated"):
        np.testing.assert_array_equal(getattr(rows, name)[place, lane], given[name][of])
    assert rows.is_first[start : final + 1, lane].tolist() == [True] + [False] * steps


# -- what is taken ---------------------------------------------------------------------------------------------------


def test_kept_rows_are_those_of_the_file(file: Path, tmp_path: Path):
    with Trainer("CartPole-v1", demonstrations=file, run=tmp_path / "run", envs=2, **KEPT) as trainer:
        own, given = rows_of(trainer)
        assert own.cursor.tolist() == [0, 0]
        assert given.cursor.tolist() == [108]
        for number, start in enumerate((0, 4, 105)):
            check(given, 0, start, number)
        assert trainer.plan.demonstration_rows == 108
        trainer.learn(700)  # the own ring is full
        np.testing.assert_array_equal(rows_of(trainer)[1].rows.observation, given.rows.observation)
    assert RunPlan.read(tmp_path / "run").demonstrations == str(file)


def test_each_seed_on_the_device_has_them(file: Path):
    with Trainer("engram/CartPole-v1", demonstrations=file, seeds=2, **KEPT) as trainer:
        for seed in range(2):
            given = jax.tree.map(lambda leaf, seed=seed: leaf[seed], rows_of(trainer)[1])
            assert given.cursor.tolist() == [108]
            for number, start in enumerate((0, 4, 105)):
                check(given, 0, start, number)
        assert trainer.learn(72).steps == 72


def test_else_they_lie_in_the_replay(file: Path):
    with Trainer("CartPole-v1", demonstrations=file, envs=2, **SMALL) as trainer:
        (ring,) = rows_of(trainer)
        assert ring.cursor.tolist() == [7, 101]
        for number, lane, start in ((0, 0, 0), (1, 1, 0), (2, 0, 4)):
            check(ring, lane, start, number)


def test_the_replay_of_a_run_is_taken_whole_episodes_and_running_ones(tmp_path: Path):
    with Trainer("CartPole-v1", run=tmp_path / "old", steps=120, **SMALL) as trainer:
        trainer.learn()
        (old,) = rows_of(trainer)
    with Trainer("engram/CartPole-v1", demonstrations=tmp_path / "old", **KEPT) as trainer:
        given = rows_of(trainer)[1]
        count = int(old.cursor[0])
        assert trainer.plan.demonstrations == f"{tmp_path / 'old'}@120"
        assert given.cursor.reshape(-1).tolist() == [count]
        for name in ("observation", "is_first", "terminated"):
            np.testing.assert_array_equal(getattr(given.rows, name)[0, :count], getattr(old.rows, name)[:count])
        steps = count - 1  # of the running episode the newest observation is the last
        np.testing.assert_array_equal(given.rows.action[0, :steps], old.rows.action[:steps])
        np.testing.assert_array_equal(given.rows.reward[0, :steps], old.rows.reward[:steps])


def test_demonstrations_of_a_run_with_demonstrations_are_its_own_rows(file: Path, tmp_path: Path):
    with Trainer("CartPole-v1", demonstrations=file, run=tmp_path / "old", steps=60, **KEPT) as trainer:
        trainer.learn()
        count = int(rows_of(trainer)[0].cursor[0])
    with Trainer("CartPole-v1", demonstrations=tmp_path / "old", **KEPT) as trainer:
        assert rows_of(trainer)[1].cursor.tolist() == [count]


@pytest.mark.parametrize("agent", [
    dict(external="episodic", external__neighbours=5),
    dict(working="gru", working__hidden_size=8, replay__window=4, replay__stored_carry=True, draw="prioritized"),
    dict(head__returns="quantile", loss="quantile-huber", demos__margin_weight=1.0, observation__normalize=True,
         reward__normalize=True, observation__stack=2, n_step=3, updates=2),
], ids=["an external memory", "a working memory", "a distribution"])  # fmt: skip
@pytest.mark.parametrize("env", ["CartPole-v1", "engram/CartPole-v1"])
def test_agents_of_every_kind_learn_from_them(file: Path, env: str, agent: dict[str, Any]):
    with Trainer(env, demonstrations=file, steps=72, **KEPT, **agent) as trainer:
        assert trainer.learn().steps == 72
        assert np.isfinite(float(np.asarray(trainer.runner.report()["loss"] or 0.0)))


def test_a_data_set_of_minari_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One that its own collector wrote, of the episodes of an environment that follows a list of actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    import minari

    collector = minari.DataCollector(gymnasium.make("CartPole-v1"))
    followed: list[tuple[list[Any], list[int]]] = []
    for seed in range(3):
        shown, taken, over = [collector.reset(seed=seed)[0]], [], False
        while not over:
            taken.append(int(len(taken) % 3 == seed % 2))
            observation, _, ended, cut, _ = collector.step(taken[-1])
            shown.append(observation)
            over = ended or cut
        followed.append((shown, taken))
    collector.create_dataset("cartpole/rule-v0", algorithm_name="rule")
    with Trainer("CartPole-v1", demonstrations="minari:cartpole/rule-v0", **KEPT) as trainer:
        kept, start = rows_of(trainer)[1], 0
        for shown, taken in followed:
            of = slice(start, start + len(shown))
            np.testing.assert_array_equal(kept.rows.observation[of, 0], np.stack(shown))
            np.testing.assert_array_equal(kept.rows.action[of, 0][:-1], taken)
            assert kept.rows.reward[of, 0].sum() == len(taken)
            start += len(shown)
        assert kept.cursor.tolist() == [start]
        assert trainer.plan.demonstrations == "minari:cartpole/rule-v0"
    with pytest.raises(EngramError, match=r"minari:other cannot be read .*; fetch it with: minari download other"):
        Trainer("CartPole-v1", demonstrations="minari:other", **KEPT)
    with pytest.raises(EngramError, match=r"of minari:cartpole/rule-v0: the observation has shape"):
        Trainer("engram/SparseGrid-v0", demonstrations="minari:cartpole/rule-v0", **KEPT)
    monkeypatch.setitem(sys.modules, "minari", None)  # type: ignore[arg-type]
    with pytest.raises(EngramError, match="minari:other needs the library minari; in Engram's folder type: uv sync"):
        Trainer("CartPole-v1", demonstrations="minari:other", **KEPT)


def test_parts_of_an_observation_are_named():
    parts = {".a.0": 1, ".a.1": 2, ".b": 3}
    assert _nested(parts) == {"a": (1, 2), "b": 3}
    assert _nested({"": 4}) == 4


def test_a_dict_is_given_part_by_part(tmp_path: Path):
    class Two(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {"a": gymnasium.spaces.Box(-9, 9, (2,), np.float32), "b": gymnasium.spaces.Discrete(3)}
        )
        action_space = gymnasium.spaces.Discrete(2, start=5)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return {"a": np.zeros(2, np.float32), "b": 0}, {}

        def step(self, action: Any) -> Any:
            return self.reset()[0], 0.0, True, False, {}

    given = dict(
        action=[5, 6], reward=[0.0, 1.0], terminated=[False, True], truncated=[False, False], final_observation=[0],
        **{"observation.a": np.ones((2, 2)), "observation.b": [1, 2], "final_observation.a": np.zeros((1, 2)),
           "final_observation.b": [0]},
    )  # fmt: skip
    np.savez(tmp_path / "two.npz", **given)  # type: ignore[arg-type]
    with Trainer(Two, demonstrations=tmp_path / "two.npz", **KEPT | dict(preset="auto")) as trainer:
        rows = rows_of(trainer)[1].rows
        np.testing.assert_array_equal(rows.observation["a"][:3, 0], [[1, 1], [1, 1], [0, 0]])
        assert rows.action[:2, 0].tolist() == [0, 1]


# -- resuming --------------------------------------------------------------------------------------------------------

AGENTS = {
    "uniform": {},
    "prioritized": dict(draw="prioritized", n_step=3, demos__margin_weight=1.0, optimizer__weight_decay=1e-4),
    "windows": dict(working="gru", working__hidden_size=8, replay__window=4, replay__stored_carry=True),
    "in the replay": dict(demos__ratio=0.0, replay__capacity=160),
}
SLOW = [("engram/CartPole-v1", "windows"), ("engram/CartPole-v1", "in the replay")]


@pytest.mark.parametrize(("env", "kind"), [
    pytest.param(env, kind, marks=pytest.mark.slow if (env, kind) in SLOW else ())
    for env in ("CartPole-v1", "engram/CartPole-v1") for kind in AGENTS
])  # fmt: skip
def test_a_run_with_stops_is_the_run_without_and_needs_the_file_no_more(
    file: Path, tmp_path: Path, env: str, kind: str
):
    # 40 rows of a lane: on the disk, demonstrations are three lanes.
    settings = KEPT | dict(replay__capacity=40, replay__start=24) | AGENTS[kind] | dict(steps=132, log_every=40)
    more = {"seeds": 2} if env.startswith("engram/") else {"group": 1}
    plain = played(tmp_path / "plain", env, [], demonstrations=file, **settings, **more)
    shown = tmp_path / "shown2.npz"
    shown.write_bytes(file.read_bytes())
    with Trainer(env, run=tmp_path / "stopped", demonstrations=shown, **settings, **more) as trainer:
        assert trainer.runner.steps == 0
    shown.unlink()
    stopped = played(tmp_path / "stopped", env, [0, 44, 101] if not more.get("seeds") else [0], **settings, **more)
    assert stopped[1] == plain[1]
    if kind != "in the replay":
        last = CheckpointStore(tmp_path / "stopped" / "checkpoints").load()
        assert last.cursors is not None
        lanes = 2 if more.get("seeds") else 1
        assert last.cursors[lanes:].tolist() == [40, 40, 28] * lanes
    assert stopped[0] == plain[0]


def test_weights_go_on_to_a_run_without_and_the_replay_with_them(file: Path, tmp_path: Path):
    with Trainer("CartPole-v1", demonstrations=file, run=tmp_path / "a", steps=60, **KEPT) as trainer:
        trainer.learn()
        held = rows_of(trainer)
    with pytest.raises(SpecError, match=r"demos\.ratio = 0\.25 is the share of demonstrations in a batch, and none"):
        Trainer(start_from=str(tmp_path / "a"))
    with Trainer(start_from=str(tmp_path / "a"), demos__ratio=0.0) as trainer:
        assert trainer.learn(64).steps == 64
    with Trainer(start_from=str(tmp_path / "a"), start_with="replay") as trainer:
        jax.tree.map(np.testing.assert_array_equal, rows_of(trainer), held)
        assert trainer.plan.demonstrations == str(file)
        assert trainer.learn(64).steps == 64
    with pytest.raises(SpecError, match="which both say what is kept in the replay; leave one out"):
        Trainer(start_from=str(tmp_path / "a"), start_with="replay", demonstrations=file)


# -- what is said ----------------------------------------------------------------------------------------------------


def test_it_is_told(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ["CartPole-v1", "--demonstrations", str(file), "--preset", "dqn", "--steps", "50", "encoder.widths=8"]
    assert main(["train", *words, "--run", "a", "demos.ratio=0.25"]) == 0
    assert "108 rows of demonstrations from" in (said := capsys.readouterr().out)
    assert "kept for ever; 25% of the examples of each batch are drawn from them" in said
    assert main(["evaluate", "a", "--episodes", "1"]) == 0
    capsys.readouterr()
    assert main(["info", "a"]) == 0
    assert f"demonstrations  {file}, 108 rows, kept, 0.25 of each batch" in " ".join(capsys.readouterr().out.split(" "))
    assert main(["train", *words, "--run", "b", "replay.capacity=100", "replay.start=20"]) == 0
    said = capsys.readouterr()
    assert "lie in the replay until they are overwritten" in said.out + said.err
    assert "the replay has room for 100 rows of them; raise replay.capacity" in said.out + said.err
    assert main(["info", "b"]) == 0
    assert "108 rows, in the replay until they are overwritten" in capsys.readouterr().out
    assert main(["info", "b", "--json"]) == 0
    assert '"demonstration_rows": 108' in capsys.readouterr().out


def broken(tmp_path: Path, **changes: Any) -> Path:
    given = {name: value for name, value in (arrays() | changes).items() if value is not None}
    np.savez(tmp_path / "broken.npz", **given)
    return tmp_path / "broken.npz"


@pytest.mark.parametrize(("changes", "said"), [
    ({"observation": np.zeros((105, 3)), "final_observation": np.zeros((3, 3))}, r"episode 0 of .*npz: .*shape \(3,\)"),
    ({"reward": None}, "broken.npz has no array 'reward'; expected observation, action, reward, terminated"),
    ({"observation": None}, "has no array 'observation'"),
    ({"final_observation": None}, "has no array 'final_observation'"),
    ({"action": np.zeros(104, int)}, r"array 'action' of shape \(104,\) beside 105 rewards; expected one entry for"),
    ({"final_observation": np.zeros((2, 4))}, r"'final_observation' of shape \(2, 4\) beside 3 episodes that end"),
    ({"final_observation": np.zeros((3, 5))}, "'observation' and 'final_observation' of different shapes"),
    ({"terminated": np.zeros(3)}, r"shapes \(3,\) and \(105,\) beside 105 rewards; expected one flag"),
    ({"terminated": np.zeros(105)}, "ends inside an episode; set truncated at its last step"),
    ({"reward": np.full(105, np.nan)}, "episode 0 of .*: an episode with a reward that is not finite"),
    ({"observation": np.full((105, 4), np.inf)}, "episode 0 of .*: .*observation"),
    ({"action": np.full(105, 2)}, "episode 0 of .*: the action 2 was given, which is none of the agent's 2 actions"),
    ({"reward": np.array(["1"] * 105)}, "cannot be read as arrays .*'reward' is no array of numbers"),
    ({"action": np.array([print] * 105)}, "cannot be read as arrays .*write it with np.savez, of arrays of numbers"),
])  # fmt: skip
@pytest.mark.parametrize("env", ["CartPole-v1", "engram/CartPole-v1"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, env: str, changes: dict[str, Any], said: str):
    with pytest.raises(EngramError, match=said):
        Trainer(env, demonstrations=broken(tmp_path, **changes), **KEPT)


def test_what_is_no_file_of_arrays_is_refused(file: Path, tmp_path: Path):
    (tmp_path / "text").write_text("no arrays")
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:-30])
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as odd:
        odd.writestr("reward.npy", b"\x80\x04N.")  # a pickle
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text", "cut.npz", "odd.npz", "one.npy"):
        with pytest.raises(EngramError, match=f"{name} (cannot be read as arrays|has no array)"):
            Trainer("CartPole-v1", demonstrations=tmp_path / name, **KEPT)
    with pytest.raises(EngramError, match="which is no file and no run directory; expected a file of np.savez, a run"):
        Trainer("CartPole-v1", demonstrations=tmp_path / "nowhere", **KEPT)
    with pytest.raises(EngramError, match="holds no run"):
        Trainer("CartPole-v1", demonstrations=tmp_path, **KEPT)


def test_a_run_of_another_environment_is_refused(tmp_path: Path):
    with Trainer("Acrobot-v1", run=tmp_path / "old", steps=70, **SMALL) as trainer:
        trainer.learn()
    with pytest.raises(EngramError, match=r"old@70 learned with .* and 3 actions, but this environment has .* 2 act"):
        Trainer("CartPole-v1", demonstrations=tmp_path / "old", **KEPT)


def test_a_strangers_replay_without_a_column_is_refused():
    rows = {name: np.zeros(3) for name in ("is_first", "action", "reward", "observation")}
    for given in (rows, rows | {"terminated": np.zeros((3, 2))}):
        with pytest.raises(CheckpointError, match="of X is damaged: it has no proper column 'terminated'"):
            list(_of_lane("X", [given], spaces.Box(())))
    with pytest.raises(CheckpointError, match="no proper column 'observation'"):
        list(_of_lane("X", [{name: np.zeros(3) for name in ("is_first", *COLUMNS)}], spaces.Box(())))


def test_a_file_that_memory_cannot_hold_is_not_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engram.run.recorded, "available", lambda: 1000)
    with pytest.raises(SpecError, match=r"shown\.npz holds .* kB, but 1\.0 kB of memory are free; take fewer episodes"):
        Trainer("CartPole-v1", demonstrations=file, **KEPT)


@pytest.mark.parametrize("agent", [
    dict(external="episodic", external__neighbours=5),
    dict(working="gru", working__hidden_size=8, replay__window=4, replay__stored_carry=True),
])  # fmt: skip
def test_rows_that_hold_what_acting_knew_take_none_among_them(file: Path, agent: dict[str, Any]):
    with pytest.raises(SpecError, match=r"because of .*; set demos\.ratio=0\.25, which keeps them apart"):
        Trainer("CartPole-v1", demonstrations=file, **SMALL, **agent)


def test_a_share_needs_demonstrations():
    with pytest.raises(SpecError, match="and none were given; name them with demonstrations="):
        Trainer("CartPole-v1", **KEPT)


# -- what it is for --------------------------------------------------------------------------------------------------


def climbs(path: Path, episodes: int) -> Path:
    """Episodes of a rule that climbs the hill of MountainCar: push along with the motion."""
    env = gymnasium.make("MountainCar-v0")
    rows: dict[str, list[Any]] = {
        name: [] for name in ("observation", "action", "reward", "terminated", "truncated", "final_observation")
    }
    for seed in range(episodes):
        seen, _ = env.reset(seed=seed)
        over = cut = False
        while not (over or cut):
            action = 2 if seen[1] >= 0 else 0
            after, reward, over, cut, _ = env.step(action)
            step = dict(observation=seen, action=action, reward=reward, terminated=over, truncated=cut)
            for name, value in step.items():
                rows[name].append(value)
            seen = after
        rows["final_observation"].append(seen)
    np.savez(path, **rows)  # type: ignore[arg-type]
    return path


@pytest.mark.slow
def test_with_demonstrations_a_hill_is_climbed_that_is_not_found_without(tmp_path: Path):
    """Random actions do not meet the end of MountainCar in 3,000 steps; five seeds of five learn it with ten climbs."""
    file = climbs(tmp_path / "climbs.npz", 10)
    agent: dict[str, Any] = dict(
        preset="dqn", steps=3_000, evaluate_every=0, replay__start=200, learn_every=2, observation__normalize=True
    )
    shown = dict(demonstrations=file, demos__ratio=0.5, demos__margin_weight=1.0)
    for seed in range(5):
        with Trainer("MountainCar-v0", seed=seed, **agent, **shown) as trainer:
            assert trainer.learn().evaluate(20).mean > -160
        with Trainer("MountainCar-v0", seed=seed, **agent) as trainer:
            assert trainer.learn().evaluate(20).mean == -200
