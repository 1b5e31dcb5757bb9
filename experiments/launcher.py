"""The launchers that Hydra knows by ``hydra/launcher=<name>``: each hands a sweep to an engine (experiments/engines/).

    local            processes of this machine, one device each (the default)
    submitit_local   the same through submitit: what a SLURM job does, without SLURM
    slurm            jobs of a SLURM cluster, requeued when they are preempted or out of time
    ray              tasks of a Ray cluster, or of one started here

The command, the store, skip and resume are the same with all of them. The keys for SLURM and Ray are those of Hydra's
launcher plugins (conf/hydra/launcher/), but those run a job inside the process that submitit or Ray starts, all jobs or
none, and end with the first failure: ours start a process for each job that is not done, and tell how each ended.
Importing this module loads neither torch nor Lightning, submitit or Ray.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from experiments.compose import composer, composing
from experiments.config import RunConfig
from experiments.errors import ConfigError, ExitCode
from experiments.redact import redact, redact_file
from experiments.sweep import run_sweep
from experiments.sweep_job import Job, varied_settings

if TYPE_CHECKING:
    from experiments.engines import Engine

#: Overrides that a job's label shows already, or that choose where it runs.
LABELS = ("model", "task", "seed", "+study")

#: Modes that one process answers for all jobs: a benchmark's would disturb each other.
_ANSWERED = ("plan", "bench")


class SweepLauncher(Launcher):
    """What all launchers share.

    Args:
        **settings: the keys of ``hydra.launcher``.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra composed for the sweep as a whole."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs, plans or tunes all jobs, and ends the program: a job's failure is an exit code here, no exception."""
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        with composing():
            configs = [composer().config(overrides) for overrides in job_overrides]
        settings = varied_settings(job_overrides, LABELS)
        if configs[0].mode in _ANSWERED:
            shutil.rmtree(folder, ignore_errors=True)
            raise SystemExit(_answer(configs, settings, places=self.places(configs)))
        redact_file(folder / "multirun.yaml")  # Hydra's own record of what was typed
        everything = zip(job_overrides, configs, settings, strict=True)
        jobs = [Job(index + 1, len(configs), folder, *job) for index, job in enumerate(everything)]
        try:
            if configs[0].mode == "tune":
                from experiments.tune import run_tune

                raise SystemExit(run_tune(job_overrides, configs, folder, self.engine))
            engine = self.engine(configs, folder)
        except ConfigError as error:
            print(redact(f"error: {error}"), file=sys.stderr, flush=True)
            raise SystemExit(ExitCode.USER_ERROR) from error
        raise SystemExit(run_sweep(jobs, engine, folder))

    @abstractmethod
    def engine(self, configs: Sequence[RunConfig], folder: Path) -> Engine:
        """The engine for these jobs.

        Raises:
            ConfigError: it cannot be had here.
        """

    def places(self, configs: Sequence[RunConfig]) -> int | None:
        """How many of these jobs would run at a time, where that can be known; for a plan."""
        if "jobs" not in self.settings:
            return None
        from experiments.engines.local import find_places

        return len(find_places(self.settings["jobs"], configs))


class LocalLauncher(SweepLauncher):
    """``hydra/launcher=local``."""

    def engine(self, configs: Sequence[RunConfig], folder: Path) -> Engine:
        """A pool of processes."""
        from experiments.engines.local import GIB, LocalEngine, find_places

        memory = self.settings.get("memory_gb", "auto")
        places = find_places(self.settings["jobs"], configs)
        return LocalEngine(places, memory=None if memory == "auto" else int(float(memory) * GIB))


class SubmititLocalLauncher(SweepLauncher):
    """``hydra/launcher=submitit_local``."""

    def engine(self, configs: Sequence[RunConfig], folder: Path) -> Engine:
        """The local executor of submitit."""
        from experiments.engines.local import find_places
        from experiments.engines.submitit import SubmititEngine

        settings = dict(self.settings)
        places = find_places(settings.pop("jobs"), configs)
        return SubmititEngine("local", settings, places=len(places))


class SlurmLauncher(SweepLauncher):
    """``hydra/launcher=slurm``."""

    def engine(self, configs: Sequence[RunConfig], folder: Path) -> Engine:
        """The SLURM executor of submitit."""
        from experiments.engines.submitit import SubmititEngine

        if shutil.which("sbatch") is None:
            raise ConfigError("hydra/launcher=slurm: there is no sbatch here; start it on a machine of the cluster")
        return SubmititEngine("slurm", self.settings)


class RayLauncher(SweepLauncher):
    """``hydra/launcher=ray``."""

    def engine(self, configs: Sequence[RunConfig], folder: Path) -> Engine:
        """Ray's tasks."""
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("hydra/launcher=ray needs Ray: pip install -r requirements-ray.txt")
        from experiments.engines.ray import RayEngine

        return RayEngine(self.settings["ray"])


def register_launchers() -> None:
    """Makes our launchers and our sweeper known to Hydra.

    Hydra creates plugins out of the package ``hydra_plugins`` only. A few classes are not worth such a room, so this
    module goes by the name ``hydra_plugins.memattn`` as well.
    """
    plugins = Plugins.instance()  # imports the real hydra_plugins, where some plugin is installed
    from experiments.sweeper import GridSweeper

    for name in ("submitit_local.yaml", "ray.yaml"):  # schemas of Hydra's plugins, should they be installed
        ConfigStore.instance().repo.get("hydra", {}).get("launcher", {}).pop(name, None)
    package: Any = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    package.memattn = sys.modules["hydra_plugins.memattn"] = sys.modules[__name__]
    package.memattn.GridSweeper = GridSweeper
    for plugin in (LocalLauncher, SubmititLocalLauncher, SlurmLauncher, RayLauncher, GridSweeper):
        plugin.__module__ = "hydra_plugins.memattn"
        plugins.register(plugin)


def _answer(configs: Sequence[RunConfig], settings: Sequence[str], *, places: int | None) -> int:
    if configs[0].mode == "bench":
        from experiments.bench import run_bench

        try:
            return run_bench(configs)
        except ConfigError as error:
            print(redact(f"error: {error}"), file=sys.stderr, flush=True)
            return ExitCode.USER_ERROR
    from experiments.plan import print_plan

    return print_plan(configs, settings, places=places)
