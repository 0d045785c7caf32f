"""Load weights files into a network and report how many tensors they filled.

A .params file holds, under Gluon's names, a whole detector (GluonCV's SSD, or a model of ours) or a backbone of the
Gluon or GluonCV model zoo; a .safetensors file holds a network of timm or torchvision. A file that fits too few tensors
of the network is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.errors import WeightsError
from ssd_train.model import net as nets
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD
from ssd_train.model.params_check import check_params_file
from ssd_train.model.torch_weights import read_torch_weights

mx = mxnet_compat.mxnet()
gcv = mxnet_compat.gluoncv()

MIN_LOADED = 0.85  # fraction of the tensors that a file must fill; a plain VGG-16 lacks the two dilated convolutions
ZOO_CLASS_COUNTS = (20, 80)  # of the model zoo's detectors, trained on VOC and COCO


@dataclass(frozen=True)
class LoadReport:
    """Counts of the tensors loaded from a file, and the class rows kept.

    Attributes:
        source: path of the file.
        kind: detector or backbone.
        loaded: number of tensors filled as a whole.
        total: number of tensors of the network, or of its backbone.
        partly: number of class head tensors of which only some rows were filled: background and the kept classes.
        kept_classes: (class of the network, class of the file) whose rows were loaded.
        new_classes: classes of the network whose rows were not loaded.
        fates: of a .safetensors file or an archive of the built-in algorithm, counts of the tensors that were not
            loaded, by the reason.
    """

    source: str
    kind: str
    loaded: int
    total: int
    partly: int = 0
    kept_classes: Tuple[Tuple[str, str], ...] = ()
    new_classes: Tuple[str, ...] = ()
    fates: Tuple[Tuple[str, int], ...] = ()

    def __str__(self) -> str:
        partly = f", {self.partly} in part" if self.partly else ""
        fates = "".join(f", {count} {reason}" for reason, count in self.fates)
        kept = [new if new == old else f"{new} (from {old})" for new, old in self.kept_classes]
        classes = [("class rows kept", kept), ("new", self.new_classes)]
        head = "".join(f"; {label}: {', '.join(names)}" for label, names in classes if names)
        return f"{self.source}: {self.kind}, {self.loaded} of {self.total} tensors loaded{partly}{fates}{head}"


Arrays = Dict[str, Any]


def read_arrays(path: "str | Path") -> Arrays:
    """Read the named arrays of a .params file, without the prefixes arg: and aux:.

    Raises:
        WeightsError: it is no .params file, its arrays have no names, or a value is not finite.
    """
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
    heads: bool = True,
    finer_maps: int = 0,
) -> LoadReport:
    """Load the file at `path` into `net`.

    Anchors are never loaded: ours follow the image size.

    Args:
        net: the network.
        base_network: its backbone.
        path: a .params or .safetensors file.
        old_classes: class names of the file's detector, if they are known.
        rows: for each class of `net`, the class of the file whose rows it gets, -1 for none; default: the same name.
        heads: load the class and box heads of a detector, too.
        finer_maps: number of maps of `net` that are finer than the first of the file's detector; those keep their new
            heads. Negative: the file's detector has so many finer ones.

    Raises:
        DependencyError: the safetensors library is missing.
        WeightsError: the file cannot be read, or fits too few tensors.
    """
    if Path(path).suffix == ".safetensors":
        return _load_torch_weights(net, base_network, Path(path))
    arrays = read_arrays(path)
    if any(name.startswith(nets.CLASS_HEADS) for name in arrays):
        if not heads:
            return _load_features(net, arrays, str(path))
        return _load_detector(net, arrays, str(path), old_classes, rows, finer_maps)
    return _load_backbone(net, base_network, arrays, str(path))


def state_dict(net: Any) -> Dict[str, Any]:
    """Return the parameters of `net` that are saved, by name: all but the anchors, which are computed."""
    return {name: p for name, p in net._collect_params_with_prefix().items() if not name.endswith("anchors")}


def load_strict(net: Any, path: "str | Path") -> None:
    """Load all tensors of `net` from a file that was saved from an equal network.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape.
    """
    arrays, parameters = read_arrays(path), state_dict(net)
    for name in sorted({*arrays, *parameters}):
        shape, expected = (tuple(v[name].shape) if name in v else None for v in (arrays, parameters))
        if shape != expected:
            raise WeightsError(f"{path}: {name} has shape {shape}, expected {expected}")
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name])


def load_builtin(net: Any, arrays: Arrays, source: str, old_classes: Sequence[str], rows: Sequence[int]) -> LoadReport:
    """Load the VGG-16 detector of the built-in algorithm into `net`, a VGG-16 of GluonCV.

    Its input is raw pixels; GluonCV's has their mean subtracted, so the first bias takes the mean up. The results are
    equal but for the border of the image, where both pad with zeros.

    Args:
        net: the network.
        arrays: the algorithm's weights by name, without prefix.
        source: their file, for messages.
        old_classes: class names of the archive.
        rows: for each class of `net`, the class of the archive whose rows it gets, -1 for none.

    Raises:
        WeightsError: they fit too few tensors.
    """
    parameters = state_dict(net)
    names = {name: _builtin_name(name) for name in parameters}
    renamed = {name: arrays[other] for name, other in names.items() if other in arrays}
    first, bias = (f"features.stages.0.0.{kind}" for kind in ("weight", "bias"))
    if all(name in renamed and tuple(renamed[name].shape) == parameters[name].shape for name in (first, bias)):
        mean = mx.nd.array(PIXEL_MEAN).reshape((1, 3, 1, 1)) * 255
        renamed[bias] = renamed[bias] + (renamed[first] * mean).sum(axis=(1, 2, 3))
    constant = {name: p.data() for name, p in parameters.items() if name.endswith("init_scale")}
    report = _load_detector(net, {**renamed, **constant}, source, old_classes, rows)
    loaded, total = report.loaded - len(constant), report.total - len(constant)
    missing = total - len(renamed)
    other = total - missing - loaded - report.partly
    fates = (("missing", missing), ("of another shape", other), ("not needed", len(arrays) - len(renamed)))
    return replace(report, kind="detector of the built-in algorithm", loaded=loaded, total=total, fates=fates)


def _builtin_name(name: str) -> str:
    """Return the name that the built-in algorithm has for a parameter of our VGG-16 detector; "" if it has none."""
    part, *position, kind = name.split(".")
    if part.endswith("_predictors"):
        index, prefix = int(position[0]), {"class_predictors": "cls", "box_predictors": "loc"}[part]
        layer = ("relu4_3", "relu7")[index] if index < 2 else f"multi_feat_{index}_conv_3x3_relu"
        return f"{layer}_{prefix}_pred_conv_{kind}"
    if position[:1] == ["extras"]:
        size = "1x1" if position[2] == "0" else "3x3"
        return f"multi_feat_{int(position[1]) + 2}_conv_{size}_conv_{kind}"
    return "relu4_3_scale" if position == ["norm4"] else "".join(nets.builtin_names(nets.VGG, name))


def _load_detector(
    net: Any,
    arrays: Arrays,
    source: str,
    old_classes: Optional[Sequence[str]],
    rows: Optional[Sequence[int]],
    finer_maps: int = 0,
) -> LoadReport:
    names, old_names = list(net.classes), list(old_classes or _zoo_classes(arrays))
    index = lambda match: str(int(match.group()) + finer_maps)  # noqa: E731
    arrays = {re.sub(r"(?<=_predictors\.)\d+", index, name): array for name, array in arrays.items()}
    if rows is None:
        rows = [old_names.index(name) if name in old_names else -1 for name in names]
    parameters = state_dict(net)
    features = {name: p for name, p in parameters.items() if not name.startswith(nets.CLASS_HEADS)}
    loaded = _fill(features, arrays, source, "detector")
    filled = _load_class_heads(net, arrays, old_names, rows)
    kept = [(name, old_names[row]) for name, row in zip(names, rows) if row >= 0] if filled else []
    new = [name for name, row in zip(names, rows) if row < 0 or not filled]
    loaded, partly = (loaded, filled) if new else (loaded + filled, 0)
    return LoadReport(source, "detector", loaded, len(parameters), partly, tuple(kept), tuple(new))


def _load_class_heads(net: Any, arrays: Arrays, old_names: Sequence[str], rows: Sequence[int]) -> int:
    """Load the class heads of the file, then replace them by heads of the classes of `net`.

    A head of another shape, such as of a map with another number of anchors, is not loaded.

    Returns:
        Number of tensors of which at least the rows of background were loaded.
    """
    names, initial = list(net.classes), nets.class_heads(net)
    if not old_names:
        return 0
    net.reset_class(list(old_names))
    parameters = net._collect_params_with_prefix()
    fitting = [name for name in initial if name in arrays and arrays[name].shape == parameters[name].shape]
    for name in fitting:
        parameters[name].set_data(arrays[name])
    nets.reset_class(net, names, rows, initial, fitting)
    return len(fitting)


def _load_features(net: Any, arrays: Arrays, source: str) -> LoadReport:
    """Load the backbone and the extra layers of a detector; its heads stay new."""
    parameters = {name: p for name, p in state_dict(net).items() if name.startswith("features.")}
    kind = "detector without its heads"
    loaded = _fill(parameters, arrays, source, kind)
    return LoadReport(source, kind, loaded, len(parameters), new_classes=tuple(net.classes))


def _fill(parameters: Mapping[str, Any], arrays: Mapping[str, Any], source: str, kind: str) -> int:
    """Set the parameters that have an array of their shape; return their number.

    Raises:
        WeightsError: there are too few.
    """
    fitting = {n: arrays[n] for n, p in parameters.items() if n in arrays and tuple(arrays[n].shape) == p.shape}
    _require(len(fitting), len(parameters), source, kind)
    for name, array in fitting.items():
        parameters[name].set_data(array)
    return len(fitting)


def _zoo_classes(arrays: Mapping[str, Any]) -> Tuple[str, ...]:
    """Return the class names of GluonCV's VOC or COCO detectors, recognized by their class count; else none."""
    boxes = arrays["box_predictors.0.predictor.bias"].shape[0] // 4
    count = arrays["class_predictors.0.predictor.bias"].shape[0] // boxes - 1
    if count == ZOO_CLASS_COUNTS[0]:
        return tuple(gcv.data.VOCDetection.CLASSES)
    if count == ZOO_CLASS_COUNTS[1]:
        return tuple(gcv.data.COCODetection.CLASSES)
    return ()


