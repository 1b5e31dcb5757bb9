"""The report of W&B: its specification, built without a server, has verdicts, a part for each task, and the figures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import data
from experiments import workspace_report
from experiments.diagnostics import CURVES
from experiments.errors import ConfigError, ExitCode
from experiments.workspace import main, parse
from experiments.workspace_report import build_report, specification


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(workspace_report, "VERDICTS", tmp_path / "verdicts.md")
    monkeypatch.setattr(workspace_report, "FIGURES", tmp_path)


@pytest.fixture(autouse=True)
def _installed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own
        pytest.importorskip("wandb_workspaces.reports.v2", reason="requirements-wandb.txt is not installed")


def blocks(*words: str) -> list[dict[str, Any]]:
    spec = specification(build_report(parse(["--report", *words]), entity="somebody"))
    return spec["spec"]["blocks"]


def headings(found: list[dict[str, Any]]) -> list[str]:
    return [block["children"][0]["text"] for block in found if block["type"] == "heading"]


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [block["content"] for block in found if block["type"] == "markdown-block"]


def test_each_task_has_its_run_set_its_curves_and_its_bars() -> None:
    found = blocks()
    assert headings(found) == ["Verdicts", *data.available(), "Figures"]
    grids = [block["metadata"] for block in found if block["type"] == "panel-grid"]
    for task, grid in zip(data.available(), grids, strict=True):
        (runs,) = grid["runSets"]
        assert [one["value"] for one in runs["filters"]["filters"]] == [[task]]
        assert [(one["section"], one["name"]) for one in runs["grouping"]] == [("config", "variant.value")]
        assert "project" not in runs, "naming it asks the server"
        panels = grid["panelBankSectionConfig"]["panels"]
        drawn = {metric for panel in panels for metric in panel["config"].get("metrics", ())}
        metric = data.task_class(task).metric
        assert {f"val/{metric}", f"test/{metric}", f"val/{metric}_without_memory", "memory/gate"} <= drawn
        assert {f"memory/{name}" for name in CURVES} <= drawn


def test_a_study_narrows_every_run_set() -> None:
    (grid,) = [block["metadata"] for block in blocks("task=passkey", "study=overview") if block["type"] == "panel-grid"]
    (runs,) = grid["runSets"]
    assert [one["value"] for one in runs["filters"]["filters"]] == [["passkey"], ["study:overview"]]


def test_verdicts_are_those_that_make_report_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts(blocks("task=passkey"))[0].startswith("No verdicts are written yet: `make report`")
    (tmp_path / "verdicts.md").write_text("# What became\n\n## luna\n\n| claim | outcome |\n|---|---|\n| a | b |\n")
    assert texts(blocks("task=passkey"))[0] == "## luna\n\n| claim | outcome |\n|---|---|\n| a | b |"
    monkeypatch.setattr(workspace_report, "_MAX_VERDICTS", 40)
    assert texts(blocks("task=passkey"))[0].endswith("|\n\nThe rest is in `results/report/verdicts.md`.")


def test_figures_are_pictures_where_their_address_is_known(tmp_path: Path) -> None:
    assert texts(blocks("task=passkey"))[-1] == "There are no figures yet: `make notebooks` draws them."
    (tmp_path / "luna_memory.png").write_bytes(b"")
    assert "- `results/figures/luna_memory.png`" in texts(blocks("task=passkey"))[-1]
    found = blocks("task=passkey", "figures=https://example.org/figures/")
    (picture,) = [block for block in found if block["type"] == "image"]
    assert picture["url"] == "https://example.org/figures/luna_memory.png"


def test_without_a_login_the_specification_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report", "task=passkey"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["displayName"] == "memattn: passkey"
    assert printed.err == "nobody is logged in: `wandb login`, then the same command saves this view\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["figures=https://example.org"], "figures=... is of a report: add --report"),
        (["--report", "figures=results/figures"], "figures=results/figures: W&B shows pictures of https:// addresses"),
        (["--reports"], "cannot read '--reports': write key=value"),
    ],
)
def test_a_mistake_is_one_clear_line(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(words)
    assert str(caught.value).startswith(problem)
