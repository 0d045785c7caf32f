"""Write a trained model as MXNet's deployment files (see exported.py)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, Tuple

from ssd_train import framework, storage
from ssd_train.deploy.description import Description
from ssd_train.deploy.exported import EXPORT, FILES, HYPERPARAMETERS, INPUT, SHAPES, SYMBOL, WEIGHTS
from ssd_train.model.graphs import DetectGraph
from ssd_train.training.saved_model import SavedModel

mx = framework.mxnet()

Arrays = Dict[str, Any]  # by name
SymbolParts = Tuple[Any, Arrays, Arrays]  # symbol, weights, auxiliary states


def make_symbol(model: SavedModel) -> SymbolParts:
    """Build the detector's symbol, weights and auxiliary states by name.

    The symbol has one input and one output. The same model always gives the same names.
    """
    config = model.config
    with mx.name.NameManager():  # names are numbered from 0
        net = model.build()
        graph = DetectGraph(net, config.nms_threshold, config.candidates, model.post_nms)
        text = _for_inference(graph(mx.sym.var(INPUT)).tojson(remove_amp_cast=True))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    symbol = mx.sym.load_json(text.replace('"name": "ssd0_', f'"name": "ssd{digest}_'))
    arrays = {re.sub("^ssd0_", f"ssd{digest}_", name): p.data() for name, p in graph.collect_params().items()}
    weights, states = ({name: arrays[name] for name in names} for names in _variables(symbol))
    return symbol, weights, states


def _variables(symbol: Any) -> "Tuple[list[str], list[str]]":
    return [name for name in symbol.list_arguments() if name != INPUT], symbol.list_auxiliary_states()


def _for_inference(text: str) -> str:
    """Change a symbol's input to float32 (B, 3, S, S), drop training attributes.

    These are initial values (with memory addresses of Python objects) and multipliers of the learning rate.
    """
    document = json.loads(text)
    for node in document["nodes"]:
        if node["op"] == "_image_to_tensor":
            node.update(op="_div_scalar", attrs={"scalar": "255"})
        attributes = node.get("attrs", {})
        # keep shapes: those of the anchors cannot be inferred from the input's
        node["attrs"] = {k: v for k, v in attributes.items() if not k.startswith("__") or k == "__shape__"}
    return json.dumps(document, indent=1)


def write_files(folder: Path, description: Description, parts: SymbolParts) -> None:
    """Write FILES; `parts` are symbol, weights and auxiliary states."""
    symbol, weights, states = parts
    symbol.save(str(folder / SYMBOL))
    named = {**{f"arg:{k}": v for k, v in weights.items()}, **{f"aux:{k}": v for k, v in states.items()}}
    needed = sum(4 * array.size for array in named.values())
    storage.guarded_write(folder / WEIGHTS, lambda: mx.nd.save(str(folder / WEIGHTS), named), needed)
    shapes = [{"name": INPUT, "shape": [1, 3, description.side, description.side]}]
    storage.write_json_atomic(folder / SHAPES, shapes)
    settings = {name: str(value) for name, value in description.settings.items()}
    storage.write_json_atomic(folder / HYPERPARAMETERS, settings)
    checksums = {name: storage.sha256_of(folder / name) for name in FILES if name != EXPORT}
    storage.write_json_atomic(folder / EXPORT, storage.with_sum({**description.to_json(), "files": checksums}))