def _load_backbone(net: Any, base_network: str, arrays: Arrays, source: str) -> LoadReport:
    renamed = _vgg_backbone(arrays) if base_network == nets.VGG else _zoo_backbone(net, base_network, arrays)
    parameters, kind = _backbone_parameters(net), f"{base_network} backbone"
    return LoadReport(source, kind, _fill(parameters, renamed, source, kind), len(parameters))


def _load_torch_weights(net: Any, base_network: str, path: Path) -> LoadReport:
    parameters, kind = _backbone_parameters(net), f"{base_network} backbone"
    arrays, unused = read_torch_weights(path, base_network, list(parameters))
    loaded = _fill(parameters, {name: mx.nd.array(array) for name, array in arrays.items()}, str(path), kind)
    missing = len(parameters.keys() - arrays.keys())
    fates = (("missing", missing), ("of another shape", len(arrays) - loaded), ("not needed", unused))
    return LoadReport(str(path), kind, loaded, len(parameters), fates=fates)


def _backbone_parameters(net: Any) -> Dict[str, Any]:
    return {name: p for name, p in net._collect_params_with_prefix().items() if _is_backbone(name)}


def _is_backbone(name: str) -> bool:
    return name.startswith("features.") and not any(part in name for part in ("expand_", ".extras.", "scale"))


