"""A finished run's best model as plain files, to be used without this program's store: ``mode=export``.

    <run>/export/
        model.safetensors   the weights: numbers and names, nothing that could be executed
        config.json         everything that ``models.build_model`` needs, and what the run was; written last
        README.md           a card of a few lines

:func:`load_exported` reads them back with nothing but ``models/``: no Hydra, no Lightning, no store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from experiments.errors import StoreError, first_line
from models import build_model

if TYPE_CHECKING:
    from experiments.store import RunFolder
    from models import Model

#: Raised when a reader could not understand a folder that an older version wrote.
FORMAT = 1

_REMEDY = "export the run again with mode=export"

#: Arguments of ``build_model``; its options and those of the backbone stand in sections of their own.
_SHAPE = ("vocab_size", "max_len", "num_classes", "causal", "pair")


def export_run(folder: RunFolder) -> str:
    """Writes the best checkpoint of a finished run into ``<run>/export``, over what an earlier export left there.

    Args:
        folder: the run.

    Returns:
        A few lines that say where everything is and how to load it.

    Raises:
        StoreError: the run is not done, or its settings or its best checkpoint cannot be read.
        LockedError: another process is working in the run's folder.
    """
    from experiments import checkpoints
    from experiments.store import atomic_path, write_atomically

    with folder.lock():
        result = folder.result()
        if result is None:
            raise StoreError(f"run {folder.run_id} is not done: train it to its end first")
        best = checkpoints.load(folder.best_checkpoint, kind="weights", run_id=folder.run_id)
        config = _describe(folder, result)
        model = _build(config)
        checkpoints.load_weights(model, best["weights"], folder.best_checkpoint)
        target = folder.path / "export"
        target.mkdir(exist_ok=True)
        weights = target / "model.safetensors"
        with atomic_path(weights) as temporary:
            # Copies, as the format takes no two names for one piece of memory.
            tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
            save_file(tensors, temporary, metadata={"format": "pt"})
        config = {**config, "best_step": best["step"], "weights_sha256": _digest(weights)}
        write_atomically(target / "README.md", _card(config))
        write_atomically(target / "config.json", json.dumps(config, indent=2) + "\n")
    load = f'from experiments.export import load_exported; model = load_exported("{target}")'
    return f"{folder.run_id} exported to {target}\n  {load}"


def load_exported(folder: str | Path) -> Model:
    """The model that :func:`export_run` wrote, on the CPU, in evaluation mode.

    Nothing in the files is executed: names and numbers are compared with a model that is built from the settings.

    Args:
        folder: ``<run>/export``, or a copy of it.

    Raises:
        StoreError: a file is missing, torn, was changed, or does not belong to the others.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    path = folder / "model.safetensors"
    try:
        if _digest(path) != config["weights_sha256"]:
            raise StoreError(f"{path} was changed after it was exported: {_REMEDY}")
        weights = load_file(path)
        model = _build(config)
    except KeyError as error:
        raise StoreError(f"{folder / 'config.json'} does not say {first_line(error)}: {_REMEDY}") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error}): {_REMEDY}") from error
    except SafetensorError as error:
        raise StoreError(f"{path} is torn, or no file of weights ({first_line(error)}): {_REMEDY}") from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{folder / 'config.json'} describes no model ({first_line(error)}): {_REMEDY}") from error
    _check_names(model, weights, path)
    model.load_state_dict(weights)
    return model.eval()


def _describe(folder: RunFolder, result: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json but for the weights' digest."""
    from experiments.config import build_task, to_plain

    stored = folder.config()
    task, plain = build_task(stored), to_plain(stored)
    options = {key: value for key, value in plain["model"].items() if key not in ("name", "variant")}
    metric = str(result["metric"])
    return {
        "format": FORMAT,
        "model": stored.model.name,
        "options": options,
        "backbone": plain["backbone"],
        "vocab_size": task.vocab_size,
        "max_len": task.max_len,
        "num_classes": task.num_classes,
        "causal": task.kind == "next_token",
        "pair": task.pair_head if task.kind == "pair" else None,
        "variant": stored.model.label,
        "run_id": folder.run_id,
        "task": stored.task.name,
        "scale": stored.scale,
        "seed": stored.seed,
        "data_source": result.get("data_source"),
        "data_checksum": result.get("data_checksum"),
        "metric": metric,
        "score": result.get(f"test/{metric}"),
        "num_params": result.get("num_params"),
        "git_sha": result.get("git_sha"),
        "torch": result.get("torch"),
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error}): {_REMEDY}") from error
    except ValueError as error:
        raise StoreError(f"{path} is torn (no complete JSON): {_REMEDY}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise StoreError(f"{path} describes no model that this version exported: {_REMEDY}")
    return config


def _build(config: Mapping[str, Any]) -> Model:
    """The untrained model that config.json describes."""
    shape: dict[str, Any] = {name: config[name] for name in _SHAPE}
    values = {**config["backbone"], **config["options"]}
    # JSON has no tuples.
    overrides: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return build_model(config["model"], **shape, **overrides)


def _check_names(model: Model, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuses weights that are not exactly the model's, by name, shape and type."""
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    stored = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}
    if expected != stored:
        name = min(name for name in expected | stored if expected.get(name) != stored.get(name))
        what = "is missing" if name not in stored else "belongs to no part" if name not in expected else "differs"
        raise StoreError(f"{path} holds another model ({name} {what}): {_REMEDY}")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _card(config: Mapping[str, Any]) -> str:
    """The README of an export."""
    score = config["score"]
    shown = f"{score:.4f}" if isinstance(score, int | float) else "unknown"
    head = f"{config['num_classes']} classes" if config["num_classes"] else "the next token"
    params = f"{config['num_params']:,}" if isinstance(config["num_params"], int) else "unknown"
    vocabulary = config["vocab_size"]
    tokens = "real numbers" if vocabulary is None else f"whole numbers below {vocabulary}"
    tokens += ", [B, 2, T]" if config["pair"] else ", [B, T]"
    return f"""# {config["variant"]} on {config["task"]}

| | |
|---|---|
| model | `{config["model"]}`, {params} parameters, predicts {head} |
| trained on | `{config["task"]}` (data: {config["data_source"]}), scale `{config["scale"]}`, seed {config["seed"]} |
| test {config["metric"]} | {shown}, one seed, best by validation: step {config["best_step"]} |
| run | `{config["run_id"]}`, commit `{config["git_sha"]}`, torch {config["torch"]} |

```python
from experiments.export import load_exported

model = load_exported("<this folder>")
logits, state = model(tokens)  # {tokens}
```

`config.json` holds every setting of the model; `model.safetensors` holds numbers alone. A model for research: it was
trained to compare memories, and knows nothing but this task.
"""
