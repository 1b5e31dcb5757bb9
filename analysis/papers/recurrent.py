"""Memory that is handed from segment to segment: figures, tables and claims of four papers, beside ours.

Memory Transformer (arXiv 2006.11527), Recurrent Memory Transformer (2207.06881) and its scaling to a million tokens
(2304.11062), Memformer (2010.06891).

The papers train one model for each number of segments; one run of ours meets 1 to 6 and is tested on each. Of
Memformer's figure 6 the diagnostics hold means over slots, not the weights of single writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import interval_text, plain_ticks
from analysis.claims import Claim, Part
from analysis.panels import floor_line, level, one_legend
from analysis.published import published, setting_values
from analysis.readme import markdown
from analysis.statistics import Difference, Verdict, claim, intervals, mean_interval
from analysis.studies import Study
from analysis.style import COLOURS, colour, drawn, mark_published, mean_with_interval, missing_note

OPS = {"copy": "copy", "reverse": "reverse", "associative": "associative retrieval"}
FACTS = {"memorize": "memorise", "detect": "detect and memorise", "reasoning": "reasoning"}
#: Variants of ``rmt_segments``, as the paper's figure 3 calls those that it has.
VARIANTS = ("local", "mat", "transformer_xl", "rmt", "memformer", "fam")
#: Arms of ``rmt_scaling``: trained on how many segments.
TRAINED = {"n1": "1 segment", "n2": "up to 2", "n4": "up to 4", "n7": "up to 7"}

OP, SLOTS, DEPTH = "task.op", "model.memory_len", "model.bptt_segments"
TEMPERATURE, FORGETTING = "model.temperature", "model.forgetting"
SYMBOLS, BITS = "symbol_accuracy", "bits_per_byte"
LM = "language modelling, WikiText-103"
IMAGES, WRITES, BACKWARD = "image modelling table", "figure 6", "training memory and speed table"
#: What Memformer's ablations are held against.
ALL_OF_IT = "all of it"
MARGIN = 0.05
"""What counts as good as another, in accuracy."""


# Number of segments: RMT's figure 3


def segments_figure(study: Study) -> Figure:
    """Figure 3: accuracy of copy, reverse and retrieval by number of segments; the paper's means hollow and dashed.

    A grey dotted line stands at the most segments that ours were trained on; each of the paper's points is a model of
    its own, trained on that number.

    Args:
        study: ``rmt_segments``.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (op, title) in zip(figure.subplots(1, 3, sharey=True), OPS.items(), strict=True):
        rows = _of(study.slices, OP, op)
        _floor(axes, _of(study.runs, OP, op))
        if len(rows):
            rows = _ordered(rows, "variant", VARIANTS)
            mean_with_interval(axes, rows, "length_blocks", SYMBOLS, show_n=False)
            axes.axvline(_reach(rows), color="0.5", linestyle=":", linewidth=1)
        theirs = published(paper="rmt", where="figure 3", setting={"op": op})
        base = theirs["model"] == "Transformer"  # one line: a whole window at one segment, ``local`` at more
        mark_published(axes, theirs.assign(variant=theirs["variant"].mask(base, "transformer")), "segments")
        axes.set(title=title, xlabel="segments", xscale="log", ylim=(-0.03, 1.05))
        plain_ticks(axes, _places(rows, "length_blocks", theirs, "segments"))
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("accuracy by symbol")
    one_legend(figure, study.runs)
    missing_note(figure, study)
    return figure


def segments_table(study: Study) -> str:
    """Accuracy by symbol over the trained lengths of more than one segment, and beyond: a Markdown table.

    Args:
        study: ``rmt_segments``.
    """
    lines = []
    for variant in VARIANTS:
        cells = [f"`{variant}`"]
        for op in OPS:
            rows = _of(_of(study.slices, OP, op), "variant", variant)
            for part in (_within(rows), _beyond(rows)):
                found = mean_interval(_by_seed(part)[SYMBOLS])
                cells.append(interval_text(found) + (f", n = {found.n}" if found.n else ""))
        lines.append(cells)
    header = [""]
    for title in OPS.values():
        header += [f"{title}, trained lengths from 2 segments", f"{title}, longer"]
    return markdown(header, lines)


