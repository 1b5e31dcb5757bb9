"""How long a large store takes to read: what a figure waits for before it is drawn.

python -m benchmarks.store                # 10,000 small runs, made in a temporary folder
python -m benchmarks.store --runs 1000
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.results import load_curves, load_results, load_slices

VARIANTS = ("transformer", "block_window", "luna", "fam", "infini")
NUM_SLICES = 20
NUM_ROWS = 12


def write_runs(root: Path, count: int) -> None:
    """Finished runs as a sweep leaves them, without checkpoints.

    Args:
        root: a results folder.
        count: how many.
    """
    slices = "length_blocks,depth,n,exact_match\n" + "".join(f"{row},0.5,10,0.{row}\n" for row in range(NUM_SLICES))
    rows = [
        {"step": 10 * step, "split": split, "loss": 1 / (step + 1), "exact_match": step / NUM_ROWS, "attempt": 1}
        for step in range(NUM_ROWS // 3)
        for split in ("train", "val", "memory")
    ]
    metrics = "".join(json.dumps(row) + "\n" for row in rows)
    for number in range(count):
        result = _result(number)
        folder = root / "runs" / result["task"] / result["model"] / result["run_id"]
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(f"seed: {result['seed']}\n")
        (folder / "status.json").write_text('{"state": "done"}')
        (folder / "metrics.jsonl").write_text(metrics)
        (folder / "slices.csv").write_text(slices)
        (folder / "result.json").write_text(json.dumps(result, indent=2))


def _result(number: int) -> dict[str, Any]:
    variant, seed = VARIANTS[number % len(VARIANTS)], number // len(VARIANTS) % 10
    scores = {f"{split}/exact_match@{blocks}b": 0.5 for split in ("val", "test") for blocks in range(12)}
    labels = {"model": variant, "variant": variant, "task": "passkey", "scale": "laptop", "seed": seed}
    facts = {"num_params": 5488, "state_size": 1536, "tokens_per_second": 9735.995, "wall_seconds": 1.42}
    return {
        "study": f"study_{number % 20}",
        **labels,
        "config_hash": f"{number // 50:010x}",
        "data_source": "generated",
        "data_checksum": "8b" * 32,
        "metric": "exact_match",
        "git_sha": "97" * 20,
        "test/exact_match": 0.25,
        **scores,
        **facts,
        "torch": "2.13.0",
        "hardware": "a machine",
        "milestones": [[4, 0.075], [8, 0.125]],
        "run_id": f"{number:010x}-s{seed}",
        "status": "done",
    }


def seconds(work: Callable[[], object], *, repeats: int = 3) -> float:
    """The shortest time of a few: what else runs on a machine only ever adds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Time to read a store of many runs.")
    parser.add_argument("--runs", type=int, default=10_000, help="how many to make (default: 10,000)")
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="memattn-store-") as folder:
        write_runs(Path(folder), count)
        runs = load_results(folder)
        one = runs[runs["study"] == "study_0"]
        print(f"{count:,} runs; seconds, the best of three")
        print(f"load_results              {seconds(lambda: load_results(folder)):6.2f}")
        print(f"load_slices               {seconds(lambda: load_slices(folder)):6.2f}")
        print(f"load_slices, one study    {seconds(lambda: load_slices(runs=one)):6.2f}   ({len(one):,} runs)")
        print(f"load_curves, one study    {seconds(lambda: load_curves(one, 'val')):6.2f}   ({len(one):,} runs)")


if __name__ == "__main__":
    main()
