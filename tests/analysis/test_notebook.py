"""What cells call: a figure with its files and caption, a table, and the verdicts on claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from analysis.claims import Claim
from analysis.notebook import show, table, verdicts
from tests.analysis.papers.made_studies import made_study, nothing


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What was displayed; figures are written to a folder of the test's own."""
    found: list[Any] = []
    monkeypatch.setattr("analysis.notebook.display", found.append)
    monkeypatch.setattr("analysis.style.FIGURES", tmp_path)
    return found


def test_a_figure_is_written_and_shown_above_its_caption(shown: list[Any], tmp_path: Path) -> None:
    study = made_study("filtered_temperature", lambda job: 0.5)
    show(Figure(), "luna_lines", study, note="Of lines alone.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["luna_lines.png", "luna_lines.svg"]
    image, text = shown
    assert isinstance(image, Image)
    assert text.data.startswith("**luna_lines**. Study `filtered_temperature`, scale laptop, 18 runs")
    assert text.data.endswith("Of lines alone.")
    table("| a |", study)
    assert shown[-1].data.startswith("| a |\n\nStudy `filtered_temperature`")


def test_a_figure_without_a_run_is_shown_and_not_kept(shown: list[Any], tmp_path: Path) -> None:
    show(Figure(), "luna_lines", made_study("filtered_temperature", lambda job: 0.5, keep=nothing))
    assert list(tmp_path.iterdir()) == []
    image, text = shown
    assert isinstance(image, Image)
    assert "No run is done" in text.data


def test_verdicts_are_a_table(shown: list[Any]) -> None:
    verdicts([Claim("luna", "table 9", "It flies.", untestable="There is no air.")])
    assert isinstance(shown[0], Markdown)
    assert "| It flies. | luna, table 9 | **not testable at this scale** | There is no air. |" in str(shown[0].data)
