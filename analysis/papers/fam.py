"""TransformerFAM: Feedback attention is working memory (arXiv 2404.09173): its figures and tables, beside ours.

The curves of its figures 3a, 5, 6, 7 and 9 have no numbers that could be had, so ours stand alone there, beside the one
length that its text names; its tables are drawn and printed beside ours. Its tasks are word pieces of other data: only
the shapes compare: which arm is better, and where a curve ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import (
    bits_label,
    longest,
    only_arms,
    plain_ticks,
    published_lines,
    published_table,
    score_table,
    step_ratios,
)
from analysis.heads import heads_figure
from analysis.marks import floor_line, mark_published, mean_with_interval
from analysis.panels import legend_above, words
from analysis.passkey import cells, maps_figure
from analysis.published import published, setting_values
from analysis.readme import markdown
from analysis.studies import Study
from analysis.style import colour, drawn, missing_note

#: Arms of ``fam_passkey`` as the paper calls them.
WINDOWS = {f"m{blocks}": f"M{blocks}" for blocks in (0, 1, 2, 3, 4, 6, 8, 10, 12)}
ARMS = {
    **WINDOWS,
    "m1_sg": "M1_SG",
    "fam": "FAM",
    "fam_gated": "FAM, gated (ours)",
    "fm1": "FM1",
    "fm2": "FM2",
    "fm4": "FM4",
    "sum_fam": "SUM FAM",
    "rmt": "RMT",
    "autocompressor": "AutoCompressors",
}
#: Arms of ``fam_rope_base``. The paper's minus is a part taken away; ours are without offset and passing unless named.
ROPE_ARMS = {
    "fam": "FAM",
    "zero": "position zero (the paper's -POS)",
    "prefix": "prefix in each layer (+Prefix)",
    "offset": "with random position offset",
    "passing": "with random state passing",
    "offset_passing": "with both",
}
#: Arms of ``fam_cost`` that are divided by one without FAM.
COST_PAIRS = {"fam_m3": "window_m3", "fam_m0": "window_m0", "fam_gated_m0": "window_m0"}

BLOCK = 1024
"""The paper's block, in tokens (table 4)."""
TRAINED = 18
"""Blocks of its longest filler in training (section 3.2), and of ours at all scales but smoke."""
EXACT, ACCURACY, BITS = "exact_match", "accuracy", "bits_per_byte"
EXACT_LABEL = "exact match"
BLOCKS, PAST, SLOTS = "model.memory_blocks", "model.past_fams", "model.fam_len"
POSITIONS, PASSING, ROPE = "model.fam_positions", "model.random_state_passing", "backbone.rope_base"


# Passkey: figures 3a, 7 and 9


def windows_figure(study: Study) -> Figure:
    """Figure 3a: windows of m blocks, M1 without gradient into its window, and FAM without memory blocks.

    Args:
        study: ``fam_passkey``.
    """
    return _passkey_curves(study, (*WINDOWS, "m1_sg", "fam", "fam_gated"))


def rivals_figure(study: Study) -> Figure:
    """Figure 7: FAM beside RMT and AutoCompressors.

    Args:
        study: ``fam_passkey``.
    """
    return _passkey_curves(study, ("m1", "fam", "fam_gated", "rmt", "autocompressor"))


def feedback_figure(study: Study) -> Figure:
    """Figure 9: two other forms of feedback, the block before as the layer left it (FM) and a static summary (SUM FAM).

    Args:
        study: ``fam_passkey``.
    """
    return _passkey_curves(study, ("m1", "m2", "m4", "fm1", "fm2", "fm4", "sum_fam", "fam"))


def depth_figure(study: Study) -> Figure:
    """Exact match by length and depth, a map for each arm: the paper has keys at the start alone.

    Args:
        study: ``fam_passkey``.
    """
    own = only_arms(study, ARMS)
    if own.slices.empty:
        return words(study)
    figure = maps_figure(own.slices, "label")
    missing_note(figure, study)
    return figure


