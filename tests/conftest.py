"""What all tests share: where the real data sets are, and how many threads a test may take."""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import itertools
import os
import signal
import traceback
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Callable, Iterator

import hypothesis
import pytest

# Set before a test loads NumPy, OpenCV or MXNet: sums are the same on every machine, and the processes of tests do not
# starve each other. A test of the choice itself starts a process of its own.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")


# A shell that starts the tests in its background lets them ignore Ctrl-C, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example that a busy machine takes long for is no failure.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


@pytest.fixture(scope="module", autouse=True)
def _memory_given_back() -> Iterator[None]:
    """What the tests of a module took: else the C library keeps the arrays of dead networks, gigabytes in the end."""
    yield
    gc.collect()
    gc.freeze()  # what is left are modules; the next collections need not look at them
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session", autouse=True)
def _service_models_read_once() -> Iterator[None]:
    """Without it each of boto3's sessions parses the descriptions of its services, megabytes of JSON, again."""
    from botocore.loaders import JSONFileLoader

    load = functools.lru_cache(maxsize=None)(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda self, path: load(path))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with `data/` and `weights/`: real data sets that no repository can hold. Skips where there is none."""
    folder = os.environ.get("SSD_TRAIN_DATA")
    if not folder:
        pytest.skip("SSD_TRAIN_DATA is not set: it names the folder that holds the real data sets")
    if not (Path(folder) / "data").is_dir():
        pytest.fail(f"SSD_TRAIN_DATA is {folder!r}, which holds no data/")
    return Path(folder)


@pytest.fixture(params=["opencv", "pillow"])
def pixel_library(request, monkeypatch) -> str:
    """Decode and resize by each of the two libraries in turn."""
    module = importlib.import_module(f"ssd_train.data.{request.param}_pixels")
    monkeypatch.setattr("ssd_train.data.pixels.operations", module)
    return request.param


@pytest.fixture
def mxnet() -> ModuleType:
    """The module of that name, to compare with; skips where it cannot be had."""
    from ssd_train import mxnet_compat
    from ssd_train.errors import DependencyError

    try:
        return mxnet_compat.mxnet()
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def killed_at() -> Callable[[int, Callable[[], None]], bool]:
    """`killed_at(step, action)` does `action` in a child that leaves without a word, as at kill -9, before its call
    number `step` that changes the disk. True when it died there, False when it came to its end before that."""
    return _killed_at


def _killed_at(step: int, action: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)

        def deadly(real):
            return lambda *args, **kwargs: os._exit(9) if next(steps) == step else real(*args, **kwargs)

        for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, deadly(getattr(os, name)))
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the action failed by itself"
    return code == 9


class S3Server:
    """moto's server of the S3 API, in a thread of this process, on loopback."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.address = "http://{}:{}".format(*self._server.get_host_and_port())

    def tell(self, what: str, data: bytes = b"") -> None:
        """A command to moto itself."""
        request = urllib.request.Request(f"{self.address}/moto-api/{what}", data, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).read()

    def stop(self) -> None:
        """End it."""
        self._server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One for all tests."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3_surroundings(monkeypatch, tmp_path_factory) -> str:
    """No configuration of whoever runs the tests, no request to anything but loopback, and a cache of its own. The
    secret key, which nobody may see."""
    secret = "never-to-be-shown-0123456789"
    none = str(tmp_path_factory.mktemp("aws") / "none")
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": none,
        "AWS_SHARED_CREDENTIALS_FILE": none,
        "SSD_TRAIN_CACHE": str(tmp_path_factory.mktemp("cache")),
    }.items():
        monkeypatch.setenv(name, value)
    return secret


@pytest.fixture
def s3_client(s3_server, s3_surroundings, monkeypatch):
    """boto3's own client of an empty store with one bucket, called bucket; AWS_ENDPOINT_URL points there."""
    import boto3

    s3_server.tell("reset")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.address)
    client = boto3.client("s3", endpoint_url=s3_server.address, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    return client
