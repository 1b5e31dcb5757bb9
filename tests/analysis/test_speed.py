"""The table of ratios comes from the committed records, and from nothing else."""

from typing import Any

from analysis import speed
from analysis.readme import BENCHMARKS, marks


def record(**changes: Any) -> dict[str, Any]:
    goals = [
        {"what": "a / b", "measure": "time", "ratio": 0.5, "goal": 0.4, "met": False},
        {"what": "a / b", "measure": "memory", "ratio": 0.031, "goal": 0.2, "met": True},
        {"what": "c / b", "measure": "time", "ratio": 1.25, "goal": None, "met": None},
    ]
    common = {"about": "letters", "commit": "0123456789", "hardware": "one, torch threads: 2", "threads": 1}
    return {**common, "load_average": [0.5, 0, 0], "goals": goals, **changes}


def test_a_line_for_each_pair() -> None:
    lines = speed.speed_table([record()]).splitlines()[2:]
    assert lines == [
        "| letters | a / b | **0.50** (0.4, missed) | 0.031 (0.2) | 0123456 |",
        "|  | c / b | 1.25 |  | 0123456 |",
    ]


def test_goals_are_counted() -> None:
    text = speed.report([record(), record(load_average=[2.0, 0, 0])])
    assert "2 of 4 goals are met" in text
    assert "peak. one. 2 of" in text


def test_the_section_of_the_page_is_that_of_the_committed_records() -> None:
    begin, end = marks("speed")
    shown = BENCHMARKS.read_text(encoding="utf-8").split(begin)[1].split(end)[0].strip()
    assert shown == speed.report(speed.load())
