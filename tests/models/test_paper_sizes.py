"""What the papers print of parameters and of the state along time, as far as our formulas know it.

Built on the meta device, so that a model of eight billion weights costs nothing. Infini-attention's own figure stands
in ``test_infini.py``.
"""

from typing import Any

import pytest
import torch

import models
from models.block_window import cached_tokens, receptive_field
from tests.models.cases import Options

#: TransformerFAM, tables 3 and 4. Its 24B model shares keys and values among heads, which ours do not.
FAM_SIZES: dict[str, Options] = {
    "1B": {"depth": 18, "width": 1536, "num_heads": 12, "ffn_width": 8 * 1536},
    "8B": {"depth": 32, "width": 4096, "num_heads": 32, "ffn_width": 4 * 4096},
}
FAM: Options = {"block_len": 1024, "memory_blocks": 3, "fam_len": 64}
#: Infini-attention, section 3.1 and table 1.
INFINI: Options = {"depth": 12, "width": 1024, "num_heads": 8, "ffn_width": 4096}


def paper_model(name: str, **settings: Any) -> models.Model:
    with torch.device("meta"):
        return models.build_model(name, vocab_size=8, max_len=8, causal=True, **settings)


def in_layers(model: models.Model) -> int:
    """Parameters without the embedding, as the papers count."""
    return sum(parameter.numel() for parameter in model.stack.parameters())


# ---- TransformerFAM (arXiv 2404.09173v3)


@pytest.mark.parametrize(("size", "expected"), [("1B", 1.19e9), ("8B", 8.59e9)])
def test_sizes_of_fam_fit_a_gated_feed_forward(size: str, expected: float) -> None:
    """Table 3 calls them 1B and 8B; feed-forwards of two matrices instead of three would make .85 and 6.4."""
    model = paper_model("fam", ffn="gated", **FAM_SIZES[size], **FAM)
    assert in_layers(model) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("size", "prompt"), [("1B", 98_304), ("8B", 262_144)])
def test_fam_adds_its_prompt_and_nothing_else(size: str, prompt: int) -> None:
    """B.1, table 4: 64 vectors at the level of the embedding; a prefix in each layer needs as many for each."""
    window = {key: FAM[key] for key in ("block_len", "memory_blocks")}
    plain = paper_model("block_window", **FAM_SIZES[size], **window).num_parameters()
    fam, prefix = (paper_model("fam", initial=initial, **FAM_SIZES[size], **FAM) for initial in ("prompt", "prefix"))
    assert fam.num_parameters() - plain == prompt
    assert prefix.num_parameters() - plain == FAM_SIZES[size]["depth"] * prompt


def test_a_token_sees_three_to_four_thousand_others() -> None:
    """Section 2.1: of blocks of 1,024 with three memory segments, 3,073 to 4,096 tokens, its own included."""
    seen = {cached_tokens(place, 1024, 3) + 1 for place in range(8 * 1024, 9 * 1024)}
    assert (min(seen), max(seen)) == (3073, 4096)


@pytest.mark.parametrize(("memory_blocks", "num_blocks"), [(1, 18), (2, 36), (12, 216)])
def test_receptive_field_of_eighteen_layers(memory_blocks: int, num_blocks: int) -> None:
    """Section 2.1: 36k tokens through 18 layers with two memory segments."""
    assert receptive_field(1024, memory_blocks, depth=18) == num_blocks * 1024


def test_state_of_fam_is_bounded_by_its_window_and_sixty_four_vectors() -> None:
    """Keys and values of at most (m + 1) B tokens, and F vectors, in each layer, at any length."""
    model = paper_model("fam", **FAM_SIZES["1B"], **FAM)
    vectors = 64 * 1536 * 18
    assert model.state_size(256 * 1024) == 2 * 3072 * 1536 * 18 + vectors
    assert model.state_size(256 * 1024 + 1023) == 2 * 4095 * 1536 * 18 + vectors


# ---- table 1 of Infini-attention (arXiv 2404.07143v2): what each model carries


def test_state_of_transformer_xl() -> None:
    """(d_key + d_value) H N l, printed as 50M."""
    model = paper_model("block_window", block_len=2048, memory_blocks=1, stop_gradient=True, **INFINI)
    assert model.state_size(32 * 2048) == 50_331_648


def test_state_of_rmt_is_smaller_than_the_table_says() -> None:
    """d_model p l 2, printed as 2.5M, counts p rows twice in each layer; RMT's own paper hands on m d numbers once."""
    model = paper_model("mat", block_len=2048, memory_len=100, carry=True, **INFINI)
    assert model.state_size(32 * 2048) == 102_400
    assert 102_400 * 12 * 2 == 2_457_600


def test_state_of_autocompressors_is_larger_than_the_table_says() -> None:
    """d_model p (m + 1) l: rows of m + 1 segments, by l layers; here each layer has a key and a value of m of them."""
    model = paper_model("mat", block_len=2048, memory_len=50, carry=True, accumulate=True, **INFINI)
    for num_segments in (1, 4, 260):
        assert model.state_size(num_segments * 2048) == 1024 * 50 * (2 * num_segments * 12 + 1)


# ---- Luna (arXiv 2106.01540)


def test_untying_luna_costs_fifteen_million() -> None:
    """Masked language model, 12 layers of width 768: 132M tied, 147M untied, both rounded."""
    size: Options = {"depth": 12, "width": 768, "num_heads": 12, "ffn_width": 3072, "memory_len": 128}
    both_ways: Options = {"causal": False, "num_classes": 2, "positions": "learned"}
    with torch.device("meta"):
        tied, untied = (
            models.build_model("luna", vocab_size=8, max_len=8, tied=tied, **size, **both_ways)
            for tied in (True, False)
        )
    added = untied.num_parameters() - tied.num_parameters()
    assert added == 12 * 2 * (768 * 768 + 768)
    assert abs(added - (147e6 - 132e6)) < 1e6
