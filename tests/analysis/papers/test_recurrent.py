"""Figures and claims of RMT, Memformer and Memory Transformer: what stands where, with all runs, some and none."""

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
from matplotlib.lines import Line2D

from analysis.claims import outcome
from analysis.papers import recurrent
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
    worth += 0.05 * np.log2(settings.get(recurrent.SLOTS) or 8)
    worth += 0.02 * (settings.get(recurrent.DEPTH) or 8)
    worth -= 0.1 * (settings.get(recurrent.TEMPERATURE) or 0.25) + 0.1 * (settings.get(recurrent.FORGETTING) is False)
    return float(0.4 + 0.3 * sign * worth + 0.001 * job.seed)


def scores(job: Any, sign: float) -> dict[str, Any]:
    found = skill(job, sign)
    size = (job.settings.get(recurrent.SLOTS) or 8) * 64
    return {"test/symbol_accuracy": found, "test/bits_per_byte": 3 - found, "state_size": size}


def by_length(job: Any, sign: float) -> list[dict[str, float]]:
    if job.task != "memory_ops":
        return []
    lengths = SCALING if job.arm in recurrent.TRAINED else SEGMENTS
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


FIGURES = {
    "segments_figure": "rmt_segments",
    "memory_size_figure": "rmt_memory_size",
    "gradient_figure": "rmt_bptt",
    "scaling_figure": "rmt_scaling",
    "slots_figure": "memformer_slots",
    "writes_figure": "memformer_slots",
}


def draw(name: str, study: Study) -> Figure:
    figure: Figure = getattr(recurrent, name)(study)
    return figure


def xs(line: Line2D) -> list[float]:
    """Places of a line's points."""
    return np.asarray(line.get_xdata(), dtype=float).tolist()


def ys(line: Line2D) -> list[float]:
    """Values of a line's points."""
    return np.asarray(line.get_ydata(), dtype=float).tolist()


def filled(axes: Axes) -> dict[str, Any]:
    """Our lines by label, without the count behind it."""
    return {
        str(line.get_label()).partition("  (")[0]: line
        for line in axes.lines
        if line.get_linestyle() != "--" and line.get_marker() not in ("None", None, "")
    }


def hollow(axes: Axes) -> dict[str, Any]:
    """The paper's lines by label."""
    return {str(line.get_label()): line for line in axes.lines if line.get_linestyle() == "--"}


@pytest.mark.parametrize("which", ["all", "half", "none"])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_is_missing(name: str, which: str) -> None:
    figure = draw(name, made(FIGURES[name], which))
    note = figure.get_supxlabel().replace("\n", " ")
    assert ("Missing" in note) == (which != "all")
    if which == "none":
        assert f"To make them: python run.py -m +study={FIGURES[name]}" in note
    for axes in figure.axes:
        assert len(axes.lines) or len(axes.images) or len(axes.texts), f"{axes.get_title()} is empty"
    figure.draw_without_rendering()


def test_ours_and_the_papers_segments_stand_side_by_side() -> None:
    copy = draw("segments_figure", made("rmt_segments")).axes[0]
    ours = filled(copy)
    assert set(ours) == set(recurrent.VARIANTS)
    assert xs(ours["rmt"]) == list(SEGMENTS)
    assert ys(ours["rmt"])[1] == pytest.approx(0.4 + 0.3 * (0.3 + 0.15 + 0.16 - 0.025) + 0.001 - 0.0002)
    theirs = hollow(copy)["Transformer-XL, rmt (published)"]
    assert xs(theirs) == [1, 3, 6, 9]
    assert ys(theirs) == [1.0, 1.0, 0.967, 0.278]
    assert theirs.get_markerfacecolor() == "none"
    upright = [line for line in copy.lines if line.get_linestyle() == ":" and len(set(xs(line))) == 1]
    assert [xs(line)[0] for line in upright] == [6]


def test_the_table_of_segments_leaves_out_the_first() -> None:
    line = recurrent.segments_table(made("rmt_segments")).splitlines()[5]
    mean = 0.4 + 0.3 * (0.3 + 0.15 + 0.16 - 0.025) + 0.001 - 0.0004
    assert line.startswith(f"| `rmt` | {mean:.3f} (")
    assert "n = 3" in line


def test_memory_sizes_are_lines_and_places() -> None:
    figure = draw("memory_size_figure", made("rmt_memory_size"))
    above, _, below, _ = figure.axes
    assert xs(filled(above)["rmt"]) == [1, 2, 4, 8, 16, 24]
    assert xs(filled(above)["transformer_xl"]) == [1, 24]
    assert list(filled(below)) == [f"rmt, {size} slots" for size in (1, 2, 4, 8, 16, 24)]
    assert ys(hollow(below)["RMT, rmt (published)"]) == [1.0, 1.0]


