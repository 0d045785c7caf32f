"""Seconds until a saved model of ours has the COCO mAP of GluonCV's recipe, beside the seconds of that recipe.

    SSD_TRAIN_DATA=... python -m benchmarks.time_to_score [name=value ...] [--sets raccoon fruit bccd] [--seeds 1]
                                                          [--epochs 12] [--our_epochs 12] [--json FILE]

GluonCV's recipe runs first, as in quality.py; its seconds go from the start of its process until its weights are saved.
Ours trains from the same backbone with default settings. Its seconds go from the start of its process until the end of
the first epoch whose model has that score. The weights of that epoch (model/model-*.params) are saved before its end;
deployment files only at the end of the run. TensorBoard's log, which --log writes after each epoch, has the times.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from benchmarks.machine import describe
from benchmarks.quality import SETS, add_row, arguments, rival, split_of, threads, train


class Epoch(NamedTuple):
    """An epoch with its end in seconds since the Unix epoch, and the COCO mAP of its weights."""

    number: int
    ended: float
    score: float


def main() -> None:
    """Run both on each set, print a row for each, and add the rows to a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--epochs", type=int, default=12, help="of GluonCV's recipe")
    parser.add_argument("--our_epochs", type=int, default=12, help="of ours, for which its learning rate is planned")
    parser.add_argument("--json", type=Path, help="add the rows to this result")
    parser.add_argument("settings", nargs="*", help="further settings of ours, as name=value; these come first")
    flags = parser.parse_args()
    shared, machine = Path(os.environ["SSD_TRAIN_DATA"]), describe()
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.sets:
            split = split_of(shared, name, Path(folder) / "split")
            for seed in flags.seeds:
                start, load = time.time(), round(os.getloadavg()[0], 1)
                theirs = rival(shared, name, split, Path(folder) / f"rival-{name}-{seed}", flags, seed)
                row = {"set": name, "seed": seed, "GluonCV's mAP": theirs["mAP"], "its seconds": theirs["seconds"]}
                row.update(time_to(theirs["mAP"], shared, name, split, Path(folder) / f"{name}-{seed}", flags, seed))
                share = row["seconds"] and round(row["seconds"] / theirs["seconds"], 3)
                row.update({"share": share, "threads": threads(), "load before": load})
                print(json.dumps(row), flush=True)
                if flags.json:
                    add_row(flags.json, row, (time.time() - start) / 60, machine)


def time_to(
    target: float, shared: Path, name: str, split: Path, out: Path, flags: argparse.Namespace, seed: int
) -> Dict[str, Any]:
    """Train ours; return the first epoch that reaches `target`, its score and its seconds, None if none does."""
    settings = arguments(shared, flags.our_epochs, seed, flags.settings)
    start = time.time()
    train(shared, name, split, out, *settings, "--log", "tensorboard")
    taken = time.time() - start
    epochs = read_epochs(out / "output" / "tensorboard")
    reached = first_to_reach(epochs, target)
    row = {"settings": flags.settings, "epochs": flags.our_epochs, "epoch": None, "mAP": None, "seconds": None}
    if reached:
        row.update(
            {"epoch": reached.number, "mAP": round(reached.score, 4), "seconds": round(reached.ended - start, 1)}
        )
    return {**row, "seconds of all epochs": round(epochs[-1].ended - start, 1), "command seconds": round(taken, 1)}


def first_to_reach(epochs: Sequence[Epoch], target: float) -> Optional[Epoch]:
    """Return the first epoch with a score of `target` or more.

    Its model is saved: `train` saves each model whose score no epoch before it exceeds.
    """
    return next((epoch for epoch in epochs if epoch.score >= target), None)


def read_epochs(folder: Path) -> List[Epoch]:
    """Return the epochs that were evaluated, from the event file in `folder`."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    [file] = folder.glob("events.out.tfevents.*")
    return [
        Epoch(event.step, event.wall_time, value.simple_value)
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == "validation/mAP"
    ]


if __name__ == "__main__":
    main()
