"""The measured table and figure of README: the first variants, two tasks, three seeds (``conf/study/spine.yaml``).

    python run.py -m +study=spine          # train and test, hours or minutes: skips what is done
    python -m analysis.collect spine       # copy what the store holds into results/studies/spine/
    python -m analysis.spine               # redraw table and figure from those files alone

The csv files are committed, so that table and figure can be redrawn years later without any run.
"""

import argparse

import pandas as pd
from matplotlib.figure import Figure

from analysis.passkey import cells, passkey_figure
from analysis.readme import README, markdown, write_section
from analysis.statistics import interval_text, mean_interval
from analysis.studies import Study, load_study
from analysis.style import FIGURES, save

VARIANTS = ("transformer", "block_window", "luna", "fam", "fam_gated")


def load() -> Study:
    """The committed runs.

    Raises:
        ValueError: a file is torn, or its rows cannot stand in one table.
    """
    study = load_study("spine", live=False)
    check(study.runs)
    return study


def check(runs: pd.DataFrame) -> None:
    """Refuse rows of a table that are means over other seeds than its others.

    Raises:
        ValueError: names the seeds.
    """
    for name, rows in runs.groupby("task"):
        seeds = {variant: sorted(group["seed"]) for variant, group in rows.groupby("variant")}
        if len(set(map(tuple, seeds.values()))) != 1:
            raise ValueError(
                f"{name!s}: variants have different seeds ({seeds}): run what is missing (python run.py -m "
                "+study=spine), then python -m analysis.collect spine"
            )


def figure(study: Study) -> Figure:
    """Exact match of ``passkey`` over length and depth."""
    rows = study.slices[study.slices["task"] == "passkey"]
    rows = pd.concat([rows[rows["variant"] == variant] for variant in VARIANTS])
    return passkey_figure(rows, reach(study.runs))


def reach(runs: pd.DataFrame) -> dict[str, int]:
    """Blocks that a window can look through on ``passkey``, for the variants that it bounds."""
    bounded = runs[(runs["task"] == "passkey") & runs["reach_blocks"].notna()]
    return {str(name): int(blocks) for name, blocks in zip(bounded["variant"], bounded["reach_blocks"], strict=True)}


def text_table(runs: pd.DataFrame) -> str:
    """Accuracy on ``lra_text``."""
    header = ["`model=`", "seeds", "test accuracy, % (95 % interval)", "parameters", "tokens/s", "minutes a run"]
    lines = []
    for variant, rows in _by_variant(runs[runs["task"] == "lra_text"]):
        score = interval_text(mean_interval(rows["test/accuracy"]), percent=True)
        lines.append([f"`{variant}`", str(len(rows)), score, *_costs(rows)])
    return markdown(header, lines)


def passkey_table(runs: pd.DataFrame, slices: pd.DataFrame) -> str:
    """Exact match on ``passkey`` by length, mean over depths, with the state that each variant carries."""
    slices = cells(slices[slices["task"] == "passkey"])
    longest = int(slices.loc[slices["factor"] <= 1, "length_blocks"].max())
    lengths = sorted(map(int, slices["length_blocks"].unique()))
    header = ["`model=`", "seeds", *(f"{n} blocks" + (" (trained)" if n <= longest else "") for n in lengths)]
    lines = []
    for variant, rows in _by_variant(runs[runs["task"] == "passkey"]):
        means = slices[slices["variant"] == variant].groupby(["length_blocks", "seed"])["exact_match"].mean()
        by_length = means.unstack("seed").reindex(lengths)
        scores = [interval_text(mean_interval(row), percent=True, none="not run") for _, row in by_length.iterrows()]
        state = f"{rows['state_size'].iloc[0]:,.0f}"
        lines.append([f"`{variant}`", str(len(rows)), *scores, state, *_costs(rows)])
    return markdown([*header, "state after training length", "parameters", "tokens/s", "minutes a run"], lines)


def _by_variant(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The study's variants in the order of the README."""
    return [(variant, runs[runs["variant"] == variant]) for variant in VARIANTS if (runs["variant"] == variant).any()]


def _costs(rows: pd.DataFrame) -> list[str]:
    return [
        f"{rows['num_params'].iloc[0]:,.0f}",
        f"{rows['tokens_per_second'].median():,.0f}",
        f"{rows['wall_seconds'].median() / 60:.1f}",
    ]


def report(runs: pd.DataFrame, slices: pd.DataFrame) -> str:
    """The README's section: both tables, the figure, and what made them."""
    source = ", ".join(sorted(runs.loc[runs["task"] == "lra_text", "data_source"].unique()))
    commits = ", ".join(sorted(runs["git_sha"].astype(str).str[:10].unique()))
    made_by = (
        f"`python run.py -m +study=spine` at laptop scale, data `{source}`; {runs['hardware'].iloc[0]}, two runs at a "
        f"time, one thread each; commit {commits}. Mean over seeds and 95 % bootstrap interval over seeds. Redrawn by "
        "`python -m analysis.spine` from [`results/studies/spine/`](results/studies/spine). Other work ran on the same "
        'cores, so tokens/s and minutes are no timings to compare. Lengths marked "not run" were left out by the '
        "transformer's `task.eval_factors` (`conf/study/spine.yaml`). `passkey` was run with `trainer.batch_size=32`; "
        "its column takes 16 since then ([`LOG.md`](LOG.md))."
    )
    text = "**`lra_text`**, the first 512 bytes of a review (majority 50 %; TF-IDF, logistic regression 88.9 %):"
    passkey = "**`passkey`**, exact match of a five-digit key in %, decoded greedily, mean over depths:"
    figure = "![Exact match of the passkey over length and depth](results/figures/spine_passkey.svg)"
    return "\n\n".join([made_by, text, text_table(runs), passkey, passkey_table(runs, slices), figure])


def main() -> None:
    """Command line: see the module's docstring."""
    argparse.ArgumentParser(description="Table and figure of the study `spine`.").parse_args()
    study = load()
    for path in save(figure(study), "spine_passkey"):
        print(f"wrote {path.relative_to(FIGURES.parents[1])}")
    write_section("measured", report(study.runs, study.slices))
    print(f"wrote the measured section of {README.name}")


if __name__ == "__main__":
    main()
