"""Disks that run full or cannot be written: one line, and the same command goes on once there is room."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import ConfigError, ExitCode
from experiments.preflight import check_command_line
from tests.experiments.small_runs import folder_of, run_here, settings, write_reviews
from tests.faults.harness import (
    apart,
    everything,
    forked,
    mount_read_only,
    mount_small,
    own_mounts,
    small,
)

pytestmark = pytest.mark.usefixtures("_mounts")

#: Room for the first checkpoints of the small run, not for all that it writes; then room enough.
_TOO_SMALL, _ENOUGH = 200 << 10, 8 << 20


def run_on_small_disk(root: Path, saved: Path) -> int:
    """A run whose disk fills up, and again when there is room; 0 if that ended well. Leaves what it stored."""
    assert own_mounts()
    mount_small(root, _TOO_SMALL)
    code = forked(lambda: run_here(small(root)))
    shutil.copytree(root / "runs", saved / "full")
    mount_small(root, _ENOUGH, again=True)
    again = forked(lambda: run_here(small(root)))
    shutil.copytree(root / "runs", saved / "runs")
    return again if code == ExitCode.FAILED else 100 + code


def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """A real disk fills up in the middle: one line, exit code 1, and the numbers of an undisturbed run afterwards."""
    root, saved = tmp_path / "store", tmp_path / "saved"
    root.mkdir()
    done = apart(tmp_path / "printed.txt", run_on_small_disk, root, saved)
    assert done.code == ExitCode.OK, (done.out, done.err)
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert "No space left on device" in lines[0]
    assert "make room" in lines[0]
    assert list((saved / "full").rglob("last.ckpt")) or list((saved / "full").rglob("previous.ckpt"))
    assert everything(folder_of(small(saved))) == undisturbed


def prepare_on_small_disk(root: Path, data: Path) -> int:
    """A run on text whose cache fills its disk, and again when there is room."""
    assert own_mounts()
    mount_small(root / "cache", 16 << 10)
    config = settings(root, "model=transformer", "task=lra_text", f"data.root={data}", "trainer.num_workers=0")
    code = forked(lambda: run_here(config))
    mount_small(root / "cache", _ENOUGH, again=True)
    return forked(lambda: run_here(config)) if code == ExitCode.USER_ERROR else 100 + code


def test_a_full_disk_below_the_data_cache_is_one_line(tmp_path: Path) -> None:
    """The cache fills its disk: one line that names it, exit code 2; the same command works when there is room."""
    root = tmp_path / "store"
    (root / "cache").mkdir(parents=True)
    done = apart(tmp_path / "printed.txt", prepare_on_small_disk, root, write_reviews(tmp_path / "data"))
    assert done.code == ExitCode.OK, (done.out, done.err)
    assert len(done.err.splitlines()) == 1, done.err
    assert "the data cache cannot be written (" in done.err


def check_sweep(root: Path) -> int:
    """What the command of a sweep does first."""
    try:
        check_command_line(["-m", "seed=0,1", "task=memory_ops", "model=transformer", f"store.root={root}"])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    return ExitCode.OK


def run_read_only(root: Path) -> int:
    """A run that is done, one that is not, and a sweep, in a store that cannot be written."""
    assert own_mounts()
    mount_read_only(root)
    works = [lambda seed=seed: run_here(small(root, f"seed={seed}")) for seed in (0, 1)]
    codes = [int(forked(work)) for work in (*works, lambda: check_sweep(root))]
    return 0 if codes == [ExitCode.OK, ExitCode.USER_ERROR, ExitCode.USER_ERROR] else 100


def test_a_read_only_store_is_one_line(tmp_path: Path) -> None:
    """What is done is skipped, what is not ends with one line and exit code 2; a sweep says the same at once."""
    root, log = tmp_path / "store", tmp_path / "printed.txt"
    root.mkdir()
    assert apart(log, run_here, small(root)).code == ExitCode.OK
    done = apart(log, run_read_only, root)
    assert done.code == 0, (done.out, done.err)
    assert "done before, test/symbol_accuracy" in done.out
    lines = done.err.splitlines()
    assert len(lines) == 2, done.err
    for line in lines:
        assert "cannot write there (" in line
        assert "choose another folder with store.root=... or MEMATTN_RESULTS" in line
