"""The sections of a run's settings: each key with its type, what it means, and the values that it may have.

conf/ holds the values; experiments/config.py puts the sections together. Importing this module loads neither torch nor
Lightning.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.errors import ConfigError, unknown
from experiments.space import read_space

SAMPLERS = ("tpe", "random")
SCHEDULES = ("cosine", "inverse_sqrt", "constant")
PRECISIONS = ("auto", "32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")
PROGRESS = ("auto", "bar", "plain", "none")
LOGGERS = ("wandb", "none")
WANDB_MODES = ("auto", "offline", "online")

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ModelConfig:
    """Which variant, and its own options."""

    name: str
    """Registered name of the variant: one of ``models.available()``."""
    variant: str | None = None
    """Label of a preset of the same variant; shown in tables, changes no number."""
    options: Any = None
    """An instance of ``models.options_class(name)``."""

    @property
    def label(self) -> str:
        """What tables and log lines call this variant."""
        return self.variant or self.name


@dataclass(frozen=True)
class TaskConfig:
    """Which task, and its own options."""

    name: str
    """Registered name of the task: one of ``data.available()``."""
    options: Any = None
    """An instance of ``data.config_class(name)``."""


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how fast and on what a run trains."""

    batch_size: int
    """Sequences per optimiser step, over all accumulated parts."""
    steps: int
    """Optimiser steps of the whole run."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    accumulate: int | None = None
    """Parts that a batch is cut into, computed one after the other, to save memory; null: one for each device. Divides
    batch_size, and is a multiple of devices. Each part draws its own dropout."""
    devices: int = 1
    """GPUs, or processes where device is cpu, that share one run on this machine: each computes its share of the parts.
    Changes no number but in the last digits."""
    auto_micro_batch: bool = True
    """When a step runs out of memory, compute its parts again in halves, and so on down to single sequences, and keep
    that size for the rest of the run. The batch stays the same, and so do the numbers but for the order of sums and
    for the draws of dropout. false: the run fails."""
    recompute: bool = False
    """Keep no activations inside a block, and compute them again on the way back: less memory, one more forward pass,
    the same numbers."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero; with every schedule, ``constant`` included."""
    schedule: str = "cosine"
    """After the warm-up: cosine (to zero), inverse_sqrt or constant."""
    weight_decay: float = 0.01
    """Of AdamW; never on norms, biases, embeddings and memories."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.98
    """AdamW's decay of the mean of squared gradients."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; null switches clipping off."""
    precision: str = "auto"
    """32, bf16 (mixed) or auto: bf16 on a GPU that has it, else 32."""
    device: str = "auto"
    """cpu, cuda, mps or auto: the best there is."""
    threads: int = 1
    """CPU threads of this process. One is fastest as soon as anything else runs beside it."""
    val_every: int = 100
    """Steps between validations; the last step is always validated."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    checkpoint_every: int = 100
    """Steps between checkpoints: what a killed run may lose."""
    compile: bool = False
    """torch.compile; costs a minute, pays off on long GPU runs."""
    num_workers: int = 0
    """Processes that prepare batches; any number gives the same batches."""
    progress: str = "auto"
    """bar, plain (a line now and then), none, or auto: bar on a terminal, else plain."""

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "steps",
            "devices",
            "threads",
            "val_every",
            "log_every",
            "checkpoint_every",
        ):
            check(getattr(self, name) >= 1, f"trainer.{name}", getattr(self, name), "must be at least 1")
        check(self.num_workers >= 0, "trainer.num_workers", self.num_workers, "must be 0 or more")
        check(0 < self.learning_rate <= 1, "trainer.learning_rate", self.learning_rate, "must lie in (0, 1]")
        check(0 <= self.weight_decay <= 1, "trainer.weight_decay", self.weight_decay, "must lie in [0, 1]")
        for name in ("beta1", "beta2"):
            check(0 <= getattr(self, name) < 1, f"trainer.{name}", getattr(self, name), "must lie in [0, 1)")
        if self.clip_norm is not None:
            check(
                self.clip_norm > 0,
                "trainer.clip_norm",
                self.clip_norm,
                "must be above 0, or null for no clipping",
            )
        check_choice("trainer.schedule", self.schedule, SCHEDULES)
        check_choice("trainer.precision", self.precision, PRECISIONS)
        check_choice("trainer.device", self.device, DEVICES)
        check_choice("trainer.progress", self.progress, PROGRESS)
        self._check_together()

    def _check_together(self) -> None:
        check(
            0 <= self.warmup_steps <= self.steps,
            "trainer.warmup_steps",
            self.warmup_steps,
            f"must lie between 0 and trainer.steps={self.steps}",
        )
        key, value = ("accumulate", self.accumulate) if self.accumulate is not None else ("devices", self.devices)
        check(self.parts >= 1, f"trainer.{key}", value, "must be at least 1")
        check(
            self.parts % self.devices == 0,
            "trainer.accumulate",
            value,
            f"must be a multiple of trainer.devices={self.devices}, or null: one part for each device",
        )
        check(
            self.batch_size % self.parts == 0,
            f"trainer.{key}",
            value,
            f"must divide trainer.batch_size={self.batch_size}",
        )

    @property
    def parts(self) -> int:
        """Parts that a batch is cut into."""
        return self.devices if self.accumulate is None else self.accumulate


@dataclass(frozen=True)
class LoggerConfig:
    """Where metrics are mirrored. The store is always written; this changes no number."""

    name: str = "none"
    """wandb or none."""
    project: str | None = None
    """Project of Weights & Biases."""
    entity: str | None = None
    """User or team of Weights & Biases; null: the login's default."""
    mode: str | None = None
    """offline, online, or auto: online when somebody is logged in, else offline."""

    def __post_init__(self) -> None:
        check_choice("logger.name", self.name, LOGGERS)
        if self.name == "wandb":
            check_choice("logger.mode", self.mode or "auto", WANDB_MODES)
            return
        for name in ("project", "entity", "mode"):
            value = getattr(self, name)
            check(value is None, f"logger.{name}", value, f"has no effect with logger={self.name}")


