"""Hydra's grid of overrides, with the arms of a study, and without its check: preflight.py has composed every job.

To be imported after Hydra has found its plugins: finding them replaces the class that this one extends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from experiments.arms import expand, read_arms


class GridSweeper(BasicSweeper):
    """Every combination of the values, in the order of the command line, arm by arm (experiments/arms.py).

    Args:
        max_batch_size: null; a sweep runs as a whole.
        params: what a study sweeps over.
        arms: what it compares, where that is no product of lists.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, arms: Mapping[str, Any] | None = None
    ) -> None:
        # What Hydra's own does, which would look for itself by name, and find the class that replaced it.
        self.overrides = None
        self.batch_index = 0
        self.max_batch_size = max_batch_size
        self.params = params or {}
        self.hydra_context = self.config = self.launcher = None
        self.arms = read_arms(arms)

    def split_arguments(  # type: ignore[override]  # Hydra's is static, and called on the instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """All jobs as one batch."""
        return [expand(overrides, self.arms)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: :func:`experiments.preflight.check_command_line` came first."""
