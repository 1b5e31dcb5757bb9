"""Checkpoints that survive a kill at any moment and run no code when they are read.

Two kinds: ``training`` (Lightning's own content plus ours, to go on from) and ``weights`` (of the best step, to
test with). Both hold plain types and tensors only, and name the run that they belong to.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import nn

from experiments.errors import CheckpointError
from experiments.store import atomic_path

Kind = Literal["training", "weights"]

#: Raised when a reader could not understand a file that an older version wrote.
FORMAT = 1

#: What torch.load raises for files that are torn, are something else, or hold more than plain types.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    EOFError,
)

_REMEDY = "start this run over with force=true"


def save(path: Path, content: Mapping[str, Any], *, kind: Kind, run_id: str) -> None:
    """Replaces a checkpoint as a whole: it is the old one or the new one, whenever process or disk give up.

    Raises:
        CheckpointError: it could not be written; the old one is still there.
    """
    # Through memory: a full disk is then an ordinary OSError of one write, not a crash in torch's zip writer.
    buffer = io.BytesIO()
    torch.save({**content, "format": FORMAT, "kind": kind, "run_id": run_id}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        _sync_folder(path.parent)
    except OSError as error:
        kept = "the checkpoint before it is intact; " if path.exists() else ""
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}): {kept}"
            "make room or mend the permissions, then run the same command again"
        ) from error


def load(path: Path, *, kind: Kind, run_id: str) -> dict[str, Any]:
    """Reads a checkpoint of this run onto the CPU.

    Raises:
        CheckpointError: it is missing, truncated, of another run, or not one of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}): {_REMEDY}") from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is truncated or no checkpoint: {_REMEDY}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("kind") != kind:
        raise CheckpointError(f"{path} is no {kind} checkpoint of this program: {_REMEDY}")
    if content.get("run_id") != run_id:
        raise CheckpointError(f"{path} belongs to another run ({content.get('run_id')}): {_REMEDY}")
    return content


def load_weights(model: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Puts stored weights into a model.

    Raises:
        CheckpointError: they do not fit it.
    """
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    stored = {name: getattr(tensor, "shape", None) for name, tensor in weights.items()}
    if expected != stored:
        name = min(name for name in expected | stored if expected.get(name) != stored.get(name))
        raise CheckpointError(f"{path} holds another model ({name} differs): {_REMEDY}")
    model.load_state_dict(weights)


def remove_leftovers(folder: Path) -> None:
    """Deletes half-written files of processes that were killed. Only for whoever holds the run's lock."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RunCheckpointIO(CheckpointIO):
    """How Lightning writes and reads the ``training`` checkpoint of one run."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See :func:`save`."""
        save(Path(path), checkpoint, kind="training", run_id=self.run_id)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See :func:`load`; always weights-only."""
        return load(Path(path), kind="training", run_id=self.run_id)

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes one."""
        Path(path).unlink(missing_ok=True)
