"""Pairs of papers of the ACL Anthology Network, in the two layouts that they lie around in.

``tsv``      LRA's: ``new_aan_pairs.{train,eval,test}.tsv``, rows ``label id1 id2 text1 text2`` between tabs, no header
             and no quoting; the whole is many gigabytes, so it is read line by line.
``parquet``  small: ``papers.parquet`` (id, text) and ``pairs_{train,eval,test}.parquet`` (label, id1, id2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data._pairs import Example, Text
from data._sources import read_columns
from data.base import DataError, Split

HINT = (
    "for LRA's pairs put new_aan_pairs.{train,eval,test}.tsv (lra_release/lra_release/tsv_data of its lra_release.gz) "
    "into DIR/aan and set data.root=DIR or MEMATTN_DATA=DIR"
)

_NAMES: Mapping[Split, str] = {"train": "train", "val": "eval", "test": "test"}
_FOLDERS = {
    "tsv": (".", "aan", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data"),
    "parquet": (".", "aan_mini", "aan"),
}
_FILES = {
    "tsv": {name: f"new_aan_pairs.{name}.tsv" for name in _NAMES.values()},
    "parquet": {"papers": "papers.parquet"} | {name: f"pairs_{name}.parquet" for name in _NAMES.values()},
}
_FEWEST = 10  # pairs of a split


class AanFiles(NamedTuple):
    """Files that were found, not yet read."""

    kind: str  # tsv or parquet
    paths: Mapping[str, Path]  # by split's name and, of parquet, "papers"


def find_aan(root: Path) -> AanFiles | None:
    """The pairs below a folder, LRA's layout before the small one.

    Raises:
        DataError: a folder holds some of the files only.
    """
    for kind, names in _FILES.items():
        for folder in (root / place for place in _FOLDERS[kind]):
            paths = {key: folder / name for key, name in names.items()}
            missing = [path.name for path in paths.values() if not path.is_file()]
            if not missing:
                return AanFiles(kind, paths)
            if len(missing) < len(paths):
                raise DataError(f"{folder}: {missing[0]} is missing; {' and '.join(names.values())} belong together")
    return None


def read_aan(files: AanFiles) -> Iterator[Example]:
    """All pairs, split by split.

    Raises:
        DataError: whatever is wrong with a file, in one line.
    """
    papers = _read_papers(files.paths["papers"]) if files.kind == "parquet" else {}
    for split, name in _NAMES.items():
        path, count = files.paths[name], 0
        rows = _read_tsv(path) if files.kind == "tsv" else _read_links(path, papers)
        for label, first, second in rows:
            count += 1
            yield Example(split, label, first, second)
        if count < _FEWEST:
            raise DataError(f"{path}: holds {count} pairs, too few; {HINT}")


def _read_tsv(path: Path) -> Iterator[tuple[int, Text, Text]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}: line {number}"
                fields = line.rstrip(b"\r\n").split(b"\t")
                if len(fields) != 5:
                    wanted = "not the 5 of label, id1, id2, text1, text2 between tabs"
                    raise DataError(f"{where} has {len(fields)} columns, {wanted}; {HINT}")
                _check_utf8(line, where)
                label, texts = _label(fields[0].decode(), where), fields[3:]
                for name, text in zip(fields[1:3], texts, strict=True):
                    if not text:
                        raise DataError(f"{where}: paper {name.decode()} has no text; {HINT}")
                yield label, Text.of(texts[0]), Text.of(texts[1])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {HINT}") from error


def _check_utf8(raw: bytes, where: str) -> None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at {error.start}"
        raise DataError(f"{where} is not UTF-8 ({byte}); convert it, say with `iconv -f latin1 -t utf8`") from error


def _label(value: Any, where: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if number not in (0.0, 1.0):
        raise DataError(f"{where} has the label {value!r}, not 0 or 1; {HINT}")
    return int(number)


def _read_papers(path: Path) -> dict[str, Text]:
    table = read_columns([path], ("id", "text"), HINT)
    try:
        contents = table.column("text").cast(pa.large_binary()).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path}: column 'text' holds {table.schema.field('text').type}, not text; {HINT}") from error
    papers: dict[str, Text] = {}
    for name, content in zip(map(str, table.column("id").to_pylist()), contents, strict=True):
        if name in papers:
            raise DataError(f"{path}: paper {name} stands there twice; {HINT}")
        _check_utf8(content or b"", f"{path}: paper {name}")
        papers[name] = Text.of(content or b"")
    return papers


def _read_links(path: Path, papers: Mapping[str, Text]) -> Iterator[tuple[int, Text, Text]]:
    table = read_columns([path], ("label", "id1", "id2"), HINT)
    labels, *names = (table.column(column).to_pylist() for column in ("label", "id1", "id2"))
    for row, (value, first, second) in enumerate(zip(labels, *names, strict=True)):
        label = _label(value, f"{path}: row {row}")
        for name in (str(first), str(second)):
            if name not in papers or not papers[name].content:
                raise DataError(f"{path}: row {row}: paper {name} has no text in papers.parquet; {HINT}")
        yield label, papers[str(first)], papers[str(second)]
