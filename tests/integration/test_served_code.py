"""The archive of a trained model serves as it is: by the code/ in it, without this package installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.data import SMALL, flags_of, shapes_set
from helpers.models import drawn_inputs

from ssd_train.artifacts.inference_code import write_inference_code
from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_png
from ssd_train.deploy.detector import Detector
from ssd_train.storage.archive import unpack_archive

pytestmark = pytest.mark.integration

# as sagemaker-inference does: the folder of the program on the path, the module imported by its name
SERVE = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1] + "/code")
program = importlib.import_module("inference")
model = program.model_fn(sys.argv[1])
body, kind = program.transform_fn(model, open(sys.argv[2], "rb").read(), "image/png", "application/json")
import ssd_train
print(json.dumps({"from": ssd_train.__file__, "kind": kind, "body": json.loads(body)}))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The model.tar.gz of a short run, as SageMaker packs it."""
    folder = tmp_path_factory.mktemp("run")
    drawn = shapes_set(folder / "data", 12)
    places = {"model_dir": folder / "model", "output_dir": folder / "output"}
    settings = {**SMALL, "epochs": 1, "train": drawn.images, "labels": drawn.manifest, **places}
    assert main(["train", *flags_of(settings)]) == 0
    with tarfile.open(folder / "model.tar.gz", "w:gz") as packed:
        for path in sorted((folder / "model").iterdir()):
            packed.add(path, path.name)
    return folder / "model.tar.gz"


def test_inference_code_serves_without_the_package(archive, tmp_path):
    unpack_archive(archive, tmp_path / "model")
    picture = drawn_inputs(1)[0]
    (tmp_path / "a.png").write_bytes(encode_png(picture))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", SERVE, str(tmp_path / "model"), str(tmp_path / "a.png")]
    run = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, universal_newlines=True)
    assert run.returncode == 0
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["from"].startswith(str(tmp_path / "model" / "code")) and found["kind"] == "application/json"
    expected = Detector.load(archive)(picture).to_rows()
    np.testing.assert_allclose(found["body"]["prediction"], expected, atol=1e-5)


def test_inference_code_is_complete_and_kept(tmp_path):
    write_inference_code(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"code/inference.py", "code/requirements.txt", "code/ssd_train/deploy/handlers.py"} <= names
    assert not [name for name in names if name.endswith(".pyc") or not name.startswith("code/")]
    before = (tmp_path / "code").stat().st_ino
    write_inference_code(tmp_path)
    assert (tmp_path / "code").stat().st_ino == before, "what is there stays"
    (tmp_path / "code" / "ssd_train" / "errors.py").write_text("an old one")
    shutil.rmtree(tmp_path / "code" / "ssd_train" / "deploy")
    write_inference_code(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == names
    source = Path(main.__code__.co_filename).parents[1]
    assert (tmp_path / "code/ssd_train/errors.py").read_bytes() == (source / "errors.py").read_bytes()
