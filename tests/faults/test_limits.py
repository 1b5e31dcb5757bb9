"""Jobs that run out of memory or diverge: told as what they are, and the sweep goes on."""

from __future__ import annotations

import csv
import functools
import os
import resource
import signal
from pathlib import Path
from typing import Any

import psutil
import torch

from experiments import checkpoints
from experiments.errors import ExitCode
from experiments.lightning_modules import SequenceModule
from tests.experiments.small_runs import Sabotage, folder_of
from tests.faults.harness import STEP, apart, everything, small, sweep


def statuses(root: Path) -> list[str]:
    """Of each job, in the order of their seeds, as the stored table says."""
    with (root / "sweeps" / "one" / "table.csv").open() as handle:
        return [line["job_status"] for line in sorted(csv.DictReader(handle), key=lambda line: line["seed"])]


def limit_memory(number: int) -> None:
    """The second job gets hardly more memory than it has."""
    if number == 2:
        limit = psutil.Process().memory_info().vms + (256 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


#: A step that does not fit into what :func:`limit_memory` leaves, unless it is taken in pieces.
LARGE = ("trainer.batch_size=32768", "trainer.steps=1", "trainer.val_every=1", "trainer.warmup_steps=0")


def test_a_step_that_does_not_fit_is_taken_in_pieces(tmp_path: Path) -> None:
    """RLIMIT_AS is hit in the middle job: it says so, goes on with fewer sequences at once, and is done."""
    configs = [small(tmp_path, f"seed={seed}", *(LARGE if seed == 1 else ())) for seed in (0, 1, 2)]
    done = apart(tmp_path / "printed.txt", sweep, configs, limit_memory)
    assert done.code == ExitCode.OK
    assert ((folder_of(configs[1]).result() or {})["micro_batch_size"]) < 32768


def test_a_job_without_memory_is_told_as_that_and_the_others_go_on(tmp_path: Path) -> None:
    """The same without leave to take pieces: exit code 3, "out of memory" in the table, the others are done."""
    whole = (*LARGE, "trainer.auto_micro_batch=false")
    configs = [small(tmp_path, f"seed={seed}", *(whole if seed == 1 else ())) for seed in (0, 1, 2)]
    done = apart(tmp_path / "printed.txt", sweep, configs, limit_memory)
    assert done.code == ExitCode.FAILED
    assert statuses(tmp_path) == ["ok", "out of memory", "ok"]
    folder = folder_of(configs[1])
    assert (folder.state, folder.status()["exit_code"]) == ("out_of_memory", ExitCode.OUT_OF_MEMORY)
    assert "out of memory (" in done.out
    assert "trainer.accumulate" in done.out


def be_killed(note: Path, times: int, number: int) -> None:
    """As the system's killer does: the second job is killed in training, so many times."""
    for attempt in range(times):
        if number == 2 and not (here := note.with_suffix(f".{attempt}")).exists():
            here.write_text(str(len(psutil.Process(os.getppid()).children())))
            Sabotage(STEP, 3, "before", signal.SIGKILL).arm()
            return


def test_a_job_killed_among_others_is_tried_once_more_alone(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """What the system killed while others took memory goes on alone, from its checkpoint, to the same numbers."""
    configs = [small(tmp_path, "seed=1"), small(tmp_path), small(tmp_path, "seed=2")]
    prepare = functools.partial(be_killed, tmp_path / "company", 1)
    done = apart(tmp_path / "printed.txt", sweep, configs, prepare)
    assert done.code == ExitCode.OK, done.out
    assert "killed, goes on alone when the others have ended" in done.out
    result = folder_of(configs[1]).result() or {}
    assert result["attempts"] == 2
    assert everything(folder_of(configs[1])) == undisturbed


def test_a_job_killed_alone_has_failed(tmp_path: Path) -> None:
    """Killed twice, the second time alone, it is not tried a third time; the table says what killed it."""
    configs = [small(tmp_path, f"seed={seed}") for seed in (0, 1)]
    prepare = functools.partial(be_killed, tmp_path / "company", 2)
    done = apart(tmp_path / "printed.txt", sweep, configs, prepare)
    assert done.code == ExitCode.FAILED
    assert statuses(tmp_path) == ["ok", "failed"]
    assert [(tmp_path / f"company.{attempt}").read_text() for attempt in (0, 1)] == ["2", "1"]
    assert "killed by SIGKILL (the system may have run out of memory)" in done.out


def explode(number: int) -> None:
    """In the fourth step of the first job the weights of a layer are too large for what follows."""
    if number != 1:
        return
    step, calls = SequenceModule.training_step, 0

    def exploding(module: SequenceModule, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            for parameter in module.model.blocks[0].parameters():
                parameter.data.fill_(1e30)
        return step(module, *arguments)

    SequenceModule.training_step = exploding  # type: ignore[method-assign, assignment]


def test_a_run_that_diverges_names_the_place_and_keeps_no_nan(tmp_path: Path) -> None:
    """Exit code 1, step and layer are named, no checkpoint holds NaN, and the sweep goes on."""
    configs = [small(tmp_path, f"seed={seed}") for seed in (0, 1)]
    done = apart(tmp_path / "printed.txt", sweep, configs, explode)
    assert done.code == ExitCode.FAILED
    assert statuses(tmp_path) == ["failed", "ok"]
    folder = folder_of(configs[0])
    status = folder.status()
    assert status["exit_code"] == ExitCode.FAILED
    assert " at step 4, first in transformer, layer 0" in status["message"]
    assert "DivergedError" in folder.error_file.read_text()
    assert checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)["global_step"] == 3
    for path in folder.checkpoints.glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        tensors = (content.get("weights") or content["state_dict"]).values()
        assert all(tensor.isfinite().all() for tensor in tensors), path.name
