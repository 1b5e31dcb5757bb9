"""``mode=tune``: better values for each variant, on equal budgets and by validation alone.

Everything that a sweep varies but the seed is a search of its own (search.py), and all searches get the same number of
trials. A trial is ordinary runs, one for each seed, that differ from the recipe in the values of ``tune.space``; the
store skips and resumes them like any other. The first trial is the recipe itself, so that a search never ends below it.
Numbers of the test split are in the runs' results, and nothing here reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from experiments.compose import parse
from experiments.config import RunConfig, build_task, find_data
from experiments.errors import ConfigError, ExitCode, LockedError, StoreError, first_line
from experiments.search import Search, Trial
from experiments.space import assignment
from experiments.store import RunFolder
from experiments.sweep import Sweep
from experiments.sweep_job import ENDED_WELL, Job, varied_settings

if TYPE_CHECKING:
    from experiments.engines import Engine

#: What a label shows already, or each search has of its own.
_LABELS = ("model", "task", "+study")

#: Overrides of the search as a whole, that its trials do not inherit.
_OF_THE_SEARCH = ("mode", "force", "seed", "tune")


@dataclass
class TrialJob(Job):
    """A run of a trial, that speaks of its validation score."""

    metric: str = ""
    """``val/<headline>``."""

    def describe(self, result: Mapping[str, Any]) -> str:
        """The validation score."""
        score = result.get(self.metric)
        return f"{self.metric} {score:.4f}" if isinstance(score, float | int) else f"{self.metric} unknown"

    def result(self) -> Mapping[str, Any]:
        """What the run has stored, empty without a result that can be read."""
        folder = self.run_folder()
        try:
            return (folder.result() if folder else None) or {}
        except StoreError as error:
            return {"problem": str(error)}

    def last_line(self) -> str:
        """The last line that the process printed; of one that ended well it would be about the test split."""
        if self.status in ENDED_WELL:
            return f"{self.title}  {self.describe(self.result())}"
        return super().last_line()


class Tuner:
    """A supply (experiments/sweep.py) that asks Optuna for jobs, and tells how they ended.

    Whichever search has had the fewest runs comes next, so that none waits for another.
    """

    def __init__(self, searches: Sequence[Search], folder: Path) -> None:
        self.searches, self.folder = searches, folder
        self.jobs: list[TrialJob] = []
        self._trials: dict[int, tuple[Search, Trial]] = {}
        self.total = sum(search.missing * len(search.configs) for search in searches)

    def take(self) -> TrialJob | None:
        """The next run that may start; None: only when others have ended."""
        search = min((one for one in self.searches if one.is_ready), key=lambda one: one.handed, default=None)
        if search is None:
            return None
        trial, config = search.take()
        number = len(self.jobs) + 1
        overrides = [*search.overrides(trial.values), f"seed={config.seed}"]
        values = " ".join(assignment(key, value) for key, value in trial.values.items())
        settings = " ".join(part for part in (search.settings, f"trial {trial.number}:", values) if part)
        job = TrialJob(number, self.total, self.folder, overrides, config, settings, metric=search.metric)
        self.jobs.append(job)
        self._trials[number] = search, trial
        return job

    @property
    def is_exhausted(self) -> bool:
        """Whether every trial was handed out."""
        return all(search.is_exhausted for search in self.searches)

    def ended(self, job: Job) -> None:
        """Tells Optuna."""
        search, trial = self._trials[job.number]
        if job.status in ENDED_WELL:
            assert isinstance(job, TrialJob)
            if trial in search.open:
                search.scored(trial, job.result())
        elif job.status in ("failed", "out of memory"):
            search.failed(trial, job.message or job.status)
        else:
            search.leave(trial)


def run_tune(
    job_overrides: Sequence[Sequence[str]],
    configs: Sequence[RunConfig],
    folder: Path,
    make_engine: Callable[[Sequence[RunConfig], Path], Engine],
) -> int:
    """Searches for better values for every setting of a command line, and writes down those that are best.

    Args:
        job_overrides: a list of overrides for each job of the sweep.
        configs: the same, typed.
        folder: of the sweep.
        make_engine: called with the settings of as many runs as there will be, and the folder.

    Returns:
        The exit code: 0 when every search has had its trials and one of them a score.

    Raises:
        ConfigError: data are missing, or another process is at the same search.
    """
    from experiments.tuned import conclude

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searches = find_searches(job_overrides, configs)
    with ExitStack() as stack:
        for search in searches:
            try:
                stack.enter_context(RunFolder(search.folder).lock())
            except LockedError as error:
                raise ConfigError(f"search {search.label}: {error}") from error
            search.load()
        tuner = Tuner(searches, folder)
        runs = [one for search in searches for one in search.configs * search.missing]
        engine = make_engine(runs or configs, folder)
        written: list[bool] = []
        sweep = Sweep(tuner, engine, folder, conclude=lambda *_: written.append(conclude(searches, folder)))
        code = sweep.run()
    if code in (ExitCode.OK, ExitCode.FAILED):  # a trial may fail, a search may not
        return ExitCode.OK if all(written) else ExitCode.FAILED
    return code


def find_searches(job_overrides: Sequence[Sequence[str]], configs: Sequence[RunConfig]) -> list[Search]:
    """What differs in more than the seed, in the order of the command line.

    Raises:
        ConfigError: there are no data.
    """
    found: dict[tuple[str, ...], list[RunConfig]] = {}
    for overrides, config in zip(job_overrides, configs, strict=True):
        recipe = tuple(text for text in overrides if parse(text).key_or_group.partition(".")[0] not in _OF_THE_SEARCH)
        found.setdefault(recipe, []).append(config)
    settings = varied_settings(list(found), _LABELS)
    try:
        sources = [find_data(seeds[0], build_task(seeds[0])) for seeds in found.values()]
    except (ValueError, OSError) as error:
        raise ConfigError(first_line(error)) from error
    said = [text for text in job_overrides[0] if parse(text).key_or_group.partition(".")[0] == "tune"]
    searches = []
    for (recipe, seeds), source, varied in zip(found.items(), sources, settings, strict=True):
        searches.append(Search(recipe, seeds, source, settings=varied, said=said))
    return searches
