"""Stand-in data: named in every record, never taken for the real thing at the paper's scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.base import DataError, Source, refuse_standin
from data.passkey import Passkey
from experiments.config import RunConfig, build_run_config, build_task, to_plain
from experiments.errors import ConfigError, ExitCode
from experiments.identity import identify
from experiments.job import run_job
from experiments.plan import print_plan
from experiments.store import run_folder
from experiments.table import Row, format_table
from tests.experiments.small_runs import settings

STANDIN = Source("standin-walks", "abc", "walks in a park; for the real ones put them into DIR/walks", is_standin=True)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run at the paper's scale (in name; its sizes are smaller) for which there is a stand-in only."""
    monkeypatch.setattr(Passkey, "locate", lambda self: STANDIN)
    return replace(settings(tmp_path, "model=fam", "task=passkey"), scale="paper")


def allowing(config: RunConfig) -> RunConfig:
    return replace(config, data=replace(config.data, allow_standin=True))


def trained(config: RunConfig, folder: Any) -> dict[str, Any]:
    return {"test/exact_match": 0.75, "test/n": 12}


def test_the_papers_scale_refuses_a_standin(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(config, train=trained) == ExitCode.USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert "passkey: scale=paper refuses the stand-in standin-walks: walks in a park; for the real ones put" in line
    assert "data.allow_standin=true" in line
    assert print_plan([config]) == ExitCode.USER_ERROR
    assert "cannot run: passkey: scale=paper refuses the stand-in" in capsys.readouterr().out


def test_a_standin_that_is_allowed_is_named_everywhere(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = allowing(config)
    assert print_plan([allowed]) == ExitCode.OK
    assert "standin-walks" in capsys.readouterr().out
    assert run_job(allowed, train=trained) == ExitCode.OK
    first, last, _ = capsys.readouterr().out.splitlines()
    assert first == f"fam passkey s0  data: standin-walks: {STANDIN.detail}"
    assert "test/exact_match 0.7500 on standin-walks (floors: " in last
    folder = run_folder(allowed, STANDIN)
    result = folder.result() or {}
    assert result["data_source"] == "standin-walks"
    table = format_table([Row("fam", "passkey", 0, "ok", folder=folder.path, result=result)])
    assert "standin-walks" in next(line for line in table.splitlines() if line.startswith("fam"))


def test_other_scales_take_it_and_say_so(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(replace(config, scale="laptop"), train=trained) == ExitCode.OK
    assert capsys.readouterr().out.startswith("fam passkey s0  data: standin-walks: walks in a park")


def test_the_permission_does_not_change_what_a_run_is(config: RunConfig) -> None:
    assert identify(config, STANDIN) == identify(allowing(config), STANDIN)
    assert build_run_config(to_plain(allowing(config))) == allowing(config)


@pytest.mark.parametrize("override", ["scale=smoke", "mode=bench", "mode=list"])
def test_the_permission_is_refused_where_nothing_asks_for_it(config: RunConfig, override: str) -> None:
    key, _, value = override.partition("=")
    changed: dict[str, Any] = {key: value}
    expected = f"data.allow_standin=true has no effect with {override}: only scale=paper refuses stand-ins"
    with pytest.raises(ConfigError, match=expected):
        replace(allowing(config), **changed)


def test_a_generated_task_is_no_standin(tmp_path: Path) -> None:
    source = build_task(settings(tmp_path, "task=passkey")).locate()
    assert not source.is_standin
    refuse_standin("passkey", source, scale="paper", allowed=False)


@pytest.mark.parametrize("source", [STANDIN._replace(name="walks"), Source("standin-x", "", "")])
def test_name_and_flag_agree(source: Source) -> None:
    with pytest.raises(AssertionError, match="a stand-in is called standin-"):
        refuse_standin("passkey", source, scale="smoke", allowed=True)


def test_the_message_is_one_line() -> None:
    with pytest.raises(DataError) as error:
        refuse_standin("walks", STANDIN, scale="paper", allowed=False)
    assert "\n" not in str(error.value)
