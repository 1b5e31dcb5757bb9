"""ListOps: expressions by LRA's recipe and their values, and LRA's own files. Its card: lra_listops.py."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data._classify import SPLITS, Sequences
from data.base import DataError, Split

Symbols = NDArray[np.uint8]
Ints = NDArray[np.int64]

OPERATORS = ("MIN", "MAX", "MED", "SM")
WORDS = (*"0123456789", *(f"[{name}" for name in OPERATORS), "]")  # a symbol is its place here, its id one more
OPEN, CLOSE = 10, 14  # symbols 10 to 13 open an operator

FOLDER = "listops-1000"
FILES_HINT = f"put LRA's basic_train.tsv, basic_val.tsv and basic_test.tsv into DIR/{FOLDER} and set data.root=DIR"

_VERSION = 1  # raise when the same options yield other expressions
_ROOTS = 2048  # expressions that are drawn at once; part of the recipe, as each chunk has its own random numbers
_PATIENCE = 200  # chunks without a tenth of the wanted expressions after which one gives up
_ORDER: tuple[Split, ...] = ("test", "val", "train")  # in which generated expressions are handed out


@dataclass(frozen=True)
class LraListopsConfig:
    """Options of the lra_listops task; the defaults are LRA's."""

    min_len: int = 500
    """Expressions are longer than this, in symbols."""
    max_len: int = 2000
    """Expressions are shorter than this."""
    max_depth: int = 10
    """Levels of the tree, the level of the innermost digits included."""
    max_args: int = 10
    """Most arguments of an operator; the least is 2."""
    train_size: int = 96_000
    """Expressions to train on; of LRA's files, the first so many."""
    val_size: int = 2_000
    """Expressions to validate on."""
    test_size: int = 2_000
    """Expressions to test on."""
    generator_seed: int = 0
    """Seed of the expressions, the same for all runs that are compared; without effect on LRA's files."""
    source: str = "auto"
    """Where from: "generated", "files" or "auto" (files, if data.root is set or MEMATTN_DATA holds them)."""

    def __post_init__(self) -> None:
        for key, least in (("min_len", 0), ("max_depth", 2), ("max_args", 2), ("generator_seed", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"task.{key} must be {least} or more, got {getattr(self, key)}")
        for split in SPLITS:
            if getattr(self, f"{split}_size") < 1:
                raise ValueError(f"task.{split}_size must be 1 or more, got {getattr(self, f'{split}_size')}")
        if self.max_len < self.min_len + 2:
            raise ValueError(f"task.max_len must be task.min_len={self.min_len} plus 2 or more, got {self.max_len}")
        if self.source not in ("auto", "generated", "files"):
            raise ValueError(f"task.source must be 'auto', 'generated' or 'files', got '{self.source}'")

    def size(self, split: Split) -> int:
        """Expressions of a split."""
        return {"train": self.train_size, "val": self.val_size, "test": self.test_size}[split]

    def recipe(self) -> dict[str, Any]:
        """All that decides which expressions there are: everything but where they are looked for."""
        return {**asdict(self), "source": None, "version": _VERSION}


# Generating


class _Level(NamedTuple):
    """All nodes of one depth, tree by tree; the children of a node stand together, in the order of their parents."""

    tree: Ints
    symbol: Symbols
    num_args: Ints  # 0 for a digit

    def of(self, trees: NDArray[np.bool_]) -> _Level:
        """The nodes of the marked trees."""
        keep = trees[self.tree]
        return _Level(self.tree[keep], self.symbol[keep], self.num_args[keep])


def draw_expressions(config: LraListopsConfig, chunk: int) -> tuple[Symbols, Ints]:
    """Draws expressions of an admitted length, not necessarily distinct: a function of its arguments alone.

    Returns:
        The symbols of all of them, one behind the other, and the offsets ``[n+1]`` at which they begin.
    """
    levels, lengths = _grow(config, chunk)
    accepted = (lengths > config.min_len) & (lengths < config.max_len)
    offsets = np.concatenate([[0], np.cumsum(lengths[accepted])])
    return _write([level.of(accepted) for level in levels], offsets), offsets


def _grow(config: LraListopsConfig, chunk: int) -> tuple[list[_Level], Ints]:
    """Grows trees level by level; one that has become too long grows no further.

    Only the raw words of the Philox counter are used, one for each node: NumPy may change all else between
    versions. A root that is a digit would be thrown away for its length, so all roots are operators.
    """
    random = np.random.Philox(key=np.array([config.generator_seed, chunk], dtype=np.uint64))
    tree = np.arange(_ROOTS)
    lengths = np.zeros(_ROOTS, dtype=np.int64)
    levels = []
    for depth in range(1, config.max_depth + 1):
        if not len(tree):
            break
        words = random.random_raw(len(tree))
        high = words >> np.uint64(32)
        is_operator = (words & np.uint64(3)) == 0 if 1 < depth < config.max_depth else np.full(len(tree), depth == 1)
        operator = OPEN + ((words >> np.uint64(2)) & np.uint64(3))
        digit = (high * np.uint64(10)) >> np.uint64(32)
        num_args = 2 + ((high * np.uint64(config.max_args - 1)) >> np.uint64(32)).astype(np.int64)
        num_args[~is_operator] = 0
        levels.append(_Level(tree, np.where(is_operator, operator, digit).astype(np.uint8), num_args))
        lengths += np.bincount(tree, 1 + is_operator, _ROOTS).astype(np.int64)
        least = lengths + np.bincount(tree, num_args, _ROOTS).astype(np.int64)
        lengths[least >= config.max_len] = config.max_len
        tree = np.repeat(tree, np.where(least[tree] < config.max_len, num_args, 0))
    return levels, lengths


def _write(levels: list[_Level], offsets: Ints) -> Symbols:
    """Whole trees as symbols: what is inside a node stands between its operator and its bracket."""
    lengths = [1 + (level.num_args > 0) for level in levels]
    for depth in reversed(range(len(levels) - 1)):
        parents = levels[depth].num_args > 0
        if parents.any():
            first = np.cumsum(levels[depth].num_args[parents]) - levels[depth].num_args[parents]
            lengths[depth][parents] += np.add.reduceat(lengths[depth + 1], first)
    symbols = np.full(offsets[-1], CLOSE, dtype=np.uint8)  # the brackets are what nothing is written over
    places = offsets[:-1]
    for level, inside in zip(levels, [*lengths[1:], None], strict=True):
        symbols[places] = level.symbol
        if inside is not None:
            parents = level.num_args > 0
            num_args = level.num_args[parents]
            before = np.cumsum(inside) - inside  # symbols of the next level in front of each node, over all trees
            shift = places[parents] + 1 - before[np.cumsum(num_args) - num_args]
            places = np.repeat(shift, num_args) + before
    return symbols


# Evaluating


def nesting(symbols: Symbols) -> NDArray[np.int32]:
    """How many operators stand around each symbol; of an operator and its bracket, those around both."""
    opens = (symbols >= OPEN) & (symbols < CLOSE)
    return np.cumsum(opens.astype(np.int32) - (symbols == CLOSE), dtype=np.int32) - opens


def solve(symbols: Symbols, offsets: Ints) -> Ints:
    """The values of well-formed expressions that stand one behind the other, from the innermost operators out."""
    opens = (symbols >= OPEN) & (symbols < CLOSE)
    around = np.where(symbols == CLOSE, -1, nesting(symbols))
    values = symbols.astype(np.int64)
    for depth in range(int(around.max(initial=0)), 0, -1):
        inside = np.flatnonzero(around == depth)
        heads = np.flatnonzero(opens & (around == depth - 1))
        values[heads] = _apply(symbols[heads], values[inside], np.searchsorted(inside, heads))
    return values[offsets[:-1]]


def _apply(operators: Symbols, values: Ints, first: Ints) -> Ints:
    """One value for each operator, whose arguments are the values from its ``first`` on."""
    count = np.diff(first, append=len(values))
    owner = np.repeat(np.arange(len(count)), count)
    table = np.full((len(count), int(count.max())), 10, dtype=np.int8)  # 10 sorts behind every digit
    table[owner, np.arange(len(values)) - first[owner]] = values
    table.sort(axis=1)
    row = np.arange(len(count))
    median = (table[row, (count - 1) // 2] + table[row, count // 2]) // 2
    total = np.add.reduceat(values, first) % 10
    return np.choose(operators - OPEN, (table[:, 0], table[row, count - 1], median, total))


def generate(config: LraListopsConfig) -> dict[Split, Sequences]:
    """Draws the distinct expressions of all splits.

    Raises:
        DataError: there are too few such expressions.
    """
    wanted = sum(config.size(split) for split in SPLITS)
    seen: set[bytes] = set()
    texts: list[bytes] = []
    labels: list[int] = []
    for chunk in itertools.count():
        symbols, offsets = draw_expressions(config, chunk)
        values = solve(symbols, offsets).tolist()
        for (start, stop), value in zip(itertools.pairwise(offsets.tolist()), values, strict=True):
            text = symbols[start:stop].tobytes()
            if not _is_known(text, seen):
                texts.append(text)
                labels.append(value)
        if len(texts) >= wanted:
            break
        if chunk >= _PATIENCE and len(texts) < chunk:
            raise DataError(
                f"lra_listops: of {chunk * _ROOTS:,} expressions only {len(texts):,} are distinct and between "
                f"task.min_len={config.min_len} and task.max_len={config.max_len}, where {wanted:,} are wanted; "
                "widen these, raise task.max_depth or task.max_args, or lower task.train_size"
            )
    parts: dict[Split, Sequences] = {}
    first = 0
    for split in _ORDER:
        last = first + config.size(split)
        parts[split] = _sequences(texts[first:last], labels[first:last])
        first = last
    return parts


def _is_known(text: bytes, seen: set[bytes]) -> bool:
    """Whether an expression came before; remembers it."""
    digest = hashlib.blake2b(text, digest_size=16).digest()
    known = digest in seen
    seen.add(digest)
    return known


def _sequences(texts: list[bytes], labels: list[int]) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return Sequences(np.frombuffer(b"".join(texts), dtype=np.uint8), offsets, np.array(labels, dtype=np.int64))


# LRA's files


def find_files(root: Path) -> list[Path] | None:
    """The files of the three splits, in a folder laid out like LRA's release, in its ``listops-1000``, or in neither.

    Raises:
        DataError: some of them are missing, or one does not begin with LRA's header.
    """
    for folder in (root / FOLDER, root / "lra_release" / FOLDER, root):
        paths = [folder / f"basic_{split}.tsv" for split in SPLITS]
        missing = [path.name for path in paths if not path.is_file()]
        if len(missing) < len(paths):
            if missing:
                raise DataError(f"{folder}: {missing[0]} is missing; {FILES_HINT}")
            for path in paths:
                with path.open(encoding="utf-8", errors="replace") as file:
                    if file.readline(100).split() != ["Source", "Target"]:
                        raise DataError(f"{path}: the first line is not 'Source<TAB>Target'; {FILES_HINT}")
            return paths
    return None


def read_files(paths: list[Path], config: LraListopsConfig) -> dict[Split, Sequences]:
    """Reads and checks the expressions of all splits, as many of each as the configuration says.

    Raises:
        DataError: a line is malformed, has a wrong value or a length that is not admitted, or comes twice.
    """
    seen: set[bytes] = set()
    parts: dict[Split, Sequences] = {}
    for split, path in zip(SPLITS, paths, strict=True):
        texts: list[bytes] = []
        labels: list[int] = []
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(itertools.islice(file, 1, config.size(split) + 1), start=2):
                try:
                    text, label = _parse(line, config)
                    if _is_known(text, seen):
                        raise ValueError("repeats an earlier expression")
                except ValueError as error:
                    raise DataError(f"{path}: line {number} {error}; {FILES_HINT}") from error
                texts.append(text)
                labels.append(label)
        if len(texts) < config.size(split):
            raise DataError(
                f"{path}: has {len(texts):,} expressions, fewer than task.{split}_size={config.size(split)}; "
                f"set task.{split}_size, or {FILES_HINT}"
            )
        parts[split] = _sequences(texts, labels)
        _check_values(path, parts[split])
    return parts


_SYMBOL_OF = {word: symbol for symbol, word in enumerate(WORDS)}


def _parse(line: str, config: LraListopsConfig) -> tuple[bytes, int]:
    """Symbols and label of one line; LRA's round brackets are dropped.

    Raises:
        ValueError: says what is wrong with the line.
    """
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) != 2:
        raise ValueError(f"has {len(columns)} columns, not 2")
    source, label = columns
    if label not in WORDS[:10]:
        raise ValueError(f"has the label {label[:20]!r}, not a digit from 0 to 9")
    try:
        text = bytes(_SYMBOL_OF[word] for word in source.replace("(", " ").replace(")", " ").split())
    except KeyError as error:
        raise ValueError(f"has the symbol {str(error.args[0])[:20]!r}, not one of {' '.join(WORDS)}") from error
    if not config.min_len < len(text) < config.max_len:
        wanted = f"task.min_len={config.min_len} and task.max_len={config.max_len}"
        raise ValueError(f"has {len(text):,} symbols, not between {wanted}; set these, or task.source=generated")
    symbols = np.frombuffer(text, dtype=np.uint8)
    opens = (symbols >= OPEN) & (symbols < CLOSE)
    outside = np.flatnonzero(nesting(symbols) <= 0)
    if outside.tolist() != [0, len(text) - 1] or not opens[0] or (opens[:-1] & (symbols[1:] == CLOSE)).any():
        raise ValueError("is no single, complete expression")
    return text, int(label)


def _check_values(path: Path, part: Sequences) -> None:
    for start in range(0, len(part.labels), _ROOTS):
        offsets = part.offsets[start : start + _ROOTS + 1]
        values = solve(part.symbols[offsets[0] : offsets[-1]], offsets - offsets[0])
        wrong = np.flatnonzero(values != part.labels[start : start + _ROOTS])
        if len(wrong):
            number, value = start + wrong[0] + 2, values[wrong[0]]
            label = part.labels[start + wrong[0]]
            raise DataError(f"{path}: line {number} has the label {label}, but its value is {value}; {FILES_HINT}")
