"""Intervals, differences, ranks and verdicts against cases worked out by hand, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import (
    Interval,
    aggregate,
    bold,
    claim,
    difference,
    interquartile_mean,
    interval_text,
    intervals,
    mean_interval,
    normalise,
    normalised,
    ranks,
    reaches,
)
from experiments.results import bootstrap


def runs(scores: dict[str, list[float]], **labels: object) -> pd.DataFrame:
    """Scores by task, one for each seed."""
    rows = [
        {"task": task, "seed": seed, "scale": "laptop", "data_source": "made", "score": score, **labels}
        for task, values in scores.items()
        for seed, score in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_mean_has_its_interval_and_n() -> None:
    found = mean_interval([0.1, 0.2, 0.6, math.nan])
    assert found.mean == pytest.approx(0.3)
    assert found[1:] == (*bootstrap([0.1, 0.2, 0.6]), 3)
    assert (found.low, found.high) == pytest.approx((0.1, 0.6)), "1 draw in 27 takes the lowest three times"
    assert mean_interval([0.5])[0] == 0.5
    assert math.isnan(mean_interval([0.5]).low)
    assert mean_interval([]).n == 0


def test_means_and_intervals_as_text() -> None:
    one, three = mean_interval([0.5]), mean_interval([0.5, 0.5, 0.5])
    assert interval_text(one, percent=True) == "50.0"
    assert interval_text(one, with_n=True) == "0.500, n = 1"
    assert interval_text(three, percent=True) == "50.0 (50.0 to 50.0)"
    assert interval_text(three, digits=2, with_n=True) == "0.50 (0.50 to 0.50), n = 3"
    assert interval_text(mean_interval([]), none="not run") == "not run"


def test_groups_have_an_interval_each() -> None:
    frame = runs({"a": [0.0, 1.0], "b": [0.5]})
    table = intervals(frame, "score", ["task"])
    assert table[["task", "mean", "n"]].values.tolist() == [["a", 0.5, 2], ["b", 0.5, 1]]
    assert table["low"].isna().tolist() == [False, True]


def test_interquartile_mean_leaves_out_a_quarter_on_each_side() -> None:
    assert interquartile_mean([0, 1, 2, 100]) == 1.5
    assert interquartile_mean([-50, 0, 1, 2, 3, 4, 5, 900]) == 2.5
    assert interquartile_mean([1, 2, 6]) == 3


def test_normalised_scores_are_0_at_the_floor_and_1_at_the_ceiling() -> None:
    assert normalise([0.5, 0.75, 1.0], 0.5, 1.0).tolist() == [0, 0.5, 1]
    assert normalise([20.0, 15.0, 10.0], 20.0, 10.0).tolist() == [0, 0.5, 1], "a loss"
    with pytest.raises(ValueError, match="without floor"):
        normalise([0.5], math.nan, 1)
    with pytest.raises(ValueError, match="same number"):
        normalise([0.5], 1, 1)


def test_headlines_are_normalised_by_their_own_floor() -> None:
    table = pd.DataFrame(
        {
            "task": ["text", "copy"],
            "metric": ["accuracy", "loss"],
            "larger_is_better": [True, False],
            "floor": [0.5, 4.0],
            "test/accuracy": [0.75, None],
            "test/loss": [None, 3.0],
        }
    )
    assert normalised(table, ceilings={"copy": 0.0}).tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match="copy: less is better, and there is no ceiling"):
        normalised(table)


def test_an_aggregate_resamples_seeds_within_tasks() -> None:
    apart = runs({"a": [0.0, 0.0, 0.0], "b": [1.0, 1.0, 1.0]})
    assert aggregate(apart, "score") == Interval(0.5, 0.5, 0.5, 3), "tasks differ, seeds do not"
    spread = aggregate(runs({"a": [0.0, 1.0], "b": [0.5, 0.5]}), "score")
    assert spread == Interval(0.5, 0.25, 0.75, 2)
    assert aggregate(runs({"a": [0.0, 1.0], "b": [0.5]}), "score").n == 1
    assert aggregate(runs({"a": [0, 0, 1, 1], "b": [0, 1, 1, 9]}), "score", statistic="iqm").mean == 0.75


def test_differences_are_paired_by_seed() -> None:
    noisy = [0.1, 0.9, 0.4]
    found = difference(runs({"a": [score + 0.05 for score in noisy]}), runs({"a": noisy}), "score")
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.n == 3
    unequal = difference(runs({"a": [1.0, 2.0, 3.0, 9.0]}), runs({"a": [0.0, 0.0]}), "score")
    assert (unequal.n, unequal.mean) == (2, 1.5)


def test_the_effect_is_the_difference_over_the_pooled_deviation_corrected() -> None:
    found = difference(runs({"a": [2.0, 4.0, 6.0]}), runs({"a": [1.0, 2.0, 3.0]}), "score")
    assert found.effect == pytest.approx(2 / math.sqrt((4 + 1) / 2) * (1 - 3 / (4 * 4 - 1)))
    assert math.isnan(difference(runs({"a": [1.0, 1.0]}), runs({"a": [0.0, 0.0]}), "score").effect)


@pytest.mark.parametrize(
    ("first", "second", "larger", "value"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.5, 0.55], True, "supported"),
        ([0.5, 0.6, 0.7], [0.4, 0.5, 0.55], False, "contradicted"),
        ([0.4, 0.5, 0.55], [0.5, 0.6, 0.7], True, "contradicted"),
        ([0.5, 0.6, 0.7], [0.4, 0.5, 0.4], True, "undecided"),  # by Student's interval alone: -.05 to .35
        ([0.4, 0.7, 0.5], [0.5, 0.6, 0.7], True, "undecided"),
        ([0.5, 0.6], [0.4, 0.5], True, "not tested"),
    ],
)
def test_verdicts(first: list[float], second: list[float], larger: bool, value: str) -> None:
    verdict = claim(runs({"a": first}), runs({"a": second}), "score", larger_is_better=larger)
    assert verdict.value == value
    assert verdict.difference is not None


def test_what_is_not_comparable_is_not_tested() -> None:
    ours, theirs = runs({"a": [0.5, 0.6, 0.7]}), runs({"a": [0.1, 0.1, 0.1]})
    assert claim(ours, theirs.iloc[:0], "score").value == "not tested"
    assert claim(ours, theirs.assign(scale="smoke"), "score").reason == "different scales: laptop, smoke"
    assert claim(ours, theirs.assign(data_source="x"), "score").reason == "different data on a: made, x"
    assert claim(ours, theirs.assign(task="b"), "score").reason == "not the same tasks"
    more, other = runs({"a": [0.5, 0.6, 0.7], "b": [0.1, 0.1, 0.1]}), runs({"a": [0.1, 0.1, 0.1], "b": [0.9, 0.9, 0.9]})
    other.loc[other["task"] == "b", "seed"] += 5
    assert claim(more, other, "score").reason == "no common seeds on b", "a mean of two tasks is not that of one"
    assert claim(ours, theirs.assign(seed=[3, 4, 5]), "score").reason == "0 common seeds, 3 are needed"


def test_bold_needs_intervals_that_do_not_overlap() -> None:
    low, middle, high = Interval(0.1, 0.0, 0.2, 3), Interval(0.3, 0.15, 0.5, 3), Interval(0.9, 0.8, 1.0, 3)
    assert bold([low, middle, high]) == [False, False, True]
    assert bold([low, middle, high], larger_is_better=False) == [False, False, False]
    assert bold([low, high], larger_is_better=False) == [True, False]
    assert bold([low, high, Interval(0.5, math.nan, math.nan, 1)]) == [False] * 3
    assert bold([high]) == [False]


def test_ranks_by_hand() -> None:
    frames = [
        runs({"a": [3.0, 3.0], "b": [1.0, 1.0]}, variant="x"),
        runs({"a": [2.0, 2.0], "b": [1.0, 1.0]}, variant="y"),
        runs({"a": [1.0, 1.0], "b": [0.0, 0.0]}, variant="z"),
    ]
    table = ranks(pd.concat(frames), "score")
    assert table.index.tolist() == ["x", "y", "z"]
    assert table["mean"].tolist() == [1.25, 1.75, 3.0], "equals share ranks 1 and 2"
    assert table["low"].tolist() == table["high"].tolist() == [1.25, 1.75, 3.0]
    assert ranks(pd.concat(frames), "score", larger_is_better=False)["mean"].tolist() == [1.0, 2.25, 2.75]
    with pytest.raises(ValueError, match="z has no run on b"):
        ranks(pd.concat([*frames[:2], frames[2][frames[2]["task"] == "a"]]), "score")


def test_ranks_of_overlapping_scores_have_wide_intervals() -> None:
    frames = [runs({"a": [1.0, 4.0, 2.0]}, variant="x"), runs({"a": [2.0, 3.0, 1.0]}, variant="y")]
    table = ranks(pd.concat(frames), "score")
    assert (table["low"] == 1).all()
    assert (table["high"] == 2).all()


def test_draws_are_the_same_each_time() -> None:
    frame = runs({"a": [0.1, 0.5, 0.7, 0.2], "b": [0.3, 0.9, 0.1]})
    assert aggregate(frame, "score") == aggregate(frame, "score")


@pytest.mark.parametrize(("n", "least", "most"), [(3, 0.65, 0.85), (20, 0.87, 0.98)])
def test_the_interval_covers_the_mean_about_as_often_as_it_says(n: int, least: float, most: float) -> None:
    samples = np.random.default_rng(7).normal(size=(300, n))
    hits = sum(low <= 0 <= high for low, high in (mean_interval(sample)[1:3] for sample in samples))
    assert least <= hits / len(samples) <= most


@pytest.mark.parametrize("n", [3, 5, 10])
def test_claims_without_any_difference_are_rarely_decided(n: int) -> None:
    samples = np.random.default_rng(11).normal(size=(400, 2, n))
    decided = bootstrap_alone = 0
    for first, second in samples:
        verdict = claim(runs({"a": first.tolist()}), runs({"a": second.tolist()}), "score")
        assert verdict.difference is not None
        decided += verdict.value in ("supported", "contradicted")
        bootstrap_alone += not verdict.difference.low <= 0 <= verdict.difference.high
    assert decided / len(samples) <= 0.08
    assert decided <= bootstrap_alone


def test_the_bootstrap_alone_would_decide_one_claim_in_four() -> None:
    samples = np.random.default_rng(11).normal(size=(300, 3))
    assert 0.18 <= np.mean([(sample > 0).all() or (sample < 0).all() for sample in samples]) <= 0.33


def test_students_interval_by_hand() -> None:
    found = difference(runs({"a": [2.0, 4.0, 9.0]}), runs({"a": [1.0, 2.0, 3.0]}), "score")
    assert found.student == pytest.approx(4.303 * np.std([1, 2, 6], ddof=1) / math.sqrt(3))
    same = runs({"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0, 0.0]})
    two = difference(runs({"a": [2.0, 4.0, 9.0], "b": [1.0, 1.0, 1.0]}), same, "score")
    assert two.student == pytest.approx(found.student / 2), "a task without spread adds none"


def shares(drawn: np.ndarray, prompts: int) -> pd.DataFrame:
    """A row for each seed: how many of its prompts were right."""
    labels = {"task": "passkey", "scale": "laptop", "data_source": "made", "n": prompts}
    return pd.DataFrame({"seed": range(len(drawn)), "share": drawn / prompts, **labels})


@pytest.mark.parametrize("prompts", [2, 10, 25])
def test_a_fixed_share_is_reached_by_prompts_too_and_not_by_seeds_that_agree(prompts: int) -> None:
    """Right in nine of ten, it is said to be right in 19 of 20: seeds of two prompts would often agree to that."""
    draws = np.random.default_rng(0).binomial(prompts, 0.9, size=(400, 3))
    wrong = [reaches(shares(row, prompts), "share", 1.0, margin=0.05).value == "supported" for row in draws]
    assert np.mean(wrong) <= 0.025
    if prompts == 2:
        by_seeds = [claim(shares(row, 2), shares(row, 2).assign(share=1.0), "share", margin=0.05) for row in draws]
        assert np.mean([verdict.value == "supported" for verdict in by_seeds]) > 0.4


def test_a_share_is_reached_missed_or_neither() -> None:
    assert reaches(shares(np.array([40, 40, 40]), 40), "share", 1.0, margin=0.05).value == "supported"
    assert reaches(shares(np.array([4, 4, 5]), 40), "share", 1.0, margin=0.05).value == "contradicted"
    few = reaches(shares(np.array([1, 1, 1]), 1), "share", 1.0, margin=0.05)
    assert few.value == "undecided"
    assert few.reason.endswith("100.0 % of 3 prompts (Wilson: 43.9 to 100.0 %)")
    assert reaches(shares(np.array([2, 2]), 2), "share", 1.0).value == "not tested"


def test_a_claim_over_several_tasks_is_not_decided_by_one_of_them() -> None:
    rows = shares(np.array([1, 2, 1]), 4)
    better = rows.assign(share=rows["share"] + 0.25)
    assert claim(better, rows, "share", tasks=("passkey",)).value == "supported"
    half = claim(better, rows, "share", tasks=("passkey", "mqar"))
    assert half == ("not tested", "not both have runs on mqar", None)
