"""Client of S3 and compatible stores: find, list, read and write objects, with readable error messages.

boto3 is imported when a Store is created, so that it is optional without s3:// paths. It finds the credentials;
messages never contain them.
"""

from __future__ import annotations

import contextlib
import mimetypes
import random
import re
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, NamedTuple, Optional

from ssd_train.environment import s3_endpoint
from ssd_train.errors import ConfigError, DataError, require_extra

SCHEME = "s3://"
WORKERS = 8  # concurrent transfers
ATTEMPTS = 4  # per request, and per object whose download is interrupted
CONNECT_SECONDS, READ_SECONDS = 5, 60  # timeouts
_CHUNK = 1 << 20

# Python's table without the files of this machine, so that types are the same everywhere
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

# error code of the S3 API -> message
_DENIED = "access denied: these credentials may not {doing} it"
_CODES = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": _DENIED,  # from stores that send no error code
    "InvalidAccessKeyId": "the credentials were rejected: unknown access key",
    "SignatureDoesNotMatch": "the credentials were rejected: the secret key does not match the access key",
    "InvalidToken": "the credentials were rejected: invalid session token",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the credentials were rejected: the clock of this machine is wrong",
    "SlowDown": "the store is too busy, after {attempts} attempts",
}
_SINGLE_OBJECT = [_CODES[code] for code in ("NoSuchBucket", "NoSuchKey", "AccessDenied")]
_UNREACHABLE = "{store} cannot be reached, after {attempts} attempts"
# class of a botocore error without a response -> message; base classes count, too
CREDENTIAL_FAULTS = {
    "NoCredentialsError": "found no credentials, expected AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, a profile in "
    "~/.aws, or a role of this machine",
    "PartialCredentialsError": "found incomplete credentials, expected an access key and a secret key",
    "CredentialRetrievalError": "the credentials cannot be retrieved from the configured source",
}
_FAULTS = {
    **CREDENTIAL_FAULTS,
    "EndpointConnectionError": _UNREACHABLE,
    "ConnectTimeoutError": _UNREACHABLE,
    "ConnectionClosedError": _UNREACHABLE,
    "ProxyConnectionError": "the proxy for {store} cannot be reached, after {attempts} attempts",
    "SSLError": "no secure connection to {store}: its certificate is not trusted, or it does not support TLS",
    "ReadTimeoutError": "{store} sent nothing for {timeout} s, {attempts} times",
    "ResponseStreamingError": "the download was interrupted {attempts} times",
    "IncompleteReadError": "the download was interrupted {attempts} times",
    "ParamValidationError": "found an invalid name of a bucket or a key",
}


_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")  # as botocore checks it; a name is a folder of the cache, too


class Url(NamedTuple):
    """s3://bucket/key; the key may be empty, the key of an object, or a prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "Url":
        """Parse a URL; the key is literal, not percent-encoded. Raises ConfigError for an invalid bucket or key."""
        bucket, _, key = text[len(SCHEME) :].partition("/")
        if not is_url(text) or not _BUCKET.fullmatch(bucket) or bucket in (".", ".."):
            raise ConfigError(f"found {text!r}, expected s3://bucket/key")
        if any("\ud800" <= character <= "\udfff" for character in key):  # a JSON file may have them; S3 has UTF-8
            raise ConfigError(f"found {text!r}, expected a key of valid characters")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def is_folder(self) -> bool:
        """Return True if the URL is a bucket or its key ends in a slash."""
        return not self.key or self.key.endswith("/")

    def as_folder(self) -> "Url":
        """Return the URL with a trailing slash, so that s3://b/train is not a prefix of s3://b/train2/x."""
        return self if self.is_folder else self._replace(key=self.key + "/")


class Entry(NamedTuple):
    """An object in a listing: key, size in bytes, and ETag, which changes with the content."""

    key: str
    size: int
    etag: str


