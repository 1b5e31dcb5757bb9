"""Composing many jobs at once gives what Hydra gives for each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.compose import Composer, composer, composing, groups
from experiments.config import build_run_config
from experiments.errors import ConfigError
from experiments.identity import MissingSource, identify
from experiments.preflight import check_command_line
from experiments.studies import StudyJob, _names, config_hash, scaled_down, study_plan

JOBS = [
    [],
    ["seed=3"],
    ["model=fam", "seed=1"],
    ["model=fam", "seed=2"],
    ["model=fam", "trainer.learning_rate=1e-3", "seed=2"],
    ["trainer.steps=40", "trainer.warmup_steps=4", "task=memory_ops", "scale=smoke"],  # the task reads trainer.steps
    ["model=luna", "task=passkey", "scale=smoke", "backbone.width=64", "model.memory_len=3"],
    ["model=luna", "+study=overview", "task=passkey"],
    ["task=passkey", "scale=smoke", "task.eval_factors=[1,2]"],
    ["task=mqar", "scale=smoke", "task.train_cells=[{seq_len: 16, num_kv_pairs: 2}]"],
    ["logger=none", "trainer.clip_norm=null"],
    ["seed=-0"],
]


@pytest.mark.parametrize("overrides", JOBS, ids=lambda overrides: " ".join(overrides) or "nothing")
def test_a_composed_job_is_hydras(overrides: Sequence[str]) -> None:
    composer = Composer()
    with composing():
        for _ in range(2):  # the second time from memory
            assert composer.config(overrides) == build_run_config(compose("config", list(overrides)))


def test_jobs_that_share_much_do_not_mix_up() -> None:
    composer = Composer()
    with composing():
        for overrides in (*JOBS, *reversed(JOBS)):
            assert composer.config(overrides) == build_run_config(compose("config", list(overrides)))


@pytest.mark.parametrize(
    "overrides", [["trainer.stepz=3"], ["model=nothing"], ["seed=many"], ["seed=-1"], ["trainer.steps=0", "seed=1"]]
)
def test_a_mistake_is_an_error_as_hydras(overrides: list[str]) -> None:
    with composing(), pytest.raises((HydraException, OmegaConfBaseException, ConfigError)):
        Composer().config(overrides)


def test_a_large_sweep_is_typed_job_by_job() -> None:
    arguments = ["-m", "model=fam,luna", "scale=smoke", "trainer.learning_rate=1e-3,2e-3", "seed=range(0,50)"]
    configs = check_command_line(arguments)
    assert len(configs) == 200
    assert [config.seed for config in configs[:3]] == [0, 1, 2]
    assert {config.trainer.learning_rate for config in configs} == {1e-3, 2e-3}
    assert len({id(config.trainer) for config in configs}) == 2, "what is equal is shared"


def test_a_study_has_the_jobs_that_its_sweep_runs() -> None:
    plan = study_plan("overview")
    configs = check_command_line(plan.command.split()[2:])
    assert [(job.variant, job.task, job.seed) for job in plan.jobs] == [
        (config.model.label, config.task.name, config.seed) for config in configs
    ]
    assert (plan.mode, plan.scale, plan.varied) == ("train", "laptop", ())
    alone = check_command_line(plan.jobs[-1].command.split()[2:])
    assert alone == configs[-1:]


def test_names_of_all_models_are_those_of_their_results() -> None:
    with composing():
        for choice in groups()["model"]:
            model = composer().config([f"model={choice}"]).model
            assert _names(choice) == (model.name, model.variant)


def test_a_jobs_hash_is_that_of_its_result() -> None:
    job: StudyJob = study_plan("overview", "smoke").jobs[0]
    with composing():
        config = composer().config(job.overrides)
    expected = identify(config, MissingSource("imdb", "abc")).config_hash
    assert config_hash(job.overrides, "imdb", "abc", precision="32") == expected
    assert config_hash(job.overrides, "imdb", "abc", precision="bf16") != expected


def test_what_is_scaled_down_is_what_paper_scale_has_more_of() -> None:
    less = scaled_down("overview", "laptop")
    assert less["passkey"]["backbone.depth"] == (2, 18)
    assert less["lra_text"]["task.val_limit"] == (1000, None)
    assert scaled_down("overview", "paper") == {"lra_listops": {}, "lra_text": {}, "passkey": {}}


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("mrbp_memry", None, "unknown study 'mrbp_memry': did you mean 'mrbp_memory'"),
        ("overview", "huge", "unknown scale 'huge'"),
    ],
)
def test_no_such_study_or_scale(name: str, scale: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study_plan(name, scale)