# Size of the memory: RMT's figures 4, 5b and 8


def memory_size_figure(study: Study) -> Figure:
    """Figures 4 and 8: accuracy by memory size, above over the trained lengths, below by number of segments.

    Above, ``transformer_xl`` is a line across: it keeps a whole segment. Below, the paper's points are those of a
    memory of half a segment (figure 8).

    Args:
        study: ``rmt_memory_size``.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for (above, below), op in zip(panels.T, ("copy", "reverse"), strict=True):
        runs, slices = _of(study.runs, OP, op), _of(study.slices, OP, op)
        above.set(title=f"{op}: trained lengths", xscale="log", xlabel="memory slots", ylim=(-0.03, 1.05))
        below.set(title=f"{op}: by length", xscale="log", xlabel="segments")
        own = _sized(_of(runs, "variant", "rmt"))
        if len(own):
            mean_with_interval(above, own, SLOTS, f"test/{SYMBOLS}", show_n=False)
            plain_ticks(above, own[SLOTS])
        elif runs.empty:
            _say(above, "no run yet")
        _window(above, _of(runs, "variant", "transformer_xl"), own)
        _floor(above, runs)
        _floor(below, runs)
        _graded(below, _sized(_of(slices, "variant", "rmt")), SLOTS, "rmt, {:g} slots")
        theirs = published(paper="rmt", where="figure 8", setting={"op": op})
        mark_published(below, theirs, "segments")
        plain_ticks(below, _places(slices, "length_blocks", theirs, "segments"))
        for axes in (above, below):
            axes.grid(alpha=0.25)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy by symbol")
    one_legend(figure, study.runs)
    missing_note(figure, study)
    return figure


def _window(axes: Axes, runs: pd.DataFrame, sized: pd.DataFrame) -> None:
    if len(runs):
        ends = (sized[SLOTS].min(), sized[SLOTS].max()) if len(sized) else (1.0, 24.0)
        level(axes, mean_interval(runs[f"test/{SYMBOLS}"]), "transformer_xl", ends)


# Depth of the gradient: RMT's tables of language modelling


def gradient_figure(study: Study) -> Figure:
    """How far back the gradient reaches: ours on bytes of books and on copy, the paper's on WikiText-103.

    Ours cuts the gradient at fixed borders, after so many segments; the paper's unrolls so many earlier ones from each.
    The scores are of other units, so that they have panels of their own.

    Args:
        study: ``rmt_bptt``.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {"lm_text": (f"test/{BITS}", "bits per byte"), "memory_ops": (f"test/{SYMBOLS}", "accuracy by symbol")}
    for axes, (task, (score, label)) in zip(panels, titles.items(), strict=False):
        runs = _of(study.runs, "task", task)
        if task == "memory_ops":
            _floor(axes, runs)
        if len(runs):
            depth = pd.to_numeric(runs[DEPTH])
            whole = 2 * depth.max() if depth.notna().any() else 8.0
            mean_with_interval(axes, runs.assign(at=depth.fillna(whole)), "at", score, show_n=False)
            places = sorted(depth.dropna().unique())
            axes.set_xscale("log", base=2)
            axes.set_xticks([*places, whole], [*(f"{place:g}" for place in places), "never"])
        else:
            _say(axes, "no run yet")
        axes.set(title=task, xlabel="gradient cut after segments", ylabel=label)
    _paper_depths(panels[2])
    for axes in panels:
        axes.grid(alpha=0.25)
    one_legend(figure, study.runs)
    missing_note(figure, study)
    return figure


