"""mode=bench: a row for each variant, length and phase; what is measured stays measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from experiments import bench, peers
from experiments.bench import Subject, measure, run_bench
from experiments.config import RunConfig
from experiments.errors import ConfigError, ExitCode
from tests.experiments.small_runs import settings

PAIR_AND_ALONE = ("lra_retrieval", "lra_text")


def benched(results: Path, model: str = "fam", *overrides: str) -> RunConfig:
    own = ("mode=bench", "task=passkey", f"model={model}", "bench.lengths=[64,128]", "bench.max_seconds=0.01")
    return settings(results, *own, *overrides)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "in_fresh_process", lambda function, *arguments: function(*arguments))


@pytest.mark.parametrize("phase", bench.PHASES)
def test_a_row_holds_what_a_step_costs(tmp_path: Path, phase: str) -> None:
    row = measure(Subject(benched(tmp_path)), 70, phase)
    assert row["tokens_per_second"] == pytest.approx(70 / row["seconds"])
    assert row["flops"] > 0
    assert row["state_size"] > 0
    assert row["clock"] == "CPU time"


def test_training_takes_three_times_the_products_of_reading(tmp_path: Path) -> None:
    flops = [measure(Subject(benched(tmp_path, "luna")), 64, phase)["flops"] for phase in bench.PHASES]
    assert flops[0] == 3 * flops[1]


@pytest.mark.parametrize("task", [("task=lra_text",), ("task=lra_image", "task.pixels=real")], ids=["ids", "numbers"])
def test_a_classifier_has_room_for_any_length_and_is_not_streamed(
    tmp_path: Path, in_this_process: None, task: tuple[str, ...]
) -> None:
    config = benched(tmp_path, "luna", *task, "bench.lengths=[1024]")
    assert run_bench([config]) == ExitCode.OK
    assert pd.read_csv(tmp_path / "bench.csv")["phase"].tolist() == ["train"]


def test_a_pair_is_two_sequences(tmp_path: Path) -> None:
    pair, alone = (measure(Subject(benched(tmp_path, "luna", f"task={task}")), 64, "train") for task in PAIR_AND_ALONE)
    assert pair["flops"] > 1.5 * alone["flops"]


def test_rows_are_kept_and_replaced(tmp_path: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]) -> None:
    first = benched(tmp_path)
    assert run_bench([first, benched(tmp_path, "transformer")]) == ExitCode.OK
    before = pd.read_csv(tmp_path / "bench.csv")
    assert len(before) == 8
    assert not before["status"].str.startswith("failed").any()
    assert run_bench([benched(tmp_path, "fam", "bench.segment_len=16", "bench.memory_len=2")]) == ExitCode.OK
    assert run_bench([first]) == ExitCode.OK
    after = pd.read_csv(tmp_path / "bench.csv")
    assert len(after) == 12, "another size is another row, the same again is not"
    assert set(after.loc[after["name"] == "fam", "segment_len"]) == {16, 32}
    assert set(after.loc[after["name"] == "fam", "memory_len"]) == {2, 4}
    out = capsys.readouterr().out
    assert "fam train 64 tokens" in out
    assert "128: MiB" in out


def test_a_row_is_of_the_study_that_asked_for_it(tmp_path: Path, in_this_process: None) -> None:
    old = tmp_path / "bench.csv"
    labelled = dataclasses.replace(benched(tmp_path), study="fam_cost")
    assert run_bench([benched(tmp_path)]) == ExitCode.OK
    pd.read_csv(old, dtype=object).drop(columns=["study", "scale"]).to_csv(old, index=False)
    assert run_bench([benched(tmp_path)]) == ExitCode.OK
    assert run_bench([labelled]) == ExitCode.OK
    rows = pd.read_csv(old)
    assert rows["study"].fillna("none").value_counts().to_dict() == {"none": 8, "fam_cost": 4}
    assert run_bench([labelled]) == ExitCode.OK
    assert len(pd.read_csv(old)) == 12


@pytest.mark.parametrize(("text", "message"), [("", "cannot be read"), ("name,task\nfam,passkey\n", "has no column")])
def test_another_file_is_left_as_it_is(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bench.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        run_bench([benched(tmp_path)])
    assert (tmp_path / "bench.csv").read_text() == text


def test_a_failure_is_a_row_and_the_others_go_on(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(subject: Subject, length: int, phase: str) -> dict[str, Any]:
        if subject.name == "fam":
            raise RuntimeError("no room\nat all")
        return measure(subject, length, phase)

    monkeypatch.setattr(bench, "measure", fail)
    assert run_bench([benched(tmp_path), benched(tmp_path, "luna")]) == ExitCode.FAILED
    rows = pd.read_csv(tmp_path / "bench.csv")
    assert rows.loc[rows["name"] == "fam", "status"].tolist() == ["failed: no room", "failed: no room"]
    assert not rows.loc[rows["name"] == "luna", "status"].str.startswith("failed").any()


def test_what_takes_too_long_is_skipped(tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"seconds": 99.0, "tokens_per_second": 1.0, "added_bytes": 0}
    monkeypatch.setattr(bench, "measure", lambda *arguments: row)
    assert run_bench([benched(tmp_path)]) == ExitCode.OK
    statuses = pd.read_csv(tmp_path / "bench.csv")["status"].tolist()
    assert statuses == ["ok", "skipped: 64 tokens took 99 s"] * 2


def test_peers_stand_beside_what_they_correspond_to(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, int] = {}

    def build(name: str, **own: int) -> nn.Module:
        sizes.update(own)
        return nn.Embedding(own["vocab_size"], own["vocab_size"])

    peer = peers.Peer("kin", "torch", "fam", "nothing is the same")
    monkeypatch.setattr(peers, "PEERS", {"kin": peer})
    monkeypatch.setattr(peers, "build_language_model", build)
    assert run_bench([benched(tmp_path), benched(tmp_path, "luna")]) == ExitCode.OK
    rows = pd.read_csv(tmp_path / "bench.csv")
    assert rows["name"].unique().tolist() == ["fam", "kin", "luna"]
    kin = rows[rows["name"] == "kin"]
    assert kin["phase"].tolist() == ["train", "train"]
    assert set(kin["package"]) == {f"torch {torch.__version__}"}
    assert (sizes["segment_len"], sizes["memory_len"], sizes["width"]) == (32, 4, 32)
    assert run_bench([benched(tmp_path / "without", "fam", "bench.peers=false")]) == ExitCode.OK
    assert "kin" not in set(pd.read_csv(tmp_path / "without" / "bench.csv")["name"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bench.lengths=[]", "at least one length"),
        ("bench.batch_size=0", "at least 1"),
        ("bench.max_seconds=0", "above 0"),
    ],
)
def test_settings_are_checked(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benched(tmp_path, "fam", override)
