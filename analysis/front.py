"""README's table of results and its figures: all mechanisms on text, ListOps and passkey (study ``overview``).

    python run.py -m +study=overview       # train and test: skips what is done
    python -m analysis.collect overview    # copy what the store holds into results/studies/overview/
    python -m analysis.execute overview    # redraw the figures
    python -m analysis.front               # redraw the table from those files alone

The figures are those of the notebook ``overview``; here they are named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from analysis.matrix import score_cell, scored, variants_of
from analysis.readme import README, markdown, write_section
from analysis.recall import recall_by_length
from analysis.statistics import bold, mean_interval
from analysis.studies import Study, load_study
from analysis.style import caption

#: Tasks of one score, and what heads their columns.
SCORED = {"lra_text": "text, accuracy", "lra_listops": "ListOps, accuracy"}
#: Lengths of passkey in the table, in blocks: the longest of training, then four and sixty-four times that.
LENGTHS = (18, 72, 1152)
FIGURES = {
    "overview_lengths": "A key said once: who still finds it",
    "overview_pareto": "Quality against speed, memory and state",
}


def front_table(study: Study) -> str:
    """A line for each variant: its scores with intervals over seeds, its state, and how many seeds there are."""
    runs, lengths, variants = scored(study), recall_by_length(study), variants_of(study)
    scores = [(_headed(task, runs), runs[runs["task"] == task], "score") for task in SCORED]
    scores += [(_far(blocks), lengths[lengths["length_blocks"] == blocks], "exact_match") for blocks in LENGTHS]
    shown = [column for column in scores if len(column[1])] or scores  # a column that nothing was run for says nothing
    columns = [_cells(rows, name, variants) for _, rows, name in shown]
    lines = [
        [f"`{variant}`", *(column[row] for column in columns), _state(runs, variant), _seeds(runs, variant)]
        for row, variant in enumerate(variants)
    ]
    return markdown(["`model=`", *(head for head, _, _ in shown), "state size", "seeds"], lines)


def _headed(task: str, runs: pd.DataFrame) -> str:
    """What heads a task's scores; with the trivial floor where there are runs to say it."""
    floors = pd.to_numeric(runs.loc[runs["task"] == task, "floor"]).dropna()
    return SCORED[task] + (f" (floor {100 * floors.iloc[0]:.1f})" if len(floors) else "")


def _far(blocks: int) -> str:
    """What heads a length of passkey."""
    trained = LENGTHS[0]
    return f"key in {blocks:,} blocks ({'trained' if blocks <= trained else f'{blocks // trained}x'})"


def _cells(rows: pd.DataFrame, column: str, variants: Sequence[str]) -> list[str]:
    """Means in per cent with their intervals; the best is bold where no other interval overlaps its own."""
    found = [mean_interval(rows.loc[rows["variant"] == name, column]) for name in variants]
    return [score_cell(entry, strong=mark, with_n=False) for entry, mark in zip(found, bold(found), strict=True)]


def _state(runs: pd.DataFrame, variant: str) -> str:
    """Numbers that a model carries along time after a prompt of training length of passkey."""
    own = runs[(runs["variant"] == variant) & (runs["task"] == "passkey")]
    return f"{own['state_size'].iloc[0]:,.0f}" if len(own) else ""


def _seeds(runs: pd.DataFrame, variant: str) -> str:
    """One number where all tasks have as many, else one for each."""
    own = runs[runs["variant"] == variant]
    counts = [int((own["task"] == task).sum()) for task in (*SCORED, "passkey")]
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def report(study: Study) -> str:
    """The README's section: how to read the table, the table, what made it, the figures."""
    read = (
        "Test scores in %: mean and 95 % bootstrap interval over seeds. *Key*: exact match of a five-digit key, mean "
        "over depths. *State size*: numbers carried along time behind a prompt of trained length. Bold: no other "
        "interval of the column overlaps, and it has neither gaps nor single seeds. *Seeds*: of text, ListOps and "
        "passkey, where they differ. Redrawn by `python -m analysis.front` from "
        "[`results/studies/overview/`](results/studies/overview)."
    )
    made_by = f"<details><summary>Sizes, machine, commits{', what is missing' if len(study.missing) else ''}</summary>"
    symbols = recall_by_length(study)["length_tokens"].max()
    reach = f" to {symbols:,.0f} symbols" if symbols > 0 else ""
    alts = {"overview_lengths": f"A key said once: who still finds it, from trained lengths{reach}"}
    figures = [f"![{words}](results/figures/{name}.svg)" for name, words in {**FIGURES, **alts}.items()]
    return "\n\n".join([read, front_table(study), made_by, caption(study, limit=3), "</details>", *figures])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring. Returns the exit code."""
    argparse.ArgumentParser(description="README's table of results.").parse_args(arguments)
    try:
        write_section("overview", report(load_study("overview", live=False)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote the overview section of {README.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
