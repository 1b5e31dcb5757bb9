"""What the paper says of feedback memory segments (arXiv 2404.09173v3, appendix C.2), fact by fact."""

import pytest
import torch

from models.feedback_memory import FeedbackMemoryBlock
from tests.models.cases import SEGMENT, Options, build, distinct_tokens, random_tokens, token_gradients, top_rows

FM: Options = {"block_len": SEGMENT, "memory_blocks": 1}


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_within_one_block_it_is_block_window(causal: bool) -> None:
    shared: Options = {"causal": causal, "num_classes": 3, **FM}
    fed_back, window = build("feedback_memory", **shared), build("block_window", **shared)
    window.load_state_dict(fed_back.state_dict())
    tokens = random_tokens(2, SEGMENT)
    assert torch.equal(fed_back(tokens)[0], window(tokens)[0])
    longer = random_tokens(2, SEGMENT + 1)
    assert not torch.allclose(fed_back(longer)[0], window(longer)[0], rtol=0, atol=1e-6)


def test_memory_is_made_from_the_outputs_of_the_block_before() -> None:
    model = build("feedback_memory", depth=1, positions="none", **FM)
    tokens = random_tokens(2, SEGMENT)
    outputs = []
    handle = model.blocks[0].register_forward_hook(lambda module, args, result: outputs.append(result[0].tokens))
    _, state = model(tokens)
    handle.remove()
    block = model.blocks[0]
    assert isinstance(block, FeedbackMemoryBlock)
    keys, values = block.project.keys_and_values(block.attend.before(outputs[0]))
    torch.testing.assert_close(state.layers[0].keys, keys)
    torch.testing.assert_close(state.layers[0].values, values)
    assert state.layers[0].open_keys.shape[2] == 0


def test_one_layer_reaches_every_block_before() -> None:
    """Where a window of one block reaches one block: theory's infinite reach."""
    tokens = distinct_tokens(1, 8 * SEGMENT)
    reached = {}
    for name in ("feedback_memory", "block_window"):
        model = build(name, depth=1, **FM)
        value = top_rows(model, tokens)[0, -1].square().sum()
        reached[name] = token_gradients(model, tokens, value)[0].abs().sum(dim=-1) > 0
    assert reached["feedback_memory"].all()
    assert reached["block_window"].sum() == 2 * SEGMENT
