"""Small real runs: what they store, what they learn, what may and what may not change their numbers."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import models
from data.base import Evaluation
from data.passkey import Passkey
from experiments import checkpoints
from experiments.config import RunConfig
from experiments.errors import ConfigError, DivergedError, ExitCode
from experiments.evaluate import evaluate_run
from experiments.flops import step_flops, train_flops
from experiments.hardware import Hardware, git_sha, hardware_line, peak_memory_bytes
from experiments.progress import Bar, Display, Lines, Reporter, Snapshot, clock_time, make_display
from experiments.store import RunFolder
from experiments.train import train
from tests.experiments.small_runs import folder_of, lasting, outcome, rows, run_here, settings, write_reviews

PASSKEY = ("model=transformer", "task=passkey")


def trained(config: RunConfig) -> RunFolder:
    """The folder of a run that was trained here and ended well."""
    assert run_here(config) == ExitCode.OK
    return folder_of(config)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder]:
    """One small run."""
    config = settings(tmp_path_factory.mktemp("plain"), *PASSKEY)
    return config, trained(config)


def losses(folder: RunFolder) -> list[float]:
    return [row["loss"] for row in rows(folder, "train")]


def test_result_says_what_came_out_and_what_it_took(plain: tuple[RunConfig, RunFolder]) -> None:
    result = plain[1].result()
    assert result is not None
    assert result["metric"] == "exact_match"
    assert {"val/exact_match", "test/exact_match", "test/symbol_accuracy", "floor/chance_exact_match"} <= result.keys()
    assert result["test/n"] == 100
    assert result["steps"] == 12
    assert result["best_step"] in (4, 8, 12)
    assert [step for step, _ in result["milestones"]] == [4, 8, 12]
    assert result["num_params"] > 1000
    assert result["train_flops"] > 6 * result["train_tokens"] * 1000
    assert result["tokens_per_second"] > 0
    assert result["peak_memory_bytes"] > 2**20
    assert 0 < result["wall_seconds"] < 120
    assert result["attempts"] == 1
    assert json.loads(plain[1].result_file.read_text()) == result


def test_rows_come_every_few_steps(plain: tuple[RunConfig, RunFolder]) -> None:
    folder = plain[1]
    assert [row["step"] for row in rows(folder, "train")] == [3, 6, 9, 12]
    assert [row["step"] for row in rows(folder, "val")] == [4, 8, 12]
    for row in rows(folder, "train"):
        assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "attempt", "time"} <= row.keys()
    assert all("exact_match" in row for row in rows(folder, "val"))


def test_same_settings_give_the_same_numbers(plain: tuple[RunConfig, RunFolder], tmp_path: Path) -> None:
    assert outcome(trained(settings(tmp_path, *PASSKEY))) == outcome(plain[1])


def test_another_seed_gives_other_numbers(plain: tuple[RunConfig, RunFolder], tmp_path: Path) -> None:
    other = trained(settings(tmp_path, *PASSKEY, "seed=1"))
    assert not set(losses(other)) & set(losses(plain[1]))


def test_validation_changes_nothing_in_training(plain: tuple[RunConfig, RunFolder], tmp_path: Path) -> None:
    often = trained(settings(tmp_path, *PASSKEY, "trainer.val_every=1", "backbone.dropout=0.2"))
    rarely = trained(settings(tmp_path, *PASSKEY, "trainer.val_every=100", "backbone.dropout=0.2"))
    assert losses(often) == losses(rarely)
    assert losses(often) != losses(plain[1])


def test_loader_process_and_rarer_rows_change_no_number(plain: tuple[RunConfig, RunFolder], tmp_path: Path) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.num_workers=1", "trainer.log_every=100")
    folder = trained(config)
    assert lasting(folder.result() or {}) == lasting(plain[1].result() or {})
    assert [row["step"] for row in rows(folder, "train")] == [12]
    assert losses(folder)[0] == pytest.approx(np.mean(losses(plain[1])), rel=1e-6)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(plain: tuple[RunConfig, RunFolder], tmp_path: Path) -> None:
    folder = trained(settings(tmp_path, *PASSKEY, "trainer.accumulate=4"))
    assert losses(folder) == pytest.approx(losses(plain[1]), rel=1e-3)
    norms, whole = ([row["grad_norm"] for row in rows(run, "train")] for run in (folder, plain[1]))
    assert norms == pytest.approx(whole, rel=1e-2)


def test_bfloat16_trains_and_is_evaluated_alike(tmp_path: Path) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.precision=bf16")
    folder = trained(config)
    assert folder.result()["precision"] == "bf16"  # type: ignore[index]
    assert evaluate_run(config, folder)["equal"]


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "constant"])
def test_learning_rate_in_the_rows_is_that_of_the_schedule(schedule: str, tmp_path: Path) -> None:
    folder = trained(settings(tmp_path, *PASSKEY, f"trainer.schedule={schedule}", "trainer.steps=9"))
    rates = [row["learning_rate"] for row in rows(folder, "train")]
    expected = [2e-3 * (2 / step) ** 0.5 for step in (3, 6, 9)] if schedule == "inverse_sqrt" else [2e-3] * 3
    assert rates == pytest.approx(expected)
    stored = checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)
    used = [group["lr"] for group in stored["optimizer_states"][0]["param_groups"]]
    assert used == pytest.approx(expected[-1:] * len(used))


def test_text_is_learned(tmp_path: Path) -> None:
    root = write_reviews(tmp_path / "data")
    text = ("model=luna", "task=lra_text", f"data.root={root}", "trainer.steps=60", "trainer.val_every=20")
    folder = trained(settings(tmp_path, *text, "trainer.learning_rate=5e-3"))
    result = folder.result()
    assert result is not None
    assert result["data_source"] == "imdb-local"
    assert result["test/accuracy"] > 0.8
    assert losses(folder)[-1] < 0.7 * losses(folder)[0]
    assert result["test/n"] == 200


def test_best_checkpoint_is_the_earliest_of_equals_and_tested_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.4, 0.4, 0.3])
    splits = []
    original = Passkey.evaluate

    def scripted(self: Passkey, model: Any, split: Any, **options: Any) -> Evaluation:
        evaluation = original(self, model, split, **options)
        splits.append(split)
        return evaluation if split == "test" else evaluation._replace(metrics={"exact_match": next(scores)})

    monkeypatch.setattr(Passkey, "evaluate", scripted)
    config = settings(tmp_path, *PASSKEY, "trainer.val_every=3")
    folder = trained(config)
    result = folder.result()
    assert result is not None
    assert (result["best_step"], result["val/exact_match"]) == (9, 0.4)
    assert splits == ["val"] * 4 + ["test"]
    best = checkpoints.load(folder.best_checkpoint, kind="weights", run_id=folder.run_id)
    last = checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)
    assert best["weights"].keys() == {name.removeprefix("model.") for name in last["state_dict"]}
    assert any(not torch.equal(weight, last["state_dict"][f"model.{name}"]) for name, weight in best["weights"].items())


def test_evaluating_again_gives_the_stored_numbers(
    plain: tuple[RunConfig, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = plain
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    again = evaluate_run(config, folder)
    assert again["equal"]
    assert again["metrics"] == again["stored"]
    assert again["metrics"]["test/n"] == 100
    printed = capsys.readouterr().out
    assert "test/exact_match" in printed
    assert "differs" not in printed
    assert {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()} == before


def test_another_test_is_kept_beside_the_run(
    plain: tuple[RunConfig, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = plain
    found = evaluate_run(config, folder, test={"eval_blocks": [9], "eval_samples": 2})
    (file,) = (folder.path / "tests").iterdir()
    kept = json.loads(file.read_text())
    assert kept["run_id"] == folder.run_id
    assert kept["options"] == {"eval_blocks": [9], "eval_samples": 2}
    assert kept["test/exact_match@9b"] == found["metrics"]["test/exact_match@9b"]
    assert {row["length_blocks"] for row in kept["slices"]} >= {9}
    assert kept["peak_memory_bytes"] > 0
    assert str(file) in capsys.readouterr().out
    shutil.rmtree(folder.path / "tests")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"eval_block": [9]}, "task=passkey: unknown test option 'eval_block': did you mean 'eval_blocks'"),
        ({"curriculum": []}, "task=passkey: unknown test option 'curriculum': There are: eval_blocks, "),
        ({"eval_blocks": [0]}, "task.eval_blocks must be 1 or more each, or null"),
        ({"eval_blocks": "many"}, "task.eval_blocks='many': expected "),
    ],
)
def test_a_test_that_the_task_has_not(test: dict[str, Any], message: str, plain: tuple[RunConfig, RunFolder]) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate_run(*plain, test=test)
    assert str(caught.value).startswith(message)


def test_evaluating_on_other_data_is_refused(tmp_path: Path) -> None:
    root = write_reviews(tmp_path / "data", count=60)
    text = ("model=transformer", "task=lra_text", "trainer.steps=1", "trainer.warmup_steps=0")
    config = settings(tmp_path, *text, f"data.root={root}")
    folder = trained(config)
    other = write_reviews(tmp_path / "other", count=80)
    with pytest.raises(ConfigError, match="to the same data"):
        evaluate_run(settings(tmp_path, *text, f"data.root={other}"), folder)


def test_nan_stops_before_anything_is_stored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.steps=6", "trainer.log_every=5")
    folder = trained(config)
    folder.result_file.unlink()
    content = checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)
    content["state_dict"]["model.embedding.weight"].fill_(float("nan"))
    content["callbacks"]["RunCallback"]["history"] = []  # there will be no best checkpoint in its new place
    checkpoints.save(folder.last_checkpoint, content, kind="training", run_id=folder.run_id)
    longer = settings(tmp_path, *PASSKEY, "trainer.steps=20", "trainer.log_every=5")
    poisoned = folder_of(longer)
    poisoned.path.parent.mkdir(exist_ok=True)
    poisoned.checkpoints.mkdir(parents=True)
    checkpoints.save(poisoned.last_checkpoint, content, kind="training", run_id=poisoned.run_id)
    stored = poisoned.last_checkpoint.read_bytes()
    capfd.readouterr()
    assert run_here(longer) == ExitCode.FAILED
    message = capfd.readouterr().err
    assert "loss is nan at step 7, first in weight embedding.weight (learning rate" in message
    assert "trainer.learning_rate" in message
    assert len(message.splitlines()) == 1
    assert poisoned.state == "failed"
    assert poisoned.last_checkpoint.read_bytes() == stored
    assert not poisoned.best_checkpoint.exists()


def test_infinite_gradient_names_its_step(tmp_path: Path) -> None:
    from experiments.lightning_modules import make_module

    config = settings(tmp_path, *PASSKEY)
    module = make_module("classify", nn.Linear(1, 1), config.trainer, hardware=Hardware("cpu", "32"), seed=0)
    module.check_finite()
    module.losses = [torch.tensor(1.0)] * 3
    module.gradient_norms = [torch.tensor(1.0), torch.tensor(float("inf")), torch.tensor(float("nan"))]
    module._trainer = type("Trainer", (), {"global_step": 9})()
    with pytest.raises(DivergedError, match="gradient is inf at step 8"):
        module.check_finite()


def test_pending_losses_come_back_to_the_device_of_the_run(tmp_path: Path) -> None:
    """Lightning gives a checkpoint back before it moves the module there."""
    from experiments.lightning_modules import make_module

    config = settings(tmp_path, *PASSKEY)
    module = make_module("classify", nn.Linear(1, 1), config.trainer, hardware=Hardware("meta", "32"), seed=0)
    module.on_load_checkpoint({"window": {"losses": [1.0], "gradient_norms": [2.0], "passes": [], "tokens": 3}})
    assert {tensor.device.type for tensor in (*module.losses, *module.gradient_norms)} == {"meta"}


def test_training_says_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.progress=plain")
    folder = folder_of(config)
    with folder.lock():
        folder.begin(config)
        train(config, folder)
    status = folder.status()
    assert {"step", "steps", "loss", "metric", "tokens_per_second", "eta_seconds"} <= status.keys()
    lines = capsys.readouterr().out.splitlines()
    assert "parameters" in lines[0]
    assert any("step 8/12" in line and "exact_match" in line and "left" in line for line in lines)


def test_numbers_that_are_missing_are_not_shown() -> None:
    assert str(Snapshot(3, 10)) == "step 3/10"
    full = Snapshot(3, 10, "validating 50%", 0.5, "accuracy", 0.75, 12345.6, 200.0)
    assert str(full) == "step 3/10  validating 50%  loss 0.5000  accuracy 0.7500  12,346 tok/s  3:20 left"
    assert [clock_time(seconds) for seconds in (0.4, 67, 7400)] == ["0:00", "1:07", "2:03:20"]


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("fam")
    for step in range(100):
        lines.show(Snapshot(step, 100))
    lines.show(Snapshot(100, 100), important=True)
    assert capsys.readouterr().out == "fam  step 100/100\n"


def test_bar_moves_on_a_terminal() -> None:
    screen = io.StringIO()
    with Bar("fam", Console(file=screen, force_terminal=True, width=100)) as bar:
        bar.note("hello")
        bar.show(Snapshot(5, 10, loss=0.25))
    assert "hello" in screen.getvalue()
    assert "step 5/10  loss 0.2500" in screen.getvalue()


def test_display_fits_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_display("none", "fam")) is Display
    assert type(make_display("auto", "fam")) is Lines
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with make_display("auto", "fam") as display:
        assert type(display) is Bar


def test_status_is_written_once_a_second_at_most(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    reporter = Reporter(Display(), folder)
    assert reporter.due()
    reporter.report(Snapshot(1, 10))
    for step in range(2, 6):
        reporter.report(Snapshot(step, 10))
    assert folder.status()["step"] == 1
    reporter._next = time.monotonic()
    reporter.report(Snapshot(6, 10))
    assert folder.status()["step"] == 6


def test_missing_status_folder_stops_no_run(tmp_path: Path) -> None:
    Reporter(Display(), RunFolder(tmp_path / "gone")).report(Snapshot(1, 10))


def transformer(depth: int) -> models.Model:
    return models.build_model(
        "transformer", vocab_size=20, max_len=64, causal=True, width=32, depth=depth, num_heads=4, ffn_width=64
    )


@pytest.mark.parametrize("length", [16, 64])
def test_operations_equal_the_closed_form(length: int) -> None:
    size, width, hidden, vocab = 3, 32, 64, 20
    projections = 2 * size * length * (4 * width * width + 2 * width * hidden)
    attention = 4 * size * length * length * width
    head = 2 * size * length * width * vocab
    for depth in (1, 2):
        expected = 3 * (depth * (projections + attention) + head)
        assert step_flops(transformer(depth), (size, length)) == expected


def test_operations_of_a_training_are_summed_over_lengths() -> None:
    model = transformer(1)
    steps: dict[tuple[int, ...], int] = {(2, length): length for length in range(8, 60, 4)}
    exact = sum(step_flops(model, shape) * count for shape, count in steps.items())
    assert train_flops(model, steps) == pytest.approx(exact, rel=0.01)
    assert train_flops(model, {(2, 8): 3, (4, 8): 1}) == 3 * step_flops(model, (2, 8)) + step_flops(model, (4, 8))


def test_counting_leaves_the_model_alone() -> None:
    for name in models.available():
        model = models.build_model(
            name, vocab_size=20, max_len=64, num_classes=2, width=32, num_heads=4, positions="learned"
        )
        before = {key: value.clone() for key, value in model.state_dict().items()}
        assert step_flops(model, (2, 64)) > 0
        assert model.training
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key])
            assert value.device.type == "cpu"


def test_hardware_is_chosen_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Hardware.choose() == ("cpu", "32")
    assert Hardware.choose("cpu", "bf16") == ("cpu", "bf16")
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        Hardware.choose("cuda")
    with pytest.raises(ConfigError, match="choose one of auto, 32, bf16"):
        Hardware.choose("cpu", "16")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    assert Hardware.choose() == ("cuda", "bf16")
    assert "threads" in hardware_line("cpu")
    assert peak_memory_bytes("cpu") > 2**20
    sha = git_sha()
    assert sha is None or len(sha.removesuffix("-dirty")) == 40
