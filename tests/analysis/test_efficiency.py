"""Figure and table of mode=bench come from its rows, and from nothing else."""

import itertools
from pathlib import Path

import pandas as pd
import pytest

from analysis import efficiency
from analysis.bench_files import SAME
from analysis.readme import README, marks
from analysis.studies import load_study

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


def test_what_failed_is_left_out(tmp_path: Path) -> None:
    table = rows()
    table.loc[table["name"] == "kin", "status"] = "failed: no room"
    assert "kin" not in set(loaded(tmp_path, table)["name"])


def test_the_section_of_the_readme_is_that_of_the_committed_rows() -> None:
    begin, end = marks("efficiency")
    shown = README.read_text(encoding="utf-8").split(begin)[1].split(end)[0].strip()
    assert shown == efficiency.report(efficiency.measured(load_study("efficiency", live=False)))
