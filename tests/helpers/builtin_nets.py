"""Builders of what the built-in Object Detection algorithm leaves: its training symbols, losses and all, after
zhreshold/mxnet-ssd (symbol/symbol_builder.py, common.py, resnet.py, vgg16_reduced.py), with random weights."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from ssd_train import mxnet_compat

mx = mxnet_compat.mxnet()

SIZES = [
    (0.1, 0.14142136),
    (0.2, 0.2720294),
    (0.37, 0.44698992),
    (0.54, 0.619193),
    (0.71, 0.79044294),
    (0.88, 0.9612492),
]
# of symbol_factory.py for VGG from 448 px
LARGE_SIZES = [
    (0.07, 0.1025),
    (0.15, 0.2121),
    (0.3, 0.3674),
    (0.45, 0.5196),
    (0.6, 0.6708),
    (0.75, 0.8216),
    (0.9, 0.9721),
]
FEW, MANY = (1, 2, 0.5), (1, 2, 0.5, 3, 1.0 / 3)
# of VGG: image side -> distances of priors in pixels
STEPS = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}


class Body(NamedTuple):
    """A base network: its tapped layers, and how further ones are made: filters, strides, pads."""

    taps: Sequence[Any]
    normalise_first: bool
    extra: Sequence[Tuple[int, int, int]]
    sizes: Sequence[Tuple[float, float]] = SIZES
    steps: Sequence[float] = ()


def training_symbol(base_network: str, num_classes: int, side: int = 300) -> Any:
    """The symbol of a training job's archive: it wants labels, and puts out losses beside boxes."""
    with mx.name.NameManager():
        scores, offsets, priors = _predictions(_BODIES[base_network](side), num_classes + 1)
        return _with_losses(scores, offsets, priors)


def _with_losses(scores: Any, offsets: Any, priors: Any) -> Any:
    contrib, label = mx.sym.contrib, mx.sym.Variable("label")
    settings = {"overlap_threshold": 0.5, "ignore_label": -1, "negative_mining_ratio": 3, "minimum_negative_samples": 0}
    targets = contrib.MultiBoxTarget(
        priors, label, scores, **settings, negative_mining_thresh=0.5, variances=(0.1, 0.1, 0.2, 0.2),
        name="multibox_target",
    )  # fmt: skip
    shown = mx.sym.SoftmaxOutput(
        scores, targets[2], ignore_label=-1, use_ignore=True, grad_scale=1.0, multi_output=True, normalization="valid",
        name="cls_prob",
    )  # fmt: skip
    away = mx.sym.smooth_l1(targets[1] * (offsets - targets[0]), scalar=1.0, name="loc_loss_")
    boxes = mx.sym.MakeLoss(away, grad_scale=1.0, normalization="valid", name="loc_loss")
    classes = mx.sym.MakeLoss(targets[2], grad_scale=0, name="cls_label")
    found = contrib.MultiBoxDetection(
        shown, offsets, priors, name="detection", nms_threshold=0.5, force_suppress=False, nms_topk=400,
        variances=(0.1, 0.1, 0.2, 0.2),
    )  # fmt: skip
    return mx.sym.Group([shown, boxes, classes, mx.sym.MakeLoss(found, grad_scale=0, name="det_out")])


