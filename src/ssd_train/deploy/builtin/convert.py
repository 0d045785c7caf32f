"""Convert archives of the built-in Object Detection algorithm to deployment files.

mxnet-ssd's deploy.py did the same. The deployment files (see artifacts/symbol_format.py) hold the algorithm's own
network: raw pixels as input, its priors, its NMS, and rows with corners in 0..1. predict, evaluate, export and serve
read them like other exports. They cannot be trained further: `train` goes on from the archive itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.builtin_archive import Artifact, read_artifact
from ssd_train.artifacts.metadata import ExportMetadata, as_input
from ssd_train.artifacts.symbol_format import BUILTIN, INPUT
from ssd_train.data.formats.builder import placeholder_classes
from ssd_train.data.structures import ClassNames
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.builtin.network import NmsRules, make_detector
from ssd_train.deploy.parity import Agreement, compare
from ssd_train.deploy.symbol import SymbolParts, staged_files
from ssd_train.deploy.symbol_backend import SymbolEngine, in_pixels
from ssd_train.errors import ConfigError
from ssd_train.progress import Progress

mx = mxnet_compat.mxnet()

COMPARED = 4  # synthetic images


class Conversion(NamedTuple):
    """Options of a conversion.

    Attributes:
        class_names: in the order of ids, since archives lack them; default class_0, class_1, ...
        per_class: True: only boxes of the same class suppress each other. False: all boxes do, as in the algorithm.
    """

    class_names: Optional[ClassNames] = None
    per_class: bool = False


def convert(
    folder: Path, output: Path, conversion: Conversion, progress: Progress, overwrite: bool = False
) -> ExportMetadata:
    """Convert an unpacked archive to deployment files in the folder `output`.

    The files are read back and compared with the network in memory before they are moved to `output`.

    Raises:
        WeightsError: the archive is incomplete, damaged, or not of the built-in algorithm; nothing was written.
        ConfigError: the number of class names differs from the number of classes.
        SsdTrainError: the written files give other detections; nothing was written.
    """
    artifact = read_artifact(folder)
    parts = make_detector(artifact, NmsRules(artifact.nms_threshold, artifact.nms_topk, conversion.per_class))
    description = ExportMetadata(
        class_names=_class_names(artifact, conversion.class_names),
        side=artifact.side,
        grayscale=False,
        input=INPUT,
        kind=BUILTIN,
        weights=artifact.weights,
        settings=dict(artifact.settings),
        coordinates="shares",
    )
    with staged_files(description, output, parts, overwrite) as prepared:
        agreement = _compare_with_memory(parts, SymbolEngine(prepared, "cpu"), artifact)
        if agreement.unmatched:
            agreement.raise_for_mismatch(f"{output}: the converted network")
    progress.info(f"converted: {artifact.base_network}, {artifact.side} px, {', '.join(description.class_names)}")
    return description


def _class_names(artifact: Artifact, names: Optional[ClassNames]) -> ClassNames:
    if names is not None and len(names) != artifact.num_classes:
        raise ConfigError(
            f"class_names: found {len(names)} ({', '.join(names)}), the artifact has {artifact.num_classes} classes"
        )
    return names or placeholder_classes(artifact.num_classes)[0]


def _compare_with_memory(parts: SymbolParts, engine: SymbolEngine, artifact: Artifact) -> Agreement:
    """Compare the network in memory with `engine`, which was read from disk.

    Only `engine` fuses operators.
    """
    side = artifact.side
    images = np.stack([preprocess(sample.image, side) for sample in draw_shapes_set(COMPARED, seed=1)])
    symbol, weights, states = parts
    block = mx.gluon.SymbolBlock(symbol, mx.sym.var(INPUT, dtype="float32"))
    for name, parameter in block.collect_params().items():
        value = weights[name] if name in weights else states[name]
        parameter.shape = value.shape
        parameter.initialize()
        parameter.set_data(value)
    rows = block(mx.nd.array(as_input(images, INPUT))).asnumpy()
    return compare(in_pixels(rows, side), engine.run(images))
