"""Weights of GluonCV's model zoo: which file is wanted, and where it is found."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from helpers.data import HeardProgress
from helpers.services import publish, zoo_server

from ssd_train.errors import ConfigError, TrainingInterrupted, WeightsError
from ssd_train.model.model_zoo import ZooFile, find_weights, store, zoo_file
from ssd_train.progress import Progress

NAME = "ssd_512_mobilenet1.0_coco"
FILE = b"weights of any content" * 1000


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Server of a zoo with one file, whose SHA-1 is that of the model store; the cache is empty."""
    (tmp_path / "source.params").write_bytes(FILE)
    monkeypatch.setitem(store._model_sha1, NAME, publish(tmp_path / "zoo", NAME, tmp_path / "source.params"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSD_TRAIN_MIRROR", raising=False)
    with zoo_server(tmp_path / "zoo") as server:
        monkeypatch.setenv("MXNET_GLUON_REPO", server.address)
        yield server


@pytest.fixture
def cached(tmp_path, zoo):
    """Path of the file in GluonCV's cache."""
    return tmp_path / "home" / "models" / f"{wanted().stem}.params"


def wanted():
    return ZooFile(NAME, store._model_sha1[NAME])


def archive_of(zoo):
    return next(zoo.folder.rglob("*.zip"))


def refusal(weights_dir=None, **limits):
    with pytest.raises(WeightsError) as error:
        find_weights(wanted(), weights_dir, **{"seconds": 10, "silent_seconds": 5, **limits})
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "zoo, base_network, side, name, is_noted",
    [
        ("coco", "mobilenet1.0", 300, "ssd_512_mobilenet1.0_coco", False),
        ("voc", "mobilenet1.0", 512, "ssd_512_mobilenet1.0_voc", False),
        ("voc", "vgg-16", 300, "ssd_300_vgg16_atrous_voc", False),
        ("coco", "vgg-16", 512, "ssd_512_vgg16_atrous_coco", False),
        ("coco", "vgg-16", 1024, "ssd_512_vgg16_atrous_coco", False),
        ("imagenet", "vgg-16", 300, "vgg16_atrous", False),
        ("imagenet", "resnet-50", 300, "resnet50_v1", False),
        ("coco", "mobilenet0.25", 300, "mobilenet0.25", True),
        ("coco", "mobilenetv2_1.0", 300, "mobilenetv2_1.0", True),
    ],
)
def test_zoo_file_of_network_and_size(zoo, base_network, side, name, is_noted):
    file, note = zoo_file(zoo, base_network, side)
    assert file == ZooFile(name, store._model_sha1[name])
    assert (base_network in note and zoo in note) == is_noted and bool(note) == is_noted


def test_find_weights_in_the_zoo_equals_gluoncvs_cache(zoo, cached):
    """GluonCV's own function then takes the file without asking anybody."""
    progress = HeardProgress()
    assert find_weights(wanted(), progress=progress) == cached
    assert cached.read_bytes() == FILE and os.listdir(cached.parent) == [cached.name]
    assert zoo.requests == [f"/gluon/models/{wanted().stem}.zip"]
    assert str(cached) in progress.lines[0] and zoo.address in progress.lines[0]
    assert store.get_model_file(NAME) == str(cached)
    assert find_weights(wanted()) == cached and len(zoo.requests) == 1


def test_find_weights_downloaded_by_gluoncv_are_taken_from_its_cache(zoo, cached):
    assert store.get_model_file(NAME) == str(cached)
    asked = len(zoo.requests)
    assert find_weights(wanted()) == cached and len(zoo.requests) == asked


def test_find_weights_from_a_redirect(zoo, cached):
    zoo.fault = "redirect"
    assert find_weights(wanted()) == cached and len(zoo.requests) == 2


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("cut-off", "cut off"),
        ("silent", "no answer within 1 s"),
        ("404", "404"),
        ("redirect-loop", "redirects"),
        ("page", "archive"),
    ],
)
def test_find_weights_faulty_server_is_reported(zoo, cached, fault, reason):
    zoo.fault = fault
    began = time.monotonic()
    message = refusal(silent_seconds=1)
    assert time.monotonic() - began < 8
    assert message.startswith(f"{wanted().stem}.params: ") and reason in message and zoo.address in message
    assert wanted().sha1 in message and str(cached.parent) in message and "--pretrained FILE" in message
    assert not cached.exists()