def content_type(name: str) -> str:
    """Return the Content-Type of a file by its name; text that this package writes is UTF-8."""
    suffix = Path(name).suffix.lower()
    kind = _OWN_TYPES.get(suffix) or _MIME_TYPES.guess_type(f"x{suffix}")[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def is_url(text: str) -> bool:
    """Return whether `text` begins with s3://, in any case."""
    return text[: len(SCHEME)].lower() == SCHEME


class Unavailable(DataError):
    """A single object or bucket is not accessible; others may be."""


class Store:
    """Thread-safe client of the S3 API at AWS_ENDPOINT_URL, or else Amazon's.

    All methods raise a DataError that names bucket, key and cause. Transient failures are retried with growing pauses,
    up to ATTEMPTS attempts.
    """

    def __init__(self) -> None:
        endpoint = s3_endpoint()
        with require_extra("s3"):
            import boto3
            from botocore.config import Config
        self.name = _display_name(endpoint)
        with self._translate_errors("S3", "open"):
            try:
                session = boto3.session.Session()
                self._client = session.client("s3", endpoint_url=endpoint, config=Config(**_options(endpoint)))
            except ValueError as error:
                raise ConfigError(f"AWS_ENDPOINT_URL: found {self.name}, expected http(s)://host:port") from error

    def find(self, url: Url) -> Optional[Entry]:
        """Return the object at `url`, or None."""
        from botocore.exceptions import ClientError

        with self._translate_errors(str(url), "read"):
            try:
                # GET, because error responses to HEAD have no code
                response = self._client.get_object(Bucket=url.bucket, Key=url.key)
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise
            response["Body"].close()
        return Entry(url.key, response["ContentLength"], response["ETag"])

    def list(self, url: Url) -> Iterator[Entry]:
        """Yield all objects whose keys start with that of `url`, sorted by key."""
        with self._translate_errors(str(url), "list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=url.bucket, Prefix=url.key)
            for page in pages:
                for item in page.get("Contents", ()):
                    yield Entry(item["Key"], item["Size"], item["ETag"])

    def read(self, url: Url, file: BinaryIO) -> Entry:
        """Download an object into `file`; returns its Entry, which may be newer than a listing."""
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        with self._translate_errors(str(url), "read"):
            for attempt in range(1, ATTEMPTS + 1):
                response = self._client.get_object(Bucket=url.bucket, Key=url.key)
                try:
                    _copy(response["Body"], file)
                    break
                # boto3 retries requests, but not interrupted downloads; its transfer manager does, but returns no ETag,
                # makes no pauses, and begins with HEAD, whose errors have no code
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    if attempt == ATTEMPTS:
                        raise
                    time.sleep(random.uniform(0.25, 0.5) * 2**attempt)
        return Entry(url.key, response["ContentLength"], response["ETag"])

    def write(self, path: Path, url: Url) -> None:
        """Upload the file `path`, in parts if it is large; an existing object is replaced at the end."""
        kind = {"ContentType": content_type(url.key if Path(url.key).suffix else path.name)}
        with open(path, "rb") as file, self._translate_errors(str(url), "write"):
            self._client.upload_fileobj(file, url.bucket, url.key, ExtraArgs=kind)

    def check_writable(self, url: Url) -> None:
        """Check the permission to write at `url` by starting and aborting a multipart upload."""
        from botocore.exceptions import ClientError

        with self._translate_errors(str(url), "write"):
            started = self._client.create_multipart_upload(Bucket=url.bucket, Key=url.key)
            # without the permission to abort, an empty upload remains, which is harmless and invisible
            with contextlib.suppress(ClientError):
                self._client.abort_multipart_upload(Bucket=url.bucket, Key=url.key, UploadId=started["UploadId"])

    @contextlib.contextmanager
    def _translate_errors(self, what: str, doing: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            template = _message(error)
            text = template.format(doing=doing, store=self.name, attempts=ATTEMPTS, timeout=READ_SECONDS)
            raise (Unavailable if template in _SINGLE_OBJECT else DataError)(f"{what}: {text}") from error


def _message(error: Exception) -> str:
    """Return a message template for a botocore error.

    The error's own text may contain request data, so only texts sent by the store are used.
    """
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        details = response.get("Error", {})
        code, message = str(details.get("Code", "")), " ".join(str(details.get("Message", "")).split())
        text = f"{code} {message}".strip().replace("{", "{{").replace("}", "}}")
        return _CODES.get(code) or f"{{store}} refused to {{doing}} it: {text}"
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((_FAULTS[name] for name in names if name in _FAULTS), f"{names[0]} while connecting to {{store}}")


def _options(endpoint: Optional[str]) -> Dict[str, Any]:
    options = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 2 * WORKERS,  # parts of large files are uploaded concurrently
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        # other stores support neither the newer checksums nor bucket.endpoint host names
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


def _display_name(endpoint: Optional[str]) -> str:
    """Return the endpoint for messages, without user and password."""
    if not endpoint:
        return "Amazon S3"
    scheme, separator, rest = endpoint.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
