"""Infini-attention's figures and sizes: what stands where, with all runs, some and none."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.papers import infini
from analysis.published import published
from tests.analysis.papers.lines import line, words_of
from tests.analysis.papers.made_infini import gates, passkey, text


def test_formulas_give_the_published_counts() -> None:
    rows = published(paper="infini", where="table 1", metric="memory_entries").set_index("model")["value"]
    assert infini.computed_entries() == rows.astype(int).to_dict()
    assert infini.infini_entries(layers=12, num_heads=8, key=128, value=128) == 1_585_152
    cache_of_one = infini.transformer_xl_entries(layers=1, num_heads=8, key=128, value=128, segment_len=2048)
    assert infini.compressive_entries(layers=1, width=1024, segment_len=2048, compressed=0) == cache_of_one // 2
    one, four = (infini.autocompressor_entries(layers=12, width=1024, prompt=50, accumulated=m) for m in (0, 3))
    assert four == 4 * one
    assert infini.rmt_entries(layers=12, width=1024, prompt=50) == 2 * one


def test_the_table_of_sizes_has_computed_beside_published() -> None:
    table = infini.memory_table()
    assert "| Infini (Linear) | `d_key (d_value + 1) H l` | 1,585,152 | 1.6M | 115.7 | 114 |" in table
    assert "| 183,451,648 | 183M | 1.0 | 1 |" in table


@pytest.mark.parametrize(("length_k", "segments"), [(32, 16), (128, 64), (256, 128), (512, 256), (1000, 512)])
def test_lengths_of_table_three_in_segments(length_k: int, segments: int) -> None:
    assert infini.segments_of(length_k) == segments


def test_passkey_stands_by_place_of_the_key_beside_the_papers() -> None:
    start, middle, end = infini.passkey_figure(passkey()).axes
    assert [axes.get_title() for axes in (start, middle, end)] == [
        *("key at the start", "key in the middle", "key at the end")
    ]
    ours = line(start, "Linear  (n = 3)")
    assert ours[:, 0].tolist() == [2, 3, 16, 64, 128, 256, 512]
    assert ours[-1, 1] == pytest.approx(0.96 - 0.001)
    theirs = line(start, "Infini (Linear), fine-tuned, infini (published)")
    assert theirs.tolist() == [[16, 1], [64, 1], [128, 1], [256, 0.97], [512, 0.96]]
    assert line(middle, "Infini (Linear+Delta), zero-shot")[0].tolist() == [16, 0.11]
    assert line(end, "local attention alone")[:, 1] == pytest.approx([0.999] * 7)
    assert line(end, "trivial floor")[0, 1] == 0.1
    looks = {(each.get_color(), each.get_marker(), each.get_linestyle()) for each in start.lines[4:12]}
    assert len(looks) == len(infini.ARMS)


def test_passkey_half_done_and_not_begun() -> None:
    half = infini.passkey_figure(passkey("half"))
    assert len(line(half.axes[0], "Linear  (n = 1)")) == 7
    assert "8 of 24 runs. Missing: local on passkey arm=local: 1 of 3 seeds;" in words_of(half)
    none = infini.passkey_figure(passkey("none"))
    assert len(none.axes[0].lines) == 4
    assert "+study=infini_passkey" in words_of(none)
    assert "Missing" not in words_of(infini.passkey_figure(passkey()))


def test_the_table_of_passkey_has_the_papers_form() -> None:
    table = infini.passkey_table(passkey())
    assert "| published, Infini (Linear), fine-tuned | 100/100/100 | 100/100/100 | 100/100/100 | 97/99/100 |" in table
    assert "| **ours**, local attention alone | 10/10/100 |" in table
    assert "| **ours**, Linear | 98/98/100 |" in table
    assert "published" not in infini.passkey_table(passkey(), "exact_match")
    assert "ours" not in infini.passkey_table(passkey("none"))


def test_text_is_drawn_by_size_and_by_position() -> None:
    sizes, positions, theirs = infini.text_figure(text()).axes
    assert line(sizes, "infini  (n = 3)").tolist() == [[1000, pytest.approx(2.001)]]
    assert line(sizes, "local  (n = 3)")[0, 0] == 0
    assert sizes.get_xscale() == "symlog"
    assert sizes.get_ylabel() == "bits per byte (less is better; trivial: 2.86)"
    assert line(positions, "rmt  (n = 3)").tolist() == [[64, 2.4], [128, 2.4]]
    assert line(theirs, "Infini (Linear),").tolist() == [[1.6e6, 9.65]]
    assert line(theirs, "Memorizing Transformers").tolist() == [[183e6, 11.37]]
    assert len(infini.text_figure(text("half")).axes) == 3
    none = infini.text_figure(text("none"))
    assert len(none.axes) == 1
    assert "+study=infini_lm" in words_of(none)


def test_the_table_of_text_keeps_units_apart() -> None:
    table = infini.text_table(text())
    assert "| infini | 1000 | 2.001 (2.000 to 2.002) | 2.001 (2.000 to 2.002) | 0.500 (0.500 to 0.500) | 3 |" in table
    assert "| Infini (Linear) | 32K | 1.6M | 9.65 | 2.24 |" in table
    assert "| Infini (Linear+Delta) | 100K |  |  | 2.2 |" in table
    assert "Ours" not in infini.text_table(text("none"))


def test_gates_are_maps_in_the_order_of_their_arms() -> None:
    figure = infini.gates_figure(gates())
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible() and axes.get_title()]
    assert titles[0] == "passkey\nstarts closed\nn = 3"
    assert titles[1] == "passkey\nsigmoid, rate x 0.01\nn = 3"
    assert len(titles) == 14
    assert sorted(text.get_text() for text in figure.axes[1].texts) == ["0.49", "0.49", "0.51", "0.51"]
    assert "no numbers that could be had" in words_of(infini.gates_figure(gates("none")))


def test_stuck_gates_have_curve_heads_and_score() -> None:
    figure = infini.stuck_gates_figure(gates())
    curve, heads, score = figure.axes[:3]
    assert line(curve, "sigmoid, rate x 10  (n = 3)") == pytest.approx(np.array([[10, 0.4], [20, 0.3], [30, 0.2]]))
    slow = np.asarray(heads.lines[2].get_ydata())
    assert (slow.min(), slow.max()) == pytest.approx((0.49, 0.51), abs=3e-3)
    assert np.asarray(score.lines[3].get_ydata()).tolist() == [pytest.approx(0.099)]
    half = infini.stuck_gates_figure(gates("half"))
    assert "14 of 42 runs" in words_of(half)
    assert "nothing to draw yet" in words_of(infini.stuck_gates_figure(gates("none")))


def test_how_gates_lie() -> None:
    spread = infini.gate_spread(gates())
    run = spread[(spread["label"] == "sigmoid, rate x 10") & (spread["seed"] == 0)].iloc[0]
    found = [run[name] for name in ("from_half", "stuck", "least", "greatest", "closed")]
    assert found == pytest.approx([0.3, 0, 0.2, 0.8, 0.2])
    assert "| passkey | sigmoid, rate x 0.01 |" in infini.gates_table(gates())
    assert "No run" in infini.gates_table(gates("none"))
