"""Studies of Infini-attention as if they had been run, with the paper's scores."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from analysis.papers import infini
from analysis.studies import Study
from tests.analysis.papers.made_studies import made_study, nothing, seeds

KEEP = {"all": seeds(0, 1, 2), "half": seeds(1), "none": nothing}


def passkey_slices(job: Any) -> list[dict[str, float]]:
    """The end is local attention's; what the memory finds falls with the length, less with the delta rule."""
    rows = []
    for length in (2, 3, 16, 64, 128, 256, 512):
        for depth in infini.PLACES.values():
            memory = 1 - (0.02 if job.arm.startswith("delta") else 0.04) * np.log2(length) / 9
            right = 1.0 if depth == 1 else 0.1 if job.arm == "local" else memory
            scores = {"symbol_accuracy": right - 0.001 * job.seed, "exact_match": right / 2}
            rows.append({"length_blocks": length, "factor": length / 3, "depth": depth, "n": 1000, **scores})
    return rows


@cache
def passkey(which: str = "all") -> Study:
    chance = {"floor/chance_symbol_accuracy": 0.1}
    return made_study(
        "infini_passkey", lambda job: 0.0, keep=KEEP[which], slices=passkey_slices, more=lambda job: chance
    )


@cache
def text(which: str = "all") -> Study:
    worth = {"infini": 2.0, "infini_delta": 2.001, "transformer_xl": 2.2, "rmt": 2.4, "local": 2.3, "transformer": 2.1}

    def scores(job: Any) -> dict[str, float]:
        bits = worth[job.variant] + 0.001 * job.seed
        return {
            "state_size": 0 if job.variant == "local" else 1000,
            "test/bits_per_byte": bits,
            "test/bits_per_byte@8x": bits,
            "test/accuracy@8x": 0.5,
        }

    def slices(job: Any) -> list[dict[str, float]]:
        return [{"position_to": place, "bits_per_byte": worth[job.variant]} for place in (64, 128)]

    return made_study("infini_lm", lambda job: 0.0, keep=KEEP[which], more=scores, slices=slices, floor=2.86)


def gates_of(job: Any) -> list[dict[str, float]]:
    """Two layers of two heads: the faster their rate, the farther from a half; closed ones stay."""
    far = {0.01: 0.01, 1.0: 0.1, 10.0: 0.3, 100.0: 0.45}.get(job.settings.get(infini.RATE, 0.0), 0.49)
    down = 0.5 - far + 0.001 * job.seed
    up = down if job.arm == "closed" else 0.5 + far
    return [{"layer": layer, "head": head, "gate": (down, up)[head]} for layer in (0, 1) for head in (0, 1)]


@cache
def gates(which: str = "all") -> Study:
    def scores(job: Any) -> dict[str, Any]:
        rate = job.settings.get(infini.RATE, 0.01)
        bits = {"test/bits_per_byte": 2 - rate / 100 + 0.001 * job.seed, "metric": "bits_per_byte"}
        exact = {"test/exact_match": rate / 100 - 0.001 * job.seed, "metric": "exact_match"}
        return exact if job.task == "passkey" else bits

    def looks(job: Any, step: int) -> dict[str, float]:
        return {"gate": 0.5 - step / 100}

    return made_study("infini_gates", lambda job: 0.0, keep=KEEP[which], more=scores, heads=gates_of, looks=looks)
