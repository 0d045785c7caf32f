"""Virtual environments of the toolkits, the SDKs and AWS's serving stack."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tarfile
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

import pytest
from helpers.data import SMALL
from helpers.jobs import CONTAINER, job_environment, make_opt_ml
from helpers.services import REGION

ROOT = Path(__file__).resolve().parents[2]


def own_venv(name: str, version: str, target: str = "test-integration") -> Path:
    """Return the environment `name`, of Python `version`.

    The test is skipped where that interpreter is not on this machine; where it is, the environment has to be there.
    """
    folder = ROOT / name
    if (folder / ".done").exists():
        return folder
    if not has_python(version):
        pytest.skip(f"python{version} is not on this machine: {name} cannot be made")
    pytest.fail(f"{name} is not there although python{version} is: make {target} sets it up")


def has_python(version: str) -> bool:
    """Whether an interpreter runs that the Makefile would find: on the PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    of_pyenv = (pyenv / "versions").glob(f"{version}.*/bin/python{version}")
    for program in itertools.chain(filter(None, [shutil.which(f"python{version}")]), of_pyenv):
        # a shim of pyenv is on the PATH whether it leads to an interpreter or not
        if subprocess.run([str(program), "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            return True
    return False


SECONDS = 180


class Finished(NamedTuple):
    """How a job ended: the exit code of `train`, and its log."""

    code: int
    log: str

    @property
    def lines(self) -> List[str]:
        return self.log.splitlines()


class Toolkit(NamedTuple):
    """One version of the toolkit, and the archive of the program that it runs."""

    folder: Path
    archive: Path

    def make_job(self, base: Path, channels: Mapping[str, Path], settings: Mapping[str, Any] = {}, **more: Any) -> Path:
        """A false /opt/ml with the hyperparameters of SMALL, changed by `settings`."""
        program = {**CONTAINER, "sagemaker_submit_directory": str(self.archive)}
        return make_opt_ml(base, {**SMALL, **settings, **program}, channels, **more)

    def start(self, base: Path) -> "subprocess.Popen[str]":
        """The real `train` command in a process group of its own."""
        environment = job_environment(
            base,
            PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}",
            SAGEMAKER_TRAINING_MODULE="sagemaker_mxnet_container.training:main",
            AWS_EC2_METADATA_DISABLED="true",
            AWS_DEFAULT_REGION="eu-west-1",
            # as under network isolation: whatever pip would look for, it does not find
            PIP_INDEX_URL="http://127.0.0.1:9/simple",
            PIP_CONFIG_FILE=os.devnull,
            PIP_RETRIES="0",
            OMP_NUM_THREADS="1",
        )
        return subprocess.Popen(
            [str(self.folder / "bin" / "train")],
            env=environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            start_new_session=True,
        )

    def run(self, base: Path) -> Finished:
        """`start`, waited for."""
        process = self.start(base)
        log, _ = process.communicate(timeout=SECONDS)
        return Finished(process.returncode, log)


def make_toolkit(version: str, archive: Path) -> Toolkit:
    """Return the toolkit in its environment, with the program `archive`."""
    return Toolkit(own_venv(f".venv-toolkit-{version}", version), archive)


def copy_package(folder: Path) -> Path:
    """A copy of the package without what Python leaves there."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "src" / "ssd_train", folder / "ssd_train", ignore=ignored))


def pack(archive: Path, folders: Sequence[Path]) -> Path:
    """Write a .tar.gz of the first folder's files, and of the others as they are."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folders[0].iterdir()):
            if file.is_file():
                tar.add(file, file.name)
        for folder in folders[1:]:
            tar.add(folder, folder.name)
    return archive


def sdk_python(version: int) -> str:
    """Return the interpreter of the SDK's environment."""
    return str(own_venv(f".venv-launch-sdk{version}", "3.11") / "bin" / "python")


def sdk_environment(home: Path) -> Dict[str, str]:
    """Return the variables of a process that uses an SDK: no configuration and no rights of whoever runs the tests."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT / "src"),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(ROOT / "tests" / "integration" / "launch" / "sdk_config.yaml"),
        # whatever is not sent to moto reaches nobody
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    }


def _example() -> ModuleType:
    spec = util.spec_from_file_location("serving_stack", ROOT / "examples" / "serving_stack.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stack = _example()


def stack_venv() -> Path:
    """Return the stack's environment; the test is skipped without Python 3.8, without Java, and without the right to
    make a network namespace."""
    venv = own_venv(".venv-serving", "3.8")
    problem = stack.missing(venv)
    if problem:
        pytest.skip(problem)
    return venv
