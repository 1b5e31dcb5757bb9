"""What verdicts on parts say together, and how they are shown."""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.claims import Claim, Judgement, Part, outcome, verdict_table
from analysis.statistics import Value, Verdict, claim


def scores(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"task": "copy", "seed": range(len(values)), "scale": "laptop", "data_source": "made", "score": values}
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["supported", "supported"], "reproduced"),
        (["supported", "undecided"], "partly"),
        (["supported", "contradicted"], "partly"),
        (["undecided", "contradicted"], "not reproduced"),
        (["undecided", "not tested"], "undecided"),
        (["not tested", "not tested"], "not run"),
    ],
)
def test_outcome_of_parts(values: list[Value], expected: str) -> None:
    assert outcome([Verdict(value, "", None) for value in values]) == expected


def test_as_good_as_names_a_margin() -> None:
    better, worse = scores([0.50, 0.51, 0.52]), scores([0.51, 0.52, 0.53])
    assert claim(better, worse, "score").value == "contradicted"
    found = claim(better, worse, "score", margin=0.02)
    assert found.value == "supported"
    assert found.reason.startswith("difference -0.01 ")
    assert ", margin 0.02, n = 3" in found.reason
    assert claim(better, worse, "score", larger_is_better=False, margin=0.02).value == "supported"
    assert claim(worse, better, "score", larger_is_better=False, margin=0.001).value == "contradicted"


def test_a_claim_has_parts_or_says_why_not() -> None:
    with pytest.raises(AssertionError):
        Claim("fam", "section 1", "It is good.")


def test_the_table_shows_evidence_commands_and_caveats() -> None:
    zero = Verdict("undecided", "difference 0", None)
    part = Part("a | b", "overview", lambda study: zero)
    tested = Claim("fam", "table 1", "FAM wins.", (part,), caveat="Smaller.")
    other = Claim("fam", "table 2", "At 24B too.", untestable="No such model here.")
    table = verdict_table(
        [
            Judgement(tested, "undecided", ((part, zero),), ("python run.py",)),
            Judgement(other, "not testable at this scale", (), ()),
        ]
    )
    lines = table.splitlines()
    assert "a \\| b: **undecided**, difference 0<br>To run what is missing: `python run.py`<br>Smaller." in lines[2]
    assert "**not testable at this scale** | No such model here. |" in lines[3]


ROOM = Path(str(analysis.__file__)).parent


def imported(path: Path) -> list[tuple[str, str]]:
    """Module and name of each import from a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    from_imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [(str(node.module), name.name) for node in from_imports for name in node.names]


@pytest.mark.parametrize("path", sorted((ROOM / "papers").glob("*.py")), ids=lambda path: path.stem)
def test_papers_know_nothing_of_claims(path: Path) -> None:
    assert [module for module, name in imported(path) if f"{module}.{name}".startswith("analysis.claims")] == []


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOM)))
def test_what_a_module_keeps_to_itself_is_not_imported(path: Path) -> None:
    private = [name for module, name in imported(path) if name.startswith("_") and module.startswith("analysis")]
    assert private == []
