"""launch: requests that reach AWS (moto), and errors in one line."""

from __future__ import annotations

import io
import json
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import numpy as np
import pytest
from helpers.data import picture, read_predictions
from helpers.services import REGION, ROLE, entry_point, faults_of, isolate, make_job
from moto import mock_aws

from ssd_train.cli.main import main
from ssd_train.data.image_io import decode, encode_jpeg
from ssd_train.errors import SsdTrainError
from ssd_train.launch.aws_client import model_address
from ssd_train.launch.requests import training_request

AWS_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"  # the pattern of TrainingJobName and its like in the API's reference

OPERATIONS = {
    "create_training_job": "CreateTrainingJob",
    "create_hyper_parameter_tuning_job": "CreateHyperParameterTuningJob",
    "create_model": "CreateModel",
    "create_endpoint_config": "CreateEndpointConfig",
    "create_endpoint": "CreateEndpoint",
    "update_endpoint": "UpdateEndpoint",
    "create_transform_job": "CreateTransformJob",
}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    entry_point(tmp_path / "program")


@pytest.fixture
def aws():
    """An account with a role and a bucket."""
    with mock_aws():
        boto3.client("iam").create_role(RoleName="SageMakerRole", AssumeRolePolicyDocument="{}")
        where = {"LocationConstraint": REGION}
        boto3.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
        yield boto3.client("sagemaker")


def launch(*flags, output="s3://my-bucket/ssd", role=ROLE):
    return main(["launch", *flags, "--role", role, "--output", output, "--source-dir", "program"])


def train(*flags, **places):
    inputs = ("--train", "s3://my-bucket/train", "--labels", "s3://my-bucket/labels/output.manifest")
    return launch(*inputs, "--job-name", "ssd-logo-1", *flags, **places)


def stored(uri):
    bucket, _, key = uri[len("s3://") :].partition("/")
    return boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()


def type_of(uri):
    bucket, _, key = uri[len("s3://") :].partition("/")
    return boto3.client("s3").head_object(Bucket=bucket, Key=key)["ContentType"]


def names_in(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return set(opened.getnames())


def model_archive():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        info = tarfile.TarInfo("weights.params")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return data.getvalue()


def finished_job(aws):
    """A training job that left a model."""
    assert train() == 0
    place = aws.describe_training_job(TrainingJobName="ssd-logo-1")["ModelArtifacts"]["S3ModelArtifacts"]
    boto3.client("s3").put_object(Bucket="my-bucket", Key=place[len("s3://my-bucket/") :], Body=model_archive())


def test_launch_train_sends_the_job_and_its_source(aws, capsys):
    assert train("--epochs", "3", "--spot", "--tag", "team=logos", "--instance-type", "ml.g4dn.xlarge") == 0
    job = aws.describe_training_job(TrainingJobName="ssd-logo-1")
    expected = training_request(
        make_job(spot=True, tags={"team": "logos"}, instance_type="ml.g4dn.xlarge"), {"epochs": 3}
    )
    for name in ("HyperParameters", "ResourceConfig", "InputDataConfig", "StoppingCondition", "CheckpointConfig"):
        assert job[name] == expected[name]
    address = json.loads(job["HyperParameters"]["sagemaker_submit_directory"])
    source = stored(address)
    assert type_of(address) == "application/gzip"
    assert {"train.py", "ssd_train/cli/main.py"} <= names_in(source)
    assert "started: ssd-logo-1" in capsys.readouterr().out


def test_launch_dry_run_prints_the_request_without_credentials(capsys, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    assert train("--dry-run", "--region", REGION, "--learning-rate", "0.01") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"create_training_job": training_request(make_job(), {"learning_rate": 0.01})}


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--train", "s3://b/t", "--pipe"], id="pipe-recordio"),
        pytest.param(
            ["--train", "s3://b/o.manifest", "--pipe", "--attribute-names", "source-ref,bb"], id="pipe-manifest"
        ),
        pytest.param(["--train", "s3://b/t", "--channel", "train_annotation=s3://b/a"], id="built-in-channels"),
        pytest.param(
            ["--train", "s3://b/t", "--distribution", "parameter_server", "--instance-count", "2"], id="hosts"
        ),
        pytest.param(["--train", "s3://b/t", "--distribution", "mpi", "--processes-per-host", "4"], id="mpi"),
        pytest.param(
            ["--train", "s3://b/t", "--network-isolation", "--encrypt-traffic", "--model", "s3://b/m.tar.gz"],
            id="isolated",
        ),
        pytest.param(["--train", "s3://b/t", "--subnets", "a,b", "--security-groups", "c"], id="own-network"),
        pytest.param(["--train", "s3://b/t", "--tune", "learning_rate", "--tune", "optimizer=sgd:adam"], id="tune"),
        pytest.param(["--deploy", "logo", "--model", "s3://b/model.tar.gz"], id="deploy"),
        pytest.param(["--deploy", "logo", "--model", "s3://b/model.tar.gz", "--update"], id="update"),
        pytest.param(["--transform", "logo", "--model", "s3://b/m.tar.gz", "--pictures", "s3://b/p"], id="transform"),
    ],
)
def test_launch_dry_run_requests_are_valid_for_the_aws_api(capsys, flags):
    assert launch(*flags, "--tag", "team=logos", "--dry-run") == 0
    for operation, request in json.loads(capsys.readouterr().out).items():
        assert faults_of(OPERATIONS[operation], request) == ""
        assert operation == "update_endpoint" or {"Key": "team", "Value": "logos"} in request["Tags"]