def _require(fitting: int, total: int, source: str, kind: str) -> None:
    if fitting < MIN_LOADED * total:
        raise WeightsError(
            f"{source}: found {fitting} of the {total} tensors of this {kind}, expected at least {MIN_LOADED:.0%}: "
            "is it a file of another network?"
        )


def _zoo_backbone(net: Any, base_network: str, arrays: Arrays) -> Arrays:
    """Rename the arrays of a model zoo file to the detector's names of its backbone parameters."""
    zoo_net = gcv.model_zoo.get_model(nets.BACKBONES[base_network].zoo_name, pretrained=False)
    # both are named <kind><counter>_<layer>, and the counters differ
    by_layer = {name.split("_", 1)[1]: name for name in net._collect_params_with_prefix() if _is_backbone(name)}
    layers = {name: p.name.split("_", 1)[1] for name, p in zoo_net._collect_params_with_prefix().items()}
    return {by_layer[layers[n]]: array for n, array in arrays.items() if layers.get(n) in by_layer}


def _vgg_backbone(arrays: Arrays) -> Arrays:
    """Rename VGG-16's arrays to the detector's names.

    They come from GluonCV's atrous file, or from the model zoo's vgg16, whose 13 convolutions are put into stages.
    """
    if any(name.startswith("stages.") for name in arrays):
        return {f"features.{name}": array for name, array in arrays.items()}
    matches = [re.fullmatch(r"features\.(\d+)\.weight", name) for name in arrays]
    layers = sorted(int(match.group(1)) for match in matches if match and arrays[match.group()].ndim == 4)
    positions = [(stage, layer) for stage, count in enumerate((2, 2, 3, 3, 3)) for layer in range(count)]
    renamed = {}
    for index, (stage, layer) in zip(layers, positions):
        for kind in ("weight", "bias"):
            if f"features.{index}.{kind}" in arrays:
                renamed[f"features.stages.{stage}.{2 * layer}.{kind}"] = arrays[f"features.{index}.{kind}"]
    first = renamed.get("features.stages.0.0.weight")
    if first is not None and first.shape[1] == 3:
        # the atrous network multiplies its input by 255 times the deviation; the model zoo's vgg16 does not
        scale = mx.nd.array(PIXEL_STD).reshape((1, 3, 1, 1)) * 255
        renamed["features.stages.0.0.weight"] = first / scale
    return renamed
