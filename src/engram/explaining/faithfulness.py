"""Faithfulness: whether what was looked at is what mattered, measured by removing it, against chance.

A subject has cases, one for each sampled step: items with weights (remembered entries, steps of the episode, parts of
the input), and a way to choose again without some of them. How far the margin between the chosen action and the
runner-up moves is the effect, whichever way it moves.

Deletion removes 1, 2, 4, ... items in the order of their weights. The area is the mean effect over these sizes. With
the areas of random orders and of the best order that was found, mostly the one by leave-one-out,

    score = (ours - random) / (best - random)

summed over steps, each in units of its best area. 0 is chance, 1 as good as can be, negative is misleading.
Insertion begins with nothing and adds the items.

Steps of one episode are alike. So the bootstrap draws whole episodes, or where they are few, blocks of steps that
follow each other. The interval is so many of its standard errors as Student's t says of so few groups.

Sources: Samek et al. 2017 and Petsiuk et al. 2018 for deletion and insertion; Adebayo et al. 2018 for shuffled weights
and layers drawn anew; Jain & Wallace 2019 for the agreement of attention with leave-one-out; Cameron, Gelbach & Miller
2008 for a bootstrap over few groups.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import kendalltau, t

from engram.explaining.moments import Curve, Faithful

ORDERS = 32  # random orders that a case is compared with
SHUFFLES = 8  # of the weights
RESAMPLES = 2000  # of the bootstrap
FEWEST = 8  # steps from which an interval is told
FEWEST_EPISODES = 5  # from which whole episodes are drawn
CLEAR = 0.2  # a score is called faithful where its whole interval lies above
NO_AREA = 1e-9  # above chance, of all cases together: below, there is nothing to divide by
NOTHING = 1e-4  # of the spread of the preferences: effects below are rounding

FAITHFUL = "attention predicts what mattered here"
WEAK = "attention predicts a little of what mattered here"
NOT_SHOWN = "not shown: treat the highlights as decoration"
MISLEADING = "misleading: what was looked at most mattered less than chance"
INVALID = "the measurement is invalid: shuffled weights score as well"
UNLEARNED = "not shown: layers drawn anew order the items as well"
TOO_FEW = "not shown: too few steps to measure"
NO_EFFECT = "not shown: nothing that was looked at moved the choice"


class Case(NamedTuple):
    """One step."""

    weights: Float[np.ndarray, "items"]
    action: int
    runner_up: int
    fresh: Float[np.ndarray, "items"] | None = None  # weights that layers drawn anew give the same items
    place: tuple[int, int] = (0, 0)  # episode, step


class Subject(Protocol):
    """What is tested. Masks are True where an item is removed; those past a case's own items mean nothing."""

    @property
    def what(self) -> str:
        """One of "memories", "history" and "input"."""
        ...

    @property
    def cases(self) -> Sequence[Case]: ...

    def without(
        self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]
    ) -> Float[np.ndarray, "asked actions"]:
        """The preferences in these cases, without the items that are removed."""
        ...

    def only(
        self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]
    ) -> Float[np.ndarray, "asked actions"] | None:
        """The preferences with nothing but the items that are not removed; None where this cannot be asked."""
        ...


class _Measured(NamedTuple):
    """What one case came to. Leading axis of effects: sizes."""

    ours: Float[np.ndarray, "sizes"]
    least: Float[np.ndarray, "sizes"]
    oracle: Float[np.ndarray, "sizes"]
    random: Float[np.ndarray, "orders sizes"]
    shuffled: float  # mean area
    fresh: float | None
    margin: float  # with all items
    matters: bool  # whether anything does
    left: Float[np.ndarray, "named+orders sizes"]  # the margin itself: of ours, least, oracle, then of random orders


