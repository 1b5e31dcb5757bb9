"""TransformerFAM: Feedback attention is working memory (arXiv 2404.09173): what it claims."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.arms import longest, rows_where
from analysis.claims import Claim, Part
from analysis.papers.fam import (
    ACCURACY,
    BLOCK,
    BLOCKS,
    EXACT,
    PASSING,
    PAST,
    POSITIONS,
    ROPE,
    SLOTS,
    TRAINED,
    cost_ratios,
    published_ratios,
)
from analysis.passkey import seed_scores
from analysis.published import published
from analysis.statistics import Verdict, claim, reaches
from analysis.studies import Study

#: As good as: points of exact match, and of next-byte accuracy.
MARGIN, TEXT_MARGIN = 0.05, 0.005


def _solved() -> float:
    """How many times the longest trained filler the paper's FAM solves."""
    rows = published(paper="fam", where="section 3.2", metric="solved_length")
    return float(1000 * rows["value"].iloc[0] / (BLOCK * TRAINED))


def passkey_scores(study: Study, arm: str, where: str) -> pd.DataFrame:
    """Exact match of keys at the start, one row a seed: columns ``task, seed, scale, data_source, score``.

    Args:
        study: ``fam_passkey``.
        arm: of it.
        where: ``trained``: mean over the trained lengths; ``beyond``: over those after, up to the paper's longest;
            ``longest``: at the longest of these.
    """
    rows = rows_where(study.slices, {"arm": arm, "depth": 0})
    if len(rows):
        end = rows["factor"] <= 1.01 * _solved()
        beyond = rows[end & (rows["factor"] > 1)]
        last = beyond[beyond["factor"] == beyond["factor"].max()]
        rows = {"trained": rows[rows["factor"] <= 1], "beyond": beyond, "longest": last}[where]
    return seed_scores(rows)


def text_scores(study: Study, settings: Mapping[str, object], task: str = "lm_text") -> pd.DataFrame:
    """Next-byte accuracy at the longest test, or exact match of passkey, of the runs with these settings.

    Args:
        study: whose runs to take.
        settings: columns of ``runs`` and what they must hold.
        task: of the runs.
    """
    rows = study.runs
    if rows.empty:
        return rows
    column = longest(rows[rows["task"] == task], ACCURACY) if task == "lm_text" else f"test/{EXACT}"
    rows = rows_where(rows, {"task": task, **settings})
    return rows.assign(score=rows.get(column))


def _passkey_part(text: str, first: str, second: str, where: str, *, margin: float = 0.0) -> Part:
    def test(study: Study) -> Verdict:
        better, worse = (passkey_scores(study, arm, where) for arm in (first, second))
        return claim(better, worse, "score", margin=margin)

    return Part(text, "fam_passkey", test)


def _falls_part(text: str, arm: str) -> Part:
    def test(study: Study) -> Verdict:
        return claim(passkey_scores(study, arm, "trained"), passkey_scores(study, arm, "beyond"), "score")

    return Part(text, "fam_passkey", test)


def _perfect_part(text: str, arm: str, where: str) -> Part:
    def test(study: Study) -> Verdict:
        return reaches(passkey_scores(study, arm, where), "score", 1.0, margin=MARGIN)

    return Part(text, "fam_passkey", test)


def _text_part(
    text: str,
    study: str,
    first: Mapping[str, object],
    second: Mapping[str, object],
    *,
    margin: float = 0.0,
    task: str = "lm_text",
) -> Part:
    def test(found: Study) -> Verdict:
        return claim(text_scores(found, first, task), text_scores(found, second, task), "score", margin=margin)

    return Part(text, study, test)


def _cost_part(text: str, arm: str, phase: str) -> Part:
    """At most as dear as in the paper's dearest cell, at the longest length; by the spread of the repetitions."""

    def test(study: Study) -> Verdict:
        limit = float(published_ratios()["time"].max())
        rows = cost_ratios(study)
        rows = rows[(rows["name"] == arm) & (rows["phase"] == phase)].sort_values("length").tail(1)
        if rows.empty:
            return Verdict("not tested", "it is not measured", None)
        row = rows.iloc[0]
        low, high = row["time"] * (1 - row["spread"]), row["time"] * (1 + row["spread"])
        text = (
            f"{row['time']:.3f} times as long at {row['length']:,.0f} tokens, {low:.3f} to {high:.3f} by the spread of "
        )
        text += f"repetitions; the paper's dearest is {limit:.3f}"
        return Verdict("supported" if high <= limit else "contradicted" if low > limit else "undecided", text, None)

    return Part(text, "fam_cost", test)


_SMALL = "2 layers from scratch instead of a tuned 1B model of 18; windows reach 2m blocks instead of 18m."
_TEXT = "Bytes of books instead of word pieces of PG-19; 2 layers, blocks of 64."
_ROPE_10K = {ROPE: 10000.0}

