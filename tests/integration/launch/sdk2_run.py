"""Run by test_sdk.py in the environment of the SageMaker SDK 2: jobs as JSON in, the requests that the SDK sends out.

Arguments: the entry point, the folder for result.json and the archives that are uploaded. moto stands in for AWS.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import boto3
import sagemaker
from moto import mock_aws
from sagemaker import image_uris

from ssd_train.launch.job import Channel, Job
from ssd_train.launch.sagemaker_sdk import fit_by_sdk_2

MACHINES = ("g4dn.xlarge", "c5.xlarge", "m5.large", "p4d.24xlarge", "t3.medium")
OPERATIONS = ("CreateTrainingJob", "CreateModel", "CreateEndpointConfig", "CreateEndpoint")


def job_of(given):
    channels = {
        name: Channel(**{**channel, "attributes": tuple(channel.get("attributes", ()))})
        for name, channel in given["channels"].items()
    }
    return Job(**{**given, "channels": channels})


def download(boto, uri, folder):
    bucket, _, key = uri[len("s3://") :].partition("/")
    target = folder / key.replace("/", "_")
    boto.client("s3").download_file(bucket, key, str(target))
    return str(target)


def leave_model(boto, uri):
    """What a job that moto only pretends to run would have left."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        info = tarfile.TarInfo("weights.params")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    bucket, _, key = uri[len("s3://") :].partition("/")
    boto.client("s3").put_object(Bucket=bucket, Key=key, Body=data.getvalue())


def images():
    """The containers of every region that the SDK knows, and for several machines in one."""
    registries = image_uris.config_for_framework("mxnet")["training"]["versions"]["1.9.0"]["registries"]
    wanted = [("training", region, "ml.p3.2xlarge") for region in registries]
    wanted += [(scope, "eu-west-1", f"ml.{name}") for scope in ("training", "inference") for name in MACHINES]
    return [
        (*asked, image_uris.retrieve("mxnet", region, "1.9.0", "py38", instance_type=instance, image_scope=scope))
        for asked in wanted
        for scope, region, instance in [asked]
    ]


@mock_aws
def main(entry_point, folder):
    boto = boto3.Session()
    client, sent = boto.client("sagemaker"), {}
    for operation in OPERATIONS:
        client.meta.events.register(
            f"before-parameter-build.sagemaker.{operation}",
            lambda params, model, **more: sent.update({model.name: json.loads(json.dumps(params))}),
        )
    where = {"LocationConstraint": boto.region_name}
    boto.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
    session = sagemaker.Session(boto_session=boto, sagemaker_client=client, default_bucket="my-bucket")
    results = []
    for given in json.load(sys.stdin):
        estimator = fit_by_sdk_2(job_of(given["job"]), given["settings"], session, entry_point)
        results.append({"CreateTrainingJob": sent["CreateTrainingJob"]})
    results[0]["source"] = download(boto, json.loads(estimator.hyperparameters()["sagemaker_submit_directory"]), folder)
    leave_model(
        boto, client.describe_training_job(TrainingJobName=given["job"]["name"])["ModelArtifacts"]["S3ModelArtifacts"]
    )
    estimator.deploy(initial_instance_count=1, instance_type="ml.c5.xlarge", endpoint_name="logo", wait=False)
    results[0].update({operation: sent[operation] for operation in OPERATIONS[1:]})
    results[0]["served"] = download(boto, sent["CreateModel"]["PrimaryContainer"]["ModelDataUrl"], folder)
    results[0]["images"] = images()
    (folder / "result.json").write_text(json.dumps(results))


main(Path(sys.argv[1]), Path(sys.argv[2]))
