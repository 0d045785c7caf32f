"""Run by test_sdk.py in the environment of the SageMaker SDK 3: a job as JSON in, the request that the SDK sends out.

Arguments: the entry point, the folder for result.json and the archive. moto stands in for AWS; it cannot say what a
role may do, so that is answered here.
"""

import json
import sys
from pathlib import Path

import boto3
import botocore.client
from moto import mock_aws
from sagemaker.core.helper.session_helper import Session

from ssd_train.launch.job import Channel, Job
from ssd_train.launch.sagemaker_sdk import train_by_sdk_3

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
sent = {}
real_call = botocore.client.BaseClient._make_api_call


def call(client, operation, request):
    if operation == "SimulatePrincipalPolicy":
        allowed = [{"EvalActionName": name, "EvalDecision": "allowed"} for name in request["ActionNames"]]
        return {"EvaluationResults": allowed}
    sent[operation] = request
    return real_call(client, operation, request)


@mock_aws
def main(entry_point, folder):
    botocore.client.BaseClient._make_api_call = call
    boto = boto3.Session()
    where = {"LocationConstraint": boto.region_name}
    boto.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
    boto.client("iam").create_role(RoleName="SageMakerRole", AssumeRolePolicyDocument=json.dumps(TRUST))
    given = json.load(sys.stdin)[0]
    channels = {name: Channel(**channel) for name, channel in given["job"]["channels"].items()}
    job = Job(**{**given["job"], "channels": channels})
    train_by_sdk_3(job, given["settings"], Session(boto_session=boto, default_bucket="my-bucket"), folder, entry_point)
    (folder / "result.json").write_text(json.dumps(sent["CreateTrainingJob"]))


main(Path(sys.argv[1]), Path(sys.argv[2]))
