"""What a layer of FAM hands on along time, and how a training sequence starts.

Paper: arXiv 2404.09173v3, sections B.2.2 and B.2.3. Where it is silent, the choice and its reason:

* Random state passing: one coin per step for all layers; batch item 0's last FAM is kept without gradient, all
  sequences start from it, and its residual stays. ``random_state_passing_from`` delays it, since it hurts from step 0.
* Random position offset: one for each sequence, the same in all layers (``models/fam_places.py`` says what it moves).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.fam_places import FamPlaces
from models.kernels.window import KeyValue


class FamState(NamedTuple):
    """One layer's state between two calls."""

    fam: Float[Tensor, "B2 F D"] | None
    """F_τ, the feedback activations; None before the prompt has arrived."""
    keys: Float[Tensor, "B H K d"]
    """Rotated keys of the last m whole blocks and of the open one."""
    values: Float[Tensor, "B H K d"]
    position: int
    """Tokens so far."""
    is_prompt: bool
    """Whether ``fam`` is still the prompt F_0, whose first update has no residual."""
    first_is_prompt: bool = True
    """The same of batch item 0, which padding may keep from filling its first block."""
    prompt_offset: Int[Tensor, " B"] | None = None
    """Random position offset of this training sequence (on the CPU, as all places of FAM)."""
    older: tuple[KeyValue, ...] = ()
    """Rotated keys and values ``[B, H, F, d]`` of the FAMs before F_τ that tokens still read, oldest first."""


class RandomStart(nn.Module):
    """Draws where a training sequence starts: a function of the seed, so that all layers draw alike."""

    carried: Tensor
    """Batch item 0's FAM after the last training step (random state passing)."""
    has_carried: Tensor

    def __init__(self, options: Any, places: FamPlaces) -> None:
        super().__init__()
        self.options, self.places = options, places
        if options.random_state_passing:
            self.register_buffer("carried", torch.zeros(options.fam_len, places.config.width))
            self.register_buffer("has_carried", torch.zeros((), dtype=torch.bool))

    def draw(self, state: FamState, batch_size: int, *, seed: int, progress: float) -> FamState:
        """The ordinary start ``state``, or another sequence's FAM, or the prompt from afar."""
        coins = torch.rand(2, batch_size + 1, generator=torch.Generator().manual_seed(seed))
        passing = self.options.random_state_passing > 0 and progress >= self.options.random_state_passing_from
        if passing and bool(self.has_carried) and coins[0, -1] < self.options.random_state_passing:
            state = state._replace(fam=self.carried.expand(batch_size, -1, -1), is_prompt=False, first_is_prompt=False)
        if self.options.random_position_offset:
            state = state._replace(prompt_offset=self.places.random_offsets(coins[:, :-1]))
        return state

    @torch.no_grad()
    def remember(self, state: FamState) -> None:
        """Keep the first sequence's FAM for a later step."""
        if self.options.random_state_passing and state.fam is not None and not state.first_is_prompt:
            self.carried.copy_(state.fam[0])
            self.has_carried.fill_(True)
