"""The claims of all papers, judged: what the report opens with."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import analysis.claims
from analysis.claims import Claim, Judgement, Outcome, judge_by, verdict_table
from analysis.report.gather import Gathered
from analysis.statistics import Verdict
from analysis.studies import Study

#: In the order of the table in analysis/claims/__init__.py; a sign beside the word, so that colour alone says nothing.
SIGNS: dict[Outcome, str] = {
    "reproduced": "✓",
    "partly": "◐",
    "not reproduced": "✗",
    "undecided": "?",
    "not run": "…",
    "not testable at this scale": "∅",
}
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Chapter:
    """The claims of one module of analysis/claims/."""

    name: str
    """Of the module, and of its notebook."""
    title: str
    """First line of the module's docstring."""
    judgements: list[Judgement]
    """In the module's order."""

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many claims came out how."""
        found = Counter(one.outcome for one in self.judgements)
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}


def slug(outcome: str) -> str:
    """An outcome as the name of a class of the stylesheet."""
    return outcome.replace(" ", "-")


def all_claims() -> dict[str, tuple[str, tuple[Claim, ...]]]:
    """Title and claims of each module of analysis/claims/ that has some: the papers by name, then our own."""
    names = [found.name for found in pkgutil.iter_modules(analysis.claims.__path__)]
    chapters = {}
    for name in sorted(names, key=lambda name: (name == "overview", name)):
        module = importlib.import_module(f"analysis.claims.{name}")
        title = (module.__doc__ or "").strip().partition("\n")[0]
        if claims := tuple(getattr(module, "CLAIMS", ())):
            chapters[name] = (title, claims)
    return chapters


def judge_all(claims: Mapping[str, tuple[str, Sequence[Claim]]], found: Gathered) -> list[Chapter]:
    """Decides all claims by what was gathered; one that cannot be judged says why, and the others are."""
    studies = found.judged()
    return [
        Chapter(name, title, [_judge(claim, studies, found.broken) for claim in own])
        for name, (title, own) in claims.items()
    ]


def _judge(claim: Claim, studies: Mapping[str, Study], broken: Mapping[str, str]) -> Judgement:
    absent = [part.study for part in claim.parts if part.study not in studies]
    if absent:
        reasons = "; ".join(broken.get(name, f"there is no study {name}") for name in dict.fromkeys(absent))
        return Judgement(claim, "not run", tuple((part, _untested(reasons)) for part in claim.parts), ())
    try:
        return judge_by(claim, studies)
    except Exception as error:  # whatever a comparison trips over in half of its runs, the other claims stand
        reason = f"could not be judged ({type(error).__name__}: {error})"
        return Judgement(claim, "not run", tuple((part, _untested(reason)) for part in claim.parts), ())


def _untested(reason: str) -> Verdict:
    return Verdict("not tested", reason, None)


def as_markdown(chapters: Sequence[Chapter]) -> str:
    """All verdicts as Markdown, a section for each paper."""
    parts = [f"## {chapter.name}\n\n{verdict_table(chapter.judgements)}\n" for chapter in chapters]
    return "# What became of the papers' claims\n\n" + ("\n".join(parts) or "No claim is written down yet.\n")
