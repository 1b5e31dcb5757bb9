"""What a variant costs against length: the README's figure and table of ``mode=bench``.

    python run.py -m +study=efficiency         # measure into results/bench.csv
    python -m analysis.collect efficiency      # keep in results/studies/efficiency/bench.csv
    python -m analysis.efficiency              # redraw figure and table from that file alone

One row for each variant or package, length and phase.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.readme import README, markdown, write_section
from analysis.studies import Study, load_study
from analysis.style import colour, marker, save

RESULTS = Path(__file__).resolve().parents[1] / "results"

#: Phase and column of each panel, and what stands at its axis.
PANELS = {
    ("train", "tokens_per_second"): "training: tokens per second",
    ("stream", "tokens_per_second"): "streaming: tokens per second",
    ("train", "added_bytes"): "memory of a training step, MiB",
    ("stream", "added_bytes"): "memory of streaming, MiB",
    ("train", "flops"): "operations per token, training",
    ("train", "state_size"): "numbers carried along time",
}


def measured(study: Study) -> pd.DataFrame:
    """What was measured of a study, and ``peer``: whether it is a package's row.

    Raises:
        ValueError: no training step was measured.
    """
    rows = study.bench
    if rows.empty or not (rows["phase"] == "train").any():
        raise ValueError(f"study {study.name} holds no training step that was measured: {study.command}")
    return rows.assign(peer=rows["package"].notna())


def efficiency_figure(rows: pd.DataFrame) -> Figure:
    """Speed, memory, operations and state over length, both axes logarithmic; packages from PyPI are dashed.

    Args:
        rows: As :func:`measured` gives them.
    """
    rows = rows.assign(flops=rows["flops"] / rows["length"] / rows["batch_size"])
    figure = Figure(figsize=(11, 11.5), layout="constrained")
    for axes, ((phase, column), label) in zip(figure.subplots(3, 2).flat, PANELS.items(), strict=True):
        scale = 2**20 if column == "added_bytes" else 1
        _draw(axes, rows[rows["phase"] == phase], column, scale)
        axes.set(xscale="log", yscale="log", xlabel="tokens in the sequence", ylabel=label)
        axes.grid(alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, column: str, scale: int) -> None:
    for name, line in rows.groupby("name", sort=False):
        variant, is_peer = str(line["variant"].iloc[0]), bool(line["peer"].any())
        line = line[line[column] > 0]
        axes.plot(
            line["length"],
            line[column] / scale,
            color=colour(variant),
            marker=marker(variant),
            markersize=4,
            linestyle="--" if is_peer else "-",
            markerfacecolor="none" if is_peer else None,
            label=name,
        )


def efficiency_table(rows: pd.DataFrame) -> str:
    """One line for each variant and package, at the shortest and at the longest length that all variants reached."""
    lengths = rows[~rows["peer"] & (rows["phase"] == "train")].groupby("name")["length"].agg(set)
    common = sorted(set.intersection(*lengths)) or sorted(set.union(*lengths))
    shown = sorted({common[0], common[-1]})
    header = ["", *(f"training {length:,}: tokens/s, MiB" for length in shown)]
    header += [f"streaming {length:,}: tokens/s, MiB" for length in shown] + [f"state after {shown[-1]:,}"]
    lines = []
    for name, own in rows.groupby("name", sort=False):
        found = [_cell(own, phase, length) for phase in ("train", "stream") for length in shown]
        state = own.loc[own["length"] == shown[-1], "state_size"].dropna()
        lines.append([f"`{name}`", *found, f"{state.iloc[0]:,.0f}" if len(state) else "-"])
    return markdown(header, lines)


def _cell(rows: pd.DataFrame, phase: str, length: int) -> str:
    rows = rows[(rows["phase"] == phase) & (rows["length"] == length)]
    if not len(rows):
        return "-"
    return f"{rows['tokens_per_second'].iloc[0]:,.0f}, {rows['added_bytes'].iloc[0] / 2**20:,.1f}"


def report(rows: pd.DataFrame) -> str:
    """The README's section: what made it, the table, the figure."""
    first = rows.iloc[0]
    commits = ", ".join(sorted(rows["commit"].astype(str).str[:10].unique()))
    segments = ", ".join(f"{value:.0f}" for value in rows["segment_len"].dropna().unique())
    slots = ", ".join(f"{value:.0f}" for value in rows["memory_len"].dropna().unique())
    made_by = (
        f"Whole models: width {first['width']}, depth {first['depth']}, {first['num_heads']} heads, feed-forward "
        f"{first['ffn_width']}, S = {segments}, M = {slots}, batch {first['batch_size']}, {first['device']} in "
        f"{'float32' if str(first['precision']) == '32' else first['precision']}; {first['hardware']}, "
        f"{first['threads']} thread, {first['clock']}, torch {first['torch']}, load "
        f"{rows['load_average'].min():.1f} to {rows['load_average'].max():.1f}, commit {commits}. Packages from PyPI "
        "stand behind the variant that they correspond to; they have no state to hand on, so they are not streamed."
    )
    figure = "![Speed, memory, operations and state against length](results/figures/efficiency.svg)"
    return "\n\n".join([made_by, efficiency_table(rows), figure])


def main() -> None:
    """Command line: see the module's docstring."""
    argparse.ArgumentParser(description="Figure and table of mode=bench.").parse_args()
    rows = measured(load_study("efficiency", live=False))
    for path in save(efficiency_figure(rows), "efficiency"):
        print(f"wrote {path.relative_to(RESULTS.parent)}")
    write_section("efficiency", report(rows))
    print(f"wrote the efficiency section of {README.name}")


if __name__ == "__main__":
    main()
