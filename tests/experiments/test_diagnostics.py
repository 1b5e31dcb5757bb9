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


def test_fam_is_measured_after_every_block() -> None:
    model = models.build_model(
        "fam", vocab_size=11, max_len=64, causal=True, width=16, depth=2, num_heads=2, block_len=16, fam_len=4
    )
    batch = Batch(torch.randint(11, (2, 56)), None, torch.randint(11, (2, 56)))
    diagnostics = diagnose(model, batch, hardware=CPU)
    assert diagnostics is not None
    assert diagnostics.tokens.tolist() == [16, 32, 48, 56]
    assert diagnostics.layers.tolist() == [0, 1]
    for values in diagnostics[2:]:
        assert values.shape == (2, 4)
        assert np.isfinite(values).all()
    assert (diagnostics.effective_rank <= 4 + 1e-3).all()
    assert model.training


def test_every_variant_is_measured_or_has_no_memory() -> None:
    for name in models.available():
        for causal in (True, False):
            model = models.build_model(
                name,
                vocab_size=11,
                max_len=40,
                num_classes=None if causal else 3,
                causal=causal,
                width=16,
                depth=2,
                num_heads=2,
                positions="learned",
            )
            tokens = torch.randint(11, (2, 40))
            mask = None if causal else torch.arange(40).expand(2, -1) < 36
            diagnostics = diagnose(model, Batch(tokens, mask, tokens), hardware=CPU)
            if diagnostics is not None:
                assert np.isfinite(diagnostics.rms).all(), name


def test_model_without_a_memory_has_no_diagnostics() -> None:
    model = models.build_model("transformer", vocab_size=11, max_len=64, causal=True, width=16, num_heads=2)
    tokens = torch.randint(11, (2, 32))
    assert diagnose(model, Batch(tokens, None, tokens), hardware=CPU) is None


@pytest.mark.parametrize("num_updates", [1, 5])
def test_numbers_and_figure_are_stored(num_updates: int, tmp_path: Path) -> None:
    measures = [np.random.default_rng(0).random((2, num_updates)) for _ in range(3)]
    diagnostics = Diagnostics(np.arange(2), np.arange(1, num_updates + 1) * 16, *measures)
    write_diagnostics(diagnostics, tmp_path / "diagnostics.npz")
    again = read_diagnostics(tmp_path / "diagnostics.npz")
    for before, after in zip(diagnostics, again, strict=True):
        assert np.array_equal(before, after)
    draw_diagnostics(diagnostics, "fam: memory", tmp_path / "diagnostics.png")
    assert (tmp_path / "diagnostics.png").read_bytes().startswith(b"\x89PNG")
    figure = diagnostics_figure(diagnostics, "fam: memory")
    assert [axes.get_ylabel() for axes in figure.axes] == ["RMS", "effective rank", "mean cosine of two slots"]
