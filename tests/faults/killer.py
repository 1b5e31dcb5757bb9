"""Kills sweeps at random until the same command, started again and again, has brought each to its end.

    python -m tests.faults.killer --kills 200              at least so many kills; prints one line of counts
    python -m tests.faults.killer --kills 200 --cold 0.1   a tenth of them to `python run.py -m ...`, start-up included
    ... --record                                           and writes results/benchmarks/faults.json

A victim is the sweep's process, its jobs, or all of them, at a moment drawn over the life of an undisturbed sweep; or a
job, before one of its operations on files, drawn as well: clocks alone seldom meet a write of a millisecond.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.measure import circumstances
from experiments.settings import REPOSITORY
from experiments.store import RunFolder
from tests.experiments.small_runs import TINY, folder_of, start_apart
from tests.faults.harness import SMALL, apart, everything, kill_at_operation, small, sweep, try_mounts, work_apart

RECORD = REPOSITORY / "results" / "benchmarks" / "faults.json"
VICTIMS = ("sweep", "jobs", "all", "operation")

#: What an undisturbed run does to files, roughly; kills before an operation are drawn over these.
_OPERATIONS = 150

#: A sweep that is not done after so many starts will never be.
_STARTS = 200


@dataclass
class Tally:
    """What was done, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    """Processes killed, by what they were doing."""
    victims: Counter[str] = field(default_factory=Counter)
    """Times that something was killed, by what."""
    starts: int = 0
    sweeps: int = 0
    runs: int = 0
    lost: int = 0
    """Results that were there and are not any more, or were written again."""
    repeated: int = 0
    """Runs that were done and trained again."""
    identical: int = 0
    """Runs that ended with the numbers of an undisturbed one."""

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return self.lost == 0 and self.repeated == 0 and self.identical == self.runs

    def __str__(self) -> str:
        phases = ", ".join(f"{count} {phase}" for phase, count in self.kills.most_common())
        return (
            f"{self.victims.total()} kills ({phases}), {self.starts} starts of {self.sweeps} sweeps with {self.runs} "
            f"runs: {self.lost} lost, {self.repeated} repeated, {self.identical} of {self.runs} identical"
        )


class Seen(NamedTuple):
    """What must not change once a run is done."""

    result: bytes
    written: int
    metrics: bytes
    starts: int


def look(folder: RunFolder) -> Seen | None:
    """None while the run is not done."""
    try:
        result, written = folder.result_file.read_bytes(), folder.result_file.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    starts = folder.log_file.read_text().count("started by process")
    return Seen(result, written, folder.metrics_file.read_bytes(), starts)


class Grid(NamedTuple):
    """The jobs of a sweep."""

    models: Sequence[str] = ("transformer", "fam")
    seeds: Sequence[int] = (0, 1)

    def jobs(self) -> list[tuple[str, str]]:
        """Overrides of each."""
        return [(f"model={model}", f"seed={seed}") for model in self.models for seed in self.seeds]


class Campaign:
    """One sweep that is killed and started again until it is done.

    Args:
        root: its store; empty.
        grid: its jobs.
        cold: start ``python run.py -m``, and not a fork that has everything imported.
    """

    def __init__(self, root: Path, grid: Grid, *, cold: bool = False) -> None:
        self.root, self.grid, self.cold = root, grid, cold
        self.root.mkdir(parents=True, exist_ok=True)
        self.configs = [small(root, *overrides) for overrides in grid.jobs()]
        self.folders = [folder_of(config) for config in self.configs]
        self.log = root / "printed.txt"
        self.starts = 0
        self._seen: dict[Path, Seen] = {}

    def start(self, trap: tuple[int, int] | None = None) -> Started:
        """Starts the sweep. ``trap``: number of a job, and the operation before which it is killed, once."""
        self.starts += 1
        if not self.cold:
            prepare = None if trap is None else functools.partial(_set_trap, self.root, self.note, *trap)
            return Started(start_apart(work_apart, self.log, sweep, self.configs, prepare))
        grid = [f"model={','.join(self.grid.models)}", f"seed={','.join(map(str, self.grid.seeds))}"]
        places = [f"store.root={self.root}", f"data.cache={self.root / 'cache'}", "hydra.launcher.jobs=2"]
        values = {text.partition("=")[0]: text for text in (*TINY, *SMALL, *places, *grid)}  # the last of equal keys
        with self.log.open("ab") as output:
            command = [sys.executable, str(REPOSITORY / "run.py"), "-m", *values.values()]
            return Started(subprocess.Popen(command, stdout=output, stderr=output, cwd=self.root))

    @property
    def note(self) -> Path:
        """What a trap of this start leaves behind."""
        return self.root / f"killed-{self.starts}.txt"

    @property
    def is_done(self) -> bool:
        """Whether all runs are."""
        return all(folder.result_file.exists() for folder in self.folders)

    def check(self, tally: Tally) -> None:
        """Compares what is done with what was seen of it before."""
        for folder in self.folders:
            now, before = look(folder), self._seen.get(folder.path)
            if before is not None:
                tally.lost += now is None or now[:3] != before[:3]
                tally.repeated += now is not None and now.starts != before.starts
            if now is not None:
                self._seen[folder.path] = now

    def phase(self, number: int) -> str:
        """What a job's process was doing when it was killed, as the files tell that it left."""
        for folder in self.folders:
            if list(folder.checkpoints.glob(f".*.{number}.tmp")):
                return "writing a checkpoint"
            if list(folder.path.glob(f".*.{number}.tmp")):
                return "writing another file"
            status = folder.status()
            if status.get("pid") == number:
                if status["state"] == "done":
                    return "at the result"
                if folder.slices_file.exists():
                    return "after the test"
                return "in training" if folder.can_resume else "before the first checkpoint"
        return "starting a job"

    def rest(self) -> None:
        """Waits for jobs that outlived their sweep for a moment."""
        deadline = time.monotonic() + 60
        while any(folder.is_locked() for folder in self.folders):
            assert time.monotonic() < deadline, "a job goes on without its sweep"
            time.sleep(0.05)


