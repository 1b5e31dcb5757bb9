"""Infini-attention, "Leave No Context Behind" (arXiv 2404.07143): its figures and tables, beside ours.

Sizes of memories (table 1) are computed, by the paper's own formulas. Its passkey models are tuned from a language
model, ours learn nothing but passkey; lengths keep the paper's ratio: 16 to 512 segments, learnt on two or three.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import bits_label, longest, only_arms, plain_ticks, score_table
from analysis.heads import heads_figure
from analysis.marks import floor_line, mark_published, mean_point, mean_with_interval
from analysis.panels import legend_above, words
from analysis.passkey import cells
from analysis.published import published, setting_values
from analysis.readme import markdown
from analysis.statistics import headline, interval_text, mean_interval
from analysis.studies import Study
from analysis.style import colour, drawn, missing_note

#: Arms of ``infini_passkey``.
ARMS = {
    "local": "local attention alone",
    "linear": "Linear",
    "delta": "Linear + Delta",
    "corrected": "Delta, corrected (ours)",
    "linear_gate": "Linear, fast gates",
    "delta_gate": "Linear + Delta, fast gates",
    "linear_long": "Linear, long training",
    "delta_long": "Linear + Delta, long training",
}
PLACES = {"start": 0.0, "middle": 0.5, "end": 1.0}
AT = {"start": "at the start", "middle": "in the middle", "end": "at the end"}
SEGMENT_K = 2
"""The paper's segment, in thousands of tokens."""
TOKEN, EXACT, BITS, ACCURACY = "symbol_accuracy", "exact_match", "bits_per_byte", "accuracy"
RATE = "model.gate_lr_scale"


# Table 1: sizes of memories


def infini_entries(*, layers: int, num_heads: int, key: int, value: int) -> int:
    """``d_key (d_value + 1) H l``: a matrix and a normaliser for each head."""
    return key * (value + 1) * num_heads * layers


def transformer_xl_entries(*, layers: int, num_heads: int, key: int, value: int, segment_len: int) -> int:
    """``(d_key + d_value) H N l``: keys and values of one segment."""
    return (key + value) * num_heads * segment_len * layers


def compressive_entries(*, layers: int, width: int, segment_len: int, compressed: int) -> int:
    """``d_model (c + N) l``: one segment, and c compressed states."""
    return width * (compressed + segment_len) * layers


def memorizing_entries(*, num_heads: int, key: int, value: int, memory: int) -> int:
    """``(d_key + d_value) H N S``: keys and values of everything kept, in one layer."""
    return (key + value) * num_heads * memory


def rmt_entries(*, layers: int, width: int, prompt: int) -> int:
    """``d_model p l 2``, as the table counts; what RMT hands on is ``d_model p``, once."""
    return width * prompt * layers * 2


def autocompressor_entries(*, layers: int, width: int, prompt: int, accumulated: int) -> int:
    """``d_model p (m + 1) l``, as the table counts."""
    return width * prompt * (accumulated + 1) * layers


#: Section 4.1: 12 layers of 8 heads of 128, segments of 2,048.
_SIZE = {"layers": 12, "num_heads": 8, "key": 128, "value": 128}
_WIDTH, _SEGMENT = 1024, 2048


def computed_entries() -> dict[str, int]:
    """The sizes behind table 2, by the paper's formulas and its sizes: entries of state by model.

    Memorizing Transformers keep 65,000 tokens in one layer beside the cache of all twelve; RMT has 100 vectors.
    """
    cache = transformer_xl_entries(**_SIZE, segment_len=_SEGMENT)
    heads = {name: size for name, size in _SIZE.items() if name != "layers"}
    return {
        "Transformer-XL": cache,
        "Memorizing Transformers": memorizing_entries(**heads, memory=65_000) + cache,
        "RMT": rmt_entries(layers=_SIZE["layers"], width=_WIDTH, prompt=100),
        "Infini (Linear)": infini_entries(**_SIZE),
        "Infini (Linear+Delta)": infini_entries(**_SIZE),
    }


