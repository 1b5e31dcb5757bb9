"""What papers claim, and what our runs say of it.

A :class:`Claim` is a sentence of a paper with its place. It rests on parts: comparisons that a study of ours makes.
Each is decided by the rule of ``analysis/statistics.py``; together they give the outcome:

| outcome | when |
|---|---|
| reproduced | every part is supported |
| partly | some part is supported, another is not |
| not reproduced | no part is supported, and one is contradicted |
| undecided | no part is supported, none contradicted, and one was tested |
| not run | no part was tested: runs are missing, and the evidence names the command that makes them |
| not testable at this scale | nothing that runs here could decide it; the claim says why |

Each module of this package holds the claims of one notebook as ``CLAIMS``; what decides them is drawn by the modules of
``analysis/papers/``. The first line of its docstring is the title of its table in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.statistics import Verdict
from analysis.studies import Study, load_study
from experiments.results import load_jobs

Outcome = Literal[
    "reproduced", "partly", "not reproduced", "undecided", "not run", "not testable at this scale"
]  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One comparison that a claim rests on."""

    text: str
    """What is compared here, as a sentence that is true if the comparison is supported."""
    study: str
    """Whose runs decide it (``conf/study``)."""
    test: Callable[[Study], Verdict]
    """Decides it."""
    needs_runs: bool = True
    """False: computed, whatever the study has run."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper."""

    paper: str
    """Key of the paper, as in ``results/published.csv``; ``ours`` for what no paper says."""
    place: str
    """Where it stands: ``table 3``, ``section 4.2``."""
    text: str
    """The claim, in our words."""
    parts: tuple[Part, ...] = ()
    """What it rests on here."""
    caveat: str = ""
    """How our setting is another than the paper's."""
    untestable: str = ""
    """Why nothing that runs here could decide it."""

    def __post_init__(self) -> None:
        assert bool(self.parts) != bool(self.untestable), f"{self.text}: either parts, or why there are none"


@dataclass(frozen=True)
class Judgement:
    """A claim, and what our runs say of it."""

    claim: Claim
    outcome: Outcome
    evidence: tuple[tuple[Part, Verdict], ...]
    """Each part with its verdict."""
    commands: tuple[str, ...]
    """What makes the runs that its studies still lack."""


def judge(claims: Sequence[Claim], *, live: bool = False) -> list[Judgement]:
    """Decides claims by the committed results, each study at its own scale.

    Args:
        claims: to decide.
        live: also by the runs of the store.

    Raises:
        ValueError: a study cannot be read.
    """
    names = dict.fromkeys(part.study for claim in claims for part in claim.parts)
    studies = {name: load_study(name, scale=load_jobs(name).scale, live=live) for name in names}
    return [judge_by(claim, studies) for claim in claims]


def judge_by(claim: Claim, studies: Mapping[str, Study]) -> Judgement:
    """Decides a claim by studies that were read before, by name."""
    if claim.untestable:
        return Judgement(claim, "not testable at this scale", (), ())
    evidence = tuple((part, part.test(studies[part.study])) for part in claim.parts)
    asked = dict.fromkeys(part.study for part in claim.parts if part.needs_runs)
    commands = tuple(studies[name].command for name in asked if len(studies[name].missing))
    return Judgement(claim, outcome([verdict for _, verdict in evidence]), evidence, commands)


def outcome(verdicts: Sequence[Verdict]) -> Outcome:
    """What the verdicts on all parts say together: see the table at the top."""
    values = [verdict.value for verdict in verdicts]
    if all(value == "supported" for value in values):
        return "reproduced"
    if "supported" in values:
        return "partly"
    if "contradicted" in values:
        return "not reproduced"
    return "undecided" if "undecided" in values else "not run"


def verdict_table(judgements: Sequence[Judgement]) -> str:
    """Claims, outcomes and evidence as a Markdown table."""
    lines = ["| claim | place | outcome | evidence |", "|---|---|---|---|"]
    for found in judgements:
        claim = found.claim
        evidence = [f"{part.text}: **{verdict.value}**, {verdict.reason}" for part, verdict in found.evidence]
        evidence += [claim.untestable] if claim.untestable else []
        evidence += [f"To run what is missing: `{command}`" for command in found.commands]
        evidence += [claim.caveat] if claim.caveat else []
        cells = [claim.text, f"{claim.paper}, {claim.place}", f"**{found.outcome}**", "<br>".join(evidence)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
