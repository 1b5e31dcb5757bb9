"""Figure and table of mode=bench come from its rows, and from nothing else."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import efficiency
from analysis.bench_files import SAME
from analysis.readme import BENCHMARKS, marks
from analysis.studies import Study, load_study

COMMON = {
    **dict.fromkeys(SAME, 1),
    "study": "efficiency",
    "scale": "laptop",
    "segment_len": 512.0,
    "memory_len": 64.0,
    "torch": "2",
    "commit": "abc",
    "clock": "CPU time",
    "load_average": 0.1,
    "status": "ok",
}


def rows() -> pd.DataFrame:
    found = []
    for (name, package), length, phase in itertools.product(
        (("luna", None), ("transformer", None), ("kin", "kin 1.0")), (64, 256), ("train", "stream")
    ):
        if package and phase == "stream":
            continue
        found.append(
            {
                "name": name,
                "variant": "luna" if package else name,
                "package": package,
                "length": length,
                "phase": phase,
                "tokens_per_second": 1e6 / length,
                "added_bytes": length << 20,
                "flops": 100 * length,
                "state_size": None if package else 7,
                **COMMON,
            }
        )
    return pd.DataFrame(found)


def loaded(tmp_path: Path, table: pd.DataFrame) -> pd.DataFrame:
    table.to_csv(tmp_path / "bench.csv", index=False)
    return efficiency.measured(load_study("efficiency", root=tmp_path, committed=tmp_path))


def test_packages_stand_behind_their_variant(tmp_path: Path) -> None:
    table = loaded(tmp_path, rows())
    assert table["name"].unique().tolist() == ["transformer", "luna", "kin"]
    lines = efficiency.efficiency_table(table).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["`transformer`", "`luna`", "`kin`"]
    assert lines[4].split("|")[2:7] == [" 15,625, 64.0 ", " 3,906, 256.0 ", " - ", " - ", " - "]


def test_the_figure_has_a_line_for_each(tmp_path: Path) -> None:
    figure = efficiency.efficiency_figure(loaded(tmp_path, rows()))
    assert [len(axes.lines) for axes in figure.axes] == [3, 2, 3, 2, 3, 3]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)


def test_measurements_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    table = rows()
    table.loc[0, "threads"] = 2
    with pytest.raises(ValueError, match="mixes threads: 1, 2"):
        loaded(tmp_path, table)


def made(table: pd.DataFrame) -> Study:
    """The study with these rows, and nothing missing."""
    study = load_study("efficiency", live=False)
    return replace(study, bench=table.assign(num_params=5, spread=0.01))


def test_a_token_costs_its_share() -> None:
    table = efficiency.per_token(made(rows()))
    first = table.iloc[0]
    assert (first["length"], first["microseconds"], first["operations"]) == (64, 64.0, 100.0)
    assert first["kibibytes"] == 1024.0


def test_cost_per_token_leaves_out_packages() -> None:
    figure = efficiency.token_figure(made(rows()))
    assert [[line.get_label() for line in axes.lines] for axes in figure.axes] == [["luna", "transformer"]] * 3
    assert list(np.asarray(figure.axes[0].lines[0].get_ydata())) == [64.0, 256.0]


def test_the_table_names_growth_and_packages() -> None:
    lines = efficiency.token_table(made(rows())).splitlines()
    assert lines[2] == "| `luna` |  | 5 | 7 | 256.0 | 4.00 | 1024.00 | 256.0 | 4.00 | 1024.00 | 100 |"
    assert lines[4] == "| `kin` | kin 1.0 | 5 | - | 256.0 | 4.00 | 1024.00 | - | - | - | 100 |"


def test_ratios_are_ours_over_the_packages() -> None:
    table = rows()
    table.loc[table["name"] == "luna", "tokens_per_second"] *= 2
    table.loc[table["name"] == "luna", "added_bytes"] //= 4
    study = made(table)
    found = efficiency.peer_ratios(study)
    assert found[["variant", "package", "length", "speed", "memory"]].values.tolist() == [
        ["luna", "kin", 64, 2.0, 0.25],
        ["luna", "kin", 256, 2.0, 0.25],
    ]
    speed, memory = efficiency.peer_figure(study).axes
    assert list(np.asarray(speed.lines[0].get_ydata())) == [2.0, 2.0]
    assert list(np.asarray(memory.lines[0].get_ydata())) == [0.25, 0.25]
    assert "| `luna` | kin | 2.00 | 2.00 | 0.25 | 0.25 |" in efficiency.peer_table(study)


@pytest.mark.parametrize("name", ["length_figure", "token_figure", "peer_figure"])
def test_nothing_measured_is_a_figure_of_words(tmp_path: Path, name: str) -> None:
    study = load_study("efficiency", live=False, committed=tmp_path)
    figure = getattr(efficiency, name)(study)
    assert not figure.axes
    assert "python run.py -m +study=efficiency" in figure.texts[0].get_text()


@pytest.mark.parametrize("name", ["length_figure", "token_figure", "peer_figure"])
def test_what_is_missing_stands_below(tmp_path: Path, name: str) -> None:
    rows().assign(spread=0.01, num_params=5).to_csv(tmp_path / "bench.csv", index=False)
    study = load_study("efficiency", root=tmp_path, committed=tmp_path)
    assert "Missing: transformer: 1,024" in getattr(efficiency, name)(study).get_supxlabel()


def test_what_failed_is_left_out(tmp_path: Path) -> None:
    table = rows()
    table.loc[table["name"] == "kin", "status"] = "failed: no room"
    assert "kin" not in set(loaded(tmp_path, table)["name"])


def test_the_section_of_the_page_is_that_of_the_committed_rows() -> None:
    begin, end = marks("efficiency")
    shown = BENCHMARKS.read_text(encoding="utf-8").split(begin)[1].split(end)[0].strip()
    assert shown == efficiency.report(load_study("efficiency", live=False))