def measure(subject: Subject, random: np.random.Generator, orders: int = ORDERS) -> Faithful:
    """Deletion, insertion, agreement with leave-one-out, and both controls of sanity."""
    kept = [number for number, case in enumerate(subject.cases) if len(case.weights) > 1]
    if not kept:
        return _none(subject.what)
    alone = _leave_one_out(subject, kept)
    sizes = _sizes(max(len(subject.cases[number].weights) for number in kept))
    drawn = {number: _orders(subject.cases[number], alone[number], random, orders) for number in kept}
    deletion = _walk(subject, subject.without, kept, drawn, sizes, inserted=False)
    assert deletion is not None
    curves = [_curve(subject.what, "deletion", sizes, deletion[0])]
    insertion = _walk(subject, subject.only, kept, drawn, sizes, inserted=True)
    notes = [f"{orders} random orders; removed at once: {', '.join(map(str, sizes))}"]
    if insertion is not None:
        curves.append(_curve(subject.what, "insertion", sizes, insertion[0]))
        notes.append(f"insertion scores {_score(insertion[0]):.2f}")
    return _judged(subject, deletion, alone, kept, curves, notes, random)


# -- choosing again --------------------------------------------------------------------------------------------------


class _Alone(NamedTuple):
    """Each item of a case left out once."""

    effects: Float[np.ndarray, "items"]  # absolute
    margin: float
    spread: float  # of the preferences
    preferred: int


def _margins(cases: Sequence[Case], which: Int[np.ndarray, "asked"], found: np.ndarray) -> np.ndarray:
    actions = np.array([(cases[number].action, cases[number].runner_up) for number in which])
    rows = np.arange(len(which))
    return found[rows, actions[:, 0]].astype(np.float64) - found[rows, actions[:, 1]]


def _leave_one_out(subject: Subject, kept: Sequence[int]) -> dict[int, _Alone]:
    cases, most = subject.cases, max(len(case.weights) for case in subject.cases)
    which, masks = [], []
    for number in kept:
        items = len(cases[number].weights)
        which += [number] * (items + 1)
        masks += [np.zeros((1, most), bool), np.eye(items, most, dtype=bool)]
    asked = np.array(which)
    found = subject.without(asked, np.concatenate(masks))
    margins, result, place = _margins(cases, asked, found), {}, 0
    for number in kept:
        items = len(cases[number].weights)
        here, whole = margins[place : place + items + 1], found[place]
        finite = whole[np.isfinite(whole)]
        spread = float(np.abs(finite).max()) if finite.size else 0.0
        result[number] = _Alone(np.abs(here[1:] - here[0]), float(here[0]), spread, int(whole.argmax()))
        place += items + 1
    return result


class _Orders(NamedTuple):
    """Orders of one case's items, first the ones to be removed first."""

    named: dict[str, Int[np.ndarray, "items"]]
    random: list[Int[np.ndarray, "items"]]
    shuffled: list[Int[np.ndarray, "items"]]

    @property
    def all(self) -> list[Int[np.ndarray, "items"]]:
        return [*self.named.values(), *self.random, *self.shuffled]


def _orders(case: Case, alone: _Alone, random: np.random.Generator, orders: int) -> _Orders:
    items = len(case.weights)

    def falling(numbers: np.ndarray) -> np.ndarray:
        """Largest first, equal ones in a random order."""
        return np.lexsort((random.random(items), -numbers))

    named = {"ours": falling(case.weights), "least": falling(-case.weights), "oracle": falling(alone.effects)}
    if case.fresh is not None:
        named["fresh"] = falling(case.fresh)
    shuffled = [falling(random.permutation(case.weights)) for _ in range(SHUFFLES)]
    return _Orders(named, [random.permutation(items) for _ in range(orders)], shuffled)


def _sizes(items: int) -> list[int]:
    """1, 2, 4, ... below the number of items."""
    return [1 << power for power in range(max(1, (items - 1).bit_length()))]


def _walk(
    subject: Subject,
    ask: Callable[[np.ndarray, np.ndarray], np.ndarray | None],
    kept: Sequence[int],
    drawn: dict[int, _Orders],
    sizes: list[int],
    inserted: bool,
) -> tuple[list[_Measured], float] | None:
    """What each case came to, and the share of cases whose choice changes by the first item."""
    cases, most = subject.cases, max(len(case.weights) for case in subject.cases)
    masks = {number: _masks(drawn[number].all, sizes, most, inserted) for number in kept}
    asked = np.concatenate([np.full(len(masks[number]), number) for number in kept])
    found = ask(asked, np.concatenate([masks[number] for number in kept]))
    if found is None:
        return None
    margins, place, results, flips = _margins(cases, asked, found), 0, [], []
    for number in kept:
        here = slice(place, place + len(masks[number]))
        begin, end, *moved = margins[here]
        way, rest = np.abs(np.array(moved) - begin), np.abs(np.array(moved) - end)
        effects = (abs(end - begin) - rest if inserted else way).reshape(-1, len(sizes))
        finite = found[here][:2][np.isfinite(found[here][:2])]
        spread = float(np.abs(finite).max(initial=0.0))
        left = np.array(moved).reshape(-1, len(sizes))
        results.append(_measured(drawn[number], effects, left, end if inserted else begin, spread))
        flips.append(found[here][2].argmax() != found[here][0].argmax())
        place = here.stop
    return results, float(np.mean(flips))