def test_find_weights_unreachable_zoo_is_reported(zoo, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        monkeypatch.setenv("MXNET_GLUON_REPO", f"http://127.0.0.1:{gone.getsockname()[1]}")
    assert "cannot be reached" in refusal()


def test_find_weights_that_take_too_long_are_reported(zoo):
    """Bytes arrive, so that the limit of silence does not count."""
    zoo.fault = "slow"
    assert "0.5 s" in refusal(seconds=0.5)


def damaged(zoo, change):
    with zipfile.ZipFile(archive_of(zoo)) as archive:
        (name,) = archive.namelist()
        content = archive.read(name)
    with zipfile.ZipFile(archive_of(zoo), "w") as archive:
        archive.writestr(*change(name, content))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda name, content: (name, content[:-1] + b"x"), "another SHA-1"),
        (lambda name, content: (f"../{name}", content), "an archive without"),
        (lambda name, content: ("other.params", content), "an archive without"),
    ],
    ids=["another-sum", "member-outside", "other-member"],
)
def test_find_weights_wrong_content_is_not_cached(zoo, cached, change, reason):
    damaged(zoo, change)
    assert reason in refusal()
    assert not cached.exists() and not (cached.parent.exists() and os.listdir(cached.parent))


def test_find_weights_damaged_archive_is_reported(zoo, cached):
    data = bytearray(archive_of(zoo).read_bytes())
    data[60:80] = bytes(20)
    archive_of(zoo).write_bytes(data)
    assert "archive" in refusal() and not cached.exists()


def test_find_weights_wrong_sum_in_cache_is_replaced_with_a_warning(zoo, cached):
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half")
    progress = HeardProgress()
    assert find_weights(wanted(), progress=progress) == cached and cached.read_bytes() == FILE
    assert [str(cached.parent) in warning and "SHA-1" in warning for warning in progress.warnings] == [True]


@pytest.mark.parametrize("fault", ["silent", "404"])
def test_find_weights_asks_the_mirror_after_the_zoo(zoo, cached, tmp_path, monkeypatch, fault):
    with zoo_server(zoo.folder) as mirror:
        monkeypatch.setenv("SSD_TRAIN_MIRROR", mirror.address)
        zoo.fault = fault
        assert find_weights(wanted(), silent_seconds=1) == cached
        assert len(zoo.requests) == len(mirror.requests) == 1
        cached.unlink()
        mirror.fault = "404"
        assert {zoo.address, mirror.address} <= set(re.findall(r"http://[\d.:]+/", refusal(silent_seconds=1)))


@pytest.mark.parametrize("name", ["{stem}.params", NAME + ".params", "{stem}.zip"])
def test_find_weights_in_weights_dir_makes_no_request(zoo, cached, tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    path = folder / name.format(stem=wanted().stem)
    shutil.copy(archive_of(zoo) if path.suffix == ".zip" else tmp_path / "source.params", path)
    cached.parent.mkdir(parents=True)
    expected = cached if path.suffix == ".zip" else path
    assert find_weights(wanted(), folder) == expected and expected.read_bytes() == FILE and zoo.requests == []


def test_find_weights_wrong_sum_in_weights_dir_goes_on_with_a_warning(zoo, cached, tmp_path):
    path = tmp_path / f"{NAME}.params"
    path.write_bytes(b"no")
    progress = HeardProgress()
    assert find_weights(wanted(), tmp_path, progress) == cached
    assert [path.name in warning for warning in progress.warnings] == [True]
    zoo.fault = "404"
    cached.unlink()
    assert f"{tmp_path}: {path.name} has another SHA-1" in refusal(tmp_path)


def test_find_weights_unreadable_file_goes_on(zoo, cached, tmp_path):
    (tmp_path / f"{NAME}.params").symlink_to("/proc/self/mem")  # its first page cannot be read, by root neither
    assert find_weights(wanted(), tmp_path) == cached
    cached.unlink()
    zoo.fault = "404"
    assert "cannot be read" in refusal(tmp_path)


def test_find_weights_missing_weights_dir_raises(zoo, tmp_path):
    with pytest.raises(ConfigError, match="weights_dir: .*none"):
        find_weights(wanted(), tmp_path / "none")
    assert zoo.requests == []


def test_find_weights_stops_on_request_while_the_server_is_silent(zoo):
    class Stopping(Progress):
        def track(self, items, total, what):
            for number, item in enumerate(items):
                if number == 2:
                    raise TrainingInterrupted("stopped")
                yield item

    zoo.fault = "silent"
    began = time.monotonic()
    with pytest.raises(TrainingInterrupted):
        find_weights(wanted(), progress=Stopping())
    assert time.monotonic() - began < 5


PROCESS = """
import sys
from pathlib import Path
from ssd_train.model.model_zoo import ZooFile, find_weights, store
store._model_sha1[sys.argv[1]] = sys.argv[2]
print(find_weights(ZooFile(sys.argv[1], sys.argv[2])))
"""


def test_find_weights_two_processes_at_once_leave_one_whole_file(zoo, cached):
    """The server sends the second half of the file only when both have asked."""
    zoo.fault = "together"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    command = [sys.executable, "-c", PROCESS, NAME, wanted().sha1]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, universal_newlines=True) for _ in range(2)
    ]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed == [str(cached)] * 2
    assert cached.read_bytes() == FILE and os.listdir(cached.parent) == [cached.name]
    assert len(zoo.requests) == 2
