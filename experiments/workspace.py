"""A saved view of W&B for many runs, as code: ``python -m experiments.workspace [task=...] [study=... | sweep=...]``.

    python -m experiments.workspace                                    all runs of logger.project
    python -m experiments.workspace task=passkey study=overview        those of a task and a study
    python -m experiments.workspace sweep=20261123-111934-77           those of one sweep
    python -m experiments.workspace logger.project=mine logger.entity=us --json
    python -m experiments.workspace --report study=overview            a report, which text and figures belong to

Sections: accuracy against step, memory, gates, loss, speed; runs are grouped by the sweep or study that they belong
to, then by variant. With a login the view is saved and its address printed. Without one, or with --json, its
specification is printed, so that it can be looked at and tested without any account. --report makes a W&B report of the
same views instead, with the verdicts of `make report` and the figures: see experiments/workspace_report.py.

Needs the package wandb-workspaces: pip install -r requirements-wandb.txt
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from experiments.diagnostics import CURVES
from experiments.errors import ConfigError, ExitCode, first_line, unknown
from experiments.redact import redact
from experiments.results import HEAD_MEASURES
from experiments.settings import REPOSITORY, LoggerConfig
from experiments.tracking import MAX_TAG, is_logged_in
from experiments.typed import typed

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

#: What the command line may name; those of the logger as run.py names them.
KEYS = ("task", "study", "sweep", "figures", "logger.project", "logger.entity")

#: Words without a value.
SWITCHES = ("--json", "--report")

EXTRA = "wandb-workspaces is not installed: pip install -r requirements-wandb.txt"

#: Measures of gates, and what heads their panels.
GATES = {
    "gate": "gate: the memory's, or the update's, share",
    "write_gate": "gate on writing: what is taken in of a token",
}

#: Runs that a panel draws.
_MAX_RUNS = 100


@dataclass(frozen=True)
class Order:
    """Which runs, and where the view is saved."""

    logger: LoggerConfig
    """Project, and user or team; a null entity is the login's default."""
    tasks: tuple[str, ...]
    """Names of tasks, whose metrics are drawn."""
    tags: tuple[str, ...] = ()
    """Tags that the runs must have, all of them."""
    as_json: bool = False
    """Print the specification whoever is logged in."""
    as_report: bool = False
    """Make a report instead of a workspace."""
    figures: str = ""
    """Where results/figures/ can be read; of a report."""

    @property
    def title(self) -> str:
        """Name of the view."""
        return f"memattn: {', '.join(self.tags) or 'all runs'}"


def parse(arguments: Sequence[str]) -> Order:
    """Reads ``key=value`` words.

    Raises:
        ConfigError: one line that says what is wrong and what would work.
    """
    import data

    values: dict[str, str] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if text in SWITCHES:
            continue
        if not equals or not value:
            raise ConfigError(f"cannot read '{text}': write key=value; --help shows how")
        if key not in KEYS:
            raise ConfigError(unknown("key", key, KEYS))
        values[key] = value
    if "study" in values and "sweep" in values:
        raise ConfigError("study and sweep: a run of a study is found by study=..., name one of them")
    if "figures" in values and "--report" not in arguments:
        raise ConfigError("figures=... is of a report: add --report")
    if not values.get("figures", "https://").startswith("https://"):
        raise ConfigError(f"figures={values['figures']}: W&B shows pictures of https:// addresses alone")
    if "task" in values and values["task"] not in data.available():
        raise ConfigError(unknown("task", values["task"], data.available()))
    own: Any = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "logger" / "wandb.yaml"))
    chosen = {key.removeprefix("logger."): value for key, value in values.items() if key.startswith("logger.")}
    labels = [f"{key}:{values[key]}"[:MAX_TAG] for key in ("study", "sweep") if key in values]
    return Order(
        logger=typed(LoggerConfig, {**own, **chosen}, "logger"),
        tasks=(values["task"],) if "task" in values else data.available(),
        tags=(*([values["task"]] if "task" in values else []), *labels),
        as_json="--json" in arguments,
        as_report="--report" in arguments,
        figures=values.get("figures", ""),
    )


def build_workspace(order: Order, *, entity: str) -> Workspace:
    """The view, not yet saved; nothing is asked of any server.

    Raises:
        ImportError: the package wandb-workspaces is missing.
    """
    from wandb_workspaces import expr
    from wandb_workspaces.workspaces import RunsetSettings, Workspace, WorkspaceSettings

    scores = [f"summary:test/{metric}" for metric in headlines(order.tasks)]
    facts = ["num_params", "state_size", "tokens_per_second", "wall_seconds"]
    return Workspace(
        entity=entity,
        project=order.logger.project or "memattn",
        name=order.title,
        sections=_sections(order.tasks),
        settings=WorkspaceSettings(x_axis="Step", max_runs=_MAX_RUNS, group_by_prefix="first"),
        runset_settings=RunsetSettings(
            filters=expr.And(*(expr.Tags().isin([tag]) for tag in order.tags)) if order.tags else "",
            groupby=[expr.Metric("Group"), expr.Config("variant")],
            pinned_columns=[*scores, *(f"summary:{name}" for name in facts)],
        ),
    )


