"""Luna, "Luna: Linear Unified Nested Attention", arXiv 2106.01540: what it claims."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.arms import MEMORY, rows_where
from analysis.claims import Claim, Part
from analysis.panels import ACCURACY
from analysis.papers.luna import ABLATIONS, BUBBLES, SPEED, TABLE, TASKS, ratios
from analysis.statistics import Value, Verdict, claim
from analysis.studies import Study

#: Two measurements of memory that differ by less are not told apart: allocators hand out whole blocks.
MEMORY_DOUBT = 0.05


def _beats(
    better: tuple[str, int | None], worse: tuple[str, int | None], tasks: Sequence[str], where: str, margin: float = 0.0
) -> Part:
    """An arm of ``luna_lra`` beats another, or is at most a margin worse; tested on all of the tasks or not at all."""

    def test(study: Study) -> Verdict:
        runs = study.runs[study.runs["task"].isin(list(tasks))] if len(study.runs) else study.runs
        first, second = (rows_where(runs, {"variant": variant, MEMORY: size}) for variant, size in (better, worse))
        return claim(first, second, ACCURACY, margin=margin, tasks=tasks)

    names = [f"`{variant}`" + (f" with {size} slots" if size else "") for variant, size in (better, worse)]
    how = f"at most {100 * margin:g} points less accurate than" if margin else "more accurate than"
    return Part(f"{names[0]} is {how} {names[1]} {where}", "luna_lra", test)


def _ablation(better: str, worse: str) -> Part:
    """An arm of ``luna_memory_ablations`` is more accurate than another on the mean of its tasks."""

    def test(study: Study) -> Verdict:
        first, second = (rows_where(study.runs, {"arm": name}) for name in (better, worse))
        return claim(first, second, ACCURACY, tasks=("lra_listops", "lra_text"))

    text = f"`{better}` is more accurate than `{worse}` ({ABLATIONS[worse]}), mean of two tasks"
    return Part(text, "luna_memory_ablations", test)


def is_more(ratio: float, doubt: float, text: str) -> Verdict:
    """A verdict on one measured ratio: supported above 1 by more than its doubt, contradicted below 1 by as much.

    Args:
        ratio: of two measurements.
        doubt: by how much such measurements scatter, as a share.
        text: what is measured; the ratio is put behind it.
    """
    value: Value = "supported" if ratio > 1 + doubt else "contradicted" if ratio < 1 - doubt else "undecided"
    return Verdict(value, f"{text}: {ratio:.3g} times (scatter {doubt:.2g}, measured once, no seeds)", None)


def _costs(study: Study, name: str) -> pd.DataFrame:
    """Rows of one arm of ``luna_efficiency`` by length; empty where it is not measured."""
    rows = ratios(study.bench)
    return rows[rows["name"] == name].sort_values("length")


def _no_bench(names: str) -> Verdict:
    return Verdict("not tested", f"{names} not measured beside the transformer", None)


def _faster(better: str, worse: str) -> Part:
    """An arm trains faster than another at the greatest length that both were measured at."""

    def test(study: Study) -> Verdict:
        both = _costs(study, better).merge(_costs(study, worse), on="length")
        if both.empty:
            return _no_bench(f"{better} or {worse}")
        row = both.iloc[-1]
        text = f"tokens per second at {row['length']:,.0f} bytes"
        return is_more(row["speed_x"] / row["speed_y"], max(row["spread_x"], row["spread_y"]), text)

    return Part(f"`{better}` trains faster than `{worse}` at the greatest length", "luna_efficiency", test)


def _lighter(better: str, worse: str) -> Part:
    """A step of an arm adds less memory than another's, likewise."""

    def test(study: Study) -> Verdict:
        both = _costs(study, better).merge(_costs(study, worse), on="length")
        if both.empty:
            return _no_bench(f"{better} or {worse}")
        row = both.iloc[-1]
        text = f"memory of `{worse}` over that of `{better}` at {row['length']:,.0f} bytes"
        return is_more(row["memory_y"] / row["memory_x"], MEMORY_DOUBT, text)

    return Part(f"a step of `{better}` takes less memory than one of `{worse}`", "luna_efficiency", test)


