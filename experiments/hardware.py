"""What a run computes on: the choice of device and precision, and the facts recorded beside a number."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from experiments.errors import ConfigError
from experiments.settings import DEVICES, PRECISIONS


class Hardware(NamedTuple):
    """Where a run computes and how it rounds."""

    device: str  # cpu, cuda or mps
    precision: str  # 32 or bf16 (matrix products in bfloat16, parameters and sums in float32)

    @classmethod
    def choose(cls, device: str = "auto", precision: str = "auto", *, devices: int = 1) -> Hardware:
        """Resolves ``auto``.

        A GPU where there is one. bfloat16 on GPUs that have it; float32 elsewhere, since bfloat16 is slower on
        most CPUs. ``mps`` is only taken when asked for.

        Raises:
            ConfigError: the device is not there, or not as often as ``devices`` asks for, or a value is unknown.
        """
        chosen = _choose_device(device)
        if devices > 1:
            _check_number(chosen, devices)
        return cls(chosen, _choose_precision(precision, chosen))

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context for forward passes, the same in training and in evaluation."""
        if self.precision == "32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)


def _check_number(device: str, devices: int) -> None:
    there = torch.cuda.device_count() if device == "cuda" else 1 if device == "mps" else devices
    if devices > there:
        raise ConfigError(
            f"trainer.devices={devices}: torch sees {there} GPU{'s' * (there != 1)} here; "
            f"use at most trainer.devices={there}, with trainer.accumulate={devices} for the same numbers"
        )


def _choose_device(device: str) -> str:
    if device not in DEVICES:
        raise ConfigError(f"trainer.device={device!r}: choose one of {', '.join(DEVICES)}")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda: torch sees no GPU here; use trainer.device=auto or cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.device=mps: torch sees no Apple GPU here; use trainer.device=auto or cpu")
    return device


def _choose_precision(precision: str, device: str) -> str:
    precision = str(precision)
    if precision not in PRECISIONS:
        raise ConfigError(f"trainer.precision={precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "32"
    return precision


def free_memory() -> None:
    """Gives back what a step that did not fit has left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory_bytes(device: str) -> int:
    """The most memory that was in use: of the GPU, or of this whole process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


@cache
def git_sha() -> str | None:
    """The commit of this code, with ``-dirty`` when files differ from it; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def hardware_line(device: str) -> str:
    """One line that says what a time or a memory figure was measured on."""
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    processor = _processor_name()
    return f"{processor}, {os.cpu_count()} cores, torch threads: {torch.get_num_threads()}"


def _processor_name() -> str:
    """The processor's marketing name; ``platform.processor()`` is empty on most Linux systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
