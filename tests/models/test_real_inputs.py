"""Real numbers instead of ids: every variant reads them, and a table that is linear in the id is the same model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from data.base import Batch
from experiments.diagnostics import diagnose
from experiments.finite import find_non_finite
from experiments.flops import step_flops
from experiments.hardware import Hardware
from tests.models.cases import CASES, SEGMENT, VARIANTS, VOCAB_SIZE, WIDTH, Options, build, poolings, random_tokens

#: What an id means as a number.
VALUES = torch.linspace(-2, 2, VOCAB_SIZE, dtype=torch.float64)
READS: dict[str, Options] = {
    "causal": {"causal": True, "num_classes": 3},
    "both ways": {"causal": False, "num_classes": 3},
    "pair": {"causal": False, "num_classes": 3, "pair": "interaction"},
}


def both(name: str, **options: Any) -> tuple[models.Model, models.Model]:
    """The model that reads numbers, and one of the same weights whose table says ``value * w + b`` of each id."""
    real = build(name, vocab_size=None, **options)
    table = build(name, **options)
    weights = {key: value for key, value in real.state_dict().items() if not key.startswith("embedding.")}
    rows = VALUES[:, None] * real.get_parameter("embedding.weight") + real.get_parameter("embedding.bias")
    table.load_state_dict(weights | {"embedding.weight": rows.detach()})
    return real, table


def gradients(model: models.Model, tokens: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Of the squares of the logits, by name."""
    model(tokens, mask)[0].square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_table_that_is_linear_in_the_id_is_the_same_model(name: str, reads: str, padded: bool) -> None:
    real, table = both(name, **CASES[name].options, **READS[reads])
    ids = random_tokens(*((3, 2) if reads == "pair" else (3,)), 3 * SEGMENT + 2)
    mask = None
    if padded:
        ends = torch.arange(1, ids[..., 0].numel() + 1).reshape(ids.shape[:-1]) * 2
        mask = torch.arange(ids.shape[-1]) < ends[..., None]
    assert torch.equal(real(VALUES[ids], mask)[0], table(ids, mask)[0])
    found, wanted = gradients(real, VALUES[ids], mask), gradients(table, ids, mask)
    rows = wanted.pop("embedding.weight")
    wanted |= {"embedding.weight": (rows * VALUES[:, None]).sum(dim=0), "embedding.bias": rows.sum(dim=0)}
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "pooling"), [(name, pooling) for name, case in CASES.items() for pooling in poolings(name, case.options)]
)
def test_a_classifier_learns_from_numbers(name: str, pooling: str) -> None:
    """Is the mean above 0? In float32, as a user trains it."""
    generator = torch.Generator().manual_seed(0)
    options = {"positions": "learned", "pooling": pooling, "causal": False, "num_classes": 2, **CASES[name].options}
    model = build(name, vocab_size=None, **options).float()
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=1e-2)
    for _ in range(60):
        targets = torch.randint(2, (32,), generator=generator)
        numbers = torch.randn(32, 10, generator=generator) + 2.0 * targets[:, None] - 1.0
        loss = nn.functional.cross_entropy(model(numbers)[0], targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.25


@pytest.mark.parametrize("name", VARIANTS)
def test_what_the_other_rooms_make_up_is_numbers_too(name: str) -> None:
    """Counting operations, looking for NaN, looking at the memory."""
    options: Options = {"causal": False, "num_classes": 3, **CASES[name].options}
    real, table = both(name, **options)
    assert step_flops(real, (2, 9)) == step_flops(table, (2, 9))  # products only: neither embedding has any
    numbers = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    batch = Batch(numbers, None, torch.zeros(2, dtype=torch.int64))
    assert find_non_finite(real.float(), batch) is None
    assert find_non_finite(real, batch._replace(tokens=numbers / 0)) == "the inputs"
    diagnostics = diagnose(real, batch, hardware=Hardware("cpu", "32"))
    assert (diagnostics is None) == (name == "transformer")


@pytest.mark.parametrize("name", VARIANTS)
def test_two_numbers_for_each_width_and_neither_decays(name: str) -> None:
    options: Options = {"causal": False, "num_classes": 3, **CASES[name].options}
    real, table = both(name, **options)
    assert real.num_parameters() == table.num_parameters() - VOCAB_SIZE * WIDTH + 2 * WIDTH
    assert (real.input_dtype, table.input_dtype) == (torch.float32, torch.int64)
    decayed = {id(parameter) for parameter in real.parameter_groups(0.1)[0]["params"]}
    own = [parameter for key, parameter in real.named_parameters() if key.startswith("embedding.")]
    assert len(own) == 2
    assert not any(id(parameter) in decayed for parameter in own)


def test_numbers_enter_at_the_size_of_embeddings() -> None:
    model = models.build_model("transformer", vocab_size=None, max_len=8, num_classes=2, width=1024)
    assert torch.count_nonzero(model.get_parameter("embedding.bias")) == 0
    assert model.get_parameter("embedding.weight").std().item() == pytest.approx(1024**-0.5, rel=0.1)


def test_bfloat16_weights_are_read_in_their_own_precision() -> None:
    model = models.build_model("luna", vocab_size=None, max_len=8, num_classes=2, positions="learned").bfloat16()
    assert model(torch.randn(1, 8))[0].dtype == torch.bfloat16


def test_mistakes_get_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"^vocab_size=null reads real numbers, of which no next one is predicted"):
        models.build_model("fam", vocab_size=None, max_len=8, causal=True)
    model = models.build_model("fam", vocab_size=None, max_len=8, num_classes=2)
    with pytest.raises(ValueError, match=r"^inputs are torch.int64, but vocab_size=null reads real numbers: pass"):
        model(torch.zeros(1, 4, dtype=torch.int64))
