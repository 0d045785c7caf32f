"""The light server under load, beside the engine that it runs.

    python -m benchmarks.serving [--seconds 120] [--model model.onnx] [--clients 16] [--bad 0.2]

Prints one JSON line each for
    latency     one client, one picture at a time, JPEG bytes to JSON: milliseconds above the engine's own, in this
                process and over HTTP
    load        many clients: good requests in a second beside what the engine does alone, in turns, the median of the
                pairs
    mixed       the same with a share of broken, huge and harmful bodies among them
and, last, what was not as it should be. Without --model a network with random weights is exported: how long it takes
does not depend on them. Threads of the engine: OMP_NUM_THREADS, here and in the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np

from benchmarks.bodies import bad_bodies
from benchmarks.clients import Crowd, Tally, post, resident_bytes
from ssd_train import mxnet_compat
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.handlers import handle_request, warm_up

TURN = 5.0  # seconds that engine and server have in turns
PICTURES = 8


def main() -> int:
    """Print what was measured; 1 when something was answered wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--base_network", default="mobilenet1.0")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--bad", type=float, default=0.2)
    parser.add_argument("--soak", action="store_true", help="mixed requests only, all of the seconds, and the memory")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = flags.model or make_model(Path(folder), flags.base_network, flags.side)
        faults: List[str] = []
        run = soak if flags.soak else measure
        for row in run(model, flags.seconds, flags.clients, flags.bad, faults):
            print(json.dumps(row), flush=True)
    print(json.dumps({"faults": len(faults), "first": faults[:5]}))
    return 1 if faults else 0


def make_model(folder: Path, base_network: str, side: int) -> Path:
    """Write an ONNX file of a network with random weights."""
    from ssd_train.artifacts.saved_model import SavedModel
    from ssd_train.config import TrainConfig
    from ssd_train.deploy.export.onnx import write_onnx
    from ssd_train.model.net import build_net

    net = build_net(base_network, side, list(SHAPE_CLASSES))
    SavedModel(TrainConfig(base_network=base_network, image_shape=side), SHAPE_CLASSES, 100, epoch=0).save(folder, net)
    write_onnx(SavedModel.load(folder), folder / "model.onnx")
    return folder / "model.onnx"


def measure(model: Path, seconds: float, clients: int, share: float, faults: List[str]) -> Iterator[Dict[str, Any]]:
    """Yield a row per measurement; half of the seconds go to the server, with good and with mixed requests."""
    detector = Detector.load(model)
    warm_up(detector)
    pictures = [sample.image for sample in draw_shapes_set(PICTURES, 1, (640, 480))]
    bodies = [encode_jpeg(picture) for picture in pictures]
    inputs = [detector.to_input(picture)[None] for picture in pictures]
    good = {body: handle_request(detector, body, "image/jpeg")[0].encode() for body in bodies}
    with RunningServer(model) as server:
        about = {"model": model.name, "side": detector.engine.side, "threads": mxnet_compat.cpu_threads()}
        yield {"what": "latency", **about, **latency(detector, inputs, bodies, server.address)}
        for what, bad in (("load", []), ("mixed", bad_bodies(pictures[0]))):
            crowd = Crowd(server.address, good, bad, share)
            crowd.ask(clients, min(TURN, seconds / 4))  # memory settles
            row, tally = in_turns(detector, inputs, crowd, (clients, seconds / 2), server.memory)
            faults += tally.faults
            yield {"what": what, "clients": clients, **row}