def _passkey_curves(study: Study, arms: Sequence[str]) -> Figure:
    own = only_arms(study, {arm: ARMS[arm] for arm in arms})
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", ylim=(-0.03, 1.05), xlabel="blocks of the prompt, key at its start", ylabel="exact match"
    )
    if len(own.slices):
        rows = cells(own.slices[own.slices["depth"] == 0], "label")
        mean_with_interval(axes, rows, "length_blocks", EXACT, "label", looks=_looks())
        plain_ticks(axes, rows["length_blocks"])
        trained = rows.loc[rows["factor"] <= 1, "length_blocks"].max()
        axes.axvline(trained, color="grey", linestyle="--", linewidth=1, label=f"longest trained: {trained:.0f} blocks")
        floor_line(axes, own.runs)
    _mark_solved(axes)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    missing_note(figure, own)
    return figure


def _mark_solved(axes: Axes) -> None:
    """The length up to which the paper's text calls FAM perfect: one hollow point."""
    rows = published(paper="fam", where="section 3.2", metric="solved_length")
    blocks = 1000 * rows["value"] / BLOCK
    look = {**drawn("fam"), "linestyle": "--", "markerfacecolor": "none", "markersize": 8}
    axes.plot(blocks, [1.0] * len(rows), label="FAM solves it to here, fam (published)", **look)


def _looks() -> dict[str, dict[str, Any]]:
    """Of the arms that are one variant: windows get darker as they get wider."""
    looks = {}
    for place, (arm, mark) in enumerate(zip(WINDOWS, "v<>^sdhp8", strict=True)):
        shade = colormaps["Greys"](0.35 + 0.65 * place / (len(WINDOWS) - 1))
        looks[ARMS[arm]] = {**drawn("block_window"), "color": shade, "marker": mark}
    for arm, mark in zip(("fm1", "fm2", "fm4"), "8H*", strict=True):
        looks[ARMS[arm]] = {**drawn("feedback_memory"), "marker": mark}
    variants = {"m1_sg": "transformer_xl", "sum_fam": "fam_static"}
    others = ("m1_sg", "fam", "fam_gated", "sum_fam", "rmt", "autocompressor")
    return {**looks, **{ARMS[arm]: drawn(variants.get(arm, arm)) for arm in others}}


# Ablations: tables 5 to 9 and 11, figures 3b, 5 and 6


def length_figure(study: Study) -> Figure:
    """Table 5: how many slots FAM needs, on two tasks of ours and three of the paper's.

    Args:
        study: ``fam_length``.
    """

    def theirs(axes: Axes) -> None:
        published_lines(axes, published(paper="fam", where="table 5"), "fam_len")
        axes.set(
            xscale="log", xlabel="slots, of blocks of 1,024", ylabel="score as printed (%, ROUGE-L)", title="paper"
        )
        plain_ticks(axes, setting_values(published(paper="fam", where="table 5"), "fam_len"))

    return _panels(study, [*_own_panels(study, SLOTS, "slots", scale="log"), theirs])


def length_table(study: Study) -> str:
    """Table 5 in numbers, and below it the paper's.

    Args:
        study: ``fam_length``.
    """
    return _tables(study, [SLOTS], published_table(published(paper="fam", where="table 5"), "fam_len"))


def blocks_figure(study: Study) -> Figure:
    """Tables 9 and 11, figure 3b: next-token prediction by the number of memory blocks, with and without FAM.

    Args:
        study: ``fam_blocks``.
    """
    names = {"window": "window", "m1_sg": "M1_SG", "feedback": "FM", "fam": "FAM"}
    own = only_arms(study, names)

    def ours(axes: Axes) -> None:
        runs = _at_blocks(own.runs)
        mean_with_interval(axes, runs, BLOCKS, longest(runs, ACCURACY), "label", looks=_blocks_looks(names))
        axes.set(xlabel="memory blocks", ylabel="next-byte accuracy", title=_where(runs, ACCURACY))

    def theirs(axes: Axes) -> None:
        for where in ("table 11", "table 9"):
            rows = published(paper="fam", where=where, dataset="PG-19")
            steps = "" if where == "table 11" else ", 25k steps"
            drawn_before = len(axes.lines)
            mark_published(axes, rows.assign(model=rows["model"] + steps), "memory_blocks")
            for line in axes.lines[drawn_before:] if steps else ():
                line.set(linestyle=(0, (1, 2)), markersize=6)
        axes.set(xlabel="memory blocks of 1,024", ylabel="accuracy on PG-19", title="paper")

    return _panels(own, [*([ours] if len(own.runs) else []), theirs])


