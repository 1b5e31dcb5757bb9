"""Studies of our own comparison as if they had been run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.matrix import ORDER
from analysis.studies import Study
from tests.analysis.comparisons import Row, compared

#: Where a variant's recall has fallen to a half, in blocks.
HALF = {"fam_gated": 512, "fam": 32, "infini_gated": 512, "infini": 48}


def score(job: Any) -> float:
    place = ORDER.index(job.variant) if job.variant in ORDER else 0
    return 0.3 + 0.03 * place + 0.002 * job.seed


def sizes(row: Row) -> Row:
    """Windows carry sixteen numbers a block, all others one a slot and some by their width."""
    for name, unit in (
        ("model.memory_blocks", 16),
        ("model.memory_len", 1),
        ("model.fam_len", 1),
        ("backbone.width", 0.5),
    ):
        value = row.get(name)
        if value is not None and not math.isnan(float(value)):
            return {"state_size": int(value * unit)}
    return {}


def validated(row: Row) -> Row:
    """The slowest rate is best on the validation split."""
    return {"val/accuracy": 0.6 - row["trainer.learning_rate"]}


def pairs(row: Row) -> list[Row]:
    """Right half of the time nearby, never far away; there are three times as many queries far away."""
    return [
        {
            "num_kv_pairs": count,
            "trained": count < 8,
            "distance": far,
            "n": 10 + 20 * far,
            "accuracy": 0.5 * (1 - far) + 0.01 * row["seed"],
        }
        for count in (2, 8)
        for far in (0, 1)
    ]


def lengths(row: Row) -> list[Row]:
    """Recall that halves with length, at the start of a passkey; its end is always right."""
    cells = []
    for blocks in (2, 18, 256):
        half = HALF.get(row["variant"], 64)
        right = min(1.0, half / (half + blocks) + 0.001 * row["seed"])
        size = {"length_blocks": blocks, "length_tokens": 24 * blocks, "factor": blocks / 18}
        cell = {**size, "n": 20, "exact_match": right}
        start = {**cell, "depth": 0.0, "blocks_between": blocks - 1}
        end = {**cell, "depth": 1.0, "blocks_between": 0, "exact_match": 1.0}
        cells += [start, end] if row["task"] == "passkey" else [cell]
    return cells


def put_to_later(study: Study, *lengths: int, prompts: int = 30) -> Study:
    """Runs that were put to longer prompts of passkey, in blocks, so many of each, and found every key."""
    if study.slices.empty:
        return study
    longest = study.slices[(study.slices["length_blocks"] == 256) & (study.slices["task"] == "passkey")]
    longest = longest.assign(n=prompts)
    tests = [
        longest.assign(test="ab", length_blocks=blocks, length_tokens=24 * blocks, factor=blocks / 18, exact_match=1.0)
        for blocks in lengths
    ]
    return replace(study, tests=pd.concat(tests))


def made(name: str, keep: Callable[[Any], bool] = lambda job: True) -> Study:
    slices = {"state_size": pairs, "compressions": lengths, "overview": lengths, "overview_all": lengths}
    fields = {"state_size": sizes, "text_rates": validated}.get(name)
    return compared(name, score, keep=keep, fields=fields, slices=slices.get(name))
