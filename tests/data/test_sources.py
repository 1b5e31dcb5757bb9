"""The cache of encoded data, whatever goes wrong while it is filled; and files that were cut off."""

from __future__ import annotations

import errno
import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import data
from data._sources import build_once, read_columns, remembered
from data.base import DataError, Task
from data.lm_text import LmTextConfig
from data.lra_text import LraTextConfig

WORDS = "what is kept"


def build(folder: Path) -> None:
    (folder / "a.bin").write_text(WORDS)
    (folder / "b.bin").write_text(WORDS)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.bin")}


WHOLE = {"a.bin": WORDS, "b.bin": WORDS}


def fork(work: Callable[[], None]) -> int:
    """Number of a process that does some work and ends; 7 is its code when the work raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, of which the child uses none
        number = os.fork()
    if number:
        return number
    code = 7
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def end_of(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


# Several at once, and those that die


def test_of_two_processes_one_builds_and_both_find_it_whole(tmp_path: Path) -> None:
    folder, builds = tmp_path / "cache" / "task", tmp_path / "builds"
    builds.mkdir()
    ready, go = os.pipe()

    def slowly(partial: Path) -> None:
        (builds / str(os.getpid())).touch()
        build(partial)

    def work() -> None:
        os.read(ready, 1)
        build_once(folder, slowly)
        assert contents(folder) == WHOLE

    numbers = [fork(work) for _ in range(3)]
    os.write(go, b"123")
    assert [end_of(number) for number in numbers] == [0, 0, 0]
    assert len(list(builds.iterdir())) == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == [".task.lock", "task"]


def test_what_a_killed_process_left_is_never_used(tmp_path: Path) -> None:
    folder = tmp_path / "task"

    def die(partial: Path) -> None:
        (partial / "a.bin").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    assert end_of(fork(lambda: build_once(folder, die))) == -signal.SIGKILL
    assert not folder.exists()
    assert (tmp_path / ".task.partial" / "a.bin").exists()
    build_once(folder, build)
    assert contents(folder) == WHOLE
    assert not (tmp_path / ".task.partial").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("a damaged file"), RuntimeError()])
def test_a_build_that_is_cut_off_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    folder = tmp_path / "task"

    def stop(partial: Path) -> None:
        build(partial)
        raise error

    with pytest.raises(type(error)):
        build_once(folder, stop)
    assert [path.name for path in tmp_path.iterdir()] == [".task.lock"]
    build_once(folder, build)
    assert contents(folder) == WHOLE


# Full disks


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("4096 requested and 100 written"), "4096 requested and 100 written"),  # as numpy says it
    ],
)
def test_a_full_disk_is_one_line_and_gives_its_space_back(tmp_path: Path, error: OSError, reason: str) -> None:
    folder = tmp_path / "task"

    def fill(partial: Path) -> None:
        build(partial)
        raise error

    with pytest.raises(DataError) as caught:
        build_once(folder, fill)
    assert str(caught.value) == (
        f"{folder}: the data cache cannot be written ({reason}); "
        "free space there, or set data.cache or MEMATTN_CACHE to another folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == [".task.lock"]


def reviews(root: Path) -> None:
    (root / "imdb").mkdir(parents=True)
    for split in ("train", "test"):
        texts = [f"{split} {number} {'word ' * number}" for number in range(40)]
        frame = pd.DataFrame({"text": texts, "label": [number % 2 for number in range(40)]})
        frame.to_parquet(root / "imdb" / f"{split}.parquet")


def books(root: Path) -> None:
    (root / "books").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        pd.DataFrame({"text": [f"{split} {'word ' * 300}"]}).to_parquet(root / "books" / f"{split}.parquet")


TASKS: dict[str, tuple[Any, Callable[[Path], None]]] = {
    "lra_text": (LraTextConfig(seq_len=64), reviews),
    "lm_text": (LmTextConfig(seq_len=64, eval_len=128), books),
}


def make(name: str, tmp_path: Path) -> Task:
    config, write = TASKS[name]
    if not (tmp_path / "data").is_dir():
        write(tmp_path / "data")
    return data.build_task(name, config, root=tmp_path / "data", cache=tmp_path / "cache")


@pytest.mark.parametrize("name", TASKS)
def test_tasks_survive_a_disk_that_runs_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Path] = []
    save = np.save

    def save_until_full(path: Path, values: Any) -> None:
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        saved.append(path)
        save(path, values)

    task = make(name, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save_until_full)
        with pytest.raises(DataError, match=r"the data cache cannot be written \(No space left on device\)"):
            task.prepare()
    assert saved
    assert not [path for path in (tmp_path / "cache" / name).iterdir() if path.suffix != ".lock"]
    task.prepare()
    assert task.train_batch(0, 2).tokens.shape[0] == 2


def test_a_checksum_is_found_although_it_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("content")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("data._sources.os.replace", full)
    assert remembered(tmp_path / "cache", [path], lambda: "digest") == "digest"
    assert remembered(tmp_path / "cache", [path], lambda: "digest again") == "digest again"


# Copies and files that were cut off


INDEX_DAMAGE = {
    "gone": lambda index: index.unlink(),
    "empty": lambda index: index.write_text(""),
    "cut off": lambda index: index.write_text(index.read_text()[:-3]),
    "a list": lambda index: index.write_text("[1, 2]"),
    "nothing": lambda index: index.write_text("{}"),
    "null": lambda index: index.write_text("null"),
    "binary": lambda index: index.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
def test_a_copy_without_a_sound_index_is_made_anew(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "task"
    build_once(folder, build)
    (folder / "a.bin").write_text("other")
    INDEX_DAMAGE[damage](folder / "index.json")
    build_once(folder, build)
    assert contents(folder) == WHOLE
    assert set(json.loads((folder / "index.json").read_text())) == set(WHOLE)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text(WORDS[:-1])])
def test_a_half_written_copy_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "task"
    build_once(folder, build)
    damage(folder / "b.bin")
    build_once(folder, build)
    assert contents(folder) == WHOLE


def test_a_flipped_bit_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    build_once(folder, build)
    path = folder / "b.bin"
    before = path.stat()
    path.write_text(WORDS.replace("k", "j", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert end_of(fork(lambda: build_once(folder, build))) == 0  # another process, which has not yet looked
    assert contents(folder) == WHOLE


def test_a_copy_of_before_there_were_digests_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    build_once(folder, build)
    (folder / "index.json").write_text(json.dumps({name: len(WORDS) for name in WHOLE}))
    build_once(folder, lambda _: pytest.fail("built again"))


def test_of_a_large_file_the_size_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "task"
    monkeypatch.setattr("data._sources._DIGESTED_BYTES", 4)
    build_once(folder, build)
    (folder / "b.bin").write_text(WORDS[::-1])
    build_once(folder, lambda _: pytest.fail("built again"))
    (folder / "b.bin").write_text(WORDS[:-1])
    build_once(folder, build)
    assert contents(folder) == WHOLE


def test_a_checksum_that_was_never_written_out_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    assert remembered(tmp_path / "cache", [path], lambda: "digest") == "digest"
    (note,) = (tmp_path / "cache" / "checksums").iterdir()
    assert remembered(tmp_path / "cache", [path], lambda: "not asked for") == "digest"
    for torn in (b"", b"\xff\xff"):
        note.write_bytes(torn)
        assert remembered(tmp_path / "cache", [path], lambda: "digest") == "digest"


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_truncated_file_is_one_line_with_the_remedy(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"train.{suffix}"
    table = pa.table({"text": [f"row {number} {'x' * 100}" for number in range(200)]})
    if suffix == "parquet":
        table.to_pandas().to_parquet(path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw) if keep < 1 else keep)])
    with pytest.raises(DataError, match=r"train.*cannot be read \(.*\); get it again") as caught:
        read_columns([path], ["text"], "get it again")
    assert "\n" not in str(caught.value)
