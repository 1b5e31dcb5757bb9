"""ListOps: LRA's recipe, values that a second evaluator agrees with, distinct splits, LRA's files, clear errors."""

from __future__ import annotations

import itertools
import pickle
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data._listops import LraListopsConfig, draw_expressions, generate, nesting, solve
from data.base import DataError
from data.lra_listops import LraListops, measure_floors
from tests.data.checks import one_clear_line

REPOSITORY = Path(__file__).parents[2]
WORDS = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MIN", "[MAX", "[MED", "[SM", "]"]
SMALL: dict[str, Any] = {"min_len": 8, "max_len": 64, "max_depth": 4, "max_args": 5}
SIZES: dict[str, Any] = {"train_size": 300, "val_size": 50, "test_size": 60}


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMATTN_DATA", raising=False)


def make(tmp_path: Path, root: Path | None = None, *, seed: int = 0, **options: Any) -> LraListops:
    config = LraListopsConfig(**{**SMALL, **SIZES, **options})
    return LraListops(config, root=root, cache=tmp_path / "cache", seed=seed)


def expressions(part: Any) -> list[str]:
    """Expressions of a split as text."""
    ends = part.offsets.tolist()
    return [" ".join(WORDS[s] for s in part.symbols[start:stop]) for start, stop in itertools.pairwise(ends)]


# A second evaluator, which shares nothing with the first: a stack of lists of Python numbers.


def median(values: list[int]) -> int:
    return int(np.median(values))  # as LRA has it: truncated


RULES: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": median,
    "[SM": lambda values: sum(values) % 10,
}


def parse(text: str) -> tuple[int, int]:
    """Value and depth of an expression."""
    stack: list[tuple[str, list[int]]] = [("", [])]
    deepest = 0
    for word in text.split():
        if word in RULES:
            stack.append((word, []))
            deepest = max(deepest, len(stack) - 1)
        elif word == "]":
            name, values = stack.pop()
            assert values, "an operator without arguments"
            stack[-1][1].append(RULES[name](values))
        else:
            stack[-1][1].append(int(word))
    ((_, (value,)),) = stack
    return value, deepest


# Expressions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MAX 4 [SM 3 8 ] 2 ]", 4),
        ("[MED 2 3 ]", 2),
        ("[MED 9 1 4 ]", 4),
        ("[MED 1 2 9 8 ]", 5),
        ("[SM 9 9 9 ]", 7),
        ("[MIN [MAX 1 2 ] [MED 5 0 0 ] 7 ]", 0),
        ("[SM 5 ]", 5),
        ("[MIN 1 2 3 4 5 6 7 8 9 9 9 9 3 ]", 1),
    ],
)
def test_operators(text: str, value: int) -> None:
    symbols = np.array([WORDS.index(word) for word in text.split()], dtype=np.uint8)
    assert solve(symbols, np.array([0, len(symbols)])).tolist() == [value]
    assert parse(text)[0] == value


@pytest.mark.parametrize("options", [{}, SMALL, {**SMALL, "max_depth": 9}, {"max_depth": 2, "min_len": 3}])
def test_values_and_depths_agree_with_another_evaluator(options: dict[str, Any]) -> None:
    config = LraListopsConfig(**{"min_len": 3, **options})
    symbols, offsets = draw_expressions(config, 0)
    values = solve(symbols, offsets)
    depths = np.maximum.reduceat(nesting(symbols), offsets[:-1])
    texts = [
        " ".join(WORDS[s] for s in symbols[start:stop]) for start, stop in itertools.pairwise(offsets[:400].tolist())
    ]
    assert len(texts) > 100
    assert [parse(text) for text in texts] == list(zip(values[: len(texts)], depths[: len(texts)], strict=True))
    assert depths.max() == config.max_depth - 1
    lengths = np.diff(offsets)
    assert config.min_len < lengths.min() <= lengths.max() < config.max_len


def test_arguments_are_as_many_as_the_recipe_says() -> None:
    config = LraListopsConfig(min_len=0, max_len=10**6, max_depth=2, max_args=7)
    symbols, offsets = draw_expressions(config, 0)
    assert len(offsets) == 2048 + 1  # nothing was rejected
    counts = np.bincount(np.diff(offsets) - 2)
    assert set(np.flatnonzero(counts)) == set(range(2, 8))
    assert counts[2:].min() > 0.8 * 2048 / 6
    digits = np.bincount(symbols[symbols < 10], minlength=10) / (symbols < 10).sum()
    assert np.abs(digits - 0.1).max() < 0.015


