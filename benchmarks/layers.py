"""The modules that are measured: ours in the shapes that comparisons ask for, and peers with our weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from benchmarks.comparison import Shape
from benchmarks.textbook import TextbookCausalLuna, TextbookFilteredMemory, TextbookLuna
from experiments import peers
from models.filtered_memory import FilteredMemoryBlock, FilteredMemoryOptions
from models.heads import ClassifyHead, mean_pool
from models.layers import SelfProjection
from models.luna import LunaBlock, LunaOptions

VOCAB_SIZE = 256


def our_options(name: str, shape: Shape) -> tuple[str, dict[str, Any]]:
    """A variant, or a preset of one (as in ``conf/model``), at these sizes: which variant, with which options."""
    segments, slots = {"block_len": shape.segment}, {"memory_len": shape.slots}
    presets: dict[str, tuple[str, dict[str, Any]]] = {
        "block_window": ("block_window", segments),
        "fam": ("fam", segments | {"fam_len": shape.slots}),
        "feedback_memory": ("feedback_memory", segments),
        "filtered_memory": ("filtered_memory", slots),
        "infini": ("infini", segments),
        "infini_delta": ("infini", segments | {"update": "delta"}),
        "linear": ("linear", {}),
        "luna": ("luna", slots),
        "mat": ("mat", segments | slots),
        "memformer": ("memformer", segments | slots),
        "rmt": ("mat", segments | slots | {"carry": True}),
    }
    return presets[name]


def start_biases(module: nn.Module) -> None:
    """Biases at zero, as the backbone starts them; some peers have none."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)


# ---- ours


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


class Layer(nn.Module):
    """A variant's whole block, causal, with the learned memory that enters it."""

    def __init__(self, name: str, shape: Shape, *, positions: str = "rope", **more: Any) -> None:
        super().__init__()
        variant, options = our_options(name, shape)
        settings = models.options_class(variant)(**options | more)
        block = models.variant(variant)
        self.block: Any = block(shape.config(positions), settings, causal=True)
        start_biases(self.block)
        num_slots = block.memory_len(settings)
        self.memory = nn.Parameter(torch.randn(1, num_slots, shape.width)) if num_slots else None

    def forward(self, x: Tensor) -> Tensor:
        """From the start of a sequence."""
        stream, _ = self.block.in_runs(models.Stream(x, self.memory), None)
        return stream.tokens


class Bare(nn.Module):
    """A residual step without norm and residual."""

    def before(self, x: Tensor) -> Tensor:
        """What f is given."""
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """What f made of it."""
        return y


class AttentionOnly(Layer):
    """A variant's projections and attention: its block without norms, residuals and feed-forward."""

    def __init__(self, name: str, shape: Shape, **options: Any) -> None:
        super().__init__(name, shape, **options)
        self.block.attend, self.block.feed, self.block.ffn = Bare(), Bare(), nn.Identity()


def language_model(name: str, shape: Shape, *, positions: str = "rope") -> nn.Module:
    """One layer of ours between embedding and logits, causal."""
    return LogitsOnly(_model(name, shape, {"causal": True, "positions": positions}))


def classifier(name: str, shape: Shape, *, whole: bool = False) -> nn.Module:
    """One layer of ours that reads both ways, between embedding and the classes of the mean over tokens.

    Args:
        name: A variant or preset.
        shape: Sizes.
        whole: The sequence is one segment.
    """
    settings = {"num_classes": 2, "positions": "learned"}
    return LogitsOnly(_model(name, shape._replace(segment=shape.length) if whole else shape, settings))


def _model(name: str, shape: Shape, settings: dict[str, Any]) -> models.Model:
    variant, options = our_options(name, shape)
    return models.build_model(variant, **_sizes(shape), **settings, **options)


def _sizes(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB_SIZE,
        "max_len": shape.length,
        "width": shape.width,
        "depth": 1,
        "num_heads": shape.num_heads,
        "ffn_width": shape.ffn_width,
    }


