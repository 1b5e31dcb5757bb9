"""The table at the end: intervals, means over seeds, and what must not be mixed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from experiments.table import Row, bootstrap, format_table, interval, print_table, wilson, write_csv

RESULT = {
    "metric": "accuracy",
    "scale": "laptop",
    "data_source": "imdb",
    "config_hash": "c0",
    "floor/majority": 0.5,
    "num_params": 12345,
    "state_size": 678,
    "tokens_per_second": 1000.4,
    "peak_memory_bytes": 300 * 2**20,
    "wall_seconds": 65.0,
}


def row(score: float, *, seed: int = 0, variant: str = "fam", **fields: Any) -> Row:
    result = {**RESULT, "test/accuracy": score, **fields.pop("result", {})}
    return Row(variant=variant, task="lra_text", seed=seed, status="ok", result=result, **fields)


def test_wilson_is_the_textbook_value() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_bootstrap_is_repeatable_and_lies_within_the_seeds() -> None:
    low, high = bootstrap([0.6, 0.65, 0.7])
    assert (low, high) == bootstrap([0.6, 0.65, 0.7])
    assert 0.6 <= low < 0.65 < high <= 0.7


def test_one_seed_gets_an_interval_over_examples_where_the_slices_agree(tmp_path: Path) -> None:
    (tmp_path / "slices.csv").write_text("n,accuracy\n50,0.8\n50,0.6\n")
    found = interval([row(0.7, folder=tmp_path, result={"test/n": 100})])
    assert found is not None
    assert found.kind == "examples"
    assert (found.low, found.high) == wilson(0.7, 100)
    # The headline of a task may be the mean of some of its examples: then nobody knows how many.
    assert interval([row(0.8, folder=tmp_path, result={"test/n": 100})]) is None
    (tmp_path / "slices.csv").write_text("n,accuracy\n50,1.0\n50,1.0\n")
    assert interval([row(1.0, folder=tmp_path, result={"test/n": 100})]) is None


def test_seeds_get_a_line_with_their_mean() -> None:
    text = format_table([row(0.6, seed=0), row(0.7, seed=1), row(0.8, seed=0, variant="luna")])
    mean = next(line for line in text.splitlines() if "mean of 2" in line)
    assert mean.split()[:2] == ["fam", "lra_text"]
    assert "0.6500" in mean
    assert "mean of" not in next(line for line in text.splitlines() if line.startswith("luna"))
    assert "interval of a mean: percentile bootstrap over seeds" in text


@pytest.mark.parametrize(
    "other",
    [
        {"data_source": "imdb-train25k"},
        {"scale": "paper"},
        {"config_hash": "c1"},
    ],
)
def test_no_mean_over_what_cannot_be_compared(other: dict[str, str]) -> None:
    assert "mean of" not in format_table([row(0.6, seed=0), row(0.7, seed=1, result=other)])


def test_a_row_shows_size_speed_and_floor() -> None:
    text = format_table([row(0.6)])
    line = " ".join(text.splitlines()[2].split())
    assert line == "fam lra_text imdb 0 accuracy 0.6000 0.5 12,345 678 1,000 300 MiB 1:05 ok"
    assert "floors of lra_text (imdb, laptop): majority 0.5" in text


def test_jobs_without_a_score_say_why() -> None:
    failed = Row("fam", "lra_text", 1, status="out of memory", message="out of memory (8 GiB)", settings="a=1")
    text = format_table([row(0.6, settings="a=2"), failed])
    assert "out of memory: fam lra_text s1: out of memory (8 GiB)" in text
    assert "settings" in text.splitlines()[0]
    assert "a=1" in text


def test_csv_has_everything(tmp_path: Path) -> None:
    write_csv([row(0.6), Row("fam", "lra_text", 1, status="failed")], tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as handle:
        first, second = csv.DictReader(handle)
    assert (first["test/accuracy"], first["job_status"], second["job_status"]) == ("0.6", "ok", "failed")


def test_a_terminal_gets_a_drawn_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table([row(0.6), row(0.7, result={"data_source": "imdb-train25k"})])
    shown = capsys.readouterr().out
    assert "0.6000" in shown
    assert "imdb-train25k" in shown
    assert "─" in shown
