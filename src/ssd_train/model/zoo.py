"""Weights of GluonCV's model zoo, asked for with a time limit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Optional, Sequence, Tuple

from ssd_train.errors import WeightsError
from ssd_train.model import net as nets
from ssd_train.progress import Progress

SECONDS = 120
ADVICE = "give --pretrained FILE, or --use_pretrained_model 0 to start from random weights"
LOOK = 0.5  # seconds between two looks at whether it has answered


def zoo_weights(
    base_network: str, seconds: float = SECONDS, progress: Optional[Progress] = None, advice: str = ADVICE
) -> Path:
    """The file of GluonCV's model zoo for this backbone, from its cache or the network within `seconds`. An error ends
    with `advice`.

    Fetched by a process of its own, because the zoo's download waits for ever on a server that never answers. It ends
    with this one, however that ends.
    """
    name = "vgg16_atrous" if base_network == nets.VGG else nets.BACKBONES[base_network].zoo_name
    code = (
        "import os, threading; "
        "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start(); "
        "from ssd_train import framework; framework.gluoncv(); "
        "from gluoncv.model_zoo.model_store import get_model_file; "
        f"print('FILE', get_model_file({name!r}))"
    )
    source_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([source_root, *[p for p in sys.path if p]])
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path.split(os.pathsep)!r}; {code}"]
    said = _said_within(command, seconds, progress or Progress())
    if said is None:
        raise WeightsError(
            f"model zoo: found no answer for {name} within {seconds:g} s, expected its weights; {advice}"
        )
    for line in said[0].splitlines():
        if line.startswith("FILE "):
            return Path(line[5:])
    raise WeightsError(f"model zoo: {name} could not be fetched ({_reason(said[1])}); {advice}")


def _said_within(command: Sequence[str], seconds: float, progress: Progress) -> Optional[Tuple[str, str]]:
    """What a program writes, to standard output and error, when it ends within `seconds`; None when it does not. Its
    standard input ends when this process does. `progress` is asked often, and may end the waiting by an error."""
    reading, writing = os.pipe()
    child = subprocess.Popen(
        command, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    try:
        looks = max(round(seconds / LOOK), 1)
        for _ in progress.track(range(looks), looks, "asking the model zoo"):
            try:
                return child.communicate(timeout=seconds / looks)
            except subprocess.TimeoutExpired:
                continue
        return None
    finally:
        os.close(reading)
        os.close(writing)
        child.kill()
        child.communicate()


def _reason(stderr: str) -> str:
    """Why the zoo's download failed: which host gave no answer, or else what its error says."""
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    host = re.search(r"ConnectionPool\(host='([^']+)'", last)
    return f"{host.group(1)} cannot be reached" if host else last[:200]
