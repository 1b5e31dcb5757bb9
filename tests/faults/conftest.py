"""What the tests of faults share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.errors import ExitCode
from tests.experiments.small_runs import folder_of, run_here
from tests.faults.harness import apart, everything, small, try_mounts


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of the small run when nothing happens to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    config = small(root)
    done = apart(root / "printed.txt", run_here, config)
    assert done.code == ExitCode.OK, done.err
    return everything(folder_of(config))


@pytest.fixture(scope="session")
def _mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    log: Path = tmp_path_factory.mktemp("mounts") / "printed.txt"
    if apart(log, try_mounts).code != 0:
        pytest.skip("this system lets no process have mounts of its own (CLONE_NEWNS, CLONE_NEWUSER)")
