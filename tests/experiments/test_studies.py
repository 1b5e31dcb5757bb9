"""Every stored study: it says what it stands for, and all of its jobs fit together at every scale."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from omegaconf import OmegaConf

import data
import models
from experiments.arms import arms_of, choose
from experiments.compose import parse
from experiments.preflight import CONF, check_command_line, groups
from experiments.studies import study_plan

STUDIES = groups()["study"]


def text(study: str) -> str:
    return (CONF / "study" / f"{study}.yaml").read_text(encoding="utf-8")


def comment(study: str) -> str:
    """The comment on top, as one line."""
    lines = [line.removeprefix("# ") for line in text(study).splitlines() if line.startswith("# ")]
    return " ".join(line for line in lines if not line.startswith("@"))


def settings(study: str) -> Any:
    return OmegaConf.create(text(study))


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_is_called_by_its_name(study: str) -> None:
    assert comment(study).startswith(f"python run.py -m +study={study} ")
    assert settings(study).study == study


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
@pytest.mark.parametrize("study", STUDIES)
def test_every_job_of_a_study_fits_together(study: str, scale: str) -> None:
    jobs = check_command_line(["-m", f"+study={study}", f"scale={scale}"])
    assert {job.study for job in jobs} == {study}
    assert {job.scale for job in jobs} == {scale}
    assert {job.arm for job in jobs} == {*(arms_of(study) or [None])}
    if settings(study).get("mode") != "bench":
        assert {job.seed for job in jobs} == {0, 1, 2}
        said = re.search(r"Seeds 0, 1, 2: (\d+) runs", comment(study))
        assert said is not None
        assert int(said[1]) == len(jobs)


@pytest.mark.parametrize("study", [study for study in STUDIES if arms_of(study)])
def test_arms_have_plain_names_and_share_no_key_with_the_lists(study: str) -> None:
    own = {override.partition("=")[0] for arm in arms_of(study).values() for override in arm}
    assert not own.intersection(settings(study).hydra.sweeper.params)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in arms_of(study))


def test_every_study_stands_in_the_table() -> None:
    table = (CONF / "study" / "README.md").read_text(encoding="utf-8")
    for study in STUDIES:
        assert f"| `{study}` |" in table, study


def test_the_overviews_hold_every_variant_and_every_task() -> None:
    some, everything = (settings(study).hydra.sweeper.params for study in ("overview", "overview_all"))
    assert some.model == everything.model
    assert set(models.available()) <= set(everything.model.split(","))
    assert tuple(everything.task.split(",")) == data.available()


@pytest.mark.parametrize("study", ["mrbp_memory", "memformer_slots", "rmt_scaling"])
def test_the_command_of_a_job_names_its_arm_and_nothing_that_the_arm_alone_may_set(study: str) -> None:
    for job in study_plan(study).jobs:
        arguments = shlex.split(job.command)[2:]
        assert choose([parse(text) for text in arguments], arms_of(study)) == [job.arm]
        assert set(job.overrides) >= set(arguments)


def test_a_job_knows_the_model_of_its_preset() -> None:
    jobs = {job.variant: job.model for job in study_plan("overview").jobs}
    assert jobs["local"] == jobs["transformer_xl"] == jobs["block_window"] == "block_window"
    assert (jobs["rmt"], jobs["infini_delta"], jobs["fam_gated"], jobs["fam"]) == ("mat", "infini", "fam", "fam")
