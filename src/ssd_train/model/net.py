"""Build and initialize GluonCV SSD networks for any square image size; freeze layers; replace the class head."""

from __future__ import annotations

import json
import re
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Collection, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.config import TrainConfig
from ssd_train.errors import ConfigError
from ssd_train.model.anchors import AnchorLayout, anchor_layout

mx = mxnet_compat.mxnet()
gcv = mxnet_compat.gluoncv()
# by name: the attribute gluoncv.model_zoo.ssd is another network's module of that name
ssd = mxnet_compat.gluoncv("model_zoo.ssd.ssd")
vgg_atrous = mxnet_compat.gluoncv("model_zoo.ssd.vgg_atrous")


@dataclass(frozen=True)
class Backbone:
    """A network of GluonCV's model zoo and the layers that feed the first detection maps.

    Attributes:
        zoo_name: name in GluonCV's model zoo.
        features: names of the layers with strides 8, 16 and 32.
        filters: number of filters of the extra layers.
    """

    zoo_name: str
    features: Tuple[str, ...]
    filters: Tuple[int, ...]


# filters of the extra layers, as in GluonCV's presets for 512 px; the last is repeated if there are more layers
WIDE, NARROW = (512, 512, 256, 256), (256, 256, 128, 128)
MOBILENET_FEATURES = ("relu10_fwd", "relu22_fwd", "relu26_fwd")
MOBILENETV2_FEATURES = (*(f"features_linearbottleneck{i}_relu60_relu6" for i in (6, 13)), "features_relu61_relu6")
RESNET_FEATURES = ("stage2_activation3", "stage3_activation5", "stage4_activation2")
BACKBONES = {
    "mobilenet1.0": Backbone("mobilenet1.0", MOBILENET_FEATURES, WIDE),
    "mobilenet0.5": Backbone("mobilenet0.5", MOBILENET_FEATURES, NARROW),
    "mobilenet0.25": Backbone("mobilenet0.25", MOBILENET_FEATURES, NARROW),
    "mobilenetv2_1.0": Backbone("mobilenetv2_1.0", MOBILENETV2_FEATURES, WIDE),
    "resnet-50": Backbone("resnet50_v1", RESNET_FEATURES, WIDE),
}
LAST_STRIDE = 32  # of a backbone's features
VGG = "vgg-16"
# standard deviation of the head weights, so that class scores start even (RetinaNet, Lin et al. 2017, section 4.1)
HEAD_DEVIATION = 0.01
CLASS_HEADS = "class_predictors."  # prefix of the class heads' parameter names
BACKGROUND_PRIOR = 0.99  # initial probability of background with the focal loss


def net_of(config: TrainConfig, class_names: Iterable[str]) -> Any:
    """Return the initialized network of a model with these settings."""
    side, scales = config.image_shape, config.anchor_scales
    return build_net(config.base_network, side, list(class_names), config.seed, scales, config.first_stride)


def build_net(
    base_network: str,
    image_size: int,
    class_names: Sequence[str],
    seed: int = 0,
    scales: Sequence[float] = (),
    first_stride: int = 0,
) -> Any:
    """Return an initialized SSD (GluonCV's `SSD` HybridBlock) on the CPU.

    Convolution weights are drawn by Xavier (Gaussian, fan-out, magnitude 2, as GluonCV intends) from `seed` and the
    parameter's name, so layers that two networks share start equal. BatchNorm starts with scale 1, shift 0, mean 0,
    variance 1; GluonCV's own initializer draws even the variances at random.

    Args:
        base_network: a key of BACKBONES, or VGG.
        image_size: side of the square input image in pixels.
        class_names: names of the classes, without background.
        seed: seed of the initial weights.
        scales: anchor scales as fractions of the image size; default: those of `anchor_layout`.
        first_stride: stride of the first feature map; 0: that of the network.
    """
    layout = anchor_layout(base_network, image_size, scales, first_stride)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Cannot decide type" of the input, which is known once the network runs
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
    """Return the side of the grid that GluonCV crops the anchors of the first map from.

    GluonCV halves the grid from map to map, while maps halve rounding up, so the side must be a power of two.
    """
    return 1 << (layout.cells[0] - 1).bit_length()


