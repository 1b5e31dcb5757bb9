"""Where FAM stands: the positions of its slots, and their RoPE.

Paper: arXiv 2404.09173v3, sections B.2.1 and B.2.2, table 7. Where it is silent, the choice and its reason:

* ``last``, B.2.1: F_τ takes the last F positions of block τ. Tokens read K^F_{τ-1} at the end of block τ-1; for the
  update, its queries and keys stand at the end of block τ (figure 4 shows a copy there). F_0 stands at -F..-1.
* ``fractional`` and ``zero``, table 7: the slots stand in the gap behind the block's last position p, at p + i/(F+1)
  for i = 1..F, or all at 0.
* B.2.2, random position offset: RoPE's scores depend on distances only, so an offset of *all* positions changes
  nothing (proved in tests). It can only act on the distance to F_0, whose positions are fixed: that is what it does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.block import BackboneConfig
from models.layers import Rotation, rotation

FAM_POSITIONS = ("last", "fractional", "zero")


@dataclass(frozen=True)
class FamPlaces:
    """Places are counted on the CPU, as Apple's GPUs have no float64 for those between two positions."""

    config: BackboneConfig
    block_len: int
    fam_len: int
    kind: str

    def at(self, border: Int[Tensor, "*N"]) -> Int[Tensor, "*N F"] | Float[Tensor, "*N F"]:
        """Between the blocks that meet at ``border``, the first position of the later one."""
        slots = torch.arange(self.fam_len, device=border.device)
        if self.kind == "zero":
            return torch.zeros_like(border[..., None] + slots)
        if self.kind == "fractional":
            return border[..., None] - 1 + (slots + 1).double() / (self.fam_len + 1)
        return border[..., None] - self.fam_len + slots

    def rotations(self, start: int, num_borders: int, like: Tensor) -> Sequence[Rotation | None]:
        """RoPE of FAM before each block from position ``start`` on; None without RoPE."""
        if not self.config.rotary:
            return [None] * num_borders
        borders = start + self.block_len * torch.arange(num_borders)
        return [Rotation(*angles) for angles in zip(*rotation(self.at(borders), self.config, like), strict=True)]

    def from_afar(self, offset: Int[Tensor, " B"], like: Tensor) -> Rotation:
        """RoPE of F_0 for sequences that see it ``offset`` positions farther away."""
        places = self.at(torch.zeros_like(offset)) - offset[:, None]
        return rotation(places[:, None], self.config, like)

    def random_offsets(self, coins: Float[Tensor, "2 B"]) -> Int[Tensor, " B"]:
        """From uniform draws: 0 for half of the sequences, else anything up to RoPE's longest wavelength."""
        longest = 2 * math.pi * (self.config.rope_base or 10_000.0)
        return (coins[0] * longest).long() * (coins[1] < 0.5)