def soak(model: Path, seconds: float, clients: int, share: float, faults: List[str]) -> Iterator[Dict[str, Any]]:
    """Yield one row: the memory every few seconds under mixed requests, in MiB; medians of its first and last quarter.

    Clients wait for as long as it takes: the costliest of the bad requests are worked on one after the other.
    """
    detector = Detector.load(model)
    pictures = [sample.image for sample in draw_shapes_set(PICTURES, 1, (640, 480))]
    good = {body: handle_request(detector, body, "image/jpeg")[0].encode() for body in map(encode_jpeg, pictures)}
    held = []
    with RunningServer(model) as server, ThreadPoolExecutor(1) as pool:
        crowd = Crowd(server.address, good, bad_bodies(pictures[0]), share, patience=10 * seconds)
        running = pool.submit(crowd.ask, clients, seconds)
        while not running.done():
            time.sleep(TURN)
            held.append(round(server.memory(), 1))
        total, left = running.result(), round(server.memory(), 1)
    faults += total.faults
    quarter = max(1, len(held) // 4)
    first, last = statistics.median(held[:quarter]), statistics.median(held[-quarter:])
    about = {"what": "soak", "model": model.name, "side": detector.engine.side, "clients": clients, "seconds": seconds}
    answers = {"good": total.good, "bad": total.bad, "p95_ms": total.percentile(95), "faults": len(total.faults)}
    memory = {"first_mib": first, "last_mib": last, "highest_mib": max(held), "growth": round(last / first - 1, 4)}
    yield {**about, **answers, **memory, "after_mib": left}


def latency(detector: Detector, inputs: List[np.ndarray], bodies: List[bytes], address: str) -> Dict[str, float]:
    """Medians in ms, of turns alternated: the engine, all of it in this process, all of it over HTTP."""
    host = http.client.HTTPConnection(address, timeout=60)
    took: Dict[str, List[float]] = {"engine": [], "answer": [], "http": []}
    for turn in range(6 * PICTURES):
        pixels, body = inputs[turn % PICTURES], bodies[turn % PICTURES]
        for name, work in (
            ("engine", lambda: detector.engine.run(pixels)),  # noqa: B023
            ("answer", lambda: handle_request(detector, body, "image/jpeg")),  # noqa: B023
            ("http", lambda: post(host, body, "image/jpeg")),  # noqa: B023
        ):
            started = time.perf_counter()
            work()
            took[name].append(1000 * (time.perf_counter() - started))
    host.close()
    above = {
        f"{name}_above_engine_ms": round(statistics.median(a - b for a, b in zip(took[name], took["engine"])), 2)
        for name in ("answer", "http")
    }
    return {"engine_ms": round(statistics.median(took["engine"]), 2), **above}


def in_turns(
    detector: Detector, inputs: List[np.ndarray], crowd: Crowd, load: Tuple[int, float], memory: Callable[[], float]
) -> "Tuple[Dict[str, Any], Tally]":
    """Measure the engine alone and the server under `load` (clients, seconds) in alternating turns.

    So both see the same noise of the machine. Memory is read after each turn of the server, when no request is open.
    """
    (clients, seconds), total = load, Tally()
    ratios, rates, held = [], [], []
    turns = max(1, round(seconds / TURN))
    for _ in range(turns):
        alone = engine_rate(detector, inputs, min(TURN, seconds))
        tally = crowd.ask(clients, min(TURN, seconds))
        total.add(tally)
        held.append(memory())
        rates.append(alone)
        # what is in the clients' hands at the end of a turn was worked on in it, as all are waited for
        ratios.append(tally.rate / alone)
    row = {
        "good": total.good,
        "bad": total.bad,
        "per_second": round(total.rate, 2),
        "engine_per_second": round(statistics.median(rates), 2),
        "share_of_engine": round(statistics.median(ratios), 3),
        "p50_ms": total.percentile(50),
        "p95_ms": total.percentile(95),
        "faults": len(total.faults),
        "memory_mib": round(held[-1], 1),
        "growth": round(held[-1] / held[0] - 1, 4),
    }
    return row, total


def engine_rate(detector: Detector, inputs: List[np.ndarray], seconds: float) -> float:
    """Pictures in a second, one at a time."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        detector.engine.run(inputs[count % len(inputs)])
        count += 1
    return count / (time.perf_counter() - started)


class RunningServer:
    """`python -m ssd_train serve` on a free port of loopback, for the time of a `with` block."""

    def __init__(self, model: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "ssd_train", "serve", "--model", str(model), "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ), universal_newlines=True)
        said = self.process.stdout.readline()
        if "http://" not in said:
            self.process.kill()
            raise SystemExit(f"the server did not start: {said}")
        self.address = said.rstrip().rstrip("/").rpartition("http://")[2]

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    def memory(self) -> float:
        """MiB in use."""
        return resident_bytes(str(self.process.pid)) / 2**20


if __name__ == "__main__":
    sys.exit(main())
