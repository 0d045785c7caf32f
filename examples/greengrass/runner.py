"""Detect objects in images on a device and publish the detections by MQTT: the program of the Greengrass component.

    python runner.py --model model.onnx --folder /var/lib/pictures --outbox outbox.db --broker 127.0.0.1
    python runner.py --model model.onnx --camera 0 --every 5 --outbox outbox.db --broker 127.0.0.1

Messages are stored on disk until the broker has acknowledged them (QoS 1), so none is lost if the broker is unavailable
or if this program or the device stops at any moment. A message may be delivered twice, with the same "id". When --limit
messages are stored, images in the folder are processed later, and camera images are skipped with a warning.
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

from looks import InputImage, read_camera, read_folder
from outbox import Outbox

from ssd_train.cli.arguments import number_in_range
from ssd_train.deploy.detector import Detector
from ssd_train.errors import ConfigError, DataError, DependencyError, SsdTrainError

MAX_IN_FLIGHT = 20  # messages sent and not yet acknowledged
ACKNOWLEDGE_SECONDS = 30.0  # after this time without acknowledgement a message is sent again
log = logging.getLogger("edge")


def main() -> int:
    """Run until SIGTERM or SIGINT, or with --once until all images are processed and all messages sent.

    Returns:
        Exit code: 0, 2 for unusable flags or files, 1 for a later error, after which Greengrass restarts the program.
    """
    flags = make_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        check_flags(flags)
        detector = Detector.load(flags.model)
        client = connect(flags)
    except (SsdTrainError, OSError) as error:
        log.error("error: %s", error)
        return 2
    return run(detector, client, flags, stop)


def run(detector: Detector, client: Any, flags: argparse.Namespace, stop: threading.Event) -> int:
    """Detect in this thread and send in another until `stop` is set or one of them fails; return the exit code."""
    errors: List[BaseException] = []

    def run_sender() -> None:
        try:
            send(client, flags, stop)
        except (OSError, ValueError, sqlite3.Error) as error:
            errors.append(error)
            stop.set()  # without a sender the outbox would only fill up

    sender = threading.Thread(target=run_sender, name="sender")
    sender.start()
    try:
        detect(detector, flags, stop)
    except (SsdTrainError, OSError, sqlite3.Error) as error:
        errors.append(error)
    finally:
        stop.set()
        sender.join()
        client.on_disconnect = None  # this disconnection is intended and not logged
        client.disconnect()
        client.loop_stop()
    for error in errors:
        log.error("error: %s", error)
    return 1 if errors else 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an .onnx file written by ssd_train export")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path, help="folder to watch for images; each is processed once")
    source.add_argument("--camera", help="number of a camera, or a video file or stream that OpenCV opens")
    parser.add_argument("--outbox", type=Path, required=True, help="SQLite file for messages not yet acknowledged")
    parser.add_argument(
        "--limit",
        type=number_in_range(int, 1, 1e9),
        default=100_000,
        help="maximum number of stored messages; default: 100000",
    )
    parser.add_argument(
        "--every",
        type=number_in_range(float, 0.01, 86400),
        default=1.0,
        help="seconds between scans or frames; default: 1",
    )
    parser.add_argument(
        "--threshold",
        type=number_in_range(float, 0, 1),
        default=0.3,
        help="minimum score to publish, 0 to 1; default: 0.3",
    )
    parser.add_argument("--broker", default="127.0.0.1", help="host of the MQTT broker; default: 127.0.0.1")
    parser.add_argument("--port", type=number_in_range(int, 1, 65535), default=1883, help="default: 1883")
    parser.add_argument("--topic", default="ssd_train/detections")
    parser.add_argument("--client_id", default="ssd_train-edge", help="unique name of this device")
    parser.add_argument("--ca", help="TLS: CA certificate of the broker")
    parser.add_argument("--cert", help="TLS: certificate of this device")
    parser.add_argument("--key", help="TLS: private key of this device")
    parser.add_argument("--once", action="store_true", help="exit when all images are processed and all messages sent")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Raise an OSError or ConfigError for an unusable folder, topic, certificate or outbox."""
    if flags.folder and not flags.folder.is_dir():
        raise ConfigError(f"--folder {flags.folder}: not found, expected a folder")
    if set("+#") & set(flags.topic):
        raise ConfigError(f"--topic {flags.topic}: found a wildcard, expected a topic name")
    for name in ("ca", "cert", "key"):
        path = getattr(flags, name)
        if path and not Path(path).is_file():
            raise ConfigError(f"--{name} {path}: not found, expected a file")
    try:
        Outbox(flags.outbox, flags.limit).close()
    except sqlite3.Error as error:
        raise ConfigError(f"--outbox {flags.outbox}: {error}, expected an outbox or a new file") from None


