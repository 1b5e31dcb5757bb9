"""Claims of RMT, Memformer and Memory Transformer: by all runs, some and none, and turned round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.claims import outcome
from analysis.claims.recurrent import CLAIMS
from analysis.studies import Study, load_study
from tests.analysis.papers.made_recurrent import made, measured


def study_of(name: str, which: str, sign: float) -> Study:
    if name != "mrbp_memory":
        return made(name, which, sign)
    return measured(empty=which == "none") if sign > 0 else measured(0.9, 0.5)


@pytest.mark.parametrize("number", range(len(CLAIMS)))
def test_a_claim_is_decided_both_ways(number: int) -> None:
    claim = CLAIMS[number]
    if claim.untestable:
        return

    def found(which: str, sign: float) -> str:
        return outcome([part.test(study_of(part.study, which, sign)) for part in claim.parts])

    assert found("all", 1.0) == "reproduced"
    assert found("none", 1.0) == "not run"
    if "kept" not in claim.text and "enough" not in claim.text:
        assert found("all", -1.0) in ("not reproduced", "partly")


def test_two_that_guess_are_no_evidence() -> None:
    study = made("rmt_memory_size")
    slices = study.slices.assign(symbol_accuracy=0.1 + 0.001 * study.slices["seed"])
    half = next(claim for claim in CLAIMS if claim.text.startswith("Half the memory"))
    values = [part.test(replace(study, slices=slices)).value for part in half.parts]
    assert values == ["contradicted", "supported"] * 2


def test_claims_by_what_is_committed_are_decided_by_code() -> None:
    study = load_study("mrbp_memory", live=False)
    parts = [part for claim in CLAIMS for part in claim.parts if part.study == "mrbp_memory"]
    memory, speed = (part.test(study) for part in parts)
    assert memory.value == "supported"
    assert speed.value == "contradicted"
