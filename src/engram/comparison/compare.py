"""`engram.compare`: groups of runs, what each came to, and how sure one can be of a difference."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from engram.comparison import learning
from engram.comparison import statistics as stats
from engram.comparison.runs import Found, Group, find
from engram.comparison.statistics import Array, Scores, Value
from engram.errors import EngramError, SpecError, UnknownName, hint
from engram.run.metrics import plain

AGGREGATES: dict[str, Callable[[Scores], Value]] = {"iqm": stats.iqm, "mean": stats.mean, "median": stats.median}
SHARES = (50, 90)  # per cent of the reference whose steps are told
THRESHOLDS = 51  # of a performance profile
SEEDS_ENOUGH = 10  # fewer make the bootstrap's intervals too narrow
MINMAX = "minmax"

Pair = tuple[float, float]
Normalize = str | Pair | Mapping[str, Pair] | None
Reference = float | Mapping[str, float] | None


class Comparison:
    """What `engram.compare` found.

    Fields:
      table: a dict for each group on each environment. `env`, `agent`, `seeds`, `steps`, `runs` (folders). Of three
        scores of a seed, `final` (the last return), `area` (the mean return under the curve) and `converged` (the mean
        of the last tenth): `final_iqm`, `final_iqm_low`, `final_iqm_high`, and so for mean and median. `spread` and
        `spread_over_seeds` of the last tenth. `steps_to_50`, `steps_to_90`: the median over seeds, infinite where
        half of them never got there; `reached_50`, `reached_90`: how many seeds did. With a test environment
        `train_return`, `test_return`, `gap_mean`, `gap_mean_low`, `gap_mean_high`.
      pairs: for every two groups of an environment, the `probability` that a run of `agent` ends higher than one of
        `other`, with `low` and `high`.
      profiles: for each environment `thresholds`, and for each of its groups `share`, `low`, `high` at each of them.
      over_tasks: the same over normalised environments (`table`, `pairs`, `profile`); None without normalisation.
      left_out, notes: what was not compared and why, and what one must know to read the numbers; sentences.
    """

    def __init__(self, found: Found, reference: Reference, normalize: Normalize, seed: int, resamples: int):
        self.seed, self.resamples, self.groups = seed, resamples, found.groups
        self.left_out, self.notes = list(found.left_out), list(found.notes)
        self.metrics = found.metrics
        self._reference, self._tasks = reference, list(found.metrics)
        _known(reference, self._tasks, "reference")
        self.levels = {env: self._levels(env) for env in self._tasks}
        self.table = [self._row(group) for group in self.groups]
        finals = {(group.env, group.agent): _finals(group) for group in self.groups}
        self.pairs: list[dict[str, Any]] = []
        self.profiles: dict[str, Any] = {}
        for env in self._tasks:
            own = {group.agent: [finals[env, group.agent]] for group in self.of(env)}
            self.pairs += [{"env": env} | pair for pair in self._pairs(own)]
            self.profiles[env] = self._profile(own)
        self.over_tasks = self._over_tasks(finals, normalize)
        self._warn()

    def of(self, env: str) -> list[Group]:
        """The groups of an environment."""
        return [group for group in self.groups if group.env == env]

    def json(self) -> dict[str, Any]:
        """Everything as one object that JSON can hold; what is infinite or unknown is None."""
        names = ("seed", "resamples", "metrics", "levels", "table", "pairs", "profiles", "over_tasks")
        return plain({name: getattr(self, name) for name in (*names, "left_out", "notes")})

    def plot(self, path: Path | str) -> Path:
        """Draws curves, final levels and profiles with their intervals as a PNG; the path it was written to.

        Raises: WriteFailed if the disk refuses it.
        """
        from engram.comparison.picture import plot

        return plot(self, Path(path))

    def html(self, path: Path | str) -> Path:
        """Writes one page with the table and the picture, which asks for no other file; its path.

        Raises: WriteFailed if the disk refuses it.
        """
        from engram.comparison.page import write

        return write(self, Path(path))

    def __str__(self) -> str:
        from engram.comparison.report import lines

        return "\n".join(lines(self))

    def interval(self, statistic: Callable[[Scores], Value], scores: Scores) -> tuple[Value, Value]:
        """The bootstrap's interval by a generator of its own, so that it depends on no other group."""
        return stats.bootstrap(statistic, scores, np.random.default_rng(self.seed), self.resamples)

    # -- one environment ---------------------------------------------------------------------------------------------

    def _levels(self, env: str) -> dict[str, Any]:
        """Where the curves of an environment begin, and the reference that steps are counted to."""
        groups, given = self.of(env), _of(self._reference, env)
        start = float(np.mean([curve.values[0] for group in groups for curve in group.curves]))
        best = max(groups, key=lambda group: float(stats.iqm([_finals(group)])))
        reference = float(given) if given is not None else float(stats.iqm([_finals(best)]))
        of = None if given is not None else best.agent
        levels = {str(share): start + share / 100 * (reference - start) for share in SHARES}
        return {"start": start, "reference": reference, "of": of, "levels": levels}

    def _row(self, group: Group) -> dict[str, Any]:
        tenths = np.array([learning.last_tenth(curve, group.until) for curve in group.curves])
        areas = np.array([learning.area(curve, group.until) for curve in group.curves])
        row: dict[str, Any] = {"env": group.env, "agent": group.agent, "seeds": len(group.curves)}
        row |= {"steps": group.until, "runs": list(dict.fromkeys(str(curve.folder) for curve in group.curves))}
        for name, scores in (("final", _finals(group)), ("area", areas), ("converged", tenths[:, 0])):
            row |= self._aggregates(name, [scores])
        row |= {"spread": float(tenths[:, 1].mean()), "spread_over_seeds": float(tenths[:, 0].std(ddof=1))}
        at = self.levels[group.env]
        for share, level in at["levels"].items():
            risen = at["reference"] > at["start"]
            each = [learning.steps_to(curve, level if risen else math.inf, group.until) for curve in group.curves]
            middle = float(np.median(each)) if sum(map(math.isfinite, each)) > len(each) / 2 else math.inf
            row |= {f"steps_to_{share}": middle, f"reached_{share}": sum(map(math.isfinite, each))}
        return row

    def _aggregates(self, name: str, scores: Scores) -> dict[str, float]:
        found = {}
        for kind, statistic in AGGREGATES.items():
            low, high = self.interval(statistic, scores)
            found[f"{name}_{kind}"] = float(statistic(scores))
            found |= {f"{name}_{kind}_low": float(low), f"{name}_{kind}_high": float(high)}
        return found

    def _pairs(self, scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
        found = []
        for agent, other in combinations(scores, 2):
            generator = np.random.default_rng(self.seed)
            low, high = stats.improvement_interval(scores[agent], scores[other], generator, self.resamples)
            share = stats.improvement(scores[agent], scores[other])
            found.append({"agent": agent, "other": other, "probability": share, "low": low, "high": high})
        return found

    def _profile(self, scores: Mapping[str, Scores]) -> dict[str, Any]:
        flat = np.concatenate([task for tasks in scores.values() for task in tasks])
        thresholds = np.linspace(flat.min(), flat.max(), THRESHOLDS)
        found: dict[str, Any] = {"thresholds": thresholds.tolist(), "agents": {}}
        statistic = partial(stats.profile, thresholds=thresholds)
        for agent, tasks in scores.items():
            low, high = self.interval(statistic, tasks)
            share = statistic(tasks)
            found["agents"][agent] = {"share": share.tolist(), "low": low.tolist(), "high": high.tolist()}
        return found

    # -- several -----------------------------------------------------------------------------------------------------

    def _over_tasks(self, finals: Mapping[tuple[str, str], Array], normalize: Normalize) -> dict[str, Any] | None:
        """Final levels of normalised environments together, for the agents that were run on every one of them."""
        bounds = self._bounds(finals, normalize)
        if bounds is None:
            return None
        agents = sorted({agent for _, agent in finals})
        kept: dict[str, Scores] = {}
        for agent in agents:
            if missing := [env for env in bounds if (env, agent) not in finals]:
                self.left_out.append(f"{agent} is not averaged over environments: it has no runs on {missing[0]}")
            else:
                kept[agent] = [(finals[env, agent] - low) / (high - low) for env, (low, high) in bounds.items()]
        if not kept:
            return None
        if len({len(task) for tasks in kept.values() for task in tasks}) > 1:
            self.notes.append(
                "numbers of seeds differ: in the IQM over environments, one with more of them weighs more"
            )
        table = [{"agent": agent} | self._aggregates("final", tasks) for agent, tasks in kept.items()]
        scales = {env: list(pair) for env, pair in bounds.items()}
        return {"scales": scales, "table": table, "pairs": self._pairs(kept), "profile": self._profile(kept)}

    def _bounds(self, finals: Mapping[tuple[str, str], Array], normalize: Normalize) -> dict[str, Pair] | None:
        """What is 0 and what is 1 on each environment; None where environments are not put together."""
        if normalize is None:
            if len(self._tasks) > 1:
                self.notes.append(
                    f"the {len(self._tasks)} environments are not averaged, as their scores have different scales; "
                    f"give --normalize minmax, or --normalize ENV=LOW,HIGH for each"
                )
            return None
        _check_normalize(normalize, self._tasks)
        found: dict[str, Pair] = {}
        for env in self._tasks:
            if normalize == MINMAX:
                flat = np.concatenate([scores for (there, _), scores in finals.items() if there == env])
                pair = float(flat.min()), float(flat.max())
            else:
                given = _of(normalize, env)
                pair = None if given is None else (float(given[0]), float(given[1]))
            if pair is None:
                self.left_out.append(f"{env} is not averaged: it has no LOW,HIGH; add --normalize '{env}=LOW,HIGH'")
            elif pair[0] == pair[1]:
                self.left_out.append(f"{env} is not averaged: all its final returns are {pair[0]:.4g}")
            else:
                found[env] = pair
        if normalize == MINMAX and found:
            self.notes.append(
                "over environments, 0 is the lowest and 1 the highest final return of any seed compared here, so that "
                "these numbers change with what is compared"
            )
        return found or None

    def _warn(self) -> None:
        fewest = min(len(group.curves) for group in self.groups)
        if fewest < SEEDS_ENOUGH:
            self.notes.append(
                f"{fewest} seeds are few: the bootstrap's 95 % intervals are too narrow (3 seeds: they hold the true "
                f"mean in 3 of 4 cases, 5 seeds: in 5 of 6)"
            )


def _finals(group: Group) -> Array:
    return np.array([learning.final(curve, group.until) for curve in group.curves])


def _of(given: Any, env: str) -> Any:
    """What was given for an environment: by its whole name, by its id, or for all."""
    if not isinstance(given, Mapping):
        return given
    return given.get(env, given.get(env.split(" ")[0]))


def _known(given: Any, tasks: Sequence[str], what: str) -> None:
    """Raises UnknownName for an environment that no run is of."""
    known = [*tasks, *(env.split(" ")[0] for env in tasks)]
    for env in given if isinstance(given, Mapping) else ():
        if env not in known:
            raise UnknownName(f"{what} is given for {env!r}, and no run is of it; {hint(env, known)}")


def _check_normalize(normalize: Any, tasks: Sequence[str]) -> None:
    _known(normalize, tasks, "normalize")
    pairs = normalize.values() if isinstance(normalize, Mapping) else [] if normalize == MINMAX else [normalize]
    for pair in pairs:
        try:
            low, high = map(float, pair)
            right = math.isfinite(low) and math.isfinite(high) and low < high
        except (TypeError, ValueError):
            right = False
        if not right:
            raise SpecError(f"normalize is {pair!r}; give two numbers, the lower first, or {MINMAX!r}")


# -- what engram.compare does ----------------------------------------------------------------------------------------


def compare(
    runs: Path | str | Sequence[Path | str],
    *,
    reference: Reference = None,
    normalize: Normalize = None,
    test_env: str | None = None,
    test_env_args: Mapping[str, Any] | None = None,
    episodes: int = 20,
    trust: bool = False,
    seed: int = 0,
    resamples: int = stats.RESAMPLES,
) -> Comparison:
    """Compares runs by their logs: learning speed, convergence, final level, and generalisation where it is asked for.

    Runs that differ in nothing but their seed are a group. Runs that cannot be compared are left out and told in
    `Comparison.left_out`. Greedy evaluations are used where every run has them, else returns of training.

    Args:
      runs: run directories, or folders of runs or of seeds.
      reference: the return whose 50 and 90 % are to be reached, for all environments or for each by name. They are
        counted from where the curves begin, on average. By default the final level of the best group.
      normalize: what is 0 and what is 1 where environments are averaged: (low, high), a pair for each environment by
        name, or "minmax", the extremes of all groups. Without it environments are not averaged.
      test_env: an environment to play in beside that of training, with `test_env_args` for its constructor; these
        alone change arguments of that of training. It is what loads JAX.
      episodes: how many each seed plays in each of the two. trust: as for `engram.load`.
      seed: of the bootstrap. resamples: of the bootstrap.

    Raises: CheckpointError for a path without a run, SpecError where nothing is left to compare.
    """
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    _check_whole(seed=(seed, 0), resamples=(resamples, 1), episodes=(episodes, 1))
    if not paths:
        raise SpecError("no run was given; give run directories, or a folder of runs")
    _check_reference(reference)
    found = find([Path(path) for path in paths])
    comparison = Comparison(found, reference, normalize, seed, resamples)
    if test_env is not None or test_env_args:
        _generalise(comparison, episodes, trust, {"env": test_env, "env_args": test_env_args or None})
    return comparison


def _check_whole(**given: tuple[Any, int]) -> None:
    for name, (value, least) in given.items():
        if type(value) is not int or value < least:
            raise SpecError(f"{name} is {value!r}; give a whole number, at least {least}")


def _check_reference(reference: Reference) -> None:
    for value in reference.values() if isinstance(reference, Mapping) else [reference]:
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not known:
            raise SpecError(f"reference is {value!r}; give a number, or a number for each environment by name")


def _generalise(comparison: Comparison, episodes: int, trust: bool, elsewhere: Mapping[str, Any]) -> None:
    """Adds to the table what each seed's agent plays in its own environment, and in another."""
    from engram.run.stored import load

    for group, row in zip(comparison.groups, comparison.table, strict=True):
        train: list[float] = []
        test: list[float] = []
        for folder in dict.fromkeys(curve.folder for curve in group.curves):
            seeds = [curve.seed for curve in group.curves if curve.folder == folder]
            try:
                with load(folder, trust=trust) as agent:
                    there = agent.evaluate(episodes, **elsewhere).per_seed
                    here = agent.evaluate(episodes).per_seed
                    first = agent.plan.seed
            except EngramError as error:
                comparison.left_out.append(f"{folder} is left out of generalisation: {error}")
                continue
            train += [here[one - first] for one in seeds]
            test += [there[one - first] for one in seeds]
        if len(train) < 2:
            continue
        row |= {"train_return": float(np.mean(train)), "test_return": float(np.mean(test))}
        gaps = [np.array(train) - np.array(test)]
        low, high = comparison.interval(stats.mean, gaps)
        row |= {"gap_mean": float(stats.mean(gaps)), "gap_mean_low": float(low), "gap_mean_high": float(high)}