def _gains_with_length(name: str) -> Part:
    """The lead over the transformer grows from the least to the greatest length."""

    def test(study: Study) -> Verdict:
        rows = _costs(study, name)
        if rows["length"].nunique() < 2:
            return _no_bench(f"{name} at two lengths")
        first, last = rows.iloc[0], rows.iloc[-1]
        text = f"lead at {last['length']:,.0f} over that at {first['length']:,.0f} bytes"
        return is_more(last["speed"] / first["speed"], max(first["spread"], last["spread"]), text)

    return Part(f"the lead of `{name}` over the transformer grows with length", "luna_efficiency", test)


_FIVE = tuple(TASKS)
_SMALL = "2 layers of 64, 512 symbols, 4 to 64 slots; nothing here learns Retrieval or Pathfinder in this time."
_TWO = "2 layers of 64, ListOps and Text of 512 symbols."
_FUSED = (
    "One sequence a step on one core, and our transformer's attention is fused: its memory grows with the length, not "
    "with its square, so the paper's tenth cannot show."
)

CLAIMS = (
    Claim(
        "luna",
        TABLE,
        "Luna with 16 slots beats the transformer on the mean of LRA.",
        (_beats(("luna", 16), ("transformer", None), _FIVE, "on the mean of the five tasks"),),
        caveat=_SMALL,
    ),
    Claim(
        "luna",
        TABLE,
        "It gains on Image and Pathfinder.",
        tuple(
            _beats(("luna", 64), ("transformer", None), (task,), f"on {TASKS[task]}")
            for task in ("lra_image", "lra_pathfinder")
        ),
        caveat=f"By how much is not judged. The paper's largest memory has 256 slots, ours 64. {_SMALL}",
    ),
    Claim(
        "luna",
        TABLE,
        "Luna beats the other efficient transformers.",
        tuple(
            _beats(("luna", 16), (other, None), _FIVE, "on the mean of the five tasks") for other in ("local", "linear")
        ),
        caveat=f"Two of its ten others are built here. {_SMALL}",
    ),
    Claim(
        "luna",
        TABLE,
        "More slots help a little, and a small memory is nearly as good as a large one.",
        (
            _beats(("luna", 64), ("luna", 4), _FIVE, "on the mean of the five tasks"),
            _beats(("luna", 16), ("luna", 64), _FIVE, "on the mean of the five tasks", margin=0.01),
        ),
        caveat=f"In the paper 16 slots are half a point below 256. {_SMALL}",
    ),
    Claim(
        "luna",
        f"{SPEED}, {BUBBLES}",
        "Luna trains faster than the transformer at 4K, and the lead grows with length.",
        (_faster("luna_16", "transformer"), _gains_with_length("luna_16")),
        caveat="Several times in the paper; one sequence a step on one core instead of 32 on a GPU.",
    ),
    Claim(
        "luna",
        f"{SPEED}, {BUBBLES}",
        "A training step of Luna takes less memory than the transformer's at 4K.",
        (_lighter("luna_16", "transformer"),),
        caveat=_FUSED,
    ),
    Claim(
        "luna",
        f"{SPEED}, {BUBBLES}",
        "A smaller memory is faster and lighter.",
        (_faster("luna_16", "luna_256"), _lighter("luna_16", "luna_256")),
        caveat=_FUSED,
    ),
    Claim(
        "luna",
        "ablation of contextual P",
        "It matters that P is carried up the layers instead of being learned anew in each.",
        (_ablation("luna", "fresh"),),
        caveat=f"The paper's own numbers were not found. {_TWO}",
    ),
    Claim(
        "luna",
        "WMT'14 table",
        "Untied keys and values are a little better than tied ones.",
        (_ablation("luna", "tied"),),
        caveat=f"In the paper: translation, some tenths of BLEU. {_TWO}",
    ),
    Claim(
        "luna",
        "WMT'14 table, table of masked language models",
        "Luna comes near a transformer in translation and in pre-trained language models.",
        untestable="There is no encoder-decoder here, and no pre-training of that size.",
    ),
)