@dataclass(frozen=True)
class DataConfig:
    """Where data are looked for. Never changes what a run is: the checksum of what was found does."""

    root: str | None = None
    """Folder that holds the data sets; null: $MEMATTN_DATA, if set."""
    cache: str | None = None
    """Folder for encoded data; null: $MEMATTN_CACHE, else ~/.cache/memattn."""
    allow_standin: bool = False
    """scale=paper takes stand-in data too, where a task has no better. (Where there are real ones, they are taken.)"""


@dataclass(frozen=True)
class StoreConfig:
    """Where results go."""

    root: str | None = None
    """Folder that holds runs/ and sweeps/; null: $MEMATTN_RESULTS, else results/ beside run.py."""

    @property
    def folder(self) -> Path:
        """The results folder, absolute."""
        chosen = self.root or os.environ.get("MEMATTN_RESULTS") or REPOSITORY / "results"
        return Path(chosen).expanduser().absolute()

    @property
    def runs(self) -> Path:
        """One folder per run below: <task>/<model>/<hash>-s<seed>."""
        return self.folder / "runs"


@dataclass(frozen=True)
class BenchConfig:
    """What mode=bench measures. Sizes that are null are those of the scale."""

    lengths: tuple[int, ...] = (1024, 4096, 16384, 65536)
    """Tokens in a sequence."""
    batch_size: int = 1
    """Sequences in a step."""
    segment_len: int | None = None
    """Length of a segment (block, window) for all variants that have one."""
    memory_len: int | None = None
    """Memory slots (of FAM: feedback slots) for all variants that have them."""
    piece_len: int = 512
    """Tokens of a piece of a stream."""
    peers: bool = True
    """Measure installed packages from PyPI beside the variants that they correspond to."""
    max_seconds: float = 10.0
    """Of repetitions of one step. Where a single one took longer, greater lengths are skipped."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        check(len(self.lengths) > 0, "bench.lengths", list(self.lengths), "must name at least one length")
        for length in self.lengths:
            check(length >= 1, "bench.lengths", length, "must be at least 1")
        for name in ("batch_size", "segment_len", "memory_len", "piece_len"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"bench.{name}", value, "must be at least 1")
        check(self.max_seconds > 0, "bench.max_seconds", self.max_seconds, "must be above 0")


@dataclass(frozen=True)
class TuneConfig:
    """How mode=tune searches: the same budget for every variant, scores on validation only."""

    trials: int = 16
    """Trials of each search, the configured values (the first) and failed ones included. More go on where it ended."""
    seed: int = 0
    """Of the sampler."""
    sampler: str = "tpe"
    """tpe (draws near what did well) or random."""
    parallel: int = 4
    """Trials of one search at work at once; with 1 each trial knows all before it."""
    space: dict[str, Any] = field(default_factory=dict)
    """What is varied: {times: [a, b]}, {low: a, high: b} or {choices: [...]} for each key (experiments/space.py)."""
    folder: str | None = None
    """Where the chosen values are written; null: conf/recipe/tuned of this checkout, which recipe=tuned reads."""

    def __post_init__(self) -> None:
        for name in ("trials", "parallel"):
            check(getattr(self, name) >= 1, f"tune.{name}", getattr(self, name), "must be at least 1")
        check(self.seed >= 0, "tune.seed", self.seed, "must be 0 or more")
        check_choice("tune.sampler", self.sampler, SAMPLERS)
        read_space(self.space)

    @property
    def files(self) -> Path:
        """One file below for each task and variant: <task>/<model>.yaml."""
        return Path(self.folder).expanduser().absolute() if self.folder else REPOSITORY / "conf" / "recipe" / "tuned"


def check(holds: bool, key: str, value: Any, rule: str) -> None:
    """Refuses a value by one line: the key, the value and the rule.

    Raises:
        ConfigError: the rule does not hold.
    """
    if not holds:
        raise ConfigError(f"{key}={value}: {rule}")


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a word that is none of the choices.

    Raises:
        ConfigError: names what comes close.
    """
    if value not in choices:
        raise ConfigError(unknown(key, value, choices))
