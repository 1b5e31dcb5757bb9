"""Hydra's grid of overrides, without its check: it would compose every job once more, and preflight.py has done so.

To be imported after Hydra has found its plugins: finding them replaces the class that this one extends.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Every combination of the values, in the order of the command line."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: :func:`experiments.preflight.check_command_line` came first."""
