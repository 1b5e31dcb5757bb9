"""Losses of twenty training steps, as they were when the models were last changed on purpose.

A change that is meant to keep the numbers must keep these. After one that is meant to move them, write them
anew and say why in the commit (from the root of the repository):

    python -m tests.models.test_golden
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import models

GOLDEN = Path(__file__).with_name("golden.json")
VOCAB_SIZE, NUM_TOKENS, BATCH_SIZE, NUM_STEPS = 16, 24, 8, 20
OPTIONS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "block_window": {"block_len": 8},
    "fam": {"block_len": 8, "fam_len": 2},
    "feedback_memory": {"block_len": 8},
    "filtered_memory": {"memory_len": 4, "chunk_len": 8},
    "infini": {"block_len": 8},
    "linear": {"chunk_len": 8},
    "luna": {"memory_len": 4, "chunk_len": 8},
    "mat": {"block_len": 8, "memory_len": 2, "carry": True},
    "memformer": {"block_len": 8, "memory_len": 2},
}
TASKS = ("next_token", "classify")


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences that count upwards in strides of one to three; the class is the stride."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(VOCAB_SIZE, (BATCH_SIZE, 1), generator=generator)
    strides = torch.randint(3, (BATCH_SIZE, 1), generator=generator)
    return (starts + (strides + 1) * torch.arange(NUM_TOKENS + 1)) % VOCAB_SIZE, strides[:, 0]


def losses(name: str, task: str) -> list[float]:
    """Train a small model on the CPU in float32."""
    classify = task == "classify"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build_model(
            name,
            vocab_size=VOCAB_SIZE,
            max_len=NUM_TOKENS,
            num_classes=3 if classify else None,
            causal=not classify,
            width=32,
            ffn_width=64,
            positions="learned" if classify else "rope",
            **OPTIONS[name],
        )
    optimizer = torch.optim.AdamW(model.parameter_groups(0.01), lr=1e-3)
    values = []
    for step in range(NUM_STEPS):
        tokens, classes = batch(step)
        logits, _ = model(tokens[:, :-1])
        targets = classes if classify else tokens[:, 1:].flatten()
        loss = functional.cross_entropy(logits.flatten(0, -2), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", models.available())
def test_losses_are_what_they_were(name: str, task: str) -> None:
    assert name in OPTIONS, f"{name} has no golden losses: add options, and write them (see the top of this file)"
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name][task]
    assert golden[-1] < golden[0]
    assert losses(name, task) == pytest.approx(golden, rel=1e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = []
    for variant in models.available():
        rounded = {task: [float(f"{loss:.7g}") for loss in losses(variant, task)] for task in TASKS}
        lines.append(f'"{variant}": {json.dumps(rounded)}')
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
