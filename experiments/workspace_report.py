"""The saved view of W&B as a report that reads from top to bottom: ``python -m experiments.workspace --report``.

    python -m experiments.workspace --report study=overview
    python -m experiments.workspace --report figures=https://raw.githubusercontent.com/me/memattn/main/results/figures

It opens with the verdicts on the papers' claims, as ``make report`` writes them to ``results/report/verdicts.md``;
then each task has its run set, its curves and bars and the measures of the memory; then come the committed figures. W&B
shows a picture by its address alone, so ``figures=...`` says where ``results/figures/`` can be read; without it they
are listed.

Run sets name no project and are thereby the report's own: naming it would ask the server before anything is saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.diagnostics import CURVES
from experiments.settings import REPOSITORY
from experiments.workspace import GATES, Order, bar_plot, headlines, line_plot, memory_pictures

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report

VERDICTS = REPOSITORY / "results" / "report" / "verdicts.md"
FIGURES = REPOSITORY / "results" / "figures"

#: Characters of the verdicts that a report takes; the rest is behind the words that it is cut.
_MAX_VERDICTS = 100_000


def build_report(order: Order, *, entity: str) -> Report:
    """The report, not yet saved; nothing is asked of any server.

    Raises:
        ImportError: the package wandb-workspaces is missing.
    """
    from wandb_workspaces.reports.v2 import Report, TableOfContents

    blocks = [TableOfContents(), *_verdicts(), *(block for task in order.tasks for block in _task(task, order))]
    return Report(
        entity=entity,
        project=order.logger.project or "memattn",
        title=order.title[:128],
        description="Verdicts on the papers' claims, runs by task, and figures. Made by code: "
        "python -m experiments.workspace --report",
        blocks=[*blocks, *_figures(order.figures)],
        width="fluid",
    )


def specification(report: Report) -> dict[str, Any]:
    """What would be sent to W&B."""
    return report._to_model().model_dump(by_alias=True, exclude_none=True)


def _verdicts() -> list[Any]:
    from wandb_workspaces.reports.v2 import H1, MarkdownBlock

    if not VERDICTS.is_file():
        text = "No verdicts are written yet: `make report` judges the papers' claims by the committed results."
        return [H1("Verdicts"), MarkdownBlock(text)]
    text = VERDICTS.read_text(encoding="utf-8")
    text = text.partition("\n")[2].strip() if text.startswith("# ") else text  # its own title
    if len(text) > _MAX_VERDICTS:
        text = text[: text.rindex("\n", 0, _MAX_VERDICTS)] + "\n\nThe rest is in `results/report/verdicts.md`."
    return [H1("Verdicts"), MarkdownBlock(text)]


def _task(task: str, order: Order) -> list[Any]:
    """A heading, and a grid over the task's runs: curves, final scores, what the memory does and costs."""
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2 import H1, PanelGrid, Runset

    tags = [task, *(tag for tag in order.tags if tag != task)]
    metrics = headlines([task])
    panels = [line_plot(f"val/{name}") for name in metrics]
    panels += [bar_plot(f"test/{name}") for name in metrics]
    panels += [bar_plot(f"val/{name}_without_memory") for name in metrics]
    panels += [line_plot(f"memory/{name}") for name in (*CURVES, *GATES)]
    panels += [
        bar_plot("tokens_per_second", title="tokens/s"),
        bar_plot("state_size", title="state, numbers"),
        memory_pictures(),
    ]
    runs = Runset(
        name=" ".join(tags),
        filters=expr.And(*(expr.Tags().isin([tag]) for tag in tags)),
        groupby=["config.variant"],
        pinned_columns=[f"summary:test/{name}" for name in metrics],
    )
    return [H1(task), PanelGrid(runsets=[runs], panels=panels)]


def _figures(address: str) -> list[Any]:
    """The committed figures: pictures where their address is known, else their names."""
    from wandb_workspaces.reports.v2 import H1, Image, MarkdownBlock

    names = sorted(path.name for path in FIGURES.glob("*.png"))
    if not names:
        return [H1("Figures"), MarkdownBlock("There are no figures yet: `make notebooks` draws them.")]
    if address:
        return [H1("Figures"), *(Image(url=f"{address.rstrip('/')}/{name}", caption=Path(name).stem) for name in names)]
    listed = "\n".join(f"- `results/figures/{name}`" for name in names)
    return [H1("Figures"), MarkdownBlock(f"In the repository, `figures=https://...` shows them here:\n\n{listed}")]
