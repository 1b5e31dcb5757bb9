"""What may be said of a few seeds: the rule for claims, and the numbers that it rests on.

The rule, the same for all tables and figures:

1. A score is a **mean over seeds** with a 95 % percentile bootstrap interval over seeds, and n. One seed has no
   interval, and nothing is claimed of it.
2. An **aggregate over tasks** resamples seeds within each task (stratified), never tasks; scores are first put on one
   scale, 0 at the task's trivial floor and 1 at its ceiling.
3. A **claim** compares two variants seed by seed: differences on common seeds, at least three for each task, on the
   same data at the same scale. ``supported``: both the bootstrap interval of the mean difference and Student's t
   interval lie above 0; ``contradicted``: both below; ``undecided``: one of them holds 0; ``not tested``: there are too
   few seeds, or the runs are not comparable. A claim of "as good as" names a margin, and the intervals are held against
   minus this margin instead of 0.
4. A **share of right answers held against a fixed one** needs Wilson's interval over all prompts on the same side, too:
   seeds that all find 2 keys of 2 agree perfectly, and six prompts prove little (:func:`reaches`).
5. An entry of a table is **bold** only if its interval overlaps with no other's; none is where an entry has one seed.

Why two intervals: the bootstrap of three values never leaves their range. It covers the true mean of a normal
distribution in some 75 % of cases, not 95, and where there is no difference at all it alone would decide one claim in
four (three differences of one sign). Student's interval errs in one of twenty at any number of seeds where scores are
near normal, and pays for it where seeds are few: a difference over three seeds must be two and a half times its
standard deviation. Scores of a few prompts are coarser than that: seeds may agree by chance. The test-suite simulates
all three. Figures show the bootstrap interval.

All draws are the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from experiments.results import LEVEL, bootstrap, wilson

MIN_SEEDS = 3
_DRAWS = 10_000

#: The 97.5 % quantile of Student's t with 1, 2, ... 30 degrees of freedom. (scipy, which knows it, is 140 MB more.)
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

Floats = NDArray[np.float64]
Value = Literal["supported", "contradicted", "undecided", "not tested"]
Statistic = Literal["mean", "iqm"]


class Interval(NamedTuple):
    """A mean, or another statistic, with its 95 % interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """The mean of paired differences, its interval, and how large it is beside the spread of seeds."""

    mean: float
    low: float
    high: float
    n: int
    """Pairs; over several tasks, those of the task that has the fewest."""
    effect: float
    """Hedges' g: difference over pooled standard deviation, times 1 - 3 / (4 df - 1). NaN where it is not defined."""
    student: float
    """Half the width of Student's 95 % interval around the mean. NaN where a task has one pair."""


class Verdict(NamedTuple):
    """What a comparison says of a claim."""

    value: Value
    reason: str
    difference: Difference | None


def mean_interval(values: ArrayLike) -> Interval:
    """The mean over seeds and its interval; what is no number is left out."""
    scores = _finite(values)
    if not len(scores):
        return Interval(math.nan, math.nan, math.nan, 0)
    if len(scores) == 1:
        return Interval(float(scores[0]), math.nan, math.nan, 1)
    return Interval(float(scores.mean()), *bootstrap(scores.tolist()), len(scores))


