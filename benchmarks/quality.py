"""Mean average precision on three real data sets, ours beside GluonCV's own recipe, judged by pycocotools.

    SSD_TRAIN_DATA=... python -m benchmarks.quality [name=value ...] [--sets raccoon fruit bccd] [--epochs 12]
                                                    [--seeds 1 2 3] [--who ours rival]

The data, the split, the rival's script and the judge are those in the folder that SSD_TRAIN_DATA names (data/,
weights/, tools/measure/). Ours runs from the command line with default settings: paths, epochs and --pretrained only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

SETS = ("raccoon", "bccd", "fruit")
# the rival as its authors run it: 512 px, sgd 1e-3, a tenth after 8 and after 10 epochs
RIVAL = ["--size", "512", "--network", "ssd_512_mobilenet1.0_voc", "--batch", "8", "--lr", "1e-3", "--lr-steps", "8,10"]


def main() -> None:
    """Run what was asked for; print a line a run and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--who", nargs="+", default=["ours"], choices=CONTESTANTS, help="they take turns")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("settings", nargs="*", help="further settings of ours, as name=value; these come first")
    flags = parser.parse_args()
    shared = Path(os.environ["SSD_TRAIN_DATA"])
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.sets:
            split = split_of(shared, name, Path(folder) / "split")
            for seed in flags.seeds:
                for who in flags.who:
                    out = Path(folder) / f"{who}-{name}-{seed}"
                    rows.append(CONTESTANTS[who](shared, name, split, out, flags, seed))
                    print(json.dumps(rows[-1]), flush=True)
                    if flags.json:
                        flags.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


def split_of(shared: Path, name: str, folder: Path) -> Path:
    """Split a dataset and return the folder with train.manifest and validation.manifest."""
    split = folder / name
    run_python([_tool(shared, "split.py"), str(shared / "data" / name), str(split)])
    return split


def ours(shared: Path, name: str, split: Path, out: Path, flags: argparse.Namespace, seed: int) -> Dict[str, Any]:
    """Train by the command line, predict by the command line, judge by the judge."""
    images = shared / "data" / name
    where = ["--train", str(images), "--labels", str(split / "train.manifest")]
    where += ["--validation_labels", str(split / "validation.manifest")]
    where += ["--model_dir", str(out / "model"), "--output_dir", str(out / "output")]
    where += ["--pretrained", str(shared / "weights" / "mobilenet1.0-imagenet-coral.params")]
    settings = [part for pair in flags.settings for part in (f"--{pair.split('=', 1)[0]}", pair.split("=", 1)[1])]
    start = time.time()
    run_python(["-m", "ssd_train", "train", *where, "--epochs", str(flags.epochs), "--seed", str(seed), *settings])
    minutes = (time.time() - start) / 60
    answers = str(out / "answers.jsonl")
    run_python(
        ["-m", "ssd_train", "predict", str(images / "images"), "--model", str(out / "model"), "--output", answers]
    )
    row = _row("ssd_train", name, flags.epochs, seed, minutes, _judge(shared, split, answers))
    row.update(details(split, answers, out))
    return {**row, "settings": flags.settings, "threads": _threads(), **course(out / "model" / "history.jsonl")}


def course(history: Path) -> Dict[str, Any]:
    """Return the last epoch's scores by our own metric, and SmoothL1 per positive anchor of every epoch.

    The metric equals the judge's; SmoothL1 is on GluonCV's scale.
    """
    rows = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    last = {f"last {name}": rows[-1][name] for name in ("mAP", "mAP@0.5")}
    return {**last, **{name: [row.get(name) for row in rows] for name in ("SmoothL1", "val_SmoothL1")}}


