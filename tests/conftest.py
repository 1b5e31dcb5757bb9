"""What all tests share: a store and a cache of their own, no network, no account, one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "how long the tests of faults may take (make faults)")
    group.addoption("--kills", type=int, default=2, help="so many kills at random moments")
    group.addoption("--every", action="store_true", help="a kill before every single operation on files, every server")


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For this process and those that it starts; session-wide, so that fixtures of any scope can rely on it."""
    folder = tmp_path_factory.mktemp("memattn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMATTN_RESULTS", str(folder / "results"))
        patch.setenv("MEMATTN_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("OMP_NUM_THREADS", "1")
        jobs = ("MEMATTN_JOB", "MEMATTN_JOB_FILE", "MEMATTN_SWEEP", "MEMATTN_PARENT")
        for name in ("MEMATTN_DATA", "WANDB_API_KEY", *jobs):
            patch.delenv(name, raising=False)
        yield
