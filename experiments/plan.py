"""What a command would do, job by job, without doing it: ``mode=plan``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from experiments.config import RunConfig, build_model, build_task, find_data
from experiments.errors import ExitCode, StoreError, first_line
from experiments.store import RunFolder, run_folder
from experiments.table import print_columns

HEADER = ["variant", "task", "data", "settings", "seed", "steps"]
HEADER += ["parameters", "state size", "what would happen", "run"]


def print_plan(configs: Sequence[RunConfig], settings: Sequence[str] | None = None) -> int:
    """Prints a table with a line for each job.

    Args:
        configs: the jobs.
        settings: what else than model, task and seed the sweep varies, for each job.

    Returns:
        The exit code: 2 when the data of a job cannot be found, else 0.
    """
    rows = [_row(config, label) for config, label in zip(configs, settings or [""] * len(configs), strict=True)]
    header = HEADER
    if not any(settings or []):
        place = HEADER.index("settings")
        header, rows = HEADER[:place] + HEADER[place + 1 :], [row[:place] + row[place + 1 :] for row in rows]
    print_columns(header, rows)
    what = HEADER.index("what would happen") - len(HEADER)
    actions = [row[what] for row in rows]
    count = sum(not action.startswith(("skip", "cannot")) for action in actions)
    print(f"{count} of {len(rows)} to run; results go to {configs[0].store.runs}", flush=True)
    return ExitCode.USER_ERROR if any(action.startswith("cannot") for action in actions) else ExitCode.OK


def _row(config: RunConfig, settings: str) -> list[str]:
    task = build_task(config)
    with torch.device("meta"):
        model = build_model(config, task)
    try:
        source = find_data(config, task)
        folder, name = run_folder(config, source), source.name
        action, run = _action(config, folder), folder.run_id
    except (ValueError, OSError, StoreError) as error:
        name, action, run = "", f"cannot run: {first_line(error)}", ""
    return [
        config.model.label,
        config.task.name,
        name,
        settings,
        str(config.seed),
        f"{config.trainer.steps:,}",
        f"{model.num_parameters():,}",
        f"{model.state_size(task.max_len):,}",
        action,
        run,
    ]


def _action(config: RunConfig, folder: RunFolder) -> str:
    if folder.is_locked():
        return "skip: another process runs it now"
    if config.force and folder.path.exists():
        return "start over (force=true)"
    state = folder.state
    if state == "done":
        return "skip: done"
    if state == "new":
        return "run"
    state = state.replace("_", " ")
    if not folder.can_resume:
        return f"run again ({state})"
    return f"resume ({state} at step {folder.status().get('step')})"
