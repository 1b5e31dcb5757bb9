"""Studies as frames: what is committed and what the store holds are one, what is missing is named, nothing is mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis.collect import collect, main
from analysis.studies import Study, load_study
from analysis.study_jobs import strange_runs
from experiments import studies
from experiments.results import load_heads, load_results
from tests.analysis.stores import more_studies, write_run


@pytest.fixture(scope="module", autouse=True)
def _studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A conf/ with two more studies."""
    with more_studies(tmp_path_factory.mktemp("conf")):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three of eight jobs are done."""
    write_run(tmp_path / "store", model="luna", seed=0)
    write_run(tmp_path / "store", model="luna", seed=1)
    write_run(tmp_path / "store", model="transformer", seed=0, learning_rate=0.002)
    return tmp_path / "store"


def load(store: Path, **options: object) -> Study:
    return load_study("widths", root=store, committed=store.parent / "studies", **options)  # type: ignore[arg-type]


def test_frames_hold_labels_settings_and_scores(store: Path) -> None:
    study = load(store)
    assert study.varied == ("trainer.learning_rate",)
    rows = study.runs[["variant", "seed", "trainer.learning_rate", "test/exact_match", "floor"]].values.tolist()
    assert rows == [["luna", 0, 0.001, 0.5, 0.1], ["luna", 1, 0.001, 0.6, 0.1], ["transformer", 0, 0.002, 0.5, 0.1]]
    assert "milestones" not in study.runs
    assert "folder" not in study.runs
    assert len(study.slices) == 6
    assert set(study.slices["trainer.learning_rate"]) == {0.001, 0.002}
    assert study.curves[["step", "exact_match"]].values.tolist()[:2] == [[5, 0.5], [10, 1.0]]
    assert study.memory["rms"].tolist() == [0.75] * 3
    assert not {"attempt", "time", "split"} & set(study.curves)


def test_how_far_a_window_looks_is_read_from_its_settings(store: Path) -> None:
    folder = write_run(store, model="block_window", seed=0)
    with (folder / "config.yaml").open("a") as config:
        config.write("backbone: {depth: 2}\nmodel: {name: block_window, memory_blocks: 3}\n")
    reaches = load(store).runs.set_index("variant")["reach_blocks"]
    assert reaches["block_window"] == 7
    assert reaches.drop("block_window").isna().all()


def test_heads_have_a_row_each_in_store_and_files(store: Path) -> None:
    tables = {"gate": [[0.25, 0.5], [0.75, float("nan")]], "read_share": [[0.125], [float("nan")]], "spectrum": [[1.0]]}
    write_run(store, model="luna", seed=0, learning_rate=0.002, heads=tables)
    study = load(store)
    assert study.heads[["variant", "seed", "trainer.learning_rate"]].drop_duplicates().values.tolist() == [
        ["luna", 0, 0.002]
    ]
    rows = study.heads[["layer", "head", "read_share", "gate"]].fillna(-1).values.tolist()
    assert rows == [[0, 0, 0.125, 0.25], [0, 1, -1, 0.5], [1, 0, -1, 0.75]]
    assert load_heads(load_results(store).iloc[:0]).empty
    collect("widths", root=store, committed=store.parent / "studies")
    pd.testing.assert_frame_equal(study.heads, load(store, live=False).heads)


def test_later_tests_of_a_run_are_kept_beside_its_own(store: Path) -> None:
    folder = write_run(store, model="luna", seed=0, learning_rate=0.002)
    kept = {"run_id": folder.name, "wall_seconds": 131.5, "peak_memory_bytes": 2**29, "hardware": "b", "git_sha": "1e4"}
    cells = [{"length_blocks": blocks, "depth": 0.0, "n": 2, "exact_match": 0.5} for blocks in (64, 4096)]
    path = folder / "tests" / "12e4567890.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**kept, "slices": cells}))
    study = load(store)
    shown = ["variant", "test", "seconds", "git_sha", "length_blocks", "exact_match"]
    assert study.tests[shown].values.tolist() == [
        ["luna", "12e4567890", 131.5, "1e4", blocks, 0.5] for blocks in (64, 4096)
    ]
    collect("widths", root=store, committed=store.parent / "studies")
    pd.testing.assert_frame_equal(study.tests, load(store, live=False).tests)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"12e4567890\.json is torn"):
        load(store)


def test_scores_of_other_studies_are_no_columns(store: Path) -> None:
    before = load(store).runs.columns
    write_run(store, study="another", task="lra_text", model="fam", **{"test/accuracy": 0.5})
    assert load(store).runs.columns.equals(before)


def test_what_is_missing_is_named_with_its_command(store: Path) -> None:
    study = load(store)
    assert study.num_jobs == 8
    assert study.command == "python run.py -m +study=widths scale=laptop"
    assert study.missing[["variant", "seed", "trainer.learning_rate"]].values.tolist() == [
        ["transformer", 0, 0.001],
        ["transformer", 1, 0.001],
        ["transformer", 1, 0.002],
        ["luna", 0, 0.002],
        ["luna", 1, 0.002],
    ]
    command = "python run.py +study=widths scale=laptop model=luna task=passkey trainer.learning_rate=0.002 seed=1"
    assert study.missing["command"].iloc[-1] == command
    text = study.describe_missing()
    assert "transformer on passkey trainer.learning_rate=0.002: 1 of 2 seeds" in text
    assert "luna on passkey trainer.learning_rate=0.002: 0 of 2 seeds" in text
    assert "luna on passkey trainer.learning_rate=0.001" not in text


def test_committed_files_give_what_the_store_gave(store: Path) -> None:
    collect("widths", root=store, committed=store.parent / "studies")
    live, kept = load(store), load(store, live=False)
    for kind in ("runs", "slices", "curves", "memory", "missing"):
        pd.testing.assert_frame_equal(getattr(live, kind), getattr(kept, kind))


def test_collecting_twice_changes_nothing_and_a_new_run_adds_lines_only(store: Path) -> None:
    folder = store.parent / "studies"
    collect("widths", root=store, committed=folder)
    before = {path.name: path.read_text() for path in (folder / "widths").iterdir()}
    assert set(before) == {"runs.csv", "slices.csv", "curves.csv", "memory.csv"}
    collect("widths", root=store, committed=folder)
    assert before == {path.name: path.read_text() for path in (folder / "widths").iterdir()}
    write_run(store, model="luna", seed=0, learning_rate=0.002)
    collect("widths", root=store, committed=folder)
    for name, text in before.items():
        assert set(text.splitlines()) < set((folder / "widths" / name).read_text().splitlines()), name


def test_rows_that_the_store_has_no_more_are_kept_and_the_store_wins(store: Path) -> None:
    collect("widths", root=store, committed=store.parent / "studies")
    shutil.rmtree(store / "runs")
    write_run(store, model="luna", seed=0, **{"test/exact_match": 0.125})
    lines = collect("widths", root=store, committed=store.parent / "studies")
    assert lines[-1] == "1 runs from the store, 2 kept as they were"
    study = load(store, live=False)
    assert study.runs["test/exact_match"].tolist() == [0.125, 0.6, 0.5]
    assert len(study.slices) == 6


def later_test(folder: Path, name: str = "12e4567890") -> Path:
    """A test that a stored run was put to later."""
    kept = {"run_id": folder.name, "wall_seconds": 1.5, "peak_memory_bytes": 2**29, "hardware": "b", "git_sha": "1e4"}
    path = folder / "tests" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**kept, "slices": [{"length_blocks": 64, "depth": 0.0, "n": 2, "exact_match": 0.5}]}))
    return path


def test_rows_of_a_run_that_the_store_lacks_stay_unless_it_was_computed_again(store: Path) -> None:
    committed = store.parent / "studies"
    folder = next(store.rglob("*-s1"))
    path = later_test(folder)
    collect("widths", root=store, committed=committed)
    path.unlink()
    later_test(folder, "abc")
    collect("widths", root=store, committed=committed)
    assert load_study("widths", live=False, committed=committed).tests["test"].tolist() == ["12e4567890", "abc"]
    shutil.rmtree(folder)
    write_run(store, model="luna", seed=1, wall_seconds=99.0)
    lines = collect("widths", root=store, committed=committed)
    assert f"tests.csv: 2 rows went with the old results of runs computed again: {folder.name}" in lines
    study = load_study("widths", live=False, committed=committed)
    assert study.tests.empty
    assert len(study.runs) == 3


def test_all_rows_may_be_dropped(store: Path) -> None:
    committed = store.parent / "studies"
    collect("widths", root=store, committed=committed)
    hashes = sorted(set(load(store).runs["config_hash"]))
    assert collect("widths", root=store, committed=committed, drop=hashes)[-1].startswith("3 runs from the store")
    assert not list((committed / "widths").iterdir())


def test_what_is_dropped_is_asked_for_and_named(store: Path) -> None:
    committed = store.parent / "studies"
    gone = collect("widths", root=store, committed=committed)
    run_id = load(store).runs["run_id"].iloc[1]
    lines = collect("widths", root=store, committed=committed, drop=[run_id])
    assert lines[0] == f"left out {run_id}"
    assert run_id not in set(load(store, live=False).curves["run_id"])
    with pytest.raises(ValueError, match="--drop zz: no run_id or config_hash"):
        collect("widths", root=store, committed=committed, drop=["zz"])
    assert gone


def test_scales_do_not_mix(store: Path) -> None:
    write_run(store, model="luna", seed=0, scale="smoke")
    assert load(store).scale == "laptop", "the study's own"
    assert set(load(store).runs["scale"]) == {"laptop"}
    assert len(load(store, scale="smoke").runs) == 1
    assert len(load(store, scale="laptop").runs) == 3
    assert load(store, scale="smoke").command == "python run.py -m +study=widths scale=smoke"


def test_other_scales_than_its_own_have_to_be_named(tmp_path: Path) -> None:
    write_run(tmp_path, model="luna", scale="smoke")
    assert load(tmp_path).scale == "smoke"
    write_run(tmp_path, model="luna", scale="paper")
    with pytest.raises(ValueError, match=r"study widths has runs of several scales \(paper, smoke\): name one"):
        load(tmp_path)


def test_collecting_takes_the_own_scale_and_writes_nothing_that_mixes(store: Path) -> None:
    committed = store.parent / "studies"
    write_run(store, model="luna", seed=0, scale="smoke")
    collect("widths", root=store, committed=committed)
    before = (committed / "widths" / "runs.csv").read_text()
    assert ",smoke," not in before
    write_run(store, model="luna", seed=3, config_hash="another")
    with pytest.raises(ValueError, match="luna on passkey: runs of several versions"):
        collect("widths", root=store, committed=committed)
    assert (committed / "widths" / "runs.csv").read_text() == before


def test_data_and_versions_do_not_mix(store: Path) -> None:
    folder = write_run(store, model="luna", seed=3, data_source="standin-x")
    with pytest.raises(ValueError, match=r"passkey: runs on several data sources \(generated, standin-x\)"):
        load(store)
    shutil.rmtree(folder)
    write_run(store, model="luna", seed=3, config_hash="12e4567890")
    with pytest.raises(ValueError, match=r"luna on passkey: runs of several versions \(config_hash .*12e4567890"):
        load(store)


def test_a_mistake_is_one_line(store: Path) -> None:
    with pytest.raises(ValueError, match="unknown study 'width': did you mean 'widths'"):
        load_study("width")
    with pytest.raises(ValueError, match="unknown scale 'huge'"):
        load(store, scale="huge")
    with pytest.raises(ValueError, match="nowhere is no folder"):
        load(store / "nowhere")


@pytest.mark.parametrize("ending", ["x,y\n", "x", ""])
def test_torn_files_are_refused(store: Path, ending: str) -> None:
    collect("widths", root=store, committed=store.parent / "studies")
    path = store.parent / "studies" / "widths" / "runs.csv"
    path.write_text(path.read_text() + ending if ending else "")
    with pytest.raises(ValueError, match=r"runs\.csv is torn"):
        load(store)


def test_files_of_a_run_that_are_torn_or_missing_are_named(store: Path) -> None:
    folder = next(store.rglob("*-s1"))
    (folder / "diagnostics.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"diagnostics\.npz is torn"):
        load(store)
    (folder / "diagnostics.npz").unlink()
    for folder in store.rglob("*-s*"):
        (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"config\.yaml is missing or torn"):
        load(store)


def test_rows_of_a_study_that_is_no_more_are_named_and_left_alone(store: Path) -> None:
    committed = store.parent / "studies"
    collect("widths", root=store, committed=committed)
    shutil.copytree(committed / "widths", committed / "gone")
    lines = collect("widths", root=store, committed=committed)
    assert lines[0] == "gone: committed rows, and no conf/study/gone.yaml: they were not looked at"
    assert (committed / "gone" / "runs.csv").is_file()


def test_runs_of_other_settings_under_a_label_of_the_study_are_named(store: Path) -> None:
    plan = studies.study_plan("widths")
    job = next(job for job in plan.jobs if job.variant == "luna" and job.settings["trainer.learning_rate"] == 0.002)
    right = studies.config_hash(job.overrides, "generated", "ab", precision="32")
    shutil.rmtree(store / "runs")
    write_run(store, model="luna", seed=0, learning_rate=0.002, config_hash=right)
    write_run(store, model="luna", seed=1, learning_rate=0.001, config_hash="ffff")
    write_run(store, model="fam", seed=1, config_hash="eeee")
    assert strange_runs(plan, load(store).runs) == ["ffff-s1"]
    assert strange_runs(plan, load(store).runs.iloc[:0]) == []


def test_of_runs_on_several_data_those_count_that_the_study_has(store: Path) -> None:
    job = studies.study_plan("widths").jobs[2]
    shutil.rmtree(store / "runs")
    for source in ("generated", "standin-x"):
        same = studies.config_hash(job.overrides, source, "ab", precision="32")
        write_run(store, study="other", model="transformer", learning_rate=0.002, config_hash=same, data_source=source)
    with pytest.raises(ValueError, match=r"transformer on passkey: several finished runs .*on standin-x"):
        load(store)
    write_run(store, model="luna", seed=0)
    assert set(load(store).runs["data_source"]) == {"generated"}


def test_a_torn_result_is_refused(store: Path) -> None:
    next(store.rglob("result.json")).write_text('{"task"')
    with pytest.raises(ValueError, match="is torn"):
        load(store)


def test_a_run_of_another_study_counts_when_it_is_the_same_run(store: Path) -> None:
    job = next(job for job in studies.study_plan("widths").jobs if job.variant == "luna" and job.seed == 1)
    twin = studies.study_plan("widths").jobs[2]
    assert (twin.variant, twin.settings) == ("transformer", {"trainer.learning_rate": 0.002})
    same = studies.config_hash(twin.overrides, "generated", "ab", precision="32")
    shutil.rmtree(store / "runs" / "passkey" / "transformer")
    write_run(store, study="other", model="transformer", seed=0, learning_rate=0.002, config_hash=same)
    write_run(store, study=None, model="luna", seed=job.seed, learning_rate=0.002, config_hash="ffff")
    runs = load(store).runs
    assert runs["variant"].tolist() == ["luna", "luna", "transformer"]
    assert runs["study"].tolist() == ["widths", "widths", "other"]


def test_rows_that_another_study_has_committed_are_copied(store: Path) -> None:
    """So that a shared run need not be in the store any more, under this study's labels and settings."""
    job = studies.study_plan("curves").jobs[0]
    assert (job.arm, job.model, job.seed) == ("slow", "luna", 0)
    same = studies.config_hash(job.overrides, "generated", "ab", precision="32")
    shutil.rmtree(store / "runs")
    for seed in (0, 1):
        write_run(store, model="luna", seed=seed, config_hash=same)
    committed = store.parent / "studies"
    collect("widths", root=store, committed=committed)
    shutil.rmtree(store / "runs")
    write_run(store, study="curves", arm="slow", model="luna", seed=0, scale="smoke")
    collect("curves", scale="smoke", root=store, committed=committed)  # a row of another scale stands for no job
    shutil.rmtree(store / "runs")
    lines = collect("curves", root=store, committed=committed)
    assert lines[-2:] == ["2 runs copied from other studies' files", "0 runs from the store, 1 kept as they were"]
    study = load_study("curves", scale="laptop", root=store, committed=committed, live=False)
    labels = study.runs[["study", "arm", "variant", "trainer.learning_rate"]]
    assert labels.values.tolist() == [["widths", "slow", "luna", 0.001]] * 2
    assert set(study.slices["arm"]) == {"slow"}
    assert collect("curves", root=store, committed=committed)[-1] == "0 runs from the store, 3 kept as they were"


