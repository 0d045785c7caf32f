"""Trained arrays put into a network, and counted.

A weights file holds, under Gluon's names, a whole detector (GluonCV's SSD, or a model of ours) or a backbone of the
Gluon or GluonCV model zoo. What is not for this network is never loaded by half: a load that fits too few tensors
fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.errors import WeightsError
from ssd_train.model import net as nets
from ssd_train.model.params_file import check_params_file

mx = framework.mxnet()
gcv = framework.gluoncv()

CLASS_HEADS = "class_predictors."  # what the names of a detector's class heads begin with
LEAST_SHARE = 0.85  # of the tensors that a file has to fill; a plain VGG-16 lacks the two dilated convolutions
# what the published detectors of the model zoo were trained on; the class names are in their head's order
ZOO_CLASS_COUNTS = (20, 80)


@dataclass(frozen=True)
class LoadReport:
    """How many of the network's tensors a file filled, and what of the class head was kept.

    loaded          tensors filled whole
    partly          tensors of the class head of which only some rows were filled: background's and the kept classes'
    kept_classes    (class of the network, class of the file) whose rows were taken
    new_classes     classes of the network whose rows were not
    """

    source: str
    kind: str
    loaded: int
    total: int
    partly: int = 0
    kept_classes: Tuple[Tuple[str, str], ...] = ()
    new_classes: Tuple[str, ...] = ()

    def __str__(self) -> str:
        partly = f", {self.partly} in part" if self.partly else ""
        kept = [new if new == old else f"{new} (from {old})" for new, old in self.kept_classes]
        told = [("class rows kept", kept), ("new", self.new_classes)]
        head = "".join(f"; {what}: {', '.join(names)}" for what, names in told if names)
        return f"{self.source}: {self.kind}, {self.loaded} of {self.total} tensors loaded{partly}{head}"


Arrays = Dict[str, Any]


def read_arrays(path: "str | Path") -> Arrays:
    """Named arrays of a .params file, without the prefixes arg: and aux:; a WeightsError when it is none."""
    check_params_file(Path(path))
    try:
        arrays = mx.nd.load(str(path))
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise WeightsError(f"{path}: found no readable weights ({reason}), expected a Gluon .params file") from None
    if not isinstance(arrays, dict) or not arrays:
        raise WeightsError(f"{path}: found arrays without names, expected a Gluon .params file")
    for name, array in arrays.items():
        if array.dtype.__name__.startswith("float") and not np.isfinite(array.asnumpy()).all():
            raise WeightsError(f"{path}: found NaN or infinity in {name}, expected finite weights")
    return {name.split(":", 1)[-1]: array for name, array in arrays.items()}


def load_pretrained(
    net: Any,
    base_network: str,
    path: "str | Path",
    old_classes: Optional[Sequence[str]] = None,
    rows: Optional[Sequence[int]] = None,
) -> LoadReport:
    """Fill `net` from the file at `path`; `old_classes` are the class names of a detector's head, where they are known.

    `rows` has for each class of `net` the class of the file whose rows it gets, -1 where none; by default that of the
    same name. Anchors are never loaded: ours follow the image size.
    """
    arrays = read_arrays(path)
    if any(name.startswith(CLASS_HEADS) for name in arrays):
        return _load_detector(net, arrays, str(path), old_classes, rows)
    return _load_backbone(net, base_network, arrays, str(path))


def saved_parameters(net: Any) -> Dict[str, Any]:
    """The parameters of `net` that a file holds, by name: all but the anchors, which follow from network and size."""
    return {name: p for name, p in net._collect_params_with_prefix().items() if not name.endswith("anchors")}


def load_exactly(net: Any, path: "str | Path") -> None:
    """Fill every tensor of `net` from a file that was saved from such a net; a WeightsError names what does not fit."""
    arrays, parameters = read_arrays(path), saved_parameters(net)
    for name in sorted({*arrays, *parameters}):
        found, wanted = (tuple(v[name].shape) if name in v else None for v in (arrays, parameters))
        if found != wanted:
            raise WeightsError(f"{path}: {name} has shape {found}, expected {wanted}")
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name])


def _load_detector(
    net: Any, arrays: Arrays, source: str, old_classes: Optional[Sequence[str]], rows: Optional[Sequence[int]]
) -> LoadReport:
    names = tuple(old_classes or _zoo_classes(arrays))
    if rows is None:
        rows = [names.index(name) if name in names else -1 for name in net.classes]
    parameters = saved_parameters(net)
    heads = {name for name in parameters if name.startswith(CLASS_HEADS)}
    fitting = {
        n: arrays[n] for n in parameters if n not in heads and n in arrays and arrays[n].shape == parameters[n].shape
    }
    body = len(parameters) - len(heads)
    _require(len(fitting), body, source, "detector")
    for name, array in fitting.items():
        parameters[name].set_data(array)
    filled = sum(_copy_class_rows(parameters[name], arrays.get(name), rows, len(names)) for name in heads)
    kept = [(name, names[row]) for name, row in zip(net.classes, rows) if row >= 0] if filled else []
    new = [name for name, row in zip(net.classes, rows) if row < 0 or not filled]
    loaded, partly = (len(fitting), filled) if new else (len(fitting) + filled, 0)
    return LoadReport(source, "detector", loaded, len(parameters), partly, tuple(kept), tuple(new))


def _zoo_classes(arrays: Mapping[str, Any]) -> Tuple[str, ...]:
    """Class names of a detector without a config: GluonCV's VOC or COCO nets are told by their head's size."""
    boxes = arrays["box_predictors.0.predictor.bias"].shape[0] // 4
    count = arrays["class_predictors.0.predictor.bias"].shape[0] // boxes - 1
    if count == ZOO_CLASS_COUNTS[0]:
        return tuple(gcv.data.VOCDetection.CLASSES)
    if count == ZOO_CLASS_COUNTS[1]:
        return tuple(gcv.data.COCODetection.CLASSES)
    return ()


def _copy_class_rows(parameter: Any, old: Any, rows: Sequence[int], old_count: int) -> int:
    """Copy background's rows and for each class those of the old class that `rows` names; 0 when the tensor does not
    fit, else 1."""
    if old is None or not old_count:
        return 0
    values, given = parameter.data().asnumpy(), old.asnumpy()
    new_width, old_width = len(rows) + 1, old_count + 1
    fits = given.shape[0] * new_width == values.shape[0] * old_width and given.shape[1:] == values.shape[1:]
    if not fits:
        return 0
    # row k * width + c is anchor shape k, class c; background is class 0
    values[0::new_width] = given[0::old_width]
    for position, row in enumerate(rows, start=1):
        if row >= 0:
            values[position::new_width] = given[row + 1 :: old_width]
    parameter.set_data(mx.nd.array(values))
    return 1


def _load_backbone(net: Any, base_network: str, arrays: Arrays, source: str) -> LoadReport:
    found = _vgg_backbone(arrays) if base_network == nets.VGG else _zoo_backbone(net, base_network, arrays)
    parameters = net._collect_params_with_prefix()
    wanted = {name: p for name, p in parameters.items() if _is_backbone(name)}
    fitting = {name: a for name, a in found.items() if name in wanted and tuple(a.shape) == wanted[name].shape}
    _require(len(fitting), len(wanted), source, f"{base_network} backbone")
    for name, array in fitting.items():
        wanted[name].set_data(array)
    return LoadReport(source, f"{base_network} backbone", len(fitting), len(wanted))


def _is_backbone(name: str) -> bool:
    return name.startswith("features.") and not any(part in name for part in ("expand_", ".extras.", "scale"))


def _require(fitting: int, total: int, source: str, kind: str) -> None:
    if fitting < LEAST_SHARE * total:
        raise WeightsError(
            f"{source}: found {fitting} of the {total} tensors of this {kind}, expected at least {LEAST_SHARE:.0%}: "
            "is it a file of another network?"
        )


def _zoo_backbone(net: Any, base_network: str, arrays: Arrays) -> Arrays:
    """A file of the model zoo under the names that the detector has for its backbone's parameters."""
    zoo_net = gcv.model_zoo.get_model(nets.BACKBONES[base_network].zoo_name, pretrained=False)
    # both are named <kind><counter>_<layer>, and the counters differ
    by_layer = {name.split("_", 1)[1]: name for name in net._collect_params_with_prefix() if _is_backbone(name)}
    layers = {name: p.name.split("_", 1)[1] for name, p in zoo_net._collect_params_with_prefix().items()}
    return {by_layer[layers[n]]: array for n, array in arrays.items() if layers.get(n) in by_layer}


