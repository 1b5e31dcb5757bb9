"""What every task is: a source of batches that are pure functions of (seed, step), and one way to be scored.

Shape letters: B sequences in a batch, T symbols in a sequence, C classes, V vocabulary.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

Split = Literal["train", "val", "test"]
Kind = Literal["classify", "pair", "next_token"]
Device = str | torch.device
#: Called with (done, total) in units that the task chooses (symbols streamed, examples scored).
Progress = Callable[[int, int], None]
#: Any callable ``(tokens, mask, state) -> (logits, state)``: a network, or a rule written for a test.
Model = Callable[[Tensor, Tensor | None, Any], tuple[Tensor, Any]]


class DataError(ValueError):
    """Data that are missing, corrupt or of the wrong form: one line that names the file and the remedy."""


class Batch(NamedTuple):
    """One training batch on the CPU.

    ``weights`` are to be used as ``(weights * loss).sum() / B``: their sum over a sequence never depends on
    its length.
    """

    tokens: Tensor  # int64 [B,T], or [B,2,T] for pairs; float32 where inputs are real numbers
    mask: Tensor | None  # bool, same shape as tokens, True = a real symbol; None = nothing is padded
    targets: Tensor  # int64 [B] (classify, pair) or [B,T] (next token)
    weights: Tensor | None = None  # float32 [B,T]; None = every target counts the same


class Source(NamedTuple):
    """Where a task's data come from; name and checksum enter the identity of a run.

    A stand-in is something else than the task is about, for machines that have nothing better: its name begins with
    ``standin-``, so that every record says so. (Another split of the real data is none: it only has its own name.)
    """

    name: str
    checksum: str
    detail: str  # one line: where it was found and, if these are not the official data, how to get those
    is_standin: bool = False


class Evaluation(NamedTuple):
    """Scores of one split. ``metrics`` and ``slices`` are reproducible; the rest describes the work done."""

    metrics: dict[str, float]
    slices: list[dict[str, Any]]
    symbols: int = 0  # symbols that were fed to the model
    seconds: float = 0.0


class Task(ABC):
    """A data set or generator, with its metric.

    A subclass sets the class attributes, and in its ``__init__`` what depends on the configuration; it
    implements ``locate``, ``train_batch`` and ``evaluate``; one that reads files also ``prepare``.

    Args:
        config: an instance of ``config_class``.
        root: folder that holds the data sets; default ``$MEMATTN_DATA``.
        cache: folder for encoded copies; default ``$MEMATTN_CACHE``, else ``~/.cache/memattn``.
        seed: of the training stream. Validation and test examples are the same for every seed.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    config_class: ClassVar[type]
    metric: ClassVar[str]  # the headline
    larger_is_better: ClassVar[bool] = True  # False: the headline is a loss
    unit: ClassVar[str] = "examples"  # what the sizes of splits are counted in
    pair_head: str = "interaction"  # how the model compares the two vectors of a pair, where ``kind`` is "pair"
    card: ClassVar[str] = ""  # the task card: the docstring of the task's module

    vocab_size: int | None  # None: inputs are real numbers
    num_classes: int | None
    max_len: int  # the longest training input; bounds learned positions
    longest_test: int | None = None  # the longest test input, where that is longer than the longest training input
    floors: dict[str, float]  # what trivial solutions reach, the headline's first; complete after ``prepare``

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.card = sys.modules[cls.__module__].__doc__ or ""

    def __init__(
        self, config: Any, *, root: str | Path | None = None, cache: str | Path | None = None, seed: int = 0
    ) -> None:
        if not isinstance(config, self.config_class):
            wanted, got = self.config_class.__name__, type(config).__name__
            raise ValueError(f"task {self.name}: config must be of type {wanted}, got {got}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.config: Any = config
        self.root = Path(root).expanduser() if root else None
        self.cache = cache_folder(cache)
        self.seed = seed

    @property
    def folder(self) -> Path | None:
        """The folder of data sets: ``root``, else ``$MEMATTN_DATA``; None where neither is set."""
        variable = os.environ.get("MEMATTN_DATA")
        return self.root or (Path(variable).expanduser() if variable else None)

    def lacking(self, what: str) -> str:
        """One clause: why the folder of data sets does not serve, which should hold ``what``."""
        if self.folder is None:
            return "neither data.root nor MEMATTN_DATA is set"
        named = f"{'data.root' if self.root else 'MEMATTN_DATA'}={self.folder}"
        return f"{named} holds {what}" if self.folder.is_dir() else f"{named} is no folder"

    @abstractmethod
    def locate(self) -> Source:
        """Finds and verifies the data, fast enough for a preview; raises DataError when there are none."""

    def prepare(self) -> None:
        """Encodes and caches the data, if there are any. Safe when two processes do it at once."""
        self.locate()

    def split_sizes(self) -> dict[Split, int]:
        """What each split holds, in ``unit``, prepared if need be; empty where examples are made when asked for."""
        return {}

    def merit(self, value: float) -> float:
        """A value of the headline metric as a number of which more is always better: what comparisons go by."""
        return value if self.larger_is_better else -value

    @abstractmethod
    def train_batch(self, step: int, batch_size: int) -> Batch:
        """The batch of one optimiser step: a function of (seed, step, batch_size), so resume is exact."""

    @abstractmethod
    def evaluate(
        self,
        model: Model,
        split: Split,
        *,
        batch_size: int,
        device: Device = "cpu",
        progress: Progress | None = None,
    ) -> Evaluation:
        """Scores a model on a whole split; batch size and device change no example and no order of rows."""


def refuse_standin(task: str, source: Source, *, scale: str, allowed: bool) -> None:
    """Holds the paper's scale to real data.

    Raises:
        DataError: at ``scale=paper`` only a stand-in was found, and nobody has said that it may serve.
    """
    assert source.is_standin == source.name.startswith("standin-"), f"task {task}: a stand-in is called standin-..."
    if source.is_standin and scale == "paper" and not allowed:
        raise DataError(
            f"{task}: scale=paper refuses the stand-in {source.name}: {source.detail}; "
            "or take it all the same with data.allow_standin=true"
        )


def cache_folder(cache: str | Path | None = None) -> Path:
    """The folder for encoded data: the argument, else ``$MEMATTN_CACHE``, else ``~/.cache/memattn``."""
    return Path(cache or os.environ.get("MEMATTN_CACHE") or "~/.cache/memattn").expanduser()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Switches dropout and gradients off, and puts the model back as it was.

    ``no_grad`` and not ``inference_mode``: tables that a model caches while it is scored must stay usable in
    training.
    """
    was_training = isinstance(model, torch.nn.Module) and model.training
    if isinstance(model, torch.nn.Module):
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if isinstance(model, torch.nn.Module) and was_training:
            model.train()
