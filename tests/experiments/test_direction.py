"""A headline that is a loss: what compares, compares the other way round, and what is printed says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.lm_text import LmText, LmTextConfig
from data.passkey import Passkey, PasskeyConfig
from experiments.callbacks import RunCallback
from experiments.errors import ExitCode
from experiments.job import headline
from experiments.table import Row, format_table, interval
from tests.experiments.small_runs import folder_of, rows, run_here, settings

RESULT = {
    "metric": "bits_per_byte",
    "larger_is_better": False,
    "test/bits_per_byte": 0.75,
    "test/n": 100,
    "data_source": "books-local",
    "scale": "laptop",
    "floor/order_2_entropy": 2.86,
}


def watch(task: Any) -> RunCallback:
    config = settings(Path("nowhere"), "task=passkey").trainer
    nothing: Any = None
    return RunCallback(
        task=task, folder=nothing, config=config, reporter=nothing, tracker=nothing, interruption=nothing
    )


def test_the_best_is_the_least_loss_and_the_later_of_equals(tmp_path: Path) -> None:
    callback = watch(LmText(LmTextConfig(), cache=tmp_path))
    assert callback.best is None
    callback.history = [(1, 3.0), (2, 2.0), (3, 2.0), (4, 2.5)]
    assert callback.best == (3, 2.0)
    shares = watch(Passkey(PasskeyConfig()))
    shares.history = callback.history
    assert shares.best == (1, 3.0)


def test_a_loss_gets_no_interval_of_a_share(tmp_path: Path) -> None:
    (tmp_path / "slices.csv").write_text("n,bits_per_byte\n50,0.9\n50,0.6\n")
    row = Row("fam", "lm_text", 0, "ok", folder=tmp_path, result=RESULT)
    assert interval([row]) is None
    seeds = [row, Row("fam", "lm_text", 1, "ok", result={**RESULT, "test/bits_per_byte": 2.5})]
    found = interval(seeds)
    assert found is not None
    assert found.kind == "seeds"
    text = format_table(seeds)
    assert text.count("bits_per_byte (less is better)") == 3  # two seeds and their mean
    assert "less is better" not in format_table([Row("fam", "x", 0, "ok", result={"metric": "accuracy"})])


def test_the_line_at_the_end_says_which_way() -> None:
    assert headline(RESULT) == (
        "test/bits_per_byte 0.7500 on books-local, less is better (floors: order_2_entropy 2.86)"
    )


def write_text(root: Path) -> Path:
    rng = np.random.default_rng(0)
    root.mkdir()
    for split, size in (("train", 9000), ("valid", 3000), ("test", 3000)):
        (root / f"{split}.txt").write_text(split + "".join(rng.choice(list("abcd "), size)))
    return root


def test_a_run_keeps_and_tests_the_least_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_text(tmp_path / "text")
    # Weights that grow worse after a good start: the rate is far too high, and does not fall.
    worse = ("trainer.learning_rate=0.3", "trainer.schedule=constant", "trainer.warmup_steps=0")
    config = settings(tmp_path, "model=block_window", "task=lm_text", f"data.root={root}", *worse)
    assert run_here(config) == ExitCode.OK
    folder = folder_of(config)
    result = json.loads(folder.result_file.read_text())
    validations = {row["step"]: row["bits_per_byte"] for row in rows(folder, "val")}
    assert result["val/bits_per_byte"] == min(validations.values())
    assert validations[result["best_step"]] == min(validations.values())
    assert result["larger_is_better"] is False
    assert result["data_source"] == "text-local"
    assert list(result)[[*result].index("larger_is_better") + 1] == "floor/order_2_entropy"
    assert "less is better (floors: order_2_entropy 2." in capsys.readouterr().out