def _paper_depths(axes: Axes) -> None:
    """Perplexity by segments that the gradient goes back, a line for each memory size at segments of 50."""
    rows = published(paper="rmt", where=LM, model="RMT", setting={"segment_len": 50})
    for number, size in enumerate(sorted(set(setting_values(rows, "memory_len")))):
        own = rows[setting_values(rows, "memory_len") == size].reset_index(drop=True)
        _hollow(axes, setting_values(own, "bptt"), own["value"], f"RMT, {size} slots, rmt (published)", number)
    axes.set(title="WikiText-103 (the paper's)", xlabel="segments that the gradient goes back", ylabel="perplexity")


# Length: 2304.11062


def scaling_figure(study: Study) -> Figure:
    """Figures 1 and 5: facts kept over segments. Above ours with the paper's figure 1, below the paper's figure 5.

    Args:
        study: ``rmt_scaling``.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True)
    for (above, below), (op, title) in zip(panels.T, FACTS.items(), strict=True):
        slices = _of(study.slices, OP, op)
        _floor(above, _of(study.runs, OP, op))
        for number, (arm, label) in enumerate(TRAINED.items()):
            rows = _of(slices, "arm", arm)
            if len(rows):
                _line(above, rows, f"ours, trained on {label}", number)
        longest = published(paper="rmt_1m", where="figure 1", metric="accuracy", setting={"op": op})
        mark_published(above, longest, "eval_segments")
        theirs = published(paper="rmt_1m", where="figure 5", setting={"op": op})
        _paper_series(below, theirs)
        above.set(title=title, xscale="log", xlabel="segments", ylim=(-0.03, 1.05))
        plain_ticks(above, _every(_places(slices, "length_blocks", longest, "eval_segments")))
        below.set(title=f"{title} (the paper's figure 5)", xlabel="segments")
        for axes in (above, below):
            axes.grid(alpha=0.25)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy")
    one_legend(figure, study.runs, "arm")
    missing_note(figure, study)
    return figure


def _paper_series(axes: Axes, rows: pd.DataFrame) -> None:
    """A line for each number of segments in training; bounds are left out, since they are no values."""
    exact = setting_values(rows, "bound").isna() & setting_values(rows, "eval_segments").notna()
    rows = rows[exact].reset_index(drop=True)
    trained = setting_values(rows, "train_segments").fillna(setting_values(rows, "train_range"))
    for number, name in enumerate(dict.fromkeys(sorted(trained, key=str))):
        own = rows[trained == name].reset_index(drop=True)
        label = f"trained on {name}, rmt_1m (published)"
        _hollow(axes, setting_values(own, "eval_segments"), own["value"] / 100, label, number)


def _hollow(axes: Axes, places: pd.Series, values: pd.Series, label: str, number: int) -> None:
    """One of several lines of a paper that are all of one model, in the look of a number."""
    order = pd.to_numeric(places).to_numpy(float).argsort(kind="stable")
    look = {**drawn(list(COLOURS)[number]), "linestyle": "--", "markerfacecolor": "none", "linewidth": 1}
    axes.plot(places.iloc[order], values.iloc[order], label=label, **look)


# Memformer: slots, ablations, writes


def slots_figure(study: Study) -> Figure:
    """Memformer by number of slots, on copy and on text, and its own numbers on the pixels of MNIST.

    Args:
        study: ``memformer_slots``.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    scores = {"memory_ops": (f"test/{SYMBOLS}", "accuracy by symbol"), "lm_text": (f"test/{BITS}", "bits per byte")}
    for axes, (task, (score, label)) in zip(panels, scores.items(), strict=False):
        runs = _sized(_of(_of(study.runs, "task", task), "arm", "slots"))
        if task == "memory_ops":
            _floor(axes, runs)
        if len(runs):
            mean_with_interval(axes, runs, SLOTS, score, show_n=False)
        else:
            _say(axes, "no run yet")
        axes.set(title=task, ylabel=label)
    mark_published(panels[2], _image_sizes(), "memory_len")
    panels[2].set(title="MNIST (the paper's)", ylabel="perplexity by pixel")
    for axes, places in zip(panels, [*([study.runs.get(SLOTS)] * 2), None], strict=True):
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
    names = np.where(sharpness.notna(), "temperature " + sharpness.map("{:g}".format), "no forgetting")
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
            found = mean_interval(_of(_of(runs, "label", label), "task", task).get(score, ()))
            cells.append(interval_text(found) + (f", n = {found.n}" if found.n else ""))
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
    memory = _of(study.memory, "arm", "slots")
    if "keep_share" in memory and memory["keep_share"].notna().any():
        _graded(over_time, _sized(memory), SLOTS, "{:g} slots", x="step", y="keep_share")
        over_time.legend(fontsize=7)
    else:
        _say(over_time, "not measured yet")
    over_time.set(title="over training", xlabel="step", ylabel="share that a slot keeps of itself", ylim=(0, 1))
    heads = _of(study.heads, "arm", "slots")
    if "keep_share" in heads and heads["keep_share"].notna().any():
        table = _sized(heads).pivot_table(index=SLOTS, columns="head", values="keep_share").sort_index()
        _map(by_head, table, "slots", "head")
    else:
        _say(by_head, "not measured yet")
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


