"""Checkpoints that survive a kill at any moment, notice a flipped bit, and run no code when they are read.

Two kinds: ``training`` (Lightning's own content plus ours, to go on from) and ``weights`` (of the best step, to
test with). Both hold plain types and tensors only, and name the run that they belong to. Each carries the SHA-256 of
its content in the comment that ends a zip archive, so that it stays one file that ``torch.load`` reads. The training
checkpoint before the last is kept, for the day on which the last turns out to be damaged.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import nn

from experiments.errors import CheckpointError, DamagedError, warn
from experiments.store import RunFolder, atomic_path

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

#: What the comment of the archive says before the digest.
_SIGNED = b"memattn sha256 "

#: The last record of a zip archive, which ends with the length of the comment behind it.
_END, _END_SIZE = b"PK\x05\x06", 22

#: Bytes that are hashed at once.
_CHUNK = 1 << 20


def save(path: Path, content: Mapping[str, Any], *, kind: Kind, run_id: str, keep_as: Path | None = None) -> None:
    """Replaces a checkpoint as a whole: it is the old one or the new one, whenever process or disk give up.

    Args:
        path: the checkpoint.
        content: plain types and tensors.
        kind: what it is for.
        run_id: of the run that it belongs to.
        keep_as: where the old one goes. A kill in that moment leaves no file at ``path``, but the old one there.

    Raises:
        CheckpointError: it could not be written; the old one is still there.
    """
    # Through memory: a full disk is then an ordinary OSError of one write, not a crash in torch's zip writer.
    buffer = io.BytesIO()
    torch.save({**content, "format": FORMAT, "kind": kind, "run_id": run_id}, buffer)
    _sign(buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
            if keep_as is not None and path.exists():
                _sync(temporary)  # the new one is whole on the disk before the old one leaves its place
                path.replace(keep_as)
        _sync(path.parent)
    except OSError as error:
        is_kept = path.exists() or (keep_as is not None and keep_as.exists())
        kept = "the checkpoint before it is intact; " if is_kept else ""
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}): {kept}"
            "make room or mend the permissions, then run the same command again"
        ) from error


def load(path: Path, *, kind: Kind, run_id: str) -> dict[str, Any]:
    """Reads a checkpoint of this run onto the CPU.

    Raises:
        DamagedError: it is truncated, was changed, or holds more than plain types and tensors.
        CheckpointError: it is missing, of another run, or not one of ours.
    """
    try:
        if not _is_whole(path):
            raise DamagedError(f"{path} is damaged (its content and its digest differ): {_REMEDY}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}): {_REMEDY}") from error
    except _UNREADABLE as error:
        raise DamagedError(f"{path} is truncated or no checkpoint: {_REMEDY}") from error
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


def find_start(folder: RunFolder) -> tuple[Path | None, int]:
    """Where a run goes on: its last checkpoint, the one before when that is damaged, or the start.

    It also starts again when the best weights are damaged, since the test at the end needs them. A step is a function
    of what was before it, so the numbers at the end are the same; only time is lost, and one line says so. Damaged
    files are set aside. Only for whoever holds the run's lock.

    Returns:
        The checkpoint, or None to start from the first weights; and the steps that it has behind it.

    Raises:
        CheckpointError: there is a checkpoint that is whole, but of another run or none of ours.
    """
    remove_leftovers(folder.checkpoints)
    problem = ""
    for path in (folder.last_checkpoint, folder.previous_checkpoint):
        if not path.exists():
            continue
        try:
            content = load(path, kind="training", run_id=folder.run_id)
        except DamagedError:
            problem = problem or f"{path} is damaged (kept as {set_aside(path).name})"
            continue
        if not _best_is_missing(content, folder):
            if problem:
                _warn(folder, f"{problem}: goes on from the checkpoint before it, at step {content['global_step']}")
            return path, content["global_step"]
        problem = f"{folder.best_checkpoint}, which the test at the end needs, is damaged or missing"
        break
    if problem:
        _warn(folder, f"{problem}: starts again from step 0")
        for path in (folder.last_checkpoint, folder.previous_checkpoint):  # of a history that is no more
            path.unlink(missing_ok=True)
    return None, 0


def _best_is_missing(content: Mapping[str, Any], folder: RunFolder) -> bool:
    """Whether a checkpoint knows of a best one that cannot be read; a damaged one is set aside."""
    if not any(state.get("history") for state in content.get("callbacks", {}).values()):
        return False
    try:
        load(folder.best_checkpoint, kind="weights", run_id=folder.run_id)
    except DamagedError:
        set_aside(folder.best_checkpoint)
        return True
    except CheckpointError:
        if folder.best_checkpoint.exists():
            raise
        return True
    return False


def _warn(folder: RunFolder, text: str) -> None:
    warn(text)
    folder.log(text)


def remove_leftovers(folder: Path) -> None:
    """Deletes half-written files of processes that were killed. Only for whoever holds the run's lock."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Takes a damaged checkpoint out of the way, to where nothing reads it and the next one replaces it."""
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    return aside


def _sign(buffer: io.BytesIO) -> None:
    """Appends the digest of everything before the length of the archive's comment, as that comment."""
    with buffer.getbuffer() as content:
        assert content[-_END_SIZE:][:4] == _END, "torch writes an archive without a comment"
        comment = _SIGNED + hashlib.sha256(content[:-2]).hexdigest().encode()
    buffer.seek(-2, io.SEEK_END)
    buffer.write(struct.pack("<H", len(comment)) + comment)


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint holds what was written. Those of before there were digests have none to compare with."""
    length = len(_SIGNED) + hashlib.sha256().digest_size * 2
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(max(0, size - length))
        comment = handle.read()
        if not comment.startswith(_SIGNED):
            return comment[-_END_SIZE:].startswith(_END)
        handle.seek(0)
        digest, left = hashlib.sha256(), size - length - 2
        while left > 0:
            chunk = handle.read(min(left, _CHUNK))
            digest.update(chunk)
            left -= len(chunk) or left
    return comment == _SIGNED + digest.hexdigest().encode()


def _sync(path: Path) -> None:
    """Makes a file, or the renames in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
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
        """See :func:`save`; the checkpoint before it becomes ``previous.ckpt``."""
        keep_as = Path(path).with_name("previous.ckpt")
        save(Path(path), checkpoint, kind="training", run_id=self.run_id, keep_as=keep_as)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See :func:`load`; always weights-only."""
        return load(Path(path), kind="training", run_id=self.run_id)

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes one."""
        Path(path).unlink(missing_ok=True)
