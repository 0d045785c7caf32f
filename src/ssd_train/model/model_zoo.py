"""Download weights of GluonCV's model zoo, with a timeout."""

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

SECONDS = 120  # timeout
ADVICE = "give --pretrained FILE, or --use_pretrained_model 0 to start from random weights"
POLL_SECONDS = 0.5


def zoo_weights(
    base_network: str, seconds: float = SECONDS, progress: Optional[Progress] = None, advice: str = ADVICE
) -> Path:
    """Return the model zoo's weights file of a backbone, from its cache or downloaded.

    The download runs in a process of its own, because that of the model zoo never times out. The process exits when
    this one does, for whatever reason.

    Args:
        base_network: the backbone.
        seconds: timeout.
        progress: tracks the waiting time; an error that it raises ends the wait.
        advice: the end of an error message.

    Raises:
        WeightsError: the download failed or took too long.
    """
    name = "vgg16_atrous" if base_network == nets.VGG else nets.BACKBONES[base_network].zoo_name
    code = (
        "import os, threading; "
        "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start(); "
        "from ssd_train import mxnet_compat; mxnet_compat.gluoncv(); "
        "from gluoncv.model_zoo.model_store import get_model_file; "
        f"print('FILE', get_model_file({name!r}))"
    )
    source_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([source_root, *[p for p in sys.path if p]])
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path.split(os.pathsep)!r}; {code}"]
    output = _run_with_timeout(command, seconds, progress or Progress())
    if output is None:
        raise WeightsError(
            f"model zoo: found no answer for {name} within {seconds:g} s, expected its weights; {advice}"
        )
    for line in output[0].splitlines():
        if line.startswith("FILE "):
            return Path(line[5:])
    raise WeightsError(f"model zoo: {name} could not be fetched ({_reason(output[1])}); {advice}")


def _run_with_timeout(command: Sequence[str], seconds: float, progress: Progress) -> Optional[Tuple[str, str]]:
    """Return standard output and error of a program; None if it runs longer than `seconds`.

    Its standard input ends when this process does. `progress` is called often, and may end the wait by an error.
    """
    reading, writing = os.pipe()
    child = subprocess.Popen(
        command, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    try:
        polls = max(round(seconds / POLL_SECONDS), 1)
        for _ in progress.track(range(polls), polls, "downloading weights"):
            try:
                return child.communicate(timeout=seconds / polls)
            except subprocess.TimeoutExpired:
                continue
        return None
    finally:
        os.close(reading)
        os.close(writing)
        child.kill()
        child.communicate()


def _reason(stderr: str) -> str:
    """Return why the download failed: the unreachable host, or else the last line of the error."""
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    host = re.search(r"ConnectionPool\(host='([^']+)'", last)
    return f"{host.group(1)} cannot be reached" if host else last[:200]
