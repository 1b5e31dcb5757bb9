"""One look for each variant, papers' numbers apart from ours, and figures that say what they are made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.marks import mark_published, mean_with_interval
from analysis.published import published
from analysis.studies import Study, load_study
from analysis.style import caption, colour, drawn, line, marker, missing_note, save
from experiments.results import bootstrap
from experiments.settings import REPOSITORY
from tests.analysis.stores import write_run

VARIANTS = sorted(path.stem for path in (REPOSITORY / "conf" / "model").glob("*.yaml"))


def frame(variants: Sequence[str] = ("luna", "fam"), seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    rows = [
        {"variant": variant, "seed": seed, "length": length, "depth": depth, "score": seed / 4 + depth}
        for variant, seed, length, depth in itertools.product(variants, seeds, (8, 4), (0.0, 0.2))
    ]
    return pd.DataFrame(rows)


def study(tmp_path: Path) -> Study:
    """Two of three seeds of one arm of ``overview``, and nothing of the others."""
    for seed in (0, 1):
        write_run(tmp_path, study="overview", model="transformer", seed=seed)
    return load_study("overview", root=tmp_path, committed=tmp_path)


def test_every_variant_can_be_told_apart_without_colour() -> None:
    looks = [(marker(variant), line(variant)) for variant in VARIANTS]
    twins = [variant for variant, look in zip(VARIANTS, looks, strict=True) if looks.count(look) > 1]
    assert twins == [], "give each a marker or a line of its own in analysis/style.py"
    assert "--" not in [look[1] for look in looks], "dashed lines are the papers'"


def test_presets_have_the_colour_of_their_family() -> None:
    assert colour("luna_filter") == colour("luna") != colour("fam")
    assert colour("no_such_variant") == colour("no_such_variant")


def test_a_line_is_the_mean_over_seeds_and_the_band_its_interval() -> None:
    axes = Figure().add_subplot()
    mean_with_interval(axes, frame(), "length", "score")
    first = axes.lines[0]
    assert first.get_label() == "luna  (n = 3)"
    assert np.asarray(first.get_xdata()).tolist() == [4, 8]
    assert np.asarray(first.get_ydata()).tolist() == pytest.approx([0.35, 0.35])
    low, high = bootstrap([0.1, 0.35, 0.6])
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((low, high))


def test_one_seed_has_no_band_and_uneven_seeds_are_said() -> None:
    axes = Figure().add_subplot()
    mean_with_interval(axes, frame(seeds=(1,)), "length", "score")
    assert not axes.collections
    rows = frame()
    mean_with_interval(axes, rows[~((rows["seed"] == 2) & (rows["length"] == 8))], "length", "score", show_n=True)
    assert axes.lines[-1].get_label() == "fam  (n = 2 to 3)"


def test_published_numbers_are_hollow_and_dashed() -> None:
    axes = Figure().add_subplot()
    rows = published(paper="luna", where="LRA results table", variant="luna", task="lra_text")
    assert len(rows) >= 3
    mark_published(axes, rows.assign(model="Luna"), "memory_len")
    points = axes.lines[0]
    assert points.get_linestyle() == "--"
    assert points.get_markerfacecolor() == "none"
    assert points.get_label() == "Luna, luna (published)"
    assert np.all(np.asarray(points.get_ydata()) <= 1), "per cent are drawn as shares"
    assert drawn("luna")["linestyle"] != "--"
    mark_published(axes, rows)
    assert len(axes.lines) == 1 + len(rows)
    with pytest.raises(ValueError, match="have no setting 'fam_len': choose other rows"):
        mark_published(axes, rows, "fam_len")
    with pytest.raises(ValueError, match="no published numbers"):
        mark_published(axes, rows.iloc[:0])


def test_a_figure_says_what_it_lacks_and_what_makes_it(tmp_path: Path) -> None:
    figure = Figure(layout="constrained")
    some = study(tmp_path)
    missing_note(figure, some)
    text = figure.get_supxlabel().replace("\n", " ")
    assert text.startswith("2 of 153 runs. Missing: ")
    assert "transformer on passkey: 2 of 3 seeds" in text
    assert text.endswith("To make them: python run.py -m +study=overview scale=laptop")
    whole = Figure()
    missing_note(whole, replace(some, missing=some.missing.iloc[:0]))
    assert whole.get_supxlabel() == ""


def test_a_caption_names_where_the_numbers_come_from(tmp_path: Path) -> None:
    text = caption(study(tmp_path), note="the axis is logarithmic")
    assert text.startswith("Study `overview`, scale laptop, 2 runs of 1 arms (seeds = 2). Mean over seeds and 95 %")
    for part in ("passkey `generated`", "A machine; torch 2.13.0; commit 0123456789.", "depth 2 of 18"):
        assert part in text
    assert "steps 3,000 of 5,000" in text
    assert "test_limit 5,000 of all" in text
    assert "Missing: " in text
    assert text.endswith("The axis is logarithmic.")


def test_a_caption_of_nothing_names_the_command(tmp_path: Path) -> None:
    empty = load_study("overview", root=tmp_path, committed=tmp_path)
    assert "No run is done: `python run.py -m +study=overview scale=laptop`." in caption(empty)


def test_the_same_figure_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.style.FIGURES", tmp_path / "figures")
    contents = []
    for _ in range(2):
        figure = Figure(layout="constrained")
        mean_with_interval(figure.add_subplot(), frame(), "length", "score")
        paths = save(figure, "lines")
        assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["figures/lines.svg", "figures/lines.png"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert b"<dc:date>" not in contents[0][0]
