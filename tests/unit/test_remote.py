"""s3:// paths against a real server of the S3 API on loopback: moto's, or a stub where that has no such fault."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import boto3
import pytest
from builders import HeardProgress

from ssd_train import s3
from ssd_train.errors import ConfigError, DataError, DependencyError, SsdTrainError
from ssd_train.remote import Copies, upload
from ssd_train.s3 import Entry, Store, Unavailable, Url


@pytest.fixture(autouse=True)
def secret(s3_surroundings):
    """The secret key; only loopback, and an empty cache."""
    return s3_surroundings


@pytest.fixture
def client(s3_client):
    """boto3's own client of a store with an empty bucket."""
    return s3_client


def put(client, *keys, body=b"1"):
    for key in keys:
        client.put_object(Bucket="bucket", Key=key, Body=body)


def copies():
    return Copies(Store(), HeardProgress())


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextlib.contextmanager
def stub(answer):
    """A server on loopback that lets `answer(handler)` answer every request; yields its address and the requests."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(f"{self.command} {self.path}")
            answer(self)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def log_message(self, *args):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def say(handler, status, body=b"", **headers):
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def fault(code, message="Something.", status=403):
    def answer(handler):
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        say(handler, status, body, Content_Type="application/xml")

    return answer


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
    "another scheme": ("gs://b/k", None, "found 'gs://b/k'"),
}


@pytest.mark.parametrize("text, url, shown", URLS.values(), ids=URLS.keys())
def test_urls(text, url, shown):
    if url is None:
        with pytest.raises(ConfigError, match=shown):
            Url.parse(text)
    else:
        assert Url.parse(text) == url and str(url) == shown


def test_a_folder_of_more_objects_than_a_page_holds(client):
    put(client, *(f"train/{n // 100}/{n}.jpg" for n in range(1234)))
    put(client, "train2/other.jpg", "train/")

    folder = copies().bring(Url("bucket", "train"))

    assert folder.name == "train"
    assert contents(folder) == {f"{n // 100}/{n}.jpg": b"1" for n in range(1234)}


@pytest.mark.parametrize("size", [0, 1, 3_000_000], ids=["empty", "a-byte", "several-chunks"])
def test_objects_go_there_and_back(client, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "there").write_bytes(data)
    assert upload(Store(), tmp_path / "there", Url("bucket", "a b/größe+%20.bin"), HeardProgress()) == 1
    assert client.get_object(Bucket="bucket", Key="a b/größe+%20.bin")["Body"].read() == data
    assert copies().bring(Url("bucket", "a b/größe+%20.bin")).read_bytes() == data


def test_large_files_go_up_in_parts(client, tmp_path):
    (tmp_path / "model.tar.gz").write_bytes(bytes(20 << 20))
    upload(Store(), tmp_path / "model.tar.gz", Url("bucket", "model.tar.gz"), HeardProgress())
    found = client.head_object(Bucket="bucket", Key="model.tar.gz")
    assert found["ContentLength"] == 20 << 20 and found["ETag"].endswith('-3"')


def test_a_folder_goes_up_with_its_descriptions_last(client, tmp_path):
    for name in ("config.json", "weights.params", "deep/z.txt"):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(name.encode())
    order, store = [], Store()
    write, store.write = store.write, lambda path, url: (write(path, url), order.append(path.name))
    assert upload(store, tmp_path / "model", Url("bucket", "job/model"), HeardProgress()) == 3
    assert order[-1] == "config.json"
    assert contents(copies().bring(Url("bucket", "job/model/"))) == contents(tmp_path / "model")


def test_only_what_changed_is_got_again(client):
    put(client, *(f"train/{n}.jpg" for n in range(6)))
    first = copies()
    folder = first.bring(Url("bucket", "train/"))
    put(client, "train/1.jpg", body=b"2")  # of the same size
    put(client, "train/new.jpg")
    client.delete_object(Bucket="bucket", Key="train/2.jpg")
    (folder / "3.jpg").unlink()
    (folder / "4.jpg").write_bytes(b"x")
    read = []
    store = Store()
    get, store.read = store.read, lambda url, file: (read.append(url.key), get(url, file))[1]

    heard = HeardProgress()
    assert Copies(store, heard).bring(Url("bucket", "train/")) == folder

    assert sorted(read) == [f"train/{name}.jpg" for name in ("1", "3", "4", "new")]
    assert heard.lines == ["s3://bucket/train/: 4 of 6 files to get (0.0 MB)"]
    assert contents(folder) == {
        "0.jpg": b"1",
        "1.jpg": b"2",
        "3.jpg": b"1",
        "4.jpg": b"1",
        "5.jpg": b"1",
        "new.jpg": b"1",
    }


def test_what_an_interrupted_run_got_is_kept(client):
    put(client, *(f"train/{n:02d}.jpg" for n in range(20)))
    store = Store()
    get, reads = store.read, []

    def breaking(url, file):
        reads.append(url.key)
        if url.key == "train/10.jpg":
            file.write(b"half")
            raise KeyboardInterrupt
        return get(url, file)

    store.read = breaking
    with pytest.raises(KeyboardInterrupt):
        Copies(store, HeardProgress()).bring(Url("bucket", "train/"))
    index = next((copies()._root).glob("bucket/index.jsonl"))
    index.write_bytes(index.read_bytes() + b'["train/19.jpg", "cut o')  # as a kill leaves it
    got, reads[:] = set(reads) - {"train/10.jpg"}, []

    store.read = lambda url, file: (reads.append(url.key), get(url, file))[1]
    folder = Copies(store, HeardProgress()).bring(Url("bucket", "train/"))

    assert got and not got & set(reads) and len(got) + len(reads) == 20
    assert contents(folder) == {f"{n:02d}.jpg": b"1" for n in range(20)}
    assert not list(index.parent.glob("incoming*/*"))


def test_images_are_brought_one_by_one_and_kept_up_to_date(client):
    put(client, "a/1.jpg", "b/2.jpg")
    addresses = ["s3://bucket/a/1.jpg", "s3://bucket/b/2.jpg"]
    first = copies().bring_each(addresses)
    put(client, "b/2.jpg", body=b"newer")
    second = copies().bring_each(addresses)
    assert first == second and [path.read_bytes() for path in second.values()] == [b"1", b"newer"]


MISSING = {
    "object": ("s3://bucket/none.jpg", "s3://bucket/none.jpg: there is no such object"),
    "bucket": ("s3://none/a.jpg", "s3://none/a.jpg: there is no such bucket"),
    "object gone since": ("s3://bucket/gone.jpg", "s3://bucket/gone.jpg: there is no such object"),
    "dots": ("s3://bucket/a/../../b", "s3://bucket/a/../../b: found a key with an empty part, '.', '..' or NUL"),
    "no bucket": ("s3:///b", "found 's3:///b', expected s3://bucket/key"),
    "bucket that is a folder": ("s3://../b", "found 's3://../b', expected s3://bucket/key"),
    "empty part": ("s3://bucket/a//b", "s3://bucket/a//b: found a key with an empty part"),
}


@pytest.mark.parametrize("address, message", MISSING.values(), ids=MISSING.keys())
def test_an_image_that_cannot_be_had_does_not_stop_the_others(client, address, message):
    put(client, "gone.jpg", "there.jpg")
    copies().bring_each(["s3://bucket/gone.jpg"])
    client.delete_object(Bucket="bucket", Key="gone.jpg")
    found = copies().bring_each(["s3://bucket/there.jpg", address])
    assert found["s3://bucket/there.jpg"].read_bytes() == b"1"
    assert isinstance(found[address], Unavailable) and str(found[address]).startswith(message)


def test_what_concerns_all_images_stops_at_once(monkeypatch):
    with stub(fault("ExpiredToken")) as (address, seen):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match="^s3://bucket/0.jpg: the credentials have expired$"):
            copies().bring_each([f"s3://bucket/{n}.jpg" for n in range(100)])
    assert len(seen) < 50


@pytest.mark.parametrize(
    "url, message",
    [
        pytest.param(Url("none", "a/b"), "^s3://none/a/b: there is no such bucket$", id="bucket"),
        pytest.param(Url("none", ""), "^s3://none/: there is no such bucket$", id="whole-bucket"),
        pytest.param(Url("bucket", "a/b"), "^s3://bucket/a/b/: found nothing there, expected an object", id="key"),
        pytest.param(Url("bucket", ""), "^s3://bucket/: found nothing there", id="empty-bucket"),
        pytest.param(Url("Bad_Bucket!", "a"), "^s3://Bad_Bucket!/a: found a name that S3 does not allow", id="name"),
    ],
)
def test_nothing_there(client, url, message):
    with pytest.raises(DataError, match=message):
        copies().bring(url)


@pytest.mark.parametrize("key", ["a/../x", "a//x", "./x"])
def test_a_folder_with_keys_that_are_no_paths_is_refused(client, key):
    put(client, "p/1.jpg", f"p/{key}")
    with pytest.raises(DataError, match="found a key with an empty part"):
        copies().bring(Url("bucket", "p/"))


def test_an_object_in_the_place_of_a_folder_is_one_line(client):
    put(client, "p/a", "p/a/b")
    with pytest.raises(SsdTrainError, match=r"^s3://bucket/p/a.*: its copy .* cannot be written: "):
        copies().bring(Url("bucket", "p/"))


def test_a_full_disk_is_said_before_the_transfer(client, monkeypatch):
    put(client, "p/1.jpg", "p/2.jpg", body=b"1" * 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1999))
    with pytest.raises(SsdTrainError, match="the disk is full: at least 2000 bytes are needed, 1999 are free"):
        copies().bring(Url("bucket", "p/"))


def test_permission_to_write_is_asked_for_without_a_trace(client):
    Store().check_writable(Url("bucket", "model/config.json"))
    with pytest.raises(DataError, match="^s3://none/model: there is no such bucket$"):
        Store().check_writable(Url("none", "model"))
    assert "Contents" not in client.list_objects_v2(Bucket="bucket")
    assert "Uploads" not in client.list_multipart_uploads(Bucket="bucket")


@pytest.fixture
def limited(s3_server, client, monkeypatch):
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
    client.create_bucket(Bucket="other")
    put(client, "open/1.jpg", "closed/1.jpg")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    s3_server.tell("reset-auth", b"0")  # from now on every request is checked
    yield
    s3_server.tell("reset-auth", b"inf")


DENIED = {
    "read": ("read", lambda path: copies().bring(Url("bucket", "closed/1.jpg"))),
    "read what was listed": ("read", lambda path: copies().bring(Url("bucket", "")), "s3://bucket/closed/1.jpg"),
    "list": ("list", lambda path: copies().bring(Url("other", "")), "s3://other/"),
    "write": ("write", lambda path: upload(Store(), path, Url("bucket", "closed/1.jpg"), HeardProgress())),
    "ask to write": ("write", lambda path: Store().check_writable(Url("bucket", "closed/1.jpg"))),
}


@pytest.mark.parametrize("case", DENIED.values(), ids=DENIED.keys())
def test_what_is_not_permitted_is_named(limited, tmp_path, case):
    doing, action, where = (*case, "s3://bucket/closed/1.jpg")[:3]
    (tmp_path / "file").write_bytes(b"1")
    assert copies().bring(Url("bucket", "open/1.jpg")).read_bytes() == b"1"
    with pytest.raises(DataError, match=f"^{where}: access denied: these credentials may not {doing} it$"):
        action(tmp_path / "file")


def test_unknown_credentials(limited, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    with pytest.raises(DataError, match="^s3://bucket/open/1: the credentials are refused: the access key is unknown"):
        copies().bring(Url("bucket", "open/1"))


REFUSALS = {
    "AccessDenied": "access denied: these credentials may not list it",
    "SignatureDoesNotMatch": "the credentials are refused: the secret key does not fit the access key",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the credentials are refused: the clock of this machine is wrong",
    "Strange{}": r"http://127.0.0.1:\d+ refused to list it: Strange{} Some thing.",
}


@pytest.mark.parametrize("code, words", REFUSALS.items(), ids=REFUSALS.keys())
def test_refusals_in_words(monkeypatch, code, words):
    with stub(fault(code, "Some\nthing.")) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match=f"^s3://bucket/a/: {words}$"):
            copies().bring(Url("bucket", "a/"))


def test_a_busy_store_is_asked_again_a_few_times(monkeypatch, no_pauses):
    with stub(fault("SlowDown", status=503)) as (address, seen):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match="^s3://bucket/a/: the store is too busy, after 4 attempts$"):
            copies().bring(Url("bucket", "a/"))
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
def test_bytes_that_break_off_are_asked_for_again(monkeypatch, no_pauses, tmp_path, times, fails):
    data = os.urandom(100_000)
    with stub(breaking_off(times, data)) as (address, seen), open(tmp_path / "copy", "w+b") as file:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        if fails:
            with pytest.raises(DataError, match="^s3://bucket/a: broke off while it was read, 4 times$"):
                Store().read(Url("bucket", "a"), file)
        else:
            assert Store().read(Url("bucket", "a"), file) == Entry("a", len(data), '"1"')
            assert (tmp_path / "copy").read_bytes() == data
    assert len(seen) == min(times + 1, s3.ATTEMPTS)


def test_a_store_that_falls_silent_is_given_up(monkeypatch, no_pauses, tmp_path):
    monkeypatch.setattr(s3, "READ_SECONDS", 0.3)
    over = threading.Event()
    with stub(lambda handler: over.wait(20)) as (address, seen), open(tmp_path / "copy", "w+b") as file:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match=f"^s3://bucket/a: {address} fell silent for 0.3 s, 4 times$"):
            Store().read(Url("bucket", "a"), file)
        over.set()
    assert len(seen) == s3.ATTEMPTS


def test_an_endpoint_that_is_not_there_is_told_soon(monkeypatch, secret):
    with stub(fault("Any")) as (address, _):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", address.replace("//", f"//user:{secret}@"))
    started = time.monotonic()
    with pytest.raises(DataError, match=f"^s3://bucket/a: {address} cannot be reached, after 4 attempts$"):
        copies().bring(Url("bucket", "a"))
    assert time.monotonic() - started < 20


def test_no_credentials(client, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DataError, match="^s3://bucket/a: found no credentials, expected AWS_ACCESS_KEY_ID with"):
        copies().bring(Url("bucket", "a"))


def test_an_endpoint_that_is_no_address(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    with pytest.raises(ConfigError, match="^AWS_ENDPOINT_URL: found localhost, expected http"):
        Store()


def test_a_missing_boto3_is_told_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DependencyError, match=r"pip install 'ssd-train\[s3\]'"):
        Store()


def test_credentials_are_in_no_error(client, secret, caplog):
    """Not in its text, nor in what stands behind it, nor in a log."""
    caplog.set_level("INFO")
    failing = [lambda: copies().bring(Url("none", "a")), lambda: copies().bring(Url("Bad_Bucket!", "a"))]
    for fail in failing:
        with pytest.raises(DataError) as caught:
            fail()
        assert secret not in f"{caught.getrepr()} {caplog.text}"