def specification(workspace: Workspace) -> dict[str, Any]:
    """What would be sent to W&B."""
    return workspace._model.model_dump(by_alias=True, exclude_none=True)


def _sections(tasks: Sequence[str]) -> list[Section]:
    """What is drawn, and in which order."""
    from wandb_workspaces.workspaces import Section

    metrics = headlines(tasks)
    memory = [*CURVES, *(name for name in HEAD_MEASURES if name not in GATES), "knock_out"]
    worth = [f"val/{metric}_without_memory" for metric in metrics]
    speed = {"tokens_per_second": "tokens/s", "peak_memory_bytes": "peak memory", "wall_seconds": "seconds a run"}
    lines = {
        "accuracy against step": [line_plot(f"val/{metric}") for metric in metrics],
        "memory": [line_plot(f"memory/{name}") for name in memory],
        "gates": [line_plot(f"memory/{name}", title=title) for name, title in GATES.items()],
        "loss": [line_plot(f"train/{name}") for name in ("loss", "grad_norm", "learning_rate")],
        "speed": [line_plot("train/tokens_per_second", title="tokens/s against step")],
    }
    bars = {
        "accuracy against step": [bar_plot(f"test/{metric}") for metric in metrics],
        "memory": [bar_plot(name) for name in worth] + [memory_pictures()],
        "speed": [bar_plot(name, title=title) for name, title in speed.items()],
    }
    shown_first = ("accuracy against step", "memory")
    return [
        Section(name=name, panels=[*panels, *bars.get(name, [])], is_open=name in shown_first)
        for name, panels in lines.items()
    ]


def headlines(tasks: Sequence[str]) -> list[str]:
    """The headline metrics of tasks, each once."""
    import data

    return list(dict.fromkeys(data.task_class(name).metric for name in tasks))


def line_plot(metric: str, *, title: str | None = None) -> Any:
    """A metric against the step: the mean of each variant's seeds, between their least and greatest."""
    from wandb_workspaces.reports.v2 import Config, LinePlot

    return LinePlot(
        title=title or metric,
        x="Step",
        y=[metric],
        groupby=Config("variant"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MAX_RUNS,
    )


def bar_plot(metric: str, *, title: str | None = None) -> Any:
    """A final number of each variant, with the spread of its seeds."""
    from wandb_workspaces.reports.v2 import BarPlot, Config

    return BarPlot(
        title=title or metric,
        metrics=[metric],
        groupby=Config("variant"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MAX_RUNS,
    )


def memory_pictures() -> Any:
    """The memory by layer, as each run drew it at its end."""
    from wandb_workspaces.reports.v2 import MediaBrowser

    return MediaBrowser(title="memory by layer", media_keys=["memory"])


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return ExitCode.OK
    try:
        order = parse(arguments)
        if order.as_json or not is_logged_in():
            print(json.dumps(_specification(order, order.logger.entity or "<entity>"), indent=1))
            if not order.as_json:
                print("nobody is logged in: `wandb login`, then the same command saves this view", file=sys.stderr)
            return ExitCode.OK
    except ConfigError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except ImportError:
        print(f"error: {EXTRA}", file=sys.stderr)
        return ExitCode.USER_ERROR
    return _save(order)


def _specification(order: Order, entity: str) -> dict[str, Any]:
    from experiments import workspace_report  # it takes panels from here

    if order.as_report:
        return workspace_report.specification(workspace_report.build_report(order, entity=entity))
    return specification(build_workspace(order, entity=entity))


def _save(order: Order) -> int:
    """Saves the view. W&B has many ways to fail, and none of them is ours to tell apart."""
    try:
        import wandb

        entity = order.logger.entity or wandb.Api(timeout=20).default_entity
        if not entity:
            raise ConfigError("the login has no default entity: name one with logger.entity=...")
        from experiments.workspace_report import build_report

        build = build_report if order.as_report else build_workspace
        saved = build(order, entity=entity).save()
    except ImportError:
        print(f"error: {EXTRA}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except Exception as error:
        advice = "--json prints the view without saving it"
        print(f"error: the view could not be saved ({first_line(error)}): {advice}", file=sys.stderr)
        return ExitCode.FAILED
    print(f"saved: {saved.url}")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
