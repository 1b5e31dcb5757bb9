"""Executed notebooks as pages: nbconvert's HTML of the cells alone, without its page, its styles and its scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
from nbconvert import HTMLExporter

from analysis.execute import problem_of
from analysis.report.figures import Picture
from analysis.report.gather import Lack
from analysis.sync import scripts

_ALT_LENGTH = 300


@dataclass(frozen=True)
class Page:
    """One executed notebook."""

    name: str
    title: str
    body: str
    """HTML."""
    problem: str
    """The cell that failed and its error; empty when all ran."""


def pages(executed: Path, gallery: Sequence[Picture], sources: Path | None = None) -> tuple[list[Page], list[Lack]]:
    """The notebooks that were run, and what is missing of them. What they say of figures goes into the gallery.

    Args:
        executed: folder of executed copies.
        gallery: figures of the site, by their bytes; what a notebook says of them is written into them.
        sources: folder of the notebooks' scripts; default: ``analysis/notebooks``.
    """
    found, lacks = [], []
    by_digest = {picture.digest: picture for picture in gallery if picture.digest}
    for script in scripts(folder=sources):
        path = executed / f"{script.stem}.ipynb"
        if not path.is_file():
            lacks.append(Lack(f"notebook {script.stem} was not run", "make notebooks"))
            continue
        try:
            notebook = jupytext.read(path)
        except Exception as error:  # whatever a torn file trips its reader over
            reason = str(error).partition("\n")[0]
            lacks.append(Lack(f"the copy of notebook {script.stem} is torn ({reason})", "make notebooks"))
            continue
        page = _page(script.stem, notebook, by_digest)
        if page.problem:
            command = f"python -m analysis.execute {script.stem}"
            lacks.append(Lack(f"notebook {script.stem} failed in {page.problem}", command))
        found.append(page)
    return found, lacks


def _page(name: str, notebook: Any, by_digest: dict[str, Picture]) -> Page:
    problem = problem_of(notebook)
    said = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            said = _plain(cell.source)
        outputs = list(cell.get("outputs", ()))
        for output, following in zip(outputs, [*outputs, None][1:], strict=True):
            _place_picture(output, following, said, name, by_digest)
    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True
    )
    body, _ = exporter.from_notebook_node(notebook)
    return Page(name, _title(name, notebook.cells), body, problem)


def _place_picture(output: Any, following: Any, said: str, name: str, by_digest: dict[str, Picture]) -> None:
    """A figure that the site has is shown from there, any other from within the page, both with their text."""
    text = output.get("data", {}).get("image/png")
    if not text:
        return
    output.metadata["image/png"] = {"alt": said or name}
    picture = by_digest.get(hashlib.sha256(base64.b64decode(text)).hexdigest())
    if picture is None:
        return
    picture.alt, picture.notebook = said or picture.alt, name
    if following is not None and "text/markdown" in following.get("data", {}):
        picture.caption = following.data["text/markdown"]
    image = f'<img src="../{picture.file}" alt="{html.escape(picture.alt)}" loading="lazy">'
    tag = f'<a href="../{picture.file}">{image}</a>'
    output.data = type(output.data)({"text/html": tag})


def _plain(markdown: str) -> str:
    """The words of a Markdown text, cut to what is read out in one go."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = " ".join(re.sub(r"[*_`#>|]", "", text).split())
    return text if len(text) <= _ALT_LENGTH else text[: text.rfind(" ", 0, _ALT_LENGTH)] + " …"


def _title(name: str, cells: Iterable[Any]) -> str:
    first = next((cell.source for cell in cells if cell.cell_type == "markdown"), "")
    heading = re.match(r"#+\s*(.+)", first)
    return _plain(heading.group(1)) if heading else name