CLAIMS = (
    Claim(
        "fam",
        "section 3.2, figure 3a",
        "FAM without memory blocks finds the key perfectly up to 260k tokens, 14 times the longest filler of training.",
        (
            _perfect_part("FAM is right within 5 points of always at trained lengths", "fam", "trained"),
            _perfect_part("FAM is right within 5 points of always at the paper's longest test", "fam", "longest"),
            _passkey_part("FAM beats M12 beyond the trained lengths", "fam", "m12", "beyond"),
        ),
        caveat=_SMALL,
    ),
    Claim(
        "fam",
        "figure 3a",
        "Windows get better up to two memory blocks, then no more; the widest falls beyond the trained lengths, too.",
        (
            _passkey_part("M2 beats M0 at trained lengths", "m2", "m0", "trained"),
            _passkey_part("M2 beats M1 at trained lengths", "m2", "m1", "trained"),
            _passkey_part("M2 is within 5 points of M12 at trained lengths", "m2", "m12", "trained", margin=MARGIN),
            _falls_part("M12 is worse beyond the trained lengths", "m12"),
        ),
        caveat=f"{_SMALL} So here a window's reach, not its training, may be what ends it.",
    ),
    Claim(
        "fam",
        "section 3.2, figure 3a",
        "Without gradient into the block before, a window of one block is of use for its own length alone.",
        (_passkey_part("M1 beats M1_SG at trained lengths", "m1", "m1_sg", "trained"),),
        caveat=_SMALL,
    ),
    Claim(
        "fam",
        "figure 7",
        "RMT is below a window of one block; AutoCompressors drop beyond the trained lengths; FAM is above both there.",
        (
            _passkey_part("M1 beats RMT at trained lengths", "m1", "rmt", "trained"),
            _falls_part("AutoCompressors are worse beyond the trained lengths", "autocompressor"),
            _passkey_part("FAM beats RMT beyond the trained lengths", "fam", "rmt", "beyond"),
            _passkey_part("FAM beats AutoCompressors beyond the trained lengths", "fam", "autocompressor", "beyond"),
        ),
        caveat=f"{_SMALL} AutoCompressors are RMT with accumulated memories here.",
    ),
    Claim(
        "fam",
        "figure 9, appendices C.2 and C.3",
        "Feedback of whole blocks (FM) is above windows and below FAM; so is a static summary (SUM FAM) below it.",
        (
            _passkey_part("FM1 beats M1 at trained lengths", "fm1", "m1", "trained"),
            _passkey_part("FM4 beats M4 at trained lengths", "fm4", "m4", "trained"),
            _passkey_part("FAM beats FM4 beyond the trained lengths", "fam", "fm4", "beyond"),
            _passkey_part("FAM beats SUM FAM at trained lengths", "fam", "sum_fam", "trained"),
            _passkey_part("FAM beats SUM FAM beyond the trained lengths", "fam", "sum_fam", "beyond"),
        ),
        caveat=_SMALL,
    ),
    Claim(
        "fam",
        "tables 5 and 6",
        "A sixteenth of a block of feedback is enough: more slots, or more past FAMs, help no further.",
        (
            _text_part(
                "4 slots are better than 1 on text", "fam_length", {SLOTS: 4}, {SLOTS: 1}
            ),
            _text_part(
                "4 slots are as good as 24 on text, within half a point",
                "fam_length", {SLOTS: 4}, {SLOTS: 24}, margin=TEXT_MARGIN,
            ),
            _text_part(
                "8 slots are as good as 24 on passkey, within 5 points",
                "fam_length", {SLOTS: 8}, {SLOTS: 24}, margin=MARGIN, task="passkey",
            ),
            *(
                _text_part(
                    f"one past FAM is as good as {past} on text, within half a point",
                    "fam_blocks", {"arm": "fam", BLOCKS: 1}, {"arm": "past_fams", PAST: past}, margin=TEXT_MARGIN,
                )
                for past in (2, 6)
            ),
        ),
        caveat=f"{_TEXT} On passkey 8 slots are a third of a block. The paper's scores swing as much as they differ.",
    ),
    Claim(
        "fam",
        "table 7",
        "FAM stands best at the last positions of its block; fractional ones come close, position zero is worse.",
        (
            _text_part("last beats zero", "fam_position", {POSITIONS: "last"}, {POSITIONS: "zero"}),
            _text_part(
                "last is as good as fractional within half a point",
                "fam_position", {POSITIONS: "last"}, {POSITIONS: "fractional"}, margin=TEXT_MARGIN,
            ),
        ),
        caveat=_TEXT,
    ),
    Claim(
        "fam",
        "table 11, figure 3b",
        "FAM predicts text better than windows of any number of memory blocks.",
        tuple(
            _text_part(
                f"FAM with 1 memory block beats a window of {blocks}",
                "fam_blocks", {"arm": "fam", BLOCKS: 1}, {"arm": "window", BLOCKS: blocks},
            )
            for blocks in (1, 2, 4, 8)
        ),
        caveat=f"{_TEXT} The paper's FAM has three memory blocks.",
    ),
    Claim(
        "fam",
        "figures 5 and 6",
        "Random state passing helps, most at .8; so does a random position offset; a prompt is better than a prefix.",
        (
            _text_part("passing .8 beats none", "fam_rsp", {PASSING: 0.8}, {PASSING: 0.0}),
            _text_part("passing .8 beats always", "fam_rsp", {PASSING: 0.8}, {PASSING: 1.0}),
            _text_part(
                "an offset beats none",
                "fam_rope_base", {"arm": "offset", **_ROPE_10K}, {"arm": "fam", **_ROPE_10K},
            ),
            _text_part(
                "a prompt beats a prefix",
                "fam_rope_base", {"arm": "fam", **_ROPE_10K}, {"arm": "prefix", **_ROPE_10K},
            ),
        ),
        caveat=f"{_TEXT} 400 steps, so that few carried states are old.",
    ),
    Claim(
        "fam",
        "table 14",
        "FAM costs next to no time: at most two per cent.",
        (
            _cost_part("streaming with three memory blocks costs no more than the paper's dearest", "fam_m3", "stream"),
            _cost_part("training with three memory blocks costs no more than that", "fam_m3", "train"),
        ),
        caveat="128 wide, one core, FAM a sixteenth of a block: small tensors show more of it. One measurement each.",
    ),
    Claim(
        "fam",
        "tables 1, 2 and 12",
        "Tuned models of 1B to 24B get better on six long-context tasks, and no worse on the tasks of GPT-3.",
        untestable="There is no such model here, and none of these tasks.",
    ),
)  # fmt: skip
