"""The measured table and figure of README: the first variants, two tasks, three seeds (``conf/study/spine.yaml``).

    python run.py -m +study=spine          # train and test, hours or minutes: skips what is done
    python -m analysis.spine --collect     # copy what the store holds into results/spine*.csv
    python -m analysis.spine               # redraw table and figure from those files alone

The csv files are committed, so that table and figure can be redrawn years later without any run.
"""

import argparse
from pathlib import Path

import pandas as pd

from analysis.passkey import cells, passkey_figure
from analysis.readme import README, markdown, write_section
from analysis.statistics import mean_and_interval
from analysis.studies import refuse_mixed
from analysis.style import save
from experiments.results import load_config, load_results, load_slices

RESULTS = Path(__file__).resolve().parents[1] / "results"

VARIANTS = ("transformer", "block_window", "luna", "fam", "fam_gated")
RUN_COLUMNS = [
    *("run_id", "study", "model", "variant", "task", "scale", "seed", "data_source", "data_checksum", "status"),
    *("test/accuracy", "test/exact_match", "test/symbol_accuracy", "test/n", "val/accuracy", "val/exact_match"),
    *("steps", "best_step", "num_params", "state_size", "train_flops", "tokens_per_second", "peak_memory_bytes"),
    *("wall_seconds", "device", "precision", "torch", "git_sha", "config_hash", "hardware", "attempts", "reach_blocks"),
]
SLICE_COLUMNS = [
    "variant",
    "seed",
    "length_blocks",
    "length_tokens",
    "factor",
    "depth",
    "blocks_between",
    "n",
    "exact_match",
    "symbol_accuracy",
]


def collect(store: Path | None) -> None:
    """Copy the study's finished runs into the committed csv files."""
    runs = load_results(store)
    runs = runs[runs["study"] == "spine"].sort_values(["task", "variant", "seed"])
    check(runs)
    runs["reach_blocks"] = [_reach(Path(folder)) for folder in runs["folder"]]
    exact = [column for column in map(str, runs) if column.startswith("test/exact_match@")]
    runs.reindex(columns=[*RUN_COLUMNS, *exact]).to_csv(RESULTS / "spine.csv", index=False)
    slices = load_slices(store)
    slices = slices[(slices["study"] == "spine") & (slices["task"] == "passkey")]
    slices = slices.reindex(columns=SLICE_COLUMNS)  # runs made before there was such a column have none between
    slices.sort_values(SLICE_COLUMNS[:7]).to_csv(RESULTS / "spine_passkey.csv", index=False)


def check(runs: pd.DataFrame) -> None:
    """Refuse to mix: one table row is one setting at one scale on one source, and all have the same seeds.

    Raises:
        ValueError: names what differs.
    """
    refuse_mixed(runs)
    for name, rows in runs.groupby("task"):
        seeds = {variant: sorted(group["seed"]) for variant, group in rows.groupby("variant")}
        if len(set(map(tuple, seeds.values()))) != 1:
            raise ValueError(
                f"{name!s}: variants have different seeds ({seeds}); a run that was first made outside the study "
                "carries no label: repeat it with +study=spine force=true"
            )


def _reach(folder: Path) -> int | None:
    """Blocks that a window can look through with all its layers, its own included; None where nothing bounds it."""
    config = load_config(folder)
    if config["model"]["name"] != "block_window":
        return None
    return int(config["backbone"]["depth"] * config["model"]["memory_blocks"] + 1)


def text_table(runs: pd.DataFrame) -> str:
    """Accuracy on ``lra_text``."""
    header = ["`model=`", "seeds", "test accuracy, % (95 % interval)", "parameters", "tokens/s", "minutes a run"]
    lines = []
    for variant, rows in _by_variant(runs[runs["task"] == "lra_text"]):
        score = mean_and_interval(rows["test/accuracy"])
        lines.append([f"`{variant}`", str(len(rows)), score, *_costs(rows)])
    return markdown(header, lines)


def passkey_table(runs: pd.DataFrame, slices: pd.DataFrame) -> str:
    """Exact match on ``passkey`` by length, mean over depths, with the state that each variant carries."""
    slices = cells(slices)
    longest = int(slices.loc[slices["factor"] <= 1, "length_blocks"].max())
    lengths = sorted(map(int, slices["length_blocks"].unique()))
    header = ["`model=`", "seeds", *(f"{n} blocks" + (" (trained)" if n <= longest else "") for n in lengths)]
    lines = []
    for variant, rows in _by_variant(runs[runs["task"] == "passkey"]):
        means = slices[slices["variant"] == variant].groupby(["length_blocks", "seed"])["exact_match"].mean()
        by_length = means.unstack("seed").reindex(lengths)
        scores = [mean_and_interval(scores) or "not run" for _, scores in by_length.iterrows()]
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
        "`python -m analysis.spine` from [`results/spine.csv`](results/spine.csv) and "
        "[`results/spine_passkey.csv`](results/spine_passkey.csv). Other work ran on the same cores, so tokens/s "
        'and minutes are no timings to compare. Lengths marked "not run" were left out by the transformer\'s '
        "`task.eval_factors` (`conf/study/spine.yaml`)."
    )
    text = "**`lra_text`**, the first 512 bytes of a review (majority 50 %; TF-IDF, logistic regression 88.9 %):"
    passkey = "**`passkey`**, exact match of a five-digit key in %, decoded greedily, mean over depths:"
    figure = "![Exact match of the passkey over length and depth](results/figures/spine_passkey.svg)"
    return "\n\n".join([made_by, text, text_table(runs), passkey, passkey_table(runs, slices), figure])


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Table and figure of the study `spine`.")
    parser.add_argument("--collect", action="store_true", help="first copy the store's runs into results/spine*.csv")
    parser.add_argument("--store", type=Path, help="results folder to collect from (default: where runs are stored)")
    arguments = parser.parse_args()
    if arguments.collect:
        collect(arguments.store)
    runs, slices = pd.read_csv(RESULTS / "spine.csv"), pd.read_csv(RESULTS / "spine_passkey.csv")
    slices = pd.concat([slices[slices["variant"] == variant] for variant in VARIANTS])
    bounded = runs[(runs["task"] == "passkey") & runs["reach_blocks"].notna()]
    reach = {str(name): int(blocks) for name, blocks in zip(bounded["variant"], bounded["reach_blocks"], strict=True)}
    for path in save(passkey_figure(slices, reach), "spine_passkey"):
        print(f"wrote {path.relative_to(RESULTS.parent)}")
    write_section("measured", report(runs, slices))
    print(f"wrote the measured section of {README.name}")


if __name__ == "__main__":
    main()
