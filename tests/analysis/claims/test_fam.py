"""TransformerFAM's claims: by all runs, some and none, and by scores that are turned round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from analysis.claims import Claim
from analysis.claims.fam import CLAIMS
from analysis.studies import Study
from tests.analysis.papers.made_fam import ablation, cost, passkey


def claim_of(words: str) -> Claim:
    found = [each for each in CLAIMS if words in each.text]
    assert len(found) == 1
    return found[0]


def _verdicts(words: str, study: Callable[[str], Study]) -> list[Any]:
    return [part.test(study(part.study)) for part in claim_of(words).parts]


PASSKEY_CLAIMS = (
    "finds the key perfectly",
    "Windows get better",
    "Without gradient",
    "RMT is below",
    "Feedback of whole",
)


@pytest.mark.parametrize("words", PASSKEY_CLAIMS)
def test_claims_on_passkey_hold_where_scores_are_the_papers(words: str) -> None:
    values = [verdict.value for verdict in _verdicts(words, lambda name: passkey())]
    expected = {"Windows get better": ["supported", "supported", "contradicted", "supported"]}
    assert values == expected.get(words, ["supported"] * len(values))


@pytest.mark.parametrize("words", PASSKEY_CLAIMS)
@pytest.mark.parametrize("which", ["half", "none"])
def test_claims_on_passkey_need_seeds(words: str, which: str) -> None:
    assert {verdict.value for verdict in _verdicts(words, lambda name: passkey(which))} == {"not tested"}


def test_claims_on_passkey_fail_where_scores_are_turned_round() -> None:
    study = passkey()
    turned = replace(study, slices=study.slices.assign(exact_match=1 - study.slices["exact_match"]))
    assert {verdict.value for verdict in _verdicts("Without gradient", lambda name: turned)} == {"contradicted"}
    assert _verdicts("finds the key perfectly", lambda name: turned)[1].value == "contradicted"


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("A sixteenth of a block", ["supported"] * 5),
        ("FAM stands best", ["supported", "supported"]),
        ("FAM predicts text better", ["supported"] * 4),
        ("Random state passing helps", ["supported"] * 4),
    ],
)
def test_claims_on_text(words: str, values: list[str]) -> None:
    assert [verdict.value for verdict in _verdicts(words, ablation)] == values

    def turned(name: str) -> Study:
        study = ablation(name)
        columns = [column for column in study.runs if str(column).startswith("test/")]
        return replace(study, runs=study.runs.assign(**{str(column): -study.runs[column] for column in columns}))

    assert "supported" not in [_verdicts(words, turned)[0].value]
    assert {verdict.value for verdict in _verdicts(words, lambda name: ablation(name, "none"))} == {"not tested"}


@pytest.mark.parametrize(("ratio", "value"), [(1.005, "supported"), (1.0185, "undecided"), (1.2, "contradicted")])
def test_the_claim_on_cost_goes_by_the_spread_of_repetitions(ratio: float, value: str) -> None:
    study = cost(ratio)
    assert {verdict.value for verdict in _verdicts("FAM costs next to no time", lambda name: study)} == {value}
    empty = cost(empty=True)
    assert {verdict.value for verdict in _verdicts("FAM costs next to no time", lambda name: empty)} == {"not tested"}
