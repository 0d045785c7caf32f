"""build_net: a GluonCV SSD with our class head, properly initialised, at any image size."""

from __future__ import annotations

import re
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.errors import ConfigError
from ssd_train.model.anchors import AnchorLayout, anchor_layout
from ssd_train.model.frozen import fix_statistics

mx = framework.mxnet()
gcv = framework.gluoncv()
# by name: the attribute gluoncv.model_zoo.ssd is another network's module of that name
ssd = framework.gluoncv("model_zoo.ssd.ssd")
vgg_atrous = framework.gluoncv("model_zoo.ssd.vgg_atrous")


@dataclass(frozen=True)
class Backbone:
    """A network of GluonCV's model zoo and the layers that feed the first detection maps (strides 16 and 32)."""

    zoo_name: str
    features: Tuple[str, ...]
    filters: Tuple[int, ...]


# filters of the extra layers as in GluonCV's presets for 512 px; the first so many are used, the last is repeated
WIDE, NARROW = (512, 512, 256, 256), (256, 256, 128, 128)
MOBILENET_FEATURES = ("relu22_fwd", "relu26_fwd")
BACKBONES = {
    "mobilenet1.0": Backbone("mobilenet1.0", MOBILENET_FEATURES, WIDE),
    "mobilenet0.5": Backbone("mobilenet0.5", MOBILENET_FEATURES, NARROW),
    "mobilenet0.25": Backbone("mobilenet0.25", MOBILENET_FEATURES, NARROW),
    "mobilenetv2_1.0": Backbone(
        "mobilenetv2_1.0", ("features_linearbottleneck13_relu60_relu6", "features_relu61_relu6"), WIDE
    ),
    "resnet-50": Backbone("resnet50_v1", ("stage3_activation5", "stage4_activation2"), WIDE),
}
VGG = "vgg-16"
# of the heads' weights, so that training starts from even class scores (RetinaNet, Lin et al. 2017, section 4.1)
HEAD_DEVIATION = 0.01
PRIOR = 0.99  # of background, where the focal loss is used


def build_net(
    base_network: str, image_size: int, class_names: Sequence[str], seed: int = 0, shares: Sequence[float] = ()
) -> Any:
    """An initialised SSD on the CPU (a GluonCV `SSD` HybridBlock) for square images of `image_size` pixels, with
    anchors of so large `shares` of it (anchor_layout's where none are given).

    Weights are drawn from `seed` by parameter name, so they do not depend on the order of calls, and layers that two
    networks share start equal. Convolutions: Xavier (Gaussian, by fan-out, magnitude 2, as GluonCV intends);
    BatchNorm: scale 1, shift 0, mean 0, variance 1 (GluonCV's own initialisation draws even variances at random).
    """
    layout = anchor_layout(base_network, image_size, shares)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Cannot decide type": of the input, which is known when the net runs
        net = _make_ssd(base_network, layout, class_names)
    initialize(net, image_size, seed)
    return net


def _make_ssd(base_network: str, layout: AnchorLayout, class_names: Sequence[str]) -> Any:
    return ssd.SSD(
        base_size=layout.image_size,
        sizes=list(layout.sizes),
        ratios=[list(r) for r in layout.ratios],
        steps=list(layout.steps),
        classes=list(class_names),
        anchor_alloc_size=_anchor_cells(layout),
        **_feature_arguments(base_network, layout),
    )


def _anchor_cells(layout: AnchorLayout) -> int:
    """Cells of the grid that GluonCV cuts the first map's anchors from; it halves the grid from map to map, while maps
    halve rounding up, so a power of two is needed."""
    return 1 << (layout.cells[0] - 1).bit_length()


def _feature_arguments(base_network: str, layout: AnchorLayout) -> Dict[str, Any]:
    if base_network == VGG:
        return {"network": None, "features": _vgg_features(layout), "num_filters": []}
    backbone = BACKBONES[base_network]
    extra = len(layout.cells) - len(backbone.features)
    filters = (backbone.filters + backbone.filters[-1:] * extra)[:extra]
    return {"network": backbone.zoo_name, "features": list(backbone.features), "num_filters": list(filters)}


def _vgg_features(layout: AnchorLayout) -> Any:
    """GluonCV's atrous VGG-16 with as many extra stages as `layout` has maps.

    At 300 and 512 px these are the stages of GluonCV's own nets, so that their trained weights fit; at other sizes each
    stage halves the map.
    """
    layers, filters = vgg_atrous.vgg_spec[16]
    halve = [((256, 1, 1, 0), (512, 3, 2, 1))] + [((128, 1, 1, 0), (256, 3, 2, 1))] * (len(layout.cells) - 3)
    extras = vgg_atrous.extra_spec.get(layout.image_size, halve)

    def make(**_: Any) -> Any:
        """The extractor; GluonCV's builder passes settings that the others take."""
        return vgg_atrous.VGGAtrousExtractor(layers, filters, extras)

    return make


def initialize(net: Any, image_size: int, seed: int) -> None:
    """Give every parameter of `net` its first value, drawn from `seed` and the parameter's own name."""
    with mx.autograd.train_mode():  # without the decoders, which mixed precision cannot trace
        net.infer_shape(mx.nd.zeros((1, 3, image_size, image_size)))  # convolutions leave their input channels open
    net.initialize(mx.init.Zero())
    for name, parameter in net._collect_params_with_prefix().items():
        value = _first_value(name, parameter, seed)
        if value is not None:
            parameter.set_data(mx.nd.array(value))


