"""Makes the fixture of a release: python tests/releases/make.py, once for each version, with that version's own code.

The archive holds a tiny data set, a model folder and a checkpoint folder as `train` leaves them after the first of two
epochs, and what the model answers. All of it is written by the release's own functions; only the numbers in the weights
and in the optimizer's state are not learned but a pattern, because a pattern can be packed: 40 MB into less than 30 kB.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "src")]

from helpers.data import shapes_set, small_config  # noqa: E402

from ssd_train import __version__, mxnet_compat  # noqa: E402
from ssd_train.data.image_io import decode  # noqa: E402
from ssd_train.deploy.detector import Detector  # noqa: E402
from ssd_train.environment import Environment  # noqa: E402
from ssd_train.model.pretrained import state_dict  # noqa: E402
from ssd_train.progress import Progress  # noqa: E402
from ssd_train.training.checkpoint import (  # noqa: E402
    Checkpoints,
    TrainState,
    runtime_info,  # noqa: E402
)
from ssd_train.training.schedule import BestTracker  # noqa: E402
from ssd_train.training.setup import build_setup  # noqa: E402

SETTINGS = {"epochs": 2, "optimizer": "sgd", "learning_rate": 0.0001}
ROW = {"epoch": 0, "CrossEntropy": 1.5, "SmoothL1": 0.5, "learning_rate": 0.0001, "VOC07": 0.25}

mx = mxnet_compat.mxnet()


def pattern(name, shape):
    """Numbers that differ along every axis, and are those of a net that neither dies nor explodes."""
    values = (np.arange(int(np.prod(shape))) % 251 / 250.0).reshape(shape).astype(np.float32)
    if name.endswith(("running_var", "gamma")):
        return mx.nd.array(0.5 + values)
    return mx.nd.array((values - 0.5) / max(float(np.prod(shape[1:])) ** 0.5, 1.0))


def write(folder: Path) -> None:
    """All that the archive holds, below `folder`."""
    train = shapes_set(folder / "train", 8, seed=1, size_wh=(64, 48))
    validation = shapes_set(folder / "validation", 2, seed=2, size_wh=(64, 48))
    places = Environment(*train, *validation, folder / "model", folder / "output", folder / "checkpoints")
    setup = build_setup(small_config(**SETTINGS), places, Progress())
    for batch in setup.train_loader.epoch(0):
        setup.train_step.step(batch, 0.0)  # gives the optimizer its state
    for name, parameter in state_dict(setup.net).items():
        parameter.set_data(pattern(name, parameter.shape))
    for state in setup.train_step.trainer._updaters[0].states.values():
        state[:] = pattern("momentum", state.shape) * 0.01
    setup.saved_model(0, {"VOC07": 0.25}).save(places.model_dir, setup.net, [ROW])
    state = TrainState(1, best=BestTracker(0.25, 0, 0), history=[ROW], fingerprint=setup.fingerprint)
    Checkpoints(places.checkpoint_dir, runtime_info(setup.config, setup.train_step.devices)).save(
        state, setup.train_step, places.model_dir
    )
    image = sorted(validation.images.iterdir())[0]
    found = Detector.load(places.model_dir, engine="mxnet")(decode(image.read_bytes(), image.name))
    answer = {"image": image.name, "boxes": found.boxes.tolist(), "scores": found.scores.tolist()}
    answer["class_ids"] = found.class_ids.tolist()
    (folder / "answer.json").write_text(json.dumps({**answer, "settings": SETTINGS}, indent=1))


def main() -> None:
    target = HERE / f"{__version__}.tar.xz"
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for path in sorted(Path(folder).iterdir()):
                if path.name != "output":
                    archive.add(path, path.name)
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
