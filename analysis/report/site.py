"""Puts the pages together and writes them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from nbconvert.filters import markdown2html

from analysis.claims import Claim
from analysis.report.figures import pictures
from analysis.report.gather import Gathered, Lack, gather
from analysis.report.leaderboard import leaderboard, table_html
from analysis.report.notebooks import pages
from analysis.report.runs import Arm, arms, measurements
from analysis.report.verdicts import SIGNS, all_claims, as_markdown, judge_all, slug
from analysis.studies import Study
from analysis.style import caption
from experiments.results import load_results

TEMPLATES = Path(__file__).resolve().parent / "templates"
RESULTS = Path(__file__).resolve().parents[2] / "results"


@dataclass(frozen=True)
class Site:
    """What was built."""

    folder: Path
    files: list[Path]
    lacks: list[Lack]
    """What it is without."""


def build(
    results: Path | None = None,
    out: Path | None = None,
    *,
    names: Sequence[str] | None = None,
    claims: Mapping[str, tuple[str, Sequence[Claim]]] | None = None,
    notebooks: Path | None = None,
    live: bool = False,
    root: Path | None = None,
) -> Site:
    """Builds the site out of what there is, and says what there is not.

    Args:
        results: folder with ``studies/`` and ``figures/``; default: the committed one.
        out: top of the site; default: ``report/`` in ``results``. Executed notebooks are taken from its
            ``notebooks/``.
        names: of studies; default: all.
        claims: title and claims by name; default: those of ``analysis/claims/``.
        notebooks: folder of the notebooks' scripts; default: ``analysis/notebooks``.
        live: also the runs of the store.
        root: the store, whose ``config.yaml`` and drawings of the memory are shown; default: where runs are stored.
    """
    source = results or RESULTS
    target = out or source / "report"
    found = gather(source / "studies", names=names, live=live, root=root)
    writer = _Writer(target)
    gallery = pictures(source / "figures")
    for picture in gallery:
        writer.copy(picture.file, picture.source)
    notes, without_notes = pages(target / "notebooks", gallery, notebooks)
    chapters = judge_all(all_claims() if claims is None else claims, found)
    lacks = [*found.lacks, *without_notes]
    if not gallery:
        lacks.append(Lack("there are no figures", "make notebooks"))
    if not chapters:
        lacks.append(Lack("no paper's claims are written down: analysis/claims/ has none"))

    shown = {"chapters": chapters, "titles": {page.name: page.title for page in notes}, "notebooks": notes}
    writer.page("index.html", "index", **shown, lacks=lacks, studies=_with_runs(found))
    table = leaderboard(found.studies)
    writer.page("leaderboard.html", "leaderboard", count=len(table), table=table_html(table))
    writer.page("figures.html", "figures", pictures=gallery)
    _write_studies(writer, found, _folders(root))
    for page in notes:
        writer.page(f"notebooks/{page.name}.html", "notebook", page=page, body=page.body)
    writer.text("verdicts.md", as_markdown(chapters))
    writer.copy("style.css", TEMPLATES / "style.css")
    writer.close()
    return Site(target, writer.files, lacks)


def _with_runs(found: Gathered) -> list[Study]:
    return [study for study in found.studies if len(study.runs) or len(study.bench)]


def _write_studies(writer: _Writer, found: Gathered, folders: Mapping[str, Path]) -> None:
    by_name: dict[str, list[tuple[Study, list[Arm]]]] = {}
    for study in _with_runs(found):
        by_name.setdefault(study.name, []).append((study, arms(study, folders)))
    writer.page("studies.html", "studies", studies=found.studies, broken=found.broken, with_page=set(by_name))
    for name, scales in by_name.items():
        for arm in (arm for _, own in scales for arm in own):
            if arm.picture:
                writer.copy(f"studies/{name}-{arm.anchor}.png", arm.picture)
        writer.page(
            f"studies/{name}.html", "study", name=name, scales=scales, caption=caption, measurements=measurements
        )


def _folders(root: Path | None) -> dict[str, Path]:
    """Where the store has runs, by their id; a torn run is skipped, and named in a warning of its reader."""
    runs = load_results(root)
    return dict(zip(map(str, runs["run_id"]), map(Path, runs["folder"]), strict=True)) if len(runs) else {}


class _Writer:
    """Writes the files of the site, and removes those of an earlier one: what its list names, nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self.list = folder / "files.txt"
        for name in self.list.read_text(encoding="utf-8").splitlines() if self.list.is_file() else ():
            (folder / name).unlink(missing_ok=True)
        self.environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=select_autoescape(["html.j2"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals.update(signs=SIGNS)
        self.environment.filters.update(markdown=_markdown, slug=slug)

    def page(self, path: str, template: str, **values: Any) -> None:
        """A page out of ``<template>.html.j2``; ``top`` leads from it to the top of the site."""
        made = self.environment.get_template(f"{template}.html.j2").render(top="../" * path.count("/"), **values)
        self.text(path, made + "\n")

    def text(self, path: str, text: str) -> None:
        """A file of text."""
        target = self._target(path)
        target.write_text(text, encoding="utf-8")

    def copy(self, path: str, source: Path) -> None:
        """A file from elsewhere."""
        shutil.copyfile(source, self._target(path))

    def close(self) -> None:
        """Writes the list of all files."""
        names = sorted(path.relative_to(self.folder).as_posix() for path in self.files)
        self.list.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

    def _target(self, path: str) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self.files.append(target)
        return target


def _markdown(text: str) -> str:
    """Markdown as HTML; one paragraph as the words within it."""
    made = markdown2html(text).strip()
    alone = made.startswith("<p>") and made.endswith("</p>") and made.count("<p>") == 1
    return made.removeprefix("<p>").removesuffix("</p>") if alone else made
