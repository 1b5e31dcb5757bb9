"""The README's first table: what the study of all mechanisms holds, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import front
from analysis.matrix import ORDER
from analysis.readme import README, marks
from analysis.studies import load_study
from tests.analysis.made_overview import made, put_to_later
from tests.analysis.papers.made_studies import nothing, seeds


def lines(table: str) -> dict[str, list[str]]:
    """The cells of a table by variant, without the lines of its head."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {name.strip("`"): cells for name, *cells in rows}


def test_a_line_has_scores_lengths_state_and_seeds() -> None:
    table = front.front_table(made("overview"))
    assert "text, accuracy (floor 20.0)" in table
    assert "key in 18 blocks (trained)" in table
    assert "1,152 blocks" not in table, "no prompt was as long"
    assert "key in 1,152 blocks (64x)" in front.front_table(put_to_later(made("overview"), 1152))
    found = lines(table)
    assert list(found) == list(ORDER)
    assert found["transformer"][0] == "30.2 (30.0 to 30.4)"
    assert found["fam"][2] == "82.0 (82.0 to 82.1)"  # half at depth 0 by 32 / (32 + 18), all at depth 1
    assert found["fam"][-2:] == ["64", "3"]


def test_nothing_is_bold_beside_gaps_and_single_seeds() -> None:
    whole = lines(front.front_table(made("overview")))
    assert [name for name, cells in whole.items() if "**" in cells[0]] == [ORDER[-1]]
    single = lines(front.front_table(made("overview", seeds(0))))
    assert not any("**" in cell for cells in single.values() for cell in cells)
    partly = made("overview", lambda job: job.variant == "fam" and (job.task == "lra_text" or job.seed == 0))
    found = lines(front.front_table(partly))
    assert found["fam"][-1] == "3, 1, 1"
    assert found["luna"] == [*["not run"] * 3, "", "0"]
    assert "**" not in str(found)


def test_a_study_without_runs_says_so() -> None:
    text = front.report(made("overview", nothing))
    assert text.count("not run") == 5 * len(ORDER)
    assert "python run.py -m +study=overview" in text


def test_the_readme_shows_what_the_committed_files_hold() -> None:
    begin, end = marks("overview")
    shown = README.read_text(encoding="utf-8").split(begin)[1].split(end)[0].strip()
    assert shown == front.report(load_study("overview", live=False)).strip()


def test_a_torn_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "overview").mkdir()
    (tmp_path / "overview" / "runs.csv").write_text("run_id,seed\n12-s0")
    monkeypatch.setattr("analysis.study_files.STUDIES", tmp_path)
    monkeypatch.setattr(front, "write_section", lambda name, text: pytest.fail("wrote the README"))
    assert front.main([]) == 2
    assert "runs.csv is torn" in capsys.readouterr().err