class Started:
    """A sweep at work, forked or started by its command."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.system = psutil.Process(process.pid)

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code; None if it has not ended by then."""
        if isinstance(self._process, subprocess.Popen):
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(seconds)
            return None
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self, victim: str, phase: Callable[[int], str]) -> list[str]:
        """Kills the sweep, its jobs or all, and returns what each was doing. Meanwhile the sweep starts nothing."""
        with suppress(psutil.NoSuchProcess):
            self.system.suspend()
            jobs = [] if victim == "sweep" else self.system.children()
            for job in jobs:
                job.kill()
            for job in jobs:
                while job.is_running() and job.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.001)
            phases = [phase(job.pid) for job in jobs]
            if victim in ("sweep", "all"):
                self.system.kill()
                phases.append("the sweep itself")
            self.system.resume()
            return phases
        return []


def _set_trap(root: Path, note: Path, job: int, operation: int, number: int) -> None:
    """In a job's process: the trap, if it is for this job and was not sprung already."""
    if number == job and not note.exists():
        kill_at_operation(root, operation, note=note)


def kill_until_done(campaign: Campaign, tally: Tally, rng: random.Random, *, life: float, kills: int) -> None:
    """Starts the sweep until it is done, and kills something each time while there are kills left."""
    for _ in range(_STARTS):
        if campaign.is_done:
            break
        victim = rng.choice(VICTIMS[:-1] if campaign.cold else VICTIMS) if tally.victims.total() < kills else ""
        trap = (rng.randint(1, len(campaign.configs)), rng.randint(1, _OPERATIONS)) if victim == "operation" else None
        process, phases = campaign.start(trap), []
        left = sum(not folder.result_file.exists() for folder in campaign.folders) / len(campaign.folders)
        moment = rng.uniform(0, life * (0.25 + 0.75 * left))  # what is done needs no time any more
        if victim and trap is None and process.wait(moment) is None:
            phases = process.kill(victim, campaign.phase)
        process.wait()
        if trap is not None and campaign.note.exists():
            phases = [_phase_of(campaign.note.read_text())]
        tally.kills.update(phases)
        tally.victims.update([victim] if phases else [])
        campaign.check(tally)
    campaign.rest()
    code = campaign.start().wait()  # once more, when all is done: nothing is to be done
    assert code == 0, f"exit code {code} after {campaign.starts} starts: {campaign.log.read_text()[-3000:]}"
    campaign.check(tally)
    tally.starts += campaign.starts
    tally.sweeps += 1


def _phase_of(operation: str) -> str:
    name = operation.rpartition(" ")[2]
    if "result.json" in name:
        return "at the result"
    return "writing a checkpoint" if "ckpt" in name or name == "checkpoints" else "writing another file"


def measure(root: Path, *, kills: int, seed: int = 0, cold: float = 0.0, grid: Grid | None = None) -> Tally:
    """Kills so many times.

    Args:
        root: an empty folder.
        kills: how often something is killed.
        seed: of all that is drawn.
        cold: share of the kills that meet ``python run.py -m``.
        grid: the jobs of each sweep.
    """
    grid, rng, tally = grid or Grid(), random.Random(seed), Tally()
    for is_cold, limit in ((True, round(cold * kills)), (False, kills)):
        if tally.victims.total() >= limit:
            continue
        apart(root / "first.txt", try_mounts)  # whatever it does: what is slow to import is there from now on
        whole = Campaign(root / f"whole-{is_cold}", grid, cold=is_cold)
        started = time.monotonic()
        code = whole.start().wait()
        assert code == 0, whole.log.read_text()
        life = time.monotonic() - started
        expected = [everything(folder) for folder in whole.folders]
        while tally.victims.total() < limit:
            campaign = Campaign(root / f"sweep-{tally.sweeps}", grid, cold=is_cold)
            kill_until_done(campaign, tally, rng, life=life, kills=limit)
            tally.runs += len(expected)
            numbers = [everything(folder) for folder in campaign.folders]
            tally.identical += sum(one == other for one, other in zip(numbers, expected, strict=True))
            print(tally, file=sys.stderr, flush=True)
    return tally


def main() -> int:
    """Measures as the command line says; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cold", type=float, default=0.1, help="share of the kills that meet the whole command")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(REPOSITORY)}")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = measure(Path(folder), kills=options.kills, seed=options.seed, cold=options.cold)
    print(tally)
    if options.record:
        command = f"python -m tests.faults.killer --kills {options.kills} --seed {options.seed} --cold {options.cold}"
        record = {
            "name": "faults",
            "about": "sweeps that are killed at random and started again until they are done",
            **circumstances(threads=1),
            "command": command,
            "seconds": round(time.monotonic() - started),
            **vars(tally),
        }
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if tally.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
