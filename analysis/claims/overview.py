"""Our own comparison: what it asks of every mechanism at equal size, segment and memory budget."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.claims import Claim, Part
from analysis.matrix import scored
from analysis.passkey import pooled
from analysis.rates import RATE, at_chosen_rates
from analysis.recall import recall_by_length, written_between
from analysis.statistics import Verdict, claim, reaches
from analysis.studies import Study

#: Variants with a memory; that of ``mat`` is one segment's own.
MEMORIES = (
    *("linear", "luna", "filtered_memory", "mat", "rmt", "autocompressor", "memformer"),
    *("fam", "fam_gated", "feedback_memory", "infini", "infini_gated", "infini_delta"),
)
#: By how much a score may be worse and still count as good as another: one point of accuracy.
MARGIN = 0.01
#: By how much less than always a key may be found and still count as found: five points of exact match.
NEARLY = 0.05

Test = Callable[[Study], Verdict]


def beyond_reach(variant: str, window: str = "block_window") -> Test:
    """Whether a variant finds the passkey where a window of the trunk cannot look, at the lengths of training."""

    def test(study: Study) -> Verdict:
        runs, slices = study.runs, study.slices
        own = runs[(runs["variant"] == window) & (runs["task"] == "passkey")] if len(runs) else runs
        if own.empty or "blocks_between" not in slices:
            return Verdict("not tested", f"no run of {window} says how far it looks", None)
        far = slices["blocks_between"] >= own["reach_blocks"].max()
        rows = slices[(slices["task"] == "passkey") & (slices["factor"] <= 1) & far]
        scores = pooled(rows, ["variant", "task", "seed", "scale", "data_source"], "exact_match")
        return claim(scores[scores["variant"] == variant], scores[scores["variant"] == window], "exact_match")

    return test


def finds_at(symbols: int, variant: str, other: str | None = None) -> Test:
    """Whether a variant finds a key at the start of so many symbols: more often than another, else always, nearly."""

    def test(study: Study) -> Verdict:
        rows = recall_by_length(study, depth=0.0)
        rows = rows[rows["length_tokens"] >= symbols]
        rows = rows[rows["length_tokens"] == rows["length_tokens"].min()]
        own = rows[rows["variant"] == variant]
        if other is None:
            return reaches(own, "exact_match", 1.0, margin=NEARLY)
        return claim(own, rows[rows["variant"] == other], "exact_match")

    return test


def better_on(task: str, better: str, worse: str, *, margin: float = 0.0) -> Test:
    """Whether one variant is better than another on a task, or as good within a margin."""

    def test(study: Study) -> Verdict:
        rows = scored(study)
        rows = rows[rows["task"] == task]
        first, second = (rows[rows["variant"] == name] for name in (better, worse))
        sign = bool(rows["larger_is_better"].iloc[0]) if len(rows) else True
        return claim(first, second, "score", larger_is_better=sign, margin=margin)

    return test


def at_own_rate(better: str, worse: str, *, margin: float = 0.0) -> Test:
    """Whether one variant is better than another, or as good, each at the learning rate that validation chose."""

    def test(study: Study) -> Verdict:
        rows = at_chosen_rates(study)
        first, second = (rows[rows["variant"] == name] for name in (better, worse))
        found = claim(first, second, "score", margin=margin)
        if first.empty or second.empty:
            return found
        rates = f"{first[RATE].iloc[0]:g} against {second[RATE].iloc[0]:g}"
        return found._replace(reason=f"{rates}: {found.reason}")

    return test


def one_cell(variant: str, task: str, *, suffices: bool = True, **only: str) -> Test:
    """Whether a memory of one cell is as good as the largest of the study, or the largest better than one."""

    def test(study: Study) -> Verdict:
        rows = scored(study)
        rows = rows[(rows["task"] == task) & (rows["variant"] == variant)]
        if rows.empty:
            return Verdict("not tested", "there are no runs of one side", None)
        for name, value in only.items():
            rows = rows[rows[name] == value]
        cells = pd.to_numeric(rows["model.memory_len"])
        smallest, largest = rows[cells == 1], rows[cells == largest_memory(study, variant)]
        if suffices:
            return claim(smallest, largest, "score", margin=MARGIN)
        return claim(largest, smallest, "score")

    return test


def largest_memory(study: Study, variant: str) -> float:
    """The most cells that a study gives a variant, whether run or not."""
    both = pd.concat([frame[["variant", "model.memory_len"]] for frame in (study.runs, study.missing) if len(frame)])
    return float(pd.to_numeric(both.loc[both["variant"] == variant, "model.memory_len"]).max())


def more_per_number(variant: str, window: str = "block_window") -> Test:
    """Whether a variant recalls more than a window that carries at least as many numbers.

    Of the pairs of arms where the variant carries no more than the window, those with the smallest window count, and of
    these the one with the variant's largest arm.
    """

    def test(study: Study) -> Verdict:
        rows = scored(study)
        own, other = (rows[rows["variant"] == name] for name in (variant, window))
        pairs = [
            (size, limit)
            for limit in set(other.get("state_size", ()))
            for size in set(own["state_size"])
            if size <= limit
        ]
        if not pairs:
            return Verdict("not tested", "no arm carries as little as an arm of the window does", None)
        limit = min(limit for _, limit in pairs)
        size = max(size for size, other_size in pairs if other_size == limit)
        found = claim(own[own["state_size"] == size], other[other["state_size"] == limit], "score")
        return found._replace(reason=f"{size:,} numbers against {limit:,}: {found.reason}")

    return test


def forgets(variant: str, task: str) -> Test:
    """Whether recall after the most writes of the study is below recall at the longest length of training."""

    def test(study: Study) -> Verdict:
        rows = written_between(study)
        rows = rows[(rows["task"] == task) & (rows["variant"] == variant)]
        near = rows[rows["writes"] == rows.loc[rows["factor"] <= 1, "writes"].max()]
        far = rows[(rows["writes"] == rows["writes"].max()) & (rows["factor"] > 1)]
        return claim(near, far, "exact_match")

    return test


def keeps_longer(better: str, worse: str, task: str) -> Test:
    """Whether one variant recalls more than another after the most writes that both were tested with."""

    def test(study: Study) -> Verdict:
        rows = written_between(study)
        first, second = (rows[(rows["task"] == task) & (rows["variant"] == name)] for name in (better, worse))
        common = set(first["writes"]) & set(second["writes"])
        if not common:
            return Verdict("not tested", "there are no runs of one side", None)
        first, second = (each[each["writes"] == max(common)] for each in (first, second))
        return claim(first, second, "exact_match")

    return test


_COMPRESSED = (
    *("linear", "luna", "filtered_memory", "rmt", "memformer"),
    *("fam", "fam_gated", "infini", "infini_gated", "infini_delta"),
)


def _kept(gated: str, plain: str) -> tuple[Part, ...]:
    """Whether a gate keeps a key for 64 times the trained length: longer than without, and always."""
    symbols = 64 * 432
    return (
        Part(
            f"`{gated}` against `{plain}` at 64 times the trained length", "overview", finds_at(symbols, gated, plain)
        ),
        Part(f"`{gated}` finds it always there, within five points", "overview", finds_at(symbols, gated)),
    )


CLAIMS = (
    Claim(
        "ours",
        "study overview",
        "A memory finds a passkey where a window of attention cannot look.",
        tuple(
            Part(f"`{name}` is better than `block_window` beyond its reach", "overview", beyond_reach(name))
            for name in MEMORIES
            if name != "mat"  # it begins anew with every segment
        ),
        caveat="Trained lengths only; the reach is that of all layers together.",
    ),
    Claim(
        "ours",
        "study overview",
        "A memory that was trained on 432 symbols finds a key that was said a million symbols before.",
        tuple(
            Part(f"`{name}` finds it always, within five points", "overview", finds_at(10**6, name))
            for name in ("fam", "fam_gated", "infini", "infini_gated", "infini_delta")
        ),
        caveat="Filler that repeats, as in the papers; two prompts a seed with the key at their start.",
    ),
    Claim(
        "ours",
        "study overview",
        "A gate on what is written is all that FAM lacks to keep a key.",
        _kept("fam_gated", "fam"),
    ),
    Claim(
        "ours",
        "study overview",
        "A gate on what is written is all that Infini-attention lacks to keep a key.",
        _kept("infini_gated", "infini"),
    ),
    Claim(
        "ours",
        "study overview",
        "On short text a memory is as good as full attention.",
        tuple(
            Part(
                f"`{name}` is as good as `transformer` on `lra_text`, within a point",
                "overview",
                better_on("lra_text", name, "transformer", margin=MARGIN),
            )
            for name in MEMORIES
        ),
        caveat="Minutes of training on reviews that are cut short: what longer training would show is not known.",
    ),
    Claim(
        "ours",
        "study text_rates",
        "On short text a memory is as good as full attention, each at the learning rate that validation chooses.",
        tuple(
            Part(
                f"`{name}` is as good as `transformer`, within a point",
                "text_rates",
                at_own_rate(name, "transformer", margin=MARGIN),
            )
            for name in MEMORIES
        ),
        caveat="Three rates for each, the same for all; the minutes of training are the same as before.",
    ),
    Claim(
        "ours",
        "study overview",
        "On nested operations full attention is better than a window.",
        (
            Part("`transformer` against `local`", "overview", better_on("lra_listops", "transformer", "local")),
            Part(
                "`transformer` against `block_window`",
                "overview",
                better_on("lra_listops", "transformer", "block_window"),
            ),
        ),
    ),
    Claim(
        "ours",
        "study filtered_sizes",
        "One memory cell suffices to classify.",
        tuple(
            Part(
                f"`{name}` with one cell is as good on `{task}` as with most, within a point",
                "filtered_sizes",
                one_cell(name, task),
            )
            for name in ("luna", "luna_shared", "filtered_memory")
            for task in ("lra_listops", "lra_text")
        ),
    ),
    Claim(
        "ours",
        "study rmt_memory_size",
        "One memory cell does not suffice to say back what was read.",
        tuple(
            Part(
                f"`rmt` with most cells is better at {op} than with one",
                "rmt_memory_size",
                one_cell("rmt", "memory_ops", suffices=False, **{"task.op": op}),
            )
            for op in ("copy", "reverse")
        ),
    ),
    Claim(
        "ours",
        "study state_size",
        "For the numbers that it carries, a memory recalls more pairs than a window of keys and values.",
        tuple(
            Part(f"`{name}` is better than a `block_window` that carries as much", "state_size", more_per_number(name))
            for name in ("luna", "filtered_memory", "fam", "rmt", "memformer", "linear", "infini_delta")
        ),
        caveat="One learning rate for all: what has learned nothing yet may be slow rather than small.",
    ),
    Claim(
        "ours",
        "study compressions",
        "Every memory forgets with the number of times that it is written.",
        tuple(
            Part(f"`{name}` recalls a {text} less after the most writes than at trained lengths", "compressions", test)
            for name in _COMPRESSED
            for text, test in (
                ("passkey", forgets(name, "passkey")),
                ("fact", forgets(name, "memory_ops")),
            )
        ),
    ),
    Claim(
        "ours",
        "study compressions",
        "A gate on what is written keeps it longer.",
        tuple(
            Part(f"`{gated}` against `{plain}`, {text}", "compressions", keeps_longer(gated, plain, task))
            for gated, plain in (("fam_gated", "fam"), ("infini_gated", "infini"))
            for text, task in (("passkey", "passkey"), ("memorize", "memory_ops"))
        ),
    ),
    Claim(
        "ours",
        "study overview_all",
        "Writing the difference (delta rule) recalls more than adding, at the same state.",
        tuple(
            Part(
                f"`infini_delta` against `infini` on `{task}`",
                "overview_all",
                better_on(task, "infini_delta", "infini"),
            )
            for task in ("mqar", "passkey", "memory_ops")
        ),
    ),
    Claim(
        "ours",
        "study overview_all",
        "The order of the variants is the same at the papers' sizes.",
        untestable="Small models say nothing of it; scale=paper is there to be run, on a GPU.",
    ),
)
