"""Runs on disk: the folder that holds everything known about one (identity.py says which run that is).

    results/runs/<task>/<model>/<hash>-s<seed>/
        config.yaml      the resolved settings          result.json    flat, atomic, written last: there = done
        status.json      state, heartbeat, attempt      slices.csv     scores by length, depth, ...
        metrics.jsonl    one row a step, flushed        error.txt      the last failure, with its traceback
        checkpoints/     last, previous and best.ckpt   log.txt        one line per attempt and its end
        diagnostics.npz  what the memory held           lock           held while a process works here

Importing this module loads neither torch nor Lightning.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from experiments.config import RunConfig, build_run_config, to_plain
from experiments.errors import ConfigError, LockedError, StoreError, first_line
from experiments.identity import Source, identify
from experiments.redact import redact, redacted

STATES = ("running", "done", "failed", "interrupted", "out_of_memory")


class Reading(NamedTuple):
    """What the small files of a run say, each of them read once."""

    state: str
    """One of STATES, or ``new``, as it really is; see :attr:`RunFolder.state`."""
    status: dict[str, Any]
    """status.json; empty where there is none."""
    result: dict[str, Any] | None
    """result.json; None without one."""


def run_folder(config: RunConfig, source: Source) -> RunFolder:
    """The folder of a run; nothing is created."""
    return RunFolder(config.store.runs / config.task.name / config.model.name / identify(config, source).run_id)


def find_run(runs: Path, prefix: str) -> RunFolder:
    """The one stored run whose id starts with ``prefix``.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found = sorted(path for path in runs.glob("*/*/*-s*") if path.name.startswith(prefix))
    if len(found) == 1:
        return RunFolder(found[0])
    if not found:
        raise ConfigError(f"run={prefix}: no stored run starts with this (looked in {runs})")
    names = ", ".join(str(path.relative_to(runs)) for path in found[:5])
    raise ConfigError(f"run={prefix}: {len(found)} runs start with this, give more digits: {names}")