def _vgg_backbone(arrays: Arrays) -> Arrays:
    """VGG-16: GluonCV's atrous file as it is, or the model zoo's vgg16 with its thirteen convolutions put in stages."""
    if any(name.startswith("stages.") for name in arrays):
        return {f"features.{name}": array for name, array in arrays.items()}
    found = [re.fullmatch(r"features\.(\d+)\.weight", name) for name in arrays]
    layers = sorted(int(name.group(1)) for name in found if name and arrays[name.group()].ndim == 4)
    places = [(stage, layer) for stage, count in enumerate((2, 2, 3, 3, 3)) for layer in range(count)]
    renamed = {}
    for index, (stage, layer) in zip(layers, places):
        for kind in ("weight", "bias"):
            if f"features.{index}.{kind}" in arrays:
                renamed[f"features.stages.{stage}.{2 * layer}.{kind}"] = arrays[f"features.{index}.{kind}"]
    first = renamed.get("features.stages.0.0.weight")
    if first is not None and first.shape[1] == 3:
        # the atrous net multiplies its input by 255 times the deviation, which the model zoo's vgg16 does not expect
        scale = mx.nd.array([0.229, 0.224, 0.225]).reshape((1, 3, 1, 1)) * 255
        renamed["features.stages.0.0.weight"] = first / scale
    return renamed