class LogitsOnly(nn.Module):
    """A model of ours without its state."""

    def __init__(self, model: models.Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of sequences from their start."""
        return self.model(tokens)[0]


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


class FilteredMemoryLayer(nn.Module):
    """The block that reads both ways, ours or the textbook's, with the learned memory that enters it."""

    def __init__(self, shape: Shape, *, stride: int, textbook: bool) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.randn(1, shape.slots, shape.width))
        options = FilteredMemoryOptions(memory_len=shape.slots, stride=stride)
        block = FilteredMemoryBlock(shape.config(), options, causal=False)
        self.block = TextbookFilteredMemory(block) if textbook else block

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """X' and P'."""
        if isinstance(self.block, TextbookFilteredMemory):
            return self.block(x, self.memory)
        stream, _ = self.block(models.Stream(x, self.memory), None)
        return stream.tokens, stream.memory


# ---- peers


def peer_language_model(name: str, shape: Shape) -> nn.Module:
    """One layer of a peer between embedding and logits."""
    return peers.build_language_model(name, **_peer_sizes(shape))


class PeerClassifier(nn.Module):
    """One layer of a peer that reads both ways, and our pooling and classes."""

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__()
        self.encoder = peers.build_encoder(name, **_peer_sizes(shape))
        self.head = ClassifyHead(shape.config(), 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the classes."""
        return self.head(mean_pool(self.encoder(tokens), None))


def _peer_sizes(shape: Shape) -> dict[str, Any]:
    return _sizes(shape) | {"segment_len": shape.segment, "memory_len": shape.slots}


def peer_attention(name: str, shape: Shape) -> nn.Module:
    """A peer's projections and attention."""
    return peers.build_attention(name, width=shape.width, num_heads=shape.num_heads, segment_len=shape.segment)


def twin(
    ours: Callable[[Shape], nn.Module], theirs: Callable[[Shape], nn.Module], copy: Callable[[Any, Any], None]
) -> Callable[[Shape], nn.Module]:
    """How to build a peer with our weights."""

    def build(shape: Shape) -> nn.Module:
        source, peer = ours(shape), theirs(shape)
        with torch.no_grad():
            copy(source, peer)
        return peer

    return build


def copy_local_attention(ours: AttentionOnly, theirs: Any) -> None:
    """Projections of local-attention."""
    theirs.to_qkv.weight.copy_(ours.block.project.qkv.weight)
    theirs.to_out.weight.copy_(ours.block.project.out.weight)


def copy_infini(ours: AttentionOnly, theirs: Any) -> None:
    """Projections of infini-transformer-pytorch; its gate weighs local attention, ours the memory."""
    copy_local_attention(ours, theirs.model)
    theirs.model.fastweight_mem.head_gates.copy_(-ours.block.gate)


def copy_x_transformers(ours: LogitsOnly, theirs: Any) -> None:
    """An encoder of one layer of x-transformers, whose positions are scaled, and whose norms have no biases."""
    model, peer = ours.model, theirs.encoder
    assert model.positions is not None
    peer.token_emb.emb.weight.copy_(model.embedding.weight)
    peer.pos_emb.emb.weight.copy_(model.positions / peer.pos_emb.scale)
    peer.memory_tokens.copy_(model.learned_memory)
    block: Any = model.blocks[0]
    attention, feed_forward = (branch[1] for branch in peer.attn_layers.layers)
    for linear, weight in zip(
        (attention.to_q, attention.to_k, attention.to_v), block.project.qkv.weight.chunk(3), strict=True
    ):
        linear.weight.copy_(weight)
    attention.to_out.weight.copy_(block.project.out.weight)
    for linear, own in ((feed_forward.ff[0][0], block.ffn.up), (feed_forward.ff[2], block.ffn.down)):
        linear.load_state_dict(own.state_dict())
    theirs.head.load_state_dict(model.head.state_dict())
