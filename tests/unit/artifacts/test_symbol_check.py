"""read_symbol accepts the operators of detectors, and refuses others before MXNet parses them."""

import json
import random

import pytest
from helpers.data import tries

from ssd_train import mxnet_compat
from ssd_train.artifacts import symbol_check
from ssd_train.artifacts.symbol_check import OPERATORS, read_symbol
from ssd_train.config import BASE_NETWORKS
from ssd_train.errors import WeightsError
from ssd_train.model.graphs import DetectGraph
from ssd_train.model.net import build_net

mx = mxnet_compat.mxnet()


def detector(base_network="mobilenet0.25"):
    net = build_net(base_network, 128, ["cat", "dog"], 1)
    return DetectGraph(net, 0.45, 400, 100)(mx.sym.var("data")).tojson()


@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_read_symbol_own_network_returns_it(tmp_path, base_network):
    text = detector(base_network)
    (tmp_path / "s.json").write_text(text)
    assert read_symbol(tmp_path / "s.json").tojson() == text


def with_node(**node):
    document = json.loads(detector())
    document["nodes"][5].update(node)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text, value",
    [
        (with_node(op="_cvimread", attrs={"filename": "/etc/passwd"}), "_cvimread"),
        (with_node(op="Custom", attrs={"op_type": "os.system"}), "Custom"),
        (with_node(op="_zeros", attrs={"shape": "(1000000000000,)"}), "_zeros"),
        (with_node(op="_while_loop"), "_while_loop"),
        (with_node(op=7), "7"),
        (with_node(subgraphs=[{"nodes": [{"op": "Custom"}]}]), "Custom"),
        (with_node(subgraphs=[{"nodes": 3}]), "TypeError"),
        ("[" * 100_000, "RecursionError"),
        ('{"nodes": [[]]}', "TypeError"),
        ("", "JSONDecodeError"),
        (json.dumps({"nodes": [{"op": "null"}] * 20_001}), "20001 nodes.* 20000"),
    ],
    ids=[
        *["reads-a-file", "own-code", "huge-array", "loop", "a-number", "in-a-subgraph", "no-graph", "deep", "no-node"],
        *["empty", "many"],
    ],
)
def test_read_symbol_forbidden_or_damaged_raises(tmp_path, text, value):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(WeightsError, match=f"^{tmp_path / 's.json'}: .*{value}"):
        read_symbol(tmp_path / "s.json")


@pytest.mark.parametrize("key", ["nodes", "op"])
def test_read_symbol_repeated_key_is_checked_as_mxnet_reads_it(tmp_path, key):
    """Another operator under the same key: what the check has not seen, MXNet does not run."""
    text = mx.sym.relu(mx.sym.var("a")).tojson()
    document = json.loads(text)
    if key == "nodes":
        other = json.dumps(document["nodes"]).replace('"relu"', '"_cvimread"')
        repeated = json.dumps(document).replace('"nodes":', f'"nodes": {other}, "nodes":', 1)
    else:
        repeated = json.dumps(document).replace('"op": "relu"', '"op": "_cvimread", "op": "relu"')
    assert "_cvimread" in repeated
    (tmp_path / "s.json").write_text(repeated)
    read = json.loads(read_symbol(tmp_path / "s.json").tojson())
    assert [node["op"] for node in read["nodes"]] == ["null", "relu"]


def test_read_symbol_large_file_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(symbol_check, "MAX_BYTES", 10)
    (tmp_path / "s.json").write_text("{" + " " * 10)
    with pytest.raises(WeightsError, match=f"^{tmp_path / 's.json'}: .* 11 bytes.* 10"):
        read_symbol(tmp_path / "s.json")


def test_operators_exclude_those_that_read_files_or_run_code():
    assert {
        name for name in OPERATORS if name.startswith(("_cv", "_Native", "_NDArray", "Custom", "_contrib_tvm"))
    } == set()


def test_read_symbol_mutated_returns_or_raises(tmp_path):
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
