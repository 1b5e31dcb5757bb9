"""Stores and studies for tests: finished runs as the engine leaves them, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import arms, compose, studies
from experiments.settings import REPOSITORY

#: A study that varies one setting beside model, task and seed.
STUDY = """# @package _global_
# python run.py -m +study=widths
study: widths
hydra:
  sweeper:
    params:
      model: transformer,luna
      task: passkey
      trainer.learning_rate: 1e-3,2e-3
      seed: 0,1
"""


#: One whose arms are no product of lists.
ARMS = """# @package _global_
# python run.py -m +study=curves
study: curves
hydra:
  sweeper:
    arms:
      slow: {model: luna, trainer.learning_rate: 0.001}
      plain: {model: transformer}
    params:
      task: passkey
      seed: 0,1
"""


@contextmanager
def more_studies(folder: Path) -> Iterator[None]:
    """A conf/ with ``widths`` and ``curves`` among its studies, in a folder of its own."""
    conf = folder / "conf"
    shutil.copytree(REPOSITORY / "conf", conf)
    (conf / "study" / "widths.yaml").write_text(STUDY)
    (conf / "study" / "curves.yaml").write_text(ARMS)
    with pytest.MonkeyPatch.context() as patch:
        for module in (arms, compose, studies):
            patch.setattr(module, "CONF", conf)
        studies.study_plan.cache_clear()
        yield
    studies.study_plan.cache_clear()


def write_run(root: Path, **changes: Any) -> Path:
    """One finished run of ``widths``; returns its folder.

    Args:
        root: a results folder.
        **changes: fields of result.json, ``learning_rate``, and ``heads``: arrays [layers, heads] of diagnostics.npz.
    """
    heads = changes.pop("heads", None)
    rate = changes.pop("learning_rate", 0.001)
    labels = {"study": "widths", "model": "luna", "task": "passkey", "scale": "laptop", "seed": 0, **changes}
    setting = f"{sum(map(ord, labels['model'] + str(rate) + labels['scale'])):010x}"
    result = {
        "variant": labels["model"],
        "config_hash": setting,
        "data_source": "generated",
        "data_checksum": "ab",
        "metric": "exact_match",
        "larger_is_better": True,
        "floor/chance": 0.1,
        "floor/other": 0.3,
        "test/exact_match": 0.5 + 0.1 * labels["seed"],
        "test/n": 40,
        "num_params": 1000,
        "state_size": 64,
        "wall_seconds": 12.345678901234,
        "git_sha": "0123456789abcdef",
        "torch": "2.13.0",
        "python": "3.11.7",
        "hardware": "a machine",
        "device": "cpu",
        "precision": "32",
        "milestones": [[1, 0.5]],
        "status": "done",
        **labels,
    }
    result.setdefault("run_id", f"{result['config_hash']}-s{result['seed']}")
    folder = root / "runs" / result["task"] / result["model"] / result["run_id"]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text(f"trainer:\n  learning_rate: {rate}\n")
    (folder / "slices.csv").write_text("length_blocks,depth,n,exact_match\n2,0.5,20,1.0\n4,0.5,20,0.25\n")
    rows: list[dict[str, Any]] = [{"step": step, "split": "train", "loss": 1.5} for step in (5, 10)]
    rows += [{"step": step, "split": "val", "exact_match": step / 10, "attempt": 1, "time": 1.5} for step in (5, 10)]
    rows += [{"step": 10, "split": "memory", "rms": 0.75, "attempt": 1, "time": 1.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if heads is not None:
        np.savez(folder / "diagnostics.npz", **heads)
    return folder


def write_bench_rows(root: Path, rows: Sequence[Mapping[str, Any]], *, study: str) -> Path:
    """Adds measurements of a study to a store's bench.csv, as mode=bench leaves them; returns the store.

    Args:
        root: a results folder.
        rows: ``name, variant, length, phase``, and whatever is to differ.
        study: its label.
    """
    common = {
        "study": study,
        "scale": "laptop",
        "package": None,
        "task": "passkey",
        "width": 128,
        "depth": 2,
        "num_heads": 4,
        "ffn_width": 512,
        "segment_len": 256,
        "memory_len": 16,
        "piece_len": 512,
        "batch_size": 1,
        "device": "cpu",
        "precision": "32",
        "compiled": False,
        "threads": 1,
        "hardware": "a machine",
        "torch": "2.13.0",
        "commit": "0123456789abcdef",
        "date": "2026-01-01",
        "tokens_per_second": 1000.5,
        "seconds": 1.0,
        "spread": 0.01,
        "clock": "CPU time",
        "added_bytes": 1 << 20,
        "flops": 100,
        "state_size": 7,
        "num_params": 9,
        "load_average": 0.5,
        "status": "ok",
    }
    path = root / "bench.csv"
    root.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{**common, **row} for row in rows])
    table = pd.concat([pd.read_csv(path), table]) if path.exists() else table
    table.to_csv(path, index=False)
    return root
