"""Several devices (or CPU processes) for one run, on one machine.

Rank 0 is the process that runs anyway: it alone holds the lock, writes the store, validates, tests and tracks. It
starts the other ranks (``python -m experiments.ranks``), which read the settings from the run's folder and do nothing
but their share of every step. They meet once in a step, in :meth:`Ranks.sum_gradients`, and end with rank 0, however
that ends; one that dies ends the run.

This module is the only one that knows torch.distributed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from experiments.errors import ExitCode, RankError, warn
from experiments.interrupts import SIGNALS, end_with_parent
from experiments.settings import REPOSITORY
from experiments.store import RunFolder

_HOST = "127.0.0.1"

#: How long a rank waits for the others: rank 0 may validate for hours. One that has died is noticed all the same.
_PATIENCE = timedelta(days=7)

#: Seconds that rank 0 has to stop by itself when another rank has died. It may hang in a sum on a GPU for ever.
_GRACE = 60.0

_POLL_SECONDS = 0.1


class Ranks(NamedTuple):
    """What one step needs to know of the others."""

    rank: int = 0
    size: int = 1

    def own(self, num_parts: int) -> range:
        """The parts of a batch that this rank computes: neighbours, of which rank 0 has the first."""
        share = num_parts // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor, size: int) -> tuple[Tensor, int]:
        """Adds up what all ranks have computed in this step; afterwards all hold the same.

        A sum of our own and not torch's DistributedDataParallel: that one counts on every parameter getting a gradient,
        and exchanges as soon as it is there, in the middle of a backward pass. Here a rank may cut its parts as often
        as its memory asks for, and take a step back, without the others knowing; a parameter that no part has reached
        keeps no gradient, as on one device; and there is one exchange per step.

        Args:
            parameters: of the model.
            loss: of this rank's parts.
            size: sequences that this rank can compute at once.

        Returns:
            The loss of the whole batch, and the size that fits all ranks.

        Raises:
            RankError: another rank is gone.
        """
        parameters = list(parameters)
        # On the CPU, also beside a GPU, which goes on working meanwhile.
        facts = torch.tensor([size, *(parameter.grad is not None for parameter in parameters)])
        gathered = [torch.empty_like(facts) for _ in range(self.size)]
        try:
            dist.all_gather(gathered, facts)
            everybody = torch.stack(gathered)
            reached = everybody[:, 1:].any(0).tolist()
            gradients = [_gradient(each) for each, is_reached in zip(parameters, reached, strict=True) if is_reached]
            flat = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)])
            dist.all_reduce(flat)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise RankError("another process of this run is gone") from error
        total, *summed = flat.split([1, *(gradient.numel() for gradient in gradients)])
        for gradient, values in zip(gradients, summed, strict=True):
            gradient.copy_(values.view_as(gradient))
        return total[0], int(everybody[:, 0].min())

    def share_buffers(self, model: nn.Module) -> None:
        """What rank 0 keeps in the model beside its weights (the first sequence's, from step to step), to all."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def join(self, store: dist.Store, device: str) -> None:
        """Makes this process one of the group. The small facts of a step go from CPU to CPU."""
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=_PATIENCE)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


