"""What makes a run that run: the hash of everything that can change its numbers, of nothing else.

Importing this module loads neither torch nor Lightning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from data.options import identifying
from experiments.config import RunConfig, to_plain

HASH_DIGITS = 10

#: Trainer settings that say where and how a run works, not what comes out.
WITHOUT_EFFECT = (
    "device",
    "devices",  # what they change is how many parts there are, if nothing else says so
    "threads",
    "log_every",
    "checkpoint_every",
    "num_workers",
    "progress",
    "compile",
    "recompute",
    "auto_micro_batch",  # on another machine, the same run may fit; its numbers differ in sums' order and in draws
)


class Source(Protocol):
    """What is needed of ``data.base.Source``."""

    @property
    def name(self) -> str:
        """Short name of the data set's origin."""

    @property
    def checksum(self) -> str:
        """Digest of its content."""

    @property
    def detail(self) -> str:
        """One line: where it was found, and how to get the official data."""

    @property
    def is_standin(self) -> bool:
        """Whether it only stands in for what the task is about; its name then begins with ``standin-``."""


class MissingSource(NamedTuple):
    """Stands for the data in the identity of a run whose data could not be found."""

    name: str = "unavailable"
    checksum: str = ""
    detail: str = ""
    is_standin: bool = False


class Identity(NamedTuple):
    """What a run is."""

    hash: str
    """Digest of everything that can change its numbers."""
    config_hash: str
    """The same without the seed: equal for the seeds of one setting."""
    run_id: str
    """``<hash>-s<seed>``: name of its folder, and its id in W&B."""


def identify(config: RunConfig, source: Source) -> Identity:
    """The identity of a run: settings, seed and data; not where it runs, logs or looks for data."""
    plain = to_plain(config)
    trainer = {key: value for key, value in plain["trainer"].items() if key not in WITHOUT_EFFECT}
    trainer["precision"] = _precision(config)
    trainer["accumulate"] = config.trainer.parts
    model = {key: value for key, value in plain["model"].items() if key != "variant"}
    settings = {
        "model": model,
        "backbone": plain["backbone"],
        "task": {"name": config.task.name, **identifying(config.task.options)},
        "trainer": trainer,
        "data": {"source": source.name, "checksum": source.checksum},
    }
    digest = _digest({**settings, "seed": config.seed})
    return Identity(digest, _digest(settings), f"{digest}-s{config.seed}")


def _precision(config: RunConfig) -> str:
    """What ``auto`` means on this machine, where that is not float32: a run in bfloat16 is another run."""
    trainer = config.trainer
    if trainer.precision != "auto" or trainer.device in ("cpu", "mps"):
        return trainer.precision
    import torch  # slow, and not needed for most of what this file does

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "auto"
    return "bf16" if trainer.device == "cuda" else "auto"  # a machine without GPU may name a run for one that has it


def _digest(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
