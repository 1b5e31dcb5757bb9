"""Settings: every yaml is composed, every key is typed, and what is wrong is said in one line."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import data
import models
from experiments.config import RunConfig, build_model, build_run_config, build_task, register_resolvers, to_plain
from experiments.errors import ConfigError
from experiments.preflight import CONF, check_command_line, groups
from experiments.settings import LoggerConfig, StoreConfig, TrainerConfig, TuneConfig
from experiments.typed import typed
from tests.experiments.small_runs import settings

YAMLS = sorted(CONF.rglob("*.yaml"))
SCALES = ("smoke", "laptop", "paper")


def comments(path: Path) -> list[str]:
    """Comment lines on top of a file, without Hydra's own header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ") and not line.startswith("# @")]


def composed(*overrides: str) -> dict[str, Any]:
    """What Hydra makes of overrides, before it is typed."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="run"):
        values = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_file_begins_with_a_command_that_works(path: Path) -> None:
    words = shlex.split(comments(path)[0])
    assert words[:2] == ["python", "run.py"]
    assert check_command_line(words[2:])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", data.available())
@pytest.mark.parametrize("model", groups()["model"])
def test_every_variant_fits_every_task_at_every_scale(model: str, task: str, scale: str) -> None:
    (config,) = check_command_line([f"model={model}", f"task={task}", f"scale={scale}"])
    assert (config.model.label, config.task.name, config.scale) == (model, task, scale)
    assert isinstance(config.model.options, models.options_class(config.model.name))
    assert isinstance(config.task.options, data.config_class(task))


def test_files_are_named_like_what_they_configure() -> None:
    """A preset is named like the label that it gives itself."""
    labels = {name: composed(f"model={name}")["model"] for name in groups()["model"]}
    assert tuple(name for name, values in labels.items() if "variant" not in values) == models.available()
    assert all(values.get("variant", values["name"]) == name for name, values in labels.items())
    assert groups()["task"] == data.available()


def names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_yaml_holds_every_option_so_that_each_can_be_set() -> None:
    values = composed()
    assert set(values["trainer"]) == names(TrainerConfig)
    assert set(values["backbone"]) == names(models.BackboneConfig)
    assert set(values["logger"]) == names(LoggerConfig)
    assert set(values["tune"]) == names(TuneConfig)
    assert set(values) - {"size"} == names(RunConfig)
    for model in groups()["model"]:
        values = composed(f"model={model}")["model"]
        assert set(values) - {"name", "variant"} == names(models.options_class(values["name"])), model
    for task in data.available():
        options = set(composed(f"task={task}")["task"]) - {"name", "scales"}
        assert options == names(data.config_class(task)), task


def test_every_size_has_the_same_rows_and_each_row_has_an_effect() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in YAMLS)
    for task in data.available():
        columns = composed(f"task={task}")["task"]["scales"]
        assert set(columns) == set(SCALES)
        rows = {frozenset(column) for column in columns.values()}
        assert len(rows) == 1, f"the columns of {task} differ"
        for row in rows.pop():
            assert f"${{size.{row}}}" in text, f"{task}: nothing reads {row}"


def test_variants_share_all_but_their_own_options() -> None:
    shared = [{**composed(f"model={model}"), "model": None} for model in groups()["model"]]
    for values in shared:
        values["tune"]["space"].pop("model", None)
    assert all(values == shared[0] for values in shared)


def test_every_field_is_described() -> None:
    for cls in (TrainerConfig, LoggerConfig, StoreConfig, TuneConfig, RunConfig):
        source = Path(inspect.getfile(cls)).read_text(encoding="utf-8")
        body = source.partition(f"class {cls.__name__}:")[2].partition("\n@dataclass")[0]
        for field in dataclasses.fields(cls):
            after = body.partition(f"\n    {field.name}: ")[2].splitlines()[1]
            assert after.strip().startswith('"""'), f"{cls.__name__}.{field.name}"


def test_plain_form_is_read_back_as_the_same_settings(tmp_path: Path) -> None:
    config = settings(tmp_path, "model=fam", "task=passkey", "trainer.clip_norm=null", "seed=3")
    plain = to_plain(config)
    assert build_run_config(plain) == config
    assert build_run_config(OmegaConf.create(OmegaConf.to_yaml(plain))) == config  # type: ignore[arg-type]


