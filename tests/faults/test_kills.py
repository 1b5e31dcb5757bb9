"""SIGKILL, whenever: nothing that is done is lost or done again, and the numbers at the end are the same."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import ExitCode
from tests.experiments.small_runs import folder_of, run_here
from tests.faults.harness import KILLED, apart, everything, run_and_tell_operations, run_until_operation, small
from tests.faults.killer import Grid, look, measure

#: Places in the order of a run's operations that the short version looks at, beside one that is drawn.
_SAMPLE = (
    "rename last.ckpt",
    "rename .best.ckpt.tmp",
    "rename .result.json.tmp",
)


@pytest.mark.timeout(0)
def test_random_kills_of_a_sweep_lose_and_repeat_no_run(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The same command again and again brings a sweep to its end, whatever is killed in it and when."""
    kills = pytestconfig.getoption("--kills")
    is_long = kills > 50
    grid = Grid() if is_long else Grid(("transformer",), (0, 1))
    tally = measure(tmp_path, kills=kills, seed=random.randrange(1 << 16), cold=0.1 if is_long else 0, grid=grid)
    print(tally)
    assert tally.victims.total() >= kills
    assert (tally.lost, tally.repeated) == (0, 0)
    assert tally.identical == tally.runs


@pytest.mark.timeout(0)
def test_a_kill_between_any_two_writes_changes_no_number(
    tmp_path: Path, undisturbed: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    """Before each operation on files (open, half of a write, fsync, rename, ...) the process may end."""
    config = small(tmp_path / "whole")
    assert apart(tmp_path / "whole.txt", run_and_tell_operations, config, tmp_path / "tally").code == ExitCode.OK
    names = (tmp_path / "tally").read_text().splitlines()
    if pytestconfig.getoption("--every"):
        numbers = list(range(1, len(names) + 1))
    else:
        numbers = [*(names.index(name) + 1 for name in _SAMPLE), random.randint(1, len(names))]
    killed: Counter[str] = Counter()
    for number in numbers:
        config, log = small(tmp_path / str(number)), tmp_path / f"{number}.txt"
        folder = folder_of(config)
        code = apart(log, run_until_operation, config, number).code
        assert code in (KILLED, ExitCode.OK), log.with_suffix(".err").read_text()
        killed[names[number - 1]] += code == KILLED
        before = look(folder)
        done = apart(log, run_here, config)
        assert done.code == ExitCode.OK, (number, names[number - 1], done.err)
        assert before is None or look(folder) == before, "a run that was done is left alone"
        assert everything(folder) == undisturbed, (number, names[number - 1])
    print(killed)
    assert killed.total() >= 0.9 * len(
        numbers
    )  # a run writes its status by the clock, too: the last number may not come