def _masks(
    orders: Sequence[np.ndarray], sizes: list[int], most: int, inserted: bool
) -> Bool[np.ndarray, "asked items"]:
    """Before the first item, after the last one, and after so many of each order."""
    items = len(orders[0])
    ends = [_mask(orders[0], size, most, inserted) for size in (0, items)]
    return np.array([*ends, *(_mask(order, size, most, inserted) for order in orders for size in sizes)])


def _mask(order: np.ndarray, size: int, most: int, inserted: bool) -> np.ndarray:
    """Which items are removed: the first `size` of the order, or when inserting all but those."""
    mask = np.zeros(most, bool)
    mask[order[:size]] = True
    if inserted:
        mask[: len(order)] = ~mask[: len(order)]
    return mask


def _measured(orders: _Orders, effects: np.ndarray, left: np.ndarray, margin: float, spread: float) -> _Measured:
    named = dict(zip(orders.named, effects, strict=False))
    at, end = len(named), len(named) + len(orders.random)
    fresh = float(named["fresh"].mean()) if "fresh" in named else None
    matters = float(np.abs(effects).max(initial=0.0)) > NOTHING * max(spread, 1e-6)
    return _Measured(
        ours=named["ours"],
        least=named["least"],
        oracle=named["oracle"],
        random=effects[at:end],
        shuffled=float(effects[end:].mean()),
        fresh=fresh,
        margin=margin,
        matters=matters,
        left=np.concatenate([left[:3], left[at:end]]),
    )


# -- judging ---------------------------------------------------------------------------------------------------------


def _parts(measured: _Measured, area: float) -> tuple[float, float]:
    """An order above chance, and the best one above chance, in units of the best one's area; 0 where nothing matters.

    Items may stand in for each other, or only work together. So the order by leave-one-out need not be the best.
    """
    known = [measured.oracle.mean(), measured.ours.mean(), measured.least.mean(), *measured.random.mean(1)]
    best = float(max(known))
    if not measured.matters or best <= 0:
        return 0.0, 0.0
    chance = float(measured.random.mean())
    return (area - chance) / best, (best - chance) / best


def _score(cases: Sequence[_Measured]) -> float:
    parts = np.array([_parts(one, float(one.ours.mean())) for one in cases])
    return float(_ratio(parts))


def _ratio(parts: np.ndarray) -> np.ndarray:
    """Of rows [..., cases, 2], the sum of the first column over that of the second; 0 where there is nothing."""
    above, best = np.moveaxis(parts.sum(-2), -1, 0)
    return np.where(best > NO_AREA, above / np.maximum(best, NO_AREA), 0.0)