def test_settings_are_frozen(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.trainer.steps = 3  # type: ignore[misc]


def test_task_and_model_are_built_from_the_settings(tmp_path: Path) -> None:
    config = settings(tmp_path, "model=fam", "task=passkey", "backbone.width=16", "model.fam_len=2", "seed=5")
    task = build_task(config)
    model = build_model(config, task)
    assert (task.name, task.seed) == ("passkey", 5)
    assert (model.variant, model.config.width, model.options.fam_len) == ("fam", 16, 2)


TRAINER = {"batch_size": 8, "steps": 10, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "trainer.steps=0: must be at least 1"),
        ({"batch_size": -1}, "trainer.batch_size=-1: must be at least 1"),
        ({"val_every": 0}, "trainer.val_every=0: must be at least 1"),
        ({"learning_rate": 5.0}, "trainer.learning_rate=5.0: must lie in (0, 1]"),
        ({"learning_rate": 0.0}, "trainer.learning_rate=0.0: must lie in (0, 1]"),
        ({"weight_decay": -0.1}, "trainer.weight_decay=-0.1: must lie in [0, 1]"),
        ({"beta2": 1.0}, "trainer.beta2=1.0: must lie in [0, 1)"),
        ({"clip_norm": 0.0}, "trainer.clip_norm=0.0: must be above 0, or null for no clipping"),
        ({"warmup_steps": 11}, "trainer.warmup_steps=11: must lie between 0 and trainer.steps=10"),
        ({"accumulate": 3}, "trainer.accumulate=3: must divide trainer.batch_size=8"),
        ({"accumulate": 0}, "trainer.accumulate=0: must be at least 1"),
        ({"devices": 0}, "trainer.devices=0: must be at least 1"),
        ({"devices": 3}, "trainer.devices=3: must divide trainer.batch_size=8"),
        (
            {"devices": 4, "accumulate": 2},
            "trainer.accumulate=2: must be a multiple of trainer.devices=4, or null: one part for each device",
        ),
        ({"num_workers": -1}, "trainer.num_workers=-1: must be 0 or more"),
        (
            {"schedule": "cosin"},
            "unknown trainer.schedule 'cosin': did you mean 'cosine'? There are: constant, cosine, inverse_sqrt",
        ),
        ({"precision": "16"}, "unknown trainer.precision '16': There are: 32, auto, bf16"),
        ({"device": "gpu"}, "unknown trainer.device 'gpu': There are: auto, cpu, cuda, mps"),
        (
            {"progress": "bars"},
            "unknown trainer.progress 'bars': did you mean 'bar'? There are: auto, bar, none, plain",
        ),
        ({"steps": "abc"}, "trainer.steps='abc': expected a whole number"),
        ({"steps": 1.5}, "trainer.steps=1.5: expected a whole number"),
        ({"compile": 1}, "trainer.compile=1: expected true or false"),
        ({"clip_norm": "x"}, "trainer.clip_norm='x': expected a number or null"),
        ({"learning_rate": None}, "trainer.learning_rate=None: expected a number"),
    ],
)
def test_values_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        typed(TrainerConfig, {**TRAINER, **change}, "trainer")
    assert str(caught.value) == message


def test_what_has_no_default_must_be_set() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.learning_rate is not set$"):
        typed(TrainerConfig, {"batch_size": 8, "steps": 10}, "trainer")


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^logger\.project=mine: has no effect with logger=none$"):
        LoggerConfig("none", project="mine")
    plain = to_plain(settings(tmp_path))
    with pytest.raises(ConfigError, match=r"^run=ab has no effect with mode=train"):
        build_run_config({**plain, "run": "ab"})
    with pytest.raises(ConfigError, match=r"^force=true has no effect with mode=eval"):
        build_run_config({**plain, "mode": "eval", "run": "ab", "force": True})


def test_a_key_of_another_variant_is_unknown(tmp_path: Path) -> None:
    plain = to_plain(settings(tmp_path, "model=fam"))
    plain["model"]["tied"] = True
    with pytest.raises(ConfigError, match=r"^unknown key in model 'tied'.*There are: block_len"):
        build_run_config(plain)


def test_results_folder_is_the_setting_then_the_environment_then_beside_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMATTN_RESULTS", str(tmp_path / "environment"))
    assert StoreConfig(str(tmp_path / "setting")).runs == tmp_path / "setting" / "runs"
    assert StoreConfig().runs == tmp_path / "environment" / "runs"
    monkeypatch.delenv("MEMATTN_RESULTS")
    assert StoreConfig().runs == CONF.parent / "results" / "runs"


def test_each_step_from_luna_to_filtered_memory_changes_one_thing() -> None:
    """Four presets, each with one of ConvLuna's four changes and Luna's setting of the other three."""

    def options(model: str) -> dict[str, Any]:
        return {key: value for key, value in composed(f"model={model}")["model"].items() if key != "variant"}

    all_four = options("filtered_memory")
    luna = {"filter": "none", "kernel": 1, "value_projection": True, "pack_temperature": "sqrt", "unpack_scale": "sqrt"}
    changes: dict[str, tuple[str, ...]] = {
        "luna_filter": ("filter", "kernel"),
        "luna_no_value": ("value_projection",),
        "luna_pack_temperature": ("pack_temperature",),
        "luna_unpack_unscaled": ("unpack_scale",),
    }
    assert sorted(key for keys in changes.values() for key in keys) == sorted(luna)
    for model, keys in changes.items():
        assert options(model) == all_four | luna | {key: all_four[key] for key in keys}, model
