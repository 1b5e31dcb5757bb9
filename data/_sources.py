"""Finding, checking and caching data files: what every task that reads files needs.

Where a data set can lie: parquet in a local folder, the cache of the ``datasets`` library, or the Hugging
Face hub. No source is tried for more than a few seconds, and whatever goes wrong ends in one line that names
the file and the remedy.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data.base import DataError

#: The files of each split.
Files = Mapping[str, Sequence[Path]]

Found = TypeVar("Found")

_PROBE_SECONDS = 3.0
_INDEX = "index.json"

#: Cached files up to this size are compared with their digest whenever a process opens them; of larger ones, which
#: would cost seconds, the size alone.
_DIGESTED_BYTES = 1 << 28


# Finding


def find_parquet(folder: Path, splits: Sequence[str]) -> Files | None:
    """Parquet files ``<split>.parquet`` or, as the hub names them, ``<split>-00000-of-00001.parquet``.

    Returns:
        The files, or None if the folder holds none of the splits.

    Raises:
        DataError: the folder holds some of the splits only.
    """
    found = {split: _parquet_of_split(folder, split) for split in splits}
    missing = [split for split, paths in found.items() if not paths]
    if len(missing) == len(splits):
        return None
    if missing:
        wanted = " and ".join(f"{split}.parquet" for split in splits)
        raise DataError(f"{folder}: {missing[0]}.parquet is missing; put {wanted} there")
    return found


def _parquet_of_split(folder: Path, split: str) -> list[Path]:
    single = folder / f"{split}.parquet"
    return [single] if single.is_file() else sorted(folder.glob(f"{split}-*-of-*.parquet"))


def find_on_hub(repo: str, config: str, splits: Sequence[str]) -> tuple[Files | None, str]:
    """A data set of the Hugging Face hub: the cached copy, else a download through ``datasets``.

    Returns:
        The Arrow files of each split, or None; and one clause that says where they are or why there are none.
    """
    cached = _find_arrow(repo, config, splits)
    if cached:
        return cached, f"cached copy of huggingface.co/datasets/{repo}"
    if any(_is_true(os.environ.get(name)) for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        return None, "the Hugging Face hub is switched off (HF_HUB_OFFLINE) and nothing is cached"
    if not _hub_is_reachable(repo, config, splits[0]):
        return None, "the Hugging Face hub cannot be reached"
    import datasets  # not at the top: it takes a second, and is needed for nothing but this download

    try:
        datasets.load_dataset(repo, config)
    except Exception as error:  # whatever the library raises: the next source is tried, and this says why
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None, f"the download from the Hugging Face hub failed ({reason})"
    return _find_arrow(repo, config, splits), f"huggingface.co/datasets/{repo}"


def _is_true(value: str | None) -> bool:
    return (value or "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _find_arrow(repo: str, config: str, splits: Sequence[str]) -> Files | None:
    """The newest complete copy in the cache of ``datasets``, found without importing that library."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets").expanduser()
    folders = cache.glob(f"{repo.replace('/', '___')}/{config}/*/*/")
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        found = {split: sorted(folder.glob(f"*-{split}*.arrow")) for split in splits}
        if all(found.values()):
            return found
    return None