def test_launch_tune_creates_a_tuning_job(aws):
    assert train("--tune", "learning_rate=1e-4:1e-2", "--max-jobs", "4", "--epochs", "5") == 0
    tuning = aws.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="ssd-logo-1")
    ranges = tuning["HyperParameterTuningJobConfig"]["ParameterRanges"]["ContinuousParameterRanges"]
    assert [item["Name"] for item in ranges] == ["learning_rate"]
    assert tuning["TrainingJobDefinition"]["StaticHyperParameters"]["epochs"] == "5"


@pytest.mark.parametrize("model", ["ssd-logo-1", "s3://my-bucket/ssd/ssd-logo-1/output/model.tar.gz", "model.tar.gz"])
def test_launch_endpoint_is_created_and_deleted(aws, capsys, tmp_path, model):
    finished_job(aws)
    (tmp_path / "model.tar.gz").write_bytes(model_archive())
    assert launch("--deploy", "logo", "--model", model, "--instance-type", "ml.m5.large") == 0
    config = aws.describe_endpoint(EndpointName="logo")["EndpointConfigName"]
    variant = aws.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.m5.large", 1)
    container = aws.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]
    served = names_in(stored(container["ModelDataUrl"]))
    assert type_of(container["ModelDataUrl"]) == "application/gzip"
    assert {"weights.params", "code/train.py", "code/ssd_train/deploy/detector.py"} <= served

    assert main(["launch", "--delete", "logo"]) == 0
    assert aws.list_endpoints()["Endpoints"] == []
    assert aws.list_models()["Models"] == []
    assert "deleted: logo" in capsys.readouterr().out


@pytest.mark.parametrize("stated, shown", [(0.4126, ["0.413"]), (None, [])])
def test_launch_deploy_shows_the_threshold_of_the_model(aws, capsys, tmp_path, stated, shown):
    """Answers of an endpoint do not have it."""
    write_model(tmp_path / "model", stated)
    assert launch("--deploy", "logo", "--model", str(tmp_path / "model")) == 0
    assert re.findall(r"^threshold of the model: (\S+)", capsys.readouterr().out, re.MULTILINE) == shown


def test_launch_deploy_model_with_a_damaged_threshold_is_refused(aws, capsys, tmp_path):
    write_model(tmp_path / "model", "high")
    assert launch("--deploy", "logo", "--model", str(tmp_path / "model")) == 2
    assert f"{tmp_path / 'model' / 'config.json'}: " in capsys.readouterr().err
    assert aws.list_endpoints()["Endpoints"] == []


def write_model(folder, threshold):
    folder.mkdir()
    (folder / "weights.params").write_bytes(b"abc")
    config = {"format": 1, "class_names": ["logo"], "weights": {}, "score_threshold": threshold}
    (folder / "config.json").write_text(json.dumps(config))


