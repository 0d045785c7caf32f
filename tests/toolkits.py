"""SageMaker's own training toolkits, each in its environment, on a false /opt/ml, with no network to install from."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Sequence

from builders import SMALL
from opt_ml import CONTAINER, job_environment, make_opt_ml
from own_venvs import ROOT, own_venv

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
