"""Memory-attention variants on one backbone. Pure torch: nothing here knows of Hydra, Lightning, W&B or files."""

from models.backbone import Model, ModelState, build_model
from models.block import BackboneConfig, MemoryBlock, Stream, detach, register, tensors, variant, variants


def available() -> tuple[str, ...]:
    """Names that :func:`build_model` knows."""
    return tuple(variants())


def options_class(name: str) -> type:
    """The frozen dataclass of a variant's options."""
    return variant(name).Options


__all__ = [
    "BackboneConfig",
    "MemoryBlock",
    "Model",
    "ModelState",
    "Stream",
    "available",
    "build_model",
    "detach",
    "options_class",
    "register",
    "tensors",
    "variant",
    "variants",
]
