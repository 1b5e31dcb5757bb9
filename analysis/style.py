"""How figures look, and what each says of itself: the same for all.

A variant has one colour, one marker and one line, in every figure. Presets share their family's colour, but for the
gated ones, which are drawn beside it; marker and line alone tell all variants apart, for print in grey. What is
measured here is filled; a paper's own numbers are hollow and dashed. A figure that lacks runs says which, and what
makes them; it is never left empty without a word.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.statistics import count_text
from analysis.studies import Study
from experiments.results import scaled_down

FIGURES = Path(__file__).resolve().parents[1] / "results" / "figures"

# Okabe and Ito's palette.
COLOURS = {
    "transformer": "#000000",
    "block_window": "#E69F00",
    "luna": "#009E73",
    "fam": "#0072B2",
    "fam_gated": "#D55E00",
    "infini": "#CC79A7",
    "infini_gated": "#332288",
    "filtered_memory": "#56B4E9",
    # Tol's muted palette, where Okabe and Ito's ends.
    "linear": "#999933",
    "mat": "#AA4499",
    "rmt": "#882255",
    "memformer": "#44AA99",
}
MARKERS = {
    "transformer": "s",
    "block_window": "v",
    "luna": "D",
    "fam": "o",
    "fam_gated": "P",
    "infini": "^",
    "infini_gated": ">",
    "filtered_memory": "d",
    "linear": "<",
    "mat": "h",
    "rmt": "p",
    "memformer": "*",
}
#: Whose colour a preset has; its marker and line are its own.
FAMILIES = {
    "local": "block_window",
    "transformer_xl": "block_window",
    "luna_shared": "luna",
    "luna_fresh": "luna",
    "luna_filter": "luna",
    "luna_no_value": "luna",
    "luna_pack_temperature": "luna",
    "luna_unpack_unscaled": "luna",
    "fam_prefix": "fam",
    "fam_static": "fam",
    "feedback_memory": "fam",
    "autocompressor": "rmt",
    "infini_delta": "infini",
    "mat_bottleneck": "mat",
    "mat_controller": "mat",
    "mat_shared_controller": "mat",
}
#: Of what is measured here. Dashed lines are the papers'.
DASHDOT, DOTTED = "-.", ":"
LINES = {
    "local": (DASHDOT, "v"),
    "transformer_xl": (DOTTED, "v"),
    "luna_shared": (DASHDOT, "D"),
    "luna_fresh": (DOTTED, "D"),
    "luna_filter": (DASHDOT, "d"),
    "luna_no_value": (DOTTED, "d"),
    "luna_pack_temperature": (DASHDOT, "<"),
    "luna_unpack_unscaled": (DOTTED, "<"),
    "fam_prefix": (DASHDOT, "o"),
    "fam_static": (DOTTED, "o"),
    "feedback_memory": (DASHDOT, "8"),
    "autocompressor": (DASHDOT, "p"),
    "mat_bottleneck": (DASHDOT, "h"),
    "mat_controller": (DOTTED, "h"),
    "mat_shared_controller": (DASHDOT, "H"),
    "infini_delta": ("-", "X"),
}
SPARE_COLOURS = ("#661100", "#6699CC", "#117733")


def colour(variant: str) -> str:
    """The colour of a variant; variants without one of their own share the spare ones by name."""
    own = COLOURS.get(variant) or COLOURS.get(FAMILIES.get(variant, ""))
    return own or SPARE_COLOURS[sum(map(ord, variant)) % len(SPARE_COLOURS)]


def marker(variant: str) -> str:
    """The marker of a variant."""
    return MARKERS.get(variant) or LINES.get(variant, ("", "X"))[1]


def line(variant: str) -> str:
    """The line of a variant, as matplotlib writes it."""
    return LINES.get(variant, ("-", ""))[0]


def drawn(variant: str) -> dict[str, Any]:
    """What ``Axes.plot`` is told of a variant."""
    return {"color": colour(variant), "marker": marker(variant), "linestyle": line(variant), "markersize": 4}


def missing_note(figure: Figure, study: Study) -> None:
    """Writes below a figure which arms lack seeds, and the command that makes them; nothing when all is there.

    The figure grows by the height of the text, so that its panels stay as large as they are.
    """
    if study.missing.empty:
        return
    done = study.num_jobs - len(study.missing)
    what = "measurements" if study.mode == "bench" else "runs"
    missing = study.describe_missing(limit=12)
    text = f"{done} of {study.num_jobs} {what}. Missing: {missing}.\nTo make them: {study.command}"
    width = max(40, int(figure.get_figwidth() * 17))
    lines = [part for paragraph in text.split("\n") for part in textwrap.wrap(paragraph, width, break_on_hyphens=False)]
    figure.supxlabel("\n".join(lines), fontsize=7, x=0.01, ha="left", color="#661100")
    figure.set_figheight(figure.get_figheight() + 0.13 * len(lines))


def caption(study: Study, *, note: str = "", limit: int | None = None) -> str:
    """What a figure was made from: study, scale, seeds, machine, commits, data, and what is smaller than in the paper.

    Args:
        study: what is drawn.
        note: a sentence of the figure's own, put last.
        limit: arms whose missing seeds are named; default: all.
    """
    runs = study.runs
    parts = [f"Study `{study.name}`, scale {study.scale}"]
    if study.mode == "bench":
        return _sentences([*parts, *_measurements(study), note])
    if runs.empty:
        return _sentences([*parts, f"no run is done: `{study.command}`", note])
    seeds = runs.groupby(study.arm, dropna=False)["seed"].nunique()
    parts[0] += f", {len(runs)} runs of {len(seeds)} arms (seeds = {count_text(seeds)})"
    parts.append("mean over seeds and 95 % bootstrap interval over seeds")
    sources = runs.groupby("task", sort=True)["data_source"].first()
    parts.append("data: " + ", ".join(f"{task} `{source}`" for task, source in sources.items()))
    parts.append(f"{_all(runs, 'hardware')}; torch {_all(runs, 'torch')}; commit {_all(runs, 'git_sha', digits=10)}")
    for task, less in scaled_down(study.name, study.scale).items():
        if less:
            pairs = {name.partition(".")[2]: pair for name, pair in less.items()}
            sizes = ", ".join(f"{name} {_size(here)} of {_size(there)}" for name, (here, there) in pairs.items())
            parts.append(f"smaller than paper scale on {task}: {sizes}")
    if len(study.missing):
        parts.append(f"missing: {study.describe_missing(limit=limit)}")
    return _sentences([*parts, note])


def _measurements(study: Study) -> list[str]:
    """What a caption says of measured speed."""
    rows = study.bench
    if rows.empty:
        return [f"nothing is measured: `{study.command}`"]
    first = rows.iloc[0]
    machine = f"{first['hardware']}, {first['threads']} thread{'s' if first['threads'] > 1 else ''}, {first['clock']}"
    loads = f"load {rows['load_average'].min():.1f} to {rows['load_average'].max():.1f}"
    return [
        f"{len(rows)} measurements of {rows['name'].nunique()} arms and packages",
        "one process each, no seeds; median of repetitions",
        f"{machine}, {loads}; precision {first['precision']}; torch {first['torch']}; "
        f"commit {_all(rows, 'commit', digits=10)}",
        f"missing: {study.describe_missing()}" if len(study.missing) else "",
    ]


def _all(runs: pd.DataFrame, column: str, *, digits: int | None = None) -> str:
    """Every value of a column once."""
    values = runs[column].dropna().astype(str) if column in runs else pd.Series(dtype=str)
    return ", ".join(sorted(values.str[:digits].unique())) or "unknown"


def _size(value: Any) -> str:
    return "all" if value is None else f"{value:,}"


def _sentences(parts: list[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:].rstrip('.')}." for part in parts if part)


def save(figure: Figure, name: str | Path) -> list[Path]:
    """Write a figure as SVG and PNG; returns both paths. No date is written: the same data give the same bytes.

    Args:
        figure: to write.
        name: without ending, in results/figures/; or a path of its own.
    """
    path = FIGURES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
    # Without a salt of its own, matplotlib draws the ids inside an SVG anew each time.
    with mpl.rc_context({"svg.hashsalt": "memattn"}):
        figure.savefig(svg, metadata={"Date": None})
    figure.savefig(png, dpi=150)
    return [svg, png]