# Memformer: memory of training


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
    both = rows[~is_replay].merge(rows[is_replay], on=["variant", "length"], suffixes=("_plain", ""))
    return both.assign(
        memory=both["added_bytes"] / both["added_bytes_plain"],
        speed=both["tokens_per_second"] / both["tokens_per_second_plain"],
        spread=both["spread"] + both["spread_plain"],
    )[columns]


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
        _say(absolute, "nothing is measured yet")
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


# Rows of frames


def _of(frame: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """Rows of one value; an empty frame where nothing was run."""
    return frame[frame[column] == value] if column in frame else frame.iloc[:0]


def _ordered(frame: pd.DataFrame, column: str, names: Sequence[str]) -> pd.DataFrame:
    places = frame[column].map({name: place for place, name in enumerate(names)})
    return frame.iloc[places.argsort(kind="stable")]


def _sized(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{SLOTS: pd.to_numeric(frame[SLOTS])}) if SLOTS in frame else frame


def _floor(axes: Axes, runs: pd.DataFrame) -> None:
    if len(runs):
        floor_line(axes, runs)


def _say(axes: Axes, text: str) -> None:
    """Words where a panel has no point."""
    axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes, color="#661100")


def _reach(slices: pd.DataFrame) -> float:
    """The most segments that were trained on."""
    return float(slices.loc[slices["factor"] <= 1, "length_blocks"].max())


def _within(slices: pd.DataFrame) -> pd.DataFrame:
    """Trained lengths of more than one segment, which nothing but memory can bridge."""
    return slices[(slices["factor"] <= 1) & (slices["length_blocks"] > 1)] if len(slices) else slices


def _beyond(slices: pd.DataFrame) -> pd.DataFrame:
    return slices[slices["factor"] > 1] if len(slices) else slices


def _by_seed(slices: pd.DataFrame, score: str = SYMBOLS) -> pd.DataFrame:
    """The mean score of each seed, as :func:`analysis.statistics.claim` takes it."""
    keys = ["task", "seed", "scale", "data_source"]
    if slices.empty:
        return pd.DataFrame(columns=[*keys, score])
    return slices.groupby(keys)[score].mean().reset_index()


def _places(slices: pd.DataFrame, column: str, rows: pd.DataFrame, setting: str) -> pd.Series:
    ours = slices[column] if column in slices else pd.Series(dtype=float)
    return pd.concat([ours, pd.to_numeric(setting_values(rows, setting))], ignore_index=True)


def _every(places: pd.Series) -> pd.Series:
    """Powers of four of many places, so that ticks do not touch."""
    return places[np.log2(places.astype(float)) % 2 == 0]


