"""SageMaker's own training toolkits, each in its environment, on a false /opt/ml, with no network to install from."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Sequence

import pytest
from builders import SMALL, DrawnSet, shapes_set
from opt_ml import CONTAINER, job_environment, make_opt_ml

ROOT = Path(__file__).resolve().parents[3]
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


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> DrawnSet:
    """Drawn pictures to train on."""
    return shapes_set(tmp_path_factory.mktemp("shapes"), 24, seed=1)


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    """sourcedir.tar.gz as the SDK packs it: entry_point/ at the top, and the package as a dependency beside it."""
    folder = tmp_path_factory.mktemp("program")
    return pack(folder / "sourcedir.tar.gz", [ROOT / "entry_point", copy_package(folder)])


@pytest.fixture(scope="session", params=["3.8", "3.11"])
def toolkit(request, program) -> Toolkit:
    """Python 3.8: AWS's MXNet 1.9.0 container. 3.11: the newest toolkit."""
    return make_toolkit(request.param, program)


@pytest.fixture(scope="session")
def container(program) -> Toolkit:
    """AWS's MXNet 1.9.0 container alone, where the toolkit's version cannot matter."""
    return make_toolkit("3.8", program)


def make_toolkit(version: str, archive: Path) -> Toolkit:
    """The toolkit's environment; the test is skipped without the interpreter, and fails without the environment."""
    folder = ROOT / f".venv-toolkit-{version}"
    if not (folder / ".done").exists():
        found = subprocess.run(["sh", "-c", f"python{version} -c ''"], stderr=subprocess.DEVNULL)
        if found.returncode:
            pytest.skip(f"python{version} is not on this machine")
        pytest.fail(f"{folder.name} is not there: make test-integration sets it up")
    return Toolkit(folder, archive)


def copy_package(folder: Path) -> Path:
    """A copy of the package without what Python leaves there."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "src" / "ssd_train", folder / "ssd_train", ignore=ignored))


def pack(archive: Path, folders: Sequence[Path]) -> Path:
    """A .tar.gz of the first folder's files, and of the others as they are."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folders[0].iterdir()):
            if file.is_file():
                tar.add(file, file.name)
        for folder in folders[1:]:
            tar.add(folder, folder.name)
    return archive
