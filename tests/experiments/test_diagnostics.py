"""The measures of a memory on memories whose measures are known, and on real models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from data.base import Batch
from experiments.diagnostics import (
    CURVES,
    Diagnostics,
    diagnose,
    diagnostics_figure,
    draw_diagnostics,
    measure,
    read_diagnostics,
    write_diagnostics,
)
from experiments.hardware import Hardware

CPU = Hardware("cpu", "32")


def test_orthogonal_slots_have_full_rank() -> None:
    rms, rank, cosine = measure(2 * torch.eye(8)[None, :4])
    assert rms == pytest.approx(2 / math.sqrt(8))
    assert rank == pytest.approx(4)
    assert cosine == pytest.approx(0, abs=1e-6)


def test_copies_have_rank_one() -> None:
    _, rank, cosine = measure(torch.randn(3, 1, 8).expand(-1, 5, -1))
    assert rank == pytest.approx(1, abs=1e-3)
    assert cosine == pytest.approx(1)


def test_opposite_slots() -> None:
    row = torch.randn(1, 1, 8)
    assert measure(torch.cat((row, -row), dim=1))[2] == pytest.approx(-1)


def test_empty_and_single_memories_give_no_error() -> None:
    rms, rank, cosine = measure(torch.zeros(2, 3, 4))
    assert (rms, cosine) == (0, 0)
    assert rank == pytest.approx(1)
    assert math.isnan(measure(torch.randn(2, 1, 4))[2])


def tiny(name: str, *, causal: bool = True) -> models.Model:
    return models.build_model(
        name,
        vocab_size=11,
        max_len=160,
        num_classes=None if causal else 3,
        causal=causal,
        width=16,
        depth=2,
        num_heads=2,
        positions="learned",
    )


def random_batch(length: int = 56, *, causal: bool = True) -> Batch:
    tokens = torch.randint(11, (2, length))
    mask = None if causal else torch.arange(length).expand(2, -1) < length - 4
    return Batch(tokens, mask, tokens if causal else tokens[:, 0])


def test_fam_is_measured_after_every_block() -> None:
    model = models.build_model(
        "fam", vocab_size=11, max_len=64, causal=True, width=16, depth=2, num_heads=2, block_len=16, fam_len=4
    )
    diagnostics = diagnose(model, random_batch(), hardware=CPU)
    assert diagnostics is not None
    assert diagnostics.tokens.tolist() == [16, 32, 48, 56]
    for values in diagnostics.curves.values():
        assert values.shape == (2, 4)
        assert np.isfinite(values).all()
    assert (diagnostics.curves["effective_rank"] <= 4 + 1e-3).all()
    assert diagnostics.spectrum.shape == (2, 4)
    assert diagnostics.spectrum.sum(axis=1) == pytest.approx(1)
    assert {name: table.shape for name, table in diagnostics.attention.items()} == {
        "read_entropy": (2, 2),
        "read_share": (2, 2),
        "write_entropy": (2, 2),
        "keep_share": (2, 2),
    }
    assert diagnostics.knock_out.shape == (3,)
    assert ((diagnostics.knock_out > 0) & (diagnostics.knock_out < 1)).all()
    assert model.training


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("name", models.available())
def test_every_variant_is_measured_or_has_no_memory(name: str, causal: bool) -> None:
    model = tiny(name, causal=causal)
    diagnostics = diagnose(model, random_batch(length=150, causal=causal), hardware=CPU)
    if diagnostics is None:
        assert name == "transformer"
        return
    assert diagnostics.attention
    assert "knock_out" in diagnostics.summary()
    assert all(math.isfinite(number) for number in diagnostics.summary().values())


def test_the_cheap_look_sees_the_same() -> None:
    model, batch = tiny("fam"), random_batch()
    full, cheap = (diagnose(model, batch, hardware=CPU, curves=curves) for curves in (True, False))
    assert full is not None
    assert cheap is not None
    assert cheap.summary() == pytest.approx(full.summary(), abs=1e-5)
    assert cheap.knock_out.shape == (1,)


def test_knock_out_counts_what_is_scored() -> None:
    """Nothing of a memory shows before its first update."""
    model = models.build_model(
        "memformer", vocab_size=11, max_len=64, causal=True, width=16, num_heads=2, block_len=16, memory_len=4
    )
    tokens = torch.randint(11, (2, 32))
    for block in model.blocks:
        torch.nn.init.zeros_(block.get_parameter("read_out.weight"))
    unread = diagnose(model, Batch(tokens, None, tokens), hardware=CPU)
    assert unread is not None
    assert unread.knock_out.tolist() == [0, 0, 0]
    window = models.build_model(
        "block_window", vocab_size=11, max_len=64, causal=True, width=16, num_heads=2, block_len=16
    )
    parts = []
    for scored in (slice(0, 16), slice(16, 32)):
        weights = torch.zeros(2, 32)
        weights[:, scored] = 1 / 16
        diagnostics = diagnose(window, Batch(tokens, None, tokens, weights), hardware=CPU)
        assert diagnostics is not None
        parts.append(diagnostics.knock_out[0])
    assert parts[0] == 0
    assert parts[1] > 0


@pytest.mark.parametrize("num_updates", [1, 5])
def test_numbers_and_figure_are_stored(num_updates: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    diagnostics = Diagnostics(
        np.arange(1, num_updates + 1) * 16,
        {name: numbers.random((2, num_updates)) for name in CURVES},
        numbers.random((2, 4)),
        {"read_entropy": numbers.random((2, 2)), "gate": numbers.random((2, 4))},
        numbers.random(3),
    )
    write_diagnostics(diagnostics, tmp_path / "diagnostics.npz")
    again = read_diagnostics(tmp_path / "diagnostics.npz")
    assert again.summary() == diagnostics.summary()
    np.testing.assert_equal(again._asdict(), diagnostics._asdict())
    draw_diagnostics(diagnostics, "fam: memory", tmp_path / "diagnostics.png")
    assert (tmp_path / "diagnostics.png").read_bytes().startswith(b"\x89PNG")
    labels = [axes.get_ylabel() for axes in diagnostics_figure(diagnostics, "fam: memory").axes]
    assert labels == [*CURVES.values(), "share of the sum", "", "knock-out"]
