"""Studies of RMT and Memformer as if they had been run: as the papers have it, or the other way round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import MEMORY
from analysis.papers import memformer, rmt
from analysis.studies import Study, load_study
from tests.analysis.papers.made_studies import made_study, nothing, seeds

HALF: dict[str, Callable[[Any], bool]] = {
    "all": seeds(0, 1, 2),
    "half": lambda job: job.seed == 0 and job.arm not in ("n4", "no_forgetting"),
    "none": nothing,
}
SCALING = (1, 4, 64, 256)
SEGMENTS = (1, 2, 6, 24)


def skill(job: Any, sign: float) -> float:
    """What a job is worth: as the papers have it (``sign`` 1), or the other way round."""
    settings = job.settings
    worth = {"rmt": 0.3, "local": 0.0, "mat": 0.0, "transformer_xl": 0.2}.get(job.variant, 0.1)
    worth += {"n1": 0.0, "n2": 0.1, "n4": 0.2, "n7": 0.4}.get(job.arm, 0.0)
    worth += 0.05 * np.log2(settings.get(MEMORY) or 8)
    worth += 0.02 * (settings.get(rmt.DEPTH) or 8)
    worth -= 0.1 * (settings.get(memformer.TEMPERATURE) or 0.25) + 0.1 * (settings.get(memformer.FORGETTING) is False)
    return float(0.4 + 0.3 * sign * worth + 0.001 * job.seed)


def scores(job: Any, sign: float) -> dict[str, Any]:
    found = skill(job, sign)
    size = (job.settings.get(MEMORY) or 8) * 64
    return {"test/symbol_accuracy": found, "test/bits_per_byte": 3 - found, "state_size": size}


def by_length(job: Any, sign: float) -> list[dict[str, float]]:
    if job.task != "memory_ops":
        return []
    lengths = SCALING if job.arm in rmt.TRAINED else SEGMENTS
    keys = {"length_blocks": lengths, "factor": [length / 6 for length in lengths]}
    return [
        {"length_blocks": length, "factor": factor, "symbol_accuracy": skill(job, sign) - 0.0001 * length}
        for length, factor in zip(*keys.values(), strict=True)
    ]


@cache
def made(name: str, which: str = "all", sign: float = 1.0) -> Study:
    return made_study(
        name,
        lambda job: 0.0,
        keep=HALF[which],
        looks=lambda job, step: {"keep_share": step / 100} if name == "memformer_slots" else {},
        more=lambda job: scores(job, sign),
        slices=lambda job: by_length(job, sign),
        heads=lambda job: [{"layer": 1, "head": head, "keep_share": head / 4} for head in (0, 1)],
    )


def measured(memory: float = 0.2, speed: float = 0.95, *, empty: bool = False) -> Study:
    """Measurements at two lengths, replay at these ratios."""
    rows = [
        {
            "name": name,
            "variant": name.partition("_")[0],
            "phase": phase,
            "length": length,
            "status": "ok",
            "tokens_per_second": 1000 * (speed if "replay" in name else 1),
            "spread": 0.01,
            "added_bytes": length * 2**20 * (memory if "replay" in name else 1),
        }
        for name in ("memformer", "memformer_replay", "rmt", "rmt_replay")
        for phase in ("train", "stream")
        for length in (1024, 16384)
    ]
    study = load_study("mrbp_memory", live=False)
    return replace(study, bench=pd.DataFrame([] if empty else rows))
