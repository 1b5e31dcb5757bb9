"""What a variant costs against length: ``mode=bench``.

For each variant and length, in a process of its own:

* ``train``: one forward and backward pass over one batch of random symbols (or numbers), without the optimiser;
* ``stream``: the same symbols in pieces, as long for all, the state handed on, no gradient (causal models only).

One row each: tokens per second, memory that the step adds at its peak, floating-point operations, and numbers carried
along time. Beside a variant stand the packages from PyPI that do the same, where they are installed; they have no
state to be handed on, so they only train. ``bench.csv`` keeps the rows, labelled with the study that they
were measured for (:mod:`experiments.bench_rows`); ``analysis/efficiency.py`` draws those of study ``efficiency``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from experiments import peers
from experiments.bench_rows import keep_row, read_rows
from experiments.config import RunConfig, build_model, build_task
from experiments.errors import ConfigError, ExitCode, first_line
from experiments.flops import step_flops
from experiments.hardware import Hardware, git_sha, hardware_line
from experiments.measure import Timing, clock_of, in_fresh_process, peak_memory, repeat
from experiments.table import print_columns

PHASES = ("train", "stream")

#: Tokens of the step before the one that is measured.
_WARM_UP = 64


class Subject(NamedTuple):
    """What is measured."""

    config: RunConfig
    """A variant with its sizes."""
    peer: str | None = None
    """A package that does the same, at the same sizes."""

    @property
    def name(self) -> str:
        """In tables: the arm of a study, as its settings may be all that differs."""
        return self.peer or self.config.arm or self.config.model.label

    @property
    def segment_len(self) -> int | None:
        """S, where the variant has one."""
        return getattr(self.config.model.options, "block_len", None)

    @property
    def memory_len(self) -> int | None:
        """M, or FAM's F, where the variant has one."""
        options = self.config.model.options
        return getattr(options, "memory_len", getattr(options, "fam_len", None))


def run_bench(configs: Sequence[RunConfig]) -> int:
    """Measures all variants, one after the other, and prints tables.

    Args:
        configs: One for each variant. What is measured already stays measured, whatever happens later.

    Returns:
        The exit code: 1 when something could not be measured, else 0.
    """
    path = configs[0].store.folder / "bench.csv"
    read_rows(path)  # what cannot be kept had better not be measured
    rows = []
    for subject in _subjects([sized(config) for config in configs]):
        for row in _measured(subject):
            keep_row(row, path)
            rows.append(row)
            print(_line(row), flush=True)
    print()
    for phase in PHASES:
        _print_table([row for row in rows if row["phase"] == phase], phase)
    print(f"rows   {path}")
    if study := configs[0].study:
        print(f"keep   python -m analysis.collect {study}")
    return ExitCode.FAILED if any(row["status"].startswith("failed") for row in rows) else ExitCode.OK


def sized(config: RunConfig) -> RunConfig:
    """With the sizes that ``bench`` asks all variants for.

    Raises:
        ConfigError: they do not fit this variant.
    """
    names = {"block_len": config.bench.segment_len, "memory_len": config.bench.memory_len}
    names["fam_len"] = config.bench.memory_len
    options = config.model.options
    own = {field.name for field in dataclasses.fields(options)}
    sizes = {name: value for name, value in names.items() if value is not None and name in own}
    try:
        options = dataclasses.replace(options, **sizes)
    except ValueError as error:
        raise ConfigError(f"bench: {first_line(error)}") from error
    return dataclasses.replace(config, model=dataclasses.replace(config.model, options=options))


def _subjects(configs: Sequence[RunConfig]) -> Iterator[Subject]:
    """Each variant, and behind it the peers that do the same."""
    for config in configs:
        yield Subject(config)
        if config.bench.peers and build_task(config).kind == "next_token":
            for name in peers.installed():
                if peers.PEERS[name].variant == config.model.label:
                    yield Subject(config, name)


def _measured(subject: Subject) -> Iterator[dict[str, Any]]:
    """The rows of one variant, shortest length first."""
    is_causal = build_task(subject.config).kind == "next_token"
    for phase in PHASES if is_causal and subject.peer is None else PHASES[:1]:
        seconds, before = 0.0, 0
        for length in sorted(subject.config.bench.lengths):
            common = {**_circumstances(subject), "length": length, "phase": phase}
            if seconds > subject.config.bench.max_seconds:
                yield {**common, "status": f"skipped: {before:,} tokens took {seconds:.0f} s"}
                continue
            try:
                row = in_fresh_process(measure, subject, length, phase)
                seconds, before = row["seconds"], length
                yield {**common, **row, "status": "ok"}
            except Exception as error:
                yield {**common, "status": f"failed: {first_line(error)}"}
                break


def measure(subject: Subject, length: int, phase: str) -> dict[str, Any]:
    """One row's numbers. To be called in a process of its own."""
    config = subject.config
    hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
    torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(0)
    model = build(subject, length).to(hardware.device)
    make = _training_step if phase == "train" else _stream
    # A short step first: what any step loads once is not what this one costs.
    make(subject, model, min(length, _WARM_UP), hardware)()
    step = make(subject, model, length, hardware)
    before, peak = peak_memory(step, hardware.device)
    clock, now = clock_of(hardware.device, config.trainer.threads)
    timing = Timing.of(repeat(step, clock=now, device=hardware.device, budget=config.bench.max_seconds))
    num_tokens = config.bench.batch_size * length
    flops = None
    with suppress(Exception):  # a peer may do what nothing but real tensors can
        flops = step_flops(model, _shape(subject, length)) // (1 if phase == "train" else 3)
    return {
        "tokens_per_second": num_tokens / timing.median,
        "seconds": timing.median,
        "spread": round(timing.spread, 4),
        "clock": clock,
        "added_bytes": peak - before,
        "flops": flops,
        "state_size": model.state_size(length) if isinstance(model, models.Model) else None,
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "load_average": round(os.getloadavg()[0], 2),
    }


