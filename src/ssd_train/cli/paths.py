"""s3:// paths in flags: downloaded before and uploaded after a command, which sees local paths only.

    add_input(parser, "--labels", help="...")
    add_output_dir(parser, "--model_dir", help="...")
    ...
    with staged_s3_paths(flags) as progress:
        ...

(The type Path would turn them into s3:/bucket/key.)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import uuid
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, NoReturn, Sequence, Union

import numpy as np

from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.symbol_format import EXPORT
from ssd_train.cli.arguments import make_progress
from ssd_train.data.file_names import IMAGE_FORMATS, describe_unread, images_below
from ssd_train.data.image_io import encode
from ssd_train.deploy.detector import ImageRef
from ssd_train.environment import cache_folder
from ssd_train.errors import ConfigError, DataError, SsdTrainError
from ssd_train.prepare.manifest import local_path
from ssd_train.progress import Item, Progress
from ssd_train.storage.atomic import STANDARD_OUTPUT, write_bytes_atomic
from ssd_train.storage.s3 import Store, Url, is_url
from ssd_train.storage.s3_cache import S3Cache, upload

# files by which a command recognizes the results of an earlier one: of train and export, of train, of audit, of label,
# of prepare split
RESULT_FILES = (
    *(CONFIG, EXPORT, "report.html", "audit.json", "pre-labels.manifest"),
    *("train.manifest", "validation.manifest", "test.manifest"),
)


class S3Path(NamedTuple):
    """s3:// path of a flag, until `staged_s3_paths` replaces it by a local path."""

    url: Url
    is_target: bool

    def __str__(self) -> str:
        return str(self.url)


def input_path(text: str) -> Union[Path, S3Path]:
    """Parse the path of an input, a file or a folder."""
    return S3Path(Url.parse(text), is_target=False) if is_url(text) else local_path(text)


def output_path(text: str) -> Union[Path, S3Path]:
    """Parse the path of an output, a file or a folder."""
    return _target(text, lambda url: url._replace(key=url.key.rstrip("/")))


def output_file(text: str) -> Path:
    """Parse the path of a local output file; - is standard output."""
    return STANDARD_OUTPUT if text == "-" else local_path(text)


def output_dir(text: str) -> Union[Path, S3Path]:
    """Parse the path of an output folder."""
    return _target(text, Url.as_folder) if is_url(text) else local_path(text)


def local_dir(text: str) -> Path:
    """Parse a path that must be local."""
    if is_url(text):
        raise ConfigError(f"found {text}, expected a local folder (SageMaker synchronises it with S3)")
    return local_path(text)


AnyParser = Union[argparse.ArgumentParser, argparse._ArgumentGroup]


def add_input(parser: AnyParser, *names: str, metavar: str = "PATH", **settings: Any) -> None:
    """Add a flag for the path of an input."""
    parser.add_argument(*names, type=input_path, metavar=metavar, **settings)


def add_output(parser: AnyParser, *names: str, metavar: str = "FILE", **settings: Any) -> None:
    """Add a flag for the path of an output, a file or a folder."""
    parser.add_argument(*names, type=output_path, metavar=metavar, **settings)


def add_output_dir(parser: AnyParser, *names: str, **settings: Any) -> None:
    """Add a flag for the path of an output folder."""
    parser.add_argument(*names, type=output_dir, metavar="FOLDER", **settings)


@contextlib.contextmanager
def staged_s3_paths(flags: argparse.Namespace) -> Iterator[Progress]:
    """Download the s3:// inputs in `flags` and upload the outputs at the end of the block.

    `flags` get local paths. Outputs are also uploaded after an SsdTrainError. The progress that is yielded, and the
    error, show the s3:// paths.
    """
    progress = make_progress(beside=_values(flags))
    if not any(isinstance(value, S3Path) for value in _values(flags)):
        yield progress
        return
    _refuse_own_input(flags)
    staging = _Staging(progress)
    for name, value in vars(flags).items():
        setattr(flags, name, staging.replace_targets(value))
    # weights first: a wrong address is reported before the images are downloaded
    for name in sorted(vars(flags), key=lambda name: name not in ("pretrained", "weights_dir")):
        setattr(flags, name, staging.replace_sources(getattr(flags, name)))
    try:
        yield _RenamingProgress(progress, staging.restore_urls)
    except SsdTrainError as error:
        error.args = tuple(staging.restore_urls(str(part)) for part in error.args)
        try:
            staging.upload()
        except SsdTrainError as second:
            progress.warning(str(second))
        raise
    except BaseException:
        staging.warn_not_uploaded()
        raise
    staging.upload()


