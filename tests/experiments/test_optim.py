"""The learning rate is a function of the step, and one step does what it should."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from data.base import Batch
from experiments.hardware import Hardware
from experiments.lightning_modules import derive_seed, make_module, split_batch
from experiments.optim import SCHEDULES, learning_rate, make_optimizer, set_learning_rate
from experiments.settings import TrainerConfig

CPU = Hardware("cpu", "32")


def rate(step: int, schedule: str = "cosine", *, warmup_steps: int = 10, steps: int = 100) -> float:
    return learning_rate(step, peak=0.5, steps=steps, warmup_steps=warmup_steps, schedule=schedule)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_ends_at_the_peak(schedule: str) -> None:
    assert [rate(step, schedule) for step in range(10)] == pytest.approx([0.05 * (step + 1) for step in range(10)])


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(warmup_steps=st.integers(0, 60), steps=st.integers(1, 100))
def test_rate_stays_between_zero_and_the_peak_and_never_rises_again(
    schedule: str, warmup_steps: int, steps: int
) -> None:
    warmup_steps = min(warmup_steps, steps)
    rates = [rate(step, schedule, warmup_steps=warmup_steps, steps=steps) for step in range(steps)]
    assert all(0 < value <= 0.5 for value in rates)
    after = rates[max(warmup_steps - 1, 0) :]
    assert after == sorted(after, reverse=True)


def test_shapes_of_the_schedules() -> None:
    assert rate(55) == pytest.approx(0.25)
    assert rate(99) == pytest.approx(0.0, abs=1e-3)
    assert rate(39, "inverse_sqrt") == pytest.approx(0.5 * math.sqrt(10 / 40))
    assert rate(99, "constant") == 0.5


def test_unknown_schedule_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match="choose one of cosine, inverse_sqrt, constant"):
        rate(0, "linear")


def test_groups_keep_their_own_decay_and_scale() -> None:
    matrix, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [
        {"params": [matrix], "weight_decay": 0.1},
        {"params": [bias], "weight_decay": 0.0, "lr_scale": 0.5},
        {"params": [], "weight_decay": 0.0},
    ]
    optimizer = make_optimizer(groups, betas=(0.9, 0.98))
    set_learning_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    matrix.grad, bias.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert torch.equal(bias.detach(), torch.ones(2))
    assert torch.allclose(matrix.detach(), torch.full((2, 2), 1 - 0.2 * 0.1))


def test_seeds_of_neighbours_share_nothing() -> None:
    seeds = [derive_seed(seed, step) for seed in range(30) for step in range(30)]
    assert len(set(seeds)) == len(seeds)
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)  # the CPU generator reads these bits only
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(3, 4) == derive_seed(3, 4)
    assert derive_seed(3, 4) != derive_seed(4, 3)


def trainer_config(**changes: object) -> TrainerConfig:
    return TrainerConfig(**{"batch_size": 4, "steps": 10, "learning_rate": 0.1, **changes})  # type: ignore[arg-type]


def test_loss_of_weighted_targets_is_a_mean_over_sequences() -> None:
    module = make_module("next_token", nn.Linear(1, 1), trainer_config(), hardware=CPU, seed=0)
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    weights = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    batch = Batch(targets, None, targets, weights)
    each = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    loss = module.loss(logits, batch) / module.normaliser(batch)
    assert torch.allclose(loss, (each * weights).sum() / 2)


def test_loss_of_plain_targets_is_a_mean_over_real_tokens() -> None:
    module = make_module("next_token", nn.Linear(1, 1), trainer_config(), hardware=CPU, seed=0)
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    each = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    for chosen, expected in ((None, each.mean()), (mask, each[mask].mean())):
        batch = Batch(targets, chosen, targets)
        assert torch.allclose(module.loss(logits, batch) / module.normaliser(batch), expected)


@pytest.mark.parametrize("kind", ["classify", "pair"])
def test_loss_of_classes_is_a_mean_over_examples(kind: str) -> None:
    module = make_module(kind, nn.Linear(1, 1), trainer_config(), hardware=CPU, seed=0)
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    batch = Batch(torch.zeros(4, 2, dtype=torch.long), None, targets)
    expected = -logits.log_softmax(-1)[range(4), targets].mean()
    assert torch.allclose(module.loss(logits, batch) / module.normaliser(batch), expected)


def test_parts_of_a_batch_make_up_the_batch() -> None:
    batch = Batch(torch.arange(12).view(6, 2), None, torch.arange(6))
    parts = list(split_batch(batch, 3))
    assert [len(part.targets) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.tokens for part in parts]), batch.tokens)
    assert all(part.mask is None for part in parts)


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch's own, on importing Inductor
def test_compiling_changes_no_name_of_a_weight() -> None:
    model = nn.Linear(2, 2)
    plain = make_module("classify", model, trainer_config(), hardware=CPU, seed=0)
    compiled = make_module("classify", model, trainer_config(compile=True), hardware=CPU, seed=0)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
