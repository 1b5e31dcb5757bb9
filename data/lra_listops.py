"""ListOps: the value of a nested list of operations on digits. From the Long Range Arena (LRA, arXiv 2011.04006).

Task card
    Source      listops-generated  made here from a seed, by LRA's recipe: a node is an operator with probability
                                   1/4 where the depth allows one, else a digit; operators and digits are uniform,
                                   an operator has 2 to ``max_args`` arguments; an expression is kept if its length
                                   lies strictly between ``min_len`` and ``max_len`` and it is new.
                listops-files      LRA's own basic_{train,val,test}.tsv, if data.root (or MEMATTN_DATA) holds
                                   listops-1000/. Never compare numbers across sources.
    Splits      train 96,000, val 2,000, test 2,000, all distinct. Test is drawn first, so that it does not depend
                on how many are for training.
    Vocabulary  16: 0 = pad, digits 1 to 10, [MIN [MAX [MED [SM 11 to 14, ] 15. No round brackets.
    Operators   minimum, maximum, median (of an even count: the mean of the middle two, rounded down), sum modulo 10.
    Length      in symbols, see the table. A batch is padded to its own longest expression only, and masked.
    Truncated   nothing: an expression that is too long for ``max_len`` is an error.
    Metric      accuracy over 10 classes, the digit that an expression evaluates to; by length, depth (operators
                inside each other) and the operator at the root.
    Floors      root_operator: the answer that is most frequent in training for the first symbol of the expression,
                which most of LRA's published models do not beat; majority: the most frequent answer. Measured on
                the test split when the data are prepared: with LRA's sizes 0.350 and 0.176, where 20,000
                expressions of LRA's own sampler give 0.363 and 0.170 (2,000 are good for +-0.02).

    LRA's sizes     mean   10 %  median   90 %   depth   answers 0 to 9, in %
    LRA's sampler  1,039    579     961  1,649       9   17.0  9.0  7.7  8.1  9.1  8.7  8.0  7.5  8.2 16.7
    generated      1,036    577     956  1,645       9   17.0  9.1  7.7  8.4  9.0  8.6  7.6  7.2  8.7 16.7

    Laptop      17 to 63 symbols (mean 24), up to 5 arguments, nearly all of depth 3; floors 0.235 and 0.116. Measured
                on test, 5,000 steps, seed 0: transformer 0.401, luna 0.417 in 101 and 114 s of CPU time; sums (SM)
                stay at chance, so this is not a solved task.

Example:
    [MAX 4 [SM 3 8 ] 2 ], the answer is 4 ->
    12 5 14 4 9 15 3 15

Unlike LRA: a seed (LRA's has none); symbols have fixed ids (LRA's depend on Python's hash seed); its loader writes X
for the closing bracket. The recipe is that of LRA's published code; with which options the released files were made is
not known, and no copy of them was at hand to compare with.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data._classify import SPLITS, ClassificationTask, Sequences, padded_batch, read_sequences, write_sequences
from data._listops import (
    CLOSE,
    FILES_HINT,
    FOLDER,
    OPEN,
    OPERATORS,
    WORDS,
    Ints,
    LraListopsConfig,
    find_files,
    generate,
    nesting,
    read_files,
)
from data._sources import build_once, remembered, sha256_of
from data.base import Batch, DataError, Source, Split


def measure_floors(train: Sequences, test: Sequences) -> dict[str, float]:
    """What the most frequent answers of training reach on test: for each root operator, and for all together."""
    counts = np.zeros((CLOSE - OPEN, 10), dtype=np.int64)
    np.add.at(counts, (train.symbols[train.offsets[:-1]] - OPEN, train.labels), 1)
    by_root = counts.argmax(axis=1)[test.symbols[test.offsets[:-1]] - OPEN]
    return {
        "root_operator": float((by_root == test.labels).mean()),
        "majority": float((counts.sum(axis=0).argmax() == test.labels).mean()),
    }


class LraListops(ClassificationTask):
    """The lra_listops task; see the card on top of this file."""

    name: ClassVar[str] = "lra_listops"
    config_class: ClassVar[type] = LraListopsConfig

    def __init__(self, config: LraListopsConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: LraListopsConfig = config
        self.vocab_size = 1 + len(WORDS)
        self.num_classes = 10
        self.max_len = config.max_len
        self.floors = {}  # measured by prepare
        self._found: tuple[Source, list[Path] | None] | None = None
        self._splits: dict[Split, Sequences] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes open the memory-mapped files anew instead of receiving copies."""
        return {**super().__getstate__(), "_splits": {}}

    def locate(self) -> Source:
        """Finds LRA's files, if they are to be read; nothing is generated yet."""
        return self._locate()[0]

    def _locate(self) -> tuple[Source, list[Path] | None]:
        if self._found is None:
            paths = None if self.config.source == "generated" else self._find_files()
            self._found = (self._of_files(paths) if paths else self._of_generator(), paths)
        return self._found

    def _find_files(self) -> list[Path] | None:
        paths = None if self.folder is None else find_files(self.folder)
        if paths is None and (self.root or self.config.source == "files"):  # asked for, so never replaced
            reason = self.lacking(f"no {FOLDER}/basic_train.tsv")
            raise DataError(f"lra_listops: {reason}; {FILES_HINT}, or set task.source=generated")
        return paths

    def _of_files(self, paths: list[Path]) -> Source:
        checksum = remembered(self.cache, paths, lambda: _digest([sha256_of(path) for path in paths]))
        return Source("listops-files", checksum, f"LRA's files ({paths[0].parent})")

    def _of_generator(self) -> Source:
        detail = f"expressions of our own by LRA's recipe; for LRA's own {FILES_HINT} and task.source=files"
        return Source("listops-generated", _digest(self.config.recipe()), detail)

    def prepare(self) -> None:
        """Generates or reads the expressions into the cache, once; later calls cost next to nothing."""
        source, paths = self._locate()

        def build(folder: Path) -> None:
            parts = read_files(paths, self.config) if paths else generate(self.config)
            for split, part in parts.items():
                write_sequences(folder, split, part)
            (folder / "floors.json").write_text(json.dumps(measure_floors(parts["train"], parts["test"])))

        key = _digest({**self.config.recipe(), "data": source.checksum})
        folder = self.cache / self.name / f"{source.name}-{key[:16]}"
        build_once(folder, build)
        self._splits = {split: read_sequences(folder, split) for split in SPLITS}
        self.floors = json.loads((folder / "floors.json").read_text())

    def split(self, split: Split) -> Sequences:
        """One encoded split, prepared if need be."""
        if not self._splits:
            self.prepare()
        return self._splits[split]

    def lengths(self, split: Split) -> Ints:
        """Symbols of each expression."""
        return self.split(split).lengths

    def make_batch(self, split: Split, rows: Ints) -> Batch:
        """Some expressions, symbol by symbol."""
        return padded_batch(self.split(split), rows, self.config.max_len)

    def slices(self, split: Split, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Accuracy by quarter of the admitted lengths, depth and operator at the root, each cell by itself."""
        part = self.split(split)
        edges = np.linspace(self.config.min_len, self.config.max_len, 5).astype(np.int64)
        quarter = np.searchsorted(edges, part.lengths, side="right") - 1
        depth = np.maximum.reduceat(nesting(part.symbols), part.offsets[:-1])
        root = part.symbols[part.offsets[:-1]]
        cells, inverse = np.unique(np.stack([quarter, depth, root], axis=1), axis=0, return_inverse=True)
        hits = np.bincount(inverse, correct)
        return [
            {
                "length_from": int(edges[low]),
                "length_to": int(edges[low + 1]),
                "depth": int(levels),
                "root": OPERATORS[operator - OPEN],
                "n": int(count),
                "accuracy": float(hit / count),
            }
            for (low, levels, operator), hit, count in zip(cells, hits, np.bincount(inverse), strict=True)
        ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
