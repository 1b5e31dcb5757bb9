"""What is compared with what, at which size, and the goals.

One step is forward and backward of one layer in float32. "Attention" means projections and attention, without
norms and feed-forward; "layer" is a variant's whole block. Candidates that compute the same function share
their weights, and the comparison first checks that they do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from benchmarks.measure import Step
from benchmarks.textbook import TextbookCausalLuna, TextbookLuna
from models.kernels.window import KeyValue, window_attention
from models.layers import SelfProjection
from models.luna import LunaBlock, LunaOptions


class Shape(NamedTuple):
    """Sizes of one step."""

    batch: int = 4
    length: int = 4096
    width: int = 128
    num_heads: int = 4
    segment: int = 512
    slots: int = 64

    @property
    def num_tokens(self) -> int:
        """Tokens of the step."""
        return self.batch * self.length

    def config(self, positions: str = "none") -> models.BackboneConfig:
        """The backbone's share of these sizes."""
        return models.BackboneConfig(
            width=self.width, num_heads=self.num_heads, ffn_width=4 * self.width, positions=positions
        )


class Candidate(NamedTuple):
    """A layer to be measured: a module from tokens [B, T, D] to one tensor or several."""

    build: Callable[[Shape], nn.Module]
    shape: Shape

    def module(self) -> nn.Module:
        """The same weights each time."""
        torch.manual_seed(0)
        return self.build(self.shape)

    def tokens(self) -> Tensor:
        """The same input each time."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.shape.batch, self.shape.length, self.shape.width, generator=generator)

    def step(self) -> Step:
        """One training step of the layer: forward, backward into the weights and into the layer below."""
        module, x = self.module(), self.tokens().requires_grad_()
        gradient: list[Tensor] = []

        def run() -> None:
            outputs = as_tuple(module(x))
            gradient[:] = gradient or [torch.full_like(output, 1e-3) for output in outputs]
            torch.autograd.backward(outputs, gradient)
            module.zero_grad(set_to_none=True)
            x.grad = None

        return run


def outputs(candidate: Candidate) -> tuple[Tensor, ...]:
    """What a candidate computes for a short input of whole segments (some peers refuse a part of one)."""
    short = candidate._replace(shape=candidate.shape._replace(batch=1, length=2 * candidate.shape.segment))
    with torch.no_grad():
        return as_tuple(short.module()(short.tokens()))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One output, or several, as several."""
    return (outputs,) if isinstance(outputs, Tensor) else outputs


class Goal(NamedTuple):
    """Ours over theirs, per token: at most so much time and so much added memory. None: only recorded."""

    ours: str
    theirs: str
    time: float | None
    memory: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Candidates that take turns, and what is asked of their ratios."""

    about: str
    candidates: dict[str, Candidate]
    goals: tuple[Goal, ...]
    rounds: int = 15
    same: tuple[tuple[str, str], ...] = ()
    """Pairs that must compute the same numbers."""
    packages: tuple[str, ...] = ()
    """Peers whose versions belong in the record."""

    @property
    def reference_shape(self) -> Shape:
        """Sizes of the reference step: the first candidate's."""
        return next(iter(self.candidates.values())).shape

    @property
    def measures_memory(self) -> bool:
        """Whether any goal speaks of memory."""
        return any(goal.memory is not None for goal in self.goals)


# ---- layers


class Reference(nn.Module):
    """The fixed step beside every other: projections and causal attention inside blocks, linear in T."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.segment = shape.segment
        self.project = SelfProjection(shape.config())

    def forward(self, x: Tensor) -> Tensor:
        """Blocks are extra batch."""
        q, k, v = self.project(x.unflatten(1, (-1, self.segment)).flatten(0, 1))
        y = self.project.output(functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return y.view(x.shape)


class WindowAttention(nn.Module):
    """Projections and our block sliding window attention, one memory block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.segment = shape.segment
        self.project = SelfProjection(shape.config())

    def forward(self, x: Tensor) -> Tensor:
        """From the start of a sequence."""
        q, k, v = self.project(x)
        past = KeyValue(k[:, :, :0], v[:, :, :0])
        y = window_attention(q, KeyValue(k, v), block_len=self.segment, memory_blocks=1, past=past)
        return self.project.output(y)


class PeerWindowAttention(nn.Module):
    """The same with the package local-attention (its own positions switched off)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        from local_attention import LocalAttention  # only `make bench` installs it

        self.project = SelfProjection(shape.config())
        self.attend = LocalAttention(
            window_size=shape.segment, causal=True, look_backward=1, look_forward=0, use_rotary_pos_emb=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """From the start of a sequence."""
        q, k, v = self.project(x)
        return self.project.output(self.attend(q, k, v))


class Layer(nn.Module):
    """A variant's whole block, causal, with the learned memory that enters it."""

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__()
        options = models.options_class(name)(
            **{
                "block_window": {"block_len": shape.segment},
                "fam": {"block_len": shape.segment, "fam_len": shape.slots},
                "luna": {"memory_len": shape.slots},
            }[name]
        )
        block = models.variant(name)
        self.block = block(shape.config("rope"), options, causal=True)
        num_slots = block.memory_len(options)
        self.memory = nn.Parameter(torch.randn(1, num_slots, shape.width)) if num_slots else None

    def forward(self, x: Tensor) -> Tensor:
        """From the start of a sequence."""
        stream, _ = self.block(models.Stream(x, self.memory), None)
        return stream.tokens


