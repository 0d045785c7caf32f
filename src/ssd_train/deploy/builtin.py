"""Archives of the built-in Object Detection algorithm as detectors, and as deployment files.

The network is that of zhreshold/mxnet-ssd: its input is raw RGB pixels 0..255, and its class scores, box offsets and
priors are nodes with fixed names. The detector adds softmax and MultiBoxDetection to these nodes. mxnet-ssd's deploy.py
did the same by rebuilding the network.

The deployment files (see artifacts/symbol_format.py) hold the algorithm's own network, its priors, its NMS, and rows
with corners in 0..1. predict, evaluate, export and serve read them like other exports. They cannot be trained further:
`train` goes on from the archive itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.builtin_archive import EXPECTED, Artifact, read_artifact
from ssd_train.artifacts.metadata import ExportMetadata, as_input
from ssd_train.artifacts.symbol_format import BUILTIN, INPUT
from ssd_train.data.structures import ClassNames
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.parity import Agreement, compare
from ssd_train.deploy.symbol import Arrays, SymbolParts, staged_files
from ssd_train.deploy.symbol_backend import SymbolEngine, in_pixels
from ssd_train.errors import ConfigError, WeightsError
from ssd_train.progress import Progress

mx = mxnet_compat.mxnet()

# class scores (N, C + 1, A) before softmax, background first; box offsets (N, 4 A); priors (1, A, 4) xyxy in 0..1
CLASS_SCORES, OFFSETS, PRIORS = "multibox_cls_pred", "multibox_loc_pred", "multibox_anchors"
PROBABILITIES, DETECTION = "cls_prob", "detection"
VARIANCES = (0.1, 0.1, 0.2, 0.2)
SCORE_FLOOR = 0.01  # MultiBoxDetection's default: it drops candidates below


class NmsRules(NamedTuple):
    """Parameters of NMS.

    Attributes:
        threshold: IoU above which the lower-scored of two boxes is dropped.
        topk: number of candidates of an image, best first, that NMS considers.
        per_class: True: only boxes of the same class suppress each other.
    """

    threshold: float
    topk: int
    per_class: bool


def make_detector(artifact: Artifact, rules: NmsRules) -> SymbolParts:
    """Build the detector.

    Returns:
        Its symbol, weights and auxiliary states. The output is (N, A, 6): class id, score, x1, y1, x2, y2 in 0..1 of
        the image, best first; id -1: unused.

    Raises:
        WeightsError: the symbol is not of the built-in algorithm, or the weights do not fit it.
    """
    scores, offsets, priors = heads(artifact.symbol, artifact.files.symbol)
    symbol = mx.sym.contrib.MultiBoxDetection(
        mx.sym.SoftmaxActivation(scores, mode="channel", name=PROBABILITIES),
        offsets,
        priors,
        name=DETECTION,
        nms_threshold=rules.threshold,
        nms_topk=rules.topk,
        force_suppress=not rules.per_class,
        variances=VARIANCES,
    )
    _check_classes(scores, artifact)
    return (symbol, *_select_arrays(symbol, artifact))


def heads(symbol: Any, where: "str | Path" = "symbol") -> "Tuple[Any, Any, Any]":
    """Return class scores, box offsets and priors of the algorithm's symbol.

    Args:
        symbol: the symbol.
        where: its file, for error messages.

    Raises:
        WeightsError: the symbol lacks one of them.
    """
    inner = symbol.get_internals()
    missing = [name for name in (CLASS_SCORES, OFFSETS, PRIORS) if f"{name}_output" not in inner.list_outputs()]
    if missing:
        raise WeightsError(f"{where}: found no {', '.join(missing)}, {EXPECTED}")
    return tuple(inner[f"{name}_output"] for name in (CLASS_SCORES, OFFSETS, PRIORS))


def _check_classes(scores: Any, artifact: Artifact) -> None:
    try:
        _, ((_, channels, _),), _ = scores.infer_shape(**{INPUT: artifact.shape})
    except mx.MXNetError as error:
        raise WeightsError(f"{artifact.files.symbol}: {str(error).strip().splitlines()[-1]}, {EXPECTED}") from None
    if channels != artifact.num_classes + 1:
        raise WeightsError(
            f"{artifact.files.settings}: found num_classes {artifact.num_classes}, "
            f"the symbol has {channels - 1} and background: expected files of one training job"
        )


def _select_arrays(symbol: Any, artifact: Artifact) -> "Tuple[Arrays, Arrays]":
    """Return the weights and auxiliary states of `symbol`, with shapes checked."""
    shapes, _, state_shapes = symbol.infer_shape(**{INPUT: artifact.shape})
    needed = (zip(symbol.list_arguments(), shapes), zip(symbol.list_auxiliary_states(), state_shapes))
    selected: "Tuple[Arrays, Arrays]" = ({}, {})
    for arrays, shapes_of_kind in zip(selected, needed):
        for name, shape in shapes_of_kind:
            if name == INPUT:
                continue
            array = artifact.arrays.get(name)
            array_shape = "none" if array is None else array.shape
            if array_shape != shape:
                raise WeightsError(
                    f"{artifact.files.weights}: found {array_shape} for {name}, expected {shape} as in the symbol"
                )
            arrays[name] = array
    return selected


COMPARED = 4  # synthetic images


def convert(
    folder: Path,
    output: Path,
    class_names: Optional[ClassNames],
    per_class: bool,
    progress: Progress,
    overwrite: bool = False,
) -> ExportMetadata:
    """Convert an unpacked archive to deployment files in the folder `output`.

    The files are read back and compared with the network in memory before they are moved to `output`.

    Args:
        folder: the unpacked archive.
        output: folder of the deployment files.
        class_names: in the order of ids, since archives lack them; None: class_0, class_1, ...
        per_class: True: only boxes of the same class suppress each other. False: all boxes do, as in the algorithm.
        progress: reports the result.
        overwrite: replace another converted model.

    Raises:
        WeightsError: the archive is incomplete, damaged, or not of the built-in algorithm; nothing was written.
        ConfigError: the number of class names differs from the number of classes.
        SsdTrainError: the written files give other detections; nothing was written.
    """
    artifact = read_artifact(folder)
    parts = make_detector(artifact, NmsRules(artifact.nms_threshold, artifact.nms_topk, per_class))
    description = ExportMetadata(
        class_names=_class_names(artifact, class_names),
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
    return names or ClassNames.of_ids({}, artifact.num_classes)


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
