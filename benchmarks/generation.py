"""How long the data of generated tasks take to make, a prepared task to open, and a batch of every task to load.

Making: wall time with all cores; what is asked: 100,000 expressions of ListOps, 20,000 images of Pathfinder and 2,000
of Path-X in five minutes each, on two cores. The images that were made are described, too, as those of the original
generator are in README. Loading: as a share of a plain training step of ``luna``.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import data
from benchmarks.measure import Verdict, circumstances
from benchmarks.overhead import WARM_UP, data_share
from data._images import read_images
from data._listops import LraListopsConfig
from data._listops import generate as write
from data._pathfinder import generate as draw
from experiments.measure import in_fresh_process, peak_memory

ALLOWED_SECONDS = 300.0
OPENED = "lra_listops"


def make_listops(num: int) -> None:
    """Expressions with LRA's options."""
    held_out = min(2000, num // 10)
    write(LraListopsConfig(train_size=num - 2 * held_out, val_size=held_out, test_size=held_out))


def make_images(name: str, num: int) -> dict[str, float]:
    """Images of the hard set, and what they are like: pixels from 0 to 255, their spread as a share of 255."""
    task: Any = data.build_task(name)
    with tempfile.TemporaryDirectory() as folder:
        draw(task.snakes(), 0, "train", num, Path(folder))
        images = read_images(Path(folder), "train", ("distractors",))
        pixels = np.asarray(images.pixels)
        figures = {
            "mean": pixels.mean(),
            "spread": pixels.std() / 255,
            "black": (pixels == 0).mean(),
            "above_64": (pixels > 64).mean(),
            "above_200": (pixels > 200).mean(),
            "distractors": images.facts["distractors"].mean(),
        }
    return {name: round(float(value), 4) for name, value in figures.items()}


def opening(cache: str) -> tuple[float, int]:
    """Seconds and bytes that opening a prepared task and taking a first batch add."""
    task = data.build_task(OPENED, cache=cache)
    started = time.perf_counter()
    before, peak = peak_memory(lambda: task.train_batch(0, 32))
    return time.perf_counter() - started, peak - before


def measure_generation(*, tiny: bool) -> tuple[dict[str, Any], list[Verdict]]:
    """Seconds for each task as a share of what is allowed; seconds and memory of opening one."""
    share = 1000 if tiny else 1
    makers: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "100,000 expressions of ListOps": (make_listops, (100_000 // share,)),
        "20,000 images of Pathfinder": (make_images, ("lra_pathfinder", 20_000 // share)),
        "2,000 images of Path-X": (make_images, ("lra_pathx", 2_000 // share)),
    }
    record: dict[str, Any] = {
        "name": "generation",
        "about": "making the data of generated tasks, as a share of the five minutes that are allowed (wall time, all "
        "cores); opening a prepared task, of 1 s and of 200 MB; loading a batch, as a share of a step of luna",
        **circumstances(threads=1),
        "seconds": {},
        "statistics": {},
        "data_loading": [],
    }
    verdicts = []
    for what, (make, arguments) in makers.items():
        make(*(max(20, number // 100) if isinstance(number, int) else number for number in arguments))  # compiles
        started = time.perf_counter()
        figures = make(*arguments)
        seconds = time.perf_counter() - started
        record["seconds"][what] = round(seconds, 1)
        if figures:
            record["statistics"][what] = figures
        verdicts.append(Verdict.of(f"{what} / allowed", "time", seconds / ALLOWED_SECONDS, 1.0))
    with tempfile.TemporaryDirectory() as cache:
        data.build_task(OPENED, cache=cache).prepare()
        seconds, added = in_fresh_process(opening, cache)
    record["opening"] = {"seconds": round(seconds, 3), "added_megabytes": round(added / 2**20, 1)}
    verdicts.append(Verdict.of(f"opening {OPENED} / allowed", "time", seconds / 1.0, 1.0))
    verdicts.append(Verdict.of(f"opening {OPENED} / allowed", "memory", added / 200e6, 1.0))
    for name in data.available()[-2:] if tiny else data.available():
        row = data_share("luna", name, "smoke" if tiny else "laptop", steps=WARM_UP + 2 if tiny else 40)
        record["data_loading"].append(row)
        verdicts.append(Verdict.of(f"batch / step, luna {name} {row['scale']}", "time", row["share"], 0.02))
    record["goals"] = [verdict._asdict() for verdict in verdicts]
    return record, verdicts