class _Groups(NamedTuple):
    """What the bootstrap draws: which cases belong together."""

    members: list[Int[np.ndarray, "cases"]]
    note: str

    @classmethod
    def of(cls, places: Sequence[tuple[int, int]]) -> "_Groups":
        """Whole episodes, or blocks of the steps of each where there are few episodes."""
        order = sorted(range(len(places)), key=lambda case: places[case])
        episodes = [
            np.array([case for case in order if places[case][0] == number])
            for number in sorted({episode for episode, _ in places})
        ]
        if len(episodes) >= FEWEST_EPISODES:
            return cls(episodes, f"interval: of {len(episodes)} episodes, drawn as a whole")
        block = max(2, round(len(places) ** (1 / 3)))
        blocks = [part for one in episodes for part in np.array_split(one, max(1, len(one) // block))]
        count = "one episode" if len(episodes) == 1 else f"{len(episodes)} episodes only"
        return cls(blocks, f"{count}: the interval is of {len(blocks)} blocks of steps, and says little of others")


def _interval(
    random: np.random.Generator, statistic: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, groups: _Groups
) -> tuple[float, float]:
    """95 %, by the standard error of a bootstrap over groups of cases, which are the first axis of `rows`.

    `statistic` is of sums: groups of different sizes weigh by what they sum to.
    """
    sums = np.array([rows[members].sum(0) for members in groups.members])
    count = len(sums)
    middle, drawn = float(statistic(sums)), random.integers(0, count, (RESAMPLES, count))
    if count < 2:
        return -np.inf, np.inf
    students = float(t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1)))
    reach = students * float(statistic(sums[drawn]).std())
    return middle - reach, middle + reach


def _judged(
    subject: Subject,
    deletion: tuple[list[_Measured], float],
    alone: dict[int, _Alone],
    kept: Sequence[int],
    curves: list[Curve],
    notes: list[str],
    random: np.random.Generator,
) -> Faithful:
    measured, flips = deletion
    parts = np.array([_parts(one, float(one.ours.mean())) for one in measured])
    shuffled = float(_ratio(np.array([_parts(one, one.shuffled) for one in measured])))
    fresh = None
    if all(one.fresh is not None for one in measured):
        fresh = float(_ratio(np.array([_parts(one, one.fresh or 0.0) for one in measured])))
    groups = _Groups.of([subject.cases[number].place for number in kept])
    score, interval = float(_ratio(parts)), _interval(random, _ratio, parts, groups)
    taus = np.array([(_tau(subject.cases[number].weights, alone[number].effects), 1.0) for number in kept])
    verdict = judged(score, interval, shuffled, len(measured), any(one.matters for one in measured))
    if fresh is not None and fresh > CLEAR and fresh > score / 2:
        notes = [*notes, "layers drawn anew order the items much alike: the order owes little to what was learned"]
        anew = np.array([_parts(one, one.fresh or 0.0) for one in measured])
        better = np.stack([parts[:, 0] - anew[:, 0], parts[:, 1]], 1)  # the same units, so the scores' difference
        if verdict in (FAITHFUL, WEAK) and _interval(random, _ratio, better, groups)[0] <= 0:
            verdict = UNLEARNED
    return Faithful(
        what=subject.what,
        score=score,
        interval=interval,
        agreement=float(_ratio(taus)),
        agreement_interval=_interval(random, _ratio, taus, groups),
        shuffled=shuffled,
        reinitialised=fresh,
        flips=flips,
        samples=len(measured),
        verdict=verdict,
        curves=curves,
        notes=[*notes, groups.note],
    )


def judged(score: float, interval: tuple[float, float], shuffled: float, samples: int, matters: bool = True) -> str:
    """The words for a score."""
    if samples < FEWEST:
        return TOO_FEW
    if not matters:
        return NO_EFFECT
    low, high = interval
    if high < 0:
        return MISLEADING
    if low <= 0:
        return NOT_SHOWN
    if abs(shuffled) > CLEAR and shuffled > score / 2:
        return INVALID
    return FAITHFUL if low > CLEAR else WEAK


def _tau(weights: np.ndarray, effects: np.ndarray) -> float:
    """Kendall's tau; 0 where one of the two is the same for all items."""
    found: Any = kendalltau(weights, effects)
    tau = float(found.statistic)
    return 0.0 if np.isnan(tau) else tau


def _curve(what: str, way: str, sizes: list[int], cases: Sequence[_Measured]) -> Curve:
    """Mean margins as shares of the whole one, with their sign: above 1 where what is left prefers the choice more."""
    margin = float(np.mean([one.margin for one in cases]))
    margin = np.copysign(max(abs(margin), 1e-9), margin)
    left = np.mean([one.left for one in cases], axis=0) / margin
    low, high = np.percentile(left[3:], (2.5, 97.5), axis=0)
    return Curve(
        what=what,
        way=way,
        sizes=sizes,
        ours=left[0].tolist(),
        random=left[3:].mean(0).tolist(),
        random_interval=list(zip(low.tolist(), high.tolist(), strict=True)),
        least=left[1].tolist(),
        oracle=left[2].tolist(),
    )


def _none(what: str) -> Faithful:
    return Faithful(
        what, None, None, None, None, None, None, None, 0, TOO_FEW, [], ["no step had two items to compare"]
    )
