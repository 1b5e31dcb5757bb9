"""What a variant costs against length: figure and table of ``mode=bench``.

    python run.py -m +study=efficiency         # measure into results/bench.csv
    python -m analysis.collect efficiency      # keep in results/studies/efficiency/bench.csv
    python -m analysis.efficiency              # redraw figure and table from that file alone

One row for each variant or package, length and phase. The notebook ``efficiency`` adds cost per token, and ratios to
the packages that do the same.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import plain_ticks
from analysis.panels import legend_above, words
from analysis.readme import BENCHMARKS, markdown, write_section
from analysis.studies import Study, load_study
from analysis.style import colour, drawn, marker, missing_note, save

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


def report(study: Study) -> str:
    """The section of results/benchmarks/README.md: what made it and what is missing, the table, the figure."""
    rows = measured(study)
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
    if len(study.missing):
        made_by += f" Missing: {study.describe_missing()} (`{study.command}`)."
    figure = "![Speed, memory, operations and state against length](../figures/efficiency.svg)"
    return "\n\n".join([made_by, efficiency_table(rows), figure])


def length_figure(study: Study) -> Figure:
    """:func:`efficiency_figure` of a study, with what it lacks; words where nothing is measured.

    Args:
        study: ``efficiency``.
    """
    if study.bench.empty:
        return words(study)
    figure = efficiency_figure(measured(study))
    missing_note(figure, study)
    return figure


def per_token(study: Study) -> pd.DataFrame:
    """The rows of a study with what a token costs: ``microseconds``, ``operations`` and ``kibibytes``."""
    rows = measured(study)
    tokens = rows["length"] * rows["batch_size"]
    return rows.assign(
        microseconds=1e6 / rows["tokens_per_second"],
        operations=rows["flops"] / tokens,
        kibibytes=rows["added_bytes"] / 2**10 / tokens,
    )


def token_figure(study: Study) -> Figure:
    """Time and memory for each token against length: what is linear in the length is level. No packages.

    Args:
        study: ``efficiency``.
    """
    if study.bench.empty:
        return words(study)
    rows = per_token(study)
    rows = rows[~rows["peer"]]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = {
        ("train", "microseconds"): "training: microseconds per token",
        ("stream", "microseconds"): "streaming: microseconds per token",
        ("train", "kibibytes"): "training: KiB per token",
    }
    for axes, ((phase, column), label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name, line in rows[rows["phase"] == phase].groupby("name", sort=False):
            axes.plot(line["length"], line[column], label=name, **drawn(str(line["variant"].iloc[0])))
        axes.set_title(label, fontsize=10)
        _logarithmic(axes, rows["length"])
    legend_above(figure, figure.axes[0], ncols=6, fontsize=8)
    missing_note(figure, study)
    return figure


def _logarithmic(axes: Axes, lengths: pd.Series) -> None:
    """Both axes logarithmic, with plain numbers."""
    axes.set(xscale="log", yscale="log", xlabel="tokens in the sequence")
    plain_ticks(axes, lengths)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.grid(alpha=0.25)


def token_table(study: Study) -> str:
    """Each variant's training and streaming at the longest length: a Markdown table.

    ``grows`` is how many times as much a token costs there as at the shortest length.

    Args:
        study: ``efficiency``.
    """
    rows = per_token(study)
    longest, shortest = rows["length"].max(), rows["length"].min()
    header = ["", "package", "parameters", f"numbers carried after {longest:,}"]
    for phase in ("training", "streaming"):
        header += [f"{phase} {longest:,}: microseconds per token", "grows", "KiB per token"]
    header.append("operations per token, training")
    lines = []
    for name, own in rows.groupby("name", sort=False):
        first = own.iloc[0]
        state = own.loc[own["length"] == longest, "state_size"].dropna()
        cells = [f"`{name}`", "" if pd.isna(first["package"]) else str(first["package"]), f"{first['num_params']:,}"]
        cells.append(f"{state.iloc[0]:,.0f}" if len(state) else "-")
        for phase in ("train", "stream"):
            cells += _phase_cells(own[own["phase"] == phase].set_index("length"), shortest, longest)
        operations = own.loc[(own["phase"] == "train") & (own["length"] == longest), "operations"].dropna()
        lines.append([*cells, f"{operations.iloc[0]:,.0f}" if len(operations) else "-"])
    return markdown(header, lines)


def _phase_cells(rows: pd.DataFrame, shortest: int, longest: int) -> list[str]:
    if longest not in rows.index:
        return ["-", "-", "-"]
    last = rows.loc[longest]
    first = rows.loc[shortest] if shortest in rows.index else None
    grows = "-" if first is None else f"{last['microseconds'] / first['microseconds']:.2f}"
    return [f"{last['microseconds']:.1f}", grows, f"{last['kibibytes']:.2f}"]


def peer_ratios(study: Study) -> pd.DataFrame:
    """Each variant over the packages that do the same, in training.

    Returns:
        Columns ``variant, package, length``, ``speed`` and ``memory`` (ours over theirs), and ``spread``, that of both
        repetitions together as a share of the speed.
    """
    rows = measured(study)
    rows = rows[rows["phase"] == "train"]
    ours, theirs = rows[~rows["peer"]], rows[rows["peer"]]
    both = theirs.merge(ours, left_on=["variant", "length"], right_on=["name", "length"], suffixes=("", "_ours"))
    return both.assign(
        package=both["name"],
        speed=both["tokens_per_second_ours"] / both["tokens_per_second"],
        memory=both["added_bytes_ours"] / both["added_bytes"],
        spread=both["spread_ours"] + both["spread"],
    )[["variant", "package", "length", "speed", "memory", "spread"]]


def peer_figure(study: Study) -> Figure:
    """Speed and memory of each variant over the packages that do the same; a line at 1, where both are equal.

    Args:
        study: ``efficiency``.
    """
    if study.bench.empty or peer_ratios(study).empty:
        return words(study, about="No package was measured beside a variant: they are those of requirements-bench.txt.")
    rows = peer_ratios(study)
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("speed", "memory"), strict=True):
        for (variant, package), line in rows.groupby(["variant", "package"], sort=False):
            axes.plot(line["length"], line[measure], label=f"{variant} / {package}", **drawn(str(variant)))
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        axes.set_title(f"training: {measure} over the package's", fontsize=10)
        _logarithmic(axes, rows["length"])
    legend_above(figure, figure.axes[0], ncols=2, fontsize=8)
    missing_note(figure, study)
    return figure


def peer_table(study: Study) -> str:
    """Each variant over the packages that do the same, by length: a Markdown table of ratios.

    Args:
        study: ``efficiency``.
    """
    rows = peer_ratios(study)
    lengths = sorted(rows["length"].unique())
    header = ["variant", "package", *(f"speed at {length:,}" for length in lengths)]
    header += [f"memory at {length:,}" for length in lengths]
    lines = []
    for (variant, package), own in rows.groupby(["variant", "package"], sort=False):
        found = own.set_index("length")
        cells = [f"`{variant}`", str(package)]
        for measure in ("speed", "memory"):
            cells += [f"{found.loc[at, measure]:.2f}" if at in found.index else "-" for at in lengths]
        lines.append(cells)
    return markdown(header, lines)


def main() -> None:
    """Command line: see the module's docstring."""
    argparse.ArgumentParser(description="Figure and table of mode=bench.").parse_args()
    study = load_study("efficiency", live=False)
    for path in save(efficiency_figure(measured(study)), "efficiency"):
        print(f"wrote {path.relative_to(RESULTS.parent)}")
    write_section("efficiency", report(study), BENCHMARKS)
    print("wrote the efficiency section of results/benchmarks/README.md")


if __name__ == "__main__":
    main()
