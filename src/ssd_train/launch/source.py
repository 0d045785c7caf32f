"""The program of a job, as the SageMaker SDK packs it: the entry point's files, and this package beside them."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import BinaryIO, Dict, List, Mapping, Optional, Union

from ssd_train.archives import opened_model
from ssd_train.deploy.served_code import REQUIREMENTS
from ssd_train.errors import ConfigError
from ssd_train.launch.job import PROGRAM
from ssd_train.storage import open_atomic

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[1]
NEEDS = "requirements.txt"


Content = Union[Path, bytes]  # of a file in an archive: what holds it, or it


def entry_point_folder(given: Optional[Path] = None) -> Path:
    """The folder `given`, or else entry_point/ of the checkout that this package is part of.

    Raises:
        ConfigError: it is not there, holds no train.py, or holds a setup.py, with which the toolkit would install it in
            place of running it.
    """
    folder = given or CHECKOUT / "entry_point"
    if not (folder / PROGRAM).is_file():
        raise ConfigError(f"source_dir: found no {PROGRAM} in {folder}, expected the repository's folder entry_point/")
    if (folder / "setup.py").exists():
        raise ConfigError(
            f"source_dir: found setup.py in {folder}, expected none: the toolkit would install the folder"
        )
    return folder


def source_files(entry_point: Path) -> Dict[str, Path]:
    """Return the program's files by their names in the archive: those of `entry_point` and this package, at its top."""
    own = {f"{PACKAGE.name}/{name}": path for name, path in _files(PACKAGE).items()}
    return {**_files(entry_point), **own}


def write_source(target: Path, entry_point: Optional[Path] = None) -> List[str]:
    """Write sourcedir.tar.gz to `target`; the names in it. Equal files give equal bytes."""
    files = source_files(entry_point_folder(entry_point))
    with open_atomic(target) as file:
        _pack(files, file)
    return list(files)


def write_served_model(model: Path, target: Path, entry_point: Optional[Path] = None) -> None:
    """Write the model, a folder or an archive of it, to the archive `target` with the program that serves it in code/.

    The SDK may repack the result with `dependencies` (see served_code.py). code/requirements.txt names what serving
    needs, too. A damaged archive is a WeightsError.
    """
    code: Dict[str, Content] = {**source_files(entry_point_folder(entry_point))}
    own = code.get(NEEDS)
    code[NEEDS] = (own.read_bytes() if isinstance(own, Path) else b"") + b"\n" + REQUIREMENTS.encode()
    with opened_model(model) as folder:
        weights = {name: path for name, path in _files(folder).items() if not name.startswith("code/")}
        with open_atomic(target) as file:
            _pack({**weights, **{f"code/{name}": path for name, path in code.items()}}, file)


def _files(folder: Path) -> Dict[str, Path]:
    """Files below `folder` by their names there, without compiled ones and hidden ones."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            found[name.as_posix()] = path
    return found


def _pack(files: Mapping[str, Content], target: BinaryIO) -> None:
    with gzip.GzipFile("", "wb", fileobj=target, mtime=0) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for name in sorted(files):
            content, info = files[name], tarfile.TarInfo(name)
            info.mode = 0o644
            with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
                info.size = file.seek(0, io.SEEK_END)
                file.seek(0)
                archive.addfile(info, file)
