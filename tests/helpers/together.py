"""A few steps of training, alone or as one of several processes, with all that decides the weights kept.

    python together.py RESULT HOST [name=value ...]

as a worker: one of HOSTS, or algo-1 under horovodrun, whose environment has no pytest. Its weights are in RESULT, an
.npz file with {} in its name for the rank.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
from helpers.data import small_config

from ssd_train.config import TrainConfig
from ssd_train.data.loaders import EpochSampler, TrainBatch
from ssd_train.data.structures import LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.data.transforms import EvalTransform
from ssd_train.devices import contexts
from ssd_train.environment import Environment
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net, freeze_batchnorm_stats
from ssd_train.model.targets import TargetEncoder
from ssd_train.progress import Progress
from ssd_train.training.checkpoint import TrainState, broadcast_state
from ssd_train.training.distributed.communicator import Communicator, init_distributed
from ssd_train.training.engine import train_one_epoch
from ssd_train.training.step import TrainStep

HOSTS = ("127.0.0.1", "127.0.0.2")
SIDE, NETWORK, IMAGES, EPOCHS = 128, "mobilenet0.25", 10, 2
RATE = 0.02
SETTINGS = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.001, "clip_gradient": 2.0, "learning_rate": RATE}
# all negatives teach: which are the hardest is decided by rounding while all are still alike, and a few steps later
# weights that differed by 1e-7 differ by tenths
SETTINGS["negative_mining_ratio"] = 1000.0


def samples() -> "List[Tuple[LabeledImage, Tuple[np.ndarray, ...]]]":
    """Drawn pictures with their targets; the last shows nothing, so that parts have different numbers of objects."""
    encode = TargetEncoder(make_anchors(anchor_layout(NETWORK, SIDE)))
    drawn = draw_shapes_set(IMAGES - 1, 1, (SIDE, SIDE), empty_fraction=0.0) + draw_shapes_set(
        1, 2, (SIDE, SIDE), 0, 1.0
    )
    transform = EvalTransform(SIDE, encode)
    return [
        (
            LabeledImage(f"{index}.png", sample.boxes, sample.class_ids, (SIDE, SIDE)),
            transform(sample.image, sample.boxes, sample.class_ids),
        )
        for index, sample in enumerate(drawn)
    ]


def make_learner(config: TrainConfig, cluster: Communicator, seed: int = 1, devices: str = "cpu") -> TrainStep:
    """A training step whose BatchNorm layers use their statistics in training too, whatever else is in the batch."""
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), seed)
    assert freeze_batchnorm_stats(net, set(net._collect_params_with_prefix()))
    return TrainStep(net, config, contexts(devices), cluster)


def learn(train_step: TrainStep, batch_size: int) -> "Tuple[List[Dict[str, float]], List[str]]":
    """The results of the epochs, and the names of the pictures seen."""
    data, cluster = samples(), train_step.cluster
    sampler = EpochSampler(len(data), batch_size, 1, cluster.rank, cluster.size)
    results, seen = [], []
    for epoch in range(EPOCHS):
        plans = sampler.batches(epoch)
        batches = []
        for plan in plans:
            chosen = [data[index % len(data)] for index in plan]
            records = tuple(record for record, _ in chosen)
            batches.append(TrainBatch(*(np.stack(column) for column in zip(*(a for _, a in chosen))), records))
            seen += [f"{epoch}/{index}" for index in plan]
        results.append(train_one_epoch(train_step, batches, [RATE] * len(plans)))
    return results, seen


def weights(train_step: TrainStep) -> Dict[str, np.ndarray]:
    return {name: p.list_data()[0].asnumpy() for name, p in train_step.net._collect_params_with_prefix().items()}


def assert_alike(found: Dict[str, np.ndarray], train_step: TrainStep) -> None:
    """That `found`, the weights of one of several, are those of `train_step` but for the order of float32 sums, after
    steps much larger than that."""
    start, moved = weights(make_learner(small_config(**SETTINGS), Communicator())), 0
    for name, array in weights(train_step).items():
        np.testing.assert_allclose(found[name], array, atol=2e-5 * max(np.abs(array).max(), 1e-3), err_msg=name)
        moved += np.abs(array - start[name]).max() > 1e-3 * np.abs(start[name]).max()
    assert moved > 50


def run_part(result: str, host: str, *settings: str) -> None:
    """What a worker does."""
    given = dict(text.split("=") for text in settings)
    devices, batch_size = given.pop("devices", "cpu"), int(given.pop("batch", 2))
    epoch = int(given.pop("resumed_after", 0))  # epochs
    config = small_config(**{**SETTINGS, **given})
    hosts = HOSTS if host in HOSTS else (host,)
    config, cluster = init_distributed(config, Environment(Path("."), host=host, hosts=hosts), Progress())
    with cluster:
        seed = 1 + cluster.rank  # the leader's weights are taken
        train_step = make_learner(config, cluster, seed, devices)
        broadcast_state(cluster, TrainState(), train_step, {})
        train_step.start(config, -(-IMAGES // (batch_size * cluster.size)), epoch)
        results, seen = learn(train_step, batch_size)
        for row in results:
            row.pop("seconds")
            row.pop("data_seconds")
        sums = np.array([sorted(row.items()) for row in results])[..., 1].astype(float)
        np.savez(
            result.format(cluster.rank), seen=np.array(seen), results=sums, rank=cluster.rank, **weights(train_step)
        )


if __name__ == "__main__":
    run_part(*sys.argv[1:])
