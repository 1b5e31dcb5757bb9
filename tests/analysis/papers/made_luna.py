"""Studies of Luna as if they had been run, with scores and costs as the paper has them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd

from analysis.studies import Study
from tests.analysis.papers.made_studies import made_study, nothing

#: Tokens per second and bytes at 1,000 and at 4,000 bytes of text.
STEPS = {
    "transformer": ((1000, 100), (500, 1600)),
    "local": ((1500, 90), (1500, 360)),
    "linear": ((1600, 80), (1600, 320)),
    "luna_16": ((2000, 50), (2000, 200)),
    "luna_128": ((1800, 60), (1800, 240)),
    "luna_256": ((1000, 80), (1500, 320)),
}


def score(job: Any) -> float:
    gain = {"luna": 0.1, "linear": 0.02}.get(job.variant, 0.0)
    gain -= 0.05 * (job.arm in ("fresh", "tied"))
    return 0.4 + gain + 0.01 * job.seed + 0.001 * (job.settings.get("model.memory_len") or 0) ** 0.5


@cache
def study(name: str) -> Study:
    return made_study(name, score, floor=0.3)


@cache
def half(name: str) -> Study:
    return made_study(name, score, keep=lambda job: job.seed == 0 and job.task != "lra_image")


@cache
def empty(name: str) -> Study:
    return made_study(name, score, keep=nothing)


def measured(
    names: tuple[str, ...] = tuple(STEPS), lengths: tuple[int, ...] = (1000, 4000), swap: bool = False
) -> Study:
    """``luna_efficiency`` with made rows of bench.csv for some arms and lengths; the others are missing."""
    rows, missing = [], []
    for name, steps in STEPS.items():
        variant, _, slots = name.partition("_")
        for length, (speed, size) in zip((1000, 4000), steps, strict=True):
            row: dict[str, Any] = {"name": name, "variant": variant, "task": "lra_text", "length": length}
            if name not in names or length not in lengths:
                missing.append({**row, "reason": "", "command": "python run.py"})
                continue
            row |= {"tokens_per_second": 1 / speed if swap else speed, "added_bytes": 1 / size if swap else size}
            row |= {"memory_len": float(slots or "nan"), "spread": 0.01, "phase": "train", "status": "ok"}
            rows.append({**row, "package": None})
    gone = pd.DataFrame(missing, columns=["name", "variant", "task", "length", "reason", "command"])
    return replace(
        empty("luna_lra"), name="luna_efficiency", mode="bench", bench=pd.DataFrame(rows), missing=gone, num_jobs=12
    )