def test_inner_nodes_are_operators_in_one_of_four_cases() -> None:
    config = LraListopsConfig(min_len=0, max_len=10**6, max_depth=3)
    symbols, _ = draw_expressions(config, 0)
    children = (nesting(symbols) == 1) & (symbols != 14)
    assert (symbols[children] >= 10).mean() == pytest.approx(0.25, abs=0.012)


#: LRA's own sampler with its defaults, 20,000 accepted expressions (see the task card).
SAMPLER = {
    "mean": 1039,
    "quantiles": (579, 961, 1649),
    "labels": (0.170, 0.090, 0.077, 0.081, 0.091, 0.087, 0.080, 0.075, 0.082, 0.167),
    "root_args": (0.046, 0.062, 0.085, 0.104, 0.116, 0.133, 0.144, 0.150, 0.160),
    "acceptance": 1 / 12,
    "root_min": (0.576, 0.215, 0.102),
    "root_operator": 0.363,
}


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    """Ten thousand and more expressions by LRA's recipe, with what is asked about them."""
    config = LraListopsConfig()
    drawn = [draw_expressions(config, chunk) for chunk in range(16)]
    symbols = np.concatenate([part for part, _ in drawn])
    lengths = np.concatenate([np.diff(offsets) for _, offsets in drawn])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return {"symbols": symbols, "offsets": offsets, "lengths": lengths, "labels": solve(symbols, offsets)}


def test_statistics_are_those_of_the_original(official: dict[str, Any]) -> None:
    symbols, offsets, lengths, labels = (official[key] for key in ("symbols", "offsets", "lengths", "labels"))
    count = len(labels)
    assert count > 10_000
    # only one root in four is an operator, and no other is drawn here
    assert count / (16 * 2048) / 4 == pytest.approx(SAMPLER["acceptance"], rel=0.03)
    assert lengths.mean() == pytest.approx(SAMPLER["mean"], rel=0.01)
    assert np.percentile(lengths, [10, 50, 90]) == pytest.approx(SAMPLER["quantiles"], rel=0.02)
    assert (lengths.min(), lengths.max()) == (501, 1999)
    around = nesting(symbols)
    assert set(np.maximum.reduceat(around, offsets[:-1])) == {9}
    assert np.bincount(labels) / count == pytest.approx(SAMPLER["labels"], abs=0.012)
    roots = symbols[offsets[:-1]]
    assert np.bincount(roots)[10:] / count == pytest.approx([0.25] * 4, abs=0.015)
    args = np.add.reduceat((around == 1) & (symbols != 14), offsets[:-1], dtype=np.int64)
    assert np.bincount(args)[2:] / count == pytest.approx(SAMPLER["root_args"], abs=0.012)
    minimum = np.bincount(labels[roots == 10])[:3] / (roots == 10).sum()
    assert minimum == pytest.approx(SAMPLER["root_min"], abs=0.03)
    best = sum(np.bincount(labels[roots == root]).max() for root in range(10, 14)) / count
    assert best == pytest.approx(SAMPLER["root_operator"], abs=0.012)


def test_the_card_tells_the_truth(official: dict[str, Any]) -> None:
    """Its table is of the train split; the expressions at hand are some of these."""
    row = re.search(r"^ +generated +(.+)$", LraListops.card, re.MULTILINE)
    assert row
    mean, low, middle, high, depth, *labels = (float(word.replace(",", "")) for word in row[1].split())
    assert official["lengths"].mean() == pytest.approx(mean, rel=0.01)
    assert np.percentile(official["lengths"], [10, 50, 90]) == pytest.approx((low, middle, high), rel=0.02)
    assert depth == 9
    assert np.bincount(official["labels"]) / len(official["labels"]) * 100 == pytest.approx(labels, abs=1)


PROGRAM = """
import hashlib
from data._listops import *
config = LraListopsConfig(min_len=8, max_len=64, max_depth=4, max_args=5, train_size=300, val_size=50, test_size=60)
parts = generate(config)
print(hashlib.sha256(b"".join(parts[split].symbols.tobytes() for split in ("test", "val", "train"))).hexdigest()[:16])
symbols, _ = draw_expressions(LraListopsConfig(generator_seed=3), 5)
print(hashlib.sha256(symbols.tobytes()).hexdigest()[:16])
"""


