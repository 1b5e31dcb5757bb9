"""The saved view of W&B: its specification, built without a server, names what runs really mirror."""

from __future__ import annotations

import builtins
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import data
from experiments import workspace
from experiments.diagnostics import CURVES
from experiments.errors import ConfigError, ExitCode
from experiments.results import HEAD_MEASURES
from experiments.workspace import EXTRA, build_workspace, main, parse, specification


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def _installed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own
        pytest.importorskip("wandb_workspaces.workspaces", reason="requirements-wandb.txt is not installed")


def sections(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The settings of each section's panels."""
    found = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in found}


def drawn(panels: list[dict[str, Any]]) -> set[str]:
    return {metric for panel in panels for metric in panel.get("metrics", panel.get("mediaKeys", []))}


@pytest.mark.usefixtures("_installed")
def test_the_view_draws_what_runs_mirror() -> None:
    spec = specification(build_workspace(parse([]), entity="somebody"))
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("somebody", "memattn", "memattn: all runs")
    panels = sections(spec)
    assert list(panels) == ["accuracy against step", "memory", "gates", "loss", "speed"]
    metrics = {data.task_class(name).metric for name in data.available()}
    assert drawn(panels["accuracy against step"]) == {
        f"{split}/{name}" for split in ("val", "test") for name in metrics
    }
    gates = {"memory/gate", "memory/write_gate"}
    measures = {f"memory/{name}" for name in (*CURVES, *HEAD_MEASURES, "knock_out")} - gates
    assert drawn(panels["memory"]) == measures | {f"val/{name}_without_memory" for name in metrics} | {"memory"}
    assert drawn(panels["gates"]) == gates
    assert "train/tokens_per_second" in drawn(panels["speed"])
    lines = [panel for group in panels.values() for panel in group if "xAxis" in panel]
    assert {(line["xAxis"], line["groupBy"]) for line in lines} == {("_step", "variant.value")}


@pytest.mark.usefixtures("_installed")
def test_runs_are_grouped_by_sweep_and_variant_and_chosen_by_tags() -> None:
    order = parse(["task=passkey", "study=overview", "logger.project=mine", "logger.entity=us"])
    assert order.tags == ("passkey", "study:overview")
    spec = specification(build_workspace(order, entity=str(order.logger.entity)))
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("us", "mine", "memattn: passkey, study:overview")
    (runs,) = spec["spec"]["section"]["runSets"]
    assert [(group["section"], group["name"]) for group in runs["grouping"]] == [
        ("run", "group"),
        ("config", "variant.value"),
    ]
    text = json.dumps(runs["filters"])
    assert '"tags"' in text
    assert '"passkey"' in text
    assert '"study:overview"' in text
    assert "summary:test/exact_match" in runs["runFeed"]["columnPinned"]
    assert drawn(sections(spec)["accuracy against step"]) == {"val/exact_match", "test/exact_match"}


@pytest.mark.usefixtures("_installed")
def test_without_a_login_the_specification_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=passkey"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["displayName"] == "memattn: passkey"
    assert printed.err == "nobody is logged in: `wandb login`, then the same command saves this view\n"
    assert main(["task=passkey", "--json"]) == ExitCode.OK
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_installed")
def test_a_view_that_cannot_be_saved_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_API_KEY", key)

    def fail(*given: object, **named: object) -> None:
        raise OSError(f"no route with {key}")

    monkeypatch.setattr(workspace, "build_workspace", fail)
    assert main(["logger.entity=us"]) == ExitCode.FAILED
    assert capsys.readouterr().err == (
        "error: the view could not be saved (no route with [hidden]): --json prints the view without saving it\n"
    )


def test_without_the_package_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name.startswith("wandb_workspaces"):
            raise ImportError(name)
        return original(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main([]) == ExitCode.USER_ERROR
    assert capsys.readouterr().err == f"error: {EXTRA}\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["task=passky"], "unknown task 'passky': did you mean 'passkey'?"),
        (["tasks=passkey"], "unknown key 'tasks': did you mean 'task'?"),
        (["passkey"], "cannot read 'passkey': write key=value"),
        (["sweep="], "cannot read 'sweep=': write key=value"),
        (["study=overview", "sweep=1"], "study and sweep: a run of a study is found by study=..."),
    ],
)
def test_a_mistake_is_one_clear_line(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(words)
    assert str(caught.value).startswith(problem)
    assert main(words) == ExitCode.USER_ERROR
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_the_modules_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == ExitCode.OK
    assert "python -m experiments.workspace" in capsys.readouterr().out
