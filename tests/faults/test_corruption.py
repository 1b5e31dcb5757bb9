"""Files that do not hold what was written: checkpoints of a run, and the cache of encoded data."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.config import RunConfig
from experiments.errors import ExitCode
from experiments.store import RunFolder
from tests.experiments.small_runs import folder_of, run_here, settings, write_reviews
from tests.experiments.test_resume import damage_file
from tests.faults.harness import KILLED, apart, ended, everything, run_with_signal, small, started_apart


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was killed with several checkpoints behind it."""
    root = tmp_path_factory.mktemp("cut")
    config = small(root)
    assert apart(root / "printed.txt", run_with_signal, config, signal.SIGKILL, 6).code == KILLED
    assert folder_of(config).previous_checkpoint.exists()
    return folder_of(config)


def overwrite(path: Path, how: str) -> None:
    """Damages a file; ``how`` as for :func:`damage_file`, or garbage of the same size."""
    if how == "garbage":
        path.write_bytes(random.randbytes(path.stat().st_size))
    else:
        damage_file(path, how)


@pytest.mark.parametrize("which", [["last"], ["last", "previous"], ["best"]], ids=["last", "last two", "best"])
def test_a_damaged_checkpoint_costs_time_and_no_number(
    which: list[str], cut: RunFolder, tmp_path: Path, undisturbed: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    """The one before is used, or the run starts over; the numbers at the end are the same, and no code is executed."""
    is_long = pytestconfig.getoption("--every")  # tests/experiments/test_resume.py has the others as well
    for how in ("truncated", "flipped", "empty", "garbage", "code") if is_long else ("garbage", "code"):
        config = small(tmp_path / how)
        folder = folder_of(config)
        shutil.copytree(cut.path, folder.path)
        for name in which:
            overwrite(folder.checkpoints / f"{name}.ckpt", how)
        done = apart(tmp_path / f"{how}.txt", run_here, config)
        assert done.code == ExitCode.OK, done.err
        assert "damaged" in done.err
        assert len(done.err.splitlines()) == 1, done.err
        assert not (folder.checkpoints / "executed").exists()
        assert everything(folder) == undisturbed, how


def text(root: Path, cache: Path, data: Path) -> RunConfig:
    """A run on text, which is read from the cache."""
    short = ("trainer.steps=2", "trainer.warmup_steps=0", "trainer.val_every=2", "trainer.num_workers=0")
    places = (f"data.root={data}", f"data.cache={cache}")
    return settings(root, "model=transformer", "task=lra_text", *short, *places)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Data, a cache of them, and the numbers of a run."""
    root = tmp_path_factory.mktemp("encoded")
    data = write_reviews(root / "data")
    config = text(root / "store", root / "cache", data)
    assert apart(root / "printed.txt", run_here, config).code == ExitCode.OK
    return data, root / "cache", everything(folder_of(config))


def damage_largest(cache: Path, how: str) -> Path:
    """Damages the largest file of a cache."""
    path = max((path for path in cache.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[-7:]
    elif how == "flipped":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    else:  # half-written: the size is there, the content is not
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", ["truncated", "flipped", "half-written"])
def test_a_damaged_cache_is_never_used(how: str, encoded: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    """Encoded data that lie otherwise than they were written are made anew, and the numbers are the same."""
    data, cache, whole = encoded
    shutil.copytree(cache, tmp_path / "cache")
    path = damage_largest(tmp_path / "cache", how)
    damaged = path.read_bytes()
    config = text(tmp_path / "store", tmp_path / "cache", data)
    done = apart(tmp_path / "printed.txt", run_here, config)
    assert done.code == ExitCode.OK, done.err
    assert everything(folder_of(config)) == whole
    assert path.read_bytes() != damaged


def test_two_runs_that_prepare_at_once_find_whole_data(
    encoded: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Both end with the numbers that they should; one of them has encoded."""
    data, _, whole = encoded
    configs = [text(tmp_path / str(number), tmp_path / "cache", data) for number in range(2)]
    logs = [tmp_path / f"{number}.txt" for number in range(2)]
    processes = [started_apart(log, run_here, config) for log, config in zip(logs, configs, strict=True)]
    ends = [ended(process, log) for process, log in zip(processes, logs, strict=True)]
    assert [end.code for end in ends] == [ExitCode.OK, ExitCode.OK], ends
    assert [everything(folder_of(config)) for config in configs] == [whole, whole]
    assert not list((tmp_path / "cache").rglob("*.partial"))
