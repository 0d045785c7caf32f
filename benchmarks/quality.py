"""Mean average precision on three real data sets, ours beside GluonCV's own recipe, judged by pycocotools.

    SSD_TRAIN_DATA=... python -m benchmarks.quality [name=value ...] [--sets raccoon fruit bccd] [--epochs 12]
                                                    [--seeds 1 2 3] [--who ours rival] [--third]

The data, the split, the rival's script and the judge are those in the folder that SSD_TRAIN_DATA names (data/,
weights/, tools/measure/). Ours runs from the command line with default settings: paths, epochs and --pretrained only.
The validation part also chooses the epoch of ours. With --third, a fifth of the training part chooses it, and the
validation part only scores; both contestants then train on the other four fifths.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

SETS = ("raccoon", "bccd", "fruit")
BACKBONE = "mobilenet1.0-imagenet-coral.params"
# split.py's validation part are the hashes below 0.2, and the part that chooses the epoch are those from there to this
CHOOSING_END = 0.36
CHOOSING = "choosing.manifest"
# the rival as its authors run it: 512 px, sgd 1e-3, a tenth after 8 and after 10 epochs
RIVAL = ["--size", "512", "--network", "ssd_512_mobilenet1.0_voc", "--batch", "8", "--lr", "1e-3", "--lr-steps", "8,10"]


def main() -> None:
    """Run what was asked for; print a line a run and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--who", nargs="+", default=["ours"], choices=CONTESTANTS, help="they take turns")
    parser.add_argument("--third", action="store_true", help="a part of the training part chooses the epoch of ours")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("settings", nargs="*", help="further settings of ours, as name=value; these come first")
    flags = parser.parse_args()
    shared = Path(os.environ["SSD_TRAIN_DATA"])
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.sets:
            split = split_of(shared, name, Path(folder) / "split", flags.third)
            for seed in flags.seeds:
                for who in flags.who:
                    out = Path(folder) / f"{who}-{name}-{seed}"
                    rows.append(CONTESTANTS[who](shared, name, split, out, flags, seed))
                    if flags.third:
                        rows[-1]["images"] = {part.stem: len(_lines(part)) for part in sorted(split.glob("*.manifest"))}
                        for score in ("last mAP", "last mAP@0.5"):  # of the part that chose the epoch
                            rows[-1].pop(score, None)
                    print(json.dumps(rows[-1]), flush=True)
                    if flags.json:
                        flags.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


def split_of(shared: Path, name: str, folder: Path, third: bool = False) -> Path:
    """Split a dataset and return the folder with train.manifest and validation.manifest.

    Args:
        shared: the folder that SSD_TRAIN_DATA names.
        name: of the dataset.
        folder: where to make the folder.
        third: also split choosing.manifest off the training part.
    """
    split = folder / name
    run_python([_tool(shared, "split.py"), str(shared / "data" / name), str(split)])
    if third:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(_tool(shared, "split.py"))["main"](shared / "data" / name, split / "wide", CHOOSING_END)
        files = ("validation.manifest", "wide/validation.manifest", "train.manifest")
        parts = three_parts(*(_lines(split / file) for file in files))
        for file, lines in parts.items():
            (split / file).write_text("\n".join(lines) + "\n", "utf-8")
    return split


def three_parts(validation: Sequence[str], wide: Sequence[str], train: Sequence[str]) -> Dict[str, List[str]]:
    """Return the lines of each manifest of a split in three.

    Args:
        validation: lines of the validation part.
        wide: lines of a wider validation part, of which those that are in the training part choose the epoch.
        train: lines of the training part.
    """
    held_out = set(wide)
    return {
        "train.manifest": [line for line in train if line not in held_out],
        CHOOSING: [line for line in train if line in held_out],
        "validation.manifest": list(validation),
    }


def _lines(file: Path) -> List[str]:
    return file.read_text("utf-8").splitlines()


def train(shared: Path, name: str, split: Path, out: Path, *settings: str) -> None:
    """Train ours from the command line, into the folders model and output of `out`."""
    choosing = split / CHOOSING
    where = ["--train", str(shared / "data" / name), "--labels", str(split / "train.manifest")]
    where += ["--validation_labels", str(choosing if choosing.exists() else split / "validation.manifest")]
    where += ["--model_dir", str(out / "model"), "--output_dir", str(out / "output")]
    run_python(["-m", "ssd_train", "train", *where, *settings])


def predict(shared: Path, name: str, model: Path, answers: Path) -> None:
    """Predict the images of a dataset from the command line."""
    images = str(shared / "data" / name / "images")
    run_python(["-m", "ssd_train", "predict", images, "--model", str(model), "--output", str(answers)])


