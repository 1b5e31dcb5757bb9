"""What there is to report on: all studies, and what each lacks. Nothing that is missing or torn stops the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.bench_files import live_bench, read_bench
from analysis.studies import Study, load_study
from analysis.study_files import read_study
from experiments.results import load_jobs, load_results

CONF = Path(__file__).resolve().parents[2] / "conf" / "study"


@dataclass(frozen=True)
class Lack:
    """Something that the report is without."""

    text: str
    """What, as a sentence without its point."""
    command: str = ""
    """What makes it; empty where the sentence says what to do."""
    runs: int = 0
    """How many runs of a study are missing, where it is runs."""


@dataclass
class Gathered:
    """The studies, each at its own scale, and at every other that has runs."""

    studies: list[Study] = field(default_factory=list)
    """In the order of their names."""
    broken: dict[str, str] = field(default_factory=dict)
    """Studies that cannot be read, and why."""
    lacks: list[Lack] = field(default_factory=list)
    """What is missing of all of them."""

    def judged(self) -> dict[str, Study]:
        """The studies that claims are judged by: each at its own scale, and never a quick try at another."""
        return {study.name: study for study in self.studies if study.scale == load_jobs(study.name).scale}


def study_names(folder: Path | None = None) -> list[str]:
    """All studies that there are: names of conf/study, and of the committed folders."""
    names = {path.stem for path in CONF.glob("*.yaml")}
    if folder is not None and folder.is_dir():
        names |= {path.name for path in folder.iterdir() if path.is_dir()}
    return sorted(names)


def gather(
    committed: Path, *, names: Sequence[str] | None = None, live: bool = False, root: Path | None = None
) -> Gathered:
    """Reads all studies.

    Args:
        committed: folder of committed studies.
        names: of studies; default: all.
        live: also the runs of the store.
        root: the store; default: where runs are stored.
    """
    found = Gathered()
    stored = load_results(root).reindex(columns=["study", "scale"]) if live else None
    if not committed.is_dir():
        text = f"there is no folder {committed.name}/ of committed results"
        found.lacks.append(Lack(text, "python -m analysis.collect <study>"))
    for name in study_names(committed) if names is None else names:
        try:
            found.studies += _scales(name, committed, stored, root)
        except ValueError as error:
            found.broken[name] = str(error)
            found.lacks.append(Lack(f"study {name} cannot be read: {error}"))
    found.lacks += _lacks(found.studies)
    return found


def _scales(name: str, committed: Path, stored: pd.DataFrame | None, root: Path | None) -> Iterable[Study]:
    plan = load_jobs(name)
    is_bench = plan.mode == "bench"
    tables = [read_bench(name, committed) if is_bench else read_study(name, committed)["runs"]]
    if stored is not None:
        tables.append(live_bench(name, root) if is_bench else stored[stored["study"] == name])
    scales = sorted({plan.scale, *(str(scale) for table in tables if len(table) for scale in table["scale"])})
    live = stored is not None
    return [load_study(name, scale=scale, live=live, root=root, committed=committed) for scale in scales]


def _lacks(studies: Sequence[Study]) -> Iterable[Lack]:
    for study in studies:
        if len(study.missing):
            done = study.num_jobs - len(study.missing)
            what = "measurements" if study.mode == "bench" else "runs"
            text = f"study {study.name} at scale {study.scale} has {done} of {study.num_jobs} {what}"
            yield Lack(text, study.command, len(study.missing))
