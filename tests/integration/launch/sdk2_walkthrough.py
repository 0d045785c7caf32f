"""Run by test_sdk_deploy.py in the environment of the SageMaker SDK 2: the Python of docs/sagemaker.md and
docs/launch.md, as written.

Argument: the folder for results. moto stands in for AWS within this process. After fit() this program writes fit.json,
and waits on standard input for the path of the archive that the job left; then it executes what the pages say of
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


def blocks(page):
    """The page's Python, block by block."""
    return re.findall(r"```python\n(.*?)```", Path("docs", page).read_text("utf-8"), re.DOTALL)


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


def by_launch(client, archive):
    """Execute the Python of docs/launch.md, whose job leaves the archive too; return the name of its model."""
    where = {"LocationConstraint": boto3.Session().region_name}
    boto3.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
    (block,) = blocks("launch.md")
    training, deploy, serving = block.replace("BUCKET", "my-bucket").partition("predictor =")
    page = {}
    exec(training, page)
    object_at(page["estimator"].model_data).upload_file(archive)
    exec(deploy + serving, page)
    endpoint = page["predictor"].endpoint_name
    variants = client.describe_endpoint_config(EndpointConfigName=endpoint)["ProductionVariants"]
    return variants[0]["ModelName"]


@mock.patch("time.sleep", lambda seconds: SLEEP(min(seconds, 0.01)))
@mock_aws
def main(folder):
    client = boto3.client("sagemaker")
    training, *serving = blocks("sagemaker.md")
    page = {}
    exec(training, page)
    artifacts = trained(client, folder)
    archive = input()
    object_at(artifacts).upload_file(archive)
    for block in serving:
        exec(block, page)
    (config,) = client.list_endpoint_configs(NameContains=page["predictor"].endpoint_name)["EndpointConfigs"]
    variants = client.describe_endpoint_config(EndpointConfigName=config["EndpointConfigName"])["ProductionVariants"]
    models = {
        "deploy": variants[0]["ModelName"],
        "fit_by_sdk_2": by_launch(client, archive),
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
