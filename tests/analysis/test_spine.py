"""The README's table and figure come from the committed files, and from nothing else."""

import itertools
from pathlib import Path

import pandas as pd
import pytest

from analysis import spine
from analysis.passkey import cells, passkey_figure
from analysis.readme import README, marks
from analysis.study_files import as_text, read_study, typed_table
from analysis.style import FIGURES, save


def slices(variants: tuple[str, ...] = spine.VARIANTS, seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    """Perfect up to 4 blocks, wrong from 8 on."""
    rows = [
        {
            "task": "passkey",
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


def test_variants_of_one_table_have_the_same_seeds() -> None:
    spine.check(runs())
    with pytest.raises(ValueError, match="lra_text: variants have different seeds"):
        spine.check(runs().iloc[1:])


def test_the_text_task_has_no_part_in_the_passkey_table() -> None:
    both = pd.concat([slices(), slices().assign(task="lra_text", exact_match=0.0)])
    assert spine.passkey_table(runs(), both) == spine.passkey_table(runs(), slices())


def test_reach_is_that_of_the_windows() -> None:
    assert spine.reach(runs()) == {"block_window": 3}


def test_the_readme_shows_what_the_committed_files_hold() -> None:
    readme = README.read_text(encoding="utf-8")
    begin, end = marks("measured")
    shown = readme.split(begin)[1].split(end)[0].strip()
    study = spine.load()
    assert shown == spine.report(study.runs, study.slices).strip()


def test_the_committed_files_are_in_the_form_that_collecting_writes() -> None:
    tables = read_study("spine")
    for kind in ("runs", "slices"):
        assert as_text(typed_table(tables[kind]), kind).equals(tables[kind])
    study = spine.load()
    assert len(study.runs) == 27
    assert study.describe_missing() == "fam_gated on lra_text: 0 of 3 seeds"
    assert spine.reach(study.runs) == {"block_window": 3}


@pytest.mark.parametrize("name", ["spine_passkey.svg", "spine_passkey.png"])
def test_the_figure_is_committed(name: str) -> None:
    assert (FIGURES / name).stat().st_size > 1000
