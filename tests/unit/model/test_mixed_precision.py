"""Tests of mixed precision: frozen layers keep their casts, inference graphs have none."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.models import drawn_inputs, talking_model

from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.symbol import make_symbol

# in a process of its own: MXNet cannot switch mixed precision off again
PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ssd_train import mxnet_compat
mxnet_compat.enable_mixed_precision(on_gpu=False)
import test_mixed_precision as tests
print(json.dumps(tests.seen(Path(sys.argv[2]))))
"""


def casts(net):
    return net.features._cached_graph[1].tojson(remove_amp_cast=False).count('"op": "amp_cast"')


def seen(folder):
    """Return results of the model in `folder` that may or must not depend on mixed precision."""
    from ssd_train.model.net import freeze

    model = SavedModel.load(folder)
    net = model.build()
    before = casts(net)
    freeze(net, model.config.base_network, "^features.mobilenet")
    text = make_symbol(model)[0].tojson(remove_amp_cast=False)
    rows = GluonEngine(folder, "cpu:1").run(drawn_inputs(4))
    return {
        "casts": [before, casts(net)],
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "symbol": hashlib.sha256(text.encode()).hexdigest(),
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return `seen` of this process and of one with mixed precision."""
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    here = Path(__file__).parent
    command = [sys.executable, "-c", PROGRAM, str(here), str(folder)]
    paths = [str(here), str(here.parents[1])]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, env=python_path(paths)
    )
    assert done.returncode == 0, done.stderr
    return seen(folder), json.loads(done.stdout.splitlines()[-1])


def python_path(paths):
    import os

    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([given] if given else [])])}


def test_freeze_with_mixed_precision_keeps_the_casts(both):
    plain, mixed = both
    before, after = mixed["casts"]
    assert plain["casts"] == [0, 0] and before == after > 50


@pytest.mark.parametrize("what", ["rows", "symbol"])
def test_compile_answers_with_mixed_precision_gives_the_same(both, what):
    plain, mixed = both
    assert plain[what] == mixed[what]