def _feature_arguments(base_network: str, layout: AnchorLayout) -> Dict[str, Any]:
    if base_network == VGG:
        return {"network": None, "features": _vgg_features(layout), "num_filters": []}
    backbone = BACKBONES[base_network]
    features = backbone.features[-sum(step <= LAST_STRIDE for step in layout.steps) :]
    extra = len(layout.cells) - len(features)
    filters = (backbone.filters + backbone.filters[-1:] * extra)[:extra]
    return {"network": backbone.zoo_name, "features": list(features), "num_filters": list(filters)}


def _vgg_features(layout: AnchorLayout) -> Any:
    """Return a factory of GluonCV's atrous VGG-16 with as many extra stages as `layout` has maps.

    At 300 and 512 px the stages are those of GluonCV's own networks, so that their trained weights fit. At other sizes
    each stage halves the map.
    """
    layers, filters = vgg_atrous.vgg_spec[16]
    halve = [((256, 1, 1, 0), (512, 3, 2, 1))] + [((128, 1, 1, 0), (256, 3, 2, 1))] * (len(layout.cells) - 3)
    extras = vgg_atrous.extra_spec.get(layout.image_size, halve)

    def make(**_: Any) -> Any:
        return vgg_atrous.VGGAtrousExtractor(layers, filters, extras)

    return make


def initialize(net: Any, image_size: int, seed: int) -> None:
    """Set the initial value of every parameter, drawn from `seed` and the parameter's name."""
    with mx.autograd.train_mode():  # leaves out the decoders, which mixed precision cannot trace
        net.infer_shape(mx.nd.zeros((1, 3, image_size, image_size)))  # convolutions defer their input channels
    net.initialize(mx.init.Zero())
    for name, parameter in net._collect_params_with_prefix().items():
        value = _first_value(name, parameter, seed)
        if value is not None:
            parameter.set_data(mx.nd.array(value))


def _first_value(name: str, parameter: Any, seed: int) -> "np.ndarray | None":
    if name.endswith(("anchors", "scale")):
        return None  # constants, and VGG's scale, which has its own initial value
    if name.endswith(("gamma", "running_var", "moving_var")):
        return np.ones(parameter.shape, np.float32)
    if not name.endswith("weight"):
        return np.zeros(parameter.shape, np.float32)
    random = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    if "predictors." in name:
        return random.normal(0, HEAD_DEVIATION, parameter.shape).astype(np.float32)
    fan_out = parameter.shape[0] * int(np.prod(parameter.shape[2:]))
    if "_conv" in name and parameter.shape[1] == 1:
        fan_out = int(np.prod(parameter.shape[2:]))  # depthwise: one output per channel
    return random.normal(0, np.sqrt(2.0 / fan_out), parameter.shape).astype(np.float32)


def init_background_prior(net: Any, probability: float = BACKGROUND_PRIOR) -> None:
    """Initialize the class heads to predict background with this probability.

    The classes share the rest evenly. Without it the many negative anchors dominate the first steps of the focal loss
    (RetinaNet, section 4.1).
    """
    classes = net.num_classes
    for predictor in net.class_predictors:
        bias = predictor.predictor.bias
        values = np.zeros(bias.shape, np.float32).reshape(-1, classes + 1)
        values[:, 0] = np.log(probability * classes / (1 - probability))
        bias.set_data(mx.nd.array(values.ravel()))


def class_heads(net: Any) -> Dict[str, np.ndarray]:
    """Return copies of the parameters of the class heads, by name."""
    parameters = net._collect_params_with_prefix()
    return {name: p.data().asnumpy() for name, p in parameters.items() if name.startswith(CLASS_HEADS)}


def reset_class(
    net: Any, class_names: Sequence[str], rows: Sequence[int], initial: Mapping[str, np.ndarray], kept: Collection[str]
) -> None:
    """Replace the class heads of `net`, keeping the rows of background and of known classes.

    GluonCV's `reset_class(reuse_weights=...)` draws new rows at random; here they take given values. Build trainers and
    graphs afterwards: they would hold the parameters of the old heads.

    Args:
        net: the network.
        class_names: names of the new classes.
        rows: for each new class, the old class whose rows it keeps, -1 for none.
        initial: values of the new heads by parameter name, used where no old row is kept.
        kept: names of the parameters of which rows are kept; the others take `initial` as a whole.

    Raises:
        ConfigError: the names are empty or not distinct.
    """
    names = list(class_names)
    if isinstance(class_names, str) or not names or len(set(names)) != len(names):
        raise ConfigError(f"class names: found {class_names!r}, expected a list of different names")
    old_heads, old_width, width = class_heads(net), len(net.classes) + 1, len(names) + 1
    pairs = [(0, 0)] + [(new, old + 1) for new, old in enumerate(rows, start=1) if old >= 0]  # 0 is background
    net.reset_class(names)
    parameters = net._collect_params_with_prefix()
    for name, old_head in old_heads.items():
        values = initial[name].copy()
        for new, old in pairs if name in kept else ():
            values[new::width] = old_head[old::old_width]  # row k * width + c is anchor shape k, class c
        parameters[name].set_data(mx.nd.array(values))