_FORMULAS = {
    "Transformer-XL": "(d_key + d_value) H N l",
    "Memorizing Transformers": "(d_key + d_value) H N S, and Transformer-XL's",
    "RMT": "2 d_model p l",
    "Infini (Linear)": "d_key (d_value + 1) H l",
    "Infini (Linear+Delta)": "d_key (d_value + 1) H l",
}


def memory_table() -> str:
    """Table 1, and the sizes of table 2: computed, and as the paper rounds them."""
    printed = published(paper="infini", where="table 2", metric="memory_entries").set_index("model")["value"]
    ratios = published(paper="infini", where="table 2", metric="memory_ratio").set_index("model")["value"]
    entries = computed_entries()
    largest = entries["Memorizing Transformers"]
    lines = [
        [
            model,
            f"`{_FORMULAS[model]}`",
            f"{count:,}",
            f"{printed[model]:g}M",
            f"{largest / count:.1f}",
            f"{ratios[model]:g}",
        ]
        for model, count in entries.items()
    ]
    return markdown(
        ["model", "formula", "entries, computed", "published", "times smaller, computed", "published"], lines
    )


# Table 3: passkey


def passkey_figure(study: Study) -> Figure:
    """Table 3: the share of right symbols by length, a panel each for the key at start, middle and end.

    Args:
        study: ``infini_passkey``.
    """
    own = only_arms(study, ARMS)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, (place, depth) in zip(figure.subplots(1, 3, sharex=True, sharey=True), PLACES.items(), strict=True):
        for rows in _published_passkey(place):
            mark_published(axes, rows, "segments")
        if len(own.slices):
            rows = cells(own.slices[own.slices["depth"] == depth], "label", [TOKEN])
            mean_with_interval(axes, rows, "length_blocks", TOKEN, "label", looks=_looks())
            axes.axhline(chance(own.runs), color="0.6", linewidth=0.8, zorder=0, label="trivial floor")
        axes.set(xscale="log", ylim=(-0.03, 1.05), xlabel="segments of the prompt", title=f"key {AT[place]}")
        plain_ticks(axes, own.slices["length_blocks"] if len(own.slices) else _published_passkey(place)[0]["at"])
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("share of right symbols (tokens there)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = 4 if len(own.slices) else 2
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=7, frameon=False)
    missing_note(figure, own)
    return figure


def passkey_table(study: Study, score: str = TOKEN) -> str:
    """Table 3 in the paper's form, its rows above ours: per cent right with the key at start / middle / end.

    Args:
        study: ``infini_passkey``.
        score: ``symbol_accuracy``, as the paper's, or ``exact_match``, all digits right, of which the paper has none.
    """
    lengths = sorted({at for rows in _published_passkey("start") for at in rows["at"]})
    stages = ("zero-shot", "fine-tuned") if score == TOKEN else ()
    lines = [line for stage in stages for line in _published_lines(stage, lengths)]
    own = only_arms(study, ARMS)
    if len(own.slices):
        means = cells(own.slices, "label", [score])
        for label, rows in means.groupby("label", sort=False):
            found = [_cell(rows, length, score) for length in lengths]
            lines.append([f"**ours**, {label}", *found, str(rows["seed"].nunique())])
    return markdown(["", *(f"{length:g} segments" for length in lengths), "n"], lines)


def _cell(rows: pd.DataFrame, length: float, score: str) -> str:
    parts = []
    for depth in PLACES.values():
        values = rows.loc[(rows["length_blocks"] == length) & (rows["depth"] == depth), score]
        parts.append(f"{100 * values.mean():.0f}" if len(values) else "-")
    return "/".join(parts)


def _published_lines(when: str, lengths: list[float]) -> list[list[str]]:
    """The paper's rows of both rules."""
    tables = {place: pd.concat(_published_passkey(place)) for place in PLACES}
    lines = []
    for rule in ("Infini (Linear)", "Infini (Linear+Delta)"):
        model = f"{rule}, {when}"
        cells_of = []
        for length in lengths:
            found = [
                rows[(rows["model"] == model) & (rows["at"] == length)]["value"].iloc[0] for rows in tables.values()
            ]
            cells_of.append("/".join(f"{value:g}" for value in found))
        lines.append([f"published, {model}", *cells_of, ""])
    return lines


