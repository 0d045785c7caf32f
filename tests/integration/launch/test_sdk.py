"""The job of `launch` is the job of the SageMaker SDK: what both send is compared with what is written out here."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import pytest
from helpers.data import SMALL, shapes_set
from helpers.environments import make_toolkit, sdk_environment, sdk_python
from helpers.services import INPUTS, REGION, ROLE, make_job

from ssd_train.launch import requests
from ssd_train.launch.aws_client import metric_series
from ssd_train.launch.code_archive import CHECKOUT, write_served_model, write_source
from ssd_train.launch.job import Job, make_channels
from ssd_train.launch.requests import inference_image, training_image, training_request

pytestmark = pytest.mark.sagemaker

HERE = Path(__file__).resolve().parent
SETTINGS = {
    "epochs": 3,
    "learning_rate": 0.001,
    "lr_scheduler_step": "10,20",
    "grayscale": True,
    "base_network": "vgg16",
}
SPOT = make_job(
    spot=True, max_run=3600, max_wait=7200, checkpoints="s3://my-bucket/checkpoints", tags={"team": "logos"}
)
CASES: Sequence[Tuple[str, Job]] = (
    ("spot", SPOT),
    ("parameter server", make_job(name="ps", instance_count=2, distribution="parameter_server")),
    ("mpi", make_job(name="mpi", instance_count=2, distribution="mpi", processes_per_host=4)),
    (
        "isolated",
        make_job(
            name="isolated",
            network_isolation=True,
            encrypt_traffic=True,
            subnets=("subnet-1",),
            security_groups=("sg-1",),
            volume_kms_key="volume-key",
            output_kms_key="output-key",
            image="registry/own:1",
            volume_gb=100,
        ),
    ),
    (
        "pipe",
        make_job(
            name="pipe",
            channels=make_channels(
                {**INPUTS, "train": INPUTS["labels"], "model": "s3://b/m.tar.gz"}, True, ("source-ref", "bb")
            ),
        ),
    ),
    # run here, below
    ("small", make_job(name="small", instance_type="ml.c5.xlarge")),
)


def run_sdk(version: int, jobs: Sequence[Job], folder: Path) -> Any:
    """What `sdk<version>_run.py` finds, in the environment of that SDK."""
    given = [{"job": described(job), "settings": settings_of(job)} for job in jobs]
    program = [sdk_python(version), str(HERE / f"sdk{version}_run.py"), str(CHECKOUT / "entry_point"), str(folder)]
    done = subprocess.run(
        program, input=json.dumps(given), env=sdk_environment(folder), stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


def settings_of(job: Job) -> Dict[str, Any]:
    return SMALL if job.name == "small" else SETTINGS


def described(job: Job) -> Dict[str, Any]:
    return {**dataclasses.asdict(job), "channels": {name: dataclasses.asdict(c) for name, c in job.channels.items()}}


def contents(archive: Path) -> Dict[str, bytes]:
    """Files of an archive by name, without those that Python compiles."""
    with tarfile.open(archive) as opened:
        found = {member.name.lstrip("./"): opened.extractfile(member) for member in opened if member.isfile()}
        return {name: file.read() for name, file in found.items() if "__pycache__" not in name and file is not None}


@pytest.fixture(scope="module")
def by_sdk_2(tmp_path_factory) -> List[Dict[str, Any]]:
    """Of each of CASES, the last being deployed too."""
    return run_sdk(2, [job for _, job in CASES], tmp_path_factory.mktemp("sdk2"))


@pytest.mark.parametrize("index", range(len(CASES)), ids=[name for name, _ in CASES])
def test_launch_sends_what_sdk_2_sends(by_sdk_2, index):
    job = CASES[index][1]
    assert training_request(job, settings_of(job)) == by_sdk_2[index]["CreateTrainingJob"]


def test_the_program_is_packed_as_sdk_2_packs_it(by_sdk_2, tmp_path):
    write_source(tmp_path / "sourcedir.tar.gz")
    own = contents(tmp_path / "sourcedir.tar.gz")
    assert own == contents(by_sdk_2[0]["source"])
    assert {"train.py", "requirements.txt", "ssd_train/__init__.py"} <= set(own)


def test_the_very_archive_trains_in_the_toolkit(by_sdk_2, tmp_path):
    """What SDK 2 sent, its hyperparameters and its archive, run by SageMaker's own toolkit on AWS's versions."""
    toolkit = make_toolkit("3.8", by_sdk_2[0]["source"])
    parameters = {k: json.loads(v) for k, v in by_sdk_2[-1]["CreateTrainingJob"]["HyperParameters"].items()}
    shapes = shapes_set(tmp_path / "shapes", 12)
    labels = tmp_path / "labels"
    labels.mkdir()
    shapes.manifest.rename(labels / "output.manifest")
    base = toolkit.make_job(tmp_path / "ml", {"train": shapes.images, "labels": labels}, parameters)
    done = toolkit.run(base)
    assert done.code == 0, done.log[-3000:]
    assert metric_series(done.lines).keys() >= {"train:cross_entropy", "validation:mAP"}
    assert (base / "model" / "config.json").is_file()


def test_an_endpoint_is_made_as_sdk_2_makes_it(by_sdk_2):
    sdk = by_sdk_2[0]
    name = sdk["CreateModel"]["ModelName"]
    service = requests.Service(name, ROLE, REGION, "s3://my-bucket/ssd")
    assert without_tags(requests.model_request(service)) == without_tags(sdk["CreateModel"])
    config = requests.endpoint_config_request(service)
    assert config["ProductionVariants"] == sdk["CreateEndpointConfig"]["ProductionVariants"]
    assert requests.endpoint_request("logo", service)["EndpointName"] == sdk["CreateEndpoint"]["EndpointName"]


def test_a_model_is_packed_as_sdk_2_packs_it(by_sdk_2, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.params").write_bytes(b"abc")
    write_served_model(model, tmp_path / "served.tar.gz")
    theirs = contents(by_sdk_2[0]["served"])
    # the SDK packs the package a second time, as `dependencies`
    twice = {name for name in theirs if name.startswith("code/lib/ssd_train/")}
    expected = {name: data for name, data in theirs.items() if name not in twice}
    found = contents(tmp_path / "served.tar.gz")
    needs = "code/requirements.txt"
    assert found.pop(needs).startswith(expected.pop(needs))  # ours names beside it what the image that serves lacks
    assert found == expected


def test_the_containers_of_every_region(by_sdk_2):
    ours = {"training": training_image, "inference": inference_image}
    found = by_sdk_2[0]["images"]
    assert len({region for _, region, _, _ in found}) > 30
    for scope, region, instance_type, uri in found:
        assert ours[scope](region, instance_type) == uri


def test_what_sdk_3_sends(tmp_path):
    job = dataclasses.replace(SPOT, channels=make_channels({**INPUTS, "pretrained": "s3://b/p"}))
    sent, own = run_sdk(3, [job], tmp_path), training_request(job, SETTINGS)
    for name in ("RoleArn", "OutputDataConfig", "ResourceConfig", "StoppingCondition", "CheckpointConfig", "Tags"):
        assert sent[name] == own[name]
    assert sent["EnableManagedSpotTraining"] is True
    for name in ("TrainingImage", "MetricDefinitions"):
        assert sent["AlgorithmSpecification"][name] == own["AlgorithmSpecification"][name]
    assert sent["InputDataConfig"][:3] == own["InputDataConfig"]
    assert [channel["ChannelName"] for channel in sent["InputDataConfig"][3:]] == ["code", "sm_drivers"]
    assert sent["HyperParameters"]["epochs"] == "3"
    write_source(tmp_path / "own.tar.gz")
    assert contents(tmp_path / "sourcedir.tar.gz") == contents(tmp_path / "own.tar.gz")


def without_tags(request: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in request.items() if name != "Tags"}
