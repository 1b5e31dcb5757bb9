"""How long the data of generated tasks take to make, and a prepared task to open, against what is asked of them.

Wall time with all cores; what is asked: 100,000 expressions of ListOps, 20,000 images of Pathfinder and 2,000 of Path-X
in five minutes each, on two cores.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data
from benchmarks.measure import Verdict, circumstances
from data._pathfinder import generate as draw
from data.lra_listops import LraListopsConfig
from data.lra_listops import generate as write
from experiments.measure import in_fresh_process, peak_memory

ALLOWED_SECONDS = 300.0
OPENED = "lra_listops"


def make_listops(num: int) -> None:
    """Expressions with LRA's options."""
    held_out = min(2000, num // 10)
    write(LraListopsConfig(train_size=num - 2 * held_out, val_size=held_out, test_size=held_out))


def make_images(name: str, num: int) -> None:
    """Images of the hard set."""
    task: Any = data.build_task(name)
    with tempfile.TemporaryDirectory() as folder:
        draw(task.snakes(), 0, "train", num, Path(folder))


def opening(cache: str) -> tuple[float, int]:
    """Seconds and bytes that opening a prepared task and taking a first batch add."""
    task = data.build_task(OPENED, cache=cache)
    started = time.perf_counter()
    before, peak = peak_memory(lambda: task.train_batch(0, 32))
    return time.perf_counter() - started, peak - before


def measure_generation(*, tiny: bool) -> tuple[dict[str, Any], list[Verdict]]:
    """Seconds for each task as a share of what is allowed; seconds and memory of opening one."""
    share = 1000 if tiny else 1
    makers: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
        "100,000 expressions of ListOps": (make_listops, (100_000 // share,)),
        "20,000 images of Pathfinder": (make_images, ("lra_pathfinder", 20_000 // share)),
        "2,000 images of Path-X": (make_images, ("lra_pathx", 2_000 // share)),
    }
    record: dict[str, Any] = {
        "name": "generation",
        "about": "making the data of generated tasks, as a share of the five minutes that are allowed; opening a "
        "prepared task, as a share of 1 s and of 200 MB",
        **circumstances(threads=1),
        "clock": "wall time, all cores",
        "seconds": {},
    }
    verdicts = []
    for what, (make, arguments) in makers.items():
        make(*(max(20, number // 100) if isinstance(number, int) else number for number in arguments))  # compiles
        started = time.perf_counter()
        make(*arguments)
        seconds = time.perf_counter() - started
        record["seconds"][what] = round(seconds, 1)
        verdicts.append(Verdict.of(f"{what} / allowed", "time", seconds / ALLOWED_SECONDS, 1.0))
    with tempfile.TemporaryDirectory() as cache:
        data.build_task(OPENED, cache=cache).prepare()
        seconds, added = in_fresh_process(opening, cache)
    record["opening"] = {"seconds": round(seconds, 3), "added_megabytes": round(added / 2**20, 1)}
    verdicts.append(Verdict.of(f"opening {OPENED} / allowed", "time", seconds / 1.0, 1.0))
    verdicts.append(Verdict.of(f"opening {OPENED} / allowed", "memory", added / 200e6, 1.0))
    record["goals"] = [verdict._asdict() for verdict in verdicts]
    return record, verdicts
