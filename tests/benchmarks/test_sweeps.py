"""The benchmark of sweeps runs through the real command; what it measures is never asserted."""

from benchmarks.sweeps import measure_sweeps


def test_sweeps_are_measured() -> None:
    record, verdicts = measure_sweeps(tiny=True)
    assert record["finished"]["jobs"] == 40
    assert record["launch"]["job"] > 0
    assert [verdict.measure for verdict in verdicts] == ["wall", "wall"]
