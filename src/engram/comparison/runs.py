"""Runs read from their folders and sorted into groups that can be compared; what cannot be is said in a sentence."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engram.comparison.learning import Curve
from engram.errors import CheckpointError, SpecError
from engram.run.folders import holds_run, plan_of, runs_in
from engram.run.metrics import number, read_metrics

GREEDY, TRAINING = "evaluation_return", "return_mean"
FEWEST = 2  # seeds of a group: fewer have no interval
LAST, LARGEST = 1 << 53, 1e100  # a step and a return beyond them are nobody's: squares and sums are floats still
NOTHING_YET = "has logged no return yet; train it on with --resume and more --steps"
# Beside the agent's own settings, what a run's course depends on. They are in a group's digest.
COURSE = ("envs", "action_bins", "start_from", "start_with", "demonstrations")


class Logged(NamedTuple):
    """A run as its folder tells of it."""

    folder: Path
    plan: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """The steps that were asked for, where the run has come so far, else the last one that was logged.

        On the device a run ends with a whole rollout, or a whole cycle, which differ between agents.
        """
        reached, asked = self.rows[-1]["step"], number(self.plan.get("steps"))
        return int(asked) if asked is not None and 0 < asked <= reached else reached

    @property
    def interval(self) -> float:
        """Environment steps between two lines of the log; at most a tenth of all."""
        steps = [row["step"] for row in self.rows]
        chosen = number(self.plan.get("log_every")) or (float(np.median(np.diff(steps))) if len(steps) > 1 else 0.0)
        return min(chosen, self.steps / 10)

    @property
    def env(self) -> str:
        """The environment with what was chosen about it."""
        name, given = self.plan["env"], self.plan.get("env_args")
        words = [str(name)] if name is not None else [f"an environment of one's own ({_digest(self._seen)})"]
        words += [f"{key}={value}" for key, value in sorted(given.items())] if isinstance(given, Mapping) else []
        limit = self.plan.get("max_episode_steps")
        return " ".join(words + ([f"max_episode_steps={limit}"] if limit is not None else []))

    @property
    def _seen(self) -> list[Any]:
        return [self.plan.get("space"), self.plan.get("actions")]

    @property
    def name(self) -> str:
        """The preset, with its recipe."""
        recipe = self.plan.get("recipe")
        return f"{self.plan['preset']}" + (f" recipe={recipe}" if recipe is not None else "")

    @property
    def settings(self) -> dict[str, Any]:
        """What a group's runs have in common, by path, without what only follows the number of steps."""
        follows = self.plan.get("follows")
        found = {
            path: value for path, value in _flat(self.plan["agent"])
            if not isinstance(follows, list) or f"agent.{path}" not in follows
        }  # fmt: skip
        return found | {name: self.plan[name] for name in COURSE if name in self.plan}

    def curves(self, metric: str) -> list[Curve]:
        """The curve of each seed; it has no points where the metric is unknown."""
        told = [(row["step"], row[metric]) for row in self.rows if row.get(metric) is not None]
        told = [(step, value if isinstance(value, list) else [value]) for step, value in told]
        seeds = max((len(values) for _, values in told), default=1)
        found = []
        for seed in range(min(seeds, self.plan["seeds"])):
            own = [(step, number(values[seed])) for step, values in told if seed < len(values)]
            points = [(step, value) for step, value in own if value is not None and abs(value) < LARGEST]
            known = np.array(_within(points, self.steps) if points else [], float).reshape(-1, 2)
            found.append(Curve(self.folder, self.plan["seed"] + seed, known[:, 0], known[:, 1]))
        return found


def _within(points: list[tuple[float, float]], end: int) -> list[tuple[float, float]]:
    """The points up to the steps that were asked for; what was logged where the last rollout ended stands at them."""
    inside = [point for point in points if point[0] <= end]
    beyond = [value for step, value in points if step > end]
    if beyond and (not inside or inside[-1][0] < end):
        inside.append((end, beyond[0]))
    return inside


class Group(NamedTuple):
    """Seeds that differ in nothing but their seed, on one environment."""

    env: str
    agent: str  # the preset, and the settings by which it differs from others of that preset
    until: int  # environment steps that are compared
    curves: list[Curve]


class Found(NamedTuple):
    """What can be compared, and what was left out."""

    groups: list[Group]
    metrics: dict[str, str]  # of each environment: which metric its curves are of
    left_out: list[str]
    notes: list[str]
    runs: dict[Path, Logged]


def find(paths: Sequence[Path]) -> Found:
    """The groups in run folders, and in folders of runs or of seeds.

    Raises: CheckpointError for a path in which there is no run, SpecError where nothing is left to compare.
    """
    left: list[str] = []
    tasks: dict[str, list[Logged]] = {}
    for run in _read(paths, left):
        tasks.setdefault(run.env, []).append(run)
    until: dict[str, int] = {}
    for env, runs in tasks.items():
        until[env], tasks[env] = _of_one_length(runs, left)
    metrics, notes = _metrics(tasks)
    names = _labels([run for runs in tasks.values() for run in runs])
    groups = []
    for env in sorted(tasks):
        groups += _grouped(env, until[env], tasks[env], metrics[env], names, left)
    if not groups:
        more = f" (and {len(left) - 1} more like it)" if len(left) > 1 else ""
        raise SpecError(f"nothing is left to compare: {left[0] if left else 'no run was given'}{more}")
    kept = {run.folder: run for runs in tasks.values() for run in runs}
    return Found(groups, {env: metrics[env] for env in sorted({group.env for group in groups})}, left, notes, kept)


