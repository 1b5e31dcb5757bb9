"""One run from settings to a result, whatever happens on the way.

The data are located, which gives the run its identity; a run that is done is skipped; any other is locked, started or
resumed, and ends with result.json. Every other end has a state in status.json, a traceback in error.txt, one printed
line and an exit code of its own.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from experiments.config import RunConfig, build_run_config, build_task, find_data
from experiments.errors import (
    NOT_WRITABLE,
    RESUMES,
    ConfigError,
    DivergedError,
    ExitCode,
    Interrupted,
    LockedError,
    RankError,
    StoreError,
    explain_os_error,
    first_line,
    is_out_of_memory,
)
from experiments.identity import MissingSource, Source, identify
from experiments.interrupts import not_listening, raising_interrupted
from experiments.preflight import check_run, is_job_of_sweep
from experiments.redact import redact
from experiments.store import RunFolder, find_run, run_folder, write_atomically

Train = Callable[[RunConfig, RunFolder], dict[str, Any]]

#: Seconds that a job of a sweep waits for a run's lock. The jobs of a sweep that was killed need a moment to keep a
#: checkpoint, and the same command may come at once.
_PATIENCE = 20.0


class Failure(NamedTuple):
    """How a run that did not end well is recorded."""

    state: str
    code: ExitCode
    message: str


def dispatch(composed: DictConfig) -> int:
    """Does what ``mode`` asks for.

    Args:
        composed: what Hydra composed.

    Returns:
        The exit code.
    """
    try:
        config = build_run_config(composed)
        if config.mode == "list":
            from experiments.listing import print_list

            print_list(composed)
            return ExitCode.OK
        if config.mode == "plan":
            from experiments.plan import print_plan

            return print_plan([config])
        if config.mode == "bench":
            from experiments.bench import run_bench

            return run_bench([config])
        if config.mode == "status":
            from experiments.status import print_status

            return print_status(config)
        if config.mode == "export":
            return export_job(config)
    except ConfigError as error:
        _say("error:", str(error), error=True)
        return ExitCode.USER_ERROR
    except StoreError as error:
        _say("error:", str(error), error=True)
        return ExitCode.FAILED
    return run_job(config) if config.mode == "train" else evaluate_job(config)


def run_job(config: RunConfig, *, train: Train | None = None) -> int:
    """Trains one run to its end; skips it when it is done, resumes it when it was cut off.

    Args:
        config: the settings.
        train: the training; default ``experiments.train.train``, which is slow to import and not needed for a skip.

    Returns:
        The exit code.
    """
    try:
        with raising_interrupted():
            source = _locate(config)
            folder = run_folder(config, source)
            _announce(folder=str(folder.path), data=f"{source.name}: {source.detail}")
            if source.is_standin or config.scale == "paper":  # where numbers are compared with published ones
                _say(config.label, f"data: {source.name}: {source.detail}")
            if not config.force and folder.is_done:
                return _skip(config, folder)
            with folder.lock(patience=_PATIENCE if is_job_of_sweep() else 0.5):
                return _attempt(config, folder, source, train or _train)
    except BaseException as error:
        failure = classify(error)
        _announce(state=failure.state)
        return _say_failure(config.label, failure)


def evaluate_job(config: RunConfig) -> int:
    """Scores the stored run that ``config.run`` names, by its own test or by ``config.test``, and shows the numbers.

    Returns:
        The exit code.
    """
    try:
        with raising_interrupted():
            folder = _find_done(config)
            stored = folder.config()
            trainer = replace(
                stored.trainer,
                device=config.trainer.device,
                threads=config.trainer.threads,
                progress=config.trainer.progress,
            )
            from experiments.evaluate import evaluate_run

            here = replace(stored, trainer=trainer, data=config.data, store=config.store)
            evaluate_run(here, folder, test=config.test)
            return ExitCode.OK
    except BaseException as error:
        return _say_failure(f"eval {config.run}", classify(error))


def export_job(config: RunConfig) -> int:
    """Writes the best model of the finished run that ``config.run`` names, for use without this program.

    Returns:
        The exit code.
    """
    try:
        with raising_interrupted():
            folder = _find_done(config)
            from experiments.export import export_run

            print(export_run(folder), flush=True)
            return ExitCode.OK
    except BaseException as error:
        return _say_failure(f"export {config.run}", classify(error))


def _find_done(config: RunConfig) -> RunFolder:
    """The finished run that ``config.run`` names."""
    folder = find_run(config.store.runs, str(config.run))
    if not folder.is_done:
        raise ConfigError(f"run {folder.run_id} is {folder.state}, not done: train it to its end first")
    return folder


def classify(error: BaseException) -> Failure:
    """State, exit code and one line, without keys and passwords, for whatever ended a run."""
    failure = _classify(error)
    return failure._replace(message=redact(failure.message))


def _classify(error: BaseException) -> Failure:
    if isinstance(error, Interrupted | KeyboardInterrupt):
        code = error.exit_code if isinstance(error, Interrupted) else ExitCode.INTERRUPTED
        return Failure("interrupted", code, f"stopped by {str(error) or 'Ctrl-C'}; {RESUMES}")
    if isinstance(error, LockedError):
        return Failure("locked", ExitCode.FAILED, str(error))
    if is_out_of_memory(error):
        advice = "try a larger trainer.accumulate, or a smaller trainer.batch_size"
        return Failure("out_of_memory", ExitCode.OUT_OF_MEMORY, f"out of memory ({first_line(error)}): {advice}")
    if isinstance(error, OSError):
        code = ExitCode.USER_ERROR if error.errno in NOT_WRITABLE else ExitCode.FAILED
        return Failure("failed", code, explain_os_error(error))
    if _is_users_mistake(error):
        return Failure("failed", ExitCode.USER_ERROR, first_line(error))
    if isinstance(error, StoreError | DivergedError | RankError):
        return Failure("failed", ExitCode.FAILED, first_line(error))
    return Failure("failed", ExitCode.FAILED, f"{type(error).__name__}: {first_line(error)}")


def provenance(config: RunConfig, source: Source) -> dict[str, Any]:
    """The part of result.json that says what was run, on which data, with which code, and what it is measured by."""
    import torch

    from experiments.hardware import git_sha

    task = build_task(config)
    task.prepare()  # some floors are measured on the data
    return {
        "study": config.study,
        "arm": config.arm,
        "model": config.model.name,
        "variant": config.model.label,
        "task": config.task.name,
        "scale": config.scale,
        "seed": config.seed,
        "config_hash": identify(config, source).config_hash,
        "data_source": source.name,
        "data_checksum": source.checksum,
        "metric": task.metric,
        "larger_is_better": task.larger_is_better,
        **{f"floor/{name}": value for name, value in task.floors.items()},
        "git_sha": git_sha(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def headline(result: dict[str, Any]) -> str:
    """The number that counts, on what, with its floor: ``test/accuracy 0.6640 on imdb (floors: majority 0.5)``."""
    name = f"test/{result.get('metric')}"
    value = result.get(name)
    text = f"{name} {value:.4f}" if isinstance(value, float | int) else f"{name} unknown"
    text += f" on {result['data_source']}" if "data_source" in result else ""
    text += "" if result.get("larger_is_better", True) else ", less is better"
    floors = [f"{key[6:]} {floor:.4g}" for key, floor in result.items() if key.startswith("floor/")]
    return f"{text} (floors: {', '.join(floors)})" if floors else text


def _attempt(config: RunConfig, folder: RunFolder, source: Source, train: Train) -> int:
    """Trains inside the lock, and stores how it ended before the lock is given back."""
    if config.force:
        folder.clear()
    elif folder.is_done:
        return _skip(config, folder)
    folder.begin(config)
    started = time.monotonic()
    try:
        check_run(config)
        folder.log(f"started by process {os.getpid()}")
        result = {**provenance(config, source), **train(config, folder)}
        folder.write_result(result)
    except BaseException as error:
        with not_listening():
            return _record(config, folder, error)
    folder.log(f"done: {headline(result)}")
    _announce(state="ok")
    _say(config.label, f"{headline(result)} after {time.monotonic() - started:.0f} s")
    _say_where(folder)
    return ExitCode.OK


def _train(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    from experiments.train import train

    return train(config, folder)


def _skip(config: RunConfig, folder: RunFolder) -> int:
    _announce(state="skipped")
    _say(config.label, f"done before, {headline(folder.result() or {})}; force=true runs it again")
    _say_where(folder)
    return ExitCode.OK


def _locate(config: RunConfig) -> Source:
    """Finds the data. Without them the failure gets a folder of its own, since no run can be named."""
    try:
        return find_data(config, build_task(config))
    except (ValueError, OSError) as error:
        folder = run_folder(config, MissingSource())
        with folder.lock():
            folder.begin(config)
            _announce(folder=str(folder.path))
            _store_failure(folder, classify(error), error)
        raise


def _record(config: RunConfig, folder: RunFolder, error: BaseException) -> int:
    failure = classify(error)
    if config.force:  # repeated as it is, the command would start over again
        failure = failure._replace(message=failure.message.replace(RESUMES, f"{RESUMES} without force=true"))
    _store_failure(folder, failure, error)
    _announce(state=failure.state)
    return _say_failure(config.label, failure, folder)


def _store_failure(folder: RunFolder, failure: Failure, error: BaseException) -> None:
    """Writes what can still be written: on a full disk or a read-only store, the printed line is all there is."""
    progress = {key: value for key, value in folder.status().items() if key in ("step", "steps")}
    with suppress(OSError):
        folder.write_status(failure.state, message=failure.message, exit_code=int(failure.code), **progress)
    with suppress(OSError):
        folder.log(f"{failure.state}: {failure.message}")
    with suppress(OSError):
        trace = "".join(traceback.format_exception(error))
        folder.write_error(f"{failure.message}\n\n{trace}")


def _is_users_mistake(error: BaseException) -> bool:
    """Settings and data. Any other ValueError comes from inside the training and is a failure of ours."""
    if isinstance(error, ConfigError):
        return True
    from data.base import DataError

    return isinstance(error, DataError)


def _announce(**facts: str) -> None:
    """Tells the sweep that started this process where the run's folder is and how it stands."""
    path = os.environ.get("MEMATTN_JOB_FILE")
    if not path:
        return
    with suppress(OSError, ValueError):
        known = json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).exists() else {}
        write_atomically(Path(path), json.dumps({**known, **facts}), sync=False)


def _say(label: str, text: str, *, error: bool = False) -> None:
    """One line, marked with the job's number when this process is part of a sweep."""
    job = os.environ.get("MEMATTN_JOB")
    mark = f"[{job}] " if job else ""
    print(redact(f"{mark}{label}  {text}"), file=sys.stderr if error else sys.stdout, flush=True)


def _say_failure(label: str, failure: Failure, folder: RunFolder | None = None) -> int:
    where = f" ({folder.error_file})" if folder and folder.error_file.exists() else ""
    state = failure.state.replace("_", " ")
    prefix = "" if failure.message.startswith(state) else f"{state}: "
    _say(label, f"{prefix}{failure.message}{where}", error=True)
    return failure.code


def _say_where(folder: RunFolder) -> None:
    if "MEMATTN_JOB" not in os.environ:
        print(f"  {folder.path}", flush=True)