def _line(axes: Axes, rows: pd.DataFrame, label: str, number: int, x: str = "length_blocks", y: str = SYMBOLS) -> None:
    """Means over seeds with their band, in the look of a number."""
    seeds = rows.groupby([x, "seed"])[y].mean().reset_index()
    means = intervals(seeds, y, [x]).sort_values(x)
    means = means[means["n"] > 0]
    look = drawn(list(COLOURS)[number])
    low, high = int(means["n"].min()), int(means["n"].max())
    count = f"n = {low}" if low == high else f"n = {low} to {high}"
    axes.plot(means[x], means["mean"], label=f"{label}  ({count})", **look)
    if high > 1:
        axes.fill_between(means[x], means["low"], means["high"], color=look["color"], alpha=0.18, linewidth=0)


def _graded(axes: Axes, rows: pd.DataFrame, by: str, label: str, x: str = "length_blocks", y: str = SYMBOLS) -> None:
    """A line for each size, in its order."""
    sizes = sorted(rows[by].dropna().unique()) if by in rows and len(rows) else []
    for number, size in enumerate(sizes):
        _line(axes, rows[rows[by] == size], label.format(size), number, x, y)


# Claims

Rows = Callable[[pd.DataFrame], pd.DataFrame]
Values = Mapping[str, object]


def _where(rows: pd.DataFrame, values: Values) -> pd.DataFrame:
    """Rows by what stands in their columns; None stands for nothing there."""
    for column, value in values.items():
        if column not in rows:
            return rows.iloc[:0]
        found = pd.to_numeric(rows[column]) if isinstance(value, int | float) else rows[column]
        rows = rows[found.isna()] if value is None else rows[found == value]
    return rows


def _lengths_part(
    text: str, study: str, better: Values, worse: Values, *, part: Rows = _within, margin: float = 0.0
) -> Part:
    """One is better than another on some lengths."""

    def test(found: Study) -> Verdict:
        first, second = (_by_seed(part(_where(found.slices, values))) for values in (better, worse))
        return claim(first, second, SYMBOLS, margin=margin)

    return Part(text, study, test)


def _solved_part(text: str, study: str, values: Values, *, part: Rows = _within) -> Part:
    """It is more than halfway from the trivial floor to always right: two that both guess are no evidence."""

    def test(found: Study) -> Verdict:
        rows = part(_where(found.slices, values))
        if rows.empty:
            return Verdict("not tested", "there are no runs", None)
        floor = pd.to_numeric(found.runs.loc[found.runs["run_id"].isin(rows["run_id"]), "floor"]).max()
        scores = _by_seed(rows)
        return claim(scores, scores.assign(**{SYMBOLS: (1 + floor) / 2}), SYMBOLS)

    return Part(text, study, test)


def _runs_part(text: str, study: str, better: Values, worse: Values) -> Part:
    """One is better than another by the score of its task."""
    task = str(better["task"])

    def test(found: Study) -> Verdict:
        runs = ablations(found) if "label" in better else found.runs
        score = f"test/{BITS if task == 'lm_text' else SYMBOLS}"
        return claim(_where(runs, better), _where(runs, worse), score, larger_is_better=task != "lm_text")

    return Part(text, study, test)


def _all_lengths(slices: pd.DataFrame) -> pd.DataFrame:
    return slices


def _long(slices: pd.DataFrame) -> pd.DataFrame:
    """Eight segments and more: beyond the training of all arms."""
    return slices[slices["length_blocks"] >= 8] if len(slices) else slices


