"""Looks at pictures on a device and publishes what it finds by MQTT: the program of the Greengrass component.

    python runner.py --model model.onnx --folder /var/lib/pictures --outbox outbox.db --broker 127.0.0.1
    python runner.py --model model.onnx --camera 0 --every 5 --outbox outbox.db --broker 127.0.0.1

A message is on the disk before its picture counts as looked at, and leaves the disk when the broker has acknowledged
it (QoS 1). So no message is lost while the broker is away, or when this program or the device is cut off at any moment;
one may come twice, with the same "id". Where --limit messages wait, pictures in the folder wait, too, and a camera's
are skipped, which is told.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import signal
import sqlite3
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

from looks import Look, from_camera, from_folder
from outbox import Outbox

from ssd_train.cli.console import within
from ssd_train.deploy.detector import Detector
from ssd_train.errors import ConfigError, DataError, DependencyError, SsdTrainError

WINDOW = 20  # messages that are on their way at once
PATIENCE = 30.0  # seconds for the broker to acknowledge before a message is sent again
log = logging.getLogger("edge")


def main() -> int:
    """Run until SIGTERM or SIGINT, or until there is nothing left to do (--once): 0. What cannot be used ends it with
    2, what breaks later with 1, so that whoever started it starts it again."""
    flags = make_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        check_places(flags)
        detector = Detector.load(flags.model)
        client = connect(flags)
    except (SsdTrainError, OSError) as error:
        log.error("error: %s", error)
        return 2
    return run(detector, client, flags, stop)


def run(detector: Detector, client: Any, flags: argparse.Namespace, stop: threading.Event) -> int:
    """Look and send, each in a thread of its own, until `stop` is set or one of them fails; the exit code."""
    faults: List[BaseException] = []

    def send_on() -> None:
        try:
            send(client, flags, stop)
        except (OSError, ValueError, sqlite3.Error) as error:
            faults.append(error)
            stop.set()  # without a sender there is no use in looking

    sender = threading.Thread(target=send_on, name="sender")
    sender.start()
    try:
        watch(detector, flags, stop)
    except (SsdTrainError, OSError, sqlite3.Error) as error:
        faults.append(error)
    finally:
        stop.set()
        sender.join()
        client.on_disconnect = None  # which tells of brokers that leave
        client.disconnect()
        client.loop_stop()
    for fault in faults:
        log.error("error: %s", fault)
    return 1 if faults else 0


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an .onnx file written by ssd_train export")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--folder", type=Path, help="pictures that appear here are looked at once each")
    place.add_argument("--camera", help="number of a camera, or a video file or stream that OpenCV opens")
    parser.add_argument("--outbox", type=Path, required=True, help="file that messages wait in")
    parser.add_argument(
        "--limit", type=within(int, 1, 1e9), default=100_000, help="messages that may wait; default: 100000"
    )
    parser.add_argument(
        "--every", type=within(float, 0.01, 86400), default=1.0, help="seconds between looks; default: 1"
    )
    parser.add_argument(
        "--threshold", type=within(float, 0, 1), default=0.3, help="least score that is told, 0 to 1; default: 0.3"
    )
    parser.add_argument("--broker", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", type=within(int, 1, 65535), default=1883, help="default: 1883")
    parser.add_argument("--topic", default="ssd_train/detections")
    parser.add_argument("--client_id", default="ssd_train-edge", help="name of this device, one of a kind")
    parser.add_argument("--ca", help="TLS: certificate of who vouches for the broker")
    parser.add_argument("--cert", help="TLS: this device's certificate")
    parser.add_argument("--key", help="TLS: this device's key")
    parser.add_argument("--once", action="store_true", help="end when all pictures are looked at and all are sent")
    return parser


def check_places(flags: argparse.Namespace) -> None:
    """An OSError or ConfigError for a folder, a topic, a certificate or an outbox that cannot be used."""
    if flags.folder and not flags.folder.is_dir():
        raise ConfigError(f"--folder {flags.folder}: not found, expected a folder")
    if set("+#") & set(flags.topic):
        raise ConfigError(f"--topic {flags.topic}: found a wildcard, expected the name of a topic")
    for name in ("ca", "cert", "key"):
        path = getattr(flags, name)
        if path and not Path(path).is_file():
            raise ConfigError(f"--{name} {path}: not found, expected a file")
    try:
        Outbox(flags.outbox, flags.limit).close()
    except sqlite3.Error as error:
        raise ConfigError(f"--outbox {flags.outbox}: {error}, expected a file of ours, or a place for one") from None


def watch(detector: Detector, flags: argparse.Namespace, stop: threading.Event) -> None:
    """Look at pictures, and put what is found into the outbox."""
    outbox = Outbox(flags.outbox, flags.limit)
    with contextlib.closing(outbox):
        looks = from_folder(flags, outbox, stop) if flags.folder else from_camera(flags, stop)
        for look in looks:
            if flags.camera and outbox.is_full:
                log.warning("%s: skipped, %d messages wait", look.name, len(outbox))
                continue
            payload = json.dumps(message(look, detector, flags), allow_nan=False)
            while not outbox.put(look.source, payload) and not stop.wait(0.2):
                pass
            if flags.camera:
                outbox.forget([look.source])  # it will not come again
        while flags.once and len(outbox) and not stop.wait(0.1):
            pass


def message(look: Look, detector: Detector, flags: argparse.Namespace) -> Dict[str, Any]:
    """What is published of a picture: what was found, or why it could not be looked at."""
    told: Dict[str, Any] = {
        "id": hashlib.sha256(look.source.encode()).hexdigest()[:32],
        "device": flags.client_id,
        "image": look.name,
        "taken": look.taken,
    }
    if look.fault:
        return {**told, "fault": look.fault}
    try:
        found = detector(look.image).above(flags.threshold)
    except DataError as error:  # the network's answer is no number; the next picture's may be
        return {**told, "fault": str(error)}
    width, height = found.size_wh
    detections = [
        {"class": detector.class_names[int(c)], "score": round(float(s), 4), "box": [round(float(v), 1) for v in box]}
        for c, s, box in zip(found.class_ids, found.scores, found.boxes)
    ]
    return {**told, "width": int(width), "height": int(height), "detections": detections}


def connect(flags: argparse.Namespace) -> Any:
    """A client that connects, and connects again, by itself; the broker need not be there yet."""
    try:
        from paho.mqtt import client as mqtt
    except ImportError as error:
        raise DependencyError(f"paho-mqtt cannot be imported ({error}); pip install 'ssd-train[edge]'") from None
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=flags.client_id, clean_session=False)
    if flags.ca:
        client.tls_set(flags.ca, flags.cert, flags.key, tls_version=ssl.PROTOCOL_TLS_CLIENT)
    client.on_connect = lambda *_: log.info("connected to %s:%d", flags.broker, flags.port)
    client.on_disconnect = lambda *_: log.info("the broker is away; messages wait")
    client.reconnect_delay_set(1, 30)
    client.connect_async(flags.broker, flags.port, keepalive=30)
    client.loop_start()
    return client


def send(client: Any, flags: argparse.Namespace, stop: threading.Event) -> None:
    """Publish what waits in the outbox, oldest first; what the broker has acknowledged leaves it."""
    with contextlib.closing(Outbox(flags.outbox, flags.limit)) as outbox:
        while not stop.is_set():
            messages = outbox.oldest(WINDOW) if client.is_connected() else []
            sent = [(one.number, client.publish(flags.topic, one.payload, qos=1)) for one in messages]
            for number, outcome in sent:
                if _acknowledged(client, outcome, stop):
                    outbox.remove([number])
            if not messages:
                stop.wait(0.1)


def _acknowledged(client: Any, outcome: Any, stop: threading.Event) -> bool:
    """Whether the broker has it. While the connection is away the client keeps it, and sends it when there is one."""
    end = time.monotonic() + PATIENCE
    while not outcome.is_published() and time.monotonic() < end:
        if stop.wait(0.01):
            break
        if not client.is_connected():
            end = time.monotonic() + PATIENCE
    return outcome.is_published()


if __name__ == "__main__":
    raise SystemExit(main())
