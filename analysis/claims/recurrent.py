"""Memory that is handed from segment to segment, in four papers: what they claim.

Memory Transformer (arXiv 2006.11527), Recurrent Memory Transformer (2207.06881) and its scaling to a million tokens
(2304.11062), Memformer (2010.06891).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from analysis.arms import MEMORY, rows_where
from analysis.claims import Claim, Part
from analysis.papers.memformer import ALL_OF_IT, ablations, published_ratios, replay_ratios
from analysis.papers.rmt import BITS, DEPTH, FACTS, OP, OPS, SYMBOLS, TRAINED, by_seed, within
from analysis.statistics import Difference, Verdict, claim
from analysis.studies import Study

MARGIN = 0.05
"""What counts as good as another, in accuracy."""

Rows = Callable[[pd.DataFrame], pd.DataFrame]
Values = Mapping[str, object]


def _lengths_part(
    text: str, study: str, better: Values, worse: Values, *, part: Rows = within, margin: float = 0.0
) -> Part:
    """One is better than another on some lengths."""

    def test(found: Study) -> Verdict:
        first, second = (by_seed(part(rows_where(found.slices, values))) for values in (better, worse))
        return claim(first, second, SYMBOLS, margin=margin)

    return Part(text, study, test)


def _solved_part(text: str, study: str, values: Values, *, part: Rows = within) -> Part:
    """It is more than halfway from the trivial floor to always right: two that both guess are no evidence."""

    def test(found: Study) -> Verdict:
        rows = part(rows_where(found.slices, values))
        if rows.empty:
            return Verdict("not tested", "there are no runs", None)
        floor = pd.to_numeric(found.runs.loc[found.runs["run_id"].isin(rows["run_id"]), "floor"]).max()
        scores = by_seed(rows)
        return claim(scores, scores.assign(**{SYMBOLS: (1 + floor) / 2}), SYMBOLS)

    return Part(text, study, test)


def _runs_part(text: str, study: str, better: Values, worse: Values) -> Part:
    """One is better than another by the score of its task."""
    task = str(better["task"])

    def test(found: Study) -> Verdict:
        runs = ablations(found) if "label" in better else found.runs
        score = f"test/{BITS if task == 'lm_text' else SYMBOLS}"
        return claim(rows_where(runs, better), rows_where(runs, worse), score, larger_is_better=task != "lm_text")

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
        theirs = float(rows_where(published_ratios(), {"model": "MRBP"})[measure].iloc[0])
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
    large, half = ({"arm": "rmt", MEMORY: slots, OP: op} for slots in (24, 16))
    solved = f"16 slots are more than halfway from guessing to always right ({op})"
    return (
        _solved_part(solved, "rmt_memory_size", half),
        _lengths_part(f"16 slots are within 5 points of 24 ({op})", "rmt_memory_size", half, large, margin=MARGIN),
    )


def _larger_memory(op: str) -> tuple[Part, ...]:
    sizes = {slots: {"arm": "rmt", MEMORY: slots, OP: op} for slots in (1, 8, 24)}
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
    return _runs_part(f"16 slots beat 1 ({task})", "memformer_slots", {**rows, MEMORY: 16}, {**rows, MEMORY: 1})


def _ablated(text: str, label: str, task: str) -> Part:
    better, worse = ({"label": name, "task": task} for name in (ALL_OF_IT, label))
    return _runs_part(f"{text} ({task})", "memformer_slots", better, worse)


def _rmt_on(op: str) -> tuple[str, dict[str, str]]:
    """Study and settings of RMT on one of the operations."""
    return "rmt_segments", {"variant": "rmt", OP: op}


_SMALL = "2 layers of 64, segments of 24, memory of 8 slots; one run for all numbers of segments, not one for each."
_TASKS = ("memory_ops", "lm_text")

CLAIMS = (
    Claim(
        "rmt",
        "figure 3",
        "RMT solves copy, reverse and retrieval over several segments, and models without recurrence do not keep up.",
        (
            *_rivals("RMT beats local attention over 2 to 6 segments", "local", tuple(OPS)),
            *_rivals("RMT beats memory tokens that are not handed on", "mat", tuple(OPS)),
            *(
                _solved_part(f"RMT is more than halfway from guessing to always right ({op})", *_rmt_on(op))
                for op in OPS
            ),
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
                "RMT is more than halfway from guessing to always right (associative)", *_rmt_on("associative")
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
        "A larger memory helps.",
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
        "The more segments in training, the further it reaches.",
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
