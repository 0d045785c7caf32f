"""Objects of S3, or of a store that speaks as it does: asked for, listed, read and written; what went wrong, in words.

boto3 is loaded when a store is opened, so that nobody needs it who has no s3:// paths. Credentials are found by boto3
in its usual places; none of them is ever part of a message here.
"""

from __future__ import annotations

import contextlib
import mimetypes
import random
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, NamedTuple, Optional

from ssd_train.environment import s3_endpoint
from ssd_train.errors import ConfigError, DataError, DependencyError

SCHEME = "s3://"
WORKERS = 8  # transfers at once
ATTEMPTS = 4  # of each request, and of each object whose bytes break off
CONNECT_SECONDS, READ_SECONDS = 5, 60  # the longest silence that is waited out
_CHUNK = 1 << 20

# Python's own table, without the files of this machine: a type does not depend on where a file was uploaded from
_MIME_TYPES = mimetypes.MimeTypes()
_OWN_TYPES = {
    ".gz": "application/gzip",
    ".jsonl": "application/jsonlines",  # as SageMaker calls it
    ".log": "text/plain",
    ".lst": "text/plain",
    ".manifest": "application/jsonlines",
    ".onnx": "application/octet-stream",
    ".params": "application/octet-stream",
    ".rec": "application/x-recordio",
    ".webp": "image/webp",
    ".yaml": "application/yaml",
}

# error codes of the S3 API, as words
_DENIED = "access denied: these credentials may not {doing} it"
_CODES = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": _DENIED,  # from stores that say no more
    "InvalidAccessKeyId": "the credentials are refused: the access key is unknown there",
    "SignatureDoesNotMatch": "the credentials are refused: the secret key does not fit the access key",
    "InvalidToken": "the credentials are refused: the session token is not valid",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the credentials are refused: the clock of this machine is wrong",
    "SlowDown": "the store is too busy, after {attempts} attempts",
}
_OF_ONE = [_CODES[code] for code in ("NoSuchBucket", "NoSuchKey", "AccessDenied")]
_UNREACHABLE = "{store} cannot be reached, after {attempts} attempts"
# errors of botocore before or beside an answer, by class, the first that fits
_FAULTS = {
    "NoCredentialsError": "found no credentials, expected AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, a profile in "
    "~/.aws, or a role of this machine",
    "PartialCredentialsError": "found a part of the credentials, expected the access key and the secret key",
    "CredentialRetrievalError": "the credentials cannot be had from where they are configured",
    "EndpointConnectionError": _UNREACHABLE,
    "ConnectTimeoutError": _UNREACHABLE,
    "ConnectionClosedError": _UNREACHABLE,
    "ProxyConnectionError": "the proxy before {store} cannot be reached, after {attempts} attempts",
    "SSLError": "no secure connection to {store}: its certificate is not trusted, or it does not speak TLS",
    "ReadTimeoutError": "{store} fell silent for {silence} s, {attempts} times",
    "ResponseStreamingError": "broke off while it was read, {attempts} times",
    "IncompleteReadError": "broke off while it was read, {attempts} times",
    "ParamValidationError": "found a name that S3 does not allow for a bucket or a key",
}


class Url(NamedTuple):
    """s3://bucket/key, where the key may be empty, name an object, or be the beginning of many."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "Url":
        """`text` taken apart, its key literal (no %20); a ConfigError when it names no bucket."""
        bucket, _, key = text[len(SCHEME) :].partition("/")
        if not is_url(text) or bucket in ("", ".", ".."):
            raise ConfigError(f"found {text!r}, expected s3://bucket/key")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def is_folder(self) -> bool:
        """Whether it can only be a folder: a whole bucket, or a key that ends in a slash."""
        return not self.key or self.key.endswith("/")

    def as_folder(self) -> "Url":
        """The same with a slash at its end, so that s3://b/train does not begin the names below s3://b/train2."""
        return self if self.is_folder else self._replace(key=self.key + "/")


class Entry(NamedTuple):
    """An object as the store tells of it: its key, bytes, and ETag, which differs when the contents do."""

    key: str
    size: int
    etag: str


def content_type(name: str) -> str:
    """Return the Content-Type of a file by its name; text that this package writes is UTF-8."""
    suffix = Path(name).suffix.lower()
    found = _OWN_TYPES.get(suffix) or _MIME_TYPES.guess_type(f"x{suffix}")[0] or "application/octet-stream"
    return f"{found}; charset=utf-8" if found.startswith("text/") else found


def is_url(text: str) -> bool:
    """Whether `text` is meant for S3."""
    return text[: len(SCHEME)].lower() == SCHEME


class Unavailable(DataError):
    """One object cannot be had, or one bucket; others may well be."""


