"""Read backbone weights of timm and torchvision from .safetensors files, under GluonCV's names.

Tensors are matched by name; whether shapes agree is for the caller. The networks are the same but for their input:
timm's MobileNet V1 has pixels from -1 to 1, and torchvision's features-only VGG-16 is not divided by a deviation. The
first convolution is changed accordingly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from ssd_train.errors import WeightsError, require_extra
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD

Arrays = Dict[str, np.ndarray]
# of ImageNet, RGB; (1, 3, 1, 1) for the weights of a convolution
MEAN = np.array(PIXEL_MEAN).reshape((1, 3, 1, 1))
DEVIATION = np.array(PIXEL_STD).reshape((1, 3, 1, 1))
CAFFE_MEAN = np.array([0.48235, 0.45882, 0.40784]).reshape((1, 3, 1, 1))
TIMM_STAGES = (1, 2, 2, 6, 2)  # blocks of the stages of MobileNet V1
VGG_STAGES = (2, 2, 3, 3, 3)  # convolutions of the stages of VGG-16
VGG_CLASSIFIER = "classifier.0.weight"
RESNET_MARK = "layer1.0.conv1.weight"  # of ResNets of torchvision and timm


class TorchWeights(NamedTuple):
    """Tensors of a file for a backbone.

    Attributes:
        arrays: the tensors by GluonCV's names.
        unused: number of the file's tensors that the backbone does not need.
    """

    arrays: Arrays
    unused: int


def read_torch_weights(path: Path, base_network: str, names: Sequence[str]) -> TorchWeights:
    """Read a state dict of timm or torchvision.

    Args:
        path: a .safetensors file.
        base_network: the backbone.
        names: GluonCV's names of the backbone's parameters, in their order.

    Raises:
        DependencyError: the safetensors library is missing.
        WeightsError: the file is damaged, or of another network.
    """
    state = _read(path)
    if base_network == "resnet-50":
        raise WeightsError(_no_resnet(path, state))
    layers, expected, adapt = _LAYOUTS[base_network]
    sources = layers(names)  # name in the file -> GluonCV's name
    first = next(iter(sources))
    if first not in state:
        some = ", ".join(sorted(state)[:3]) or "none"
        raise WeightsError(
            f"{path}: found {len(state)} tensors ({some}, ...) without {first}, expected those of {expected} for "
            f"{base_network}"
        )
    if base_network == "vgg-16" and "features.1.running_mean" in state:
        raise WeightsError(f"{path}: found a VGG-16 with batch normalization, expected {expected}")
    arrays = {ours: state[theirs].astype(np.float32) for theirs, ours in sources.items() if theirs in state}
    for theirs, ours in sources.items():
        if ours in arrays and not np.isfinite(arrays[ours]).all():
            raise WeightsError(f"{path}: found NaN or infinity in {theirs}, expected finite weights")
    return TorchWeights(adapt(arrays, state, names), len(state) - len(arrays))


def _read(path: Path) -> Arrays:
    with require_extra("safetensors"):
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise WeightsError(f"{path}: found no readable weights ({reason}), expected a .safetensors file") from None


def _no_resnet(path: Path, state: Mapping[str, Any]) -> str:
    if RESNET_MARK not in state:
        return f"{path}: found a .safetensors file for resnet-50, expected a .params file of GluonCV"
    return (
        f"{path}: found a ResNet whose 3x3 convolutions have the stride, as in torchvision and timm, expected "
        "GluonCV's resnet50_v1, whose first 1x1 convolutions have it: the same weights compute other features there"
    )


def _conv_and_norm(layers: Sequence[Tuple[str, str]], names: Sequence[str]) -> Dict[str, str]:
    """Match (convolution, normalization) pairs of a file with GluonCV's layers, which are in the same order."""
    convolutions = [name for name in names if name.endswith("_weight")]
    norms = [name[: -len("gamma")] for name in names if name.endswith("_gamma")]
    sources = {}
    for (convolution, norm), ours, ours_norm in zip(layers, convolutions, norms):
        sources[f"{convolution}.weight"] = ours
        for theirs, kind in (("weight", "gamma"), ("bias", "beta")):
            sources[f"{norm}.{theirs}"] = f"{ours_norm}{kind}"
        for kind in ("running_mean", "running_var"):
            sources[f"{norm}.{kind}"] = f"{ours_norm}{kind}"
    return sources


