"""Luna's claims: by all runs, some and none, and by scores that are turned round."""

from __future__ import annotations

from analysis.claims import judge, outcome
from analysis.claims.luna import CLAIMS, is_more
from analysis.studies import Study
from tests.analysis.papers.made_luna import empty, measured, score, study
from tests.analysis.papers.made_studies import made_study, seeds


def decided(lra: Study, ablations: Study, efficiency: Study) -> list[str]:
    studies = {"luna_lra": lra, "luna_memory_ablations": ablations, "luna_efficiency": efficiency}
    return [
        outcome([part.test(studies[part.study]) for part in claim.parts]) for claim in CLAIMS if not claim.untestable
    ]


def test_claims_in_both_directions() -> None:
    whole = decided(study("luna_lra"), study("luna_memory_ablations"), measured())
    assert whole == ["reproduced"] * 9
    turned = [made_study(name, lambda job: 1 - score(job)) for name in ("luna_lra", "luna_memory_ablations")]
    # That few slots are nearly as good as many holds whichever way the scores go.
    assert decided(turned[0], turned[1], measured(swap=True)) == [
        *["not reproduced"] * 3,
        "partly",
        *["not reproduced"] * 5,
    ]
    assert decided(empty("luna_lra"), empty("luna_memory_ablations"), measured(())) == ["not run"] * 9
    one = made_study("luna_lra", score, keep=seeds(0))
    assert decided(one, empty("luna_memory_ablations"), measured(()))[:4] == ["not run"] * 4


def test_a_ratio_within_its_scatter_decides_nothing() -> None:
    assert [is_more(ratio, 0.05, "speed").value for ratio in (1.1, 1.04, 0.97, 0.9)] == [
        *("supported", "undecided", "undecided", "contradicted")
    ]


def test_what_is_committed_can_be_judged() -> None:
    assert [found.claim for found in judge(CLAIMS)] == list(CLAIMS)