def blocks_table(study: Study) -> str:
    """Tables 9 and 11 in numbers, and below them the paper's.

    Args:
        study: ``fam_blocks``.
    """
    rows = published(paper="fam", where=("table 9", "table 11"), dataset=("PG-19", "Isabelle", "XLSum"))
    theirs = published_table(rows.assign(model=rows["model"] + ", " + rows["where"]), "memory_blocks")
    return _tables(study, ["arm", BLOCKS, PAST], theirs)


def past_fams_figure(study: Study) -> Figure:
    """Table 6: what reading more than the last FAM is worth.

    Args:
        study: ``fam_blocks``, whose arm ``fam`` with one memory block reads one.
    """
    own = only_arms(study, {"fam": "FAM", "past_fams": "FAM"})

    def ours(axes: Axes) -> None:
        runs = _at_past(own.runs)
        mean_with_interval(axes, runs, PAST, longest(runs, ACCURACY))
        axes.set(xlabel="past FAMs that are read", ylabel="next-byte accuracy", title=_where(runs, ACCURACY))

    def theirs(axes: Axes) -> None:
        mark_published(axes, published(paper="fam", where="table 6"), "past_fams")
        axes.set(xlabel="past FAMs that are read", ylabel="ROUGE-L on XLSum", title="paper")

    return _panels(own, [*([ours] if len(_at_past(own.runs)) else []), theirs])


def position_figure(study: Study) -> Figure:
    """Table 7: where FAM stands for rotary positions, on two tasks of ours and two of the paper's.

    Args:
        study: ``fam_position``.
    """
    places = {"last": 0, "fractional": 1, "zero": 2}

    def at(rows: pd.DataFrame, name: str) -> pd.DataFrame:
        return rows.assign(place=rows[name].map(places))

    def theirs(axes: Axes) -> None:
        rows = published(paper="fam", where="table 7")
        settings = setting_values(rows, "fam_positions").map(lambda value: {"place": places[value]})
        published_lines(axes, rows.assign(settings=settings), "place")
        axes.set(ylabel="accuracy, %", title="paper")

    runs = at(study.runs, POSITIONS) if len(study.runs) else study.runs
    figure = _panels(study, [*_own_panels(study, "place", "", runs=runs), theirs])
    for axes in figure.axes:
        axes.set_xticks(list(places.values()), list(places))
        axes.set(xlabel="position of FAM", xlim=(-0.3, 2.3))
    return figure


def position_table(study: Study) -> str:
    """Table 7 in numbers, and below it the paper's.

    Args:
        study: ``fam_position``.
    """
    return _tables(study, [POSITIONS], published_table(published(paper="fam", where="table 7"), "fam_positions"))


def passing_figure(study: Study) -> Figure:
    """Figure 6: next-token prediction by the probability of random state passing; the paper's curve has no numbers.

    Args:
        study: ``fam_rsp``.
    """
    if study.runs.empty:
        return words(study, about="The paper's figure 6 has no numbers that could be had.")
    return _panels(study, _own_panels(study, PASSING, "probability of random state passing"))


