"""What a figure shows: its lines by label, their points, and the note on what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


def line(axes: Axes, label: str) -> np.ndarray[Any, Any]:
    """The points of the one line whose label starts like this."""
    found = [each for each in axes.lines if str(each.get_label()).startswith(label)]
    assert len(found) == 1, [each.get_label() for each in axes.lines]
    return np.asarray(found[0].get_xydata(), dtype=float)


def words_of(figure: Figure) -> str:
    """What stands beside the panels, the note on what is missing too."""
    shown = [*(text.get_text() for text in figure.texts), figure.get_supxlabel()]
    return " ".join(shown).replace("\n", " ")


def xs(line: Line2D) -> list[float]:
    """Places of a line's points."""
    return np.asarray(line.get_xdata(), dtype=float).tolist()


def ys(line: Line2D) -> list[float]:
    """Values of a line's points."""
    return np.asarray(line.get_ydata(), dtype=float).tolist()


def filled(axes: Axes) -> dict[str, Any]:
    """Our lines by label, without the count behind it."""
    return {
        str(line.get_label()).partition("  (")[0]: line
        for line in axes.lines
        if line.get_linestyle() != "--" and line.get_marker() not in ("None", None, "")
    }


def hollow(axes: Axes) -> dict[str, Any]:
    """The paper's lines by label."""
    return {str(line.get_label()): line for line in axes.lines if line.get_linestyle() == "--"}


def assert_note(figure: Figure, study: str, which: str) -> None:
    """The note on runs that are missing, if some are; and in each panel something to see.

    Args:
        figure: of a study.
        study: its name.
        which: of its runs are there: ``all``, ``half`` or ``none``.
    """
    note = figure.get_supxlabel().replace("\n", " ")
    assert ("Missing" in note) == (which != "all")
    if which == "none":
        assert f"To make them: python run.py -m +study={study}" in note
    for axes in figure.axes:
        assert len(axes.lines) or len(axes.images) or len(axes.texts), f"{axes.get_title()} is empty"
    figure.draw_without_rendering()
