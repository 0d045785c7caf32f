"""Archives of SageMaker's built-in Object Detection algorithm made deployable, as mxnet-ssd's deploy.py did.

What comes out are the deployment files of exported.py, whose network is the algorithm's own: raw pixels in, its priors,
its suppression, its rows with corners in 0..1. predict, evaluate, export and serve take them as they take other
exports. It cannot be trained further.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ssd_train import framework
from ssd_train.data.drawn import draw_shapes_set
from ssd_train.data.formats.gather import numbered_classes
from ssd_train.data.records import ClassNames
from ssd_train.data.transforms import to_input
from ssd_train.deploy.agreement import Agreement, compare
from ssd_train.deploy.artifact import prepared_files
from ssd_train.deploy.builtin_network import Artifact, Rules, make_detector, read_artifact
from ssd_train.deploy.description import Description, as_input
from ssd_train.deploy.engines.symbol import SymbolEngine, in_pixels
from ssd_train.deploy.exported import BUILTIN, INPUT
from ssd_train.errors import ConfigError
from ssd_train.progress import Progress

mx = framework.mxnet()

COMPARED = 4  # drawn pictures


class Conversion(NamedTuple):
    """What the archive does not say.

    class_names     in the order of ids, as no archive of the algorithm holds them; class_0, class_1, ... by default
    per_class       whether only boxes of one class suppress each other; the algorithm's own way is that all do
    """

    class_names: Optional[ClassNames] = None
    per_class: bool = False


def convert(folder: Path, output: Path, conversion: Conversion, progress: Progress) -> Description:
    """Write the artifact in `folder` (an archive unpacked) as deployment files into the folder `output`, once what was
    written has been read again and answers as the network in memory does.

    Raises:
        WeightsError: the artifact is incomplete, damaged, or not of the built-in algorithm; nothing was written.
        ConfigError: the class names are not as many as its classes.
        SsdTrainError: what was written answers differently; it did not take its place.
    """
    artifact = read_artifact(folder)
    parts = make_detector(artifact, Rules(artifact.nms_threshold, artifact.nms_topk, conversion.per_class))
    description = Description(
        class_names=_class_names(artifact, conversion.class_names),
        side=artifact.side,
        grayscale=False,
        input=INPUT,
        kind=BUILTIN,
        weights=artifact.weights,
        settings=dict(artifact.settings),
        coordinates="shares",
    )
    with prepared_files(description, output, parts) as prepared:
        agreement = _compared(parts, SymbolEngine(prepared, "cpu"), artifact)
        if agreement.unmatched:
            agreement.require(f"{output}: the converted network")
    progress.say(f"converted: {artifact.base_network}, {artifact.side} px, {', '.join(description.class_names)}")
    return description


def _class_names(artifact: Artifact, given: Optional[ClassNames]) -> ClassNames:
    if given is not None and len(given) != artifact.num_classes:
        raise ConfigError(
            f"class_names: found {len(given)} ({', '.join(given)}), the artifact has {artifact.num_classes} classes"
        )
    return given or numbered_classes(artifact.num_classes)[0]


def _compared(parts: "tuple[Any, Any, Any]", engine: SymbolEngine, artifact: Artifact) -> Agreement:
    """What the network in memory says, operator by operator, beside what `engine`, read from the disk, says with
    operators fused."""
    side = artifact.side
    pictures = np.stack([to_input(sample.image, side) for sample in draw_shapes_set(COMPARED, seed=1)])
    symbol, weights, states = parts
    block = mx.gluon.SymbolBlock(symbol, mx.sym.var(INPUT, dtype="float32"))
    for name, parameter in block.collect_params().items():
        parameter.shape = (weights.get(name) if name in weights else states[name]).shape
        parameter.initialize()
        parameter.set_data(weights[name] if name in weights else states[name])
    found = block(mx.nd.array(as_input(pictures, INPUT))).asnumpy()
    return compare(in_pixels(found, side), engine.run(pictures))