class LunaAttention(nn.Module):
    """Luna's attention alone, ours or the textbook's, with the learned memory that it reads."""

    def __init__(self, shape: Shape, *, causal: bool, textbook: bool) -> None:
        super().__init__()
        self.causal = causal
        self.memory = nn.Parameter(torch.randn(1, shape.slots, shape.width))
        self.block = LunaBlock(shape.config(), LunaOptions(memory_len=shape.slots), causal=causal)
        self.textbook: nn.Module | None = None
        if not causal:
            self.block.memory_norm = nn.Identity()  # norms are no part of attention
        if textbook:
            self.textbook = TextbookCausalLuna(self.block) if causal else TextbookLuna(self.block)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Y_X and, reading both ways, the memory with what was packed."""
        if self.causal:
            return (self._causal(x),)
        if self.textbook is not None:
            y, packed = self.textbook(x, self.memory)
            return y, self.memory + packed
        y, memory = self.block._pack_and_unpack(x, self.memory, None)
        return self.block.out(y), memory

    def _causal(self, x: Tensor) -> Tensor:
        if self.textbook is not None:
            return self.textbook(x, self.memory)
        y, _ = self.block._attend_causally(x, self.memory, self.block.init_state(len(x)), None)
        return self.block.out(y)


# ---- comparisons

FULL = Shape()
TINY = Shape(batch=1, length=64, width=16, num_heads=2, segment=16, slots=4)


def comparisons(*, tiny: bool = False) -> dict[str, Comparison]:
    """All comparisons by name.

    Args:
        tiny: Sizes that prove only that everything runs.
    """
    shape = TINY if tiny else FULL
    return {
        "fam": _fam(shape),
        "block_window": _block_window(shape),
        "luna": _luna(shape),
        "luna_causal": _luna_causal(shape),
        "cost_per_token": _cost_per_token(shape, lengths=(64, 128) if tiny else (4096, 65536)),
    }


def _fam(shape: Shape) -> Comparison:
    return Comparison(
        about="what feedback memory adds to block sliding window attention, feed-forward included",
        candidates={name: Candidate(partial(Layer, name), shape) for name in ("block_window", "fam")},
        goals=(Goal("fam", "block_window", time=1.3, memory=1.3),),
    )


def _block_window(shape: Shape) -> Comparison:
    ours, theirs = "block_window", "local-attention"
    return Comparison(
        about="block sliding window attention against the package local-attention",
        candidates={ours: Candidate(WindowAttention, shape), theirs: Candidate(PeerWindowAttention, shape)},
        goals=(Goal(ours, theirs, time=0.25, memory=0.2),),
        same=((ours, theirs),),
        packages=("local-attention",),
    )


def _luna(shape: Shape) -> Comparison:
    few, many = shape.slots, 4 * shape.slots
    return Comparison(
        about="bidirectional Luna attention against the textbook's",
        candidates=_luna_pairs(shape, (few, many), causal=False),
        goals=(
            Goal(f"luna M={few}", f"textbook M={few}", time=0.85, memory=0.55),
            Goal(f"luna M={many}", f"textbook M={many}", time=0.45, memory=0.3),
        ),
        same=tuple((f"luna M={slots}", f"textbook M={slots}") for slots in (few, many)),
    )


def _luna_causal(shape: Shape) -> Comparison:
    few, many = shape.slots // 4, shape.slots
    return Comparison(
        about="causal Luna attention against outer products for every position",
        candidates=_luna_pairs(shape, (few, many), causal=True),
        goals=(
            Goal(f"luna M={many}", f"textbook M={many}", time=0.05, memory=0.2),
            Goal(f"luna M={few}", f"textbook M={few}", time=0.15, memory=0.4),
        ),
        rounds=5,
        same=tuple((f"luna M={slots}", f"textbook M={slots}") for slots in (few, many)),
    )


def _luna_pairs(shape: Shape, slots: tuple[int, ...], *, causal: bool) -> dict[str, Candidate]:
    return {
        f"{name} M={num}": Candidate(
            partial(LunaAttention, causal=causal, textbook=name == "textbook"), shape._replace(slots=num)
        )
        for num in slots
        for name in ("luna", "textbook")
    }


def _cost_per_token(shape: Shape, lengths: tuple[int, int]) -> Comparison:
    names = ("block_window", "fam", "luna")
    short, long = lengths
    small = shape._replace(batch=1, segment=shape.segment // 4, slots=shape.slots // 4)
    return Comparison(
        about="a layer's cost per token in a long sequence over that in a short one (batch 1, small blocks)",
        candidates={
            f"{name} T={length}": Candidate(partial(Layer, name), small._replace(length=length))
            for name in names
            for length in lengths
        },
        goals=tuple(Goal(f"{name} T={long}", f"{name} T={short}", time=1.5) for name in names),
        rounds=5,
    )
