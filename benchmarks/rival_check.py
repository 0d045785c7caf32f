"""The rival of these benchmarks beside an independent one: the same figures, so neither flatters us.

    SSD_TRAIN_DATA=... python -m benchmarks.rival_check [--size 300] [--epochs 2] [--rounds 2]

The other is tools/measure/peer.py in the folder that SSD_TRAIN_DATA names, written by others. Both train on the same
split of raccoon from the same seed, in processes of their own that alternate, with 0 and with 2 loader workers.
Without workers the random choices are the same, and so are the losses, up to the order of sums in threads.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

from benchmarks.turns import figures, times_as_fast

SEED = 233
Epochs = List[Tuple[float, float, float]]  # images per second, CrossEntropy, SmoothL1
PEER_LINE = r"epoch \d+ img/s (\S+) CE (\S+) SmoothL1 (\S+)"


def main() -> None:
    """Print a JSON line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    flags = parser.parse_args()
    if "SSD_TRAIN_DATA" not in os.environ:
        print(json.dumps({"skipped": "needs the folder that SSD_TRAIN_DATA names"}))
        return
    shared = Path(os.environ["SSD_TRAIN_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        for workers in flags.workers:
            print(json.dumps(compare(shared, Path(folder), workers, flags)), flush=True)


def compare(shared: Path, folder: Path, workers: int, flags: argparse.Namespace) -> Dict[str, Any]:
    """Speeds of both, their ratio, and the largest relative difference of the losses of an epoch."""
    data, split = shared / "data" / "raccoon", folder / "split"
    run([str(shared / "tools/measure/split.py"), str(data), str(split)])
    common = ["--size", str(flags.size), "--epochs", str(flags.epochs), "--seed", str(SEED), "--workers", str(workers)]
    labels = [str(split / f"{part}.manifest") for part in ("train", "validation")]
    commands = {
        "rival": ["-m", "benchmarks.rival", str(data), *labels, str(folder / "rival"), *common, "--steps"],
        "peer": [str(shared / "tools/measure/peer.py"), str(data), str(split), str(folder / "peer"), *common],
    }
    found: Dict[str, Epochs] = {name: [] for name in commands}
    for _ in range(flags.rounds):
        for name, command in commands.items():
            found[name] += (read_rival if name == "rival" else read_peer)(run(command))
    speeds = {name: [row[0] for row in rows] for name, rows in found.items()}
    return {
        "case": f"{flags.size} px, {workers} workers",
        "rival, images/s": figures(speeds["rival"]),
        "peer, images/s": figures(speeds["peer"]),
        **times_as_fast(speeds["rival"], speeds["peer"]),
        "largest difference of losses": round(largest_difference(found["rival"], found["peer"]), 4),
    }


def read_rival(text: str) -> Epochs:
    """Parse the epochs that benchmarks.rival printed."""
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [(row["images"] / row["seconds"], row["cross_entropy"], row["smooth_l1"]) for row in rows]


def read_peer(text: str) -> Epochs:
    """Parse the epochs that peer.py printed."""
    return [tuple(map(float, found)) for found in re.findall(PEER_LINE, text)]  # type: ignore[misc]


def largest_difference(ours: Epochs, theirs: Epochs) -> float:
    """Return the largest relative difference of the epochs' losses."""
    return max(abs(a - b) / b for mine, other in zip(ours, theirs) for a, b in zip(mine[1:], other[1:]))


def run(arguments: List[str]) -> str:
    """Return the output of Python with `arguments` and MXNet's default number of threads."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


if __name__ == "__main__":
    main()