def _replay_part(text: str, variant: str, measure: str) -> Part:
    """A ratio at the longest length is at least as good as the paper's, by the spread of the repetitions."""

    def test(study: Study) -> Verdict:
        rows = replay_ratios(study)
        rows = rows[rows["variant"] == variant].sort_values("length").tail(1)
        if rows.empty:
            return Verdict("not tested", "it is not measured", None)
        row = rows.iloc[0]
        theirs = float(_of(published_ratios(), "model", "MRBP")[measure].iloc[0])
        spread = row["spread"] if measure == "speed" else 0.0
        gain = (row[measure] - theirs) * (1 if measure == "speed" else -1)
        low, high = gain - spread * row[measure], gain + spread * row[measure]
        reason = f"{row[measure]:.3f} of plain at {row['length']:,} tokens, the paper's {theirs:.3f}; one process"
        found = Difference(gain, low, high, 1, effect=float("nan"), student=float("nan"))
        return Verdict("supported" if low >= 0 else "contradicted" if high < 0 else "undecided", reason, found)

    return Part(text, "mrbp_memory", test)


def _rivals(text: str, other: str, ops: Sequence[str], margin: float = 0.0) -> tuple[Part, ...]:
    """RMT against another variant of ``rmt_segments``."""
    return tuple(
        _lengths_part(
            f"{text} ({op})", "rmt_segments", {"variant": "rmt", OP: op}, {"variant": other, OP: op}, margin=margin
        )
        for op in ops
    )


def _half_memory(op: str) -> tuple[Part, Part]:
    large, half = ({"arm": "rmt", SLOTS: slots, OP: op} for slots in (24, 16))
    solved = f"16 slots are more than halfway from guessing to always right ({op})"
    return (
        _solved_part(solved, "rmt_memory_size", half),
        _lengths_part(f"16 slots are within 5 points of 24 ({op})", "rmt_memory_size", half, large, margin=MARGIN),
    )


def _larger_memory(op: str) -> tuple[Part, ...]:
    sizes = {slots: {"arm": "rmt", SLOTS: slots, OP: op} for slots in (1, 8, 24)}
    return tuple(
        _lengths_part(f"{more} slots beat {less} ({op})", "rmt_memory_size", sizes[more], sizes[less])
        for more, less in ((8, 1), (24, 8))
    )


def _longer_training(op: str) -> tuple[Part, ...]:
    arms = {arm: {"arm": arm, OP: op} for arm in TRAINED}
    return (
        _lengths_part(
            f"up to 2 segments beat 1 at 8 and more ({op})", "rmt_scaling", arms["n2"], arms["n1"], part=_long
        ),
        _lengths_part(f"up to 7 beat up to 2 at 8 and more ({op})", "rmt_scaling", arms["n7"], arms["n2"], part=_long),
    )


def _kept(op: str) -> tuple[Part, Part]:
    far, near = ({"arm": "n7", OP: op, "length_blocks": blocks} for blocks in (256, 4))
    solved = f"at 256 segments more than halfway from guessing to always right ({op})"
    close = f"at 256 segments within 15 points of 4 ({op})"
    return (
        _solved_part(solved, "rmt_scaling", far, part=_all_lengths),
        _lengths_part(close, "rmt_scaling", far, near, part=_all_lengths, margin=0.15),
    )


def _uncut(task: str) -> Part:
    rows = {"variant": "rmt", "task": task}
    text = f"an uncut gradient beats one cut after each segment ({task})"
    return _runs_part(text, "rmt_bptt", {**rows, DEPTH: None}, {**rows, DEPTH: 1})


def _more_slots(task: str) -> Part:
    rows = {"arm": "slots", "task": task}
    return _runs_part(f"16 slots beat 1 ({task})", "memformer_slots", {**rows, SLOTS: 16}, {**rows, SLOTS: 1})


def _ablated(text: str, label: str, task: str) -> Part:
    better, worse = ({"label": name, "task": task} for name in (ALL_OF_IT, label))
    return _runs_part(f"{text} ({task})", "memformer_slots", better, worse)


_SMALL = "2 layers of 64, segments of 24, memory of 8 slots; one run for all numbers of segments, not one for each."
_TASKS = ("memory_ops", "lm_text")

