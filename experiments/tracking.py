"""Weights & Biases as a mirror of the store: nothing that goes wrong there ever stops a run.

Offline unless somebody is logged in (``WANDB_API_KEY``, or an entry for the server in the netrc file), so no
account is needed. Every call is guarded: the first failure is one warning line, and the run goes on without it.
"""

from __future__ import annotations

import netrc
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from experiments.config import to_plain
from experiments.redact import redact, redacted

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from experiments.store import RunFolder

#: How long W&B may keep a run waiting.
INIT_SECONDS = 15.0
FINISH_SECONDS = 30.0

#: Characters of a tag that W&B takes.
MAX_TAG = 64

DEFAULT_SERVER = "https://api.wandb.ai"


class Tracker:
    """Context around a run that mirrors what it is told. This one (``logger=none``) mirrors nothing."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(exit_code=0 if kind is None else 1)

    @property
    def hint(self) -> str | None:
        """One line that says how to look at what was mirrored."""
        return None

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirrors a row of metrics.jsonl."""

    def log_image(self, name: str, path: Path) -> None:
        """Mirrors a picture."""

    def log_result(self, result: Mapping[str, Any]) -> None:
        """Mirrors the final numbers."""

    def close(self, exit_code: int) -> None:
        """Ends the mirror; 0 means that the run ended well."""


class WandbTracker(Tracker):
    """Mirrors one run; its W&B id is the run's own, so that attempts and machines meet in one place.

    Args:
        config: the run's settings; they hold no secrets.
        folder: the run; W&B's files go into ``<folder>/wandb``.
        facts: what else belongs to the run's configuration, such as the number of parameters.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, facts: Mapping[str, Any]) -> None:
        self._run: Any = None
        self._folder = folder
        self._mode = wandb_mode(config.logger.mode)
        os.environ.setdefault("WANDB_SILENT", "true")  # its settings come too late for what it says when it logs in
        try:
            self._start(config, facts)
        except Exception as error:
            if self._mode != "online":
                self._give_up(error)
                return
            _warn(f"W&B cannot be reached, the run is kept offline ({_reason(error)})")
            self._mode = "offline"
            self._try(lambda: self._restart(config, facts))

    def _start(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        import wandb

        run_hash, _, seed = self._folder.run_id.rpartition("-")
        self._run = wandb.init(
            mode=self._mode,  # type: ignore[arg-type]
            id=self._folder.run_id,
            resume="allow" if self._mode == "online" else None,
            project=config.logger.project,
            entity=config.logger.entity,
            name=redact(f"{config.model.label}-{config.task.name}-{seed}-{run_hash}"),
            group=redact(f"{config.task.name}/{config.study or _sweep() or config.scale}"),
            job_type="train",
            tags=_tags(config, facts),
            config={**redacted(to_plain(config)), **facts, "variant": config.model.label, "sweep": _sweep()},
            dir=self._folder.path,
            reinit="finish_previous",
            settings=wandb.Settings(
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                silent=True,
                console="off",
                x_disable_stats=self._mode != "online",
                x_disable_meta=any(redact(word) != word for word in sys.argv),  # which hold the command line
            ),
        )

    def _restart(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        """Starts anew, with a new W&B service: the old one holds on to the id of the run that it could not start."""
        import wandb

        wandb.teardown()
        self._start(config, facts)

    def _try(self, call: Callable[[], None]) -> None:
        """Runs a call into W&B; after a failure nothing is mirrored any more."""
        try:
            call()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        _warn(f"W&B failed, the run goes on without it ({_reason(error)})")

    @property
    def hint(self) -> str | None:
        """Where to look: the page, or the commands for a run that was kept offline."""
        if self._run is None:
            return None
        if self._mode == "online":
            return f"W&B: {self._run.url}"
        folder = shlex.quote(str(self._run.settings.sync_dir))
        return f"W&B (offline): browse with `wandb leet {folder}`, upload with `wandb sync {folder}`"

    def log(self, row: Mapping[str, Any]) -> None:
        """Train rows become ``train/…``, validation rows ``val/…``, over the same steps."""
        numbers = {key: value for key, value in row.items() if key not in ("step", "split")}
        values = {f"{row['split']}/{key}": value for key, value in numbers.items()}
        if self._run is not None:
            self._try(lambda: self._run.log(values, step=row["step"]))

    def log_image(self, name: str, path: Path) -> None:
        """Copies a picture."""
        if self._run is None:
            return
        import wandb

        self._try(lambda: self._run.log({name: wandb.Image(str(path))}))

    def log_result(self, result: Mapping[str, Any]) -> None:
        """The result as the run's summary."""
        if self._run is not None:
            self._try(lambda: self._run.summary.update(dict(result)))

    def close(self, exit_code: int) -> None:
        """Always finishes: an unfinished run would swallow the next one of this process."""
        if self._run is not None:
            self._try(lambda: self._run.finish(exit_code=exit_code))


def _sweep() -> str | None:
    """Id of the sweep that this run is a job of."""
    return os.environ.get("MEMATTN_SWEEP") or None


def _tags(config: RunConfig, facts: Mapping[str, Any]) -> list[str]:
    """What a view of many runs is filtered by. W&B takes no long tag, and none twice."""
    labels = [config.model.label, config.model.name, config.task.name, config.scale]
    named = [config.study and f"study:{config.study}", facts.get("data_source") and f"data:{facts['data_source']}"]
    named.append(_sweep() and f"sweep:{_sweep()}")
    return list(dict.fromkeys(redact(str(label))[:MAX_TAG] for label in [*labels, *named] if label))


def open_tracker(config: RunConfig, folder: RunFolder, facts: Mapping[str, Any]) -> Tracker:
    """The mirror that ``logger`` asks for; see :class:`WandbTracker` for the arguments."""
    if config.logger.name == "none" or wandb_mode(config.logger.mode) == "disabled":
        return Tracker()
    return WandbTracker(config, folder, facts)


def wandb_mode(setting: str | None) -> str:
    """online, offline or disabled: the setting, else ``WANDB_MODE``, else by whether somebody is logged in."""
    # W&B takes an empty variable for a mode called "" and refuses it.
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)
    if setting not in (None, "auto"):
        return str(setting)
    return os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")


def is_logged_in() -> bool:
    """Whether there is a key: in ``WANDB_API_KEY``, or in the netrc file for the server that W&B will use."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlparse(os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER).hostname or ""
    candidates = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in candidates:
        try:
            if path and netrc.netrc(str(path)).authenticators(server):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _warn(text: str) -> None:
    print(redact(f"warning: {text}"), file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    """An exception on one short line."""
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:200]
