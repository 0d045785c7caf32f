"""The notebooks, from top to bottom: on this machine alone, and with what stands in for AWS on loopback."""

from __future__ import annotations

import base64
import json
import re
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, List

import boto3
import numpy as np
import pytest
from helpers.data import read_predictions
from helpers.services import REGION, ROLE, isolate
from moto.server import ThreadedMotoServer

from ssd_train.data.labels import load_labels
from ssd_train.launch.code_archive import CHECKOUT

pytestmark = pytest.mark.sagemaker

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))
ON_AWS = ("1_prepare", "2_train", "3_deploy")  # with LOCAL = False, too
SMALL = {"PICTURES": 12, "EPOCHS": 1, "THRESHOLD": 0.0, "DOUBT": 0.0}
PICTURE_LIMIT = 100_000  # bytes of an output kept in a notebook


def execute(name: str, folder: Path, **parameters: Any) -> Any:
    """Run notebooks/<name>.ipynb in `folder` with other values of its parameters; the notebook with its outputs."""
    # not imported above, nor skipped without: only `make test-integration` installs them, and must have
    import nbformat
    from jupyter_client import KernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", as_version=4)
    (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    given = {
        **{name: value for name, value in SMALL.items() if f"\n{name} = " in notebook.cells[place].source},
        **parameters,
    }
    lines = [f"{parameter} = {value!r}" for parameter, value in given.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    # the kernel of this very interpreter, whatever kernels are installed, over sockets that no other user can reach
    kernel = KernelManager(transport="ipc", ip=str(folder / f"kernel-{name}"))
    kernel.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client = NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def said(notebook: Any) -> str:
    """All that was printed."""
    return "".join(
        part.text for cell in notebook.cells for part in cell.get("outputs", []) if part.output_type == "stream"
    )


def pictures(notebook: Any) -> List[bytes]:
    """The pictures that were shown."""
    kinds = ("image/jpeg", "image/png")
    outputs = [part for cell in notebook.cells for part in cell.get("outputs", []) if "data" in part]
    return [base64.b64decode(part.data[kind]) for part in outputs for kind in kinds if kind in part.data]


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Dict[str, Any]:
    """All notebooks, one after another in one folder, without AWS; the folder besides."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, folder)
        patch.setenv("PYTHONPATH", str(CHECKOUT / "src"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody is asked
        done = {path.stem: execute(path.stem, folder) for path in NOTEBOOKS}
    return {**done, "folder": folder}


def test_notebook_prepare_writes_the_inputs_of_the_next(local):
    work = local["folder"] / "work"
    assert len(list((work / "gray").glob("*.jpg"))) == 12
    counts = [len((work / f"{name}.manifest").read_text().splitlines()) for name in ("train", "validation", "output")]
    assert counts[0] + counts[1] == counts[2] == 12
    assert (work / "input.manifest").read_text().startswith('{"source-ref":"s3://my-bucket/ssd/images/')
    assert "found 0 errors" in said(local["1_prepare"])
    assert len(pictures(local["1_prepare"])) == 2


def test_train_trains_and_shows_curves(local):
    assert len((local["folder"] / "work/model/history.jsonl").read_text().splitlines()) == 1
    assert (local["folder"] / "work/report/report.html").is_file()
    assert "mAP" in json.loads((local["folder"] / "work/scores.json").read_text())
    assert '"create_training_job"' in said(local["2_train"])
    assert '"create_hyper_parameter_tuning_job"' in said(local["2_train"])
    assert len(pictures(local["2_train"])) == 1


def test_notebook_deploy_gets_predictions(local):
    answers = read_predictions(local["folder"] / "work/answers.jsonl")
    assert len(answers) == len((local["folder"] / "work/validation.manifest").read_text().splitlines())
    for operation in ("create_model", "create_endpoint_config", "create_endpoint", "create_transform_job"):
        assert f'"{operation}"' in said(local["3_deploy"])
    assert len(pictures(local["3_deploy"])) == 2


def test_image_json_and_recordio_train_and_show_the_job(local):
    for name, channel in (("image_json", "train_annotation"), ("recordio", "train")):
        notebook = next(notebook for stem, notebook in local.items() if stem.endswith(name))
        assert len((local["folder"] / "work" / name / "model/history.jsonl").read_text().splitlines()) == 1
        assert f'"ChannelName": "{channel}"' in said(notebook) and '"create_training_job"' in said(notebook)
    assert json.loads((local["folder"] / "work/recordio/model/config.json").read_text())["class_names"][0] == "disc"


def test_incremental_goes_on_from_the_first_model(local):
    text = said(local["6_incremental"])
    assert "class rows kept: disc, square; new: triangle" in text and '"ChannelName": "model"' in text
    config = json.loads((local["folder"] / "work/incremental/model2/config.json").read_text())
    assert config["class_names"] == ["disc", "square", "triangle"]


def test_better_labels_goes_the_whole_circle(local):
    work = local["folder"] / "work/better_labels"
    labels = load_labels(local["folder"] / "work/better_labels/drawn/images", work / "better.manifest").labels
    assert len(labels) == 12 and labels.details["label_attribute"] == "labels" and labels.skipped == ()
    true = {r.name: r for r in load_labels(work / "drawn/images", work / "drawn/output.manifest").labels.records}
    doubtful = {json.loads(line)["source-ref"] for line in (work / "audit/doubtful.manifest").read_text().splitlines()}
    adjusted = [record for record in labels.records if record.name in {*list(true)[6:], *doubtful}]
    assert len(doubtful) > 0 and len(adjusted) >= 6
    assert all(np.array_equal(record.boxes, true[record.name].boxes) for record in adjusted)
    (line,) = [line for line in said(local["7_better_labels"]).splitlines() if line.startswith("mAP@0.5 of the first")]
    scores = [json.loads((work / f"{model}.json").read_text())["mAP@0.5"] for model in ("model1", "model3")]
    assert line.endswith(f": {scores[1] - scores[0]:+.3f}")


class Endpoint(BaseHTTPRequestHandler):
    """Answers every image with one box."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"prediction": [[0.0, 0.9, 0.25, 0.25, 0.75, 0.75]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """AWS's stand-in on loopback: moto, and for the endpoint's answers a server of its own."""
    isolate(monkeypatch, tmp_path)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    endpoint = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*moto.get_host_and_port()))
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{endpoint.server_port}")
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    where = {"LocationConstraint": REGION}
    boto3.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
    yield boto3.client("s3")
    endpoint.shutdown()
    endpoint.server_close()
    moto.stop()


def test_the_notebooks_on_aws(aws, local, tmp_path):
    """What people and SageMaker would do in between is put on S3: the labels drawn, and the model trained."""
    made, work = local["folder"] / "work", tmp_path / "work"
    labels = "ssd/labels/my-labelling-job/manifests/output/output.manifest"
    aws.upload_file(str(made / "output.manifest"), "my-bucket", labels)
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(made / "model", ".")
    aws.upload_file(str(tmp_path / "model.tar.gz"), "my-bucket", "ssd/jobs/ssd-first-try/output/model.tar.gz")

    execute("1_prepare", tmp_path, LOCAL=False, IMAGES=str(made / "images"))
    keys = {item["Key"] for item in aws.list_objects_v2(Bucket="my-bucket")["Contents"]}
    assert {"ssd/input.manifest", "ssd/train.manifest", "ssd/validation.manifest"} <= keys
    assert len([key for key in keys if key.startswith("ssd/images/")]) == 12

    train = execute("2_train", tmp_path, LOCAL=False, IMAGES=str(made / "images"), ROLE=ROLE)
    job = boto3.client("sagemaker").describe_training_job(TrainingJobName="ssd-first-try")
    assert job["HyperParameters"]["epochs"] == "1"
    assert "ssd-first-try: Completed" in said(train)
    assert (work / "model/history.jsonl").read_bytes() == (made / "model/history.jsonl").read_bytes()

    deploy = execute("3_deploy", tmp_path, LOCAL=False, IMAGES=str(made / "images"), ROLE=ROLE)
    assert list(read_predictions(work / "answer.jsonl").values()) == [[[0, 0.9, 0.25, 0.25, 0.75, 0.75]]]
    assert "deleted: ssd-first-try" in said(deploy)
    assert boto3.client("sagemaker").list_endpoints()["Endpoints"] == []
    assert len(boto3.client("sagemaker").list_transform_jobs()["TransformJobSummaries"]) == 1


def test_all_notebooks_are_tested_here():
    others = ["4_image_json", "5_recordio", "6_incremental", "7_better_labels"]
    assert [path.stem for path in NOTEBOOKS] == [*ON_AWS, *others]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebooks_keep_small_images_only(path):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        assert cell.get("execution_count") is None
        for part in cell.get("outputs", []):
            (kind,) = set(part["data"]) - {"text/plain"}
            assert kind in ("image/jpeg", "image/png") and len("".join(part["data"][kind])) < PICTURE_LIMIT


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_no_place_of_a_machine_is_in_them(path):
    notebook = json.loads(path.read_text())
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    found = re.findall(r"(?<![\w:/.*])/(?:home|root|tmp|work|opt|usr|mnt)\b", text)
    assert found == []
    assert ("LOCAL = True" in text) == (path.stem in ON_AWS)
