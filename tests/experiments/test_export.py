"""``mode=export``: the same model from plain files, and one clear line for files that were touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from experiments import checkpoints
from experiments.config import RunConfig, build_model, build_task
from experiments.errors import ConfigError, ExitCode, StoreError
from experiments.export import export_run, load_exported
from experiments.identity import MissingSource
from experiments.job import export_job
from experiments.settings import REPOSITORY
from experiments.store import RunFolder, run_folder
from models import Model
from tests.experiments.small_runs import settings

PASSKEY = ("transformer", "block_window", "fam", "feedback_memory", "infini", "linear", "luna", "memformer")


def finished(root: Path, *overrides: str) -> tuple[RunFolder, Model]:
    """A finished run whose model was never trained, and that model."""
    config = settings(root, *overrides)
    folder = run_folder(config, MissingSource())
    model = build_model(config, build_task(config)).eval()
    with folder.lock():
        folder.begin(config)
        content = {"step": 4, "metrics": {}, "weights": model.state_dict()}
        checkpoints.save(folder.best_checkpoint, content, kind="weights", run_id=folder.run_id)
        facts = {"num_params": model.num_parameters(), "git_sha": "0123abc", "torch": "2", "data_source": "generated"}
        folder.write_result({"metric": "exact_match", "test/exact_match": 0.5, "data_checksum": "c", **facts})
    return folder, model


def tokens_for(config: RunConfig) -> torch.Tensor:
    task = build_task(config)
    shape = (2, 2, 50) if task.kind == "pair" else (2, 50)
    return torch.rand(shape) if task.vocab_size is None else torch.randint(task.vocab_size, shape)


@pytest.mark.parametrize(
    "overrides",
    [
        *((f"model={name}", "task=passkey") for name in PASSKEY),
        ("model=filtered_memory", "task=lra_text"),
        ("model=mat", "task=lra_retrieval"),
        ("model=luna", "task=lra_image", "task.pixels=real"),
    ],
    ids=lambda overrides: "-".join(overrides),
)
def test_what_is_loaded_gives_the_same_logits(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    folder, model = finished(tmp_path, *overrides)
    said = export_run(folder)
    loaded = load_exported(folder.path / "export")
    tokens = tokens_for(folder.config())
    with torch.no_grad():
        assert torch.equal(loaded(tokens)[0], model(tokens)[0])
    assert str(folder.path / "export") in said


def test_the_export_says_what_the_run_was(tmp_path: Path) -> None:
    folder, _ = finished(tmp_path, "model=fam_gated", "task=passkey", "seed=3")
    export_run(folder)
    assert {path.name for path in (folder.path / "export").iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    config = json.loads((folder.path / "export" / "config.json").read_text())
    wanted = {"model": "fam", "variant": "fam_gated", "run_id": folder.run_id, "task": "passkey", "seed": 3}
    wanted |= {"data_source": "generated", "score": 0.5, "git_sha": "0123abc", "causal": True, "num_classes": None}
    assert {name: config[name] for name in wanted} == wanted
    assert config["options"]["update"] == "gated"
    card = (folder.path / "export" / "README.md").read_text()
    for text in ("# fam_gated on passkey", folder.run_id, "test exact_match | 0.5000", "load_exported", "0123abc"):
        assert text in card
    assert str(tmp_path) not in card, "a card goes elsewhere"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """An export to be tampered with."""
    folder, _ = finished(tmp_path, "model=fam", "task=passkey")
    export_run(folder)
    return folder.path / "export"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Changes the weights, and makes config.json fit: what somebody would do who knows the format."""
    import hashlib

    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    edit(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def edit(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    import hashlib

    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    edit(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


TAMPERING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit": (lambda folder: flip(folder / "model.safetensors"), "was changed after it was exported"),
    "half a file": (cut, "is torn, or no file of weights ("),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read (No such file"),
    "no settings": (lambda folder: (folder / "config.json").unlink(), "cannot be read (No such file"),
    "torn settings": (lambda folder: (folder / "config.json").write_text('{"format"'), "is torn (no complete JSON)"),
    "other settings": (lambda folder: edit(folder, format=99), "describes no model that this version exported"),
    "unknown model": (lambda folder: edit(folder, model="os.system"), "describes no model ("),
    "unknown option": (lambda folder: edit(folder, options={"wheels": 4}), "describes no model ("),
    "lacking a setting": (lambda folder: edit(folder, backbone=None), "describes no model ("),
    "a missing tensor": (
        lambda folder: rewrite(folder, lambda weights: weights.pop("embedding.weight")),
        "holds another model (embedding.weight is missing)",
    ),
    "a further tensor": (
        lambda folder: rewrite(folder, lambda weights: weights.update(more=torch.zeros(1))),
        "holds another model (more belongs to no part)",
    ),
    "another shape": (
        lambda folder: rewrite(folder, lambda weights: weights.update({"embedding.weight": torch.zeros(1)})),
        "holds another model (embedding.weight differs)",
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_files_that_were_touched_are_one_clear_line(exported: Path, what: str) -> None:
    tamper, problem = TAMPERING[what]
    tamper(exported)
    with pytest.raises(StoreError) as caught:
        load_exported(exported)
    message = str(caught.value)
    assert problem in message
    assert message.endswith("export the run again with mode=export")
    assert "\n" not in message


def test_a_key_that_is_gone_is_named(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    del config["vocab_size"]
    (exported / "config.json").write_text(json.dumps(config))
    with pytest.raises(StoreError, match="does not say 'vocab_size'"):
        load_exported(exported)


def test_loading_needs_models_alone(exported: Path) -> None:
    code = "import sys; from experiments.export import load_exported; load_exported(sys.argv[1]); "
    code += "print([name for name in ('hydra', 'omegaconf', 'lightning', 'wandb') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_only_finished_runs_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = finished(tmp_path, "model=fam", "task=passkey")
    order = settings(tmp_path, "mode=export", f"run='{folder.run_id[:6]}'")
    assert export_job(order) == ExitCode.OK
    assert "exported to" in capsys.readouterr().out
    folder.best_checkpoint.write_bytes(b"no checkpoint")
    assert export_job(order) == ExitCode.FAILED
    assert "is truncated or no checkpoint" in capsys.readouterr().err
    folder.result_file.unlink()
    assert export_job(order) == ExitCode.USER_ERROR
    assert "is interrupted, not done: train it to its end first" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"^mode=export needs run="):
        settings(tmp_path, "mode=export")


def test_every_variant_can_be_described_in_json() -> None:
    for name in models.available():
        json.dumps(vars(models.options_class(name)()))