def test_the_same_seed_gives_the_same_symbols_everywhere() -> None:
    """Digests written down once: another machine, Python, NumPy or hash seed must not change a symbol."""
    environment = {"PYTHONHASHSEED": "123", "PATH": ""}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4f289c60bcbcbf45", "f5d8e9eb61b41dd1"]


def test_speed_allows_all_of_lra_in_five_minutes() -> None:
    started = time.process_time()
    symbols, offsets = draw_expressions(LraListopsConfig(), 0)
    solve(symbols, offsets)
    assert (time.process_time() - started) / (len(offsets) - 1) * 100_000 < 300


# Splits and cache


def test_splits_are_distinct_and_of_the_wanted_sizes(tmp_path: Path) -> None:
    task = make(tmp_path)
    found = {split: expressions(task.split(split)) for split in ("train", "val", "test")}
    assert {split: len(texts) for split, texts in found.items()} == {"train": 300, "val": 50, "test": 60}
    assert len(set().union(*found.values())) == 410
    for split, texts in found.items():
        part = task.split(split)  # type: ignore[arg-type]
        assert [parse(text)[0] for text in texts] == part.labels.tolist()
    larger = make(tmp_path, train_size=500)
    assert expressions(larger.split("test")) == found["test"]  # what is tested does not depend on the train size
    assert expressions(make(tmp_path, generator_seed=1).split("test")) != found["test"]


