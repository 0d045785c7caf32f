"""Several hosts on this machine: MXNet's parameter server on loopback, and processes that are its workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Dict, List, Optional, Sequence, Type

import ssd_train

HOSTS = ("127.0.0.1", "127.0.0.2")
PATHS = f"{Path(ssd_train.__file__).resolve().parents[1]}{os.pathsep}{Path(__file__).resolve().parent}"


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def plain_environment(**more: str) -> Dict[str, str]:
    """The variables of this process, without those of a job."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "SAGEMAKER", "DMLC_", "HOROVOD_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, **more}


class ParameterServer:
    """A scheduler and a server for each of `hosts`, as the estimator's toolkit starts them; killed at the end of the
    block, with the workers, where they have not left by themselves."""

    def __init__(self, hosts: Sequence[str] = HOSTS) -> None:
        self.variables = {
            "DMLC_NUM_WORKER": str(len(hosts)),
            "DMLC_NUM_SERVER": str(len(hosts)),
            "DMLC_PS_ROOT_URI": "127.0.0.1",
            "DMLC_PS_ROOT_PORT": str(free_port()),
            "DMLC_INTERFACE": "lo",
        }
        self.port = free_port()
        self.roles = ["scheduler"] + ["server"] * len(hosts)
        self.servers: List["subprocess.Popen[str]"] = []
        self.workers: List["subprocess.Popen[str]"] = []

    def __enter__(self) -> "ParameterServer":
        for role in self.roles:
            variables = plain_environment(**self.variables, DMLC_ROLE=role)
            self.servers.append(subprocess.Popen([sys.executable, "-c", "import mxnet"], env=variables))
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for process in (*self.workers, *self.servers):
            process.kill()
            process.communicate()

    def start(self, arguments: Sequence[str], **variables: str) -> "subprocess.Popen[str]":
        """A worker: `python ARGUMENTS`."""
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=plain_environment(**self.variables, DMLC_ROLE="worker", **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        self.workers.append(process)
        return process

    def finish(self, seconds: float = 120) -> List[str]:
        """What the workers wrote; all of them and all servers have ended well."""
        logs = [worker.communicate(timeout=seconds)[0] for worker in self.workers]
        assert [worker.returncode for worker in self.workers] == [0] * len(self.workers), "\n".join(logs)
        assert [server.wait(timeout=20) for server in self.servers] == [0] * len(self.servers)
        return logs
