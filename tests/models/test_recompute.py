"""``recompute`` keeps fewer activations and changes nothing else, dropout included."""

import pytest
import torch
from torch import Tensor

import models
from tests.models.cases import SETTINGS, VOCAB_SIZE, Options, build, random_tokens
from tests.models.parity import label

FORMS: dict[str, Options] = {"causal": {}, "both ways": {"causal": False, "num_classes": 3}}


def loss_of(model: models.Model, tokens: Tensor, mask: Tensor | None) -> Tensor:
    torch.manual_seed(3)
    start = model.training_state(len(tokens), seed=5, progress=0.5)
    logits, _ = model(tokens, mask, start)
    return logits.square().mean()


def gradients(model: models.Model, loss: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
def test_losses_and_gradients_stay_what_they_are(name: str, options: Options, form: str) -> None:
    model = build(name, **options, **FORMS[form], dropout=0.3, attention_dropout=0.2)
    model.train()
    tokens = random_tokens(3, 11)
    mask = torch.arange(11) < torch.tensor([[11], [8], [11]]) if form == "both ways" else None
    kept = loss_of(model, tokens, mask)
    expected = gradients(model, kept)
    model.recompute = True
    again = loss_of(model, tokens, mask)
    assert torch.equal(again, kept)
    for parameter, gradient in gradients(model, again).items():
        wanted = expected[parameter]
        assert (gradient is None) == (wanted is None), parameter
        if gradient is not None and wanted is not None:
            torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


def saved_bytes(model: models.Model, tokens: Tensor) -> int:
    """Bytes that a forward pass keeps for the way back, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = loss_of(model, tokens, None)
    total = sum(kept.values())
    loss.backward()
    return total


@pytest.mark.parametrize("name", ["transformer", "fam", "mat"])
def test_a_deep_stack_keeps_little(name: str) -> None:
    settings: Options = {"width": 32, "ffn_width": 128, "depth": 8, "num_heads": 4, "positions": "rope"}
    model = models.build_model(name, vocab_size=VOCAB_SIZE, max_len=128, causal=True, **settings)
    model.train()
    tokens = random_tokens(2, 128)
    whole = saved_bytes(model, tokens)
    model.recompute = True
    assert saved_bytes(model, tokens) < whole / 4


def test_what_is_replayed_as_a_whole_is_not_computed_three_times() -> None:
    model = build("memformer", block_len=4, memory_len=2, replay=True)
    model.train()
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    model.blocks[0].register_forward_hook(count)
    model.recompute = True
    loss_of(model, random_tokens(2, 8), None).backward()
    assert passes == 4, "two segments, each once on the way up and once on the way back"