class Store:
    """A connection to the S3 API at AWS_ENDPOINT_URL, or else Amazon's; threads may share it.

    Every method raises a DataError that names bucket and key, and the cause in words. What fails for a cause that may
    pass is done again, ATTEMPTS times in all, with growing pauses.
    """

    def __init__(self) -> None:
        endpoint = s3_endpoint()
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise DependencyError(
                f"s3:// paths need boto3, which cannot be loaded ({error}): pip install 'ssd-train[s3]'"
            ) from error
        self.name = _shown(endpoint)
        with self._explained("S3", "open"):
            try:
                session = boto3.session.Session()
                self._client = session.client("s3", endpoint_url=endpoint, config=Config(**_options(endpoint)))
            except ValueError as error:
                raise ConfigError(f"AWS_ENDPOINT_URL: found {self.name}, expected http(s)://host:port") from error

    def find(self, url: Url) -> Optional[Entry]:
        """The object at `url`, None where there is none."""
        from botocore.exceptions import ClientError

        with self._explained(str(url), "read"):
            try:
                # GET, not HEAD: only its refusals say why
                answer = self._client.get_object(Bucket=url.bucket, Key=url.key)
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise
            answer["Body"].close()
        return Entry(url.key, answer["ContentLength"], answer["ETag"])

    def list(self, url: Url) -> Iterator[Entry]:
        """All objects whose keys begin with that of `url`, however many, sorted by key."""
        with self._explained(str(url), "list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=url.bucket, Prefix=url.key)
            for page in pages:
                for item in page.get("Contents", ()):
                    yield Entry(item["Key"], item["Size"], item["ETag"])

    def read(self, url: Url, file: BinaryIO) -> Entry:
        """Put the object's bytes into `file`, from its beginning; what was got, which may be newer than a listing."""
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        with self._explained(str(url), "read"):
            for attempt in range(1, ATTEMPTS + 1):
                answer = self._client.get_object(Bucket=url.bucket, Key=url.key)
                try:
                    _copy(answer["Body"], file)
                    break
                # boto3 makes requests again, but not when the bytes of an answer break off
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    if attempt == ATTEMPTS:
                        raise
                    time.sleep(random.uniform(0.25, 0.5) * 2**attempt)
        return Entry(url.key, answer["ContentLength"], answer["ETag"])

    def write(self, path: Path, url: Url) -> None:
        """Put the file `path` at `url`, in parts where it is large; what stood there is replaced once all is there."""
        kind = {"ContentType": content_type(url.key if Path(url.key).suffix else path.name)}
        with open(path, "rb") as file, self._explained(str(url), "write"):
            self._client.upload_fileobj(file, url.bucket, url.key, ExtraArgs=kind)

    def check_writable(self, url: Url) -> None:
        """Ask for permission to write at `url` without leaving anything there: an upload is begun and given up."""
        from botocore.exceptions import ClientError

        with self._explained(str(url), "write"):
            begun = self._client.create_multipart_upload(Bucket=url.bucket, Key=url.key)
            # who may begin but not give up leaves an upload of no parts: it holds nothing, and shows nowhere
            with contextlib.suppress(ClientError):
                self._client.abort_multipart_upload(Bucket=url.bucket, Key=url.key, UploadId=begun["UploadId"])

    @contextlib.contextmanager
    def _explained(self, what: str, doing: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            words = _words(error)
            filled = words.format(doing=doing, store=self.name, attempts=ATTEMPTS, silence=READ_SECONDS)
            raise (Unavailable if words in _OF_ONE else DataError)(f"{what}: {filled}") from error


def _words(error: Exception) -> str:
    """What an error of botocore means, as a template. Its own text, which may quote a request, is used only where it
    comes from the store."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        told = answer.get("Error", {})
        code, message = str(told.get("Code", "")), " ".join(str(told.get("Message", "")).split())
        own = f"{code} {message}".strip().replace("{", "{{").replace("}", "}}")
        return _CODES.get(code) or f"{{store}} refused to {{doing}} it: {own}"
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((_FAULTS[name] for name in names if name in _FAULTS), f"{names[0]} while talking to {{store}}")


def _options(endpoint: Optional[str]) -> Dict[str, Any]:
    options = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 2 * WORKERS,  # large files go up in parts, several at once
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        # other stores know neither the newer checksums, nor hosts called bucket.endpoint
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return {**options, "s3": {"addressing_style": "path"}} if endpoint else options


def _copy(body: Any, file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    with contextlib.closing(body):
        for chunk in body.iter_chunks(_CHUNK):
            file.write(chunk)


def _shown(endpoint: Optional[str]) -> str:
    """The endpoint for messages, without a user and a password before the host."""
    if not endpoint:
        return "Amazon S3"
    scheme, separator, rest = endpoint.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