def test_launch_transform_creates_a_transform_job(aws):
    finished_job(aws)
    assert launch("--transform", "logo", "--model", "ssd-logo-1", "--pictures", "s3://my-bucket/pictures") == 0
    (summary,) = aws.list_transform_jobs()["TransformJobSummaries"]
    job = aws.describe_transform_job(TransformJobName=summary["TransformJobName"])
    source = job["TransformInput"]["DataSource"]["S3DataSource"]
    assert source == {"S3DataType": "S3Prefix", "S3Uri": "s3://my-bucket/pictures"}
    assert job["TransformOutput"]["S3OutputPath"] == f"s3://my-bucket/ssd/{job['ModelName']}/answers"


@pytest.fixture
def endpoint(monkeypatch):
    """An endpoint on loopback that gives the answers it is told to (moto takes no image); what was asked, and those."""
    asked, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers["Content-Type"], body))
            answer = json.dumps(answers.pop(0)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{server.server_port}")
    yield asked, answers
    server.shutdown()
    server.server_close()


def test_launch_invoke_writes_predictions_and_overlays(endpoint, tmp_path, capsys):
    asked, answers = endpoint
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(np.full((100, 200, 3), 128, np.uint8)))
    (tmp_path / "b.jpg").write_bytes(encode_jpeg(picture((80, 60))))
    answers.append({"prediction": [[0.0, 0.9, 0.1, 0.2, 0.5, 0.8], [1.0, 0.2, 0.0, 0.0, 1.0, 1.0]]})
    answers.append({"prediction": []})
    flags = ["--class-names", "logo,stamp", "--overlays", "seen", "--predictions", "found.jsonl"]
    assert main(["launch", "--invoke", "logo", "--picture", "a.jpg", "b.jpg", *flags]) == 0
    image = (tmp_path / "a.jpg").read_bytes()
    assert asked[0] == ("/endpoints/logo/invocations", "image/jpeg", image)
    found = read_predictions(tmp_path / "found.jsonl")
    assert found == {"a.jpg": [[0, 0.9, 0.1, 0.2, 0.5, 0.8], [1, 0.2, 0.0, 0.0, 1.0, 1.0]], "b.jpg": []}
    drawn = decode((tmp_path / "seen/a.jpg").read_bytes(), "a")
    # the box's left edge, 0.1 * 200, is drawn; what is outside the box stays gray
    changed = abs(drawn.astype(int) - 128).max(axis=2) > 20
    assert changed[40:70, 18:23].any(axis=1).all()
    assert not changed[90:, 110:].any()
    printed = capsys.readouterr().out
    assert "a.jpg: 1 of 2 score 0.3 or more" in printed and "threshold 0.3: the endpoint states none" in printed


def test_launch_invoke_threshold_is_that_of_the_flag(endpoint, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(picture()))
    endpoint[1].append({"prediction": [[0, 0.5, 0.1, 0.2, 0.3, 0.4]]})
    assert main(["launch", "--invoke", "logo", "--images", "a.jpg", "--threshold", "0.6"]) == 0
    printed = capsys.readouterr().out
    assert "a.jpg: 0 of 1 score 0.6 or more" in printed and "threshold 0.3" not in printed


