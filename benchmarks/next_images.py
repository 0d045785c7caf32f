"""Images to label next, chosen by a model's uncertainty and their diversity, beside a random choice of as many.

    SSD_TRAIN_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.next_images --json FILE [--sets bccd fruit]
                                                                          [--seeds 1 2 3]

Of the training part of the split, a random quarter is labelled and a model is trained on it. A second quarter is chosen
from the other images: at random, or by `choose` with the model's detections and features. Each half is trained again
from the backbone. Every training has 10 epochs at 224 px, and the model of the last epoch is judged. A seed gives the
first quarter and the random choice, and is the seed of its trainings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np

from benchmarks.quality import run_python, split_of
from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.image_io import EncodedImage
from ssd_train.data.transforms import preprocess
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD

mx: Any = mxnet_compat.mxnet()
SETS = ("bccd", "fruit")


def main() -> None:
    """Print a line for each set, seed and choice, and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, required=True, help="write the rows there, after those that it has")
    flags = parser.parse_args()
    rows: List[Dict[str, Any]] = json.loads(flags.json.read_text("utf-8")) if flags.json.exists() else []
    for seed in flags.seeds:
        for name in flags.sets:
            with tempfile.TemporaryDirectory() as folder:
                for row in compare(Path(os.environ["SSD_TRAIN_DATA"]), name, seed, Path(folder)):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                    flags.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


def compare(shared: Path, name: str, seed: int, folder: Path) -> Iterator[Dict[str, Any]]:
    """Yield the scores with a labelled quarter, and with a second quarter chosen in either way."""
    split, images = split_of(shared, name, folder), shared / "data" / name / "images"
    lines = (split / "train.manifest").read_text("utf-8").splitlines()
    order = [int(number) for number in np.random.RandomState(seed).permutation(len(lines))]
    count = len(lines) // 4
    first, pool = order[:count], order[count:]

    def run(choice: str, numbers: Sequence[int], new: Sequence[int]) -> Dict[str, Any]:
        """Train on the lines `numbers`, and judge on the validation part."""
        out = folder / choice
        out.mkdir()
        (out / "train.manifest").write_text("".join(lines[i] + "\n" for i in numbers), "utf-8")
        where = ["--train", str(images), "--labels", str(out / "train.manifest"), "--output_dir", str(out / "output")]
        where += ["--validation_labels", str(split / "validation.manifest"), "--validation_interval", "10"]
        where += ["--pretrained", str(shared / "weights" / "mobilenet1.0-imagenet-coral.params")]
        fast = ["--epochs", "10", "--image_shape", "224", "--seed", str(seed)]
        ssd_train("train", "--model_dir", str(out / "model"), *where, *fast)
        ssd_train("predict", str(images), "--model", str(out / "model"), "--output", str(out / "detections.jsonl"))
        judge = [str(shared / "tools" / "measure" / "score.py"), str(split / "validation.manifest")]
        scores = json.loads(run_python([*judge, str(out / "detections.jsonl")]).splitlines()[-1])
        row = {"set": name, "seed": seed, "arm": choice, "images": len(numbers), "new boxes": _boxes(lines, new)}
        return {**row, "mAP": scores["mAP"], "mAP@0.5": scores["mAP50"], "AP@0.5": scores["AP50"]}

    yield run("quarter", first, first)
    new = [order[i] for i in choose(folder / "quarter", [images / _image(lines[i]) for i in order], count)]
    yield run("random", order[: 2 * count], pool[:count])
    yield {**run("chosen", first + new, new), "also random": len(set(new) & set(pool[:count]))}


def choose(trained: Path, paths: Sequence[Path], count: int) -> List[int]:
    """Return `count` indices of `paths`, of which the first `count` are labelled.

    Greedily the image with the greatest product of its uncertainty and its distance from the nearest image that is
    labelled or chosen. Uncertainty is the expected number of wrong detections, the sum of score * (1 - score), as a
    share of that of its class in all images, added over classes, since mAP is a mean over classes, too. Distance is
    between standardized mean features of the model, so near-duplicates are not chosen.
    """
    detections = {}
    for line in (trained / "detections.jsonl").read_text("utf-8").splitlines():
        prediction = json.loads(line)
        detections[Path(prediction["image"]).name] = np.array(prediction["prediction"], float).reshape(-1, 6)
    rows = [detections[path.name] for path in paths]
    classes = 1 + int(max(row[:, 0].max() for row in rows if len(row)))
    doubt = np.array([np.bincount(r[:, 0].astype(int), r[:, 1] * (1 - r[:, 1]), classes) for r in rows])
    uncertainty = (doubt / np.maximum(doubt[count:].sum(axis=0), 1e-9)).sum(axis=1)
    features = mean_features(trained / "model", paths)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    chosen = list(range(count))
    for _ in range(count):
        value = uncertainty * distances[:, chosen].min(axis=1)
        value[chosen] = -1
        chosen.append(int(value.argmax()))
    return chosen[count:]


def mean_features(model: Path, paths: Sequence[Path]) -> np.ndarray:
    """Return the mean over positions of the network's first feature map (N, C)."""
    saved = SavedModel.load(model)
    net, features = saved.build(), []
    for path in paths:
        pixels = preprocess(EncodedImage(path.read_bytes(), str(path)).decode(), saved.config.image_shape)
        tensor = mx.nd.image.normalize(mx.nd.image.to_tensor(mx.nd.array(pixels, dtype="uint8")), PIXEL_MEAN, PIXEL_STD)
        features.append(net.features(tensor.expand_dims(0))[0].mean(axis=(2, 3)).asnumpy()[0])
    return np.stack(features)


def _image(line: str) -> str:
    return str(json.loads(line)["source-ref"]).rsplit("/", 1)[-1]


def _boxes(lines: Sequence[str], numbers: Sequence[int]) -> int:
    parts = [value for i in numbers for value in json.loads(lines[i]).values()]
    return sum(len(value["annotations"]) for value in parts if isinstance(value, dict) and "annotations" in value)


def ssd_train(*arguments: str) -> None:
    """Run a command of the package, with the threads that OMP_NUM_THREADS allows."""
    subprocess.run([sys.executable, "-m", "ssd_train", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
