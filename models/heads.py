"""What stands on top of the backbone: classify, compare a pair, predict the next token."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig
from models.errors import check_choice

PAIRS = ("concat", "interaction")


def mean_pool(x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B D"]:
    """Mean over real tokens only (the original LRA shell averages over padding too: papers' pitfall P5)."""
    if mask is None:
        return x.mean(dim=1)
    weights = mask.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


class ClassifyHead(nn.Module):
    """Linear, GELU, linear on the pooled representation (LRA's shell: one hidden layer as wide as the feed-forward)."""

    def __init__(self, config: BackboneConfig, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.ffn_width)
        self.classes = nn.Linear(config.ffn_width, num_classes)

    def forward(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Logits over the classes."""
        return self.classes(functional.gelu(self.hidden(pooled)))


class PairHead(nn.Module):
    """Compare two texts that went through the same tower.

    ``concat``: [a, b], LRA's code. ``interaction``: [a, b, a·b, a-b], LRA's paper and most later work.
    """

    def __init__(self, config: BackboneConfig, num_classes: int, pair: str) -> None:
        super().__init__()
        check_choice("pair", pair, PAIRS)
        self.interaction = pair == "interaction"
        self.hidden = nn.Linear(config.width * (4 if self.interaction else 2), config.ffn_width)
        self.classes = nn.Linear(config.ffn_width, num_classes)

    def forward(self, a: Float[Tensor, "B D"], b: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Logits over the classes."""
        features = (a, b, a * b, a - b) if self.interaction else (a, b)
        return self.classes(functional.gelu(self.hidden(torch.cat(features, dim=-1))))


class NextTokenHead(nn.Linear):
    """Logits over the vocabulary at each position."""

    def __init__(self, config: BackboneConfig, vocab_size: int) -> None:
        super().__init__(config.width, vocab_size, bias=False)