def test_cache_is_reused_and_opens_quickly(tmp_path: Path) -> None:
    task = make(tmp_path)
    task.prepare()
    (folder,) = (tmp_path / "cache" / "lra_listops").glob("listops-generated-*")
    written = (folder / "train_symbols.npy").stat().st_mtime_ns
    again = make(tmp_path, seed=4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    again.prepare()
    assert time.perf_counter() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert isinstance(again.split("train").symbols, np.memmap)
    assert again.floors == task.floors
    assert (folder / "train_symbols.npy").stat().st_mtime_ns == written
    make(tmp_path, source="generated").prepare()
    assert len(list(folder.parent.glob("listops-generated-*"))) == 1
    make(tmp_path, val_size=51).prepare()
    assert len(list(folder.parent.glob("listops-generated-*"))) == 2


def test_source_says_what_was_generated(tmp_path: Path) -> None:
    source = make(tmp_path).locate()
    assert source.name == "listops-generated"
    assert make(tmp_path, seed=7).locate() == source
    assert make(tmp_path, max_args=6).locate().checksum != source.checksum
    assert "listops-1000" in source.detail
    assert not (tmp_path / "cache").exists()  # located, not generated


def test_too_few_expressions_get_one_clear_line(tmp_path: Path) -> None:
    with one_clear_line(DataError, r"only 400 are distinct .* where 410 are wanted; widen these, raise"):
        make(tmp_path, min_len=2, max_len=5, max_depth=2, max_args=2).prepare()
    with pytest.raises(DataError, match=r"only 0 are distinct"):
        make(tmp_path, min_len=500, max_len=600, max_depth=3, max_args=3).prepare()


# LRA's files


def curried(text: str) -> str:
    """An expression with LRA's round brackets: one application for each argument."""
    stack: list[str] = []
    for word in text.split():
        if word.startswith("["):
            stack.append(word)
        else:
            stack[-1] = f"( {stack[-1]} {word} )"
            if word == "]" and len(stack) > 1:
                done = stack.pop()
                stack[-1] = f"( {stack[-1]} {done} )"
    return stack[0]


def write_files(tmp_path: Path, folder: str = "listops-1000") -> Path:
    parts = generate(LraListopsConfig(**SMALL, **SIZES, generator_seed=9))
    target = tmp_path / "data" / folder
    target.mkdir(parents=True)
    for split, part in parts.items():
        rows = [f"{curried(text)}\t{label}" for text, label in zip(expressions(part), part.labels, strict=True)]
        (target / f"basic_{split}.tsv").write_text("\n".join(["Source\tTarget", *rows, ""]))
    return tmp_path / "data"


def test_files_are_read_without_their_round_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert curried("[MAX 4 [SM 3 8 ] 2 ]") == "( ( ( ( [MAX 4 ) ( ( ( [SM 3 ) 8 ) ] ) ) 2 ) ] )"
    root = write_files(tmp_path)
    task = make(tmp_path, root)
    source = task.locate()
    assert source.name == "listops-files"
    expected = generate(LraListopsConfig(**SMALL, **SIZES, generator_seed=9))
    for split, part in expected.items():
        assert expressions(task.split(split)) == expressions(part)
        assert task.split(split).labels.tolist() == part.labels.tolist()
    assert make(tmp_path, root / "listops-1000").locate() == source
    assert make(tmp_path, root, source="generated").locate().name == "listops-generated"
    fewer = make(tmp_path, root, train_size=100)
    assert len(fewer.split("train").labels) == 100
    assert make(tmp_path).locate().name == "listops-generated"
    monkeypatch.setenv("MEMATTN_DATA", str(root))
    assert make(tmp_path).locate() == source
    monkeypatch.setenv("MEMATTN_DATA", str(tmp_path))  # holds other data sets
    assert make(tmp_path).locate().name == "listops-generated"


def replace_line(folder: Path, split: str, number: int, change: Any) -> None:
    path = folder / f"basic_{split}.tsv"
    lines = path.read_text().split("\n")
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "basic_val.tsv").unlink(), r"listops-1000: basic_val.tsv is missing; put LRA's"),
        (
            lambda folder: replace_line(folder, "test", 1, lambda line: "text,label"),
            r"basic_test.tsv: the first line is not 'Source<TAB>Target'",
        ),
        (
            lambda folder: replace_line(folder, "train", 5, lambda line: line + "\t0"),
            r"basic_train.tsv: line 5 has 3 columns, not 2",
        ),
        (
            lambda folder: replace_line(folder, "train", 6, lambda line: line[:-1] + "10"),
            r"basic_train.tsv: line 6 has the label '10', not a digit",
        ),
        (
            lambda folder: replace_line(folder, "val", 7, lambda line: f"{line[:-1]}{(int(line[-1]) + 1) % 10}"),
            r"basic_val.tsv: line 7 has the label \d, but its value is \d",
        ),
        (
            lambda folder: replace_line(folder, "train", 8, lambda line: re.sub(r"\[M..", "[AVG", line)),
            r"basic_train.tsv: line 8 has the symbol '\[AVG', not one of 0 1",
        ),
        (
            lambda folder: replace_line(folder, "train", 9, lambda line: line.replace("]", "", 1)),
            r"basic_train.tsv: line 9 is no single, complete expression",
        ),
        (
            lambda folder: replace_line(folder, "test", 3, lambda line: "[MAX 1 2 3 4 ] [MIN 3 [SM ] 2 3 ]\t4"),
            r"basic_test.tsv: line 3 is no single, complete expression",
        ),
        (
            lambda folder: replace_line(folder, "train", 4, lambda line: "( ( ( [MAX 1 ) 2 ) ] )\t2"),
            r"line 4 has 4 symbols, not between task.min_len=8 and task.max_len=64; set these",
        ),
        (
            lambda folder: replace_line(folder, "train", 4, lambda line: f"[MAX {'1 ' * 70}]\t1"),
            r"line 4 has 72 symbols, not between",
        ),
        (
            lambda folder: (folder / "basic_val.tsv").write_text((folder / "basic_test.tsv").read_text()),
            r"basic_test.tsv: line 2 repeats an earlier expression",
        ),
        (
            lambda folder: replace_line(folder, "val", 51, lambda line: ""),
            r"basic_val.tsv: line 51 has 1 columns, not 2",
        ),
    ],
)
def test_damaged_files_get_one_clear_line(tmp_path: Path, damage: Any, message: str) -> None:
    root = write_files(tmp_path)
    damage(root / "listops-1000")
    with one_clear_line(DataError, message) as error:
        make(tmp_path, root).prepare()
    assert str(root) in str(error.value)


def test_files_that_are_too_short_get_one_clear_line(tmp_path: Path) -> None:
    root = write_files(tmp_path)
    with pytest.raises(DataError, match=r"has 300 expressions, fewer than task.train_size=400; set task.train_size"):
        make(tmp_path, root, train_size=400).prepare()


def test_a_folder_that_was_asked_for_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data.root=.* holds no listops-1000/basic_train.tsv; .* task.source=generated"
    ):
        make(tmp_path, tmp_path).locate()
    with pytest.raises(DataError, match=r"neither data.root nor MEMATTN_DATA is set"):
        make(tmp_path, source="files").locate()


