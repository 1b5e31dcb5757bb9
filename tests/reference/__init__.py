"""Naive loops that define each variant: the fast forms equal them in outputs, states and gradients.

A variant joins with one file that holds ``block(layer, rows, memory) -> LayerOutcome`` and one line here; one whose
memory returns from the top of the stack, with a ``SegmentWalk``.
"""

from typing import Any

from torch import Tensor

from tests.reference import (
    backbone,
    block_window,
    fam,
    feedback_memory,
    filtered_memory,
    infini,
    linear,
    luna,
    mat,
    memformer,
    transformer,
)
from tests.reference.backbone import Block, Outcome, SegmentWalk

BLOCKS: dict[str, Block | SegmentWalk] = {
    "block_window": block_window.block,
    "fam": fam.block,
    "feedback_memory": feedback_memory.block,
    "filtered_memory": filtered_memory.block,
    "infini": infini.block,
    "linear": linear.block,
    "luna": luna.block,
    "mat": mat.WALK,
    "memformer": memformer.WALK,
    "transformer": transformer.block,
}


def forward(model: Any, tokens: Tensor, mask: Tensor | None = None, **settings: Any) -> list[Outcome]:
    """What ``model(tokens, mask)`` should give, one outcome per sequence; see :func:`backbone.forward`."""
    return backbone.forward(BLOCKS[model.variant], model, tokens, mask, **settings)
