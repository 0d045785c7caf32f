"""The runner on a device: every picture's message arrives by a real broker (Debian's mosquitto) on loopback, also when
the broker, the runner or both are killed in between."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.models import CLASSES, talking_model

from ssd_train.data.image_io import encode_png
from ssd_train.data.structures import ClassNames
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.deploy.detector import Detector

pytestmark = pytest.mark.integration
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", exc_type=ImportError)
mqtt = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: the extra 'edge'")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "greengrass"
TOPIC = "ssd_train/detections"
PATIENCE = 60


def waited_for(condition, seconds=PATIENCE):
    """Whether `condition` holds before so many seconds have gone."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Broker:
    """A mosquitto on loopback that keeps its sessions on the disk."""

    def __init__(self, folder):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self._settings, self._state = folder / "mosquitto.conf", folder / "mosquitto.db"
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n"
            f"persistence true\npersistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n"
        )
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert waited_for(self._answers, 10), "mosquitto does not start"

    def kill(self, how=signal.SIGKILL):
        self._process.send_signal(how)
        self._process.wait(10)

    def save(self):
        """Have its sessions on the disk now, so that a kill does not take the listener's."""
        before = self._state.stat().st_mtime_ns if self._state.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        assert waited_for(lambda: self._state.exists() and self._state.stat().st_mtime_ns > before, 10)

    def _answers(self):
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


class Listener:
    """Hears every message, over a session that the broker keeps."""

    def __init__(self, port):
        self.messages, self._lock, ready = [], threading.Lock(), threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self._client.on_message = self._hear
        self._client.on_connect = lambda client, *_: client.subscribe(TOPIC, qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(10)

    def _hear(self, client, data, message):
        with self._lock:
            self.messages.append(json.loads(message.payload))

    def names(self):
        with self._lock:
            return {message["image"] for message in self.messages}

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path):
    place = tmp_path / "broker"
    place.mkdir()
    found = Broker(place)
    yield found
    found.kill()


