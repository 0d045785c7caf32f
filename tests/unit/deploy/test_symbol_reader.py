"""Symbols of anybody: what a detector is made of is read, anything else refused before MXNet sees it."""

import json
import random

import pytest
from mutations import tries

from ssd_train import framework
from ssd_train.config import BASE_NETWORKS
from ssd_train.deploy import symbol_reader
from ssd_train.deploy.symbol_reader import OPERATORS, read_symbol
from ssd_train.errors import WeightsError
from ssd_train.model.graphs import DetectGraph
from ssd_train.model.net import build_net

mx = framework.mxnet()


def detector(base_network="mobilenet0.25"):
    net = build_net(base_network, 128, ["cat", "dog"], 1)
    return DetectGraph(net, 0.45, 400, 100)(mx.sym.var("data")).tojson()


@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_our_networks_are_read(tmp_path, base_network):
    text = detector(base_network)
    (tmp_path / "s.json").write_text(text)
    assert read_symbol(tmp_path / "s.json").tojson() == text


def with_node(**node):
    document = json.loads(detector())
    document["nodes"][5].update(node)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text, message",
    [
        (with_node(op="_cvimread", attrs={"filename": "/etc/passwd"}), "found the operator _cvimread, expected those"),
        (with_node(op="Custom", attrs={"op_type": "os.system"}), "found the operator Custom"),
        (with_node(op="_zeros", attrs={"shape": "(1000000000000,)"}), "found the operator _zeros"),
        (with_node(op="_while_loop"), "found the operator _while_loop"),
        (with_node(op=7), "found the operator 7"),
        (with_node(subgraphs=[{"nodes": [{"op": "Custom"}]}]), "found the operator Custom"),
        (with_node(subgraphs=[{"nodes": 3}]), "cannot be read as a symbol"),
        ("[" * 100_000, "cannot be read as a symbol"),
        ('{"nodes": [[]]}', "cannot be read as a symbol"),
        ("", "cannot be read as a symbol"),
        (json.dumps({"nodes": [{"op": "null"}] * 20_001}), "found 20001 nodes, expected a network of at most 20000"),
    ],
    ids=[
        *["reads-a-file", "own-code", "huge-array", "loop", "a-number", "in-a-subgraph", "no-graph", "deep", "no-node"],
        *["empty", "many"],
    ],
)
def test_what_no_detector_has_is_refused(tmp_path, text, message):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        read_symbol(tmp_path / "s.json")


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(symbol_reader, "MAX_BYTES", 10)
    (tmp_path / "s.json").write_text("{" + " " * 10)
    with pytest.raises(WeightsError, match="found 11 bytes, expected a symbol of at most 10"):
        read_symbol(tmp_path / "s.json")


def test_no_operator_of_the_list_reads_or_runs_anything():
    assert {
        name for name in OPERATORS if name.startswith(("_cv", "_Native", "_NDArray", "Custom", "_contrib_tvm"))
    } == set()


def test_mutated_symbols_give_a_symbol_or_an_error(tmp_path):
    data, rng, outcomes = detector().encode(), random.Random(3), set()
    for _ in range(tries(60)):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(changed))
            changed[start : start + rng.choice([0, 1, 5])] = rng.choice([b"", b"0", b"-1", b"99999999", b'"', b"\xff"])
        (tmp_path / "s.json").write_bytes(changed)
        try:
            read_symbol(tmp_path / "s.json")
            outcomes.add("symbol")
        except (WeightsError, mx.MXNetError):
            outcomes.add("error")
    assert outcomes == {"symbol", "error"}