def _predictions(body: Body, width: int) -> "Tuple[Any, Any, Any]":
    maps: List[Any] = list(body.taps)
    for index, (filters, stride, pad) in enumerate(body.extra, start=len(maps)):
        narrow = _relu_convolution(maps[-1], f"multi_feat_{index}_conv_1x1", max(128, filters // 2), (1, 1), (0, 0))
        wide = _relu_convolution(narrow, f"multi_feat_{index}_conv_3x3", filters, (3, 3), (pad, pad), (stride, stride))
        maps.append(wide)
    offsets, scores, priors = [], [], []
    all_ratios = [FEW, *[MANY] * (len(maps) - 3), FEW, FEW]
    all_steps = body.steps or [-1.0] * len(maps)
    for index, (data, sizes, ratios, step) in enumerate(zip(maps, body.sizes, all_ratios, all_steps)):
        name, cells = data.name, len(sizes) + len(ratios) - 1
        if index == 0 and body.normalise_first:
            data = mx.sym.L2Normalization(data, mode="channel", name=f"{name}_norm")
            scale = mx.sym.Variable(f"{name}_scale", shape=(1, 512, 1, 1), init=mx.init.Constant(20), wd_mult=0.1)
            data = mx.sym.broadcast_mul(scale, data)
        offsets.append(_flat(data, f"{name}_loc_pred_conv", 4 * cells))
        scores.append(_flat(data, f"{name}_cls_pred_conv", width * cells))
        text = "(" + ",".join(f"{ratio:.12g}" for ratio in ratios) + ")"
        prior = mx.sym.contrib.MultiBoxPrior(
            data, sizes=sizes, ratios=text, clip=False, steps=(step, step), name=f"{name}_anchors"
        )
        priors.append(mx.sym.Flatten(prior))
    all_scores = mx.sym.Reshape(mx.sym.Concat(*scores, dim=1), shape=(0, -1, width))
    return (
        mx.sym.transpose(all_scores, axes=(0, 2, 1), name="multibox_cls_pred"),
        mx.sym.Concat(*offsets, dim=1, name="multibox_loc_pred"),
        mx.sym.Reshape(mx.sym.Concat(*priors, dim=1), shape=(0, -1, 4), name="multibox_anchors"),
    )


def _flat(data: Any, name: str, filters: int) -> Any:
    made = mx.sym.Convolution(data, kernel=(3, 3), stride=(1, 1), pad=(1, 1), num_filter=filters, name=name)
    return mx.sym.Flatten(mx.sym.transpose(made, axes=(0, 2, 3, 1)))


def _relu_convolution(data: Any, name: str, filters: int, kernel: Any, pad: Any, stride: Any = (1, 1)) -> Any:
    made = mx.sym.Convolution(data, kernel=kernel, pad=pad, stride=stride, num_filter=filters, name=f"{name}_conv")
    return mx.sym.Activation(made, act_type="relu", name=f"{name}_relu")


def _resnet50(side: int) -> Body:
    data = mx.sym.identity(mx.sym.Variable("data"), name="id")
    data = _norm(data, "bn_data", fix_gamma=True)
    data = _plain(data, "conv0", 64, (7, 7), (2, 2))
    data = mx.sym.Activation(_norm(data, "bn0"), act_type="relu", name="relu0")
    data = mx.sym.Pooling(data, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    taps = []
    for stage, (units, filters) in enumerate(zip((3, 4, 6, 3), (256, 512, 1024, 2048)), start=1):
        for unit in range(1, units + 1):
            stride = (2, 2) if unit == 1 and stage > 1 else (1, 1)
            data = _residual(data, f"stage{stage}_unit{unit}", filters, stride, is_first=unit == 1)
        taps.append(data)
    return Body(taps[2:], False, [(512, 2, 1), (256, 2, 1), (256, 2, 1), (128, 2, 1)])


def _residual(data: Any, name: str, filters: int, stride: "Tuple[int, int]", is_first: bool) -> Any:
    def active(part: Any, index: int) -> Any:
        return mx.sym.Activation(_norm(part, f"{name}_bn{index}"), act_type="relu", name=f"{name}_relu{index}")

    first = active(data, 1)
    inner = active(_plain(first, f"{name}_conv1", filters // 4, (1, 1), (1, 1)), 2)
    inner = active(_plain(inner, f"{name}_conv2", filters // 4, (3, 3), stride), 3)
    inner = _plain(inner, f"{name}_conv3", filters, (1, 1), (1, 1))
    return inner + (_plain(first, f"{name}_sc", filters, (1, 1), stride) if is_first else data)


def _norm(data: Any, name: str, fix_gamma: bool = False) -> Any:
    return mx.sym.BatchNorm(data, fix_gamma=fix_gamma, eps=2e-5, momentum=0.9, name=name)


def _plain(data: Any, name: str, filters: int, kernel: "Tuple[int, int]", stride: "Tuple[int, int]") -> Any:
    pad = tuple(side // 2 for side in kernel)
    return mx.sym.Convolution(
        data, num_filter=filters, kernel=kernel, stride=stride, pad=pad, no_bias=True, workspace=256, name=name
    )


def _vgg16_reduced(side: int) -> Body:
    data, taps = mx.sym.Variable("data"), []
    for stage, (count, filters) in enumerate(zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512)), start=1):
        for index in range(1, count + 1):
            data = mx.sym.Convolution(data, kernel=(3, 3), pad=(1, 1), num_filter=filters, name=f"conv{stage}_{index}")
            data = mx.sym.Activation(data, act_type="relu", name=f"relu{stage}_{index}")
        taps.append(data)
        last = stage == 5
        size, stride, pad = ((3, 3), (1, 1), (1, 1)) if last else ((2, 2), (2, 2), (0, 0))
        convention = "full" if stage == 3 else "valid"
        data = mx.sym.Pooling(
            data,
            pool_type="max",
            kernel=size,
            stride=stride,
            pad=pad,
            pooling_convention=convention,
            name=f"pool{stage}",
        )
    data = mx.sym.Convolution(data, kernel=(3, 3), pad=(6, 6), dilate=(6, 6), num_filter=1024, name="fc6")
    data = mx.sym.Activation(data, act_type="relu", name="relu6")
    data = mx.sym.Convolution(data, kernel=(1, 1), num_filter=1024, name="fc7")
    data = mx.sym.Activation(data, act_type="relu", name="relu7")
    steps = [step / side for step in STEPS.get(side, ())]
    if side < 448:
        return Body([taps[3], data], True, [(512, 2, 1), (256, 2, 1), (256, 1, 0), (256, 1, 0)], SIZES, steps)
    return Body([taps[3], data], True, [(512, 2, 1), *[(256, 2, 1)] * 3, (256, 1, 1)], LARGE_SIZES, steps)


_BODIES = {"resnet-50": _resnet50, "vgg-16": _vgg16_reduced}


def random_arrays(symbol: Any, side: int, seed: int = 0) -> Dict[str, Any]:
    """Weights under which signals neither die nor explode, by name with arg: or aux: before it."""
    random = np.random.RandomState(seed)
    shapes, _, states = symbol.infer_shape(data=(1, 3, side, side), label=(1, 3, 5))
    named = [("arg:" + n, s) for n, s in zip(symbol.list_arguments(), shapes)]
    named += [("aux:" + n, s) for n, s in zip(symbol.list_auxiliary_states(), states)]
    return {n: mx.nd.array(_value(n, s, random)) for n, s in named if n not in ("arg:data", "arg:label")}


# layers whose inputs are large: raw pixels, and the sums of residual units
_LOUD = ("arg:conv1_1_", "arg:_plus", "arg:multi_feat_2_conv_1x1")


def _value(name: str, shape: "Tuple[int, ...]", random: np.random.RandomState) -> np.ndarray:
    if name.endswith(("moving_var", "gamma")):
        return random.uniform(0.7, 1.3, shape) * (60.0**2 if name == "aux:bn_data_moving_var" else 1)
    if name.endswith("_scale"):
        return np.full(shape, 20.0)
    if name.endswith("weight"):
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        return random.normal(0, deviation * (1 / 200 if name.startswith(_LOUD) else 1), shape)
    return random.normal(120 if name == "aux:bn_data_moving_mean" else 0, 0.1, shape)


def write_artifact(
    folder: Path, base_network: str, side: int, num_classes: int = 3, **settings: Any
) -> "Tuple[Any, Dict[str, Any]]":
    """The three files of a training job's archive in `folder`; the symbol and the arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    symbol = training_symbol(base_network, num_classes, side)
    arrays = random_arrays(symbol, side)
    symbol.save(str(folder / "model_algo_1-symbol.json"))
    mx.nd.save(str(folder / "model_algo_1-0000.params"), arrays)
    given = {"base_network": base_network, "image_shape": side, "num_classes": num_classes, "nms_threshold": 0.45}
    texts = {name: str(value) for name, value in {**given, "nms_topk": 400, "_kvstore": "device", **settings}.items()}
    (folder / "hyperparams.json").write_text(json.dumps(texts))
    return symbol, arrays


def archive_of(folder: Path, path: Path) -> Path:
    """All files of `folder` as the .tar.gz file `path`."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:  # random weights cannot be compressed
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    return path
