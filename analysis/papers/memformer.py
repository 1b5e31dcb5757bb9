"""Memformer (arXiv 2010.06891): its tables and its figure 6, beside ours; and Memory Transformer's (2006.11527) table.

Of Memformer's figure 6 the diagnostics hold means over slots, not the weights of single writes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import MEMORY, plain_ticks, rows_where, sized, step_ratios
from analysis.marks import floor_line, lines_by_size, mark_published, mean_with_interval
from analysis.panels import one_legend, say
from analysis.published import published, setting_values
from analysis.readme import markdown
from analysis.statistics import interval_text, mean_interval
from analysis.studies import Study
from analysis.style import colour, drawn, missing_note

TEMPERATURE, FORGETTING = "model.temperature", "model.forgetting"
SYMBOLS, BITS = "symbol_accuracy", "bits_per_byte"
IMAGES, WRITES, BACKWARD = "image modelling table", "figure 6", "training memory and speed table"
#: What its ablations are held against.
ALL_OF_IT = "all of it"


# Slots, ablations, writes


def slots_figure(study: Study) -> Figure:
    """Memformer by number of slots, on copy and on text, and its own numbers on the pixels of MNIST.

    Args:
        study: ``memformer_slots``.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    scores = {"memory_ops": (f"test/{SYMBOLS}", "accuracy by symbol"), "lm_text": (f"test/{BITS}", "bits per byte")}
    for axes, (task, (score, label)) in zip(panels, scores.items(), strict=False):
        runs = sized(rows_where(study.runs, {"task": task, "arm": "slots"}))
        if task == "memory_ops":
            floor_line(axes, runs)
        if len(runs):
            mean_with_interval(axes, runs, MEMORY, score, show_n=False)
        else:
            say(axes, "no run yet")
        axes.set(title=task, ylabel=label)
    mark_published(panels[2], _image_sizes(), "memory_len")
    panels[2].set(title="MNIST (the paper's)", ylabel="perplexity by pixel")
    for axes, places in zip(panels, [*([study.runs.get(MEMORY)] * 2), None], strict=True):
        axes.set(xscale="log", xlabel="memory slots")
        shown = setting_values(_image_sizes(), "memory_len") if places is None else places
        plain_ticks(axes, pd.to_numeric(shown))
        axes.grid(alpha=0.25)
    one_legend(figure, study.runs)
    missing_note(figure, study)
    return figure


def _image_sizes() -> pd.DataFrame:
    """The paper's rows that differ in the number of slots alone."""
    rows = published(paper="memformer", where=IMAGES, variant="memformer", metric="perplexity")
    plain = {"decoder_layers": 6, "encoder_layers": 2}
    fits = [{key: value for key, value in found.items() if key != "memory_len"} == plain for found in rows["settings"]]
    alone = rows["model"] == "Memformer"
    return rows[pd.Series(fits) & alone].reset_index(drop=True)


def ablations(study: Study) -> pd.DataFrame:
    """Runs of ``memformer_slots`` that differ from the default in one thing, named in a column ``label``.

    The default is the arm ``slots`` at the size that the other arms have, which is that of their state.
    """
    runs = study.runs
    if runs.empty:
        return runs.assign(label=pd.Series(dtype=object))
    others = runs[runs["arm"] != "slots"]
    sizes = others.dropna(subset="state_size").groupby("task")["state_size"].first()
    default = runs[(runs["arm"] == "slots") & (runs["state_size"] == runs["task"].map(sizes))]
    sharpness = pd.to_numeric(others[TEMPERATURE])
    names = ["no forgetting" if np.isnan(value) else f"temperature {value:g}" for value in sharpness]
    return pd.concat([default.assign(label=ALL_OF_IT), others.assign(label=names)], ignore_index=True)


def ablation_table(study: Study) -> str:
    """Memformer's ablations as a Markdown table: ours on copy and on text, then the paper's perplexities of MNIST.

    Args:
        study: ``memformer_slots``.
    """
    runs = ablations(study)
    scores = {"memory_ops": f"test/{SYMBOLS}", "lm_text": f"test/{BITS}"}
    lines = []
    for label in dict.fromkeys(runs["label"]):
        cells = [f"ours, {label}"]
        for task, score in scores.items():
            found = mean_interval(rows_where(runs, {"label": label, "task": task}).get(score, ()))
            cells.append(interval_text(found, with_n=True, none="-"))
        lines.append([*cells, ""])
    rows = published(paper="memformer", where=IMAGES, metric="perplexity")
    lines += [
        [f"{row['model']}{', ' * bool(row['setting'])}{row['setting']} (published)", "", "", f"{row['value']:.3f}"]
        for row in rows.to_dict("records")
    ]
    return markdown(["", "copy: accuracy", "text: bits per byte", "MNIST: perplexity"], lines)