def rope_base_figure(study: Study) -> Figure:
    """Figure 5: RoPE's base times what FAM is made of; the paper's curves have no numbers.

    Args:
        study: ``fam_rope_base``.
    """
    own = only_arms(study, ROPE_ARMS)
    if own.runs.empty:
        return words(study, about="The paper's figure 5 has no numbers that could be had.")
    marks = zip(ROPE_ARMS.values(), ("o", "s", "v", "^", "D", "P"), ("-", "-", "-.", ":", "-.", ":"), strict=True)
    tints = ("fam", "transformer", "block_window", "luna", "infini", "fam_gated")
    looks = {
        label: {**drawn("fam"), "color": colour(tint), "marker": mark, "linestyle": line}
        for (label, mark, line), tint in zip(marks, tints, strict=True)
    }

    def ours(score: str, label: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            mean_with_interval(axes, own.runs, ROPE, longest(own.runs, score), "label", looks=looks)
            axes.set(xscale="log", xlabel="base of RoPE", ylabel=label, title=_where(own.runs, score))
            plain_ticks(axes, own.runs[ROPE])

        return draw

    return _panels(own, [ours(ACCURACY, "next-byte accuracy"), ours(BITS, bits_label(own.runs))], one=True)


def _own_panels(
    study: Study, x: str, label: str, *, scale: str = "linear", runs: pd.DataFrame | None = None
) -> list[Callable[[Axes], None]]:
    """A panel for each task that has runs: passkey at the trained lengths, text at the longest."""
    frame = study.runs if runs is None else runs

    def panel(task: str, score: str, name: str) -> Callable[[Axes], None]:
        rows = frame[frame["task"] == task]
        column = longest(rows, score) if task == "lm_text" else f"test/{score}"

        def draw(axes: Axes) -> None:
            mean_with_interval(axes, rows, x, column)
            axes.set(xscale=scale, xlabel=label, ylabel=name, title=_where(rows, score))
            if score == EXACT:
                floor_line(axes, rows)
                axes.set_ylim(-0.03, 1.03)
            if score == BITS:
                axes.set_ylabel(bits_label(rows))
            if scale == "log":
                plain_ticks(axes, rows[x])

        return draw

    shown = [("passkey", EXACT, EXACT_LABEL), ("lm_text", ACCURACY, "next-byte accuracy")]
    if {*study.runs.get("task", ()), *study.missing.get("task", ())} == {"lm_text"}:
        shown.append(("lm_text", BITS, "bits per byte"))
    done = set(frame["task"]) if len(frame) else set()
    return [panel(*what) for what in shown if what[0] in done]


def _panels(study: Study, draw: Sequence[Callable[[Axes], None]], *, one: bool = False) -> Figure:
    """Panels side by side, each with room for its legend or all with one above them, and what is missing below."""
    figure = Figure(figsize=(min(10.0, 3.0 + 3.4 * len(draw)), 3.9), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(draw), squeeze=False).flat, draw, strict=True):
        panel(axes)
        axes.grid(alpha=0.25)
        axes.title.set_fontsize(9)
        if not one:
            legend = axes.legend(fontsize=7, framealpha=0.6)
            low, high = axes.get_ylim()
            axes.set_ylim(
                low, high + 0.08 * len(legend.get_texts()) * (high - low) * (axes.get_ylabel() != EXACT_LABEL)
            )
    if one:
        legend_above(figure, figure.axes[0], ncols=3)
    missing_note(figure, study)
    return figure


def _tables(study: Study, by: Sequence[str], theirs: str) -> str:
    """Ours, a table for each task, above the paper's."""
    parts = []
    for task, rows in study.runs.groupby("task", sort=False) if len(study.runs) else ():
        scores = {"exact match": f"test/{EXACT}"}
        if task == "lm_text":
            scores = {"accuracy": longest(rows, ACCURACY), "bits per byte": longest(rows, BITS)}
        parts += [f"Ours, {_where(rows, ACCURACY if task == 'lm_text' else EXACT)}:", score_table(rows, by, scores)]
    return "\n\n".join([*parts, theirs])


def _where(runs: pd.DataFrame, score: str) -> str:
    """Task, and how long the test is: ``lm_text, 8 times the training length``."""
    task = str(runs["task"].iloc[0])
    factor = longest(runs, score).partition("@")[2] if task == "lm_text" else ""
    return f"{task}, {factor[:-1]} times the training length" if factor else f"{task}, trained lengths"


def _at_blocks(runs: pd.DataFrame) -> pd.DataFrame:
    """With the memory blocks of arms that set none: the paper's M1_SG has one."""
    return runs.assign(**{BLOCKS: runs[BLOCKS].where(runs["arm"] != "m1_sg", 1)})


def _at_past(runs: pd.DataFrame) -> pd.DataFrame:
    """The arms by past FAMs: with one memory block, and one FAM where the arm sets none."""
    if runs.empty:
        return runs
    one = (runs["arm"] == "fam") & (runs[BLOCKS] == 1)
    rows = runs[one | (runs["arm"] == "past_fams")]
    return rows.assign(**{PAST: rows[PAST].where(rows["arm"] == "past_fams", 1)})


