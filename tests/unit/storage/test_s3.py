"""S3 client: URLs, errors, interrupted downloads, permissions and credentials."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import boto3
import pytest
from helpers.data import HeardProgress
from helpers.services import copies, fault, put, stub

from ssd_train.errors import ConfigError, DataError, DependencyError
from ssd_train.storage import s3
from ssd_train.storage.s3 import Entry, Store, Url
from ssd_train.storage.s3_cache import upload

pytestmark = pytest.mark.usefixtures("s3_surroundings")  # no request to anything but loopback


@pytest.fixture
def no_pauses(monkeypatch):
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.01)))


URLS = {
    "object": ("s3://b/a/b.jpg", Url("b", "a/b.jpg"), "s3://b/a/b.jpg"),
    "bucket": ("s3://b", Url("b", ""), "s3://b/"),
    "literal key": ("s3://b/a%20b+c?d#e", Url("b", "a%20b+c?d#e"), "s3://b/a%20b+c?d#e"),
    "capitals": ("S3://b/k", Url("b", "k"), "s3://b/k"),
    "no bucket": ("s3:///k", None, r"found 's3:///k', expected s3://bucket/key"),
    "NUL in the bucket": ("s3://a\0b/k", None, "expected s3://bucket/key"),
    "path as bucket": ("s3://../k", None, "expected s3://bucket/key"),
    "blank in the bucket": ("s3://a b/k", None, "expected s3://bucket/key"),
    "surrogate in the bucket": ("s3://a\ud800/k", None, "expected s3://bucket/key"),
    "long bucket": (f"s3://{'b' * 256}/k", None, "expected s3://bucket/key"),
    "surrogate in the key": ("s3://b/\ud800.jpg", None, "expected a key of valid characters"),
    "another scheme": ("gs://b/k", None, "found 'gs://b/k'"),
}


@pytest.mark.parametrize("text, url, shown", URLS.values(), ids=URLS.keys())
def test_url_parse_text(text, url, shown):
    if url is None:
        with pytest.raises(ConfigError, match=shown):
            Url.parse(text)
    else:
        assert Url.parse(text) == url and str(url) == shown


def test_write_large_file_in_parts(s3_client, tmp_path):
    (tmp_path / "model.tar.gz").write_bytes(bytes(20 << 20))
    upload(Store(), tmp_path / "model.tar.gz", Url("bucket", "model.tar.gz"), HeardProgress())
    found = s3_client.head_object(Bucket="bucket", Key="model.tar.gz")
    assert found["ContentLength"] == 20 << 20 and found["ETag"].endswith('-3"')
    assert found["ContentType"] == "application/gzip"


TYPES = {
    "report.html": "text/html; charset=utf-8",
    "model/history.jsonl": "application/jsonlines",
    "output.manifest": "application/jsonlines",
    "model.tar.gz": "application/gzip",
    "model.onnx": "application/octet-stream",
    "train.rec": "application/x-recordio",
    "labels/a.txt": "text/plain; charset=utf-8",
    "overlays/A.JPG": "image/jpeg",
    "pages.pdf": "application/pdf",
    "scores.csv": "text/csv; charset=utf-8",
    "code/train.py": "text/x-python; charset=utf-8",
    "no-suffix": "application/octet-stream",
}


def test_upload_of_a_folder_gives_each_object_its_content_type(s3_client, tmp_path):
    for name in TYPES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    upload(Store(), tmp_path, Url("bucket", "job"), HeardProgress())
    found = {name: s3_client.head_object(Bucket="bucket", Key=f"job/{name}")["ContentType"] for name in TYPES}
    assert found == TYPES


@pytest.fixture
def limited(s3_server, s3_client, monkeypatch):
    """Credentials that may list the bucket, and read below open/, and nothing else; moto enforces it."""
    iam = boto3.client("iam", endpoint_url=s3_server.address, region_name="us-east-1")
    iam.create_user(UserName="limited")
    allowed = [
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::bucket"},
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/open/*"},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
    iam.put_user_policy(UserName="limited", PolicyName="limited", PolicyDocument=policy)
    key = iam.create_access_key(UserName="limited")["AccessKey"]
    s3_client.create_bucket(Bucket="other")
    put(s3_client, "open/1.jpg", "closed/1.jpg")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    s3_server.tell("reset-auth", b"0")  # from now on every request is checked
    yield
    s3_server.tell("reset-auth", b"inf")


DENIED = {
    "read": ("read", lambda path: copies().fetch(Url("bucket", "closed/1.jpg"))),
    "read what was listed": ("read", lambda path: copies().fetch(Url("bucket", "")), "s3://bucket/closed/1.jpg"),
    "list": ("list", lambda path: copies().fetch(Url("other", "")), "s3://other/"),
    "write": ("write", lambda path: upload(Store(), path, Url("bucket", "closed/1.jpg"), HeardProgress())),
    "ask to write": ("write", lambda path: Store().check_writable(Url("bucket", "closed/1.jpg"))),
}


@pytest.mark.parametrize("case", DENIED.values(), ids=DENIED.keys())
def test_store_denied_request_is_an_error_with_the_url(limited, tmp_path, case):
    doing, action, where = (*case, "s3://bucket/closed/1.jpg")[:3]
    (tmp_path / "file").write_bytes(b"1")
    assert copies().fetch(Url("bucket", "open/1.jpg")).read_bytes() == b"1"
    with pytest.raises(DataError, match=f"^{where}: access denied: .* {doing} it$"):
        action(tmp_path / "file")


REFUSALS = {
    "AccessDenied": "access denied: these credentials may not list it",
    "SignatureDoesNotMatch": ".* secret key .*",
    "ExpiredToken": ".* expired",
    "RequestTimeTooSkewed": ".* clock .*",
    "Strange{}": r"http://127.0.0.1:\d+ refused to list it: Strange{} Some thing.",
}


@pytest.mark.parametrize("code, words", REFUSALS.items(), ids=REFUSALS.keys())
def test_store_error_code_becomes_a_message(monkeypatch, code, words):
    with stub(fault(code, "Some\nthing.")) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match=f"^s3://bucket/a/: {words}$"):
            copies().fetch(Url("bucket", "a/"))


def test_store_busy_is_retried(monkeypatch, no_pauses):
    with stub(fault("SlowDown", status=503)) as (address, seen):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match="^s3://bucket/a/: .* 4 attempts$"):
            copies().fetch(Url("bucket", "a/"))
    assert len(seen) == s3.ATTEMPTS


def breaking_off(times, data):
    """An answer whose bytes end too early the first `times` times."""
    left = [times]

    def answer(handler):
        left[0] -= 1
        part = data if left[0] < 0 else data[: len(data) // 2]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("ETag", '"1"')
        handler.end_headers()
        handler.wfile.write(part)
        handler.close_connection = True

    return answer


@pytest.mark.parametrize("times, fails", [(0, False), (3, False), (4, True)])
def test_read_interrupted_download_is_retried(monkeypatch, no_pauses, tmp_path, times, fails):
    data = os.urandom(100_000)
    with stub(breaking_off(times, data)) as (address, seen), open(tmp_path / "copy", "w+b") as file:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        if fails:
            with pytest.raises(DataError, match="^s3://bucket/a: .* 4 times$"):
                Store().read(Url("bucket", "a"), file)
        else:
            assert Store().read(Url("bucket", "a"), file) == Entry("a", len(data), '"1"')
            assert (tmp_path / "copy").read_bytes() == data
    assert len(seen) == min(times + 1, s3.ATTEMPTS)


def test_read_silent_store_times_out(monkeypatch, no_pauses, tmp_path):
    monkeypatch.setattr(s3, "READ_SECONDS", 0.3)
    over = threading.Event()
    with stub(lambda handler: over.wait(20)) as (address, seen), open(tmp_path / "copy", "w+b") as file:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match=f"^s3://bucket/a: {address} .* 0.3 s, 4 times$"):
            Store().read(Url("bucket", "a"), file)
        over.set()
    assert len(seen) == s3.ATTEMPTS


def test_store_unreachable_endpoint_fails_soon(monkeypatch, s3_surroundings):
    with stub(fault("Any")) as (address, _):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", address.replace("//", f"//user:{s3_surroundings}@"))
    started = time.monotonic()
    with pytest.raises(DataError, match=f"^s3://bucket/a: {address} .* 4 attempts$"):
        copies().fetch(Url("bucket", "a"))
    assert time.monotonic() - started < 20


def test_store_without_credentials_is_an_error(s3_client, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DataError, match="^s3://bucket/a: .*AWS_ACCESS_KEY_ID"):
        copies().fetch(Url("bucket", "a"))


def test_store_without_boto3_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DependencyError, match=r"pip install 'ssd-train\[s3\]'"):
        Store()