def _published_passkey(place: str) -> list[pd.DataFrame]:
    """Table 3 for one place, before and after fine-tuning, with a setting ``segments`` and a column ``at`` of it."""
    found = []
    for steps, when in ((0, "zero-shot"), (400, "fine-tuned")):
        rows = published(paper="infini", where="table 3", setting={"finetune_steps": steps, "place": place})
        segments = setting_values(rows, "length_k").map(segments_of)
        settings = segments.map(lambda number: {"segments": number})
        found.append(rows.assign(model=rows["model"] + f", {when}", settings=settings, at=segments))
    return found


def segments_of(length_k: float) -> float:
    """Segments of a length in thousands of tokens: 32K are 16, "1M" (1000 in the file) is 512."""
    return float(2 ** round(log2(length_k / SEGMENT_K)))


def chance(runs: pd.DataFrame) -> float:
    """The trivial floor of the share of right symbols.

    Args:
        runs: of ``infini_passkey``, at least one.
    """
    return float(runs["floor/chance_symbol_accuracy"].dropna().iloc[0])


def _looks() -> dict[str, dict[str, Any]]:
    looks = {}
    for arm, label in ARMS.items():
        variant = "local" if arm == "local" else "infini_delta" if "delta" in arm else "infini"
        look = drawn(variant)
        if arm.endswith("gate"):
            look |= {"linestyle": "-.", "color": colour("luna")}
        if arm.endswith("long"):
            look |= {"linestyle": ":", "color": colour("fam")}
        if arm == "corrected":
            look |= {"marker": "D", "color": colour("fam_gated")}
        looks[label] = look
    return looks


# Table 2: language modelling


