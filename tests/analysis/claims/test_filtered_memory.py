"""Claims of filtered memory: by all runs, some and none, and by scores that are turned round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.claims import judge, outcome
from analysis.claims.filtered_memory import CLAIMS, any_task
from tests.analysis.papers.made_filtered_memory import SCORES, looks, score, study
from tests.analysis.papers.made_studies import made_study, nothing, seeds


def decided(score: Callable[[Any], float], looks: Callable[[Any, int], dict[str, float]], **options: Any) -> list[str]:
    names = dict.fromkeys(part.study for claim in CLAIMS for part in claim.parts)
    studies = {name: made_study(name, score, looks=looks, **options) for name in names}
    return [
        outcome([part.test(studies[part.study]) for part in claim.parts]) for claim in CLAIMS if not claim.untestable
    ]


def test_claims_in_both_directions() -> None:
    def helps(job: Any) -> float:
        steps = ("luna_no_value", "luna_pack_temperature", "luna_unpack_unscaled")
        return score(job) + 0.1 * (job.variant in steps) + (0.001 * job.seed if job.variant in SCORES else 0)

    def rises(job: Any, step: int) -> dict[str, float]:
        return {"effective_rank": 16 - looks(job, step)["effective_rank"]}

    assert decided(helps, looks) == ["reproduced"] * 7
    assert decided(lambda job: 1 - helps(job), rises) == ["not reproduced"] * 7
    assert decided(helps, looks, keep=nothing) == ["not run"] * 7
    assert decided(helps, looks, keep=seeds(0)) == ["not run"] * 7


def test_some_task_is_enough() -> None:
    runs = study("filtered_decomposition").runs
    better, worse = (runs[(runs["variant"] == name) & (runs["task"] == "lra_text")] for name in ("luna", "luna_shared"))
    assert any_task([better, worse], [worse, better]).value == "supported"
    assert any_task([worse], [better]).value == "contradicted"
    assert any_task([better], [better]).value == "undecided"
    assert any_task([better.iloc[:0]], [better]).value == "not tested"


def test_what_is_committed_can_be_judged() -> None:
    assert [found.claim for found in judge(CLAIMS)] == list(CLAIMS)
