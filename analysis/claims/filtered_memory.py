"""Filtered-memory Luna: "On Difficulties of Attention Factorization through Shared Memory", arXiv 2404.00798: claims.

Only its title, abstract and opening could be read, a summary, and its authors' code: what it claims stands there.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.arms import MEMORY, rows_where
from analysis.claims import Claim, Part
from analysis.panels import ACCURACY
from analysis.papers.filtered_memory import FILTER, KERNEL, PACKING, STRIDE, UNPACKING, memory_ends
from analysis.statistics import Verdict, claim
from analysis.studies import Study

_TASKS = ("lra_listops", "lra_text")


def _better(better: str, worse: str, task: str | None = None) -> Part:
    """One variant of the decomposition beats another, on a task or on the mean of both."""
    where = f" on {task}" if task else ""
    only = {"task": task} if task else {}

    def test(study: Study) -> Verdict:
        first, second = (rows_where(study.runs, {**only, "variant": name}) for name in (better, worse))
        return claim(first, second, ACCURACY, tasks=(task,) if task else _TASKS)

    return Part(f"`{better}` is more accurate than `{worse}`{where}", "filtered_decomposition", test)


def _filter_helps(study: Study) -> Verdict:
    filtered = rows_where(study.runs, {FILTER: "conv", KERNEL: 4, STRIDE: 1})
    return claim(filtered, rows_where(study.runs, {FILTER: "none"}), ACCURACY)


def any_task(better: Sequence[pd.DataFrame], worse: Sequence[pd.DataFrame]) -> Verdict:
    """Whether there is a task on which the first is better: supported if on one, contradicted if on all tested.

    Args:
        better: runs of the one, a frame for each task.
        worse: runs of the other, likewise.
    """
    verdicts = [claim(one, other, ACCURACY) for one, other in zip(better, worse, strict=True)]
    tested = [verdict for verdict in verdicts if verdict.value != "not tested"]
    if not tested:
        return Verdict("not tested", "; ".join(dict.fromkeys(verdict.reason for verdict in verdicts)), None)
    reasons = "; ".join(verdict.reason for verdict in tested)
    for verdict in tested:
        if verdict.value == "supported":
            return Verdict("supported", f"on one of {len(tested)} tasks: {verdict.reason}", verdict.difference)
    if all(verdict.value == "contradicted" for verdict in tested):
        return Verdict("contradicted", f"on each of {len(tested)} tasks: {reasons}", None)
    return Verdict("undecided", reasons, None)


def _one_cell(study: Study) -> Verdict:
    one = [rows_where(study.runs, {"task": task, "variant": "filtered_memory", MEMORY: 1}) for task in _TASKS]
    return any_task(one, [rows_where(study.runs, {"task": task, "variant": "transformer"}) for task in _TASKS])


def _rank_falls(variant: str) -> Part:
    """The memory of a variant loses rank from its first look to its last."""

    def test(study: Study) -> Verdict:
        ends = rows_where(memory_ends(study.memory), {"variant": variant})
        if ends.empty:
            return Verdict("not tested", "there are no looks at its memory", None)
        return claim(ends.assign(effective_rank=ends["effective_rank_first"]), ends, "effective_rank")

    return Part(
        f"the effective rank of `{variant}`'s memory is lower at the end of training than at the first look",
        "filtered_degradation",
        test,
    )


def _rank_kept(better: str, worse: str) -> Part:
    """One variant's memory ends with a higher rank than another's."""

    def test(study: Study) -> Verdict:
        ends = memory_ends(study.memory)
        if ends.empty:
            return Verdict("not tested", "there are no looks at its memory", None)
        return claim(ends[ends["variant"] == better], ends[ends["variant"] == worse], "effective_rank")

    text = f"the memory of `{better}` ends with a higher effective rank than that of `{worse}`"
    return Part(text, "filtered_degradation", test)


def _learned_packing(study: Study) -> Verdict:
    learned, fixed = (rows_where(study.runs, {PACKING: name, UNPACKING: "none"}) for name in ("learn", "sqrt"))
    return claim(learned, fixed, ACCURACY)


_SMALL = "Two tasks of LRA, 2 layers of 64, 512 symbols; where the paper says it, on what and by how much is not known."
_OWN_MEASURE = "How the paper measures it could not be read: effective rank is our measure."

CLAIMS = (
    Claim(
        "conv_luna",
        "abstract",
        "Filtering the input before it meets the memory improves accuracy.",
        (
            _better("filtered_memory", "luna_shared", "lra_listops"),
            _better("filtered_memory", "luna_shared", "lra_text"),
        ),
        caveat=f"By how much is not judged. All four changes together, against Luna as its authors built it. {_SMALL}",
    ),
    Claim(
        "conv_luna",
        "abstract",
        "Memory should not be reached by attention alone: it is the filter that helps.",
        (
            _better("luna_filter", "luna_shared", "lra_listops"),
            _better("luna_filter", "luna_shared", "lra_text"),
            Part(
                "on lra_text ConvLuna with its filter is more accurate than without", "filtered_filters", _filter_helps
            ),
        ),
        caveat="The filter alone; its code never changes it alone.",
    ),
    Claim(
        "conv_luna",
        "said in a summary of it",
        "In some cases a memory of one cell beats the transformer.",
        (
            Part(
                "`filtered_memory` with one cell is more accurate than the transformer on some task",
                "filtered_sizes",
                _one_cell,
            ),
        ),
        caveat=f"Two tasks are tried, so chance has two. {_SMALL}",
    ),
    Claim(
        "conv_luna",
        "said in a summary of it",
        "Memory degrades: its rows collapse while Luna is trained.",
        (_rank_falls("luna_shared"), _rank_falls("luna")),
        caveat=_OWN_MEASURE,
    ),
    Claim(
        "conv_luna",
        "said in a summary of it",
        "ConvLuna's memory degrades less.",
        (_rank_kept("filtered_memory", "luna_shared"), _rank_kept("luna_filter", "luna_shared")),
        caveat=_OWN_MEASURE,
    ),
    Claim(
        "ours",
        "its code",
        "Of the other three changes each helps alone: no value projection, a learned packing temperature, unscaled "
        "unpacking.",
        tuple(
            _better(name, "luna_shared") for name in ("luna_no_value", "luna_pack_temperature", "luna_unpack_unscaled")
        ),
        caveat="Mean over both tasks. Its text names the temperature; the other two stand in its code only.",
    ),
    Claim(
        "ours",
        "its code",
        "With the filter on, a learned packing temperature is better than the fixed root of the head's width.",
        (Part("`pack_temperature=learn` is more accurate than `sqrt`", "filtered_temperature", _learned_packing),),
        caveat="Unpacking unscaled, as in its code, where that is an oversight.",
    ),
    Claim(
        "conv_luna",
        "results table",
        "Its accuracies on the Long Range Arena.",
        untestable="No number of its tables could be read, so there is nothing to hold ours against.",
    ),
)