def folders(path: Path) -> list[Path]:
    """The run directories that a path stands for. Raises CheckpointError where there are none."""
    if not path.is_dir():
        raise CheckpointError(f"there is no run directory {str(path)!r}; start a run with: engram train ENV")
    found = [path] if holds_run(path) else runs_in(path)
    if not found:
        raise CheckpointError(f"{path} holds no run (run.json is missing); give a run, or a folder of runs")
    return found


def _read(paths: Sequence[Path], left: list[str]) -> Iterator[Logged]:
    """Each run once, as far as it can be read and has logged a return."""
    seen: set[Path] = set()
    for folder in (folder for path in paths for folder in folders(path)):
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        try:
            rows = [row for row in read_metrics(folder) if 0 < row["step"] < LAST]
            run = Logged(folder, plan_of(folder), rows)
        except CheckpointError as error:
            left.append(str(error))
            continue
        if any(len(curve.steps) for metric in (TRAINING, GREEDY) for curve in run.curves(metric)):
            yield run
        else:
            left.append(f"{folder} {NOTHING_YET}")


def _of_one_length(runs: list[Logged], left: list[str]) -> tuple[int, list[Logged]]:
    """The number of steps that most seeds of an environment have, and the runs that have it within one interval of
    their log; of equally many the longer ones.
    """

    def like(steps: int) -> list[Logged]:
        return [run for run in runs if abs(run.steps - steps) <= run.interval]

    def support(steps: int) -> tuple[int, int, int]:
        return _seeds(like(steps)), _seeds([run for run in runs if run.steps == steps]), steps

    until = max({run.steps for run in runs}, key=support)
    kept = like(until)
    for run in runs:
        if abs(run.steps - until) > run.interval:
            longer = "train it on" if run.steps < until else "compare it with runs of its length"
            left.append(f"{run.folder} has {run.steps:,} steps, others of {run.env} have {until:,}; {longer}")
    return until, kept


def _seeds(runs: list[Logged]) -> int:
    return sum(run.plan["seeds"] for run in runs)


def _metrics(tasks: Mapping[str, list[Logged]]) -> tuple[dict[str, str], list[str]]:
    """Greedy evaluations where every run of every environment has two or more in the same place, else the returns of
    training; and what is to be said of it.
    """
    places = {env: {_place(run) for run in runs} for env, runs in tasks.items()}
    every = all(
        len(curve.steps) >= 2 for runs in tasks.values() for run in runs for curve in run.curves(GREEDY)
    )  # fmt: skip
    if every and all(len(there) == 1 for there in places.values()):
        elsewhere = {env: next(iter(there)) for env, there in places.items()}
        notes = [f"scores are greedy evaluations{_elsewhere(elsewhere)}"]
        return dict.fromkeys(tasks, GREEDY), notes
    why = "runs were evaluated in different environments" if every else "not every run has two greedy evaluations"
    notes = [f"scores are returns of training, means of the last 100 episodes, because {why}"]
    return dict.fromkeys(tasks, TRAINING), notes


def _place(run: Logged) -> str | None:
    """The environment that was evaluated in, where that is another one than that of training."""
    place = run.plan.get("evaluate_env")
    return None if place is None or place == run.plan["env"] else str(place)


def _elsewhere(places: Mapping[str, str | None]) -> str:
    other = [f"{place} for {env}" for env, place in places.items() if place is not None]
    return f" in {', '.join(other)}" if other else ""


def _grouped(
    env: str, until: int, runs: list[Logged], metric: str, names: Mapping[Path, str], left: list[str]
) -> list[Group]:
    """The groups of one environment that have seeds enough, by name."""
    found: dict[str, dict[int, Curve]] = {}
    for run in runs:
        group = found.setdefault(names[run.folder], {})
        for curve in run.curves(metric):
            if not len(curve.steps):
                left.append(f"seed {curve.seed} of {run.folder} {NOTHING_YET}")
            elif curve.seed in group:
                first = group[curve.seed].folder
                left.append(f"{run.folder} repeats seed {curve.seed} of {first}; leave one out, or take another --seed")
            else:
                group[curve.seed] = curve
    kept = []
    for agent, curves in sorted(found.items()):
        if len(curves) >= FEWEST:
            kept.append(Group(env, agent, until, [curves[seed] for seed in sorted(curves)]))
        else:
            count = "1 seed" if curves else "no seed"
            left.append(f"{agent} on {env} has {count}, and an interval needs {FEWEST}; train it with another --seed")
    return kept


# -- names -----------------------------------------------------------------------------------------------------------


def _labels(runs: Sequence[Logged]) -> dict[Path, str]:
    """A name for the group of each run: its preset, and the settings by which runs of that preset on one environment
    differ. Where these are more than two, a digest of them.
    """
    differing: dict[str, set[str]] = {}
    for env, name in {(run.env, run.name) for run in runs}:
        own = [run.settings for run in runs if (run.env, run.name) == (env, name)]
        paths = {path for settings in own for path in settings}
        differ = {path for path in paths if len({json.dumps(one.get(path), sort_keys=True) for one in own}) > 1}
        differing.setdefault(name, set()).update(differ)
    return {run.folder: _label(run, sorted(differing[run.name])) for run in runs}


def _label(run: Logged, paths: Sequence[str]) -> str:
    told = {path: run.settings[path] for path in paths if path in run.settings}
    words = [f"{path}={_word(value)}" for path, value in told.items()]
    return " ".join([run.name, *words]) if len(words) <= 2 else f"{run.name} #{_digest(told)}"


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | None | list) else str(value)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as path and value; the kind of a part is the value of the part's own path."""
    for name, item in value.items():
        inner = path if name == "kind" and path else f"{path}.{name}" if path else name
        if isinstance(item, Mapping):
            yield from _flat(item, inner)
        else:
            yield inner, item


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
