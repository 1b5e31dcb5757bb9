"""Memory: what a step adds, and what streaming holds, each in a process of its own.

A process that has run something else before holds that memory already.
"""

import time
from typing import Any

import torch

import models
from benchmarks.cases import RECURRENT, comparisons
from benchmarks.comparison import Shape
from benchmarks.layers import our_options
from benchmarks.measure import Verdict, circumstances
from experiments.measure import in_fresh_process, peak_memory

STREAM_PIECE = 1000  # no multiple of a block, so that pieces end inside blocks
STREAMED = Shape(segment=128, slots=16)


def added_memory(comparison: str, candidate: str, tiny: bool) -> int:
    """Bytes that one step adds to the resident size at its peak.

    A step of one segment goes before it, so that code and buffers which any step loads once are not counted.
    """
    torch.set_num_threads(1)
    measured = comparisons(tiny=tiny)[comparison].candidates[candidate]
    warm_up = measured._replace(shape=measured.shape._replace(batch=1, length=measured.shape.segment))
    warm_up.step()()
    before, peak = peak_memory(measured.step())
    return peak - before


def streaming_memory(name: str, num_tokens: int) -> dict[str, float]:
    """Bytes before and at the peak, and CPU seconds, of streaming tokens through a small causal model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    variant, options = our_options(name, STREAMED)
    model = models.build_model(
        variant, vocab_size=256, max_len=128, causal=True, positions="rope", width=64, depth=2, **options
    ).eval()
    generator = torch.Generator().manual_seed(1)

    def stream() -> None:
        state = None
        with torch.no_grad():
            for start in range(0, num_tokens, STREAM_PIECE):
                piece = min(STREAM_PIECE, num_tokens - start)
                tokens = torch.randint(256, (1, piece), generator=generator)
                logits, state = model(tokens, None, state)
                assert logits.isfinite().all()

    started = time.process_time()
    before, peak = peak_memory(stream)
    return {"before": before, "peak": peak, "seconds": time.process_time() - started}


def measure_streaming(*, tiny: bool) -> tuple[dict[str, Any], list[Verdict]]:
    """Peak memory of streaming a long sequence and a very long one, each in a process of its own."""
    short, long = (2**8, 2**10) if tiny else (2**14, 2**20)
    record: dict[str, Any] = {
        "name": "streaming",
        "about": f"peak memory of a process that streams {long} tokens over that of one that streams {short}",
        **circumstances(threads=1),
        "candidates": {},
    }
    verdicts = []
    for name in RECURRENT:
        runs = {num: in_fresh_process(streaming_memory, name, num) for num in (short, long)}
        record["candidates"][name] = {
            f"T={num}": {
                "peak_megabytes": round(run["peak"] / 2**20, 1),
                "added_megabytes": round((run["peak"] - run["before"]) / 2**20, 1),
                "tokens_per_second": round(num / run["seconds"]),
            }
            for num, run in runs.items()
        }
        verdicts.append(
            Verdict.of(f"{name} T={long} / T={short}", "peak memory", runs[long]["peak"] / runs[short]["peak"], 1.05)
        )
    record["goals"] = [verdict._asdict() for verdict in verdicts]
    return record, verdicts
