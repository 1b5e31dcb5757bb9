"""Trains and compares memory-attention variants: ``python run.py --help`` shows how."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from experiments.config import register_resolvers
from experiments.errors import ConfigError, ExitCode
from experiments.job import dispatch
from experiments.launcher import register_launchers
from experiments.preflight import as_sweep, check_command_line, is_job_of_sweep, quoted
from experiments.sweep import follow_parent


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def run(composed: DictConfig) -> None:
    """One run; with -m Hydra hands all of them to experiments/launcher.py instead."""
    code = dispatch(composed)
    if code:
        sys.exit(code)


def main() -> None:
    """Checks the command line, then lets Hydra compose and run it."""
    follow_parent()
    sys.argv[1:] = quoted(sys.argv[1:])
    if not is_job_of_sweep():
        try:
            sys.argv[1:] = as_sweep(sys.argv[1:], check_command_line(sys.argv[1:]))
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(ExitCode.USER_ERROR)
    register_resolvers()
    register_launchers()
    run()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before a run has its own handlers
        sys.exit(ExitCode.INTERRUPTED)