class _Staging:
    """Local paths in place of s3:// ones."""

    def __init__(self, progress: Progress) -> None:
        self._store, self._progress = Store(), progress
        self._copies = S3Cache(self._store, progress)
        self._outgoing = cache_folder() / "outgoing" / uuid.uuid4().hex
        self._targets: List["tuple[Path, Url]"] = []
        self._earlier: Dict[Path, int] = {}  # time of modification by path
        self._names: Dict[str, str] = {}

    def replace_targets(self, value: object) -> object:
        """Return `value` with output URLs replaced, after checking that they are writable."""
        return self._replaced(value, True, self._staged)

    def replace_sources(self, value: object) -> object:
        """Return `value` with input URLs replaced by local copies."""
        return self._replaced(value, False, self._copies.fetch)

    def restore_urls(self, text: str) -> str:
        """Return `text` with local paths replaced by their URLs."""
        for path in sorted(self._names, key=len, reverse=True):
            text = text.replace(path, self._names[path])
        return text

    def upload(self) -> None:
        """Upload the outputs."""
        for path, url in self._targets:
            if not path.exists():
                continue
            try:
                count = upload(self._store, path, url, self._progress, self._unchanged())
            except SsdTrainError as error:
                raise type(error)(f"{error}; the results are kept in {path}") from error
            if count:
                self._progress.info(f"uploaded: {url} ({count} file{'s' if count > 1 else ''})")
        shutil.rmtree(self._outgoing, ignore_errors=True)

    def warn_not_uploaded(self) -> None:
        """Warn about outputs that were not uploaded, with their local paths."""
        for path, url in self._targets:
            if path.exists():
                self._progress.warning(f"{url}: not uploaded; the results are kept in {path}")

    def _replaced(self, value: object, targets: bool, stage: Callable[[Url], Path]) -> object:
        if isinstance(value, list):
            return [self._replaced(part, targets, stage) for part in value]
        if not isinstance(value, S3Path) or value.is_target != targets:
            return value
        path = stage(value.url)
        self._names[str(path)] = str(value.url).rstrip("/")
        return path

    def _staged(self, url: Url) -> Path:
        self._store.check_writable(url)
        path = self._outgoing / str(len(self._targets)) / url.key.rstrip("/").rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._targets.append((path, url))
        if url.is_folder or not path.suffix:
            self._fetch_earlier(path, url.as_folder())
        return path

    def _fetch_earlier(self, path: Path, url: Url) -> None:
        """Download the files that tell whose results are at `url`, so that the command refuses to replace others."""
        for name in RESULT_FILES:
            source = url._replace(key=url.key + name)
            try:
                if self._store.find(source) is None:
                    continue
                path.mkdir(exist_ok=True)
                with open(path / name, "wb") as file:
                    self._store.read(source, file)
            except DataError as error:  # permission to write is enough
                self._progress.warning(f"{error}; results that are there may be replaced")
                return
            self._earlier[path / name] = os.stat(path / name).st_mtime_ns

    def _unchanged(self) -> List[Path]:
        return [path for path, time in self._earlier.items() if path.exists() and os.stat(path).st_mtime_ns == time]