class RankEnvironment(LightningEnvironment):
    """Tells Lightning its place among processes that it must not start itself."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """They are there already: Lightning would start the command line again, and with it a whole sweep."""
        return True

    def local_rank(self) -> int:
        """All ranks are on this machine."""
        return self.ranks.rank

    def node_rank(self) -> int:
        """There is one machine."""
        return 0


class RankStrategy(DDPStrategy):
    """Lightning's DDP as far as it puts each rank on its device; see :class:`Ranks` for what the ranks exchange."""

    @property
    def world_size(self) -> int:
        """One, so that Lightning leaves each rank alone.

        Else it waits for the device in each step to ask whether a signal has come, and exchanges tensors inside a
        signal handler, which blocks for ever in the middle of another exchange.
        """
        return 1

    def setup_distributed(self) -> None:
        """The group stands already."""
        self.set_world_ranks()

    def configure_ddp(self) -> None:
        """The module stays as it is: the step itself exchanges gradients."""

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Ranks wait for each other in the sum of gradients only: rank 0 alone validates and saves."""

    def _configure_launcher(self) -> None:
        self._launcher = None


class OtherRanks:
    """Context in which the other ranks of a run are at work.

    Args:
        folder: of the run; its config.yaml holds the settings.
        ranks: this process, and how many there are.
        device: kind of device that all compute on.
        resume: the checkpoint that all go on from.
        check: called while the others start; may raise.
    """

    def __init__(
        self, folder: RunFolder, ranks: Ranks, *, device: str, resume: Path | None, check: Callable[[], None]
    ) -> None:
        self.folder, self.ranks, self.device, self.resume = folder, ranks, device, resume
        self._check_interruption = check
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ending = threading.Event()

    def __enter__(self) -> OtherRanks:
        if self.ranks.size == 1:
            return self
        try:
            store = dist.TCPStore(_HOST, 0, self.ranks.size, is_master=True, wait_for_workers=False)
            for rank in range(1, self.ranks.size):
                self._processes.append(self._start(rank, store.port))
            keys = [f"ready-{rank}" for rank in range(1, self.ranks.size)]
            while not store.check(keys):
                self._check_interruption()
                self.check()
                time.sleep(_POLL_SECONDS)
            self.ranks.join(store, self.device)
        except BaseException:
            self._end()
            raise
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, RankError):
                self._name_the_dead(error)
        finally:
            self._end()

    def check(self) -> None:
        """Stops here if one of them has died.

        Raises:
            RankError: it has; says which, and its last words.
            MemoryError: it ran out of memory.
        """
        for rank, process in enumerate(self._processes, start=1):
            if process.poll() not in (None, 0):
                raise self._obituary(rank, process)

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        """No part of the terminal's group: Ctrl-C is rank 0's to answer."""
        arguments = [str(self.folder.path), rank, self.ranks.size, port, os.getpid(), self.resume or ""]
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        with self._log(rank).open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "experiments.ranks", *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, rank: int) -> Path:
        return self.folder.path / f"rank-{rank}.log"

    def _name_the_dead(self, error: RankError) -> None:
        """A rank that is gone for the network takes a moment to be gone for the system."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            try:
                self.check()
            except (RankError, MemoryError) as known:
                raise known from error
            time.sleep(_POLL_SECONDS)

    def _obituary(self, rank: int, process: subprocess.Popen[bytes]) -> Exception:
        log, code = self._log(rank), process.returncode
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "no last words"
        if code == ExitCode.OUT_OF_MEMORY:
            return MemoryError(f"process {rank} of {self.ranks.size}: {last}")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed ({last})"
        hint = ", the system may have run out of memory" if -code == signal.SIGKILL else ""
        return RankError(f"process {rank} of {self.ranks.size} of this run {how}{hint}: see {log}")

    def _watch(self) -> None:
        """The last resort: a sum on a GPU waits for ever for a rank that has died."""
        while not self._ending.wait(_POLL_SECONDS):
            try:
                self.check()
            except Exception as error:
                if not self._ending.wait(_GRACE):
                    warn(f"{error}; this process does not come back from waiting for it, and ends")
                    os._exit(ExitCode.FAILED)
                return

    def _end(self) -> None:
        """Ends them; what they hold is in rank 0, too."""
        self._ending.set()
        for process in self._processes:
            process.kill()
        for rank, process in enumerate(self._processes, start=1):
            if process.wait() in (0, -signal.SIGKILL) and not self._log(rank).stat().st_size:
                self._log(rank).unlink(missing_ok=True)
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()


def main(arguments: Sequence[str]) -> int:
    """One of the other ranks, from its start to the last step."""
    path, rank, size, port, parent, resume = arguments
    for number in SIGNALS:  # rank 0 answers them, and ends this process when it stops
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(int(parent), signal.SIGKILL)
    from experiments.job import classify
    from experiments.train import train_beside

    ranks = Ranks(int(rank), int(size))
    try:
        store = dist.TCPStore(_HOST, int(port), ranks.size, is_master=False, wait_for_workers=False)

        def join(device: str) -> None:
            store.set(f"ready-{rank}", "")
            ranks.join(store, device)

        train_beside(RunFolder(path), ranks, join=join, resume=Path(resume) if resume else None)
    except Exception as error:
        traceback.print_exc()
        failure = classify(error)
        print(failure.message, file=sys.stderr, flush=True)
        return failure.code
    return ExitCode.OK


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # nothing is left to tidy, and the group's threads may still wait for rank 0