def _first_value(name: str, parameter: Any, seed: int) -> "np.ndarray | None":
    if name.endswith(("anchors", "scale")):
        return None  # constants, and VGG's scale whose own initial value is meant
    if name.endswith(("gamma", "running_var", "moving_var")):
        return np.ones(parameter.shape, np.float32)
    if not name.endswith("weight"):
        return np.zeros(parameter.shape, np.float32)
    random = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    if "predictors." in name:
        return random.normal(0, HEAD_DEVIATION, parameter.shape).astype(np.float32)
    fan_out = parameter.shape[0] * int(np.prod(parameter.shape[2:]))
    if "_conv" in name and parameter.shape[1] == 1:
        fan_out = int(np.prod(parameter.shape[2:]))  # depthwise: each channel has one output
    return random.normal(0, np.sqrt(2.0 / fan_out), parameter.shape).astype(np.float32)


def expect_background(net: Any, probability: float = PRIOR) -> None:
    """Let the class heads of `net` begin with this probability of background, evenly shared by the classes for the
    rest: without it the many empty anchors drown the objects in the focal loss's first steps (RetinaNet, section 4.1).
    """
    classes = net.num_classes
    for predictor in net.class_predictors:
        bias = predictor.predictor.bias
        values = np.zeros(bias.shape, np.float32).reshape(-1, classes + 1)
        values[:, 0] = np.log(probability * classes / (1 - probability))
        bias.set_data(mx.nd.array(values.ravel()))


def reset_class(net: Any, class_names: Sequence[str]) -> List[str]:
    """Replace the class head of `net`; returns the names whose old rows, and background's, were kept.

    New rows keep their first values. Build trainers and graphs afterwards: they would hold the old head's parameters.
    """
    names = list(class_names)
    if isinstance(class_names, str) or not names or len(set(names)) != len(names):
        raise ConfigError(f"class names: found {class_names!r}, expected a list of different names")
    kept = [name for name in names if name in list(net.classes)]
    net.reset_class(names, reuse_weights={name: name for name in kept})
    return kept


def freeze(net: Any, base_network: str, pattern: str) -> List[str]:
    """Stop training of the parameters whose name contains `pattern` (a regular expression); returns their names. A
    BatchNorm layer without training has no training of its statistics either.

    Names are those of the saved weights and, for vgg-16 and resnet-50, also the built-in algorithm's. A pattern that
    matches nothing, or leaves nothing to train, is a ConfigError.
    """
    if not pattern:
        return []
    parameters = net._collect_params_with_prefix()
    frozen = [n for n in parameters if any(re.search(pattern, a) for a in (n, *builtin_names(base_network, n)))]
    if not frozen:
        some = ", ".join(list(parameters)[:3] + list(parameters)[-12:-9])
        raise ConfigError(
            f"freeze_layer_pattern: found {pattern!r} that matches no parameter, expected names such as {some}"
        )
    for name in frozen:
        parameters[name].grad_req = "null"
    if all(parameter.grad_req == "null" for parameter in parameters.values()):
        raise ConfigError(
            f"freeze_layer_pattern: found {pattern!r} that matches every parameter, expected some to train"
        )
    fix_statistics(net, frozen)
    return frozen


def builtin_names(base_network: str, name: str) -> Tuple[str, ...]:
    """The name that the built-in algorithm's network has for our parameter `name`; () where it has none.

    VGG: conv1_1 .. conv5_3, fc6, fc7. ResNet-50: conv0, stage<s>_unit<u>_conv<c>, bn likewise, sc for the shortcut
    (names of the mxnet-ssd symbol files that the built-in algorithm was made from).
    """
    if base_network == VGG:
        return _vgg_names(name)
    if base_network == "resnet-50":
        return _resnet_names(name)
    return ()


def _vgg_names(name: str) -> Tuple[str, ...]:
    found = re.match(r"features\.stages\.(\d+)\.(\d+)\.(weight|bias)$", name)
    if not found:
        return ()
    stage, layer, kind = int(found.group(1)), int(found.group(2)) // 2, found.group(3)
    return (f"conv{stage + 1}_{layer + 1}_{kind}" if stage < 5 else f"fc{layer + 6}_{kind}",)


def _resnet_names(name: str) -> Tuple[str, ...]:
    found = re.match(r"features\.resnetv10_(?:stage(\d)_)?(conv|batchnorm)(\d+)_(.+)$", name)
    if not found:
        return ()
    stage, kind, index, rest = found.groups()
    rest = rest.replace("running", "moving")
    layer = "conv" if kind == "conv" else "bn"
    if stage is None:
        return (f"{layer}{index}_{rest}",)
    # a stage's first unit has three convolutions and the shortcut's, the others three
    number = int(index)
    if number == 3:
        return (f"stage{stage}_unit1_{'sc' if layer == 'conv' else 'sc_bn'}_{rest}",)
    unit, part = divmod(number if number < 3 else number - 1, 3)
    return (f"stage{stage}_unit{unit + 1}_{layer}{part + 1}_{rest}",)