def text_figure(study: Study) -> Figure:
    """Table 2: prediction of text against the size of the state, ours and the paper's.

    Args:
        study: ``infini_lm``.
    """
    figure = Figure(figsize=(10 if len(study.runs) else 6.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 3 if len(study.runs) else 1, squeeze=False)[0]
    if len(study.runs):
        _own_sizes(panels[0], study)
        _by_position(panels[1], study)
    _published_sizes(panels[-1])
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.title.set_fontsize(9)
    low, high = panels[-1].get_ylim()
    panels[-1].set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    panels[-1].legend(fontsize=6.5, framealpha=0.6)
    if len(study.runs):
        legend_above(figure, panels[1], ncols=6)
    missing_note(figure, study)
    return figure


def text_table(study: Study) -> str:
    """Table 2: ours, and the paper's perplexities, which bytes cannot be compared with.

    Args:
        study: ``infini_lm``.
    """
    parts = []
    if len(study.runs):
        column = longest(study.runs, BITS)
        scores = {"bits per byte": f"test/{BITS}", f"{column.rpartition('@')[2]} the length": column}
        scores["accuracy there"] = longest(study.runs, ACCURACY)
        ordered = study.runs.sort_values(column, kind="stable")
        parts.append("Ours, state after the trained length:")
        parts.append(score_table(ordered, ["variant", "state_size"], scores))
    rows = published(paper="infini", where=("table 2", "text with table 2"))
    lines = []
    for (model, length), own in rows.assign(length=setting_values(rows, "train_length_k").map(_thousands)).groupby(
        ["model", "length"], sort=False
    ):
        values = {(row["metric"], row["dataset"]): f"{row['value']:g}" for row in own.to_dict("records")}
        size = values.get(("memory_entries", ""), "")
        found = [values.get(("perplexity", name), "") for name in ("PG19", "Arxiv-math")]
        lines.append([str(model), str(length), f"{size}M" if size else "", *found])
    parts.append(markdown(["published", "trained on", "entries", "perplexity, PG19", "Arxiv-math"], lines))
    return "\n\n".join(parts)


def _thousands(length: object) -> str:
    return "" if length is None else f"{length}K"


def _own_sizes(axes: Axes, study: Study) -> None:
    column = longest(study.runs, BITS)
    for variant, rows in study.runs.groupby("variant", sort=False):
        found = mean_interval(rows[column])
        size = rows["state_size"].mean()
        look = {**drawn(str(variant)), "linestyle": "none", "markersize": 6}
        axes.plot([size], [found.mean], label=f"{variant}  (n = {found.n})", **look)
        axes.annotate(str(variant), (size, found.mean), (0, 5), textcoords="offset points", ha="center", fontsize=6)
        if found.n > 1:
            axes.vlines(size, found.low, found.high, color=look["color"], linewidth=1)
    title = f"ours, {column.rpartition('@')[2]} the training length"
    axes.set(xlabel="numbers of state", ylabel=bits_label(study.runs), title=title)
    sizes = study.runs["state_size"]
    axes.set_xscale("symlog", linthresh=sizes[sizes > 0].min())  # local attention keeps nothing


def _by_position(axes: Axes, study: Study) -> None:
    mean_with_interval(axes, study.slices, "position_to", BITS)
    axes.set(
        xscale="log", xlabel="position in the text, to this byte", ylabel="bits per byte", title="ours, by position"
    )
    plain_ticks(axes, study.slices["position_to"])
    axes.tick_params(axis="x", labelsize=7)


def _published_sizes(axes: Axes) -> None:
    rows = published(paper="infini", where="table 2")
    table = rows[rows["dataset"].isin(["", "PG19"])].pivot_table(index="model", columns="metric", values="value")
    variants = rows.drop_duplicates("model").set_index("model")["variant"]
    for model, row in table.to_dict("index").items():
        look = drawn(str(variants[str(model)] or "transformer"))
        look |= {"linestyle": "none", "markerfacecolor": "none", "markersize": 7}
        axes.plot([1e6 * row["memory_entries"]], [row["perplexity"]], label=f"{model}, infini (published)", **look)
    axes.set(xscale="log", xlabel="numbers of state", ylabel="perplexity on PG19 (less is better)", title="paper")


# Figure 3: gates


def gates_figure(study: Study) -> Figure:
    """Figure 3: what each head's gate gives to the memory after training on passkey, an arm a map.

    Args:
        study: ``infini_gates``.
    """
    heads = named_gates(study.heads)
    if heads.empty:
        about = "The paper's map has no numbers that could be had, and no run has measures by layer and head."
        return words(study, about=about)
    shown = heads.assign(label=heads["task"] + "\n" + heads["label"])
    figure = heads_figure(shown, "label", {"gate": "the memory's share"}, columns=7)
    missing_note(figure, study)
    return figure


def stuck_gates_figure(study: Study) -> Figure:
    """Gates that stay at a half, and what cures them: the mean gate over training, and the score, by arm.

    Args:
        study: ``infini_gates``.
    """
    memory, runs = named_gates(study.memory), named_gates(study.runs)
    if memory.empty or "gate" not in memory:
        return words(study)
    tasks = list(dict.fromkeys(runs["task"]))
    figure = Figure(figsize=(10, 3.4 * len(tasks) + 0.6), layout="constrained")
    labels = list(dict.fromkeys(memory["label"]))
    looks = _gate_looks(labels)
    for line, task in zip(figure.subplots(len(tasks), 3, squeeze=False), tasks, strict=True):
        mean_with_interval(line[0], memory[memory["task"] == task], "step", "gate", "label", looks=looks)
        line[0].axhline(0.5, color="0.6", linewidth=0.8, zorder=0)
        line[0].set(xlabel="step", ylabel="mean gate", title=task, ylim=(-0.03, 1.03))
        _spread(line[1], named_gates(study.heads), task, labels, looks)
        own = runs[runs["task"] == task]
        column = f"test/{EXACT if task == 'passkey' else BITS}"
        _dots(line[2], own, column, labels, looks)
        line[2].set(ylabel="exact match" if task == "passkey" else bits_label(own), title="score, trained lengths")
        if task == "passkey":
            floor_line(line[2], own)
            line[2].set_ylim(-0.03, 1.03)
    legend_above(figure, figure.axes[0], ncols=4)
    missing_note(figure, study)
    return figure


def gates_table(study: Study) -> str:
    """How far the gates of each arm went from a half, and what it scored.

    Args:
        study: ``infini_gates``.
    """
    spread = gate_spread(study)
    if spread.empty:
        return "No run has measures by layer and head."
    lines = []
    for (task, label), rows in spread.groupby(["task", "label"], sort=False):
        names = ("from_half", "stuck", "least", "greatest", "score")
        lines.append([str(task), str(label), *(interval_text(mean_interval(rows[name]), none="-") for name in names)])
    head = ["task", "arm", "mean distance from a half", "share within .05 of it", "least gate", "greatest", "score"]
    return markdown(head, lines)


def gate_spread(study: Study) -> pd.DataFrame:
    """Of each run: how its gates lie; columns of ``runs``, ``label``, and those below.

    Args:
        study: ``infini_gates``.

    Returns:
        ``from_half``: mean distance of the gates from a half; ``stuck``: share of them nearer than .05; ``least``,
        ``greatest``; ``closed``: the largest over layers of the layer's least gate; ``score``: the headline, trained
        lengths.
    """
    if study.heads.empty or study.runs.empty or "gate" not in study.heads:
        return pd.DataFrame()
    gates = study.heads.dropna(subset=["gate"]).assign(far=lambda rows: (rows["gate"] - 0.5).abs())
    gates = gates.assign(near=gates["far"] < 0.05)
    by_run = gates.groupby("run_id")
    layers = gates.groupby(["run_id", "layer"])["gate"].min().groupby("run_id").max()
    measures = pd.DataFrame(
        {
            "from_half": by_run["far"].mean(),
            "stuck": by_run["near"].mean(),
            "least": by_run["gate"].min(),
            "greatest": by_run["gate"].max(),
            "closed": layers,
        }
    ).reset_index()
    runs = named_gates(study.runs)
    return runs.assign(score=headline(runs)).merge(measures, on="run_id")


def named_gates(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``infini_gates`` in the order of its arms, with these in words in a column ``label``."""
    if rows.empty:
        return rows
    order = {"closed": 0, "sigmoid": 1, "hard_sigmoid": 2}
    rates = rows[RATE].map(lambda rate: "" if pd.isna(rate) else f", rate x {rate:g}")
    labels = rows["arm"].str.replace("_", " ").replace("closed", "starts closed") + rates
    keyed = rows.assign(label=labels, place=rows["arm"].map(order), rate=rows[RATE].astype(float).fillna(0))
    return keyed.sort_values(["task", "place", "rate"], kind="stable", ascending=[False, True, True])


def _gate_looks(labels: list[str]) -> dict[str, dict[str, Any]]:
    """Rates from slow to fast along the markers; hard gates dotted, closed ones dash-dotted."""
    names = ("block_window", "luna", "fam", "fam_gated", "infini", "filtered_memory", "transformer", "linear")
    looks = {}
    for number, label in enumerate(labels):
        line = ":" if label.startswith("hard") else "-." if label.startswith("starts") else "-"
        looks[label] = {**drawn(names[number % len(names)]), "linestyle": line}
    return looks


def _spread(
    axes: Axes, heads: pd.DataFrame, task: str, labels: list[str], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    """The gate of every head and seed, an arm a column."""
    axes.axhline(0.5, color="0.6", linewidth=0.8, zorder=0)
    for place, label in enumerate(labels):
        rows = heads[(heads["task"] == task) & (heads["label"] == label)] if len(heads) else heads
        if len(rows):
            look = {**looks[label], "linestyle": "none", "alpha": 0.6}
            axes.plot([place] * len(rows), rows["gate"], **look)
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.5, len(labels) - 0.5), ylabel="gate of each head", title="after training")
    axes.set_xticks([])


def _dots(
    axes: Axes, runs: pd.DataFrame, column: str, labels: list[str], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    for place, label in enumerate(labels):
        found = mean_interval(runs.loc[runs["label"] == label, column])
        mean_point(axes, place, found, {**looks[label], "markersize": 6})
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xticks([])
