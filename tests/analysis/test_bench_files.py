"""Studies that measure speed: whose a row is, what is missing, and what cannot be compared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.collect import collect, main
from analysis.studies import Study, load_study
from analysis.style import caption, missing_note
from experiments.results import load_bench, load_jobs
from tests.analysis.stores import write_bench_rows

ARMS = ("memformer", "memformer_replay", "rmt", "rmt_replay")
LENGTHS = (1024, 4096, 16384)


def measurements(arms: Sequence[str] = ARMS, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """Rows of ``mrbp_memory``."""
    return [
        {"name": name, "variant": name.partition("_")[0], "length": length, "phase": phase}
        for name, phase, length in itertools.product(arms, ("train", "stream"), lengths)
    ]


def store(folder: Path, rows: Sequence[Mapping[str, Any]], study: str = "mrbp_memory") -> Path:
    return write_bench_rows(folder / "store", rows, study=study)


def load(folder: Path, name: str = "mrbp_memory", **options: Any) -> Study:
    return load_study(name, root=folder / "store", committed=folder / "studies", **options)


def test_rows_stand_in_the_order_of_the_arms(tmp_path: Path) -> None:
    store(tmp_path, measurements()[::-1])
    study = load(tmp_path)
    assert list(dict.fromkeys(study.bench["name"])) == list(ARMS)
    assert study.bench["length"].tolist()[:3] == list(LENGTHS)
    assert study.bench["phase"].tolist()[:6] == ["train"] * 3 + ["stream"] * 3
    assert study.bench["compiled"].dtype == bool
    assert (study.mode, study.num_jobs, len(study.missing)) == ("bench", 12, 0)
    assert study.runs.empty
    assert study.describe_missing() == ""


def test_a_study_that_trains_has_no_measurements(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    study = load(tmp_path, "overview")
    assert study.bench.empty
    assert study.mode == "train"


def test_only_rows_with_the_label_are_its_own(tmp_path: Path) -> None:
    store(tmp_path, measurements(["memformer"]))
    store(tmp_path, measurements(["rmt"]), study="efficiency")
    store(tmp_path, measurements(["rmt_replay"]), study="")
    assert set(load(tmp_path).bench["name"]) == {"memformer"}
    assert len(load_bench(tmp_path / "store")) == 18
    assert len(load_bench(tmp_path / "store" / "runs")) == 18


def test_files_from_before_there_were_labels_have_rows_of_no_study(tmp_path: Path) -> None:
    path = store(tmp_path, measurements()) / "bench.csv"
    pd.read_csv(path).drop(columns=["study", "scale"]).to_csv(path, index=False)
    assert load(tmp_path).bench.empty


def test_what_was_not_measured_is_named(tmp_path: Path) -> None:
    rows = [
        row for row in measurements() if row["name"] != "rmt_replay" and (row["name"], row["length"]) != ("rmt", 1024)
    ]
    for row in rows:
        if (row["name"], row["length"]) == ("memformer", 16384):
            row["status"] = "skipped: 4,096 tokens took 9 s"
    store(tmp_path, rows)
    study = load(tmp_path)
    assert study.missing[["name", "variant", "task", "length"]].values.tolist() == [
        ["memformer", "memformer", "passkey", 16384],
        ["rmt", "rmt", "passkey", 1024],
        *(["rmt_replay", "rmt", "passkey", length] for length in LENGTHS),
    ]
    assert study.missing["command"].iloc[-1].startswith("python run.py +study=mrbp_memory scale=laptop arm=rmt_replay")
    assert study.describe_missing() == (
        "memformer: 16,384 tokens (skipped: 4,096 tokens took 9 s); rmt: 1,024 tokens; "
        "rmt_replay: 1,024, 4,096, 16,384 tokens"
    )
    assert set(study.bench["status"]) == {"ok"}
    figure = Figure()
    missing_note(figure, study)
    text = figure.get_supxlabel().replace("\n", " ")
    assert text.startswith("7 of 12 measurements. Missing: memformer")
    assert text.endswith("To make them: python run.py -m +study=mrbp_memory scale=laptop")


def test_a_phase_that_an_arm_lacks_is_missing(tmp_path: Path) -> None:
    store(tmp_path, [row for row in measurements() if row["name"] != "rmt" or row["phase"] == "train"])
    assert load(tmp_path).missing["name"].unique().tolist() == ["rmt"]


def test_a_classifier_lacks_no_stream(tmp_path: Path) -> None:
    plan = load_jobs("luna_efficiency")
    rows = [
        {"name": job.arm, "variant": job.variant, "task": job.task, "length": length, "phase": "train"}
        for job, length in itertools.product(plan.jobs, plan.lengths)
    ]
    store(tmp_path, rows, study="luna_efficiency")
    assert load(tmp_path, "luna_efficiency").missing.empty


def test_packages_are_not_missed_and_stand_behind_their_variant(tmp_path: Path) -> None:
    kin = {"name": "a-kin", "variant": "luna", "package": "a-kin 1.0", "phase": "train", "length": 1024}
    rows = [
        {"name": name, "variant": name, "length": 1024, "phase": "train"} for name in ("mat", "luna", "transformer")
    ]
    store(tmp_path, [kin, *rows], study="efficiency")
    assert load(tmp_path, "efficiency").bench["name"].tolist() == ["transformer", "luna", "a-kin", "mat"]


def test_an_empty_study_says_what_makes_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    study = load(tmp_path)
    assert study.bench.empty
    assert len(study.missing) == study.num_jobs == 12
    assert caption(study).endswith("Nothing is measured: `python run.py -m +study=mrbp_memory scale=laptop`.")


def test_a_caption_names_machine_and_repetitions_and_no_seeds(tmp_path: Path) -> None:
    store(tmp_path, measurements(["rmt"]))
    text = caption(load(tmp_path), note="a note")
    assert "6 measurements of 1 arms and packages" in text
    assert "One process each, no seeds; median of repetitions." in text
    assert "A machine, 1 thread, CPU time, load 0.5 to 0.5; precision 32; torch 2.13.0; commit 0123456789." in text
    assert "Missing: memformer: 1,024" in text
    assert text.endswith("A note.")


@pytest.mark.parametrize(("column", "other"), [("hardware", "another"), ("torch", "2.12"), ("precision", "bf16")])
def test_measurements_that_do_not_compare_are_refused(tmp_path: Path, column: str, other: str) -> None:
    rows = measurements()
    rows[-1][column] = other
    store(tmp_path, rows)
    with pytest.raises(ValueError, match=f"study mrbp_memory mixes {column}: .*; measure all anew on one"):
        load(tmp_path)


def test_an_arm_has_one_size_and_arms_may_differ(tmp_path: Path) -> None:
    rows = measurements()
    for row in rows:
        row["memory_len"] = 4 if row["name"] == "rmt" else 16
    store(tmp_path, rows)
    assert load(tmp_path).bench.groupby("name")["memory_len"].first()["rmt"] == 4
    rows[0]["memory_len"] = 8
    store(tmp_path, rows)
    with pytest.raises(ValueError, match="study mrbp_memory, memformer mixes memory_len: "):
        load(tmp_path)


def test_two_measurements_of_the_same_are_refused(tmp_path: Path) -> None:
    rows = measurements()
    store(tmp_path, [*rows, {**rows[0], "date": "later"}])
    with pytest.raises(ValueError, match="memformer, train, 1024 tokens stands 2 times in the store"):
        load(tmp_path)


def test_scales_do_not_mix(tmp_path: Path) -> None:
    store(tmp_path, [{**row, "scale": scale} for scale in ("laptop", "smoke") for row in measurements()])
    assert load(tmp_path).scale == "laptop", "the study's own"
    assert set(load(tmp_path, scale="smoke").bench["scale"]) == {"smoke"}
    assert len(load(tmp_path, scale="laptop").bench) == 24


def test_committed_rows_give_what_the_store_gave(tmp_path: Path) -> None:
    store(tmp_path, measurements())
    lines = collect("mrbp_memory", root=tmp_path / "store", committed=tmp_path / "studies")
    assert lines == ["wrote mrbp_memory/bench.csv: 24 rows", "24 measurements from the store, 0 kept as they were"]
    live, kept = load(tmp_path), load(tmp_path, live=False)
    pd.testing.assert_frame_equal(live.bench, kept.bench)
    assert [path.name for path in (tmp_path / "studies" / "mrbp_memory").iterdir()] == ["bench.csv"]


def test_a_newer_measurement_takes_the_place_of_the_committed_one(tmp_path: Path) -> None:
    path = store(tmp_path, measurements()) / "bench.csv"
    collect("mrbp_memory", root=tmp_path / "store", committed=tmp_path / "studies")
    before = (tmp_path / "studies" / "mrbp_memory" / "bench.csv").read_text().splitlines()
    path.unlink()
    store(tmp_path, [{**row, "tokens_per_second": 7.25} for row in measurements(["rmt"])])
    lines = collect("mrbp_memory", root=tmp_path / "store", committed=tmp_path / "studies")
    assert lines[-1] == "6 measurements from the store, 18 kept as they were"
    after = (tmp_path / "studies" / "mrbp_memory" / "bench.csv").read_text().splitlines()
    assert len(after) == len(before)
    assert len(set(after) - set(before)) == 6
    assert (load(tmp_path, live=False).bench.query("name == 'rmt'")["tokens_per_second"] == 7.25).all()


def test_nothing_mixed_is_written(tmp_path: Path) -> None:
    path = store(tmp_path, measurements()) / "bench.csv"
    collect("mrbp_memory", root=tmp_path / "store", committed=tmp_path / "studies")
    before = (tmp_path / "studies" / "mrbp_memory" / "bench.csv").read_text()
    path.unlink()
    store(tmp_path, [{**row, "torch": "2.14"} for row in measurements(["rmt"])])
    with pytest.raises(ValueError, match="mixes torch"):
        collect("mrbp_memory", root=tmp_path / "store", committed=tmp_path / "studies")
    assert (tmp_path / "studies" / "mrbp_memory" / "bench.csv").read_text() == before


def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, measurements(["rmt"]))
    monkeypatch.setattr("analysis.bench_files.STUDIES", tmp_path / "studies")
    assert main(["mrbp_memory", "--root", str(tmp_path / "store")]) == 0
    assert "missing: memformer: 1,024" in capsys.readouterr().out
    assert main(["mrbp_memory", "--root", str(tmp_path / "store"), "--drop", "ab"]) == 2
    assert "study mrbp_memory measures speed and has no runs" in capsys.readouterr().err
    assert main(["mrbp_memory", "--root", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    path = tmp_path / "studies" / "mrbp_memory" / "bench.csv"
    path.write_text(path.read_text() + "x")
    assert main(["mrbp_memory", "--root", str(tmp_path / "store")]) == 2
    assert "is torn" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["efficiency", "luna_efficiency", "fam_cost", "mrbp_memory"])
def test_what_is_committed_is_whole(name: str) -> None:
    study = load_study(name, live=False)
    assert study.missing.empty
    assert len(study.bench)
