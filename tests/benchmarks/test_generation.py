"""The benchmark of generated data runs; what it measures is never asserted."""

from benchmarks.generation import measure_generation


def test_every_generator_is_timed() -> None:
    record, verdicts = measure_generation(tiny=True)
    assert len(record["seconds"]) == 3
    assert all(seconds > 0 for seconds in record["seconds"].values())
    assert len(verdicts) == 5