class _RenamingProgress(Progress):
    """Progress that renames paths in all texts."""

    def __init__(self, progress: Progress, rename: Callable[[str], str]) -> None:
        self._progress, self._rename = progress, rename

    def info(self, text: str) -> None:
        """Report a line."""
        self._progress.info(self._rename(text))

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items and report progress."""
        return self._progress.track(items, total, self._rename(what))


def _target(text: str, shape: Callable[[Url], Url]) -> Union[Path, S3Path]:
    if not is_url(text):
        return output_file(text)
    url = shape(Url.parse(text))
    if url.key.rstrip("/").rpartition("/")[2] in ("", ".", ".."):
        raise ConfigError(f"found {text!r}, expected s3://bucket/key with a name to write to")
    return S3Path(url, is_target=True)


def _refuse_own_input(flags: argparse.Namespace) -> None:
    """Raise a ConfigError if an output would overwrite an input."""
    remotes = [value for value in _values(flags) if isinstance(value, S3Path)]
    read = {str(remote).rstrip("/") for remote in remotes if not remote.is_target}
    for remote in remotes:
        if remote.is_target and str(remote).rstrip("/") in read:
            raise ConfigError(f"found {remote} as input and output, expected different paths")


def _values(flags: argparse.Namespace) -> Iterator[object]:
    for value in vars(flags).values():
        yield from value if isinstance(value, list) else [value]


def find_images(paths: Sequence[Path], progress: Progress) -> List[ImageRef]:
    """Return the images in `paths`, files or folders; names of images in folders are relative to the folder."""
    images = []
    for path in paths:
        if os.path.isdir(path):
            files = _files_below(path)
            unread = describe_unread(path)
            if unread:
                progress.warning(unread)
            if not files:
                raise ConfigError(
                    f"{path}: found no image in this folder, expected files ending in {', '.join(IMAGE_FORMATS)}"
                )
            images += [_image_ref(file, file.relative_to(path).as_posix()) for file in files]
        elif os.path.isfile(path):
            images.append(_image_ref(path, path.name))
        else:
            raise ConfigError(f"{path}: not found, expected an existing image, folder or video")
    _refuse_same_names(images)
    return images


def _files_below(folder: Path) -> List[Path]:
    """Return the image files below `folder`; raises ConfigError for an unreadable folder."""

    def refuse(error: OSError) -> NoReturn:
        """Raise an error for a folder that os.walk would skip."""
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}), expected a readable folder")

    return images_below(folder, refuse)


def _image_ref(path: Path, name: str) -> ImageRef:
    return ImageRef(name, path.read_bytes, str(path))


def _refuse_same_names(images: Sequence[ImageRef]) -> None:
    first: Dict[str, ImageRef] = {}
    for image in images:
        other = first.setdefault(image.name, image)
        if other is not image:
            raise ConfigError(
                f"found {other.where} and {image.where}, both named {image.name!r}, expected unique names"
            )


def overlay_paths(folder: Path, images: Mapping[str, Path]) -> Dict[str, Path]:
    """Return the path of the overlay in `folder` for each image name.

    A .png stays one, any other suffix is replaced by .jpg. If two would be the same, .jpg is appended: a.bmp.jpg.

    Args:
        folder: Folder of the overlays.
        images: Paths of the images by name.

    Raises:
        ConfigError: an overlay would overwrite one of the images.
    """
    suffixes = {name: ".png" if name.lower().endswith(".png") else ".jpg" for name in images}
    overlays = {name: PurePosixPath(name).with_suffix(suffix).as_posix() for name, suffix in suffixes.items()}
    while True:  # a name with .jpg appended may be that of another image's overlay
        counts = Counter(overlays.values())
        same = [name for name in overlays if counts[overlays[name]] > 1 and overlays[name] != name + suffixes[name]]
        if not same:
            break
        overlays.update({name: name + suffixes[name] for name in same})
    originals = {os.path.realpath(path) for path in images.values()}
    for overlay in overlays.values():
        if os.path.realpath(folder / overlay) in originals:
            raise ConfigError(f"overlays: found {folder / overlay}, an input image, expected another folder")
    return {name: folder / overlay for name, overlay in overlays.items()}


def write_overlay(path: Path, image: np.ndarray) -> None:
    """Write an image, RGB uint8 (H, W, 3), as PNG or JPEG, whichever the suffix of `path` names."""
    write_bytes_atomic(path, encode(image, "PNG" if path.suffix == ".png" else "JPEG"))
