"""Infini-attention's claims: by all runs, some and none, and by scores that are turned round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from analysis.claims import judge
from analysis.claims.infini import CLAIMS, as_printed
from analysis.papers import infini
from analysis.studies import Study
from tests.analysis.papers.made_infini import gates, passkey, text


def studies(name: str, which: str = "all") -> Study:
    return {"infini_passkey": passkey, "infini_lm": text, "infini_gates": gates}[name](which)


def verdicts(words: str, study: Callable[[str], Study] = studies) -> list[str]:
    found = [each for each in CLAIMS if words in each.text]
    assert len(found) == 1
    return [part.test(study(part.study)).value for part in found[0].parts]


TESTED = [claim.text for claim in CLAIMS if claim.parts and claim.place != "tables 1 and 2"]


@pytest.mark.parametrize("words", TESTED)
def test_claims_hold_where_scores_are_the_papers(words: str) -> None:
    assert set(verdicts(words)) == {"supported"}


@pytest.mark.parametrize("which", ["half", "none"])
@pytest.mark.parametrize("words", TESTED)
def test_claims_need_seeds(words: str, which: str) -> None:
    assert set(verdicts(words, lambda name: studies(name, which))) == {"not tested"}


def test_sizes_need_no_runs() -> None:
    assert verdicts("The memory is more than a hundred times", lambda name: text("none")) == ["supported"] * 2
    assert judge(CLAIMS[:1])[0].commands == ()
    holds, reason = as_printed({**infini.computed_entries(), "RMT": 102_400})
    assert not holds
    assert reason == "RMT: 102,400 is printed as 2.5M"


@pytest.mark.parametrize("words", TESTED)
def test_claims_fail_where_scores_are_turned_round(words: str) -> None:
    def turned(name: str) -> Study:
        study = studies(name)
        slices, heads = study.slices, study.heads
        if len(slices) and "symbol_accuracy" in slices:
            slices = slices.assign(symbol_accuracy=1.1 - slices["symbol_accuracy"])
        if len(heads):
            rates = {0.01: 10.0, 10.0: 0.01}
            heads = heads.assign(gate=0.5)
            runs = study.runs.assign(**{infini.RATE: study.runs[infini.RATE].replace(rates)})
            return replace(study, heads=heads, runs=runs)
        scores = {column: -20 * study.runs[column] for column in study.runs if str(column).startswith("test/bits")}
        return replace(
            study, slices=slices, runs=study.runs.assign(**{str(name): column for name, column in scores.items()})
        )

    assert "contradicted" in verdicts(words, turned) or "supported" not in verdicts(words, turned)[:1]
