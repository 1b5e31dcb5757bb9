"""The benchmark of generated data runs; what it measures is never asserted."""

from benchmarks.generation import measure_generation


def test_every_generator_is_timed() -> None:
    record, verdicts = measure_generation(tiny=True)
    assert len(record["seconds"]) == 3
    assert all(seconds > 0 for seconds in record["seconds"].values())
    assert [figures["mean"] > 0 for figures in record["statistics"].values()] == [True, True]
    assert all(row["share"] > 0 for row in record["data_loading"])
    assert len(verdicts) == 5 + len(record["data_loading"])