def rival(shared: Path, name: str, split: Path, out: Path, flags: argparse.Namespace, seed: int) -> Dict[str, Any]:
    """GluonCV's recipe with all processors, as measured in the facts it has to reproduce."""
    weights = str(shared / "weights" / "mobilenet1.0-imagenet-coral.params")
    command = [_tool(shared, "peer.py"), str(shared / "data" / name), str(split), str(out), *RIVAL]
    start = time.time()
    run_python([*command, "--epochs", str(flags.epochs), "--base", weights, "--seed", str(232 + seed)])
    minutes = (time.time() - start) / 60
    answers = str(out / "predictions.jsonl")
    row = _row("GluonCV recipe", name, flags.epochs, seed, minutes, _judge(shared, split, answers))
    return {**row, **details(split, answers, out), "threads": _threads()}


CONTESTANTS = {"ours": ours, "rival": rival}


def details(split: Path, answers: str, out: Path) -> Dict[str, Any]:
    """Return AP by class and by box size and the 95 % bootstrap intervals, by our own metric, equal to the judge's."""
    file = out / "scores.json"
    labels = str(split / "validation.manifest")
    run_python(["-m", "ssd_train", "evaluate", "--predictions", answers, "--labels", labels, "--json", str(file)])
    scores = json.loads(file.read_text("utf-8"))
    return {
        "AP": {name: one["AP"] for name, one in scores["per_class"].items()},
        "AP by size": {size: one["AP"] for size, one in scores["by_size"].items()},
        "intervals": scores["intervals"],
    }


def summarised(rows: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Return a row for all seeds of the same run, of those with `details`: means, and standard deviations over seeds.

    An interval is the mean of those of the seeds: it is over images, whose number limits it, not over seeds.
    """
    runs: Dict[Tuple[Any, ...], List[Dict[str, Any]]] = {}
    for row in rows:
        if "intervals" in row:
            key = (row["set"], row["epochs"], row["who"], ", ".join(row.get("settings") or ()))
            runs.setdefault(key, []).append(row)
    return [
        {
            "data set": name,
            "epochs": epochs,
            "who": f"{who} {settings}".strip(),
            "seeds": len(seeds),
            **{key: _with_interval(seeds, key) for key in ("mAP", "mAP@0.5")},
            **{size: _mean([row["AP by size"][size] for row in seeds]) for size in seeds[0]["AP by size"]},
            "AP by class": {label: _mean([row["AP"][label] for row in seeds]) for label in seeds[0]["AP"]},
            "AP@0.5 by class": {label: _mean([row["AP@0.5"][label] for row in seeds]) for label in seeds[0]["AP@0.5"]},
        }
        for (name, epochs, who, settings), seeds in runs.items()
    ]


def _with_interval(seeds: Sequence[Dict[str, Any]], key: str) -> str:
    values = [row[key] for row in seeds]
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    low, high = (_mean([row["intervals"][key][side] for row in seeds]) for side in (0, 1))
    return f"{_mean(values)}{spread} ({low} to {high})"


def _mean(values: Sequence[Optional[float]]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.3f}" if known else ""


def _row(who: str, name: str, epochs: int, seed: int, minutes: float, scores: Dict[str, Any]) -> Dict[str, Any]:
    row = {"who": who, "set": name, "epochs": epochs, "seed": seed, "minutes": round(minutes, 2)}
    return {**row, "mAP": scores["mAP"], "mAP@0.5": scores["mAP50"], "AP@0.5": scores["AP50"]}


def _judge(shared: Path, split: Path, answers: str) -> Dict[str, Any]:
    return json.loads(
        run_python([_tool(shared, "score.py"), str(split / "validation.manifest"), answers]).splitlines()[-1]
    )


def _tool(shared: Path, name: str) -> str:
    return str(shared / "tools" / "measure" / name)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def run_python(arguments: List[str]) -> str:
    """Run Python with `arguments` on all processors; its output, or the end of what it complained of."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(_threads())}
    done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\nexited {done.returncode}:\n{done.stderr[-2000:]}{done.stdout[-500:]}")
    return done.stdout


if __name__ == "__main__":
    main()
