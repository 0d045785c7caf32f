"""The deployment files in the model folder, kept those of the best model while a run goes on, and the code that serves
them."""

from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np

from ssd_train.config import TrainConfig
from ssd_train.data.batches import EvalLoader
from ssd_train.data.transforms import to_input
from ssd_train.deploy.artifact import refresh
from ssd_train.deploy.served_code import put_code
from ssd_train.errors import DataError, SsdTrainError
from ssd_train.progress import Progress

PICTURES = 4  # that the exported network is compared on; each costs a tenth of a second or so


def keep_deployable(folder: Path, validation: EvalLoader, config: TrainConfig, progress: Progress) -> None:
    """Make the deployment files of the model in `folder` where they are not there or of another, proven on pictures of
    `validation`. The run goes on when that fails, and says so: the model itself is whole, and the next try may do."""
    pictures = _pictures(validation, config.grayscale)
    try:
        refresh(folder, pictures)
        put_code(folder)
    except SsdTrainError as error:
        progress.warn(f"no deployment files: {error}; the model itself is not affected")


def _pictures(validation: EvalLoader, grayscale: bool) -> np.ndarray:
    """Some pictures with objects, as the network sees them: uint8 (B, side, side, 3)."""
    data = validation.dataset
    found: List[np.ndarray] = []
    for index, record in enumerate(data.labels.records):
        if len(record.boxes) and len(found) < PICTURES:
            samples = validation.setbacks.usable([index], data.__getitem__)
            found += [to_input(image, data.side, grayscale) for _, (image, _, _) in samples]
    if not found:
        raise DataError(f"{data.labels.source}: none of the images with boxes can be used any more, expected some")
    return np.stack(found)
