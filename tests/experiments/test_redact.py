"""Keys and passwords are written down nowhere, and names from settings stay inside the store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import train
from experiments.config import RunConfig
from experiments.errors import ConfigError, ExitCode, first_line
from experiments.identity import MissingSource
from experiments.job import classify, run_job
from experiments.manifest import find_sweep
from experiments.redact import HIDDEN, file_name, redact, redact_file, redacted
from experiments.settings import REPOSITORY
from experiments.store import find_run, run_folder
from experiments.sweep_job import Job
from experiments.table import Row, format_table, write_csv
from tests.experiments.small_runs import TINY, folder_of, settings

MARK = "Zq7marker/key+with'signs=="


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD", "my_secret"):
        monkeypatch.setenv(name, MARK + name[-1])
    monkeypatch.setenv("WANDB_MODE", "offline")


def forms(text: str) -> list[bool]:
    """Whether the mark stands in a text, in any spelling."""
    return [spelling in text for spelling in ("Zq7marker", "with'signs")]


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD", "my_secret"])
def test_values_of_secret_variables_are_hidden(name: str) -> None:
    value = MARK + name[-1]
    assert redact(f"401: {value} is no key") == f"401: {HIDDEN} is no key"
    assert not any(forms(redact(repr({"authorization": value}))))
    assert not any(forms(redact("https://example.org/?login=Zq7marker%2Fkey%2Bwith%27signs%3D%3D" + name[-1])))


def test_one_line_of_a_long_key_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE_KEY", "begin\n" + "QUJD" * 10 + "\n" + "REVG" * 10 + "\nend")
    assert redact("begin: cannot read " + "REVG" * 10) == f"begin: cannot read {HIDDEN}"


def test_words_and_ordinary_variables_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_KEY", "model")
    monkeypatch.setenv("KEYBOARD", "de-DE-layout")
    monkeypatch.setenv("EMPTY_TOKEN", "        ")
    text = "model=fam on https://example.org/de-DE-layout?page=2 by me@example.org        ok"
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://me:pass@example.org/x", "https://[hidden]@example.org/x"),
        ("git+ssh://token@host: no", "git+ssh://[hidden]@host: no"),
        ("https://me:p@ss@example.org", "https://[hidden]@example.org"),
        ("get https://h/x?a=1&api_key=abc&b=2", "get https://h/x?a=1&api_key=[hidden]&b=2"),
        ("'https://h/x?X-Amz-Signature=abc'", "'https://h/x?X-Amz-Signature=[hidden]'"),
    ],
)
def test_credentials_in_addresses_are_hidden(text: str, hidden: str) -> None:
    assert redact(text) == hidden
    assert redact(hidden) == hidden


def test_values_are_redacted_however_deep() -> None:
    value = {"a": [MARK + "Y", 1, None], "b": {"c": (True, f"x {MARK}Y")}}
    assert redacted(value) == {"a": [HIDDEN, 1, None], "b": {"c": (True, f"x {HIDDEN}")}}


def test_every_message_of_a_failure_is_redacted(tmp_path: Path) -> None:
    for error in (RuntimeError(f"no {MARK}Y"), ConfigError(f"a={MARK}Y"), OSError(28, f"full {MARK}Y", "/x")):
        assert not any(forms(classify(error).message))
    assert not any(forms(first_line(f"{MARK}Y")))
    row = Row("fam", "passkey", 0, "failed", message=f"killed; last line: {MARK}Y")
    write_csv([row], tmp_path / "table.csv")
    assert not any(forms(format_table([row]) + (tmp_path / "table.csv").read_text()))


def test_a_real_run_leaves_no_key_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, "model=fam", "task=passkey", "logger=wandb", f'data.root="{MARK}Y"')
    monkeypatch.setattr("sys.argv", ["run.py", f"data.root={MARK}Y"])
    original = train._finish

    def fail(*given: Any) -> dict[str, Any]:
        original(*given)
        raise RuntimeError(f"the server said: 401 for {MARK}Y and {MARK}N at https://me:{MARK}Y@example.org")

    monkeypatch.setattr(train, "_finish", fail)
    assert run_job(config) == ExitCode.FAILED
    folder = folder_of(config)
    assert "the server said: 401 for [hidden]" in folder.error_file.read_text()
    assert "[hidden]" in str(folder.status()["message"])
    assert list(folder.path.glob("wandb/offline-run-*/*.wandb"))
    printed = capfd.readouterr()
    assert not any(forms(printed.out + printed.err))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"Zq7marker" not in path.read_bytes(), path


def test_a_sweep_leaves_no_key_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = "Zq7marker0123"
    monkeypatch.setenv("HF_TOKEN", plain)
    order = ["-m", "model=fam", "task=passkey", *TINY[:1], *TINY[2:], "trainer.device=cpu"]
    order += [f"data.root={tmp_path}/{plain}", f"store.root={tmp_path}/store"]
    command = [sys.executable, str(REPOSITORY / "run.py"), *order]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert plain not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert {"multirun.yaml", "table.csv", "config.yaml"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        assert plain.encode() not in path.read_bytes(), path


def test_what_a_process_printed_is_redacted_and_else_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff bytes " + f"{MARK}Y".encode() + b" end")
    redact_file(path)
    assert path.read_bytes() == b"\xff bytes [hidden] end"
    before = path.stat().st_mtime_ns
    redact_file(path)
    assert path.stat().st_mtime_ns == before
    redact_file(tmp_path / "nothing")


NAMES = ["../../x", "/etc/passwd", "a\0b", "x" * 5000, "a/b\\c", ".", "..", "", "-", "é ü\n", "~", "C:\\x", "\ud800"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_becomes_one_harmless_part_of_a_path(name: str, tmp_path: Path) -> None:
    part = file_name(name)
    assert 0 < len(part) <= 100
    assert not part.startswith(".")
    path = tmp_path / part
    path.write_text("")
    assert path.resolve().parent == tmp_path.resolve()


def test_long_names_stay_apart() -> None:
    assert file_name("x" * 500) != file_name("x" * 501)
    assert file_name("fam-passkey-s0") == "fam-passkey-s0"


@pytest.mark.parametrize("name", NAMES)
def test_labels_choose_no_place(name: str, tmp_path: Path) -> None:
    plain = settings(tmp_path, "model=fam", "task=passkey")
    config = labelled(plain, name)
    folder = run_folder(config, MissingSource())
    assert folder.path == run_folder(plain, MissingSource()).path
    job = Job(1, 1, tmp_path / "sweep", [], config)
    for path in (job.log, job.report_file):
        assert path.parent == tmp_path / "sweep"
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        assert path.resolve().parent == (tmp_path / "sweep").resolve()


def labelled(config: RunConfig, name: str) -> RunConfig:
    """The same run under another label and study."""
    from dataclasses import replace

    return replace(config, model=replace(config.model, variant=name), study=name)


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_run_and_sweep_name_only_what_is_in_the_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "passkey" / "fam" / "0123456789-s0").mkdir(parents=True)
    (tmp_path / "sweeps" / "20260101-120000-1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no stored run starts with this"):
        find_run(tmp_path / "runs", name)
    with pytest.raises(ConfigError, match="no stored sweep starts with this"):
        find_sweep(tmp_path, name)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "x" * 5000])
def test_models_and_tasks_are_names_of_a_list(name: str, tmp_path: Path) -> None:
    from experiments.config import build_run_config, to_plain

    plain = to_plain(settings(tmp_path, "model=fam", "task=passkey"))
    for section in ("model", "task"):
        other = json.loads(json.dumps(plain))
        other[section]["name"] = name
        with pytest.raises(ConfigError, match=f"^unknown {section} "):
            build_run_config(other)
