"""Memory that returns from the top of the stack: what the backbone asks of it while it walks over the segments.

    segment τ     enter(tokens, M_τ) ──► block 1 ──► … ──► block L ──► norm ──► leave ──► M_{τ+1}     segment τ+1

A call may stop anywhere inside a segment. Its tokens' keys and values are then kept in the layers' states, M_τ in the
stack's own, and the next call goes on: tokens never wait for their segment to be full, only M_{τ+1} does.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.block import BackboneConfig, Stream, detach

if TYPE_CHECKING:
    from models.probe import Probe


@dataclass(frozen=True)
class StackOptions:
    """What all variants have whose memory returns from the top."""

    block_len: int = 64
    """S, tokens in a segment."""
    memory_len: int = 8
    """M, memory slots."""
    bptt_segments: int | None = None
    """Cut the gradient through the memory after every so many segments; null: never."""
    replay: bool = False
    """Keep no activations but the memories, and compute each segment again on the way back (memory replay
    back-propagation, arXiv 2010.06891, algorithm 1): less memory, the same gradient, one more forward pass."""

    def __post_init__(self) -> None:
        if self.block_len < 1:
            raise ValueError(f"model.block_len={self.block_len}: must be at least 1")
        if self.bptt_segments is not None and self.bptt_segments < 1:
            raise ValueError(f"model.bptt_segments={self.bptt_segments}: must be at least 1, or null for all")


class Piece(NamedTuple):
    """Tokens of one call that fall into one segment."""

    number: int
    """τ, the segment's number from 0."""
    opens: bool
    """Whether the segment begins here."""
    closes: bool
    """Whether it ends here: it is full, or a classifier's sequence is over."""
    is_cut: bool = False
    """Whether no gradient flows back over the border in front of the segment."""

    def seen(self, state: Any) -> Any:
        """The memory as this segment sees it.

        The state itself keeps its history, as a classifier may pool what a sequence that is over has left there.
        """
        return detach(state) if self.is_cut else state


class StackRecurrence(nn.Module, ABC):
    """Keeps the memory of a stack. Its state is a NamedTuple of tensors, which ``ModelState.memory`` carries."""

    def __init__(self, config: BackboneConfig, options: Any, *, causal: bool) -> None:
        super().__init__()
        self.config, self.options, self.causal = config, options, causal
        self.probe: Probe | None = None
        """Records how the memory is written (:func:`models.probe.observe`)."""

    @property
    def segment_len(self) -> int:
        """S."""
        return self.options.block_len

    @property
    def bptt_segments(self) -> int | None:
        """Segments between two cuts of the gradient."""
        return self.options.bptt_segments

    @property
    def replay(self) -> bool:
        """Whether activations are computed again on the way back."""
        return self.options.replay

    @abstractmethod
    def init_state(self, learned: Float[Tensor, "M D"] | None, batch_size: int) -> Any:
        """The memory before the first token."""

    @abstractmethod
    def enter(
        self, tokens: Float[Tensor, "B T D"], learned: Float[Tensor, "M D"] | None, state: Any, piece: Piece
    ) -> Stream:
        """What goes up the stack for this piece."""

    @abstractmethod
    def leave(
        self,
        top: Stream,
        learned: Float[Tensor, "M D"] | None,
        state: Any,
        piece: Piece,
        mask: Bool[Tensor, "B T"] | None,
        changed: Bool[Tensor, " B"] | None,
    ) -> Any:
        """The memory after this piece.

        Args:
            top: What came out of the stack, normed.
            learned: The learned slots.
            state: The memory before.
            piece: Where in the walk this is.
            mask: True where a token is real.
            changed: Where the piece closes its segment: the sequences that really fill it; None means all.
        """

    @abstractmethod
    def memory(self, state: Any) -> Float[Tensor, "B M D"] | None:
        """The memory as rows to look at (diagnostics, pooling); None where none travels along time."""

    @abstractmethod
    def state_size(self, num_segments: int, num_open: int) -> int:
        """Numbers carried for one sequence after so many whole segments and open tokens, beside the layers' own."""
