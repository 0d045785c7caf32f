"""The connection to AWS: credentials and region as boto3 finds them, requests sent, what went wrong in words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional

from ssd_train.errors import ConfigError, DependencyError
from ssd_train.s3 import Store, Url

# errors of botocore before or beside an answer, by class, the first that fits
_FAULTS = {
    "NoCredentialsError": "found no credentials, expected AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, a profile in "
    "~/.aws, or a role of this machine",
    "PartialCredentialsError": "found a part of the credentials, expected the access key and the secret key",
    "CredentialRetrievalError": "the credentials cannot be had from where they are configured",
    "ProfileNotFound": "the profile that AWS_PROFILE names is not in ~/.aws",
    "ConnectionError": "it cannot be reached",
    "HTTPClientError": "it cannot be reached",
}


class Refused(ConfigError):
    """AWS answered that it will not; `code` is its word for why."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Amazon:
    """A session with AWS in one region.

    Raises:
        DependencyError: boto3 is not there.
        ConfigError: no region is given or configured.
    """

    def __init__(self, region: Optional[str] = None) -> None:
        try:
            import boto3
        except ImportError as error:
            raise DependencyError(f"launch needs boto3 ({error}): pip install 'ssd-train[sagemaker]'") from error
        with explained("AWS"):
            self.session = boto3.Session(region_name=region)
        if not self.session.region_name:
            raise ConfigError("region: found none, expected --region, AWS_DEFAULT_REGION or a region in ~/.aws/config")
        self.region: str = self.session.region_name
        self._clients: Dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """boto3's client of a service: sagemaker, sagemaker-runtime, iam, logs."""
        if service not in self._clients:
            with explained(service):
                self._clients[service] = self.session.client(service)
        return self._clients[service]

    def send(self, operation: str, request: Dict[str, Any], service: str = "sagemaker") -> Dict[str, Any]:
        """The answer to `request`; `operation` is boto3's name of it. A ConfigError says in one line
        why not, Refused where AWS said so."""
        call: Callable[..., Dict[str, Any]] = getattr(self.client(service), operation)
        with explained(operation):
            return call(**request)

    def role_arn(self, role: str) -> str:
        """The ARN of `role`, which may be one already."""
        if role.startswith("arn:"):
            return role
        return self.send("get_role", {"RoleName": role}, "iam")["Role"]["Arn"]

    def upload(self, path: Path, uri: str) -> None:
        """Put the file `path` at s3://bucket/key."""
        Store().write(path, Url.parse(uri))

    def download(self, uri: str, path: Path) -> None:
        """Put the object at s3://bucket/key into the file `path`."""
        with open(path, "wb") as file:
            Store().read(Url.parse(uri), file)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of boto3 as one line after `what`. A refusal is told in AWS's own words, which name the right that is
    missing; what went wrong before, in ours."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise DependencyError(f"launch needs boto3 ({error}): pip install 'ssd-train[sagemaker]'") from error
    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        code, text = str(told.get("Code", "?")), " ".join(str(told.get("Message", "")).split())
        raise Refused(f"{what}: AWS refused it: {code}: {text}", code) from error
    except BotoCoreError as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        words = next((_FAULTS[name] for name in names if name in _FAULTS), " ".join(str(error).split()))
        raise ConfigError(f"{what}: {words}") from error