def test_an_uncut_gradient_stands_last() -> None:
    text, copy, paper = draw("gradient_figure", made("rmt_bptt")).axes
    assert xs(filled(text)["rmt"]) == [1, 2, 4, 8]
    assert [label.get_text() for label in text.get_xticklabels()][-1] == "never"
    assert ys(filled(copy)["memformer"])[-1] > ys(filled(copy)["memformer"])[0]
    assert ys(hollow(paper)["RMT, 10 slots, rmt (published)"]) == [30.69, 27.95, 26.62, 26.37, 26.25]


def test_bounds_are_no_points_of_figure_5() -> None:
    figure = draw("scaling_figure", made("rmt_scaling"))
    assert filled(figure.axes[0])["ours, trained on up to 7"].get_xdata().tolist() == list(SCALING)
    assert len(hollow(figure.axes[0])["RMT, BERT, rmt_1m (published)"].get_xdata()) == 12
    memorise = hollow(figure.axes[3])["trained on 2, rmt_1m (published)"]
    assert ys(memorise)[:4] == pytest.approx([1.0, 1.0, 0.996, 0.906])
    assert hollow(figure.axes[3])["trained on 1, rmt_1m (published)"].get_xdata().tolist() == [1]


def test_memformers_sizes_are_those_that_differ_in_nothing_else() -> None:
    copy, _, paper = draw("slots_figure", made("memformer_slots")).axes
    assert xs(filled(copy)["memformer"]) == [1, 2, 4, 8, 16]
    (theirs,) = hollow(paper).values()
    assert xs(theirs) == [1, 16, 32, 64]
    assert ys(theirs) == [1.627, 1.604, 1.600, 1.594]


def test_ablations_are_held_against_the_size_that_they_have() -> None:
    runs = recurrent.ablations(made("memformer_slots"))
    assert set(runs["label"]) == {recurrent.ALL_OF_IT, "temperature 0.5", "temperature 1", "no forgetting"}
    assert set(runs.loc[runs["label"] == recurrent.ALL_OF_IT, recurrent.SLOTS]) == {8}
    assert set(runs["label"].value_counts()) == {6}
    table = recurrent.ablation_table(made("memformer_slots"))
    assert "| Memformer, decoder_layers=6; encoder_layers=2; memory_len=32 (published) |  |  | 1.600 |" in table
    assert "| ours, no forgetting | 0." in table


def test_writes_are_shares_over_time_and_by_head() -> None:
    over_time, by_head, paper = draw("writes_figure", made("memformer_slots")).axes
    assert ys(over_time.lines[0]) == pytest.approx([0.1, 0.2, 0.3])
    assert np.asarray(by_head.images[0].get_array())[0].tolist() == [0.0, 0.25]
    assert np.asarray(paper.images[0].get_array())[1, 0] == 0.92


def test_replay_is_a_ratio_beside_the_papers() -> None:
    absolute, memory, speed = draw("replay_figure", measured()).axes
    assert len(absolute.lines) == 4
    assert ys(memory.lines[0]) == pytest.approx([0.2, 0.2])
    assert ys(speed.lines[1]) == pytest.approx([0.95, 0.95])
    assert [ys(line)[0] for line in memory.lines[2:]] == pytest.approx([9885 / 16177, 7229 / 16177])
    assert [ys(line)[0] for line in speed.lines[2:]] == [0.48, 0.90]
    empty = draw("replay_figure", measured(empty=True))
    assert len(empty.axes[1].lines) == 2


def test_translation_is_the_papers_alone() -> None:
    assert "| MemBottleneck | memory_len=20 | 10.41 |" in recurrent.translation_table()


def study_of(name: str, which: str, sign: float) -> Study:
    if name != "mrbp_memory":
        return made(name, which, sign)
    return measured(empty=which == "none") if sign > 0 else measured(0.9, 0.5)


@pytest.mark.parametrize("number", range(len(recurrent.CLAIMS)))
def test_a_claim_is_decided_both_ways(number: int) -> None:
    claim = recurrent.CLAIMS[number]
    if claim.untestable:
        return

    def found(which: str, sign: float) -> str:
        return outcome([part.test(study_of(part.study, which, sign)) for part in claim.parts])

    assert found("all", 1.0) == "reproduced"
    assert found("none", 1.0) == "not run"
    if "kept" not in claim.text and "enough" not in claim.text:
        assert found("all", -1.0) in ("not reproduced", "partly")


def test_two_that_guess_are_no_evidence() -> None:
    study = made("rmt_memory_size")
    slices = study.slices.assign(symbol_accuracy=0.1 + 0.001 * study.slices["seed"])
    half = next(claim for claim in recurrent.CLAIMS if claim.text.startswith("Half the memory"))
    values = [part.test(replace(study, slices=slices)).value for part in half.parts]
    assert values == ["contradicted", "supported"] * 2


def test_claims_by_what_is_committed_are_decided_by_code() -> None:
    study = load_study("mrbp_memory", live=False)
    parts = [part for claim in recurrent.CLAIMS for part in claim.parts if part.study == "mrbp_memory"]
    memory, speed = (part.test(study) for part in parts)
    assert memory.value == "supported"
    assert speed.value == "contradicted"
