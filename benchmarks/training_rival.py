r"""Training beside GluonCV's recipe as it comes: images per second of whole epochs, data and all.

    python -m benchmarks.training_rival [--side 300] [--rounds 5] [--who ours ours-cached ...]

Each contestant is a process of its own that keeps its network and goes through one epoch a turn; the turns alternate.
Both train ssd_512_mobilenet1.0's network, batch 8, on the same drawn JPEG of 640 x 480. GluonCV gets no settings that
its users do not make: float32, the threads that MXNet takes by itself, and 0 or 2 workers for the loader, of which the
faster counts. Ours decodes each time (`ours`), keeps decoded pictures (`ours-cached`, the default), or has a frozen
backbone besides (`ours-frozen`: `--freeze_layer_pattern "^features\.mobilenet"`). Ours trains in bfloat16 where `train`
does by default, on processors that compute in it natively.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List

from benchmarks.pictures import write_pictures
from benchmarks.turns import alternate, figures, times_as_fast
from ssd_train import mxnet_compat

PICTURES = (
    128  # 16 steps a turn: what an epoch takes once at its start and end is a small part, as it is with real sets
)
WHO = ("gluoncv-0-workers", "gluoncv-2-workers", "ours", "ours-cached", "ours-frozen")
BACKBONE = r"^features\.mobilenet"
AIM = 2.5 if mxnet_compat.has_native_bfloat16() else 1.9
AIMS = {(side, who): AIM for side in (300, 512) for who in ("ours", "ours-cached")}
AIMS[300, "ours-frozen"] = 4.0


def main() -> None:
    """Print a JSON line for each contestant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--who", nargs="+", choices=WHO, default=WHO)
    parser.add_argument("--be", choices=WHO, help=argparse.SUPPRESS)  # a contestant, on what lies in --folder
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.be:
        serve(make_epoch(flags.be, flags.side, flags.folder))
        return
    for row in measure(flags.side, flags.rounds, flags.who):
        print(json.dumps(row), flush=True)


def measure(side: int, rounds: int, who: List[str]) -> List[Dict[str, Any]]:
    """Return a row per contestant; ours have the ratio to the faster of GluonCV's."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), PICTURES)
        contestants = {name: Contestant(name, side, folder) for name in who}
        try:
            speeds = alternate({name: c.turn for name, c in contestants.items()}, rounds)
        finally:
            for contestant in contestants.values():
                contestant.end()
    rivals = [name for name in speeds if name.startswith("gluoncv")]
    fastest = max(rivals, key=lambda name: max(speeds[name]), default=None)
    rows = []
    for name, found in speeds.items():
        row = {"pixels": side, "who": name, "images/s": figures(found)}
        if fastest and name not in rivals:
            ratio, aim = times_as_fast(found, speeds[fastest]), AIMS.get((side, name))
            row.update({"beside": fastest, **ratio, "aim": aim})
        rows.append(row)
    return rows


class Contestant:
    """A process that goes through an epoch when it is told to."""

    def __init__(self, name: str, side: int, folder: str) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        command = [sys.executable, "-m", __spec__.name, "--be", name, "--side", str(side), "--folder", folder]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def turn(self) -> int:
        """Images of one epoch."""
        self._process.stdin.write("epoch\n")
        self._process.stdin.flush()
        return int(self._answer())

    def end(self) -> None:
        """Let it go."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        for line in self._process.stdout:
            if line.startswith("done "):
                return line[5:]
        raise SystemExit(f"a contestant ended with {self._process.wait()}")


def serve(epoch: Callable[[], int]) -> None:
    """Go through an epoch for each line on standard input; the first is gone through before any is asked for."""
    print(f"done {epoch()}", flush=True)
    for _ in sys.stdin:
        print(f"done {epoch()}", flush=True)


def make_epoch(who: str, side: int, folder: Path) -> Callable[[], int]:
    """Return the function of one turn of the contestant `who`."""
    if who.startswith("gluoncv"):
        return gluoncvs_epoch(side, folder, workers=int(who.split("-")[1]))
    return our_epoch(side, folder, cache=who != "ours", pattern=BACKBONE if who == "ours-frozen" else "")


def gluoncvs_epoch(side: int, folder: Path, workers: int) -> Callable[[], int]:
    """Return a function that trains an epoch of benchmarks.rival."""
    from benchmarks.rival import Labelled, Rival

    data = Labelled(folder / "images", folder / "output.manifest")
    rival = Rival(data, side, workers)
    return lambda: rival.epoch().images


def our_epoch(side: int, folder: Path, cache: bool, pattern: str) -> Callable[[], int]:
    """Return a function that trains an epoch as `train` does."""
    import itertools

    from benchmarks.training_speed import Course

    course = Course(side, folder / "images", folder / "output.manifest", cache=cache, pattern=pattern)
    epochs = itertools.count()
    return lambda: course.epoch(next(epochs))["images"]


if __name__ == "__main__":
    main()
