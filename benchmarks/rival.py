"""What a user has without this package: an SSD trained with GluonCV's own parts, in the order of its train_ssd.py.

    python -m benchmarks.rival FOLDER LABELS VALIDATION_LABELS OUT [--size 512] [--workers 0] [--base WEIGHTS] ...

Everything here is GluonCV's or MXNet's: the network and its initialisation, SSDDefaultTrainTransform with its target
generator, the DataLoader, SSDMultiBoxLoss, the hybridized network, plain SGD. MXNet is imported as users do, so that it
takes the threads that it takes by itself. Only the labels are read by our own reader, before any clock starts.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.image_sources import FolderImages

if not hasattr(np, "bool"):
    np.bool = bool  # type: ignore[attr-defined]  # MXNet 1.9.1 reads it

import gluoncv  # noqa: E402
import mxnet as mx  # noqa: E402
from gluoncv.data.batchify import Stack  # noqa: E402
from gluoncv.data.batchify import Tuple as Columns  # noqa: E402
from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform  # noqa: E402

NETWORK, BATCH = "ssd_512_mobilenet1.0_voc", 8
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Labelled(mx.gluon.data.Dataset):
    """Images and rows (N, 5) of x1, y1, x2, y2, class id.

    Images without a box are left out, because the transform fails on them.
    """

    def __init__(self, images: Path, labels: Path) -> None:
        source, found = FolderImages(images), read_ground_truth(labels)
        self.class_names = list(found.class_names)
        rows = [np.concatenate([r.boxes, r.class_ids[:, None]], axis=1).astype(np.float32) for r in found.records]
        self.paths = [source.locate(record) for record in found.records]
        self.items = [(path, row) for path, row in zip(self.paths, rows) if len(row)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Tuple[Any, np.ndarray]:
        path, row = self.items[index]
        return mx.image.imread(path, 1), row


class Losses(NamedTuple):
    """Images of an epoch, its seconds, and the means over its batches of the losses per positive anchor."""

    images: int
    seconds: float
    cross_entropy: float
    smooth_l1: float


class Rival:
    """GluonCV's recipe put together."""

    def __init__(
        self,
        data: Labelled,
        size: int,
        workers: int = 0,
        rate: float = 1e-3,
        base: Optional[Path] = None,
        network: str = NETWORK,
    ) -> None:
        self.size = size
        self.net = gluoncv.model_zoo.get_model(network, pretrained=False, pretrained_base=False)
        self.net.initialize()
        self.net.reset_class(data.class_names)
        empty = mx.nd.zeros((1, 3, size, size))
        self.net(empty)
        if base:
            load_backbone(self.net, base)
        with mx.autograd.train_mode():
            _, _, anchors = self.net(empty)
        self.loader = mx.gluon.data.DataLoader(
            data.transform(SSDDefaultTrainTransform(size, size, anchors)),
            BATCH,
            shuffle=True,
            batchify_fn=Columns(Stack(), Stack(), Stack()),
            last_batch="rollover",
            num_workers=workers,
        )
        settings = {"learning_rate": rate, "wd": 5e-4, "momentum": 0.9}
        self.trainer = mx.gluon.Trainer(self.net.collect_params(), "sgd", settings)
        self.criterion = gluoncv.loss.SSDMultiBoxLoss()

    def epoch(self) -> Losses:
        """Train for an epoch."""
        self.net.hybridize(static_alloc=True, static_shape=True)
        start, images, sums = time.perf_counter(), 0, []
        for batch in self.loader:
            pictures, class_targets, box_targets = (array.as_in_context(mx.cpu()) for array in batch)
            with mx.autograd.record():
                class_preds, box_preds, _ = self.net(pictures)
                total, *parts = self.criterion(class_preds, box_preds, class_targets, box_targets)
                mx.autograd.backward(total)
            self.trainer.step(1)
            images += len(pictures)
            sums.append([float(part[0].sum().asscalar()) for part in parts])
        means = np.mean(sums, axis=0).tolist()
        return Losses(images, time.perf_counter() - start, *means)

    def predict(self, paths: Sequence[str]) -> List[Dict[str, Any]]:
        """Rows (class id, score, x1, y1, x2, y2 in 0..1) for each image, as GluonCV's demo resizes and normalises."""
        self.net.set_nms(nms_thresh=0.45, nms_topk=400)
        self.net.hybridize(static_alloc=True, static_shape=True)
        answers = []
        for path in paths:
            image = mx.image.imresize(mx.image.imread(path, 1), self.size, self.size, 1)
            pixels = mx.nd.image.normalize(mx.nd.image.to_tensor(image), mean=PIXEL_MEAN, std=PIXEL_STD)
            ids, scores, boxes = (array[0].asnumpy() for array in self.net(pixels.expand_dims(0)))
            rows = np.concatenate([ids, scores, boxes.clip(0, self.size) / self.size], axis=1)[ids[:, 0] >= 0]
            answers.append({"image": Path(path).name, "prediction": rows.tolist()})
        return answers


def load_backbone(net: Any, weights: Path) -> None:
    """Load the arrays of an ImageNet MobileNet (``features.<layer>.<kind>``) into an SSD.

    The layers of each kind have the same order in both.
    """
    saved = mx.nd.load(str(weights))
    numbers = {kind: [] for kind in ("weight", "gamma")}  # type: Dict[str, List[int]]
    for name in saved:
        found = re.fullmatch(r"features\.(\d+)\.(weight|gamma)", name)
        if found:
            numbers[found.group(2)].append(int(found.group(1)))
    layers = {"conv": sorted(numbers["weight"]), "batchnorm": sorted(numbers["gamma"])}
    for name, parameter in net.features.collect_params().items():
        found = re.search(r"mobilenet\d+_(conv|batchnorm)(\d+)_(\w+)$", name)
        if found:
            kind, index, array = found.groups()
            parameter.set_data(saved[f"features.{layers[kind][int(index)]}.{array}"])


def main() -> None:
    """Train, print a line an epoch, and write predictions of the validation images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("images", "labels", "validation_labels", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 10], help="epochs after which the rate is a tenth")
    parser.add_argument("--base", type=Path, help="weights of the backbone")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=233)
    parser.add_argument("--network", default=NETWORK)
    flags = parser.parse_args()
    gluoncv.utils.random.seed(flags.seed)
    training, validation = (Labelled(flags.images, labels) for labels in (flags.labels, flags.validation_labels))
    rival = Rival(training, flags.size, flags.workers, flags.rate, flags.base, flags.network)
    for epoch in range(flags.epochs):
        if epoch in flags.steps:
            rival.trainer.set_learning_rate(rival.trainer.learning_rate * 0.1)
        print(json.dumps({"epoch": epoch, **rival.epoch()._asdict()}), flush=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    rival.net.save_parameters(str(flags.out / "net.params"))
    lines = [json.dumps(answer) + "\n" for answer in rival.predict(validation.paths)]
    (flags.out / "predictions.jsonl").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