# Batches and scores


def test_batches_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    task, other = make(tmp_path, seed=1), make(tmp_path, seed=2)
    batches = [task.train_batch(step, 16) for step in range(40)]
    again = make(tmp_path, seed=1)
    for step in reversed(range(40)):
        batch = again.train_batch(step, 16)
        assert torch.equal(batch.tokens, batches[step].tokens)
        assert torch.equal(batch.targets, batches[step].targets)
        assert batch.tokens.shape[1] in (32, 64)
        mask = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
        assert torch.equal(batch.tokens > 0, mask)
    assert any(not torch.equal(other.train_batch(step, 16).targets, batches[step].targets) for step in range(40))
    received = pickle.dumps(task)  # as a loader process gets it
    assert len(received) < 10_000
    assert torch.equal(pickle.loads(received).train_batch(7, 16).tokens, batches[7].tokens)


def test_a_batch_holds_expressions_and_their_values(tmp_path: Path) -> None:
    batch = make(tmp_path).train_batch(3, 16)
    for row, target in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert parse(" ".join(WORDS[token - 1] for token in row if token))[0] == target


def test_the_example_of_the_card(tmp_path: Path) -> None:
    text, ids = re.search(r"^    (\[.+\]), the answer is 4 ->\n    ([\d ]+)$", LraListops.card, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert [WORDS.index(word) + 1 for word in text.split()] == [int(word) for word in ids.split()]
    assert parse(text)[0] == 4


def read_root(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    """Answers 0 for a minimum, 9 for a maximum, else 4."""
    answer = torch.tensor([0, 9, 4, 4])[tokens[:, 0] - 11]
    return torch.nn.functional.one_hot(answer, 10).float() * 10, state


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_cells_add_up_to_the_score(tmp_path: Path, batch_size: int) -> None:
    task = make(tmp_path)
    result = task.evaluate(read_root, "test", batch_size=batch_size)
    texts, labels = expressions(task.split("test")), task.split("test").labels
    answers = [{"[MIN": 0, "[MAX": 9}.get(text.split()[0], 4) for text in texts]
    assert result.metrics["accuracy"] == float((labels == answers).mean())
    assert sum(row["n"] for row in result.slices) == 60
    hits = sum(row["n"] * row["accuracy"] for row in result.slices)
    assert hits == pytest.approx(60 * result.metrics["accuracy"])
    for row in result.slices:
        chosen = [
            label == answer
            for text, label, answer in zip(texts, labels, answers, strict=True)
            if text.startswith(f"[{row['root']} ")
            and parse(text)[1] == row["depth"]
            and row["length_from"] <= len(text.split()) < row["length_to"]
        ]
        assert len(chosen) == row["n"]
        assert np.mean(chosen) == pytest.approx(row["accuracy"])


def test_floors_are_those_of_two_simple_readers(tmp_path: Path) -> None:
    task = make(tmp_path)
    assert task.floors == {}  # nothing is known before the data are there
    task.prepare()
    train, test = task.split("train"), task.split("test")
    most = int(np.bincount(train.labels).argmax())
    assert task.floors["majority"] == float((test.labels == most).mean())
    answers = {}
    for root in ("[MIN", "[MAX", "[MED", "[SM"):
        labels = [
            label for text, label in zip(expressions(train), train.labels, strict=True) if text.startswith(f"{root} ")
        ]
        answers[root] = np.bincount(labels).argmax()
    expected = [answers[text.split()[0]] == label for text, label in zip(expressions(test), test.labels, strict=True)]
    assert task.floors["root_operator"] == np.mean(expected)
    assert measure_floors(train, test) == task.floors
    assert next(iter(task.floors)) == "root_operator"  # the one that tables print


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_len": -1}, "task.min_len must be 0 or more, got -1"),
        ({"min_len": 100, "max_len": 101}, "task.max_len must be task.min_len=100 plus 2 or more, got 101"),
        ({"max_depth": 1}, "task.max_depth must be 2 or more, got 1"),
        ({"max_args": 1}, "task.max_args must be 2 or more, got 1"),
        ({"test_size": 0}, "task.test_size must be 1 or more, got 0"),
        ({"generator_seed": -1}, "task.generator_seed must be 0 or more, got -1"),
        ({"source": "web"}, "task.source must be 'auto', 'generated' or 'files', got 'web'"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LraListopsConfig(**options)
