"""``python -m data.prepare``: what it gets ready, what it says, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data
from data import prepare
from data.base import DataError, Source
from data.lm_text import LmText
from data.passkey import Passkey

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Text in splits."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, size in (("train", 9000), ("valid", 5000), ("test", 5000)):
        (folder / f"{split}.txt").write_text(split + "".join(rng.choice(list("abcd "), size)))
    return folder


def run(*arguments: str) -> int:
    return prepare.main(list(arguments))


def table(out: str) -> dict[str, str]:
    header, *lines = out.splitlines()
    assert header.split("  ")[0] == "task"
    return {line.split()[0]: line for line in lines}


def test_one_task_is_prepared_and_reported(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("task=lm_text", "scale=smoke", f"data.root={root}", f"data.cache={tmp_path / 'cache'}")
    assert run(*words) == prepare.OK
    line = table(capsys.readouterr().out)["lm_text"]
    for text in ("text-local", " no ", "9,005 / 5,005 / 5,004 bytes", " MiB", str(root)):
        assert text in line
    (folder,) = (tmp_path / "cache" / "lm_text").glob("text-local-*")
    written = (folder / "train_text.bin").stat().st_mtime_ns
    assert run(*words) == prepare.OK  # the second time nothing is written
    assert (folder / "train_text.bin").stat().st_mtime_ns == written


def test_a_generated_task_is_made_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("task=passkey", f"data.cache={tmp_path}") == prepare.OK
    line = table(capsys.readouterr().out)["passkey"]
    assert "generated" in line
    assert "made when asked for" in line


def test_data_that_cannot_be_had_end_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("task=lm_text", "task.source=folder", f"data.root={tmp_path / 'nowhere'}")
    assert run(*words) == prepare.USER_ERROR
    line = table(capsys.readouterr().out)["lm_text"]
    assert "cannot be had: lm_text: no text: data.root=" in line


def test_one_failure_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any) -> Source:
        raise DataError("no text")

    monkeypatch.setattr(LmText, "locate", fail)
    monkeypatch.setattr(data, "available", lambda: ("lm_text", "passkey"))
    assert run("task=all", "scale=smoke", f"data.cache={tmp_path}") == prepare.USER_ERROR
    lines = table(capsys.readouterr().out)
    assert "cannot be had: no text" in lines["lm_text"]
    assert "generated" in lines["passkey"]


def test_the_papers_scale_wants_the_real_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Source("standin-walks", "abc", "for the real ones put them into DIR/walks", is_standin=True)
    monkeypatch.setattr(Passkey, "locate", lambda self: found)
    words = ("task=passkey", f"data.cache={tmp_path}")
    assert run(*words) == prepare.OK
    assert "standin-walks  yes" in capsys.readouterr().out
    assert run(*words, "scale=paper") == prepare.USER_ERROR
    assert "scale=paper refuses the stand-in standin-walks: for the real ones put them" in capsys.readouterr().out
    assert run(*words, "scale=paper", "data.allow_standin=true") == prepare.OK


MISTAKES = {
    "": "task=... is missing: all, or one of ",
    "task": "cannot read 'task' (there is no '=')",
    "task=lmtext": "unknown task 'lmtext': did you mean 'lm_text'?",
    "taks=all": "unknown key 'taks': did you mean 'task'?",
    "task=lm_text scale=huge": "unknown scale 'huge': There are: smoke, laptop, paper",
    "task=all scale=huge": "unknown scale 'huge': There are: smoke, laptop, paper",
    "task=lm_text task.seqlen=3": "unknown key in task 'seqlen': did you mean 'seq_len'?",
    "task=lm_text task.seq_len=0": "task.seq_len must be 1 or more, got 0",
    "task=lm_text task.seq_len=many": "task=lm_text: Value 'many' of type 'str' could not be converted to Integer",
    "task=all task.seq_len=3": "task.seq_len=3 is an option of one task",
    "task=lm_text data.allow_standin=yes": "data.allow_standin=yes: expected true or false",
    "task=lm_text data.allow_standin=true": "data.allow_standin=true has no effect with scale=laptop",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_clear_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split()) == prepare.USER_ERROR
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {MISTAKES[command]}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
@pytest.mark.parametrize("name", data.available())
def test_options_are_those_of_run_py(name: str, scale: str, tmp_path: Path) -> None:
    from tests.experiments.small_runs import settings

    steps = prepare.OmegaConf.load(prepare.CONF / "task" / f"{name}.yaml").scales[scale].steps
    config = settings(tmp_path, f"task={name}", f"scale={scale}", f"trainer.steps={steps}")
    assert prepare.task_options(name, scale, {}) == config.task.options


def test_ctrl_c_says_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: Any) -> Source:
        raise KeyboardInterrupt

    monkeypatch.setattr(LmText, "prepare", stop)
    monkeypatch.setattr(LmText, "locate", lambda self: Source("text-local", "abc", "here"))
    assert run("task=lm_text", f"data.cache={tmp_path}") == prepare.INTERRUPTED
    assert "interrupted: the same command starts this task over" in capsys.readouterr().err


def test_the_command_as_people_type_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data.prepare", "task=passkey", "scale=smoke", f"data.cache={tmp_path}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    header, line = done.stdout.splitlines()
    assert header.split("  ")[0] == "task"
    assert line.split()[:3] == ["passkey", "generated", "no"]
    done = subprocess.run([*command[:3], "--help"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert "python -m data.prepare task=all" in done.stdout