def test_launch_invoke_stdout_has_predictions_only(endpoint, tmp_path, capfd):
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(picture()))
    endpoint[1].append({"prediction": [[0, 0.5, 0.1, 0.2, 0.3, 0.4]]})
    assert main(["launch", "--invoke", "logo", "--picture", "a.jpg", "--predictions", "-"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"image": "a.jpg", "prediction": [[0, 0.5, 0.1, 0.2, 0.3, 0.4]]}
    assert "a.jpg: 1 of 1" in captured.err


@pytest.mark.parametrize(
    "description", [{"TrainingJobStatus": "Stopped"}, {"TrainingJobStatus": "InProgress", "ModelArtifacts": {}}]
)
def test_model_address_of_a_job_without_a_model_names_its_state(description):
    with pytest.raises(SsdTrainError, match=f"job a: found the state {description['TrainingJobStatus']} and no model"):
        model_address({"TrainingJobName": "a", **description})


def test_launch_describe_wait_prints_state_and_model(aws, capsys):
    finished_job(aws)
    capsys.readouterr()
    assert main(["launch", "--describe", "ssd-logo-1", "--wait"]) == 0
    out = capsys.readouterr().out
    assert "state:  Completed" in out
    assert "model:  s3://my-bucket/ssd/ssd-logo-1/output/model.tar.gz" in out


@pytest.mark.parametrize(
    "flags, expected",
    [
        pytest.param(["--epochs", "0"], "epochs: found '0'", id="setting"),
        pytest.param(["--epoch", "3"], "epoch: unknown setting, did you mean epochs?", id="no setting"),
        pytest.param(["--spott", "1"], "spott: unknown setting, did you mean --spot?", id="no flag"),
        pytest.param(["--xyzzy", "1"], "error: xyzzy: unknown setting\n", id="nothing like it"),
        pytest.param(["--tag", "team"], "tag: found 'team'", id="tag"),
        pytest.param(["--source-dir", "."], "source_dir: found no train.py", id="entry-point"),
        pytest.param(["--output", "s3://other-bucket/a"], "there is no such bucket", id="bucket"),
    ],
)
def test_launch_invalid_flags_are_one_line(aws, capsys, flags, expected):
    given = {"--train": "s3://my-bucket/train", "--role": ROLE, "--output": "s3://my-bucket/a"}
    given.update({"--source-dir": "program", **dict([flags])})
    assert main(["launch", *[part for pair in given.items() for part in pair]]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1
    assert aws.list_training_jobs()["TrainingJobSummaries"] == []


@pytest.mark.parametrize("ways", [[], ["--tune", "learning_rate"], ["--dry-run"]], ids=["train", "tune", "dry-run"])
def test_launch_network_isolation_without_weights_is_refused_before_aws_is_asked(capsys, monkeypatch, ways):
    asked = []
    monkeypatch.setattr("ssd_train.cli.launch.connect", asked.append)
    assert train("--network-isolation", *ways) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: network_isolation: ") and err.count("\n") == 1 and not asked


NAMED = {
    "training": (["--train", "s3://b/t", "--job-name"], 63),
    "tuning": (["--train", "s3://b/t", "--tune", "optimizer", "--job-name"], 32),
    "endpoint": (["--model", "m.tar.gz", "--deploy"], 63),
    "transform": (["--model", "m.tar.gz", "--pictures", "s3://b/p", "--transform"], 63),
}


@pytest.mark.parametrize("flags, length", NAMED.values(), ids=NAMED.keys())
@pytest.mark.parametrize("bad", ["too-long", "logo_1", "-logo", "logo-"])
def test_launch_name_that_aws_refuses_is_refused_before_aws_is_asked(capsys, monkeypatch, flags, length, bad):
    monkeypatch.setattr("ssd_train.cli.launch.connect", lambda flags: pytest.fail("AWS is asked"))
    name = "a-" * (length // 2) + "aa" if bad == "too-long" else bad
    assert launch(*flags[:-1], f"{flags[-1]}={name}") == 2
    err = capsys.readouterr().err
    assert repr(name) in err and err.count("\n") == 1 and (bad != "too-long" or f"at most {length}" in err)


@pytest.mark.parametrize("flags, length", NAMED.values(), ids=NAMED.keys())
def test_launch_longest_name_makes_requests_that_aws_describes(capsys, flags, length):
    longest = "a-" * ((length - 1) // 2) + "a" * (2 - length % 2)
    assert len(longest) == length and launch(*flags, longest, "--dry-run") == 0
    for operation, request in json.loads(capsys.readouterr().out).items():
        assert faults_of(OPERATIONS[operation], request) == ""
        names = {value for key, value in request.items() if key.endswith("Name")}
        assert names and all(len(name) <= length and re.fullmatch(AWS_NAME, name) for name in names)


@pytest.mark.parametrize(
    "flags, expected",
    [
        pytest.param(["--describe", "nothing"], "describe_training_job: AWS refused it", id="describe"),
        pytest.param(["--delete", "nothing"], "describe_endpoint: AWS refused it", id="delete"),
        pytest.param(["--invoke", "logo", "--picture", "none.jpg"], "picture: none.jpg ", id="picture"),
        pytest.param(["--train", "s3://b/t"], "the following arguments are required: --role, --output", id="role"),
    ],
)
def test_launch_invalid_flags_of_other_modes_are_errors(aws, capsys, flags, expected):
    assert main(["launch", *flags]) == 2
    assert expected in capsys.readouterr().err


def test_launch_invoke_invalid_response_is_an_error(endpoint, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(picture()))
    endpoint[1].append({"prediction": [[0, 0.5, 10, 20, 30, 40]]})
    assert main(["launch", "--invoke", "logo", "--picture", "a.jpg"]) == 2
    assert "predictions.jsonl:1: row 0 lies far outside the image" in capsys.readouterr().err