@pytest.fixture
def listener(broker):
    found = Listener(broker.port)
    broker.save()
    yield found
    found.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from ssd_train.deploy.export.onnx import write_onnx

    folder = tmp_path_factory.mktemp("model")
    write_onnx(talking_model(folder / "model"), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def encoded():
    return [encode_png(sample.image) for sample in draw_shapes_set(8, seed=2)]


class Device:
    """The runner as a process of its own, and the folder that it watches."""

    def __init__(self, model, place, port):
        self.folder, self.outbox, self._place = place / "pictures", place / "outbox.db", place
        self.folder.mkdir()
        self._model, self._port = model, port

    def add(self, names, encoded):
        """Pictures appear in the folder, whole."""
        for index, name in enumerate(names):
            (self.folder / f".{name}").write_bytes(encoded[index % len(encoded)])
            os.replace(self.folder / f".{name}", self.folder / name)

    def start(self, *more):
        command = [sys.executable, str(EXAMPLE / "runner.py"), "--model", str(self._model)]
        command += ["--outbox", str(self.outbox), "--port", str(self._port), "--every", "0.2", "--threshold", "0.2"]
        source = [] if "--camera" in more else ["--folder", str(self.folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        self.log = open(self._place / "log.txt", "a")
        self.process = subprocess.Popen(
            [*command, *source, *more], env=environment, stdout=self.log, stderr=subprocess.STDOUT
        )

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(30)
        self.log.close()

    def waiting(self):
        """How many messages are in the outbox."""
        sys.path.insert(0, str(EXAMPLE))
        try:
            from outbox import Outbox
        finally:
            sys.path.remove(str(EXAMPLE))
        if not self.outbox.exists():
            return 0
        box = Outbox(self.outbox, 1)
        try:
            return len(box)
        finally:
            box.close()

    def told(self):
        return (self._place / "log.txt").read_text()


@pytest.fixture
def device(model, tmp_path, broker):
    found = Device(model, tmp_path, broker.port)
    yield found
    if found.process.poll() is None:
        found.kill()


def names(start, stop):
    return [f"{index:03}.png" for index in range(start, stop)]


@needs_broker
def test_runner_publishes_detections_and_faults(device, listener, encoded):
    device.add(["a.png"], encoded)
    (device.folder / "broken.jpg").write_bytes(b"no picture")
    (device.folder / "notes.txt").write_text("no picture, and not called one")
    device.start("--once")
    assert device.process.wait(PATIENCE) == 0, device.told()
    assert waited_for(lambda: len(listener.messages) == 2)
    by_name = {message["image"]: message for message in listener.messages}
    found = by_name["a.png"]
    assert (found["device"], found["width"], found["height"]) == ("ssd_train-edge", 160, 120)
    assert found["detections"] and {d["class"] for d in found["detections"]} <= set(CLASSES)
    boxes = np.array([d["box"] for d in found["detections"]])
    assert boxes.min() >= 0 and boxes.max() <= 160 and min(d["score"] for d in found["detections"]) >= 0.2
    assert "broken.jpg" in by_name["broken.jpg"]["fault"] and "detections" not in by_name["broken.jpg"]


@pytest.mark.slow
@needs_broker
def test_runner_broker_killed_and_restarted_gets_every_message(device, broker, listener, encoded):
    device.add(names(0, 10), encoded)
    device.start()
    assert waited_for(lambda: listener.names() == set(names(0, 10))), device.told()
    assert waited_for(lambda: device.waiting() == 0)
    broker.kill()
    device.add(names(10, 25), encoded)
    assert waited_for(lambda: device.waiting() == 15), "it goes on without the broker"
    assert len(listener.names()) == 10
    broker.start()
    assert waited_for(lambda: listener.names() == set(names(0, 25))), device.told()
    assert waited_for(lambda: device.waiting() == 0)
    device.kill(signal.SIGTERM)
    assert device.process.returncode == 0 and "disconnected from the broker" in device.told()


@pytest.mark.slow
@needs_broker
def test_runner_killed_at_any_time_sends_every_image(device, listener, encoded):
    device.add(names(0, 60), encoded)
    for reached in (5, 20, 40):
        device.start()
        assert waited_for(lambda reached=reached: len(listener.names()) >= reached), device.told()
        device.kill()
    device.start("--once")
    assert device.process.wait(PATIENCE) == 0, device.told()
    assert waited_for(lambda: listener.names() == set(names(0, 60)))
    identities = {(message["image"], message["id"]) for message in listener.messages}
    assert len(identities) == 60, "what comes twice has the same id"


@pytest.mark.parametrize(
    "flags, code, expected",
    [
        pytest.param(("--model", "none.onnx"), 2, "error: none.onnx: found no model", id="model"),
        pytest.param(("--folder", "none"), 2, "error: --folder none: not found", id="folder"),
        pytest.param(("--outbox", "text"), 2, "error: --outbox text: file is not a database", id="outbox"),
        pytest.param(("--ca", "none.pem"), 2, "error: --ca none.pem: not found", id="certificate"),
        pytest.param(("--topic", "a/#"), 2, "error: --topic a/#: found a wildcard", id="topic"),
        pytest.param(("--threshold", "7"), 2, "argument --threshold: found 7, expected 0 to 1", id="threshold"),
        pytest.param(("--camera", "none.avi", "--once"), 1, "error: camera none.avi: ", id="camera"),
    ],
)
def test_runner_invalid_flags_are_one_line(model, tmp_path, flags, code, expected):
    (tmp_path / "text").write_text("neither a database nor a certificate")
    (tmp_path / "pictures").mkdir()
    usual = {"--model": str(model), "--folder": "pictures", "--outbox": "outbox.db", "--port": "1"}
    if "--camera" in flags:
        del usual["--folder"]
    given = {**usual, **dict(zip(flags[::2], flags[1::2]))} if len(flags) == 2 else usual
    words = [word for pair in given.items() for word in pair] + (list(flags) if len(flags) == 3 else [])
    run = subprocess.run(
        [sys.executable, str(EXAMPLE / "runner.py"), *words], cwd=str(tmp_path), stderr=subprocess.PIPE, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, universal_newlines=True,
    )  # fmt: skip
    assert run.returncode == code and "Traceback" not in run.stderr, run.stderr
    assert expected in run.stderr.splitlines()[-1]


@pytest.fixture
def runner(monkeypatch):
    """The runner's module."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("runner")
    for name in ("runner", "looks", "outbox"):
        sys.modules.pop(name)


class SayingNaN:
    """An engine whose answers are no numbers."""

    name, class_names, side, grayscale = "mxnet", ClassNames(CLASSES), 128, False

    def run(self, pictures):
        return np.full((len(pictures), 1, 6), np.nan, np.float32)


def test_runner_image_with_nan_output_sends_a_fault(runner):
    flags = argparse.Namespace(client_id="edge", threshold=0.3)
    image = runner.InputImage("a.png|1|2", "a.png", "now", draw_shapes_set(1, seed=1)[0].image)
    message = runner.message(image, Detector(SayingNaN()), flags)
    assert message["image"] == "a.png" and "NaN or infinity" in message["fault"] and "detections" not in message


class Hands:
    """What somebody does each time that the runner pauses; after the last thing it is to stop."""

    def __init__(self, *things):
        self._things, self._ended = iter(things), False

    def is_set(self):
        return self._ended

    def wait(self, seconds):
        next(self._things, self._end)()

    def _end(self):
        self._ended = True


def test_runner_disk_unmounted_and_mounted_reads_no_image_twice(runner, encoded, tmp_path):
    """What is left of a mounted disk is an empty folder, and no error."""
    folder, away, looked_at = tmp_path / "disk", tmp_path / "away", []
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encoded[0])

    def unmount():
        folder.rename(away)
        folder.mkdir()

    def mount():
        folder.rmdir()
        away.rename(folder)

    def change():
        (folder / "b.png").unlink()
        (folder / "c.png").write_bytes(encoded[1])

    def nothing():
        pass

    outbox = runner.Outbox(tmp_path / "outbox.db", 9)
    hands = Hands(nothing, unmount, nothing, mount, nothing, change, nothing)
    for image in runner.read_folder(argparse.Namespace(folder=folder, every=0, once=False), outbox, hands):
        looked_at.append(image.name)
        outbox.put(image.source, "{}")
    assert looked_at == ["a.png", "b.png", "c.png"]
    assert [source.split("|")[0] for source in sorted(outbox.sources())] == ["a.png", "c.png"], "b.png was deleted"
    outbox.close()


def test_recipe_names_existing_files_and_flags():
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((EXAMPLE / "recipe.yaml").read_text())
    assert recipe["RecipeFormatVersion"] == "2020-01-25"
    assert recipe["ComponentName"] and recipe["ComponentVersion"] == "1.0.0"
    (manifest,) = recipe["Manifests"]
    artifacts = {entry["URI"].rsplit("/", 1)[-1] for entry in manifest["Artifacts"]}
    assert {"runner.py", "looks.py", "outbox.py", "model.onnx"} <= artifacts
    assert {path.name for path in EXAMPLE.glob("*.py")} <= artifacts
    scripts = manifest["Lifecycle"]["Install"]["Script"] + " " + manifest["Lifecycle"]["Run"]["Script"]
    for part in scripts.split("{")[1:]:
        kind, _, name = part.split("}")[0].partition(":")
        known = recipe["ComponentConfiguration"]["DefaultConfiguration"]
        assert kind in ("work", "artifacts", "iot") or name.lstrip("/") in known, part
    flags = [word for word in manifest["Lifecycle"]["Run"]["Script"].split() if word.startswith("--")]
    help_text = subprocess.run(
        [sys.executable, str(EXAMPLE / "runner.py"), "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.PIPE, universal_newlines=True,
        check=True,
    ).stdout  # fmt: skip
    assert len(flags) > 6 and all(flag in help_text for flag in flags)
