"""Run by test_sdk_deploy.py in the environment of the SageMaker SDK 2: the Python of docs/sagemaker.md, as written.

Argument: the folder for results. moto stands in for AWS within this process. After fit() this program writes fit.json,
and waits on standard input for the path of the archive that the job left; then it executes what the page says of
serving, and other ways in which people repack a model, and writes served.json.
"""

import json
import re
import sys
import time
from pathlib import Path
from unittest import mock

import boto3
from moto import mock_aws
from sagemaker.mxnet import MXNetModel

SLEEP = time.sleep  # the SDK asks every 30 s whether an endpoint is there; moto's is there when it is asked for
MACHINES = {"initial_instance_count": 1, "instance_type": "ml.c5.xlarge"}


def blocks():
    """The page's Python, block by block."""
    return re.findall(r"```python\n(.*?)```", Path("docs/sagemaker.md").read_text("utf-8"), re.DOTALL)


def object_at(uri):
    bucket, _, key = uri[len("s3://") :].partition("/")
    return boto3.resource("s3").Object(bucket, key)


def fetched(uri, target):
    object_at(uri).download_file(str(target))
    return str(target)


def trained(client, folder):
    """What CreateTrainingJob was sent, with the program's archive."""
    (job,) = client.list_training_jobs()["TrainingJobSummaries"]
    found = client.describe_training_job(TrainingJobName=job["TrainingJobName"])
    parameters = {name: json.loads(value) for name, value in found["HyperParameters"].items()}
    source = fetched(parameters["sagemaker_submit_directory"], folder / "sourcedir.tar.gz")
    (folder / "fit.tmp").write_text(json.dumps({"parameters": parameters, "source": source}))
    (folder / "fit.tmp").rename(folder / "fit.json")
    return found["ModelArtifacts"]["S3ModelArtifacts"]


def container(client, name, target):
    """Image and variables of a model, with the archive that it is served from."""
    found = client.describe_model(ModelName=name)["PrimaryContainer"]
    variables = {name: value for name, value in found["Environment"].items() if value}
    return {"image": found["Image"], "variables": variables, "archive": fetched(found["ModelDataUrl"], target)}


@mock.patch("time.sleep", lambda seconds: SLEEP(min(seconds, 0.01)))
@mock_aws
def main(folder):
    client = boto3.client("sagemaker")
    training, *serving = blocks()
    page = {}
    exec(training, page)
    artifacts = trained(client, folder)
    object_at(artifacts).upload_file(input())
    for block in serving:
        exec(block, page)
    (config,) = client.list_endpoint_configs(NameContains=page["predictor"].endpoint_name)["EndpointConfigs"]
    variants = client.describe_endpoint_config(EndpointConfigName=config["EndpointConfigName"])["ProductionVariants"]
    models = {
        "deploy": variants[0]["ModelName"],
        "transformer": page["transformer"].model_name,
        "of-the-archive": page["model"].name,
    }
    common = {"model_data": artifacts, "role": page["estimator"].role, "framework_version": "1.9.0"}
    for name, arguments in {
        "source-dir-and-dependencies": {
            "entry_point": "train.py",
            "source_dir": "entry_point",
            "dependencies": ["src/ssd_train"],
        },
        "dependencies": {"entry_point": "entry_point/train.py", "dependencies": ["src/ssd_train"]},
        "entry-point": {"entry_point": "entry_point/train.py"},
    }.items():
        model = MXNetModel(py_version="py38", **common, **arguments)
        model.deploy(**MACHINES)
        models[name] = model.name
    found = {name: container(client, model, folder / f"{name}.tar.gz") for name, model in models.items()}
    (folder / "served.json").write_text(json.dumps(found))


main(Path(sys.argv[1]))
