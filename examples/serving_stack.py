"""AWS's MXNet serving stack on this machine, as its inference container starts it: multi-model-server, a Java program,
and sagemaker-inference, whose workers import what entry_point/ holds.

    make serve-container-stack MODEL=model [PORT=8080]

It listens on all addresses and nobody can tell it otherwise, so it runs in a network namespace of its own that has
nothing but loopback; http://127.0.0.1:PORT leads there. That needs root, or a kernel that lets users make namespaces.
Java and Python 3.8 are needed besides. Ctrl-C ends it.

Unlike in the container: MXNet is PyPI's, Java is what is here (theirs is 8), and its configuration, which it writes
below /etc, lies in a temporary folder.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable, Dict, List

INSIDE = 8080  # its port in the namespace
PROGRAM = "inference.py"  # what the container imports unless told otherwise
START_SECONDS = 120
ENDED = 130
# what `serve` of sagemaker_mxnet_serving_container does, with its configuration file elsewhere
SERVE = (
    "import sys; from sagemaker_inference import model_server; model_server.MMS_CONFIG_FILE = sys.argv[1]; "
    "from sagemaker_mxnet_serving_container import serving; serving.main()"
)
NAMESPACES = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a model folder, or its model.tar.gz")
    parser.add_argument("--venv", type=Path, required=True, help="environment of requirements/serving-container.txt")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=1)
    flags = parser.parse_args()
    problem = missing(flags.venv)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))
    with tempfile.TemporaryDirectory() as folder:
        lay_out(flags.model, Path(folder))
        with RunningStack(flags.venv, Path(folder), flags.workers, flags.port) as stack:
            print(f"serving {flags.model} at http://127.0.0.1:{stack.port}/invocations (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    return 0


def missing(venv: Path) -> str:
    """What is not here and has to be; nothing where all is."""
    if not (venv / "bin" / "multi-model-server").exists():
        return f"{venv} has no multi-model-server: make serve-container-stack sets it up, with Python 3.8"
    if shutil.which("java") is None:
        return (
            "java is not on this machine, which multi-model-server is written in: apt-get install default-jre-headless"
        )
    tried = subprocess.run([*_namespaces(), "true"], stderr=subprocess.PIPE, universal_newlines=True)
    return f"no network namespace can be made ({tried.stderr.strip()}): run it as root" if tried.returncode else ""


def lay_out(model: Path, base: Path) -> None:
    """The container's /opt/ml below `base`: the model as it is, where it brings code/ to serve it, else with the
    program that `launch --deploy` sends."""
    from ssd_train.archives import opened_model
    from ssd_train.launch.source import write_served_model

    with opened_model(model) as folder:
        if (folder / "code" / PROGRAM).is_file():
            shutil.copytree(folder, base / "model")
            return
    write_served_model(model, base / "model.tar.gz")
    with tarfile.open(base / "model.tar.gz") as archive:
        archive.extractall(base / "model")


class RunningStack:
    """The stack on the model of `base`, for a `with` block: http://127.0.0.1:`port`."""

    def __init__(self, venv: Path, base: Path, workers: int, port: int, **variables: str) -> None:
        self._base, self._port = base, port
        venv = venv.absolute()  # the stack runs in a folder of its own
        (base / "run").mkdir()
        command = [*_namespaces(), sys.executable, __file__, "--inside", str(venv), str(base)]
        self._process = subprocess.Popen(
            command, env={**_surroundings(venv, base, workers), **variables}, cwd=str(base / "run")
        )

    def __enter__(self) -> "RunningStack":
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self.port = self._listener.getsockname()[1]
        _forward(self._listener, lambda: _unix(self._base))
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # with it all that is in its namespaces
        self._process.wait()
        self._listener.close()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5).read()
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.5)
        ended = self._process.poll() is not None
        raise SystemExit("the stack has ended" if ended else f"the stack did not answer within {START_SECONDS} s")


def inside(venv: Path, base: Path) -> int:
    """Process 1 of the namespaces: loopback, the way in, and the stack itself."""
    _raise_loopback()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(base / "way-in"))
    listener.listen(128)
    _forward(listener, lambda: socket.create_connection(("127.0.0.1", INSIDE)))
    return subprocess.run([str(venv / "bin/python"), "-c", SERVE, str(base / "run" / "mms.properties")]).returncode


def _surroundings(venv: Path, base: Path, workers: int) -> Dict[str, str]:
    """The variables that AWS's container sets, and those that keep it to its folder and off the network."""
    return {
        **os.environ,
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_PROGRAM": PROGRAM if (base / "model" / "code" / PROGRAM).is_file() else "train.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": str(base / "model" / "code"),
        "SAGEMAKER_BIND_TO_PORT": str(INSIDE),
        "SAGEMAKER_MODEL_SERVER_WORKERS": str(workers),
        "TEMP": str(base / "run"),
        "TMPDIR": str(base / "run"),
        # what code/requirements.txt asks for has to be there already
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }


def _namespaces() -> List[str]:
    return NAMESPACES if os.geteuid() == 0 else [*NAMESPACES, "--user", "--map-root-user"]


def _raise_loopback() -> None:
    """What `ip link set lo up` does (SIOCSIFFLAGS, IFF_UP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))


def _unix(base: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(str(base / "way-in"))
    except OSError:
        found.close()
        raise
    return found


def _forward(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Have whoever comes to `listener` speak with what `connect` leads to; in threads, until the process ends."""

    def accept() -> None:
        while True:
            try:
                theirs, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                ours = connect()
            except OSError:  # nobody there yet
                theirs.close()
                continue
            for pair in ((theirs, ours), (ours, theirs)):
                threading.Thread(target=_pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while True:
            data = source.recv(1 << 16)
            if not data:
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one of them has left
        for end in (source, target):
            end.close()


if __name__ == "__main__":
    try:
        sys.exit(inside(Path(sys.argv[2]), Path(sys.argv[3])) if sys.argv[1:2] == ["--inside"] else main())
    except KeyboardInterrupt:
        sys.exit(ENDED)
