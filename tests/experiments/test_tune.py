"""mode=tune: equal budgets, validation alone, nothing lost when it is killed. The engine here trains nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

import experiments.sweep
from experiments.compose import composer, composing
from experiments.config import RunConfig, build_run_config, build_task, register_resolvers
from experiments.engines import End
from experiments.errors import ConfigError, ExitCode
from experiments.preflight import CONF, as_sweep, check_command_line, groups
from experiments.search import Search, Tried
from experiments.settings import REPOSITORY
from experiments.space import Domain, Range, domains, literal, read_space
from experiments.store import RunFolder, run_folder
from experiments.sweep_job import Job
from experiments.tune import find_searches, run_tune
from tests.experiments.small_runs import TINY, folder_of

PASSKEY = ("task=passkey", "scale=smoke", "logger=none")
RATE = "trainer.learning_rate"

Score = Callable[[RunConfig], float | End | None]


class Killed(BaseException):
    """What SIGKILL does to a tuner, as far as its journal can tell."""


class FakeEngine:
    """Ends each job at once with a score, or as a failure. Jobs are started and ended in order."""

    name = "fake"

    def __init__(self, score: Score, *, places: int = 1, kill_after: int | None = None) -> None:
        self.score, self.places, self.kill_after = score, places, kill_after
        self.started: list[Job] = []
        self.at_once = 0

    def has_room(self, job: Job, running: Sequence[Job]) -> bool:
        return len(running) < self.places

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.started.append(job)
            job.status = "running"

    def ended(self, job: Job) -> End | None:
        self.at_once = max(self.at_once, sum(one.status == "running" for one in self.started))
        if self.kill_after is not None and len(self.started) > self.kill_after:
            raise Killed
        outcome = self.score(job.config)
        if isinstance(outcome, End):
            job.log.write_text(f"{outcome.message}\n")
            return End(outcome.code)
        task = build_task(job.config)
        folder = run_folder(job.config, task.locate())
        with folder.lock():
            folder.begin(job.config)
            metric = task.metric
            folder.write_result(
                {"metric": metric, f"val/{metric}": outcome, f"test/{metric}": 0.98765, "hardware": "a CPU"}
            )
        job.report_file.write_text(json.dumps({"folder": str(folder.path), "state": "ok"}))
        return End(0)

    def interrupt(self, jobs: Sequence[Job], signal_number: int) -> bool:
        return True

    def kill(self, jobs: Sequence[Job]) -> None:
        """There is no process."""

    def close(self) -> None:
        """Nothing is held."""


class Tuning:
    """mode=tune below a folder, without Hydra's program around it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "sweep"

    def overrides(self, *texts: str) -> list[str]:
        own = (f"store.root={self.root}", f"tune.folder={self.root / 'tuned'}", f"data.cache={self.root / 'cache'}")
        return [*own, "mode=tune", *texts]

    def run(self, engine: FakeEngine, *jobs: Sequence[str]) -> int:
        """Exit code of a search for each of the jobs."""
        texts = [self.overrides(*job) for job in jobs]
        configs = [composer().config(job) for job in texts]
        return run_tune(texts, configs, self.folder, lambda *_: engine)

    def search(self, *texts: str) -> Search:
        """The search of one job, to look into."""
        overrides = self.overrides(*texts)
        (search,) = find_searches([overrides], [composer().config(overrides)])
        search.load()
        return search


def values_of(jobs: Sequence[Job]) -> list[list[str]]:
    """What each job sets of the space."""
    return [[text for text in job.overrides if text.startswith(("trainer.", "model."))] for job in jobs]


def quadratic(config: RunConfig) -> float:
    """Best where the learning rate is 0.005."""
    return 1.0 - abs(config.trainer.learning_rate - 0.005)


@pytest.fixture
def tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tuning]:
    monkeypatch.setattr(experiments.sweep, "POLL_SECONDS", 0.0)
    register_resolvers()
    with composing():
        yield Tuning(tmp_path)


# ---- budgets


