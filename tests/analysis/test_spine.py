"""The README's table and figure come from the committed files, and from nothing else."""

import itertools
from pathlib import Path

import pandas as pd
import pytest

from analysis import spine
from analysis.passkey import cells, passkey_figure
from analysis.readme import README, marks
from analysis.style import save


def slices(variants: tuple[str, ...] = spine.VARIANTS, seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    """Perfect up to 4 blocks, wrong from 8 on."""
    rows = [
        {
            "variant": variant,
            "seed": seed,
            "length_blocks": blocks,
            "factor": blocks / 4,
            "depth": depth,
            "n": 4,
            "exact_match": float(blocks <= 4),
        }
        for variant, seed, blocks, depth in itertools.product(variants, seeds, (2, 4, 8, 32), (0.0, 0.5, 1.0))
    ]
    return pd.DataFrame(rows)


def runs() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "variant": variant,
                "task": task,
                "seed": seed,
                "data_source": "imdb",
                "test/accuracy": 0.6 + 0.01 * seed,
                "state_size": 128,
                "num_params": 1000,
                "tokens_per_second": 5e4,
                "wall_seconds": 90.0,
                "hardware": "a machine",
                "git_sha": "0123456789abcdef",
                "reach_blocks": 3 if variant == "block_window" else None,
            }
            for variant, task, seed in itertools.product(spine.VARIANTS, ("lra_text", "passkey"), (0, 1))
        ]
    )


def test_figure_has_a_map_for_each_variant_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (passkey_figure(slices(), reach={"block_window": 3}) for _ in range(2))
    titles = [axes.get_title() for axes in first.axes]
    assert [title.split()[0] for title in titles if title] == list(spine.VARIANTS)
    svg, png = save(first, tmp_path / "one")
    again, _ = save(second, tmp_path / "two")
    assert again.read_bytes() == svg.read_bytes()
    assert png.stat().st_size > 1000
    assert "<date>" not in svg.read_text()


def test_figure_takes_one_seed_and_one_variant() -> None:
    passkey_figure(slices(("fam",), (0,)))


def test_slices_of_one_cell_count_as_often_as_they_have_prompts() -> None:
    whole = slices(("fam", "luna"), (0, 1))
    assert cells(whole) is whole
    near = whole.assign(blocks_between=0, n=1, exact_match=1.0)
    far = whole.assign(blocks_between=1, n=3, exact_match=0.2)
    joined = cells(pd.concat([near, far]))
    assert joined["exact_match"].tolist() == pytest.approx([0.4] * len(whole))
    assert set(joined["n"]) == {4}
    assert spine.passkey_table(runs(), whole.assign(exact_match=0.4)) == spine.passkey_table(
        runs(), pd.concat([near, far])
    )


def test_report_names_source_commit_and_every_variant() -> None:
    text = spine.report(runs(), slices())
    assert "data `imdb`" in text
    assert "commit 0123456789" in text
    assert text.count("| `fam` |") == 2
    assert "4 blocks (trained)" in text
    assert "8 blocks |" in text


def test_runs_of_two_settings_are_never_one_row() -> None:
    table = runs().assign(config_hash="a", scale="laptop")
    spine.check(table)
    with pytest.raises(ValueError, match=r"runs of several scales \(laptop, smoke\)"):
        spine.check(table.assign(scale=["smoke", *["laptop"] * (len(table) - 1)]))
    with pytest.raises(ValueError, match="lra_text: variants have different seeds"):
        spine.check(table.iloc[1:])


def test_the_readme_shows_what_the_committed_files_hold() -> None:
    readme = README.read_text(encoding="utf-8")
    begin, end = marks("measured")
    shown = readme.split(begin)[1].split(end)[0].strip()
    stored = (spine.RESULTS / "spine.csv", spine.RESULTS / "spine_passkey.csv")
    assert shown == spine.report(*map(pd.read_csv, stored)).strip()


@pytest.mark.parametrize("name", ["spine_passkey.svg", "spine_passkey.png"])
def test_the_figure_is_committed(name: str) -> None:
    assert (spine.RESULTS / "figures" / name).stat().st_size > 1000
