"""The overhead benchmark runs through the real engine; what it measures is never asserted."""

from benchmarks.overhead import gaps, measure_overhead


def test_overhead_has_a_row_for_each_pair() -> None:
    record, verdicts = measure_overhead(tiny=True)
    assert [(row["model"], row["task"]) for row in record["overhead"]] == [
        ("transformer", "lra_text"),
        ("fam", "passkey"),
    ]
    assert all(row["plain_milliseconds"] > 0 for row in record["overhead"])
    assert all(0 < row["share"] < 1 for row in record["data_loading"])
    assert len(verdicts) == 4


def test_the_first_steps_do_not_count() -> None:
    assert gaps([0.0, 9.0, 18.0, 27.0, 36.0, 45.0, 46.0, 48.0]) == [1.0, 2.0]