def test_an_empty_store_is_a_study_that_lacks_everything(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    study = load(tmp_path / "store")
    assert study.runs.empty
    assert study.slices.empty
    assert len(study.missing) == study.num_jobs == 8


def test_the_command_says_what_it_did(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("analysis.study_files.STUDIES", store.parent / "studies")
    assert main(["widths", "--root", str(store)]) == 0
    shown = capsys.readouterr().out
    assert "wrote widths/runs.csv: 3 rows" in shown
    assert "missing: transformer on passkey" in shown
    assert shown.endswith("run python run.py -m +study=widths scale=laptop\n")
    assert main(["nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown study 'nothing'")


def test_an_arm_names_its_own_settings_alone(tmp_path: Path) -> None:
    write_run(tmp_path, study="curves", arm="slow", model="luna", seed=0, learning_rate=0.001)
    write_run(tmp_path, study="curves", arm="plain", model="transformer", seed=1)
    study = load_study("curves", root=tmp_path, committed=tmp_path / "none")
    assert study.varied == ("arm", "trainer.learning_rate")
    rows = study.runs[["arm", "variant", "seed"]].values.tolist()
    assert rows == [["slow", "luna", 0], ["plain", "transformer", 1]]
    assert study.runs["trainer.learning_rate"].tolist()[0] == 0.001
    assert pd.isna(study.runs["trainer.learning_rate"].tolist()[1]), "the arm leaves it as it is"
    assert study.missing[["arm", "seed"]].values.tolist() == [["slow", 1], ["plain", 0]]
    assert "arm=slow" in study.missing["command"][0]
    assert "luna on passkey" in study.describe_missing()
    assert "1 of 2 seeds" in study.describe_missing()
