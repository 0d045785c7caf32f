"""The deployment files in the model folder, kept those of the best model while a run goes on."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ssd_train.config import TrainConfig
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.transforms import to_input
from ssd_train.deploy.artifact import refresh
from ssd_train.errors import SsdTrainError
from ssd_train.progress import Progress

PICTURES = 4  # that the exported network is compared on; each costs a tenth of a second or so


def keep_deployable(folder: Path, validation: DetectionDataset, config: TrainConfig, progress: Progress) -> None:
    """Make the deployment files of the model in `folder` where they are not there or of another, proven on pictures of
    `validation`. The run goes on when that fails, and says so: the model itself is whole, and the next try may do."""
    pictures = _pictures(validation, config.grayscale)
    try:
        if config.amp:
            # here every network is made for 16 bits; in a process of its own it is what everybody else will get
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                pool.submit(refresh, folder, pictures).result()
        else:
            refresh(folder, pictures)
    except SsdTrainError as error:
        progress.warn(f"no deployment files: {error}; the model itself is not affected")


def _pictures(validation: DetectionDataset, grayscale: bool) -> np.ndarray:
    """Some pictures with objects, as the network sees them: uint8 (B, side, side, 3)."""
    busy = [index for index, record in enumerate(validation.labels.records) if len(record.boxes)]
    return np.stack([to_input(validation[index][0], validation.side, grayscale) for index in busy[:PICTURES]])
