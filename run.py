"""Trains and compares memory-attention variants: ``python run.py --help`` shows how."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from experiments.arms import complete
from experiments.config import register_resolvers
from experiments.errors import ConfigError, ExitCode, Interrupted
from experiments.interrupts import raising_interrupted
from experiments.job import dispatch
from experiments.launcher import register_launchers
from experiments.preflight import as_sweep, check_command_line, is_job_of_sweep, quoted
from experiments.redact import redact
from experiments.sweep_job import follow_parent


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def run(composed: DictConfig) -> None:
    """One run; with -m Hydra hands all of them to experiments/launcher.py instead."""
    code = dispatch(composed)
    if code:
        sys.exit(code)


def main() -> None:
    """Checks the command line, then lets Hydra compose and run it."""
    follow_parent()
    register_resolvers()
    register_launchers()
    sys.argv[1:] = quoted(sys.argv[1:])
    if not is_job_of_sweep():
        try:
            sys.argv[1:] = as_sweep(sys.argv[1:], check_command_line(sys.argv[1:]))
        except ConfigError as error:
            print(redact(f"error: {error}"), file=sys.stderr)
            sys.exit(ExitCode.USER_ERROR)
    sys.argv[1:] = complete(sys.argv[1:])
    run()


if __name__ == "__main__":
    try:
        with raising_interrupted():  # before anything slow is imported; a run puts its own handlers on top
            main()
    except Interrupted as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # in the moment before
        sys.exit(ExitCode.INTERRUPTED)
