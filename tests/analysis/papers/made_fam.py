"""Studies of TransformerFAM as if they had been run, with the paper's scores."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.papers import fam
from analysis.studies import Study
from tests.analysis.papers.made_studies import made_study, nothing, seeds

LENGTHS = (2, 5, 18, 36, 254, 1152)


def reach(arm: str) -> float:
    """Up to how many blocks an arm finds the key, as the paper has it."""
    if arm.startswith("m") and arm != "m1_sg":
        return float(2 * int(arm[1:]) + 1)
    return {"fam": 254, "fam_gated": 1152, "m1_sg": 0, "rmt": 1, "sum_fam": 2, "autocompressor": 18}.get(arm, 36)


def passkey_slices(job: Any) -> list[dict[str, float]]:
    """Two rows of each length and depth, of one and three prompts: exact match is their weighted mean."""
    rows = []
    for length in LENGTHS:
        for depth in (0.0, 0.5):
            right = float(length <= reach(job.arm)) * (1.0 if depth == 0 else 0.5) * (1 - 0.01 * job.seed)
            at = {"length_blocks": length, "factor": length / 18, "depth": depth}
            rows += [{**at, "n": 100, "exact_match": 0.0}, {**at, "n": 300, "exact_match": right * 4 / 3}]
    return rows


def shares(job: Any) -> list[dict[str, float]]:
    if not job.variant.startswith("fam"):
        return []
    keep = {} if job.arm == "sum_fam" else {"keep_share": 0.125}
    return [{"layer": layer, "head": head, "read_share": 0.25 * head, **keep} for layer in (0, 1) for head in (0, 1)]


@cache
def passkey(which: str = "all") -> Study:
    keep = {"all": seeds(0, 1, 2), "half": lambda job: job.seed == 0 and job.arm in ("m0", "fam"), "none": nothing}
    return made_study("fam_passkey", lambda job: 0.0, keep=keep[which], slices=passkey_slices, heads=shares)


def text(job: Any) -> dict[str, float]:
    """Accuracy and bits of a job on text, exact match on passkey, a little apart by seed."""
    settings = job.settings
    worth = {"fam": 0.04, "window": 0.0, "offset": 0.05, "prefix": 0.02, "zero": 0.01}.get(job.arm, 0.03)
    worth += 0.01 * np.log2(min(settings.get(fam.SLOTS, 4), 4))
    worth += {"last": 0.02, "fractional": 0.018}.get(settings.get(fam.POSITIONS, ""), 0.0)
    worth += {0.8: 0.03, 0.9: 0.02}.get(settings.get(fam.PASSING, 0.0), 0.0)
    accuracy = 0.4 + worth + 0.001 * job.seed
    scores = {"accuracy": accuracy, "accuracy@8x": accuracy + 0.1, "bits_per_byte": 3 - accuracy}
    scores |= {"bits_per_byte@8x": 2.5 - accuracy, "exact_match": 2 * accuracy}
    return {f"test/{name}": value for name, value in scores.items()}


@cache
def ablation(name: str, which: str = "all") -> Study:
    keep = {"all": seeds(0, 1, 2), "half": lambda job: job.seed < 2 and job.task == "lm_text", "none": nothing}
    return made_study(name, lambda job: 0.0, keep=keep[which], more=text)


def cost(ratio: float = 1.01, *, empty: bool = False) -> Study:
    """Measurements at two lengths, FAM that many times as dear."""
    rows = [
        {"name": name, "phase": phase, "length": length, "status": "ok", "spread": 0.001}
        | {
            "seconds": length / 1000 * (ratio if "fam" in name else 1),
            "added_bytes": 2**20 * (3 if "fam" in name else 2),
        }
        for name in (*fam.COST_PAIRS, "window_m3", "window_m0")
        for phase in ("train", "stream")
        for length in (1024, 16384)
    ]
    study = made_study("fam_cost", lambda job: 0.0, keep=nothing)
    return replace(study, bench=pd.DataFrame([] if empty else rows))
