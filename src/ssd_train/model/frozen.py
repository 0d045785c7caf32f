"""Freeze the statistics of BatchNorm layers."""

from __future__ import annotations

import json
from typing import Any, Collection

from ssd_train import framework

mx = framework.mxnet()


def fix_statistics(net: Any, frozen: Collection[str]) -> int:
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
    graph = json.loads(outputs.tojson(remove_amp_cast=False))
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