def freeze(net: Any, base_network: str, pattern: str) -> List[str]:
    """Freeze the parameters that `pattern` matches.

    BatchNorm layers that are frozen as a whole keep their statistics too.

    Args:
        net: the network.
        base_network: its backbone.
        pattern: regular expression, searched in parameter names: those of the saved weights and, for vgg-16 and
            resnet-50, those of the built-in algorithm. An empty pattern freezes nothing.

    Returns:
        Names of the frozen parameters.

    Raises:
        ConfigError: the pattern matches no parameter, or all.
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
    freeze_batchnorm_stats(net, frozen)
    return frozen


def builtin_names(base_network: str, name: str) -> Tuple[str, ...]:
    """Return the names that the built-in algorithm has for our parameter `name`; empty if it has none.

    VGG: conv1_1 .. conv5_3, fc6, fc7. ResNet-50: conv0, stage<s>_unit<u>_conv<c>, bn likewise, sc for the shortcut: the
        names in the mxnet-ssd symbol files from which the built-in algorithm was made.
    """
    if base_network == VGG:
        return _vgg_names(name)
    if base_network == "resnet-50":
        return _resnet_names(name)
    return ()


def _vgg_names(name: str) -> Tuple[str, ...]:
    match = re.match(r"features\.stages\.(\d+)\.(\d+)\.(weight|bias)$", name)
    if not match:
        return ()
    stage, layer, kind = int(match.group(1)), int(match.group(2)) // 2, match.group(3)
    return (f"conv{stage + 1}_{layer + 1}_{kind}" if stage < 5 else f"fc{layer + 6}_{kind}",)


def _resnet_names(name: str) -> Tuple[str, ...]:
    match = re.match(r"features\.resnetv10_(?:stage(\d)_)?(conv|batchnorm)(\d+)_(.+)$", name)
    if not match:
        return ()
    stage, kind, index, rest = match.groups()
    rest = rest.replace("running", "moving")
    layer = "conv" if kind == "conv" else "bn"
    if stage is None:
        return (f"{layer}{index}_{rest}",)
    # the first unit of a stage has three convolutions and that of the shortcut, the others have three
    number = int(index)
    if number == 3:
        return (f"stage{stage}_unit1_{'sc' if layer == 'conv' else 'sc_bn'}_{rest}",)
    unit, part = divmod(number if number < 3 else number - 1, 3)
    return (f"stage{stage}_unit{unit + 1}_{layer}{part + 1}_{rest}",)


def freeze_batchnorm_stats(net: Any, frozen: Collection[str]) -> int:
    """Make frozen BatchNorm layers use their running statistics in training.

    Otherwise the layers above would train on features normalized by each batch, and see other features in inference.
    MXNet would never adapt the statistics to them, because it updates them in a backward pass, which frozen layers
    lack.

    Args:
        net: the network; its `features` are changed.
        frozen: names of frozen parameters; a layer is frozen if its scale and shift are.

    Returns:
        Number of these layers.
    """
    if not isinstance(net.features, mx.gluon.SymbolBlock):  # VGG, which has no BatchNorm
        return 0
    inputs, outputs = net.features._cached_graph
    graph = json.loads(outputs.tojson())
    own = {parameter.name for name, parameter in net._collect_params_with_prefix().items() if name in frozen}
    fixed = 0
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            _, gamma, beta = (graph["nodes"][entry[0]]["name"] for entry in node["inputs"][:3])
            if {gamma, beta} <= own:
                node.setdefault("attrs", {})["use_global_stats"] = "True"
                fixed += 1
    net.features._cached_graph = (inputs, mx.sym.load_json(json.dumps(graph)))
    return fixed
