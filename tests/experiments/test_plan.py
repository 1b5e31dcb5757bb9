"""``mode=plan`` judges time and disk by earlier runs, and adds up what all jobs would take."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments import plan
from experiments.config import RunConfig
from experiments.errors import ExitCode
from experiments.estimates import History, Kind, Pace, bytes_below, checkpoint_bytes, makespan
from experiments.job import run_job
from experiments.plan import print_plan
from tests.experiments.small_runs import folder_of, settings

KIND = Kind("fam", "passkey", "smoke", "cpu")


def finished(root: Path, number: int, *, seconds: float, size: int = 100, **fields: Any) -> Path:
    """A finished run of 10 steps, made by hand."""
    result = {**KIND._asdict(), "num_params": 1000, "steps": 10, "wall_seconds": seconds, **fields}
    folder = root / "runs" / str(result["task"]) / "any" / f"{number:010x}-s0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "weights").write_bytes(bytes(size - len(json.dumps(result))) if size > 300 else b"")
    return folder


def planned(configs: list[RunConfig], capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, list[str]]:
    """The cells of each printed line by their columns' names, and ``rest``: the lines below the table."""
    assert print_plan(configs, **options) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    header, body = lines[0], lines[2 : 2 + len(configs)]
    places = {name: header.index(name) + len(name) for name in ("time", "disk")}
    starts = {name: end - 12 for name, end in places.items()}
    cells = {name: [line[starts[name] : places[name]].split("  ")[-1].strip() for line in body] for name in places}
    return {**cells, "rest": lines[2 + len(configs) :]}


def test_time_comes_from_runs_of_the_same_kind_and_else_from_the_same_task(tmp_path: Path) -> None:
    for number, seconds in enumerate((10.0, 20.0, 90.0)):
        finished(tmp_path, number, seconds=seconds)
    finished(tmp_path, 3, seconds=1000.0, device="cuda")
    finished(tmp_path, 4, seconds=500.0, variant="luna")
    finished(tmp_path, 5, seconds=7.0, task="lra_text")
    (finished(tmp_path, 6, seconds=7.0) / "result.json").write_text('{"variant": "fa')
    (finished(tmp_path, 7, seconds=7.0) / "result.json").write_text('{"variant": "fam"}')
    history = History(tmp_path / "runs", ["passkey"])
    assert history.pace(KIND) == Pace(2.0, True)
    assert history.pace(KIND._replace(device="cuda")) == Pace(100.0, True)
    assert history.pace(KIND._replace(variant="mat")) == Pace(9.0, False)
    assert history.pace(KIND._replace(scale="paper")) is None
    assert history.pace(KIND._replace(task="lra_text")) is None, "nobody asked for this task"


def test_disk_is_measured_where_a_run_of_this_size_is_stored(tmp_path: Path) -> None:
    for number, size in enumerate((1000, 3000, 2000)):
        finished(tmp_path, number, seconds=1.0, size=size)
    history = History(tmp_path / "runs", ["passkey"])
    assert history.bytes_of(KIND, 1000) == 2000
    assert history.bytes_of(KIND, 1001) is None
    small, large = (checkpoint_bytes(count, num_rows=10) for count in (1000, 2000))
    assert large - small == 28 * 1000  # best, last and previous: 1 + 3 + 3 numbers of four bytes a parameter


def test_jobs_in_order_on_so_many_places() -> None:
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([3, 1, 1, 1], 1) == 6
    assert makespan([], 4) == 0


def test_a_plan_adds_up_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, resumed, done = (settings(tmp_path, "model=fam", "task=passkey", f"seed={seed}") for seed in range(3))
    cells = planned([new, resumed, done], capsys)
    assert cells["time"] == ["?", "?", "?"]
    assert "time   ? (no finished run of these tasks at this scale)" in cells["rest"]
    finished(tmp_path, 1, seconds=100.0)
    other = settings(tmp_path, "model=luna", "task=passkey")
    folder = folder_of(resumed)
    with folder.lock():
        folder.begin(resumed)
    folder.checkpoints.mkdir()
    folder.last_checkpoint.write_bytes(bytes(1 << 20))
    folder.write_status("interrupted", step=9)
    run_job(done, train=lambda *_: {})
    capsys.readouterr()
    cells = planned([new, resumed, done, other], capsys, places=2)
    assert cells["time"] == ["2:00", "0:30", "", "~2:00"]
    assert cells["disk"][1:3] == ["0 B", ""], "what is there is not needed again"
    assert cells["rest"][0].startswith("3 of 4 to run; results go to ")
    assert cells["rest"][1] == "jobs   to run 2, to resume 1, to skip 1"
    assert cells["rest"][2] == "time   4:30 of one process, 2:30 with 2 jobs at a time"


class Usage(NamedTuple):
    """What ``shutil.disk_usage`` says."""

    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path / "not" / "there" / "yet", "model=fam", "task=passkey")
    assert not any(line.startswith("warning") for line in planned([config], capsys)["rest"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 20, 1 << 20, 4096))
    rest = planned([config], capsys)["rest"]
    assert rest[-1].startswith("warning: the disk will be full before the jobs are done: make room at ")


def test_a_model_is_built_and_data_are_found_once_for_all_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for name in ("outline_model", "find_data"):
        original = getattr(plan, name)

        def counted(*given: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(*given)

        monkeypatch.setattr(plan, name, counted)
    jobs = [
        settings(tmp_path, f"model={name}", "task=passkey", f"seed={seed}")
        for name in ("fam", "luna")
        for seed in range(3)
    ]
    planned(jobs, capsys)
    assert calls == {"outline_model": 2, "find_data": 1}


def test_a_thousand_runs_are_read_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        finished(tmp_path, number, seconds=1.0)
    opened: list[str] = []
    original = Path.read_bytes

    def counted(path: Path) -> bytes:
        opened.append(path.name)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    history = History(tmp_path / "runs", ["passkey", "passkey"])
    assert history.pace(KIND) == Pace(0.1, True)
    assert opened == ["result.json"] * 1000


def test_bytes_below_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert bytes_below(tmp_path / "none") == 0