def test_every_search_gets_the_same_budget_in_turn(tuning: Tuning, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(quadratic)
    models = ("infini", "luna", "memformer")
    assert tuning.run(engine, *[(f"model={model}", *PASSKEY, "tune.trials=3") for model in models]) == ExitCode.OK
    assert [job.config.model.label for job in engine.started] == [*models] * 3, (
        "a variant with more options gets no more"
    )
    assert "[9/9] memformer passkey s0 trial 2: " in capsys.readouterr().out


def test_the_first_trial_is_the_recipe_so_that_tuning_never_loses(tuning: Tuning) -> None:
    engine = FakeEngine(lambda _: 0.5)
    tuning.run(engine, ("model=infini", *PASSKEY, "tune.trials=4"))
    recipe = composer().config(["model=infini", *PASSKEY])
    assert engine.started[0].config.trainer == recipe.trainer
    assert engine.started[0].config.model == recipe.model
    best = tuning.search("model=infini", *PASSKEY).best
    assert best is not None
    assert best.number == 0, "among equals the recipe"


def test_the_best_by_validation_is_chosen(tuning: Tuning) -> None:
    engine = FakeEngine(quadratic)
    tuning.run(engine, ("model=luna", *PASSKEY, "tune.trials=8"))
    best = tuning.search("model=luna", *PASSKEY, "tune.trials=8").best
    assert best is not None
    rates = [job.config.trainer.learning_rate for job in engine.started]
    assert best.values[RATE] == min(rates, key=lambda rate: abs(rate - 0.005)) != rates[0]
    assert all(0.002 / 8 <= rate <= 0.002 * 8 for rate in rates)


def test_a_loss_is_minimised(tuning: Tuning, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "books").mkdir()
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        (tmp_path / "books" / f"{name}.txt").write_text(f"{name} once upon a time. " * 2000)
    job = ("model=luna", "task=lm_text", "scale=smoke", "logger=none", "tune.trials=5")
    engine = FakeEngine(lambda config: config.trainer.learning_rate)
    assert tuning.run(engine, job) == ExitCode.OK
    best = tuning.search(*job).best
    assert best is not None
    assert best.values[RATE] == min(one.config.trainer.learning_rate for one in engine.started)
    assert "(less is better)" in capsys.readouterr().out


def test_a_trial_is_the_mean_over_the_seeds(tuning: Tuning) -> None:
    engine = FakeEngine(lambda config: 0.2 + 0.1 * config.seed)
    jobs = [("model=luna", *PASSKEY, f"seed={seed}", "tune.trials=2") for seed in (0, 2)]
    assert tuning.run(engine, *jobs) == ExitCode.OK
    assert [job.config.seed for job in engine.started] == [0, 2, 0, 2]
    (path,) = (tuning.root / "tune" / "passkey").iterdir()
    with (path / "trials.csv").open() as handle:
        assert [float(row["val/exact_match"]) for row in csv.DictReader(handle)] == pytest.approx([0.3, 0.3])


def test_trials_of_one_search_at_work_at_once_are_limited(tuning: Tuning) -> None:
    engine = FakeEngine(quadratic, places=99)
    tuning.run(engine, ("model=luna", *PASSKEY, "tune.trials=6", "tune.parallel=2"))
    assert (len(engine.started), engine.at_once) == (6, 2)


# ---- the same again


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_serial_search_is_reproducible(tuning: Tuning, tmp_path: Path, sampler: str) -> None:
    job = ("model=infini", *PASSKEY, "tune.trials=8", f"tune.sampler={sampler}")

    def trials(root: str, *more: str) -> list[list[str]]:
        engine = FakeEngine(quadratic)
        Tuning(tmp_path / root).run(engine, (*job, *more))
        return values_of(engine.started)

    one = trials("one")
    assert trials("two") == one
    assert trials("three", "tune.seed=1")[1:] != one[1:]
    assert len({tuple(values) for values in one}) == 8


def test_a_killed_tuner_loses_and_repeats_nothing(tuning: Tuning, tmp_path: Path) -> None:
    job = ("model=infini", *PASSKEY, "tune.trials=8")
    whole = FakeEngine(quadratic)
    Tuning(tmp_path / "whole").run(whole, job)
    started = []
    for kill_after in (3, 2, None):
        engine = FakeEngine(quadratic, kill_after=kill_after)
        if kill_after is None:
            assert tuning.run(engine, job) == ExitCode.OK
            started += values_of(engine.started)
        else:
            with pytest.raises(Killed):
                tuning.run(engine, job)
            started += values_of(engine.started)[:-1]  # the last one was cut off
    assert started == values_of(whole.started), "the same trials as if nothing had happened"


def test_a_trial_that_was_done_meanwhile_is_not_run_again(tuning: Tuning) -> None:
    """The tuner was killed, its job in a queue went on."""
    job = ("model=luna", *PASSKEY, "tune.trials=2")
    with pytest.raises(Killed):
        tuning.run(FakeEngine(quadratic, kill_after=0), job)
    folder = folder_of(composer().config([*tuning.overrides(*job), "mode=train"]))
    folder.path.mkdir(parents=True)
    folder.write_result({"val/exact_match": 0.75})
    engine = FakeEngine(quadratic)
    assert tuning.run(engine, job) == ExitCode.OK
    assert len(engine.started) == 1
    assert next(trial.score for trial in tuning.search(*job).tried()) == 0.75


def test_more_trials_go_on_where_it_ended(tuning: Tuning) -> None:
    for trials, new in ((2, 2), (5, 3), (5, 0), (3, 0)):
        engine = FakeEngine(quadratic)
        assert tuning.run(engine, ("model=luna", *PASSKEY, f"tune.trials={trials}")) == ExitCode.OK
        assert len(engine.started) == new
    assert len(list((tuning.root / "tune" / "passkey").iterdir())) == 1


def test_force_starts_over_and_runs_that_are_done_stay_done(tuning: Tuning) -> None:
    job = ("model=luna", *PASSKEY, "tune.trials=3")
    tuning.run(FakeEngine(quadratic), job)
    engine = FakeEngine(quadratic)
    tuning.run(engine, (*job, "force=true"))
    assert engine.started == []
    assert len(tuning.search(*job).tried()) == 3


def test_a_torn_journal_is_mended(tuning: Tuning) -> None:
    job = ("model=luna", *PASSKEY, "tune.trials=3")
    with pytest.raises(Killed):
        tuning.run(FakeEngine(quadratic, kill_after=1), job)
    (path,) = (tuning.root / "tune" / "passkey").iterdir()
    journal = path / "journal.log"
    content = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(content[:-1]) + content[-1][:10])  # killed while it wrote what it had drawn
    os.symlink("nowhere", path / "journal.log.lock")
    assert tuning.run(FakeEngine(quadratic), job) == ExitCode.OK
    assert len(tuning.search(*job).tried()) == 3


