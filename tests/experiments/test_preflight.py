"""The command line is checked, every job of a sweep, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import preflight
from experiments.errors import ConfigError
from experiments.preflight import check_command_line, groups, quoted

MISTAKES = {
    # unknown names
    "modle=fam": "unknown key 'modle': did you mean 'model'? There are: arm, backbone, bench, data, force",
    "model=famm": f"unknown model 'famm': did you mean 'fam'? There are: {', '.join(groups()['model'])}",
    "task=lra_txt": "unknown task 'lra_txt': did you mean 'lra_text' or 'lra_pathx'? There are: lm_text, lra_image",
    "logger=wb": "unknown logger 'wb': There are: none, wandb",
    "scale=huge": "unknown scale 'huge': There are: laptop, paper, smoke",
    "mode=trian": "unknown mode 'trian': did you mean 'train'? There are: bench, eval, export, list, plan, "
    "status, train",
    "trainer=other": "unknown trainer 'other': There are: default",
    "trainer.stps=3": "unknown key in trainer 'stps': did you mean 'steps'? There are: accumulate, auto_micro_batch",
    "steps=3": "unknown key 'steps': did you mean 'trainer.steps'?",
    "model=fam model.fam_length=3": "unknown key in model 'fam_length': did you mean 'fam_len'?",
    "-m hydra.launcher.jbs=2": "unknown key in hydra.launcher 'jbs': did you mean 'jobs'?",
    "-m hydra/launcher=cluster": "unknown hydra/launcher 'cluster': There are:",
    "+study=mrbp_memry": "unknown study 'mrbp_memry': did you mean 'mrbp_memory'? There are: compressions, efficiency",
    # keys that are forced in, or out
    "+typo=1": "unknown key 'typo': There are: arm, backbone, bench, data, force",
    "++typo=1": "unknown key 'typo': There are: arm, backbone, bench, data, force",
    "+trainer.typo=1": "unknown key in trainer 'typo': There are: accumulate",
    "+trainer.steps=3": "+trainer.steps=3: the key exists, leave out the +",
    "+model=fam": "+model=fam: write model=fam",
    "~trainer.steps": "~trainer.steps: settings cannot be removed; set a value instead (trainer.steps=...)",
    "study=overview": "study=overview: write +study=overview",
    # syntax
    "model": "cannot read 'model' (there is no '='): write key=value",
    "=3": "cannot read '=3' (there is no key): write key=value",
    "trainer.steps=[1,2": "cannot read 'trainer.steps=[1,2' (",
    # types and ranges
    "trainer.steps=abc": "trainer.steps='abc': expected a whole number",
    "trainer.compile=3": "trainer.compile=3: expected true or false",
    "trainer.steps=0": "trainer.steps=0: must be at least 1",
    "seed=-1": "seed=-1: must lie in [0, 2^31)",
    "backbone.width=33": "backbone.width=33 is not divisible by backbone.num_heads=4",
    "model=fam model.fam_len=9999": "model.fam_len=9999: must lie between 0 and model.block_len=",
    "hydra.launcher.jobs=0": "hydra.launcher.jobs=0: how many jobs run at a time: auto, or a number from 1",
    # without effect, or with another than it seems
    "model=fam,luna": "model=fam,luna: several values need -m",
    "+study=overview": "a study sweeps over model, task, seed: add -m",
    "size.width=3": "size.width=3: the table of sizes is read-only here; set what reads it",
    "task.scales.paper.steps=3": "task.scales.paper.steps=3: the table of sizes is read-only here",
    "hydra.mode=MULTIRUN": "hydra.mode=MULTIRUN: use -m for a sweep",
    "--config-dir elsewhere": "--config-dir is not supported: settings live in",
    "run=ab": "run=ab has no effect with mode=train",
    "mode=eval": "mode=eval needs run=<first digits of the run's hash>",
    "mode=eval run=ab model=fam": "model=fam has no effect with mode=eval: it reads mode, run, test, data",
    "test={eval_samples:2}": "test={'eval_samples': 2} has no effect with mode=train: it is for mode=eval",
    "mode=eval run=ab test=4": "test=4: expected {key: value} or null",
    "mode=export": "mode=export needs run=<first digits of the run's hash>",
    "mode=export run=ab task=passkey": "task=passkey has no effect with mode=export: it reads mode, run, store",
    "mode=export run=ab -m": "mode=export exports one stored run: leave out -m",
    "sweep=ab": "sweep=ab has no effect with mode=train: it names the sweep for mode=status",
    "watch=3": "watch=3.0 has no effect with mode=train: it repeats what is shown for mode=status",
    "mode=plan watch=3": "watch=3.0 has no effect with mode=plan: it repeats what is shown for mode=status",
    "mode=eval run=ab sweep=2026": "sweep=2026 has no effect with mode=eval: it reads mode, run, test, data",
    "mode=status watch=0": "watch=0.0: seconds, at least 0.1",
    "mode=status watch=often": "watch='often': expected a number or null",
    "mode=status run=ab": "run=ab has no effect with mode=status: it reads mode, sweep, watch, store",
    "mode=status model=fam": "model=fam has no effect with mode=status: it reads mode, sweep, watch, store",
    "mode=status -m": "mode=status shows what was started before: leave out -m",
    "mode=status force=true": "force=true has no effect with mode=status",
    "mode=list seed=1": "seed=1 has no effect with mode=list",
    "mode=bench seed=1": "seed=1 has no effect with mode=bench",
    "mode=bench force=true": "force=true has no effect with mode=bench",
    "bench.batch_size=2": "bench.batch_size=2 has no effect with mode=train: it is for mode=bench",
    "-m +study=efficiency trainer.steps=2": "trainer.steps=2 has no effect with mode=bench",
    "mode=list task.level=byte": "task.level=byte has no effect with mode=list: task=<name> shows that task's card",
    "mode=list task=passkey scale=smoke": "scale=smoke has no effect with mode=list task=...: a card holds for all",
    "mode=list task=passky": "unknown task 'passky': did you mean 'passkey'?",
    "mode=list task=passkey,lra_text": "task=passkey,lra_text: several values need -m",
    "mode=list -m": "mode=list shows what exists: leave out -m",
    "mode=eval run=ab logger=none": "logger=none has no effect with mode=eval",
    "mode=eval run=ab -m": "mode=eval scores one stored run: leave out -m",
    "task=passkey backbone.positions=learned backbone.rope_base=null": "backbone.positions=learned has positions "
    "for the 437 symbols of training, and task=passkey tests on 27653: use backbone.positions=rope",
    # sweeps
    "-m model=glob(*)": "model=glob(*): write the values as a list (a,b,c), as choice(a,b) or as range(",
    "-m trainer.learning_rate=interval(1e-4,1e-2)": "trainer.learning_rate=interval(1e-4,1e-2): write the values as",
    "-m mode=train,plan": "mode=train,plan: one mode at a time",
    "-m hydra.launcher.jobs=1,2": "hydra.launcher.jobs=1,2: one hydra.launcher.jobs at a time",
    "-m hydra/launcher=slum": "unknown hydra/launcher 'slum': did you mean 'slurm'? There are: local, ray, slurm",
    "-m hydra/launcher=slurm hydra.launcher.partion=gpu": "unknown key in hydra.launcher 'partion': did you mean 'part",
    "-m hydra.launcher.memory_gb=lots": "hydra.launcher.memory_gb=lots: GiB that a job needs: auto, or a number above",
    "hydra/launcher=slurm": "hydra/launcher=slurm has no effect without -m: one run works in this process",
    "-m hydra.sweeper.max_batch_size=1": "hydra.sweeper.max_batch_size=1: a sweep runs as a whole",
    "-m model=fam,famm": "unknown model 'famm'",
    "-m +study=fam_passkey arm=m5": "unknown arm 'm5': ",
    "-m +study=fam_passkey model=fam": "model=fam: the arms of the study set it; choose some with arm=<name>",
    "-m model=fam seed=0,1,-1": "seed=-1: must lie in [0, 2^31) (in the job seed=-1)",
    "-m model=fam,transformer model.fam_len=2": "unknown key in model 'fam_len': There are: name "
    "(in the job model=transformer)",
    "-m model=fam,fam": "two jobs are the same run: model=fam and model=fam",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_clear_line(command: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(command.split())
    assert str(caught.value).startswith(MISTAKES[command])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("digits", ["3e10", "0012", "9e12345678", "abc"])
def test_digits_of_a_hash_are_never_read_as_a_number(digits: str) -> None:
    (job,) = check_command_line(quoted(["mode=eval", f"run={digits}"]))
    assert job.run == digits


@pytest.mark.parametrize("digits", ["20261123", "20261123-111934", "0012", "1e5", "20261123-111934-77"])
def test_digits_of_a_sweep_are_never_read_as_a_number(digits: str) -> None:
    (job,) = check_command_line(quoted(["mode=status", f"sweep={digits}"]))
    assert job.sweep == digits


def test_what_seeds_share_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(preflight, "check_run", lambda config: checked.append(config.label))
    assert len(check_command_line(["-m", "model=fam,luna", "seed=0,1,2", "trainer.steps=50,60"])) == 12
    assert checked == ["fam lra_text s0", "luna lra_text s0"]


def test_what_does_not_fit_together_is_found_before_the_first_job() -> None:
    with pytest.raises(ConfigError, match=r"\(in the job model=transformer\)$"):
        check_command_line(["-m", "model=luna,transformer", "backbone.pooling=memory"])


def test_jobs_of_a_sweep_come_in_the_order_of_the_sweeper() -> None:
    jobs = check_command_line(["-m", "model=fam,luna", "seed=0,1"])
    assert [job.label for job in jobs] == [
        "fam lra_text s0",
        "fam lra_text s1",
        "luna lra_text s0",
        "luna lra_text s1",
    ]


def test_a_study_is_a_sweep_whose_lists_can_be_replaced() -> None:
    jobs = check_command_line(["-m", "+study=overview"])
    assert len(jobs) == 17 * 3 * 3
    assert {job.study for job in jobs} == {"overview"}
    jobs = check_command_line(["-m", "+study=overview", "model=fam", "seed=7"])
    assert [job.label for job in jobs] == ["fam lra_listops s7", "fam lra_text s7", "fam passkey s7"]


def test_one_job_of_a_study_can_be_run_alone() -> None:
    (job,) = check_command_line(["+study=overview", "model=fam", "task=passkey", "seed=2"])
    assert (job.label, job.study) == ("fam passkey s2", "overview")


@pytest.mark.parametrize("command", [["--help"], ["--hydra-help"], ["--info"]])
def test_asking_for_help_is_left_to_hydra(command: list[str]) -> None:
    assert check_command_line(command) == []


def test_a_sweep_needs_a_results_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^cannot write there \(.*file/sweeps: Not a directory\): choose another"):
        check_command_line(["-m", "seed=0,1", f"store.root={tmp_path / 'file'}"])
