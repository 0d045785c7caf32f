"""What docs/sagemaker.md and docs/launch.md show of SDK 2, executed as written: fit, a job that really trains, deploy,
transformer, MXNetModel. Each archive that the SDK repacks is served by AWS's own stack and asked for an answer."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any, Dict, NamedTuple

import boto3
import numpy as np
import pytest
from helpers.data import shapes_set
from helpers.environments import ROOT, make_toolkit, sdk_environment, sdk_python, stack, stack_venv
from helpers.services import REGION, ROLE, ask, isolate
from moto import mock_aws

from ssd_train.cli.main import main
from ssd_train.data import pillow_pixels
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.handlers import handle_request

pytestmark = pytest.mark.sagemaker

SECONDS = 300
SERVED = "/opt/ml/model/code"  # where the container finds the program
# name of sdk2_walkthrough.py -> the program that the endpoint is told to run
PROGRAMS = {
    "deploy": "train.py",
    "fit_by_sdk_2": "train.py",
    "transformer": "train.py",
    "of-the-archive": "inference.py",
    "source-dir-and-dependencies": "train.py",
    "dependencies": "train.py",
    "entry-point": "train.py",
}


class Walkthrough(NamedTuple):
    """What the page's code and the job left."""

    model: Path
    picture: Path
    served: Dict[str, Dict[str, Any]]


@pytest.fixture(scope="module")
def walkthrough(tmp_path_factory) -> Walkthrough:
    folder = tmp_path_factory.mktemp("walkthrough")
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sdk_python(2), str(Path(__file__).with_name("sdk2_walkthrough.py")), str(folder)],
            env=sdk_environment(folder),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
    try:
        deadline = time.monotonic() + SECONDS
        while not (folder / "fit.json").exists():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.1)
        fit = json.loads((folder / "fit.json").read_text())
        shapes = shapes_set(folder / "shapes", 12)
        model = trained_by(fit["source"], shapes, folder / "ml")
        process.communicate(f"{model}\n", timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, (folder / "log").read_text()[-3000:]
    picture = sorted(shapes.images.iterdir())[0]
    return Walkthrough(model, picture, json.loads((folder / "served.json").read_text()))


def trained_by(source: str, shapes: Any, base: Path) -> Path:
    """Return the model.tar.gz of a job that runs the program `source`, packed as SageMaker packs it."""
    toolkit = make_toolkit("3.8", Path(source))
    labels = base.parent / "labels"
    labels.mkdir()
    shutil.copy(shapes.manifest, labels)
    finished = toolkit.run(toolkit.make_job(base, {"train": shapes.images, "labels": labels}))
    assert finished.code == 0, finished.log[-3000:]
    with tarfile.open(base / "model.tar.gz", "w:gz") as archive:
        for path in sorted((base / "model").iterdir()):
            archive.add(path, path.name)
    return base / "model.tar.gz"


def assert_served(archive: Path, program: str, walkthrough: Walkthrough, base: Path) -> None:
    """AWS's stack on the unpacked archive answers as the model does."""
    base.mkdir()
    with tarfile.open(archive) as opened:
        opened.extractall(base / "model")
    body = walkthrough.picture.read_bytes()
    running = stack.RunningStack(stack_venv(), base, 1, 0, OMP_NUM_THREADS="1", SAGEMAKER_PROGRAM=program)
    with running:
        address = f"127.0.0.1:{running.port}"
        found = ask(address, "/invocations", body, "image/png", "application/json")
    assert found.status == 200, found.body
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd_train.data.pixels.operations", pillow_pixels)  # AWS's image has no OpenCV
        expected = json.loads(handle_request(Detector.load(walkthrough.model, "cpu"), body, "image/png")[0])[
            "prediction"
        ]
    assert len(expected) > 5
    np.testing.assert_allclose(found.json["prediction"], expected, atol=1e-3)


@pytest.mark.slice
def test_archive_of_a_job_serves_as_it_is(walkthrough, tmp_path):
    assert_served(walkthrough.model, "inference.py", walkthrough, tmp_path / "base")


@pytest.mark.slice
def test_sdk_names_program_and_image(walkthrough):
    assert {name: found["variables"]["SAGEMAKER_PROGRAM"] for name, found in walkthrough.served.items()} == PROGRAMS
    for found in walkthrough.served.values():
        assert found["variables"]["SAGEMAKER_SUBMIT_DIRECTORY"] == SERVED
        assert "mxnet-inference:1.9.0-cpu-py38" in found["image"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("deploy", marks=pytest.mark.slice),
        pytest.param("of-the-archive", marks=pytest.mark.slice),
        "source-dir-and-dependencies",
        "dependencies",
        "entry-point",
    ],
)
def test_archive_repacked_by_the_sdk_is_served(walkthrough, tmp_path, name):
    archive = Path(walkthrough.served[name]["archive"])
    assert_served(archive, PROGRAMS[name], walkthrough, tmp_path / "base")


@pytest.mark.slice
@pytest.mark.parametrize("name", ["transformer", "fit_by_sdk_2"])
def test_archive_repacked_by_the_sdk_is_that_of_deploy(walkthrough, name):
    assert contents(walkthrough.served[name]["archive"]) == contents(walkthrough.served["deploy"]["archive"])


def test_archive_sent_by_launch_is_served(walkthrough, tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)
    flags = ["--role", ROLE, "--output", "s3://my-bucket/ssd", "--model", str(walkthrough.model)]
    with mock_aws():
        where = {"LocationConstraint": REGION}
        boto3.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
        assert main(["launch", "--deploy", "logo", *flags]) == 0
        (model,) = boto3.client("sagemaker").list_models()["Models"]
        container = boto3.client("sagemaker").describe_model(ModelName=model["ModelName"])["PrimaryContainer"]
        _, _, place = container["ModelDataUrl"].partition("s3://my-bucket/")
        boto3.client("s3").download_file("my-bucket", place, str(tmp_path / "served.tar.gz"))
    program = container["Environment"]["SAGEMAKER_PROGRAM"]
    assert_served(tmp_path / "served.tar.gz", program, walkthrough, tmp_path / "base")


@pytest.mark.slice
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_archive_repacked_by_the_sdk_is_a_model(walkthrough, name):
    image = np.zeros((60, 80, 3), np.uint8)
    found = Detector.load(walkthrough.served[name]["archive"], "cpu")(image)
    expected = Detector.load(walkthrough.model, "cpu")(image)
    np.testing.assert_allclose(found.to_rows(), expected.to_rows(), atol=1e-6)


def contents(archive: str) -> Dict[str, str]:
    """Return the SHA-256 of each file; compiled Python, which the SDK copies where it happens to lie, is left out."""
    with tarfile.open(archive) as opened:
        members = [member for member in opened if member.isfile() and not member.name.endswith(".pyc")]
        return {member.name: hashlib.sha256(opened.extractfile(member).read()).hexdigest() for member in members}