def build(subject: Subject, length: int) -> nn.Module:
    """The model that is measured, with room for ``length`` tokens."""
    config = subject.config
    task = build_task(config)
    if subject.peer is None:
        task.max_len = max(task.max_len, length)
        return build_model(config, task)
    assert task.vocab_size is not None, "peers predict the next token"
    backbone = config.backbone
    return _Peer(
        peers.build_language_model(
            subject.peer,
            vocab_size=task.vocab_size,
            max_len=length,
            width=backbone.width,
            depth=backbone.depth,
            num_heads=backbone.num_heads,
            ffn_width=backbone.ffn_width,
            segment_len=subject.segment_len or config.bench.piece_len,
            memory_len=subject.memory_len or 0,
        )
    )


class _Peer(nn.Module):
    """A peer's model behind our signature."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: None = None, state: None = None) -> tuple[Tensor, None]:
        return self.model(tokens), None


def _shape(subject: Subject, length: int) -> tuple[int, ...]:
    """Of the tokens; a pair is two sequences of this length."""
    is_pair = build_task(subject.config).kind == "pair"
    return (subject.config.bench.batch_size, *([2] if is_pair else []), length)


def _tokens(subject: Subject, length: int, device: str) -> Tensor:
    generator, shape = torch.Generator().manual_seed(1), _shape(subject, length)
    vocab_size = build_task(subject.config).vocab_size
    if vocab_size is None:
        return torch.randn(shape, generator=generator).to(device)
    return torch.randint(vocab_size, shape, generator=generator).to(device)


def _training_step(subject: Subject, model: nn.Module, length: int, hardware: Hardware) -> Any:
    """Forward, loss, backward."""
    tokens = _tokens(subject, length, hardware.device)
    num_classes = build_task(subject.config).num_classes
    targets = tokens if num_classes is None else torch.arange(len(tokens), device=tokens.device) % num_classes
    forward = torch.compile(model) if subject.config.trainer.compile else model

    def step() -> None:
        with hardware.autocast():
            logits, _ = forward(tokens, None, None)
        functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten()).backward()
        model.zero_grad(set_to_none=True)

    return step


def _stream(subject: Subject, model: nn.Module, length: int, hardware: Hardware) -> Any:
    """One piece after the other."""
    tokens = _tokens(subject, length, hardware.device)
    model.eval()

    def step() -> None:
        state = None
        with torch.no_grad(), hardware.autocast():
            for piece in tokens.split(subject.config.bench.piece_len, dim=1):
                _, state = model(piece, None, state)

    return step


def _circumstances(subject: Subject) -> dict[str, Any]:
    """What was measured, when, where, and with what."""
    config, backbone = subject.config, subject.config.backbone
    peer = peers.PEERS[subject.peer] if subject.peer else None
    hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
    return {
        "study": config.study,
        "scale": config.scale,
        "name": subject.name,
        "variant": config.model.label,
        "package": f"{peer.package} {peer.version}" if peer else None,
        "task": config.task.name,
        "width": backbone.width,
        "depth": backbone.depth,
        "num_heads": backbone.num_heads,
        "ffn_width": backbone.ffn_width,
        "segment_len": subject.segment_len,
        "memory_len": subject.memory_len,
        "piece_len": config.bench.piece_len,
        "batch_size": config.bench.batch_size,
        "device": hardware.device,
        "precision": hardware.precision,
        "compiled": config.trainer.compile,
        "threads": config.trainer.threads,
        "hardware": hardware_line(hardware.device).partition(", torch threads")[0],
        "torch": torch.__version__,
        "commit": git_sha(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _line(row: dict[str, Any]) -> str:
    what = f"{row['name']} {row['phase']} {row['length']:,} tokens"
    if row["status"] != "ok":
        return f"{what}  {row['status']}"
    return f"{what}  {row['tokens_per_second']:,.0f} tokens/s, {row['added_bytes'] / 2**20:,.1f} MiB"


def _print_table(rows: Sequence[dict[str, Any]], phase: str) -> None:
    """Tokens per second and added memory of one phase, a line for each subject."""
    if not rows:
        return
    lengths = sorted({row["length"] for row in rows})
    found = {(row["name"], row["length"]): row for row in rows if row["status"] == "ok"}
    header = [phase, *(f"{length:,}: tokens/s" for length in lengths), *(f"{length:,}: MiB" for length in lengths)]
    body = []
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [found.get((name, length)) for length in lengths]
        speeds = ["-" if cell is None else f"{cell['tokens_per_second']:,.0f}" for cell in cells]
        memories = ["-" if cell is None else f"{cell['added_bytes'] / 2**20:,.1f}" for cell in cells]
        body.append([name, *speeds, *memories])
    print_columns(header, body)
    print(flush=True)