def intervals(frame: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """One row for each group, in order of appearance: columns ``by``, then ``mean, low, high, n``.

    Args:
        frame: one row a seed in each group.
        value: column of scores.
        by: columns of groups.
    """
    rows = []
    for key, group in frame.groupby(list(by), sort=False, dropna=False):
        rows.append([*key, *mean_interval(group[value])])
    return pd.DataFrame(rows, columns=[*by, *Interval._fields])


def count_text(counts: Iterable[float]) -> str:
    """Numbers of seeds as figures and captions write them: ``3``, or ``1 to 3`` where they differ."""
    ends = sorted({int(count) for count in counts}) or [0]
    return str(ends[0]) if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"


def interval_text(
    found: Interval, *, percent: bool = False, digits: int | None = None, with_n: bool = False, none: str = ""
) -> str:
    """``mean (low to high)``, as every table writes it; the mean alone for one seed.

    Args:
        found: the mean with its interval.
        percent: of a share.
        digits: behind the point; default: 1 in per cent, else 3.
        with_n: put ``, n = 3`` behind it.
        none: what stands for no seeds.
    """
    if not found.n:
        return none
    digits = (1 if percent else 3) if digits is None else digits
    mean, low, high = (f"{100 * value if percent else value:.{digits}f}" for value in found[:3])
    span = "" if math.isnan(found.low) else f" ({low} to {high})"
    return f"{mean}{span}{f', n = {found.n}' if with_n else ''}"


def interquartile_mean(values: ArrayLike, axis: int = -1) -> Floats:
    """The mean without the lowest and the highest quarter of the values (a whole number of them, rounded down)."""
    ordered = np.sort(np.asarray(values, dtype=float), axis=axis)
    count = ordered.shape[axis]
    return np.take(ordered, range(count // 4, count - count // 4), axis=axis).mean(axis=axis)


def normalise(score: ArrayLike, floor: ArrayLike, ceiling: ArrayLike) -> Floats:
    """0 at the floor, 1 at the ceiling; for a loss the floor is the larger number.

    Raises:
        ValueError: a floor is missing, or equal to its ceiling.
    """
    low, high = np.asarray(floor, dtype=float), np.asarray(ceiling, dtype=float)
    if not np.isfinite(low).all() or not np.isfinite(high).all():
        raise ValueError("a task without floor or ceiling cannot be normalised: leave it out, or give both")
    if (low == high).any():
        raise ValueError("floor and ceiling are the same number: there is nothing to normalise by")
    return (np.asarray(score, dtype=float) - low) / (high - low)


def headline(runs: pd.DataFrame) -> pd.Series:
    """The score on the test split that each run's task is judged by, whichever metric that is."""
    scores = [row[f"test/{row['metric']}"] for row in runs.to_dict("records")]
    return pd.Series(scores, index=runs.index, dtype=float, name="score")


def normalised(runs: pd.DataFrame, *, ceilings: Mapping[str, float] | None = None) -> pd.Series:
    """The headline on the test split of each run, 0 at its task's trivial floor and 1 at its ceiling.

    Args:
        runs: as :func:`analysis.studies.load_study` gives them.
        ceilings: by task; default: 1, for shares. A loss has none that is known.

    Raises:
        ValueError: a task has no floor, or is a loss without a ceiling.
    """
    given = dict(ceilings or {})
    for task in runs.loc[~runs["larger_is_better"].astype(bool), "task"].unique():
        if task not in given:
            raise ValueError(f"{task}: less is better, and there is no ceiling: give ceilings={{{task!r}: ...}}")
    ends = runs["task"].map(lambda task: given.get(task, 1.0))
    return pd.Series(normalise(headline(runs), runs["floor"], ends), index=runs.index, name="score")


def aggregate(frame: pd.DataFrame, value: str, *, statistic: Statistic = "mean") -> Interval:
    """One number for several tasks, with its interval by resampling seeds within each task.

    Args:
        frame: columns ``task`` and ``value``, one row for each task and seed.
        value: scores on one scale: see :func:`normalised`.
        statistic: ``mean`` of the tasks' means, or ``iqm``, the interquartile mean of all runs.

    Returns:
        n is that of the task that has the fewest seeds; with one seed somewhere there is no interval.
    """
    tasks = [_finite(rows[value]) for _, rows in frame.groupby("task", sort=True)]
    tasks = [scores for scores in tasks if len(scores)]
    if not tasks:
        return Interval(math.nan, math.nan, math.nan, 0)
    drawn = [scores[_draws(len(scores), place)] for place, scores in enumerate(tasks)]  # [draws, seeds] each
    if statistic == "iqm":
        centre, spread = interquartile_mean(np.concatenate(tasks)), interquartile_mean(np.concatenate(drawn, axis=1))
    else:
        centre = np.mean([scores.mean() for scores in tasks])
        spread = np.mean([sample.mean(axis=1) for sample in drawn], axis=0)
    fewest = min(map(len, tasks))
    low, high = _quantiles(spread) if fewest > 1 else (math.nan, math.nan)
    return Interval(float(centre), low, high, fewest)


def difference(first: pd.DataFrame, second: pd.DataFrame, value: str) -> Difference:
    """First less second, on common seeds of common tasks; over several tasks the mean of their means.

    Args:
        first: columns ``task, seed`` and ``value``, one row for each task and seed.
        second: likewise.
        value: column of scores.
    """
    keys = ["task", "seed"]
    pairs = first[[*keys, value]].merge(second[[*keys, value]], on=keys, suffixes=("_first", "_second")).dropna()
    if pairs.empty:
        return Difference(math.nan, math.nan, math.nan, 0, math.nan, math.nan)
    pairs = pairs.assign(gap=pairs[f"{value}_first"] - pairs[f"{value}_second"])
    found = aggregate(pairs, "gap")
    effects = [
        _hedges(rows[f"{value}_first"].to_numpy(float), rows[f"{value}_second"].to_numpy(float))
        for _, rows in pairs.groupby("task")
    ]
    return Difference(*found, float(np.mean(effects)), _student([rows["gap"] for _, rows in pairs.groupby("task")]))


def claim(
    better: pd.DataFrame,
    worse: pd.DataFrame,
    value: str,
    *,
    larger_is_better: bool = True,
    min_seeds: int = MIN_SEEDS,
    margin: float = 0.0,
    tasks: Sequence[str] = (),
) -> Verdict:
    """Whether one variant is better than another, by the rule at the top of this module.

    Args:
        better: runs of the variant that is said to be better: ``task, seed, scale, data_source`` and ``value``.
        worse: runs of the other.
        value: column of scores.
        larger_is_better: False for a loss.
        min_seeds: common seeds that each task must have.
        margin: by which it may be worse and still count as good as the other, in units of ``value``.
        tasks: that both must have runs on: a claim on the mean of two tasks is not decided by one of them.
    """
    if better.empty or worse.empty:
        return Verdict("not tested", "there are no runs of one side", None)
    lacking = [task for task in tasks if task not in set(better["task"]) & set(worse["task"])]
    if lacking:
        return Verdict("not tested", f"not both have runs on {', '.join(lacking)}", None)
    problem = _incomparable(better, worse)
    if problem:
        return Verdict("not tested", problem, None)
    found = difference(better, worse, value)
    if found.n < min_seeds:
        return Verdict("not tested", f"{found.n} common seeds, {min_seeds} are needed", found)
    unpaired = _unpaired_tasks(better, worse, value)
    if unpaired:
        return Verdict("not tested", f"no common seeds on {', '.join(unpaired)}", None)
    ends = min(found.low, found.mean - found.student), max(found.high, found.mean + found.student)
    low, high = ends if larger_is_better else (-ends[1], -ends[0])
    verdict: Value = "supported" if low > -margin else "contradicted" if high < -margin else "undecided"
    allowed = f", margin {margin:g}" if margin else ""
    student = f"t: {found.mean - found.student:.4g} to {found.mean + found.student:.4g}"
    text = f"difference {found.mean:.4g} ({found.low:.4g} to {found.high:.4g}; {student}){allowed}, n = {found.n}"
    return Verdict(verdict, text, found)


def reaches(scores: pd.DataFrame, value: str, share: float, *, margin: float = 0.0) -> Verdict:
    """Whether right answers reach a fixed share: by seeds as :func:`claim`, and by all prompts together.

    Args:
        scores: ``task, seed, scale, data_source``, ``value`` in 0 to 1, and ``n``, the prompts of each seed.
        value: column of shares.
        share: that is to be reached.
        margin: by which it may be missed.
    """
    found = claim(scores, scores.assign(**{value: share}), value, margin=margin)
    if found.value == "not tested":
        return found
    prompts = int(scores["n"].sum())
    mean = float(np.average(scores[value], weights=scores["n"]))
    low, high = wilson(mean, prompts)
    agrees = low > share - margin if found.value == "supported" else high < share - margin
    verdict: Value = found.value if agrees else "undecided"
    text = f"{100 * mean:.1f} % of {prompts:,} prompts (Wilson: {100 * low:.1f} to {100 * high:.1f} %)"
    return Verdict(verdict, f"{found.reason}; {text}", found.difference)


def bold(entries: Sequence[Interval], *, larger_is_better: bool = True) -> list[bool]:
    """Which entries of one column may be bold: the best, if its interval overlaps with no other's; else none."""
    none = [False] * len(entries)
    if len(entries) < 2 or any(entry.n < 2 for entry in entries):
        return none
    sign = 1 if larger_is_better else -1
    best = max(range(len(entries)), key=lambda place: sign * entries[place].mean)
    others = [entry for place, entry in enumerate(entries) if place != best]
    if larger_is_better:
        apart = all(entry.high < entries[best].low for entry in others)
    else:
        apart = all(entry.low > entries[best].high for entry in others)
    return [apart and place == best for place in range(len(entries))]


def ranks(frame: pd.DataFrame, value: str, *, larger_is_better: bool = True) -> pd.DataFrame:
    """Mean rank over tasks (1 is best, equals share theirs) with its interval by resampling seeds within each task.

    Args:
        frame: columns ``task, variant`` and ``value``, one row for each seed.
        value: column of scores.
        larger_is_better: False for a loss.

    Returns:
        Index ``variant``, columns ``mean, low, high, n``, the best first; n is the number of tasks. No interval where a
        variant has one seed on some task.

    Raises:
        ValueError: a variant lacks a task.
    """
    groups = {key: _finite(rows[value]) for key, rows in frame.groupby(["task", "variant"])}
    tasks, variants = (list(dict.fromkeys(frame[name])) for name in ("task", "variant"))
    for task in tasks:
        for variant in variants:
            if not len(groups.get((task, variant), ())):
                raise ValueError(f"ranks: {variant} has no run on {task}: leave one of them out")
    sign = -1 if larger_is_better else 1
    at, drawn = np.zeros(len(variants)), np.zeros((len(variants), _DRAWS))
    for row, task in enumerate(tasks):
        scores = [sign * groups[task, variant] for variant in variants]
        at += _rank(np.array([[each.mean()] for each in scores]))[:, 0]
        streams = range(row * len(variants), (row + 1) * len(variants))
        drawn += _rank(
            np.array([each[_draws(len(each), k)].mean(axis=1) for each, k in zip(scores, streams, strict=True)])
        )
    sure = all(len(scores) > 1 for scores in groups.values())
    rows = []
    for place in range(len(variants)):
        low, high = _quantiles(drawn[place] / len(tasks)) if sure else (math.nan, math.nan)
        rows.append(Interval(at[place] / len(tasks), low, high, len(tasks)))
    table = pd.DataFrame(rows, index=pd.Index(variants, name="variant"), columns=list(Interval._fields))
    return table.sort_values("mean", kind="stable")


def _rank(scores: Floats) -> Floats:
    """Ranks down the first axis of [variants, draws], 1 for the lowest; equals share the mean of theirs."""
    below = (scores[None] < scores[:, None]).sum(axis=1)
    equal = (scores[None] == scores[:, None]).sum(axis=1)
    return 1 + below + (equal - 1) / 2


def _incomparable(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """Why runs of two variants cannot be compared; empty if they can."""
    if set(first["task"]) != set(second["task"]):
        return "not the same tasks"
    both = pd.concat([first, second])
    if both["scale"].nunique() > 1:
        return f"different scales: {', '.join(sorted(map(str, both['scale'].unique())))}"
    for task, rows in both.groupby("task"):
        if rows["data_source"].nunique() > 1:
            return f"different data on {task}: {', '.join(sorted(map(str, rows['data_source'].unique())))}"
    return ""


def _unpaired_tasks(first: pd.DataFrame, second: pd.DataFrame, value: str) -> list[str]:
    """Tasks that no seed of both has: a mean of five tasks must not become one of four."""
    seeds = [set(map(tuple, frame.dropna(subset=[value])[["task", "seed"]].to_numpy())) for frame in (first, second)]
    return sorted(set(map(str, first["task"])) - {str(task) for task, _ in seeds[0] & seeds[1]})


def _hedges(first: Floats, second: Floats) -> float:
    """Hedges' g of two samples of equal size."""
    freedom = 2 * len(first) - 2
    if freedom < 2:
        return math.nan
    pooled = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return math.nan if pooled == 0 else float((first.mean() - second.mean()) / pooled * (1 - 3 / (4 * freedom - 1)))


def _student(tasks: Sequence[ArrayLike]) -> float:
    """Half the width of the 95 % interval of a mean of tasks' means, by Student's t (Welch and Satterthwaite's df)."""
    samples = [_finite(values) for values in tasks]
    if any(len(sample) < 2 for sample in samples):
        return math.nan
    errors = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    if not errors.any():
        return 0.0
    weights = errors**2 / np.array([len(sample) - 1 for sample in samples])
    freedom = int(errors.sum() ** 2 / weights.sum() + 1e-9)  # rounded down: rather too wide
    return _STUDENT[min(freedom, len(_STUDENT)) - 1] * math.sqrt(errors.sum()) / len(samples)


def _finite(values: ArrayLike) -> Floats:
    scores = np.asarray(values, dtype=float)
    return scores[np.isfinite(scores)]


def _quantiles(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@lru_cache(maxsize=256)
def _draws(n: int, stream: int) -> NDArray[np.int64]:
    """Which of n seeds each draw takes: [draws, n]. Streams are independent of each other; the first is bootstrap's."""
    generator = np.random.default_rng(stream)
    return generator.integers(0, n, size=(_DRAWS, n))
