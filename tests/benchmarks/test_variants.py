"""The benchmarks run, at sizes that take a moment; what they measure is never asserted."""

import json
from pathlib import Path

import pytest

import models
from benchmarks.cases import RECURRENT, TINY, comparisons
from benchmarks.layers import our_options
from benchmarks.measure import take_turns
from benchmarks.memory import streaming_memory
from benchmarks.variants import check_same, main, measure
from experiments import peers
from experiments.measure import Timing, peak_memory


def test_a_comparison_leaves_a_full_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, verdicts = measure("cost_per_token", tiny=True, threads=1, rounds=2)
    assert [row["what"] for row in record["goals"]] == [verdict.what for verdict in verdicts]
    assert {"commit", "hardware", "load_average", "versions", "goals", "candidates"} <= record.keys()
    assert all(row["ratio"] > 0 and isinstance(row["met"], bool) for row in record["goals"])
    assert record == json.loads(json.dumps(record))
    main(["--tiny", "--only", "cost_per_token", "--rounds", "1", "--folder", str(tmp_path)])
    assert "fam T=128 / fam T=64" in capsys.readouterr().out
    assert not list(tmp_path.iterdir()), "--tiny measures nothing that is worth keeping"


@pytest.mark.parametrize("name", comparisons(tiny=True))
@pytest.mark.filterwarnings("ignore")  # the peers'
def test_a_comparison_runs_and_its_goals_name_its_candidates(name: str) -> None:
    comparison = comparisons(tiny=True)[name]
    for goal in comparison.goals:
        assert {goal.ours, goal.theirs} <= comparison.candidates.keys()
    missing = {peer.name for peer in peers.PEERS.values() if not peer.is_installed}
    for candidate in comparison.candidates.keys() - missing:
        # What compiles is tested with the models; here it would take half a minute.
        comparison.candidates[candidate]._replace(compiled=False).step()()
    for a, b in comparison.same:
        if not {a, b} & missing:
            assert check_same(comparison, a, b) < 1e-5


def test_packages_are_those_of_the_peers_compared() -> None:
    for name, comparison in comparisons(tiny=True).items():
        compared = {peers.PEERS[candidate].package for candidate in comparison.candidates if candidate in peers.PEERS}
        assert compared == set(comparison.packages), name


def test_every_variant_that_streams_is_followed_over_length() -> None:
    grows = {"transformer"}
    assert {our_options(name, TINY)[0] for name in RECURRENT} == set(models.available()) - grows


def test_candidates_that_differ_are_refused() -> None:
    comparison = comparisons(tiny=True)["fam"]
    with pytest.raises(RuntimeError, match="fam and block_window differ by"):
        check_same(comparison, "fam", "block_window")


@pytest.mark.parametrize("name", RECURRENT)
def test_streaming_gives_figures(name: str) -> None:
    figures = streaming_memory(name, 300)
    assert figures["peak"] >= figures["before"] > 0


def test_memory_counts_what_a_step_touches() -> None:
    before, peak = peak_memory(lambda: bytearray(b"x" * (64 << 20)))
    assert 64 << 20 <= peak - before < 192 << 20


def test_candidates_take_turns() -> None:
    order: list[str] = []
    seconds = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)  # type: ignore[misc]
    assert order == ["a", "b"] * 3
    assert all(len(times) == 2 for times in seconds.values())


def test_a_timing_is_the_median_and_the_distance_of_the_quartiles() -> None:
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 100.0]) == pytest.approx((3.0, 2 / 3))