def _blocks_looks(names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    variants = {"window": "block_window", "m1_sg": "transformer_xl", "feedback": "feedback_memory", "fam": "fam"}
    return {label: drawn(variants[arm]) for arm, label in names.items()}


# Cost: tables 13 and 14; attention: figure 11


def cost_ratios(study: Study) -> pd.DataFrame:
    """What FAM costs beside the same window without it, at each length.

    Args:
        study: ``fam_cost``.

    Returns:
        Columns ``name, phase, length``, ratios ``time`` and ``memory``, and ``spread``, that of the time ratio as a
        share of it; nothing where one of the two is missing.
    """
    columns = ["name", "phase", "length", "time", "memory", "spread"]
    if study.bench.empty:
        return pd.DataFrame(columns=columns)
    rows = study.bench[study.bench["status"] == "ok"]
    found = []
    for name, plain in COST_PAIRS.items():
        first, second = (rows[rows["name"] == arm] for arm in (name, plain))
        found.append(step_ratios(first, second, ["phase", "length"], {"time": "seconds", "memory": "added_bytes"}))
    return pd.concat(found, ignore_index=True)[columns]


def published_ratios() -> pd.DataFrame:
    """FAM over BSWA out of tables 13 and 14: columns ``tokens, time, memory``."""
    rows = published(paper="fam", where=("table 13", "table 14"))
    rows = rows.assign(tokens=1000 * setting_values(rows, "length_k").astype(float))
    table = rows.pivot_table(index="tokens", columns=["metric", "model"], values="value")
    ratios = {
        name: table[metric, "FAM"] / table[metric, "BSWA"]
        for name, metric in (("time", "time"), ("memory", "peak_memory"))
    }
    return pd.DataFrame(ratios).reset_index()


def cost_figure(study: Study) -> Figure:
    """Tables 13 and 14: time and memory with FAM as multiples of those without it, against length.

    Bands are the spread of repetitions, as there are no seeds.

    Args:
        study: ``fam_cost``.
    """
    ours, theirs = cost_ratios(study), published_ratios()
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, measure in zip(panels, ("time", "memory"), strict=True):
        for (name, phase), rows in ours.groupby(["name", "phase"], sort=False):
            look = drawn("fam_gated" if "gated" in str(name) else "fam")
            look |= {"linestyle": "-" if phase == "train" else ":", "marker": "o" if str(name).endswith("m3") else "s"}
            rows = rows.sort_values("length")
            if measure == "time":
                low, high = (rows["time"] * (1 + sign * rows["spread"]) for sign in (-1, 1))
                axes.fill_between(rows["length"], low, high, color=look["color"], alpha=0.12, linewidth=0)
            axes.plot(rows["length"], rows[measure], label=f"{name} / {COST_PAIRS[str(name)]}, {phase}", **look)
        look = {**drawn("fam"), "linestyle": "--", "markerfacecolor": "none"}
        axes.plot(theirs["tokens"], theirs[measure], label="FAM / BSWA, 3 blocks, fam (published)", **look)
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        axes.set(xscale="log", xlabel="tokens", ylabel=f"{measure} with FAM over without")
        axes.grid(alpha=0.25)
    legend_above(figure, panels[0], ncols=2)
    missing_note(figure, study)
    return figure


def cost_table(study: Study) -> str:
    """Tables 13 and 14 in numbers: seconds and MiB of streaming at each length, and below them the paper's.

    Args:
        study: ``fam_cost``.
    """
    rows = published(paper="fam", where=("table 13", "table 14"))
    theirs = published_table(rows.assign(column=rows["metric"] + ", " + rows["unit"]), "length_k", "column")
    if study.bench.empty:
        return theirs
    own = study.bench[(study.bench["status"] == "ok") & (study.bench["phase"] == "stream")]
    lines = [
        [str(row["name"]), f"{row['length']:,.0f}", f"{row['seconds']:.3g}", f"{row['added_bytes'] / 2**20:.1f}"]
        for row in own.to_dict("records")
    ]
    return f"{markdown(['ours', 'tokens', 'seconds', 'MiB'], lines)}\n\n{theirs}"


def shares_figure(study: Study) -> Figure:
    """Figure 11, as far as it is measured: shares of attention by layer and head, not maps of single queries.

    Args:
        study: ``fam_passkey``.
    """
    own = only_arms(study, {arm: ARMS[arm] for arm in ("fam", "fam_gated", "sum_fam")})
    measures = {"read_share": "tokens on FAM", "keep_share": "FAM on the FAM before", "write_entropy": "spread of FAM"}
    if own.heads.empty:
        return words(study, about="No run of FAM has measures by layer and head.")
    figure = heads_figure(own.heads, "label", measures)
    missing_note(figure, own)
    return figure
