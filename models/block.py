"""The contract of a variant, and the register of all variants.

A variant is a *block*: attention, memory and feed-forward of one layer. Two rivers run through a stack of blocks, and
nothing else is passed around:

* the **stream** goes up the depth, from block to block: the tokens, and the memory that travels with them;
* the **state** goes along time, from one call to the next, inside each layer; where the memory returns from the top
  of the stack (:mod:`models.recurrence`), the stack as a whole has one beside them.

Shape letters used in this package: ``B`` batch, ``T`` tokens of this call, ``D`` width, ``H`` heads, ``d`` width of a
head, ``M`` memory slots, ``S`` length of a segment (also called block of tokens), ``F`` feedback (FAM) slots.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.errors import check_choice, did_you_mean

if TYPE_CHECKING:
    from models.probe import Probe
    from models.recurrence import StackRecurrence

#: Numbers of a ``[B, T, D]`` tensor that goes through a layer at once on a CPU. Cost per token is flat up to a few
#: times as many; from 32 MiB on, glibc gives memory back and has it zeroed page by page each time.
CPU_RUN_NUMBERS = 1 << 20

POSITIONS = ("learned", "rope", "both", "none")


@dataclass(frozen=True)
class BackboneConfig:
    """What every variant shares, so that a comparison is fair by construction."""

    width: int = 64
    """D, the width of the residual stream."""
    depth: int = 2
    """Number of blocks."""
    num_heads: int = 4
    """H; must divide the width."""
    ffn_width: int = 256
    """Hidden width of the feed-forward."""
    ffn: str = "gelu"
    """``gelu`` (two matrices) or ``gated`` (three, SiLU gate: arXiv 2002.05202)."""
    norm: str = "layer"
    """``layer`` or ``rms``."""
    norm_position: str = "pre"
    """``pre``: x + f(norm(x)); ``post``: norm(x + f(x))."""
    positions: str = "rope"
    """``learned`` absolute, ``rope`` (arXiv 2104.09864), ``both`` or ``none``."""
    rope_base: float | None = None
    """Base of RoPE's wavelengths; None means 10,000. Only with ``rope`` or ``both``."""
    dropout: float = 0.0
    """After the embedding and on every residual branch."""
    attention_dropout: float = 0.0
    """On attention weights."""
    pooling: str | None = None
    """What the classifier reads: ``mean`` over tokens (default), ``cls``, or ``memory`` (mean over slots)."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "num_heads", "ffn_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"backbone.{name}={getattr(self, name)}: must be at least 1")
        if self.width % self.num_heads:
            raise ValueError(
                f"backbone.width={self.width} is not divisible by backbone.num_heads={self.num_heads}: "
                f"try width={self.num_heads * round(self.width / self.num_heads) or self.num_heads}"
            )
        check_choice("backbone.ffn", self.ffn, ("gelu", "gated"))
        check_choice("backbone.norm", self.norm, ("layer", "rms"))
        check_choice("backbone.norm_position", self.norm_position, ("pre", "post"))
        check_choice("backbone.positions", self.positions, POSITIONS)
        if self.pooling is not None:
            check_choice("backbone.pooling", self.pooling, ("mean", "cls", "memory"))
        for name in ("dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"backbone.{name}={getattr(self, name)}: must lie in [0, 1)")
        if self.rotary and self.head_width % 2:
            raise ValueError(
                f"backbone.positions={self.positions} rotates pairs, but a head is {self.head_width} wide: "
                "choose an even width / num_heads"
            )
        if self.rope_base is not None and not 0 < self.rope_base < float("inf"):
            raise ValueError(f"backbone.rope_base={self.rope_base}: must be above 0 and finite")
        if self.rope_base is not None and not self.rotary:
            raise ValueError(
                f"backbone.rope_base has no effect with backbone.positions={self.positions}: leave it null"
            )

    @property
    def head_width(self) -> int:
        """d, the width of one head."""
        return self.width // self.num_heads

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.positions in ("rope", "both")

    @property
    def learned(self) -> bool:
        """Whether a learned vector is added for each absolute position."""
        return self.positions in ("learned", "both")


class Stream(NamedTuple):
    """What goes up the depth."""

    tokens: Float[Tensor, "B T D"]
    memory: Float[Tensor, "B2 M D"] | None
    """The learned memory at the bottom (B2 = 1), and whatever a variant makes of it on the way up."""
    write: Float[Tensor, "B W D"] | None = None
    """Rows behind the tokens, which see them all and are seen by none (MAT's write block)."""


class MemoryBlock(nn.Module, ABC):
    """One layer of a variant. Subclasses are registered with :func:`register` and built by the backbone."""

    variant: ClassVar[str]
    Options: ClassVar[type]
    sees_ahead: ClassVar[bool] = True
    """Whether the first token sees the last where ``causal=False``."""
    takes_runs: ClassVar[bool] = True
    """Whether a long causal stream is cheaper run by run on a CPU (not where the state is as long as the stream)."""
    recurrence: ClassVar["type[StackRecurrence] | None"] = None
    """Where the memory returns from the top of the stack: the module that keeps it. The backbone then walks segment by
    segment, a state lives as long as its segment (see :meth:`close`), and :meth:`memory` is not asked."""

    def __init__(self, config: BackboneConfig, options: Any, *, causal: bool) -> None:
        super().__init__()
        self.config, self.options, self.causal = config, options, causal
        # Set here and not on the class: else the first look at a compiled model would compile it again.
        self.probe: Probe | None = None
        """Records how the memory is read and written (:func:`models.probe.observe`)."""
        self.memory_off = False
        """Read nothing from the memory (:func:`models.probe.without_memory`)."""

    @classmethod
    def memory_len(cls, options: Any) -> int:
        """Number of learned slots that the backbone sends in at the bottom of the stream; 0 for none."""
        return 0

    @classmethod
    def has_memory(cls, options: Any) -> bool:
        """Whether :meth:`memory` has rows that a classifier may pool."""
        return cls.memory_len(options) > 0

    @classmethod
    def reads_memory(cls, options: Any) -> bool:
        """Whether there is a memory that :attr:`memory_off` takes away."""
        return cls.has_memory(options)

    def share(self, bottom: "MemoryBlock") -> None:
        """Take over, from the bottom block, the parameters that all layers of a stack have in common."""

    @abstractmethod
    def init_state(self, batch_size: int) -> Any:
        """The state before the first token: a NamedTuple of tensors (and the plain counters beside them)."""

    @abstractmethod
    def forward(self, stream: Stream, state: Any | None, mask: Bool[Tensor, "B T"] | None = None) -> tuple[Stream, Any]:
        """Read the memory, write it, and hand both rivers on.

        Args:
            stream: Tokens ``[B, T, D]`` and the memory from the layer below.
            state: What this layer returned for the tokens before; None at the start of a sequence.
            mask: True where a token is real. Padding stands on the right. None means no padding.
        """

    def close(self, state: Any, batch_size: int) -> Any:
        """What is left of a state behind the end of its segment, where there is a :attr:`recurrence`: nothing."""
        return self.init_state(batch_size)

    def in_runs(self, stream: Stream, state: Any | None, mask: Bool[Tensor, "B T"] | None = None) -> tuple[Stream, Any]:
        """The same as :meth:`forward`; on a CPU, a long causal stream goes through run by run, the state handed on."""
        run_len = self._run_len(stream.tokens)
        if stream.tokens.shape[1] <= run_len or mask is not None:
            return self(stream, state, mask)
        outputs, memory = [], None
        for index, tokens in enumerate(stream.tokens.split(run_len, dim=1)):
            above, state = self(stream._replace(tokens=tokens), state)
            memory = above.memory if index == 0 else memory  # a prompt goes up once
            outputs.append(above.tokens)
        return Stream(torch.cat(outputs, dim=1), memory), state

    def _run_len(self, x: Float[Tensor, "B T D"]) -> int:
        """Tokens of a run: whole segments, where there are any."""
        if x.device.type != "cpu" or not self.causal or not self.takes_runs:
            return x.shape[1]
        size = getattr(self.options, "block_len", 1)
        return max(1, CPU_RUN_NUMBERS // (x.shape[0] * x.shape[2] * size)) * size

    @abstractmethod
    def state_size(self, seq_len: int) -> int:
        """Numbers carried along time for one sequence after ``seq_len`` tokens."""

    def memory(
        self, stream: Stream, state: Any, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B M D2"] | None:
        """The memory after this call, as rows to look at (diagnostics, pooling); None where a variant has none."""
        return None

    def learning_rate_scales(self) -> dict[str, float]:
        """Parameters of this block that learn at a rate of their own: name -> multiple of the common rate."""
        return {}

    def training_state(self, batch_size: int, *, seed: int, progress: float) -> Any | None:
        """A state to start a training sequence from, where a variant randomises it; None for the ordinary start.

        Args:
            batch_size: Number of sequences.
            seed: The same for all layers in one step, so that all make the same draws.
            progress: Share of the training that is done, in [0, 1].
        """
        return None

    def remember(self, state: Any) -> None:
        """Keep what :meth:`training_state` may start a later sequence from."""


_VARIANTS: dict[str, type[MemoryBlock]] = {}


def register(name: str, options: type) -> Callable[[type[MemoryBlock]], type[MemoryBlock]]:
    """Class decorator: make a block available as ``model=<name>`` with its dataclass of options."""

    def add(block: type[MemoryBlock]) -> type[MemoryBlock]:
        block.variant, block.Options = name, options
        _VARIANTS[name] = block
        return block

    return add


def variants() -> dict[str, type[MemoryBlock]]:
    """All registered blocks by name. Every module of this package is imported once, so a new file is enough."""
    package = importlib.import_module("models")
    for module in pkgutil.iter_modules(package.__path__, "models."):
        importlib.import_module(module.name)
    return dict(sorted(_VARIANTS.items()))


def variant(name: str) -> type[MemoryBlock]:
    """The block registered as ``name``.

    Raises:
        ValueError: No variant has this name.
    """
    known = variants()
    if name not in known:
        raise ValueError(f"unknown model {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")
    return known[name]


def make_options(options_class: type, values: dict[str, Any], owner: str) -> Any:
    """Build a dataclass of options from plain values.

    Raises:
        ValueError: A key is not an option of ``options_class``, or a value is not of its type.
    """
    types = {field.name: field.type for field in fields(options_class)}
    check_keys(values, list(types), owner)
    for key, value in values.items():
        if types[key] in (int, int | None) and value is not None and type(value) is not int:
            raise ValueError(f"{key}={value!r} for {owner}: must be a whole number")
    return options_class(**values)


def check_keys(values: Iterable[str], known: Sequence[str], owner: str) -> None:
    """Raise ValueError unless every key is known."""
    for key in values:
        if key not in known:
            raise ValueError(
                f"unknown option {key!r} for {owner}{did_you_mean(key, known)}; it has: {', '.join(known)}"
            )


def detach(state: Any) -> Any:
    """The same state without its autograd history."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        parts = [detach(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def tensors(state: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, tuple):
        return [tensor for part in state for tensor in tensors(part)]
    return []


def empty_cache(block: MemoryBlock, batch_size: int) -> Tensor:
    """Keys or values of no token at all, ``[B, H, 0, d]``."""
    parameter = next(block.parameters())
    shape = (batch_size, block.config.num_heads, 0, block.config.head_width)
    return torch.empty(shape, dtype=parameter.dtype, device=parameter.device)