class RunFolder:
    """Everything stored about one run. Creating the object touches nothing on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.attempt = int(self.status().get("attempt", 0))

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        """``<hash>-s<seed>``."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def status_file(self) -> Path:
        """State and heartbeat."""
        return self.path / "status.json"

    @property
    def metrics_file(self) -> Path:
        """One row of metrics per line."""
        return self.path / "metrics.jsonl"

    @property
    def result_file(self) -> Path:
        """The final numbers; exists only when the run is done."""
        return self.path / "result.json"

    @property
    def slices_file(self) -> Path:
        """Scores by length, depth and the like."""
        return self.path / "slices.csv"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Where training goes on."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """Where training goes on when the last one is damaged."""
        return self.checkpoints / "previous.ckpt"

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from, whole or not."""
        return self.last_checkpoint.exists() or self.previous_checkpoint.exists()

    @property
    def best_checkpoint(self) -> Path:
        """What is tested: the best by validation."""
        return self.checkpoints / "best.ckpt"

    @property
    def diagnostics_file(self) -> Path:
        """What the memory held, per layer and segment."""
        return self.path / "diagnostics.npz"

    @property
    def error_file(self) -> Path:
        """The last failure, with its traceback."""
        return self.path / "error.txt"

    @property
    def log_file(self) -> Path:
        """One line for each attempt and its end."""
        return self.path / "log.txt"

    @property
    def is_done(self) -> bool:
        """Whether the run has ended well and its result can be read."""
        return self.result() is not None

    @property
    def state(self) -> str:
        """The state as it really is: one of STATES, or ``new``; ``running`` only while a process is at work."""
        return self.read().state

    def read(self) -> Reading:
        """State, status and result, with each file read once.

        Raises:
            StoreError: result.json cannot be trusted.
        """
        status = self.status()
        result = self._result(status)
        if result is not None:
            return Reading("done", status, result)
        stored = str(status.get("state", "new"))
        if stored in ("running", "done") and not self.is_locked():
            if self.result_file.exists() or self.status() != status:  # it ended while we were looking
                return self.read()
            stored = "interrupted"
        return Reading(stored, status, None)

    @contextmanager
    def lock(self, *, patience: float = 0.5) -> Iterator[None]:
        """Holds the folder for this process; the system lets go when the process dies, however it dies.

        Args:
            patience: seconds to wait for another process to let go; some, as :meth:`is_locked` holds it for an instant.

        Raises:
            LockedError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+", encoding="utf-8") as handle:
            if not _try_lock(handle, patience):
                owner = _owner(handle)
                raise LockedError(f"run {self.run_id} is already running ({owner}): wait, or stop it")
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a process is at work here now."""
        try:
            with (self.path / "lock").open("r", encoding="utf-8") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def begin(self, config: RunConfig) -> None:
        """Opens an attempt: counts it, stores the settings, forgets the last failure. Call it under :meth:`lock`."""
        self.attempt = int(self.status().get("attempt", 0)) + 1
        self.error_file.unlink(missing_ok=True)
        for leftover in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)
        write_atomically(self.config_file, OmegaConf.to_yaml(OmegaConf.create(redacted(to_plain(config)))))
        self.write_status("running")

    def clear(self) -> None:
        """Throws away everything stored here, for ``force=true``. Call it under :meth:`lock`."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        self.attempt = 0

    def config(self) -> RunConfig:
        """The settings that this run was stored with.

        Raises:
            StoreError: they cannot be read.
        """
        try:
            stored = OmegaConf.load(self.config_file)
            assert isinstance(stored, DictConfig)
            return build_run_config(stored)
        except Exception as error:  # whatever the parsers make of a torn or edited file
            reason = first_line(error)
            raise StoreError(f"{self.config_file} cannot be read ({reason}): start over with force=true") from error

    def status(self) -> dict[str, Any]:
        """The last status, or an empty dict when there is none that can be read."""
        try:
            status = json.loads(self.status_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, state: str, **fields: Any) -> None:
        """Replaces status.json.

        Args:
            state: one of STATES.
            **fields: what else is known, such as step, steps, loss, tokens_per_second, eta_seconds.
        """
        assert state in STATES, state
        status = {
            "state": state,
            "attempt": self.attempt,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated": round(time.time(), 3),
            **redacted(fields),
        }
        write_atomically(self.status_file, _json(status), sync=False)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds one row, with attempt and wall time, and flushes it. ``row`` holds at least ``step``."""
        assert "step" in row, row
        line = _json({**row, "attempt": self.attempt, "time": round(time.time(), 3)}, indent=None)
        with self.metrics_file.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All rows so far. A last line cut off by a kill is left out."""
        try:
            lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            with suppress(ValueError):
                rows.append(json.loads(line))
        return rows

    def trim_metrics(self, step: int) -> None:
        """Drops rows beyond ``step``, those of work that the checkpoint does not hold. Call it on resuming."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_atomically(self.metrics_file, "".join(_json(row, indent=None) + "\n" for row in rows))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Ends the run: status ``done`` with the result's digest, then the result itself, atomically and last."""
        text = _json({**redacted(dict(result)), "run_id": self.run_id, "status": "done"})
        self.write_status("done", result_sha256=hashlib.sha256(text.encode()).hexdigest())
        write_atomically(self.result_file, text)

    def result(self) -> dict[str, Any] | None:
        """The final numbers, or None while there are none.

        Raises:
            StoreError: result.json is torn, was edited, or belongs to another run.
        """
        return self._result(None)

    def _result(self, status: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """See :meth:`result`; with the status where it has been read already."""
        try:
            text = self.result_file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        problem = self._problem(text, self.status() if status is None else status)
        if problem:
            raise StoreError(f"{self.result_file} {problem}: restore it, or start this run over with force=true")
        return json.loads(text)

    def _problem(self, text: str, status: Mapping[str, Any]) -> str | None:
        """What is wrong with the text of result.json."""
        try:
            result = json.loads(text)
        except ValueError:
            return "is torn (no complete JSON)"
        if not isinstance(result, dict) or result.get("run_id") != self.run_id:
            return "belongs to another run"
        digest = status.get("result_sha256")
        if digest is not None and digest != hashlib.sha256(text.encode()).hexdigest():
            return "was changed after the run had ended"
        return None

    def write_slices(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores rows such as length, depth, n, exact_match; columns in the order of their first appearance."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with (
            atomic_path(self.slices_file) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as handle,
        ):
            writer = csv.DictWriter(handle, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def write_error(self, text: str) -> None:
        """Stores a failure, without keys and passwords."""
        text = redact(text)
        write_atomically(self.error_file, text if text.endswith("\n") else text + "\n")

    def log(self, line: str) -> None:
        """Adds a dated line to log.txt, without keys and passwords."""
        with self.log_file.open("a", encoding="utf-8") as handle:
            handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} [attempt {self.attempt}] {redact(line)}\n")


def write_atomically(path: Path, text: str, *, sync: bool = True) -> None:
    """Replaces a file as a whole: readers see the old text or the new, also after a crash.

    Args:
        path: the file.
        text: its new content.
        sync: wait for the disk; False for what is rewritten every few seconds.
    """
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place when the block ends well and is removed otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _json(value: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """Strict JSON: what is no number (a diverged loss) becomes null."""
    finite = {key: None if isinstance(item, float) and not math.isfinite(item) else item for key, item in value.items()}
    return json.dumps(finite, indent=indent, allow_nan=False, default=str)


def _try_lock(handle: IO[str], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)


def _owner(handle: IO[str]) -> str:
    handle.seek(0)
    return handle.read().strip() or "by another process"
