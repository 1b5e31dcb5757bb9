"""Luna's figures and claims: ours and the paper's numbers where they belong, and what is missing said in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.claims import judge, outcome
from analysis.papers.luna import (
    ABLATIONS,
    CLAIMS,
    TASKS,
    ablation_figure,
    ablation_table,
    bubbles,
    efficiency_figure,
    efficiency_table,
    is_more,
    lra_table,
    mean_scores,
    memory_size_figure,
    quality_speed_memory_figure,
    ratios,
)
from analysis.studies import Study, load_study
from tests.analysis.papers.made_studies import made_study, nothing, seeds

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


def drawn_lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
    }


def test_ours_and_the_papers_by_memory_size() -> None:
    figure = memory_size_figure(study("luna_lra"))
    assert [axes.get_title() for axes in figure.axes] == [*TASKS.values(), "mean of the five"]
    lines = drawn_lines(figure.axes[0])
    assert lines["luna"] == ([4, 16, 64], pytest.approx([0.512, 0.514, 0.518]))
    assert lines["transformer"] == ([4, 64], pytest.approx([0.41, 0.41]))
    assert lines["trivial floor"][1] == [0.3, 0.3]
    assert lines["Luna, luna (published)"] == ([16, 128, 256], pytest.approx([0.3743, 0.3801, 0.3798]))
    assert lines["Transformer (run again), luna (published)"][1] == pytest.approx([0.3711, 0.3711])
    mean = drawn_lines(figure.axes[-1])
    assert mean["luna"][1] == pytest.approx([0.512, 0.514, 0.518])
    assert mean["Luna, luna (published)"][1] == pytest.approx([0.6146, 0.6193, 0.6195])
    assert "luna  (n = 3)" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.get_supxlabel() == ""


def test_a_mean_needs_all_its_tasks() -> None:
    figure = memory_size_figure(half("luna_lra"))
    assert "luna" in drawn_lines(figure.axes[0])
    assert "luna" not in drawn_lines(figure.axes[3]), "nothing has run on Image"
    assert "luna" not in drawn_lines(figure.axes[-1])
    assert "To make them: python run.py -m +study=luna_lra" in figure.get_supxlabel()
    assert mean_scores(half("luna_lra").runs, ("lra_text", "lra_image")).empty


def test_without_runs_the_papers_numbers_stand_alone() -> None:
    figure = memory_size_figure(empty("luna_lra"))
    for axes in figure.axes:
        assert set(drawn_lines(axes)) == {"Luna, luna (published)", "Transformer (run again), luna (published)"}
    assert "python run.py -m +study=luna_lra" in figure.get_supxlabel()


def test_the_table_has_ours_in_bold_by_the_rule_and_the_papers_as_printed() -> None:
    rows = lra_table(study("luna_lra")).splitlines()
    assert rows[2] == "| trivial floor |  | 30.0 | 30.0 | 30.0 | 30.0 | 30.0 |  |"
    assert "| `luna`, memory 64 | ours | 51.8 (50.8 to 52.8), n = 3 |" in rows[8]
    assert "**" not in "".join(rows), "neighbours overlap"
    assert rows[-1] == "| Luna-256 | paper | 37.98 | 65.78 | 79.56 | 47.86 | 78.55 | 61.95 |"
    assert len(rows) == 2 + 1 + 6 + 15
    assert "`luna`, memory 16 | ours | 50.4, n = 1 | 50.4, n = 1 | 50.4, n = 1 | not run |" in lra_table(
        half("luna_lra")
    )
    assert "ours" not in lra_table(empty("luna_lra"))


def test_ablations_are_differences_to_luna() -> None:
    figure = ablation_figure(study("luna_memory_ablations"))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [ABLATIONS[name] for name in ("fresh", "tied", "shared", "pooled")]
    points = [line for line in figure.axes[-1].lines if line.get_linestyle() == "None"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in points] == pytest.approx([-15, -5, -10, 0])
    table = ablation_table(study("luna_memory_ablations"))
    assert "-0.3 BLEU (WMT'14, 4 pairs) |" in table
    assert "number not found |" in table
    none = ablation_figure(empty("luna_memory_ablations"))
    assert none.axes == []
    assert "-0.3 BLEU" in ablation_table(empty("luna_memory_ablations"))


def test_ratios_are_to_the_transformer_at_the_same_length() -> None:
    found = ratios(measured().bench).set_index(["name", "length"])
    assert found["speed"].to_dict()["luna_16", 1000] == 2
    assert (found["speed"].to_dict()["luna_16", 4000], found["memory"].to_dict()["luna_16", 4000]) == (4, 0.125)
    assert found["spread"].tolist() == pytest.approx([0.02] * 12)
    assert ratios(measured(("luna_16",)).bench).empty, "there is nothing to divide by"
    assert ratios(pd.DataFrame()).empty


def test_efficiency_beside_the_papers_column() -> None:
    figure = efficiency_figure(measured())
    speed, memory = (drawn_lines(axes) for axes in figure.axes)
    assert speed["luna_16"] == ([1, 4], pytest.approx([2, 4]))
    assert memory["luna_16"] == ([1, 4], pytest.approx([0.5, 0.125]))
    assert speed["Luna-16, luna (published)"] == ([4], [5.5])
    assert memory["Luna-256, luna (published)"] == ([4], [0.16])
    assert speed["Local attention, luna (published)"] == ([4], [5.286])
    none = efficiency_figure(measured(()))
    assert "luna_16" not in drawn_lines(none.axes[0])
    assert "Luna-16, luna (published)" in drawn_lines(none.axes[0])
    table = efficiency_table(measured(lengths=(4000,)))
    assert "| `luna_16` | ours | not measured | not measured | not measured | 4.00, 0.12 |" in table
    assert "| Luna-16 | paper | not found | not found | not found | 5.5, 0.1 |" in table


def test_figure_1_joins_scores_and_costs_of_one_size() -> None:
    found = bubbles(study("luna_lra"), measured()).set_index("name")
    assert list(found.index) == ["transformer", "local", "linear", "luna_16"], "no score has 128 slots, no step has 4"
    columns = [found[name].to_dict()["luna_16"] for name in ("speed", "memory", "mean", "n")]
    assert columns == pytest.approx([4, 0.125, 0.514, 3])
    figure = quality_speed_memory_figure(study("luna_lra"), measured())
    theirs, ours = figure.axes
    assert {text.get_text() for text in ours.texts} == set(found.index)
    assert len(theirs.texts) == 12
    sizes = [disc.get_sizes()[0] for disc in ours.collections if hasattr(disc, "get_sizes")]
    assert sizes[0] / sizes[-1] == pytest.approx(64), "a disc's radius is in proportion to memory"


@pytest.mark.parametrize("lra", [half, empty])
def test_figure_1_without_ours(lra: Callable[[str], Study]) -> None:
    figure = quality_speed_memory_figure(lra("luna_lra"), measured())
    assert len(figure.axes) == 1
    assert len(figure.axes[0].texts) == 12
    assert "python run.py -m +study=luna_lra" in figure.get_supxlabel()


def decided(lra: Study, ablations: Study, efficiency: Study) -> list[str]:
    studies = {"luna_lra": lra, "luna_memory_ablations": ablations, "luna_efficiency": efficiency}
    return [
        outcome([part.test(studies[part.study]) for part in claim.parts]) for claim in CLAIMS if not claim.untestable
    ]


def test_claims_in_both_directions() -> None:
    whole = decided(study("luna_lra"), study("luna_memory_ablations"), measured())
    assert whole == ["reproduced"] * 9
    turned = [made_study(name, lambda job: 1 - score(job)) for name in ("luna_lra", "luna_memory_ablations")]
    # That few slots are nearly as good as many holds whichever way the scores go.
    assert decided(turned[0], turned[1], measured(swap=True)) == [
        *["not reproduced"] * 3,
        "partly",
        *["not reproduced"] * 5,
    ]
    assert decided(empty("luna_lra"), empty("luna_memory_ablations"), measured(())) == ["not run"] * 9
    one = made_study("luna_lra", score, keep=seeds(0))
    assert decided(one, empty("luna_memory_ablations"), measured(()))[:4] == ["not run"] * 4


def test_a_ratio_within_its_scatter_decides_nothing() -> None:
    assert [is_more(ratio, 0.05, "speed").value for ratio in (1.1, 1.04, 0.97, 0.9)] == [
        *("supported", "undecided", "undecided", "contradicted")
    ]


def test_what_is_committed_can_be_drawn_and_judged() -> None:
    figures: list[Figure] = [efficiency_figure(load_study("luna_efficiency", live=False))]
    assert figures[0].axes
    assert [found.claim for found in judge(CLAIMS)] == list(CLAIMS)
