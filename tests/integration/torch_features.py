"""Networks of timm and torchvision with random weights, for test_torch_weights.py; run by the Python of .venv-torch.

    python torch_features.py FOLDER

writes for each network NAME.safetensors, its state dict, and NAME.npz: the picture, the features of some of its layers,
and names and shapes of the state dict.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import save_file

SIDE = 512
models = torchvision.models


def randomize(net: torch.nn.Module, picture: torch.Tensor, highest: float = float("inf")) -> None:
    """Draw all weights, and take statistics of normalizations near those of the picture, so that features stay alive.

    No normalization returns more than `highest`. Without that limit the statistics are changed a little.
    """
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, 0, 0.1)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    hooks = []
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.4, 0.8)
        torch.nn.init.normal_(norm.bias, 0, 0.1)
        norm.momentum = 1.0
        hooks.append(norm.register_forward_hook(lambda module, _, output: shrink(module, output, highest)))
    with torch.no_grad():
        net.train()(picture)
        for norm in norms:  # a channel of hardly any variance would multiply rounding errors
            norm.running_var.clamp_(min=0.2 * float(norm.running_var.mean()))
        for norm in norms if highest == float("inf") else ():
            norm.running_mean.add_(torch.randn_like(norm.running_mean) * 0.1 * norm.running_var.sqrt())
            norm.running_var.mul_(torch.rand_like(norm.running_var) * 0.5 + 0.75)
    for hook in hooks:
        hook.remove()
    net.eval()


def shrink(norm: torch.nn.Module, output: torch.Tensor, highest: float) -> torch.Tensor:
    """Scale a normalization so that its output is at most `highest`; return that output."""
    factor = min(1.0, highest / float(output.max()))
    norm.weight.mul_(factor)
    norm.bias.mul_(factor)
    return output * factor


def features_of(net: torch.nn.Module, layers: dict, picture: torch.Tensor) -> dict:
    """Return outputs of layers by name, and the highest output of an activation."""
    features, highest = {}, []
    for key, module in layers.items():
        module.register_forward_hook(lambda _, __, output, key=key: features.update({key: output.numpy()}))
    for module in net.modules():
        if isinstance(module, (torch.nn.ReLU6, torch.nn.ReLU)):
            module.register_forward_hook(lambda _, __, output: highest.append(float(output.max())))
    with torch.no_grad():
        net(picture)
    return {**features, "highest": max(highest)}


def picture_for(mean: tuple, std: tuple) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return a picture of values from 0 to 255, and the same normalized, both (1, 3, SIDE, SIDE)."""
    pixels = np.random.RandomState(3).uniform(0, 255, (16, 16, 3)).astype(np.float32)
    small = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    picture = torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False).round()
    return picture, (picture / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def record(folder: Path, name: str, net: torch.nn.Module, layers: dict, mean: tuple, std: tuple) -> None:
    """Write the state dict of a network and its features of a picture, in the normalization of its own library."""
    picture, normalized = picture_for(mean, std)
    features = features_of(net, layers, normalized)
    state = {key: value.clone().contiguous() for key, value in net.state_dict().items()}
    if name == "vgg16_features":
        state["classifier.0.weight"] = torch.full((8, 8), float("nan"))  # as in torchvision's file, but smaller
    save_file(state, str(folder / f"{name}.safetensors"), metadata={"format": "pt"})
    shapes = json.dumps({key: list(value.shape) for key, value in state.items()})
    np.savez(folder / f"{name}.npz", picture=picture.numpy(), shapes=shapes, **features)


def vgg16() -> torch.nn.Module:
    """Return torchvision's VGG-16 without its classifier of 120 million weights."""
    net = models.vgg16()
    net.classifier = torch.nn.Identity()
    net.avgpool = torch.nn.Identity()
    return net


def main(folder: Path) -> None:
    """Write the files of all networks."""
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv1_100")  # its activations clip at 6; here none gets so far
    mean, std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
    free = timm.create_model("mobilenetv1_100", act_layer="relu")
    randomize(free, picture_for(mean, std)[1], highest=4.0)
    net.eval().load_state_dict(free.state_dict())
    record(folder, "mobilenetv1_100", net, {"0": net.blocks[3], "1": net.blocks[4]}, mean, std)
    usual = models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    net = models.mobilenet_v2()
    randomize(net, picture_for(usual.mean, usual.std)[1])
    layers = {"0": net.features[14].conv[0], "1": net.features[18]}
    record(folder, "mobilenet_v2", net, layers, usual.mean, usual.std)
    for name, kind in (("vgg16", "IMAGENET1K_V1"), ("vgg16_features", "IMAGENET1K_FEATURES")):
        net, usual = vgg16(), models.VGG16_Weights[kind].transforms()
        randomize(net, picture_for(usual.mean, usual.std)[1])
        record(folder, name, net, {"0": net.features[22], "1": net.features[29]}, usual.mean, usual.std)
    net = models.resnet50()
    save_file(dict(net.state_dict()), str(folder / "resnet50.safetensors"))
    shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
    np.savez(folder / "resnet50.npz", shapes=json.dumps(shapes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