def _timm_mobilenet_v1(names: Sequence[str]) -> Dict[str, str]:
    layers = [("conv_stem", "bn1")]
    for stage, blocks in enumerate(TIMM_STAGES):
        for block in (f"blocks.{stage}.{index}" for index in range(blocks)):
            layers += [(f"{block}.conv_dw", f"{block}.bn1"), (f"{block}.conv_pw", f"{block}.bn2")]
    return _conv_and_norm(layers, names)


def _torchvision_mobilenet_v2(names: Sequence[str]) -> Dict[str, str]:
    layers = [("features.0.0", "features.0.1")]
    layers += [("features.1.conv.0.0", "features.1.conv.0.1"), ("features.1.conv.1", "features.1.conv.2")]
    for block in (f"features.{index}.conv" for index in range(2, 18)):
        layers += [(f"{block}.0.0", f"{block}.0.1"), (f"{block}.1.0", f"{block}.1.1"), (f"{block}.2", f"{block}.3")]
    return _conv_and_norm([*layers, ("features.18.0", "features.18.1")], names)


def _torchvision_vgg(names: Sequence[str]) -> Dict[str, str]:
    sources, position = {}, 0
    for stage, convolutions in enumerate(VGG_STAGES):
        for layer in range(convolutions):
            for kind in ("weight", "bias"):
                sources[f"features.{position}.{kind}"] = f"features.stages.{stage}.{2 * layer}.{kind}"
            position += 2  # a convolution and its activation
        position += 1  # pooling
    return sources


def _from_centred_input(arrays: Arrays, state: Arrays, names: Sequence[str]) -> Arrays:
    """Adapt weights for pixels from -1 to 1 to pixels normalized by ImageNet's mean and deviation.

    y = 2 (DEVIATION u + MEAN) - 1, so the weights are scaled, and the constant goes into the mean of the normalization
    that follows. It differs at the border, where padding is u = 0 instead of y = 0.
    """
    convolution = next(name for name in names if name.endswith("_weight"))
    mean = next(name for name in names if name.endswith("_running_mean"))
    weight = arrays.get(convolution)
    if weight is None or weight.ndim != 4 or weight.shape[1] != 3 or arrays.get(mean, weight).shape != weight.shape[:1]:
        return arrays  # the caller reports it
    constant = (weight * (2 * MEAN - 1)).sum(axis=(1, 2, 3))
    return {**arrays, convolution: weight * (2 * DEVIATION), mean: arrays[mean] - constant}


def _to_pixel_input(arrays: Arrays, state: Arrays, names: Sequence[str]) -> Arrays:
    """Adapt weights to GluonCV's VGG-16, which multiplies its input by 255 times the deviation.

    torchvision's features-only weights (IMAGENET1K_FEATURES, by which SSD is trained) are for such an input, of a mean
    of their own; their classifier is NaN.
    """
    first, bias = "features.stages.0.0.weight", "features.stages.0.0.bias"
    weight = arrays.get(first)
    if weight is None or weight.ndim != 4 or weight.shape[1] != 3:
        return arrays  # the caller reports it
    if not (VGG_CLASSIFIER in state and np.isnan(state[VGG_CLASSIFIER]).all()):
        return {**arrays, first: weight / (255 * DEVIATION)}
    if arrays.get(bias, weight).shape != weight.shape[:1]:
        return arrays
    return {**arrays, bias: arrays[bias] + (weight * (255 * (MEAN - CAFFE_MEAN))).sum(axis=(1, 2, 3))}


def _unchanged(arrays: Arrays, state: Arrays, names: Sequence[str]) -> Arrays:
    return arrays


_Layers = Callable[[Sequence[str]], Dict[str, str]]
_Adapt = Callable[[Arrays, Arrays, Sequence[str]], Arrays]
_TIMM: Tuple[_Layers, str, _Adapt] = (_timm_mobilenet_v1, "timm's MobileNet V1 (mobilenetv1_100)", _from_centred_input)
_LAYOUTS: Dict[str, Tuple[_Layers, str, _Adapt]] = {
    **dict.fromkeys(("mobilenet1.0", "mobilenet0.5", "mobilenet0.25"), _TIMM),
    "mobilenetv2_1.0": (_torchvision_mobilenet_v2, "torchvision's MobileNet V2", _unchanged),
    "vgg-16": (_torchvision_vgg, "torchvision's VGG-16", _to_pixel_input),
}
