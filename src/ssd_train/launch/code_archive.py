"""Code archives of jobs and endpoints: the entry point's files and this package, packed as by the SageMaker SDK."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import BinaryIO, Dict, List, Mapping, Optional, Union

from ssd_train.artifacts.inference_code import REQUIREMENTS
from ssd_train.errors import ConfigError
from ssd_train.launch.job import PROGRAM
from ssd_train.storage.archive import open_model
from ssd_train.storage.atomic import open_atomic

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[1]
WHEEL_ENTRY_POINT = PACKAGE / "launch" / "entry_point"  # setup.py copies it; a checkout has entry_point/ beside src/
REQUIREMENTS_FILE = "requirements.txt"
Content = Union[Path, bytes]  # an archive member's content, or the file to read it from


def entry_point_folder(folder: Optional[Path] = None) -> Path:
    """Return `folder` or, if None, the entry point of this package: entry_point/ of a checkout, or a wheel's copy.

    Raises:
        ConfigError: the folder has no train.py, or it has a setup.py: SageMaker's toolkit would then install the folder
            and not run train.py.
    """
    if folder is None:
        folder = WHEEL_ENTRY_POINT if WHEEL_ENTRY_POINT.is_dir() else CHECKOUT / "entry_point"
    if not (folder / PROGRAM).is_file():
        raise ConfigError(f"source_dir: found no {PROGRAM} in {folder}, expected the folder of an entry point")
    if (folder / "setup.py").exists():
        raise ConfigError(
            f"source_dir: found setup.py in {folder}, expected none: the toolkit would install the folder"
        )
    return folder


def source_files(entry_point: Path) -> Dict[str, Path]:
    """Return the source files by archive name: those of `entry_point` and this package, side by side."""
    package = {
        f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}": path
        for path in _files(PACKAGE).values()
        if path.parent != WHEEL_ENTRY_POINT
    }
    return {**_files(entry_point), **package}


def write_source(target: Path, entry_point: Optional[Path] = None) -> List[str]:
    """Write a reproducible sourcedir.tar.gz to `target` and return its member names."""
    files = source_files(entry_point_folder(entry_point))
    with open_atomic(target) as file:
        _pack(files, file)
    return list(files)


def write_served_model(model: Path, target: Path, entry_point: Optional[Path] = None) -> None:
    """Write a model archive with the inference code and this package in code/.

    The SDK may repack the archive with `dependencies` (see artifacts/inference_code.py). code/requirements.txt is that
    of the entry point with the packages for serving added.

    Args:
        model: model folder or archive.
        target: the archive to write.
        entry_point: folder with train.py; None for that of this package.

    Raises:
        WeightsError: the model archive is damaged.
    """
    code: Dict[str, Content] = {**source_files(entry_point_folder(entry_point))}
    requirements = code.get(REQUIREMENTS_FILE)
    existing = requirements.read_bytes() if isinstance(requirements, Path) else b""
    code[REQUIREMENTS_FILE] = existing + b"\n" + REQUIREMENTS.encode()
    with open_model(model) as folder:
        weights = {name: path for name, path in _files(folder).items() if not name.startswith("code/")}
        with open_atomic(target) as file:
            _pack({**weights, **{f"code/{name}": path for name, path in code.items()}}, file)


def _files(folder: Path) -> Dict[str, Path]:
    """Return the files below `folder` by relative name, without compiled and hidden files."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            files[name.as_posix()] = path
    return files


def _pack(files: Mapping[str, Content], target: BinaryIO) -> None:
    with gzip.GzipFile("", "wb", fileobj=target, mtime=0) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for name in sorted(files):
            content, info = files[name], tarfile.TarInfo(name)
            info.mode = 0o644
            with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
                info.size = file.seek(0, io.SEEK_END)
                file.seek(0)
                archive.addfile(info, file)
