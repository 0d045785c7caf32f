"""Run AWS's MXNet serving stack (multi-model-server and sagemaker-inference) locally, as the inference container does.

    make serve-container-stack MODEL=model [PORT=8080]

multi-model-server listens on all interfaces, which cannot be configured, so it runs in a network namespace with only a
loopback interface; http://127.0.0.1:PORT is forwarded to it. This needs root or unprivileged user namespaces, Java and
Python 3.8. Ctrl-C stops it.

Differences from the container: MXNet from PyPI, the installed Java version (8 in the container), and the server's
configuration in a temporary folder and not below /etc.
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

INNER_PORT = 8080  # in the namespace
PROGRAM = "inference.py"  # the container's default program
START_SECONDS = 120
EXIT_INTERRUPTED = 130
# `serve` of sagemaker_mxnet_serving_container with another path of the configuration file
SERVE = (
    "import sys; from sagemaker_inference import model_server; model_server.MMS_CONFIG_FILE = sys.argv[1]; "
    "from sagemaker_mxnet_serving_container import serving; serving.main()"
)
NAMESPACES = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a model folder, or its model.tar.gz")
    parser.add_argument("--venv", type=Path, required=True, help="venv with requirements/serving-container.txt")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=1)
    flags = parser.parse_args()
    problem = missing(flags.venv)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_INTERRUPTED))
    with tempfile.TemporaryDirectory() as folder:
        lay_out(flags.model, Path(folder))
        with RunningStack(flags.venv, Path(folder), flags.workers, flags.port) as stack:
            print(f"serving {flags.model} at http://127.0.0.1:{stack.port}/invocations (Ctrl-C stops it)", flush=True)
            threading.Event().wait()
    return 0


def missing(venv: Path) -> str:
    """Return a message about the first missing requirement, or ""."""
    if not (venv / "bin" / "multi-model-server").exists():
        return f"{venv} has no multi-model-server: make serve-container-stack installs it, with Python 3.8"
    if shutil.which("java") is None:
        return "java is not installed, multi-model-server needs it: apt-get install default-jre-headless"
    trial = subprocess.run([*_namespaces(), "true"], stderr=subprocess.PIPE, universal_newlines=True)
    return f"cannot create a network namespace ({trial.stderr.strip()}): run as root" if trial.returncode else ""


def lay_out(model: Path, base: Path) -> None:
    """Create the container's /opt/ml in `base`.

    A model with code/inference.py is copied unchanged; to others the code that `launch --deploy` uploads is added.
    """
    from ssd_train.launch.code_archive import write_served_model
    from ssd_train.storage.archive import open_model

    with open_model(model) as folder:
        if (folder / "code" / PROGRAM).is_file():
            shutil.copytree(folder, base / "model")
            return
    write_served_model(model, base / "model.tar.gz")
    with tarfile.open(base / "model.tar.gz") as archive:
        archive.extractall(base / "model")


class RunningStack:
    """Context manager that serves the model in `base` at http://127.0.0.1:`port`; port 0 selects a free port."""

    def __init__(self, venv: Path, base: Path, workers: int, port: int, **variables: str) -> None:
        self._base, self._port = base, port
        venv = venv.absolute()  # the stack has another working directory
        (base / "run").mkdir()
        command = [*_namespaces(), sys.executable, __file__, "--inside", str(venv), str(base)]
        self._process = subprocess.Popen(
            command, env={**_environment(venv, base, workers), **variables}, cwd=str(base / "run")
        )

    def __enter__(self) -> "RunningStack":
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self.port = self._listener.getsockname()[1]
        _forward(self._listener, lambda: _connect_unix(self._base))
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # the kernel then kills all processes in its PID namespace
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
        exited = self._process.poll() is not None
        raise SystemExit("the stack has exited" if exited else f"the stack did not respond within {START_SECONDS} s")


def inside(venv: Path, base: Path) -> int:
    """Run as process 1 of the namespaces: bring up loopback, forward connections and run the stack."""
    _bring_up_loopback()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(base / "forward.socket"))
    listener.listen(128)
    _forward(listener, lambda: socket.create_connection(("127.0.0.1", INNER_PORT)))
    return subprocess.run([str(venv / "bin/python"), "-c", SERVE, str(base / "run" / "mms.properties")]).returncode


def _environment(venv: Path, base: Path, workers: int) -> Dict[str, str]:
    """Return the variables of AWS's container, and variables that prevent downloads and files outside `base`."""
    return {
        **os.environ,
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_PROGRAM": PROGRAM if (base / "model" / "code" / PROGRAM).is_file() else "train.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": str(base / "model" / "code"),
        "SAGEMAKER_BIND_TO_PORT": str(INNER_PORT),
        "SAGEMAKER_MODEL_SERVER_WORKERS": str(workers),
        "TEMP": str(base / "run"),
        "TMPDIR": str(base / "run"),
        # the packages of code/requirements.txt must be installed already
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }


def _namespaces() -> List[str]:
    return NAMESPACES if os.geteuid() == 0 else [*NAMESPACES, "--user", "--map-root-user"]


def _bring_up_loopback() -> None:
    """Do what `ip link set lo up` does (SIOCSIFFLAGS, IFF_UP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))


def _connect_unix(base: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(base / "forward.socket"))
    except OSError:
        connection.close()
        raise
    return connection


def _forward(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Forward connections to `listener` to those that `connect` opens, in daemon threads."""

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                server = connect()
            except OSError:  # the server is not listening yet
                client.close()
                continue
            for pair in ((client, server), (server, client)):
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
    except OSError:  # one end has closed the connection
        for end in (source, target):
            end.close()


if __name__ == "__main__":
    try:
        sys.exit(inside(Path(sys.argv[2]), Path(sys.argv[3])) if sys.argv[1:2] == ["--inside"] else main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