def writes_figure(study: Study) -> Figure:
    """What the slots keep: the share of their own attention over training and by head; beside it the paper's figure 6.

    Ours are means over slots, segments and sequences; the paper shows three slots in one write.

    Args:
        study: ``memformer_slots``.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    over_time, by_head, theirs = figure.subplots(1, 3)
    memory = rows_where(study.memory, {"arm": "slots"})
    if "keep_share" in memory and memory["keep_share"].notna().any():
        lines_by_size(over_time, sized(memory), "step", "keep_share", MEMORY, "{:g} slots")
        over_time.legend(fontsize=7)
    else:
        say(over_time, "not measured yet")
    over_time.set(title="over training", xlabel="step", ylabel="share that a slot keeps of itself", ylim=(0, 1))
    heads = rows_where(study.heads, {"arm": "slots"})
    if "keep_share" in heads and heads["keep_share"].notna().any():
        table = sized(heads).pivot_table(index=MEMORY, columns="head", values="keep_share").sort_index()
        _map(by_head, table, "slots", "head")
    else:
        say(by_head, "not measured yet")
        by_head.set(xticks=[], yticks=[])
    by_head.set_title("by head, after training")
    _map(theirs, _paper_writes(), "slot", "weight on")
    theirs.set_title("three writes (the paper's figure 6)")
    missing_note(figure, study)
    return figure


def _paper_writes() -> pd.DataFrame:
    rows = published(paper="memformer", where=WRITES, metric="writer_weight")
    cells = rows.assign(slot=setting_values(rows, "slot"), on=setting_values(rows, "on"))
    return cells.pivot_table(index="slot", columns="on", values="value")


def _map(axes: Axes, table: pd.DataFrame, rows: str, columns: str) -> None:
    axes.imshow(table.to_numpy(), vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        shade = "black" if value > 0.55 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
    axes.set_yticks(range(len(table)), [f"{name:g}" if isinstance(name, float) else str(name) for name in table.index])
    axes.set_xticks(range(table.shape[1]), [str(name) for name in table.columns], fontsize=7)
    axes.set(xlabel=columns, ylabel=rows)


# Memory of training


def replay_ratios(study: Study) -> pd.DataFrame:
    """Replayed over plain back-propagation: a training step of ``mrbp_memory`` by arm and length.

    Returns:
        Columns ``variant, length, memory, speed`` (ratios) and ``spread``, of the speed as a share of it.
    """
    columns = ["variant", "length", "memory", "speed", "spread"]
    if study.bench.empty:
        return pd.DataFrame(columns=columns)
    rows = study.bench[study.bench["phase"] == "train"]
    is_replay = rows["name"].str.endswith("_replay")
    found = step_ratios(
        rows[is_replay],
        rows[~is_replay],
        ["variant", "length"],
        {"memory": "added_bytes", "speed": "tokens_per_second"},
    )
    return found[columns]


def published_ratios() -> pd.DataFrame:
    """Memory and speed of the paper's three kinds of back-propagation over plain: columns ``model, memory, speed``."""
    rows = published(paper="memformer", where=BACKWARD)
    table = rows.pivot_table(index="model", columns="metric", values="value", sort=False)
    plain = dict(zip(table.index, table["peak_memory"], strict=True))["BPTT"]
    memory = table["peak_memory"] / plain
    return pd.DataFrame({"memory": memory, "speed": table["relative_speed"]}).drop(index="BPTT").reset_index()


def replay_figure(study: Study) -> Figure:
    """Memory and speed of a training step with and without replayed memories; the paper's ratios as dashed lines.

    Args:
        study: ``mrbp_memory``.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    absolute, *panels = figure.subplots(1, 3)
    train = study.bench[study.bench["phase"] == "train"] if len(study.bench) else study.bench
    for name, rows in train.groupby("name", sort=False) if len(train) else ():
        look = {**drawn(str(rows["variant"].iloc[0])), "linestyle": ":" if str(name).endswith("_replay") else "-"}
        absolute.plot(rows["length"], rows["added_bytes"] / 2**20, label=name, **look)
    if train.empty:
        say(absolute, "nothing is measured yet")
    else:
        absolute.set(xscale="log", yscale="log")
    absolute.set(title="memory of a training step", xlabel="tokens", ylabel="MiB")
    for axes, measure in zip(panels, ("memory", "speed"), strict=True):
        for variant, rows in replay_ratios(study).groupby("variant", sort=False):
            axes.plot(rows["length"], rows[measure], label=f"{variant}, replayed", **drawn(str(variant)))
        for row, line in zip(published_ratios().to_dict("records"), ("-.", "--"), strict=True):
            label = f"{row['model']}, memformer (published)"
            axes.axhline(row[measure], color=colour("memformer"), linestyle=line, linewidth=1, label=label)
        axes.set(title=f"{measure}, over plain BPTT", xlabel="tokens", ylim=(0, 1.1))
        if len(train):
            axes.set_xscale("log")
    one_legend(figure, study.runs)
    for axes in figure.axes:
        if len(train):
            plain_ticks(axes, train["length"])
        axes.grid(alpha=0.25)
    missing_note(figure, study)
    return figure


# Memory Transformer


def translation_table() -> str:
    """Memory Transformer's BLEU, as printed: nothing here translates, so ours has no column."""
    rows = published(paper="mat", where="WMT'14 table")
    lines = [[row["model"], row["setting"], f"{row['value']:.2f}"] for row in rows.to_dict("records")]
    return markdown(["published", "setting", "BLEU"], lines)
