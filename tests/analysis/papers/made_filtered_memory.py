"""Studies of filtered memory as if they had been run: the filter helps, and memories lose rank."""

from __future__ import annotations

from typing import Any

from analysis.studies import Study
from tests.analysis.papers.made_studies import made_study

#: Accuracies of seed 0; each further seed has a point more.
SCORES = {"transformer": 0.4, "luna": 0.5, "luna_shared": 0.45, "filtered_memory": 0.6, "luna_filter": 0.52}


def score(job: Any) -> float:
    cells = job.settings.get("model.memory_len") or 1
    kind = {"max_pool": 0.1, "none": -0.2}.get(job.settings.get("model.filter"), 0.0)
    learned = 0.05 * (job.settings.get("model.pack_temperature") == "learn")
    return SCORES.get(job.variant, 0.45) + 0.01 * job.seed + 0.001 * cells + kind + learned


def looks(job: Any, step: int) -> dict[str, float]:
    loss = {"luna": 0.1, "luna_shared": 0.1, "filtered_memory": 0.01}.get(job.variant, 0.05)
    return {"effective_rank": 8 - loss * step + 0.01 * job.seed, "cosine": step / 100}


def study(name: str, **options: Any) -> Study:
    return made_study(name, score, looks=looks if name == "filtered_degradation" else None, **options)