CLAIMS = (
    Claim(
        "rmt",
        "figure 3",
        "RMT solves copy, reverse and retrieval over several segments; without recurrence, models fall to guessing.",
        (
            *_rivals("RMT beats local attention over 2 to 6 segments", "local", tuple(OPS)),
            *_rivals("RMT beats memory tokens that are not handed on", "mat", tuple(OPS)),
        ),
        caveat=_SMALL,
    ),
    Claim(
        "rmt",
        "figure 3",
        "RMT is above Transformer-XL on copy and reverse, and as good on retrieval.",
        (
            *_rivals("RMT beats transformer_xl", "transformer_xl", ("copy", "reverse")),
            *_rivals("RMT is within 5 points of transformer_xl", "transformer_xl", ("associative",), MARGIN),
            _solved_part(
                "RMT is more than halfway from guessing to always right (associative)",
                "rmt_segments",
                {"variant": "rmt", OP: "associative"},
            ),
        ),
        caveat=_SMALL,
    ),
    Claim(
        "rmt",
        "figure 8",
        "Half the memory is enough: RMT still copies and reverses.",
        (*_half_memory("copy"), *_half_memory("reverse")),
        caveat=f"{_SMALL} Two thirds of the memory, as 12 slots are not in the study.",
    ),
    Claim(
        "rmt",
        "figures 4 and 5b",
        "A larger memory helps, most of all the first slots.",
        (*_larger_memory("copy"), *_larger_memory("reverse")),
        caveat=_SMALL,
    ),
    Claim(
        "rmt",
        "tables of language modelling",
        "The further the gradient goes back, the better RMT predicts.",
        tuple(map(_uncut, _TASKS)),
        caveat="Books by bytes, segments of 64, 2 layers; the gradient is cut at fixed borders.",
    ),
    Claim(
        "rmt_1m",
        "figure 5",
        "Trained on one segment it forgets at once; the more segments in training, the further it reaches.",
        tuple(part for op in FACTS for part in _longer_training(op)),
        caveat="2 layers from scratch, segments of 24 symbols, one curriculum in one run.",
    ),
    Claim(
        "rmt_1m",
        "figure 1",
        "Trained on 7 segments, facts are kept over some hundred times as many.",
        tuple(part for op in FACTS for part in _kept(op)),
        caveat="256 segments of 24 symbols instead of 4,096 of 499. What counts as kept is our choice.",
    ),
    Claim(
        "memformer",
        "image modelling table",
        "More slots predict better.",
        tuple(map(_more_slots, _TASKS)),
        caveat="Copy and bytes of books instead of pixels; one decoder of 2 layers instead of encoder and decoder.",
    ),
    Claim(
        "memformer",
        "image modelling table",
        "A temperature below 1 and forgetting help.",
        (
            *(_ablated("a temperature of .25 beats 1", "temperature 1", task) for task in _TASKS),
            *(_ablated("forgetting beats none", "no forgetting", task) for task in _TASKS),
        ),
        caveat="The paper's temperature could not be found.",
    ),
    Claim(
        "memformer",
        "training memory and speed table",
        "Replayed memories (MRBP) take less than half the memory of back-propagation, at nine tenths of its speed.",
        (
            _replay_part("memformer saves as much memory as the paper's, or more", "memformer", "memory"),
            _replay_part("memformer keeps as much of its speed as the paper's, or more", "memformer", "speed"),
        ),
        caveat="One process on one core, 64 segments of 256.",
    ),
    Claim(
        "memformer",
        "abstract, figure 5",
        "8.1 times less memory and 3.2 times faster inference than Transformer-XL.",
        untestable="It is of its models on a GPU, at a length that is not said; figure 5 is a picture without data.",
    ),
    Claim(
        "mat",
        "WMT'14 table",
        "Memory tokens help beside attention between tokens, and are no substitute for it (MemBottleneck).",
        untestable="It is translation with an encoder and a decoder; nothing here translates.",
    ),
    Claim(
        "rmt",
        "Hyperpartisan results",
        "Added to pre-trained encoders, RMT classifies long documents better.",
        untestable="There are no pre-trained encoders here.",
    ),
)
