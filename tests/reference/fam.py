"""TransformerFAM: arXiv 2404.09173v3, algorithm 2, one block of tokens after the other.

:func:`run_block` is the algorithm. Around it, the walk over the blocks in either order: :func:`block` takes
one layer through all blocks, :func:`logits_block_by_block` one block through all layers, as a decoder would.

Choices where the paper is silent (``models/fam.py`` says why): F_0 stands at positions -F..-1; FAM stands at
the end of the block before when tokens read it, and at the end of the current block when it is updated; only
full blocks update.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.reference.backbone import (
    Layer,
    LayerOutcome,
    Rows,
    after,
    attend,
    before,
    embed,
    feed,
    layers,
    linear,
    next_token_logits,
    project,
    rotate,
)
from tests.reference.backbone import prompt as bottom_prompt
from tests.reference.block_window import cache


class Carried(NamedTuple):
    """One layer's memory before a block."""

    fam: Rows
    """F_{τ-1}."""
    is_prompt: bool
    """Whether that is F_0, which holds no context."""
    past: list
    """(rotated key, value) of every token before."""
    prompt: Rows
    """The static summary, where FAM's queries are not its own."""
    prompt_offset: int = 0
    """How much farther away than usual F_0 is read (random position offset)."""
    older: tuple[list, ...] = ()
    """(rotated key, value) of each slot of the FAMs before ``fam`` that tokens still read."""


def fam_places(options: Any, border: int, num_fam: int) -> list:
    """Where FAM's slots stand before the block that begins at ``border`` (B.2.1 and table 7)."""
    if options.fam_positions == "zero":
        return [0] * num_fam
    if options.fam_positions == "fractional":
        return [border - 1 + (i + 1) / (num_fam + 1) for i in range(num_fam)]
    return [border - num_fam + i for i in range(num_fam)]


