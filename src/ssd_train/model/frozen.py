"""BatchNorm layers that are frozen as a whole: their statistics too."""

from __future__ import annotations

import json
from typing import Any, Collection

from ssd_train import framework

mx = framework.mxnet()


def fix_statistics(net: Any, frozen: Collection[str]) -> int:
    """Let BatchNorm layers of `net.features` whose scale and shift are among the `frozen` parameters (names of the
    saved weights) use their statistics in training as they do afterwards; returns how many layers these are.

    Otherwise the layers above would learn from other features than they see in the end: those of a batch's own mean and
    variance. MXNet would never make up for it, because it moves the statistics in a backward pass, which frozen layers
    do not have.
    """
    if not isinstance(net.features, mx.gluon.SymbolBlock):  # VGG's, which has no BatchNorm
        return 0
    inputs, outputs = net.features._cached_graph
    graph = json.loads(outputs.tojson(remove_amp_cast=False))  # mixed precision stays what it is
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
