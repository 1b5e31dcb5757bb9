"""One search of ``mode=tune``: the trials of one setting, asked of Optuna and told to it, and kept in its journal.

    results/tune/<task>/<model>-<hash>/
        journal.log   Optuna's journal: what was asked and told       trials.csv   the same for people

The hash holds all that makes the search this search. A process that is killed leaves trials at work in the journal; the
next one takes them up with the values that they have. What is drawn depends on the seed of the sampler, the number of
the trial and what is told by then, and not on how often the search was cut off.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from experiments.compose import composer, parse
from experiments.config import RunConfig, build_task
from experiments.identity import HASH_DIGITS, Source, identify
from experiments.space import Domain, Value, assignment, domains, is_number

#: Random trials before the sampler draws near what did well.
_STARTUP_TRIALS = 5


@dataclass
class Trial:
    """One set of values at work."""

    number: int
    """Optuna's."""
    values: Mapping[str, Value]
    """By key."""
    waiting: deque[RunConfig]
    """Its runs that have not been started."""
    scores: list[float] = field(default_factory=list)
    """Validation scores of those that have ended."""


@dataclass(frozen=True)
class Tried:
    """One trial that is done."""

    number: int
    """Place in the journal."""
    values: Mapping[str, Value]
    """By key."""
    score: float | None
    """Mean validation score of its seeds; None: it failed."""
    reason: str
    """Why it failed."""
    hardware: str
    """Where its last run was computed."""
    git_sha: str
    """The code of its last run."""


