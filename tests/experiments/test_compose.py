"""Composing many jobs at once gives what Hydra gives for each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.compose import Composer, composing
from experiments.config import build_run_config
from experiments.errors import ConfigError
from experiments.preflight import check_command_line

JOBS = [
    [],
    ["seed=3"],
    ["model=fam", "seed=1"],
    ["model=fam", "seed=2"],
    ["model=fam", "trainer.learning_rate=1e-3", "seed=2"],
    ["trainer.steps=40", "trainer.warmup_steps=4", "task=memory_ops", "scale=smoke"],  # the task reads trainer.steps
    ["model=luna", "task=passkey", "scale=smoke", "backbone.width=64", "model.memory_len=3"],
    ["model=luna", "+study=spine", "task=passkey"],
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
