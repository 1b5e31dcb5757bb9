"""The table of README.md tells of every test here, and of no other."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_the_table_is_complete() -> None:
    rows = re.findall(r"^\|.*\| `(test_\w+)` \|$", (HERE / "README.md").read_text(), re.MULTILINE)
    defined = [
        name
        for path in HERE.glob("test_*.py")
        if path != Path(__file__)
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    ]
    assert sorted(rows) == sorted(defined)
