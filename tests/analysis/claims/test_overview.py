"""Claims of our own comparison: in both directions, with data and without."""

from __future__ import annotations

import pytest

from analysis.claims import judge
from analysis.claims.overview import (
    CLAIMS,
    beyond_reach,
    finds_at,
    forgets,
    keeps_longer,
    more_per_number,
    one_cell,
)
from analysis.statistics import Value
from tests.analysis.comparisons import compared
from tests.analysis.made_overview import made, put_to_later, score
from tests.analysis.papers.made_studies import nothing


@pytest.mark.parametrize(
    ("better", "worse", "expected"), [("fam_gated", "fam", "supported"), ("fam", "fam_gated", "contradicted")]
)
def test_what_is_kept_longer(better: str, worse: str, expected: Value) -> None:
    for task in ("passkey", "memory_ops"):
        assert keeps_longer(better, worse, task)(made("compressions")).value == expected


def test_forgetting_is_seen_and_so_is_none() -> None:
    study = made("compressions")
    assert forgets("luna", "passkey")(study).value == "supported"
    study.slices["exact_match"] = study.slices["exact_match"].where(study.slices["length_blocks"] < 256, 1.0)
    assert forgets("luna", "memory_ops")(study).value == "contradicted"


def test_beyond_the_reach_only_far_keys_of_trained_lengths_count() -> None:
    study = made("overview")
    assert beyond_reach("fam_gated")(study).value == "supported"
    assert beyond_reach("fam")(study).value == "contradicted"
    verdict = beyond_reach("fam_gated")(study)
    assert verdict.difference is not None
    assert verdict.difference.mean == pytest.approx(512 / 530 - 64 / 82)  # 18 blocks, key in the first of them
    without = made("overview", lambda job: job.variant != "block_window")
    assert beyond_reach("fam")(without).reason == "no run of block_window says how far it looks"


def test_keys_far_away_count_at_the_shortest_length_that_is_long_enough() -> None:
    study = made("overview")  # to 256 blocks, 6,144 symbols
    assert finds_at(6_000, "fam_gated", "fam")(study).value == "supported"
    assert finds_at(6_000, "fam", "fam_gated")(study).value == "contradicted"
    assert finds_at(6_000, "fam")(study).value == "contradicted"
    assert finds_at(2**20, "fam_gated")(study).value == "not tested"
    longer = put_to_later(study, 43_691)
    assert finds_at(2**20, "fam_gated")(longer).value == "supported"
    few = finds_at(2**20, "fam_gated")(put_to_later(study, 43_691, prompts=2))
    assert few.value == "undecided", "six keys of six are no proof of nineteen in twenty"
    assert few.reason.endswith("100.0 % of 6 prompts (Wilson: 61.0 to 100.0 %)")
    assert finds_at(6_000, "fam")(longer).value == "contradicted"


def test_one_cell_against_the_largest_of_the_study() -> None:
    study = made("filtered_sizes")  # all sizes score alike
    assert one_cell("luna", "lra_text")(study).value == "supported"
    larger = compared("filtered_sizes", lambda job: 0.01 * (job.settings.get("model.memory_len") or 0))
    assert one_cell("luna", "lra_text")(larger).value == "contradicted"
    half = made("filtered_sizes", lambda job: job.settings.get("model.memory_len") != 64)
    assert one_cell("luna", "lra_text")(half).value == "not tested"
    copied = compared("rmt_memory_size", lambda job: 0.01 * (job.settings.get("model.memory_len") or 0))
    assert one_cell("rmt", "memory_ops", suffices=False, **{"task.op": "copy"})(copied).value == "supported"


def test_per_number_the_window_carries_at_least_as_much() -> None:
    verdict = more_per_number("rmt")(made("state_size"))
    assert verdict.value == "supported"
    assert verdict.reason.startswith("16 numbers against 16: ")
    assert more_per_number("block_window", "rmt")(made("state_size")).reason.startswith("0 numbers against 4: ")
    heavy = compared("state_size", score, fields=lambda row: {"state_size": 8 * (row["variant"] == "luna")})
    assert more_per_number("luna")(heavy).value == "not tested"


def test_every_claim_is_decided_by_code_with_data_and_without() -> None:
    wanted = {part.study for claim in CLAIMS for part in claim.parts}
    for keep, possible in ((lambda job: True, {"supported", "contradicted", "undecided"}), (nothing, {"not tested"})):
        studies = {name: made(name, keep) for name in wanted}
        studies["overview"] = put_to_later(studies["overview"], 1152, 43_691)
        for claim in CLAIMS:
            values = [part.test(studies[part.study]).value for part in claim.parts]
            assert set(values) <= possible, claim.text


def test_the_claims_are_judged_from_what_is_committed() -> None:
    found = judge(CLAIMS)
    assert [one.claim for one in found] == list(CLAIMS)
    assert all(one.claim.paper == "ours" for one in found)
    assert found[0].outcome == "reproduced", "every memory looks beyond the window"
    far = {part.text.split("`")[1]: verdict for part, verdict in found[1].evidence}
    assert far["fam"].value == "contradicted"
    assert far["infini_gated"].difference is not None
    assert found[1].commands == (), "overview is whole"