def run_block(layer: Layer, inputs: Rows, carried: Carried) -> tuple[Rows, Carried]:
    """Algorithm 2: the outputs of one block's tokens, and what the next block finds."""
    p, config, options = layer.parameters, layer.config, layer.options
    start, num_fam = len(carried.past), len(carried.fam)
    stop = start + options.block_len

    def projected(row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return project(p.under("project"), before(p.under("attend"), row, config), config)

    # (Q,K,V)_τ and (Q,K,V)^F_{τ-1}: the same weights, the same norm.
    tokens = [projected(row) for row in inputs]
    queries = [rotate(q, start + i, config) for i, (q, _, _) in enumerate(tokens)]
    own = [(rotate(k, start + i, config), v) for i, (_, k, v) in enumerate(tokens)]
    fam = [projected(row) for row in carried.fam]

    # Tokens: [K_{τ-m..τ-1}; K^F_{τ-1}; K_{τ,<=t}].
    segments = carried.past[max(0, start - options.memory_blocks * options.block_len) :]
    places = fam_places(options, start, num_fam)
    latest = [
        (rotate(k, place - carried.prompt_offset, config), v) for place, (_, k, v) in zip(places, fam, strict=True)
    ]
    feedback = [pair for one in (*carried.older, latest) for pair in one]
    outputs = []
    for i, row in enumerate(inputs):
        seen = [*segments, *feedback, *(own[: i + 1] if layer.causal else own)]
        y = linear(p.under("project.out"), attend(queries[i], [k for k, _ in seen], [v for _, v in seen]))
        outputs.append(feed(layer, after(p.under("attend"), row, y, config)))

    past = [*carried.past, *own]
    if len(inputs) < options.block_len or not num_fam:
        return outputs, carried._replace(past=past)

    # FAM: [K^F_{τ-1}; K_τ], now at the last positions of this block.
    places = fam_places(options, stop, num_fam)
    here = [(rotate(k, place, config), v) for place, (_, k, v) in zip(places, fam, strict=True)]
    seen = [*here, *own]
    # SUM FAM (C.3): queries and residual from the static summary.
    is_static = options.update == "static"
    sources = carried.prompt if is_static else carried.fam
    updated = []
    for place, row in zip(places, sources, strict=True):
        q = rotate(projected(row)[0], place, config)
        mixed = attend(q, [k for k, _ in seen], [v for _, v in seen])
        residual = torch.zeros_like(row) if carried.is_prompt and not is_static else row
        new = feed(layer, after(p.under("attend"), residual, linear(p.under("project.out"), mixed), config))
        # Not the paper's: FAM brought back to unit RMS, or a gate on each slot.
        if options.update == "rescaled":
            new = new / torch.sqrt((new * new).mean())
        elif options.update == "gated" and not carried.is_prompt:
            normed = before(p.under("attend"), row, config)
            score = linear(p.under("gate"), torch.cat([mixed, normed]))
            gate = torch.clamp(score / 6 + 0.5, 0, 1)
            new = (1 - gate) * row + gate * new
        updated.append(new)
    older = (*carried.older, latest)[-(options.past_fams - 1) :] if options.past_fams > 1 else ()
    return outputs, Carried(updated, False, past, carried.prompt, older=older)


def carry_prompt(layer: Layer, prompt: Rows) -> Rows:
    """The prompt's own pass through a layer (B.1): slots see one another, both ways, and nothing else."""
    p, config = layer.parameters, layer.config
    slots = [project(p.under("project"), before(p.under("attend"), row, config), config) for row in prompt]
    places = fam_places(layer.options, 0, len(prompt))
    keys = [rotate(k, place, config) for place, (_, k, _) in zip(places, slots, strict=True)]
    values = [v for _, _, v in slots]
    above = []
    for place, row, (q, _, _) in zip(places, prompt, slots, strict=True):
        y = linear(p.under("project.out"), attend(rotate(q, place, config), keys, values))
        above.append(feed(layer, after(p.under("attend"), row, y, config)))
    return above


def block(
    layer: Layer,
    rows: Rows,
    memory: Rows | None,
    *,
    carried_fam: Tensor | None = None,
    prompt_offset: int = 0,
) -> LayerOutcome:
    """One layer through all blocks.

    ``carried_fam`` starts from another sequence's FAM (random state passing), ``prompt_offset`` moves what
    the first block reads (random position offset).
    """
    is_prefix = layer.options.initial == "prefix"
    prompt = list(layer.parameters["own_memory"]) if is_prefix else memory or []
    carried = Carried(prompt, True, [], prompt, prompt_offset)
    if carried_fam is not None:
        carried = Carried(list(carried_fam), False, [], prompt, prompt_offset)
    outputs = []
    for start in range(0, len(rows), layer.options.block_len):
        out, carried = run_block(layer, rows[start : start + layer.options.block_len], carried)
        outputs += out
    state: dict[str, Any] = cache(carried.past, layer.options.block_len, layer.options.memory_blocks)
    if carried.fam:
        state |= {"fam": torch.stack(carried.fam), "is_prompt": carried.is_prompt}
    above = carry_prompt(layer, prompt) if prompt and not is_prefix else memory
    return LayerOutcome(outputs, above, state, slots=carried.fam)


def logits_block_by_block(model: Any, tokens: list[int], *, leak: bool = False) -> Tensor:
    """One block through all layers, then the next: logits ``[T, V]``.

    ``leak`` is the other reading of appendix B.1, which is wrong: a layer's F_0 would be the *updated* FAM of
    the layer below, which has seen the whole first block already.
    """
    rows, size = embed(model, tokens), model.options.block_len
    stack_of_layers, carried = layers(model), []
    prompt = bottom_prompt(model) or []
    for layer in stack_of_layers:
        carried.append(Carried(prompt, True, [], prompt))
        prompt = carry_prompt(layer, prompt)

    outputs: Rows = []
    for start in range(0, len(rows), size):
        x = rows[start : start + size]
        for index, layer in enumerate(stack_of_layers):
            if leak and start == 0 and index:
                carried[index] = carried[index]._replace(fam=carried[index - 1].fam)
            x, carried[index] = run_block(layer, x, carried[index])
        outputs += x
    return next_token_logits(model, outputs)
