"""What a notebook's cells call beside the figures themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from analysis.claims import Claim, judge, verdict_table
from analysis.studies import Study
from analysis.style import caption, save


def show(figure: Figure, name: str, *studies: Study, note: str = "") -> None:
    """Writes a figure to ``results/figures/<name>.svg`` and ``.png``, and shows it above its caption.

    A figure that lacks all runs of one of its studies, of a paper's numbers alone or of words, is shown and not kept.

    Args:
        figure: to show.
        name: of its files; the same as the function's that drew it, with its paper in front.
        studies: that it was drawn from.
        note: a sentence of the figure's own, put last.
    """
    is_measured = all(len(study.runs) or len(study.bench) for study in studies)
    with TemporaryDirectory() as nowhere:
        _, png = save(figure, name if is_measured else Path(nowhere, name))
        display(Image(png.read_bytes()))
    text = " ".join(caption(study) for study in studies)
    display(Markdown(f"**{name}**. {text} {note}".strip()))


def table(text: str, *studies: Study, note: str = "") -> None:
    """Shows a table, as Markdown, above its caption."""
    caption_text = " ".join(caption(study) for study in studies)
    display(Markdown(f"{text}\n\n{caption_text} {note}".strip()))


def verdicts(claims: Sequence[Claim], *, live: bool = False) -> None:
    """Shows what our runs say of a paper's claims, as a table.

    Args:
        claims: of the paper.
        live: also by the runs of the store.
    """
    display(Markdown(verdict_table(judge(claims, live=live))))