def detect(detector: Detector, flags: argparse.Namespace, stop: threading.Event) -> None:
    """Run the detector on images and put the messages into the outbox."""
    outbox = Outbox(flags.outbox, flags.limit)
    with contextlib.closing(outbox):
        images = read_folder(flags, outbox, stop) if flags.folder else read_camera(flags, stop)
        for image in images:
            if flags.camera and outbox.is_full:
                log.warning("%s: skipped, %d messages are stored", image.name, len(outbox))
                continue
            payload = json.dumps(message(image, detector, flags), allow_nan=False)
            while not outbox.put(image.source, payload) and not stop.wait(0.2):
                pass
            if flags.camera:
                outbox.forget([image.source])  # camera images are never read again
        while flags.once and len(outbox) and not stop.wait(0.1):
            pass


def message(image: InputImage, detector: Detector, flags: argparse.Namespace) -> Dict[str, Any]:
    """Return the message of an image: its detections, or the fault if there are none."""
    header: Dict[str, Any] = {
        "id": hashlib.sha256(image.source.encode()).hexdigest()[:32],
        "device": flags.client_id,
        "image": image.name,
        "taken": image.taken,
    }
    if image.fault:
        return {**header, "fault": image.fault}
    try:
        detections = detector(image.pixels).above(flags.threshold)
    except DataError as error:  # NaN from the network; other images may be unaffected
        return {**header, "fault": str(error)}
    width, height = detections.size_wh
    rows = [
        {"class": detector.class_names[int(c)], "score": round(float(s), 4), "box": [round(float(v), 1) for v in box]}
        for c, s, box in zip(detections.class_ids, detections.scores, detections.boxes)
    ]
    return {**header, "width": int(width), "height": int(height), "detections": rows}


def connect(flags: argparse.Namespace) -> Any:
    """Return a client that connects and reconnects in the background, also if the broker is not available yet."""
    try:
        from paho.mqtt import client as mqtt
    except ImportError as error:
        raise DependencyError(f"paho-mqtt cannot be imported ({error}); pip install 'ssd-train[edge]'") from None
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=flags.client_id, clean_session=False)
    if flags.ca:
        client.tls_set(flags.ca, flags.cert, flags.key, tls_version=ssl.PROTOCOL_TLS_CLIENT)
    client.on_connect = lambda *_: log.info("connected to %s:%d", flags.broker, flags.port)
    client.on_disconnect = lambda *_: log.info("disconnected from the broker; messages are stored")
    client.reconnect_delay_set(1, 30)
    client.connect_async(flags.broker, flags.port, keepalive=30)
    client.loop_start()
    return client


def send(client: Any, flags: argparse.Namespace, stop: threading.Event) -> None:
    """Publish the messages in the outbox, oldest first, and remove those that the broker has acknowledged."""
    with contextlib.closing(Outbox(flags.outbox, flags.limit)) as outbox:
        while not stop.is_set():
            messages = outbox.oldest(MAX_IN_FLIGHT) if client.is_connected() else []
            sent = [(one.number, client.publish(flags.topic, one.payload, qos=1)) for one in messages]
            for number, info in sent:
                if _wait_for_acknowledgement(client, info, stop):
                    outbox.remove([number])
            if not messages:
                stop.wait(0.1)


def _wait_for_acknowledgement(client: Any, info: Any, stop: threading.Event) -> bool:
    """Return whether the broker acknowledged the message in time; the client resends it after a reconnection."""
    end = time.monotonic() + ACKNOWLEDGE_SECONDS
    while not info.is_published() and time.monotonic() < end:
        if stop.wait(0.01):
            break
        if not client.is_connected():
            end = time.monotonic() + ACKNOWLEDGE_SECONDS
    return info.is_published()


if __name__ == "__main__":
    raise SystemExit(main())
