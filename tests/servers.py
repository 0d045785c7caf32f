"""Servers for tests, each a process of its own on loopback, and how they are asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[1]


class Said(NamedTuple):
    """An answer to a request."""

    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Dict[str, Any]:
        return json.loads(self.body)


def ask(address: str, path: str, body: "Optional[bytes]" = None, content_type: str = "", accept: str = "") -> Said:
    """A GET, or with a body a POST."""
    headers = {name: value for name, value in (("Content-Type", content_type), ("Accept", accept)) if value}
    request = urllib.request.Request(f"http://{address}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Said(response.status, response.headers.get("Content-Type", ""), response.read())
    except urllib.error.HTTPError as error:
        return Said(error.code, error.headers.get("Content-Type", ""), error.read())


class LightServer:
    """`python -m ssd_train serve` on a free port."""

    def __init__(self, model: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "ssd_train", "serve", "--model", str(model), "--port", "0", *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
        )
        self.said: List[str] = []
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("serving "):
                break
        else:
            raise AssertionError("".join(self.said))
        self.address = self.said[-1].rstrip().rstrip("/").rpartition("http://")[2]
        self._reader = threading.Thread(target=lambda: self.said.extend(self.process.stdout))
        self._reader.start()

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.wait(seconds)

    def wait(self, seconds: float = 30) -> int:
        code = self.process.wait(seconds)
        self._reader.join()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.wait()