def test_another_space_seed_or_setting_is_another_search(tuning: Tuning) -> None:
    base = ("model=luna", *PASSKEY)
    others = [(), ("tune.seed=1",), ("tune.sampler=random",), ("tune.space.trainer.weight_decay=null",), ("seed=1",)]
    others += [("trainer.steps=19",), ("backbone.width=64",), ("model=luna_shared",)]
    assert len({tuning.search(*base, *more).folder for more in others}) == len(others)
    same = ("tune.trials=3", "tune.parallel=1", "trainer.threads=2", "logger=none")
    assert {tuning.search(*base, text).folder for text in same} == {tuning.search(*base).folder}


def test_one_process_at_a_search(tuning: Tuning) -> None:
    job = ("model=luna", *PASSKEY)
    with (
        RunFolder(tuning.search(*job).folder).lock(),
        pytest.raises(ConfigError, match=r"^search luna passkey: .*already running"),
    ):
        tuning.run(FakeEngine(quadratic), job)


# ---- failures


def test_failures_count_in_the_budget_with_their_reason(tuning: Tuning, capsys: pytest.CaptureFixture[str]) -> None:
    def score(config: RunConfig) -> float | End | None:
        if config.trainer.learning_rate == 0.002:
            return End(1, "the loss is no number at step 3")
        return None if config.trainer.learning_rate > 0.002 else 0.5

    job = ("model=luna", *PASSKEY, "tune.trials=8")
    engine = FakeEngine(score)
    assert tuning.run(engine, job) == ExitCode.OK
    assert len(engine.started) == 8
    out = capsys.readouterr().out
    tried = tuning.search(*job).tried()
    assert tried[0].reason == "the loss is no number at step 3"
    assert {trial.reason for trial in tried if trial.score is None} == {tried[0].reason, "val/exact_match is no number"}
    failed = sum(trial.score is None for trial in tried)
    assert f"failed  0.5000  8 of 8       {failed}" in out
    assert out.count("failed: luna passkey trial ") == failed
    assert "failed: luna passkey trial 0 (trainer.learning_rate=0.002 trainer.weight_decay=0.01): the loss is" in out