def _hub_is_reachable(repo: str, config: str, split: str) -> bool:
    """Asks for four bytes of the very file that is wanted.

    So a login page or a blocked file server counts as unreachable too. In a thread of its own, since looking
    up a host name knows no time limit.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/datasets/{repo}/resolve/main/{config}/{split}-00000-of-00001.parquet"
    answer: list[bytes] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, headers={"Range": "bytes=0-3"})
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS) as response:
                answer.append(response.read(4))
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return answer == [b"PAR1"]


class Search(NamedTuple, Generic[Found]):
    """What came out of :func:`search`."""

    kind: str  # the finder that found something; "" if none did
    found: Found | None
    where: str
    wanted: str  # what was looked for: the option, or "folder" where one was named
    tried: list[str]  # why the finders before did not serve


def search(
    source: str, root: Path | None, finders: Mapping[str, Callable[[], tuple[Found | None, str]]]
) -> Search[Found]:
    """Asks one finder after the other, or the one that the option ``source`` names.

    Args:
        source: "auto", the name of a finder, or something that no finder looks for.
        root: the folder that was asked for, if any: it is never silently replaced by another source.
        finders: by name, in order; each gives what it found, or None, and where or why not.
    """
    wanted = "folder" if source == "auto" and root is not None else source
    tried: list[str] = []
    for kind, find in finders.items():
        if wanted in ("auto", kind):
            found, where = find()
            if found:
                return Search(kind, found, where, wanted, tried)
            tried.append(where)
    return Search("", None, "", wanted, tried)


# Reading and checking


def read_columns(paths: Sequence[Path], columns: Sequence[str], remedy: str) -> pa.Table:
    """Reads columns from parquet or Arrow files.

    Raises:
        DataError: a file cannot be read or lacks a column; the line ends with ``remedy``.
    """
    tables = []
    for path in paths:
        with _readable(path, remedy):
            table = _read_arrow(path) if path.suffix == ".arrow" else pq.read_table(path)
        missing = [name for name in columns if name not in table.column_names]
        if missing:
            has = ", ".join(table.column_names)
            raise DataError(f"{path}: column '{missing[0]}' is missing (it has: {has}); {remedy}")
        tables.append(table.select(columns))
    return pa.concat_tables(tables, promote_options="permissive")


def column_names(path: Path, remedy: str) -> list[str]:
    """The columns of a parquet or Arrow file.

    Raises:
        DataError: the file cannot be read; the line ends with ``remedy``.
    """
    with _readable(path, remedy):
        return _read_arrow(path).column_names if path.suffix == ".arrow" else pq.read_schema(path).names


@contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}); {remedy}") from error


def _read_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(cache: Path, paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """A digest of files, computed anew only when path, size or time of change of one of them has changed."""
    stamps = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    note = cache / "checksums" / hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    with suppress(OSError, ValueError):
        if known := note.read_text():  # empty where the power failed
            return known
    digest = compute()
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as file:
            file.write(digest)
        os.replace(file.name, note)
    except OSError:
        pass  # a read-only cache costs time, nothing else; building the data there will say so
    return digest


# Caching


def build_once(folder: Path, build: Callable[[Path], None], *, resume: bool = False) -> None:
    """Fills ``folder`` by calling ``build`` on an empty folder beside it, unless it is there and whole.

    The finished folder appears in one rename; a second process waits and then finds it done. With ``resume``,
    ``build`` gets the folder as a process that was killed has left it. An index beside the files holds their sizes and
    digests: what was truncated, or is no larger than 256 MiB and was changed in any bit, is made anew.

    Raises:
        DataError: the cache cannot be written.
    """
    if _is_whole(folder):  # also in a cache that is read-only
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock"):
            if _is_whole(folder):
                return
            partial = folder.parent / f".{folder.name}.partial"
            for leftover in (folder,) if resume else (partial, folder):  # of a killed process, or damaged since
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(exist_ok=resume)
            try:
                build(partial)
                index = {path.name: _entry(path) for path in partial.iterdir()}
                (partial / _INDEX).write_text(json.dumps(index))
                partial.rename(folder)
            finally:
                if not resume:
                    shutil.rmtree(partial, ignore_errors=True)  # what failed must not fill the disk on top
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{folder}: the data cache cannot be written ({reason}); "
            "free space there, or set data.cache or MEMATTN_CACHE to another folder"
        ) from error


def _entry(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"size": size, "sha256": sha256_of(path) if size <= _DIGESTED_BYTES else None}


def _is_whole(folder: Path) -> bool:
    try:
        index = json.loads((folder / _INDEX).read_text())
        return bool(index) and all(_is_as_written(folder / name, entry) for name, entry in dict(index).items())
    except (OSError, ValueError, TypeError, KeyError):  # whatever a damaged index holds
        return False


def _is_as_written(path: Path, entry: Any) -> bool:
    if isinstance(entry, int):  # the size, all that there was before there were digests
        return path.stat().st_size == entry
    found = path.stat()
    if found.st_size != entry["size"]:
        return False
    digest = entry["sha256"]
    return digest is None or _digest_of(path, found.st_size, found.st_mtime_ns) == digest


@functools.lru_cache(maxsize=64)  # a run asks several times
def _digest_of(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back
