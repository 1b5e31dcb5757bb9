"""A study's arms: each a grid of its own, labelled, and chosen by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import arms, preflight
from experiments.arms import arms_of, complete, expand, read_arms
from experiments.compose import parse
from experiments.errors import ConfigError
from experiments.identity import MissingSource, identify
from experiments.preflight import check_command_line
from experiments.sweeper import GridSweeper

STUDY = """\
# @package _global_
study: small
scale: smoke
hydra:
  sweeper:
    arms:
      window: {model: block_window, model.memory_blocks: "1,2"}
      short:
        model: fam
        task.curriculum: [{until: 1.0, min_blocks: 2, max_blocks: 3}]
        trainer.clip_norm: null
    params:
      task: passkey
      seed: 0,1
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The arms of a study in a file."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "small.yaml").write_text(STUDY, encoding="utf-8")
    monkeypatch.setattr(arms, "CONF", tmp_path)
    return arms_of("small")


def jobs(study: dict[str, list[str]], *overrides: str) -> list[str]:
    return [" ".join(job) for job in expand([parse(text) for text in overrides], study)]


def test_values_become_what_the_command_line_writes(study: dict[str, list[str]]) -> None:
    assert study == {
        "window": ["model=block_window", "model.memory_blocks=1,2"],
        "short": [
            "model=fam",
            "task.curriculum=[{until:1.0,min_blocks:2,max_blocks:3}]",
            "trainer.clip_norm=null",
        ],
    }
    assert read_arms({"a": {"model.tied": True}}) == {"a": ["model.tied=true"]}
    assert read_arms(None) == arms_of("no such study") == {}


def test_each_arm_is_a_grid_of_its_own(study: dict[str, list[str]]) -> None:
    found = jobs(study, "task=passkey", "seed=0,1")
    assert found[:3] == [
        "arm=window model=block_window model.memory_blocks=1 task=passkey seed=0",
        "arm=window model=block_window model.memory_blocks=1 task=passkey seed=1",
        "arm=window model=block_window model.memory_blocks=2 task=passkey seed=0",
    ]
    assert len(found) == 2 * 2 + 2
    assert found[4].startswith("arm=short model=fam task.curriculum=")


def test_arms_are_chosen_and_their_values_replaced(study: dict[str, list[str]]) -> None:
    assert len(jobs(study, "arm=short,window", "seed=0")) == 3
    assert jobs(study, "arm=short,window", "seed=0")[0].startswith("arm=short ")
    assert jobs(study, "arm=window", "model.memory_blocks=3") == ["arm=window model=block_window model.memory_blocks=3"]


def test_hydras_sweeper_makes_the_same_jobs(study: dict[str, list[str]]) -> None:
    sweeper = GridSweeper(None, {}, OmegaConf.create(STUDY).hydra.sweeper.arms)
    overrides = [parse("task=passkey"), parse("seed=0,1")]
    (batch,) = sweeper.split_arguments(overrides, None)
    assert batch == expand(overrides, study)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arm=shorter"], "unknown arm 'shorter': did you mean 'short'? There are: short, window"),
        (["model=fam,luna"], "model=fam,luna: the arms of the study set it; choose some with arm=<name>"),
        (["arm=short", "model=luna"], "model=luna: the arms of the study set it"),
    ],
)
def test_what_no_arm_can_do_is_refused(study: dict[str, list[str]], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        jobs(study, *overrides)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("command", [["arm=a"], ["-m", "arm=a,b"], ["-m", "+study=overview", "arm=a"]])
def test_without_arms_there_is_none_to_choose(command: list[str]) -> None:
    with pytest.raises(ConfigError, match=r": arms belong to a study that has some: write \+study=<name> with it$"):
        check_command_line(command)


def test_one_run_of_an_arm_gets_the_settings_of_that_arm(study: dict[str, list[str]]) -> None:
    alone = ["+study=small", "arm=short", "task=passkey", "seed=1"]
    assert complete(alone) == [*alone, *study["short"]]
    assert complete([*alone, "--cfg", "job"]) == [*alone, *study["short"], "--cfg", "job"]
    assert complete(["--cfg", "job", *alone]) == ["--cfg", "job", *alone, *study["short"]]
    assert complete(complete(alone)) == complete(alone)
    for unchanged in (["+study=small", "task=passkey"], ["arm=short"], ["+study=none", "arm=short"]):
        assert complete(unchanged) == unchanged
    assert complete(["+study=small", "arm=none"]) == ["+study=small", "arm=none"]


def test_hydra_composes_a_sweep_before_it_knows_the_task() -> None:
    command = ["-m", "+study=fam_passkey", "arm=m1,m2", "task.eval_factors=[1,2]", "seed=0,1", "model.block_len=8,12"]
    listed = [*command[:3], "task.eval_factors=choice([1,2])", *command[4:]]
    assert complete(command) == listed
    assert check_command_line(listed) == check_command_line(command)
    assert len(check_command_line(command)) == 8


def test_an_arm_is_a_label_beside_its_settings() -> None:
    (alone,) = check_command_line(["+study=fam_passkey", "arm=m2", "task=passkey", "seed=1"])
    (swept,) = check_command_line(["-m", "+study=fam_passkey", "arm=m2", "seed=1"])
    assert alone == swept
    assert (alone.arm, alone.model.options.memory_blocks) == ("m2", 2)
    (plain,) = check_command_line(["model=block_window", "model.memory_blocks=2", "task=passkey", "seed=1"])
    assert plain.arm is None
    assert identify(plain, MissingSource()) == identify(alone, MissingSource())


@pytest.mark.parametrize(
    ("command", "free"),
    [(["+study=fam_passkey", "seed=1"], "arm, task"), (["+study=fam_blocks", "arm=fam", "seed=1"], "task, model.mem")],
)
def test_one_run_needs_one_arm_and_one_of_each_of_its_values(command: list[str], free: str) -> None:
    with pytest.raises(ConfigError, match=f"^a study sweeps over {free}.*: add -m, or choose one of each$"):
        check_command_line(command)


def test_a_model_that_does_not_exist_is_found_in_an_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_study", lambda fixed: ({}, {"a": ["model=famm"]}))
    with pytest.raises(ConfigError, match=r"^unknown model 'famm'"):
        check_command_line(["-m", "seed=0,1"])