def test_where_all_fail_the_exit_code_tells(tuning: Tuning, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(lambda _: End(3, "out of memory"))
    assert tuning.run(engine, ("model=luna", *PASSKEY, "tune.trials=2")) == ExitCode.FAILED
    assert "every trial of luna passkey failed; force=true starts its search over" in capsys.readouterr().out
    assert not (tuning.root / "tuned").exists()
    again = FakeEngine(lambda _: 0.5)
    assert tuning.run(again, ("model=luna", *PASSKEY, "tune.trials=2")) == ExitCode.FAILED
    assert again.started == []


def test_a_seed_that_fails_ends_its_trial(tuning: Tuning) -> None:
    engine = FakeEngine(lambda config: End(1, "no") if config.seed == 0 else 0.5)
    jobs = [("model=luna", *PASSKEY, f"seed={seed}", "tune.trials=2") for seed in (0, 1, 2)]
    assert tuning.run(engine, *jobs) == ExitCode.FAILED
    assert 2 not in [job.config.seed for job in engine.started], "one was waiting for its start already, no more"


def test_a_run_of_another_process_is_left_for_the_next_time(tuning: Tuning, capsys: pytest.CaptureFixture[str]) -> None:
    job = ("model=luna", *PASSKEY, "tune.trials=2", "tune.parallel=1")
    cut = FakeEngine(lambda config: End(143) if config.trainer.learning_rate == 0.002 else 0.5)
    assert tuning.run(cut, job) == ExitCode.FAILED
    assert "not written: luna passkey lacks 1 trials; the same command goes on" in capsys.readouterr().out
    engine = FakeEngine(lambda _: 0.5)
    assert tuning.run(engine, job) == ExitCode.OK
    assert values_of(engine.started) == values_of(cut.started[:1])


# ---- validation alone


class Sealed(dict[str, Any]):
    """A result whose test numbers nobody may look at."""

    def __getitem__(self, key: str) -> Any:
        assert not key.startswith("test/")
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        assert not key.startswith("test/")
        return super().get(key, default)

    def _closed(self, *_: object) -> Any:
        raise AssertionError("everything is read, test numbers too")

    items = values = __iter__ = _closed


def test_no_test_number_is_read_or_shown(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = RunFolder.result
    job = ("model=luna", *PASSKEY, "tune.trials=2")
    monkeypatch.setattr(RunFolder, "result", lambda self: (lambda found: found and Sealed(found))(original(self)))
    assert tuning.run(FakeEngine(lambda _: 0.25), job) == ExitCode.OK
    assert tuning.run(FakeEngine(lambda _: 0.25), (*job, "force=true")) == ExitCode.OK  # skips what is done
    out = capsys.readouterr().out
    files = [path.read_text() for path in tuning.folder.iterdir()] + [
        (tuning.root / "tuned/passkey/luna.yaml").read_text()
    ]
    for text in (out, *files):
        assert not re.search(r"(?<!py)test/", text)
        assert "0.98765"[:5] not in text
    lines = out.splitlines()
    header = next(index for index, line in enumerate(lines) if line.startswith("variant"))
    assert lines[header].split()[:5] == ["variant", "task", "data", "validation", "recipe"]
    assert lines[header + 2].split()[3:6] == ["val/exact_match", "0.2500", "0.2500"]


# ---- what is written


def written(tuning: Tuning, *texts: str, best: dict[str, Any]) -> Path:
    """A file as a finished search writes it."""
    from experiments.tuned import write_tuned

    search = tuning.search(*texts)
    model = next(text[6:] for text in texts if text.startswith("model="))
    return write_tuned(search, Tried(0, best, 0.5, "", "a CPU", "abc"), model=model)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of conf/ to write into."""
    return Path(shutil.copytree(CONF, tmp_path / "conf"))


def tuned(conf: Path, *texts: str) -> RunConfig:
    """Settings composed from a copy of conf/."""
    with initialize_config_dir(str(conf), version_base="1.3", job_name="run"):
        return build_run_config(compose("config", [*texts, "recipe=tuned"]))


def test_each_scale_has_its_values_and_the_command_line_wins(tmp_path: Path, conf: Path) -> None:
    register_resolvers()
    where = f"tune.folder={conf / 'recipe' / 'tuned'}"
    rate, decay = RATE, "trainer.weight_decay"
    with composing():
        tuning = Tuning(tmp_path)
        smoke = {rate: 0.0123, decay: 0.0, "model.gate_init": 1.0, "model.gate_lr_scale": 30.5}
        written(tuning, "model=infini_delta", "task=passkey", "scale=smoke", where, best=smoke)
        no_gate = "tune.space.model=null"
        laptop = {rate: 0.0045, decay: 0.1}
        path = written(tuning, "model=infini_delta", "task=passkey", "scale=laptop", where, no_gate, best=laptop)
    assert path == conf / "recipe" / "tuned" / "passkey" / "infini_delta.yaml"
    words = ("model=infini_delta", "task=passkey")
    small, large = tuned(conf, *words, "scale=smoke"), tuned(conf, *words, "scale=laptop")
    assert (small.trainer.learning_rate, small.trainer.weight_decay) == (0.0123, 0.0)
    assert (small.model.options.gate_init, small.model.options.gate_lr_scale) == (1.0, 30.5)
    assert (large.trainer.learning_rate, large.trainer.weight_decay) == (0.0045, 0.1)
    assert (large.model.options.gate_init, large.model.options.gate_lr_scale) == (0.0, 1.0), "the recipe's, at laptop"
    assert tuned(conf, *words, f"{rate}=0.5").trainer.learning_rate == 0.5
    with pytest.raises(ConfigError) as caught:
        tuned(conf, *words, "scale=paper")
    what = "model=infini_delta task=passkey scale=paper"
    assert str(caught.value) == (
        f"recipe=tuned: nothing is tuned for {what}; this does it: python run.py {what} mode=tune"
    )


def test_a_written_file_tells_how_it_came_about(tmp_path: Path, tuning: Tuning) -> None:
    job = ("model=luna", *PASSKEY, "trainer.steps=19")
    jobs = [(*job, f"seed={seed}", "tune.trials=2") for seed in (0, 1)]
    tuning.run(FakeEngine(lambda _: 0.25), *jobs)
    lines = (tmp_path / "tuned" / "passkey" / "luna.yaml").read_text().splitlines()
    assert lines[:2] == ["# @package _global_", "# python run.py model=luna task=passkey scale=smoke recipe=tuned"]
    command = "python run.py -m model=luna task=passkey scale=smoke seed=0,1 mode=tune trainer.steps=19 tune.trials=2"
    assert lines[4:7] == [
        f"  # {command}",
        "  # 2 trials (0 failed), mean over seeds 0, 1: val/exact_match 0.2500, of the recipe 0.2500",
        "  # data generated; a CPU; commit unknown",
    ]


def test_two_searches_never_write_the_same_file(tuning: Tuning, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [("model=luna", *PASSKEY, f"backbone.width={width}", "tune.trials=1") for width in (32, 64)]
    assert tuning.run(FakeEngine(quadratic), *jobs) == ExitCode.OK
    out = capsys.readouterr().out
    assert "not written: luna passkey backbone.width=64 shares its file with another search of this command" in out
    assert not (tuning.root / "tuned").exists()


def test_a_file_of_somebody_else_is_left_alone(tuning: Tuning, capsys: pytest.CaptureFixture[str]) -> None:
    path = tuning.root / "tuned" / "passkey" / "luna.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("tuned: {smoke: {trainer: {learning_rate: 1.0}}}\n")
    tuning.run(FakeEngine(quadratic), ("model=luna", *PASSKEY, "tune.trials=1"))
    assert f"not written: luna passkey: {path} was not written by mode=tune: move it away" in capsys.readouterr().out


# ---- the space


def test_a_range_holds_the_configured_value() -> None:
    assert Range("model.x", times=(0.5, 2.0)).around(0.1) == Domain(0.1, low=0.05, high=0.2, log=True)
    assert Range("model.x", low=1.0, high=2.0).around(4.0) == Domain(4.0, low=1.0, high=4.0)
    assert Range("model.x", low=1, high=8, log=True).around(2) == Domain(2, low=1, high=8, log=True, whole=True)
    assert Range("model.x", choices=("a", None)).around("b").choices == ("b", "a", None)
    assert Range("model.x", choices=(1, 2)).around(2).choices == (1, 2)


def test_drawn_numbers_are_short_and_stay_inside() -> None:
    domain = Domain(0.123456, low=0.1000049, high=0.5, log=True)
    assert [domain.rounded(value) for value in (0.123456, 0.1234567, 0.100005)] == [0.123456, 0.1235, 0.1000049]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1, "1"),
        (0.002, "0.002"),
        ("conv", "conv"),
        ("32", "'32'"),
        ("it's", r"'it\'s'"),
    ],
)
def test_values_are_written_as_the_command_line_reads_them(value: Any, text: str) -> None:
    from experiments.compose import parse

    assert literal(value) == text
    read = parse(f"key={text}").value()
    assert (getattr(read, "text", read)) == value


def test_sections_may_be_nested_or_dotted_and_taken_out() -> None:
    space = {"trainer": {"learning_rate": {"times": [0.5, 2]}, "weight_decay": None}, "model.x": {"choices": [1]}}
    assert list(read_space(space)) == ["trainer.learning_rate", "model.x"]


@pytest.mark.parametrize("path", sorted((CONF / "tune").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_variants_own_space_fits_it(path: Path) -> None:
    assert path.stem in groups()["model"]
    (config,) = check_command_line([f"model={path.stem}", "task=lra_text", "scale=smoke", "mode=tune"])
    own = [key for key in domains(config) if key.startswith("model.")]
    assert own
    (other,) = check_command_line(["model=luna", "task=lra_text", "scale=smoke", "mode=tune"])
    assert [*domains(other), *own] == [*domains(config)]


MISTAKES = {
    "mode=tune tune.trials=0": "tune.trials=0: must be at least 1",
    "mode=tune tune.parallel=0": "tune.parallel=0: must be at least 1",
    "mode=tune tune.sampler=grid": "unknown tune.sampler 'grid': There are: random, tpe",
    "mode=tune tune.trails=3": "unknown key in tune 'trails': did you mean 'trials'?",
    "mode=tune tune.space.trainer=null": "tune.space is empty: there is nothing to tune",
    "mode=tune tune.space.trainer.weight_decay.choices=[]": "tune.space.trainer.weight_decay.choices=(): must name",
    "mode=tune tune.space.trainer.weight_decay.choices=0.1": "tune.space.trainer.weight_decay.choices=0.1: expected a",
    "mode=tune tune.space.trainer.weight_decay.choices=[0.1,2.0]": "tune.space.trainer.weight_decay: "
    "trainer.weight_decay=2.0: must lie in [0, 1]",
    "mode=tune tune.space.trainer.learning_rate.times=[1,1000]": "tune.space.trainer.learning_rate: "
    "trainer.learning_rate=2.0: must lie in (0, 1]",
    "mode=tune tune.space.trainer.learning_rate.times=[2,4]": "tune.space.trainer.learning_rate.times=(2, 4): two",
    "mode=tune +tune.space.trainer.learning_rate.low=1e-4": "tune.space.trainer.learning_rate: give one of",
    "mode=tune tune.space.trainer.learning_rate=0.1": "tune.space.trainer.learning_rate=0.1: expected {choices",
    "mode=tune +tune.space.trainer.beta3.choices=[1]": "tune.space.trainer.beta3: unknown key in trainer 'beta3'",
    "mode=tune +tune.space.model.fam_len.choices=[1]": "tune.space.model.fam_len: unknown key in model 'fam_len'",
    "mode=tune model=fam +tune.space.model.fam_len.choices=[9999]": "tune.space.model.fam_len: model.fam_len=9999",
    "mode=tune +tune.space.backbone.width.choices=[33]": "tune.space.backbone.width: backbone.width=33 is not",
    "mode=tune +tune.space.backbone.dropout={low:0.5,high:0.1}": "tune.space.backbone.dropout.high=0.1: must be",
    "mode=tune +tune.space.backbone.dropout={low:0,high:0.1,log:true}": "tune.space.backbone.dropout.low=0: must be",
    "mode=tune +tune.space.backbone.dropout={times:[0.5,2]}": "tune.space.backbone.dropout: needs a number above 0",
    "mode=tune +tune.space.task.level.choices=[byte]": "tune.space.task.level: only settings of model,",
    "mode=tune +tune.space.trainer.threads.choices=[2]": "tune.space.trainer.threads: has no effect on what",
    "mode=tune bench.batch_size=2": "bench.batch_size=2 has no effect with mode=tune: it is for mode=bench",
    "tune.trials=3": "tune.trials=3 has no effect with mode=train: it is for mode=tune",
    "mode=plan tune.trials=3": "tune.trials=3 has no effect with mode=plan: it is for mode=tune",
    "-m mode=tune tune.trials=3,4": "tune.trials=3,4: one tune.trials at a time",
    "mode=tune model=fam,luna": "model=fam,luna: several values need -m",
    "-m mode=tune model=fam,famm": "unknown model 'famm'",
    "mode=tune run=ab": "run=ab has no effect with mode=tune",
    "model=fam recipe=tuned task=passkey scale=paper": "recipe=tuned: nothing is tuned for model=fam task=passkey "
    "scale=paper; this does it: python run.py model=fam task=passkey scale=paper mode=tune",
    "recipe=tund": "unknown recipe 'tund': did you mean 'tuned'? There are: default, tuned",
    "+tuned.x=1": "+tuned.x=1: what mode=tune has found is read-only here",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_clear_line(command: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(command.split())
    assert str(caught.value).startswith(MISTAKES[command])
    assert "\n" not in str(caught.value)


def test_a_search_is_a_sweep_also_without_m() -> None:
    words = ["model=luna", "task=passkey", "scale=smoke", "mode=tune"]
    configs = check_command_line(words)
    assert as_sweep(words, configs) == [*words, "--multirun"]
    assert check_command_line([*words, "hydra/launcher=submitit_local"]) == configs
    assert as_sweep(["-m", *words], configs) == ["-m", *words]
    assert as_sweep([*words, "--cfg", "job"], configs) == [*words, "--cfg", "job"]
    assert as_sweep(words[:3], check_command_line(words[:3])) == words[:3]
    assert as_sweep(["--help"], check_command_line(["--help"])) == ["--help"]


# ---- from the command to the rerun


@pytest.mark.timeout(900)
def test_two_variants_are_tuned_and_run_with_what_was_found(tmp_path: Path) -> None:
    for room in ("conf", "data", "experiments", "models"):
        shutil.copytree(REPOSITORY / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "run.py", tmp_path)
    env = {**os.environ, "MEMATTN_RESULTS": str(tmp_path / "results")}
    steps = ("trainer.steps=4", "trainer.val_every=4", "task.eval_factors=[1]", "task.eval_depths=[0.5]")
    words = ("-m", "model=fam_gated,luna", "task=passkey", *TINY, *steps)

    def run_py(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "run.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    missing = run_py(*words, "recipe=tuned")
    assert missing.returncode == ExitCode.USER_ERROR
    assert missing.stderr.startswith(
        "error: recipe=tuned: nothing is tuned for model=fam_gated task=passkey scale=smoke"
    )
    done = run_py(*words, "mode=tune", "tune.trials=3")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("fam_gated ", "luna "))]
    assert [row[:4] for row in rows] == [
        ["fam_gated", "passkey", "generated", "val/exact_match"],
        ["luna", "passkey", "generated", "val/exact_match"],
    ]
    for name in ("fam_gated", "luna"):
        assert (tmp_path / "conf" / "recipe" / "tuned" / "passkey" / f"{name}.yaml").exists()
    again = run_py(*words, "mode=tune", "tune.trials=3")
    assert "3 of 3" in again.stdout
    assert "started" not in again.stdout
    planned = run_py(*words, "recipe=tuned", "mode=plan")
    assert "0 of 2 to run" in planned.stdout, "the best trial is the run that the tuned recipe names"
    rerun = run_py(*words, "recipe=tuned")
    assert rerun.returncode == ExitCode.OK, rerun.stderr
    assert rerun.stdout.count("done before, test/exact_match") == 2
    shown = run_py("model=fam_gated", "task=passkey", "scale=smoke", "recipe=tuned", "--cfg", "job", "--resolve")
    assert "random_state_passing: " in shown.stdout.partition("tuned:")[2]