def arguments(shared: Path, epochs: int, seed: int, settings: Sequence[str]) -> List[str]:
    """Return the arguments of a training of ours from an ImageNet backbone; `settings` are name=value."""
    further = [part for pair in settings for part in (f"--{pair.split('=', 1)[0]}", pair.split("=", 1)[1])]
    return ["--pretrained", str(shared / "weights" / BACKBONE), "--epochs", str(epochs), "--seed", str(seed), *further]


def ours(shared: Path, name: str, split: Path, out: Path, flags: argparse.Namespace, seed: int) -> Dict[str, Any]:
    """Train by the command line, predict by the command line, judge by the judge."""
    start = time.time()
    train(shared, name, split, out, *arguments(shared, flags.epochs, seed, flags.settings))
    minutes = (time.time() - start) / 60
    answers = str(out / "answers.jsonl")
    predict(shared, name, out / "model", Path(answers))
    row = _row("ssd_train", name, flags.epochs, seed, minutes, judge(shared, split, answers))
    row.update(details(split, answers, out))
    row.update({"settings": flags.settings, "threads": threads(), **course(out / "model" / "history.jsonl")})
    return {**row, "saved epoch": json.loads((out / "model" / "config.json").read_text("utf-8"))["epoch"] + 1}


def course(history: Path) -> Dict[str, Any]:
    """Return the last epoch's scores by our own metric, and SmoothL1 per positive anchor of every epoch.

    The metric equals the judge's; the images are those that choose the epoch. SmoothL1 is on GluonCV's scale.
    """
    rows = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    last = {f"last {name}": rows[-1][name] for name in ("mAP", "mAP@0.5")}
    return {**last, **{name: [row.get(name) for row in rows] for name in ("SmoothL1", "val_SmoothL1")}}


def rival(shared: Path, name: str, split: Path, out: Path, flags: argparse.Namespace, seed: int) -> Dict[str, Any]:
    """GluonCV's recipe with all processors, as measured in the facts it has to reproduce."""
    weights = str(shared / "weights" / BACKBONE)
    command = [_tool(shared, "peer.py"), str(shared / "data" / name), str(split), str(out), *RIVAL]
    start = time.time()
    run_python([*command, "--epochs", str(flags.epochs), "--base", weights, "--seed", str(232 + seed)])
    minutes = (time.time() - start) / 60
    answers = str(out / "predictions.jsonl")
    row = _row("GluonCV recipe", name, flags.epochs, seed, minutes, judge(shared, split, answers))
    seconds = round((out / "net.params").stat().st_mtime - start, 1)  # until its weights are saved
    return {**row, "seconds": seconds, **details(split, answers, out), "threads": threads()}


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
            who = row["who"] + (" (split in three)" if "images" in row else "")
            key = (row["set"], row["epochs"], who, ", ".join(row.get("settings") or ()))
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


def add_row(file: Path, row: Dict[str, Any], minutes: float, machine: Dict[str, Any]) -> None:
    """Add a row to a result like those in results/, so that what was measured stays if a later row fails."""
    result = json.loads(file.read_text("utf-8")) if file.exists() else {"commands": [], "minutes": 0, "rows": []}
    command = " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    commands = [*result["commands"], *([command] if command not in result["commands"] else [])]
    minutes = round(result["minutes"] + minutes, 1)
    result = {"commands": commands, "minutes": minutes, "machine": machine, "rows": [*result["rows"], row]}
    file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _row(who: str, name: str, epochs: int, seed: int, minutes: float, scores: Dict[str, Any]) -> Dict[str, Any]:
    row = {"who": who, "set": name, "epochs": epochs, "seed": seed, "minutes": round(minutes, 2)}
    return {**row, "mAP": scores["mAP"], "mAP@0.5": scores["mAP50"], "AP@0.5": scores["AP50"]}


def judge(shared: Path, split: Path, answers: str) -> Dict[str, Any]:
    """Return the scores of predictions of the validation part by pycocotools."""
    return json.loads(
        run_python([_tool(shared, "score.py"), str(split / "validation.manifest"), answers]).splitlines()[-1]
    )


def _tool(shared: Path, name: str) -> str:
    return str(shared / "tools" / "measure" / name)


def threads() -> int:
    """Return the number of processors."""
    return len(os.sched_getaffinity(0))


def run_python(arguments: List[str]) -> str:
    """Run Python with `arguments` on all processors; its output, or the end of what it complained of."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads())}
    done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\nexited {done.returncode}:\n{done.stderr[-2000:]}{done.stdout[-500:]}")
    return done.stdout


if __name__ == "__main__":
    main()
