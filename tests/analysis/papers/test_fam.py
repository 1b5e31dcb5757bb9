"""TransformerFAM's figures: what stands where, with all runs, some and none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.papers import fam
from analysis.studies import Study
from tests.analysis.papers.lines import line, words_of
from tests.analysis.papers.made_fam import LENGTHS, ablation, cost, passkey


def test_windows_end_where_they_reach_and_keys_stand_at_the_start() -> None:
    figure = fam.windows_figure(passkey())
    axes = figure.axes[0]
    points = line(axes, "M12  (n = 3)")
    assert points[:, 0].tolist() == list(LENGTHS)
    assert points[:, 1] == pytest.approx([0.99, 0.99, 0.99, 0, 0, 0])
    assert line(axes, "FAM  (n = 3)")[4, 1] == pytest.approx(0.99)
    assert line(axes, "longest trained: 18 blocks")[0, 0] == 18
    assert line(axes, "FAM solves it") == pytest.approx(np.array([[253.9, 1.0]]), rel=1e-3)
    assert line(axes, "trivial floor")[0, 1] == 0.1
    assert len(axes.lines) == 12 + 3
    looks = {(each.get_color(), each.get_marker(), each.get_linestyle()) for each in axes.lines[:12]}
    assert len(looks) == 12
    assert len({each.get_marker() for each in axes.lines[:9]}) == 9


@pytest.mark.parametrize(
    ("draw", "arms"), [(fam.rivals_figure, 5), (fam.feedback_figure, 8)], ids=["rivals", "feedback"]
)
def test_other_figures_of_passkey_have_their_arms(draw: Callable[[Study], Figure], arms: int) -> None:
    assert len(draw(passkey()).axes[0].lines) == arms + 3
    half = draw(passkey("half"))
    assert line(half.axes[0], "FAM  (n = 1)").shape == (6, 2)
    assert f"1 of {3 * arms} runs" in words_of(half)
    none = draw(passkey("none"))
    assert [each.get_label() for each in none.axes[0].lines] == ["FAM solves it to here, fam (published)"]
    assert "run.py -m +study=fam_passkey" in words_of(none)


def test_maps_of_depth_are_one_for_each_arm() -> None:
    figure = fam.depth_figure(passkey())
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"{name}  (n = 3)" for name in fam.ARMS.values()]
    numbers = [text.get_text() for text in figure.axes[list(fam.ARMS).index("fam")].texts]
    assert numbers == ["49", "49", "49", "49", "49", "0", "99", "99", "99", "99", "99", "0"]
    assert "nothing to draw yet" in words_of(fam.depth_figure(passkey("none")))


def test_shares_of_attention_are_maps_by_head() -> None:
    figure = fam.shares_figure(passkey())
    first = figure.axes[0]
    assert first.get_title() == "FAM\nn = 3"
    assert sorted(text.get_text() for text in first.texts) == ["0.00", "0.00", "0.25", "0.25"]
    assert [text.get_text() for text in figure.axes[5].texts] == ["not measured"]
    assert "No run of FAM" in words_of(fam.shares_figure(passkey("none")))


@pytest.mark.parametrize("draw", [fam.length_figure, fam.position_figure, fam.blocks_figure, fam.past_fams_figure])
def test_ablations_stand_beside_the_papers_numbers(draw: Callable[[Study], Figure]) -> None:
    name = {"length_figure": "fam_length", "position_figure": "fam_position"}.get(draw.__name__, "fam_blocks")
    whole, half, none = (draw(ablation(name, which)) for which in ("all", "half", "none"))
    for figure in (whole, half, none):
        assert figure.axes[-1].get_title() == "paper"
        assert all("(published)" in str(each.get_label()) for each in figure.axes[-1].lines)
        assert figure.axes[-1].lines
    assert len(none.axes) == 1
    assert f"+study={name}" in words_of(none)
    assert "runs. Missing" in words_of(half)
    assert "Missing" not in words_of(whole)
    assert [axes.get_title() for axes in half.axes[:-1]] == ["lm_text, 8 times the training length"]


def test_points_of_ablations() -> None:
    slots = line(fam.length_figure(ablation("fam_length")).axes[1], "fam  (n = 3)")
    assert slots[:, 0].tolist() == [1, 2, 4, 8, 16, 24]
    assert slots[:3, 1] == pytest.approx([0.531, 0.541, 0.551])
    theirs = line(fam.length_figure(ablation("fam_length")).axes[2], "ScrollsQasper")
    assert theirs.tolist() == [[4, 5.0], [16, 6.0], [64, 7.2], [256, 5.1], [1024, 5.3]]
    blocks = fam.blocks_figure(ablation("fam_blocks")).axes
    assert line(blocks[0], "FAM")[:, 0].tolist() == [0, 1, 2, 4]
    assert line(blocks[0], "M1_SG")[:, 0].tolist() == [1]
    assert line(blocks[1], "FAM, fam").tolist() == [[3, pytest.approx(0.47)]]
    past = line(fam.past_fams_figure(ablation("fam_blocks")).axes[0], "fam  (n = 3)")
    assert past[:, 0].tolist() == [1, 2, 3, 4, 6]
    assert past[0, 1] > past[1, 1]
    places = fam.position_figure(ablation("fam_position")).axes[-1]
    assert [tick.get_text() for tick in places.get_xticklabels()] == ["last", "fractional", "zero"]
    assert line(places, "PG-19")[:, 1].tolist() == [47.7, 47.6, 47.3]


def test_curves_without_published_numbers_are_words_until_there_are_runs() -> None:
    passing = fam.passing_figure(ablation("fam_rsp"))
    assert line(passing.axes[0], "fam  (n = 3)")[:, 0].tolist() == [0, 0.3, 0.5, 0.8, 0.9, 0.99, 1]
    assert line(passing.axes[1], "fam  (n = 3)")[3, 1] == pytest.approx(2.5 - 0.481)
    base = fam.rope_base_figure(ablation("fam_rope_base"))
    assert len([each for each in base.axes[0].lines if "n = 3" in str(each.get_label())]) == len(fam.ROPE_ARMS)
    assert line(base.axes[1], "FAM  (n = 3)")[:, 0].tolist() == [100, 1000, 10000, 100000]
    for draw, name in ((fam.passing_figure, "fam_rsp"), (fam.rope_base_figure, "fam_rope_base")):
        said = words_of(draw(ablation(name, "none")))
        assert "no numbers that could be had" in said
        assert f"+study={name}" in said


def test_tables_hold_ours_and_the_papers() -> None:
    table = fam.length_table(ablation("fam_length"))
    assert "Ours, passkey, trained lengths:" in table
    assert "| 4 | 0.551 (0.550 to 0.552) | 2.049 (2.048 to 2.050) | 3 |" in table
    assert "| FAM | 64 | 7.2 | 27.9 % | 15.9 |" in table
    assert "| fam | 1 |" in fam.blocks_table(ablation("fam_blocks")).replace("|  |", "|")
    assert "| FAM | zero | 72.1 % | 47.3 % |" in fam.position_table(ablation("fam_position", "none"))


def test_cost_is_a_ratio_beside_the_papers() -> None:
    theirs = fam.published_ratios()
    assert theirs["tokens"].tolist() == [26e3, 34e3, 66e3, 130e3, 258e3]
    assert theirs["time"].iloc[0] == pytest.approx(16.5 / 16.2)
    assert theirs["memory"].iloc[-1] == pytest.approx(16.1 / 16.0)
    time, memory = fam.cost_figure(cost()).axes
    assert line(time, "fam_m3 / window_m3, stream") == pytest.approx(np.array([[1024, 1.01], [16384, 1.01]]))
    assert line(memory, "fam_m0 / window_m0, train")[0, 1] == 1.5
    assert len(line(time, "FAM / BSWA")) == 5
    assert len(fam.cost_figure(cost(empty=True)).axes[0].lines) == 2
    assert "| fam_m3 | 16,384 | 16.5 | 3.0 |" in fam.cost_table(cost())
    assert "| FAM | 258 | 16.1 | 154.9 |" in fam.cost_table(cost(empty=True))