class Search:
    """The trials of one setting.

    Args:
        recipe: overrides of the setting, without a seed.
        configs: the same typed, one for each seed.
        source: the data.
        settings: what other than the variant and the task tells this search from the others.
        said: overrides of the search itself (``tune.trials=32``), the same for all.
    """

    def __init__(
        self,
        recipe: Sequence[str],
        configs: Sequence[RunConfig],
        source: Source,
        *,
        settings: str = "",
        said: Sequence[str] = (),
    ) -> None:
        self.recipe, self.configs, self.source = tuple(recipe), tuple(configs), source
        self.settings, self.said = settings, tuple(said)
        self.config, self.tune = configs[0], configs[0].tune
        task = build_task(self.config)
        self.metric, self.larger_is_better = f"val/{task.metric}", task.larger_is_better
        self.domains: Mapping[str, Domain] = domains(self.config)
        name = f"{self.config.model.label}-{self._hash()}"
        self.folder = self.config.store.folder / "tune" / self.config.task.name / name
        self.open: list[Trial] = []  # at work, oldest first
        self.handed = 0  # runs, those of earlier processes included
        self._asked = 0
        self._cut: deque[FrozenTrial] = deque()  # at work when an earlier process was stopped

    @property
    def label(self) -> str:
        """``fam passkey``."""
        return " ".join(part for part in (self.config.model.label, self.config.task.name, self.settings) if part)

    @property
    def values_of_recipe(self) -> dict[str, Value]:
        """What the recipe says."""
        return {key: domain.configured for key, domain in self.domains.items()}

    def _hash(self) -> str:
        """Digest of all that makes the search this search; more trials continue it."""
        facts = {
            "settings": identify(self.config, self.source).config_hash,
            "seeds": [config.seed for config in self.configs],
            "space": {key: repr(domain) for key, domain in self.domains.items()},
            "sampler": [self.tune.sampler, self.tune.seed],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:HASH_DIGITS]

    def load(self) -> None:
        """Opens the journal. Call it while the folder is locked."""
        self.folder.mkdir(parents=True, exist_ok=True)
        journal = self.folder / "journal.log"
        for lock in self.folder.glob("journal.log.lock*"):  # Optuna's own, of a process that was killed
            lock.unlink()
        if self.config.force:
            journal.unlink(missing_ok=True)
        _mend(journal)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            sampler=_sampler(self.tune.sampler, self.tune.seed),
            study_name="search",
            direction="maximize" if self.larger_is_better else "minimize",
            load_if_exists=True,
        )
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if set(trial.params) == set(self.domains):
                self._cut.append(trial)
            else:  # stopped while it was drawn: nobody has seen it
                self.study.tell(trial.number, state=TrialState.FAIL)
        self._asked = len(self.tried()) + len(self._cut)
        self.handed = len(self.tried()) * len(self.configs)
        if not self._asked and not self.study.get_trials(states=(TrialState.WAITING,)):
            self.study.enqueue_trial(self.values_of_recipe)

    def tried(self) -> list[Tried]:
        """All trials that are done, in the order of the journal."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        notes = self.study.user_attrs
        return [
            Tried(trial.number, self._rounded(trial.params), trial.value, **notes[str(trial.number)])
            for trial in done
            if str(trial.number) in notes
        ]

    @property
    def best(self) -> Tried | None:
        """The best by validation; the earliest among equals, which puts the recipe first."""
        scored = [trial for trial in self.tried() if trial.score is not None]
        sign = 1.0 if self.larger_is_better else -1.0
        return max(scored, key=lambda trial: sign * (trial.score or 0.0), default=None)

    @property
    def missing(self) -> int:
        """Trials that are not done."""
        return max(len(self._cut) + len(self.open), self.tune.trials - len(self.tried()))

    @property
    def is_exhausted(self) -> bool:
        """Whether no run will come any more."""
        return not (self._cut or self._asked < self.tune.trials or any(trial.waiting for trial in self.open))

    @property
    def is_ready(self) -> bool:
        """Whether a run can come now."""
        may_ask = (self._cut or self._asked < self.tune.trials) and len(self.open) < self.tune.parallel
        return bool(may_ask or any(trial.waiting for trial in self.open))

    def take(self) -> tuple[Trial, RunConfig]:
        """The next run of a trial at work, else of a new one. Call it where ``is_ready``."""
        trial = next((trial for trial in self.open if trial.waiting), None) or self._ask()
        self.handed += 1
        return trial, trial.waiting.popleft()

    def _ask(self) -> Trial:
        if self._cut:
            cut = self._cut.popleft()
            number, params = cut.number, cut.params
        else:
            self.study.sampler = _sampler(self.tune.sampler, zlib.crc32(f"{self.tune.seed}/{self._asked}".encode()))
            asked = self.study.ask({key: _distribution(domain) for key, domain in self.domains.items()})
            number, params = asked.number, asked.params
            self._asked += 1
        values = self._rounded(params)
        config = composer().config(self.overrides(values))
        waiting = deque(replace(config, seed=one.seed) for one in self.configs)
        self.open.append(Trial(number, values, waiting))
        return self.open[-1]

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """The command of a trial, without a seed."""
        kept = [text for text in self.recipe if parse(text).key_or_group not in values]
        return [*kept, "mode=train", *(assignment(key, value) for key, value in values.items())]

    def scored(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Told of a run of a trial that has ended with a result."""
        score = result.get(self.metric)
        if not is_number(score):
            self.failed(trial, f"{self.metric} is no number")
            return
        trial.scores.append(float(score))  # type: ignore[arg-type]
        if len(trial.scores) == len(self.configs):
            facts = {key: str(result.get(key) or "") for key in ("hardware", "git_sha")}
            self._tell(trial, sum(trial.scores) / len(trial.scores), reason="", **facts)

    def failed(self, trial: Trial, reason: str) -> None:
        """Told of a run of a trial that has failed; the others are not needed any more."""
        if trial in self.open:
            self._tell(trial, None, reason=reason, hardware="", git_sha="")

    def leave(self, trial: Trial) -> None:
        """A run of a trial was cut off: it stays at work in the journal, and the next process takes it up."""
        if trial in self.open:
            self.open.remove(trial)

    def _tell(self, trial: Trial, score: float | None, **note: str) -> None:
        self.open.remove(trial)
        self.study.set_user_attr(str(trial.number), note)
        if score is None:
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, score)

    def _rounded(self, params: Mapping[str, Any]) -> dict[str, Value]:
        return {key: domain.rounded(params[key]) for key, domain in self.domains.items()}


def _sampler(name: str, seed: int) -> BaseSampler:
    if name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.choices is not None:
        return CategoricalDistribution(domain.choices)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _mend(journal: Path) -> None:
    """Cuts off a last line that a killed process has written half of."""
    if journal.exists():
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            journal.write_bytes(content[: content.rfind(b"\n") + 1])
