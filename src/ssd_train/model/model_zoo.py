"""Find weights of GluonCV's model zoo: in a folder, in GluonCV's cache, in the zoo, or in a mirror of it.

The zoo belongs to a retired project and often fails, so every place has a time limit and every file is compared with
the SHA-1 in GluonCV's model store. Files are written into the cache atomically: GluonCV finds them there, and processes
that download the same file at once do not damage it.
"""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

from ssd_train import environment, mxnet_compat
from ssd_train.errors import ConfigError, WeightsError
from ssd_train.model import net as nets
from ssd_train.progress import Progress
from ssd_train.storage import atomic

store = mxnet_compat.gluoncv("model_zoo.model_store")

SECONDS = 600.0  # timeout of one download
SILENT_SECONDS = 20.0  # timeout of the connection, and of each wait for more bytes
MAX_BYTES = 1 << 30  # of an archive, and of the file in it; the largest of these networks has 0.15 GB
ADVICE = "or give --pretrained FILE, or --use_pretrained_model 0 to start from random weights"
_POLL_SECONDS = 0.25
_CHUNK = 1 << 18


class ZooFile(NamedTuple):
    """A weights file of the model zoo.

    Attributes:
        name: name of the network in GluonCV's model store.
        sha1: SHA-1 of the .params file, from the model store.
    """

    name: str
    sha1: str

    @property
    def stem(self) -> str:
        """Return the name of the .params file and of its archive in the zoo, without the suffix."""
        return f"{self.name}-{store.short_hash(self.name)}"


class _NotFound(Exception):
    """A place does not have the file; the message is the reason."""


def zoo_file(zoo: str, base_network: str, image_size: int) -> Tuple[ZooFile, str]:
    """Return the file of the model zoo to start from, and a note if it is not of the kind that `zoo` names.

    It is the detector with this backbone whose input size is nearest, or the ImageNet backbone if there is none.

    Args:
        zoo: coco, voc or imagenet.
        base_network: the backbone.
        image_size: side of the square input image in pixels.
    """
    backbone = "vgg16_atrous" if base_network == nets.VGG else nets.BACKBONES[base_network].zoo_name
    pattern = re.compile(rf"ssd_(\d+)_{re.escape(backbone)}_{zoo}")
    matches = [match for match in map(pattern.fullmatch, store._model_sha1) if match]
    if matches:
        backbone = min(matches, key=lambda match: (abs(int(match.group(1)) - image_size), match.group())).group()
    is_other = not matches and zoo != "imagenet"
    note = f"zoo {zoo}: GluonCV has no detector with {base_network}, so its ImageNet backbone is used"
    return ZooFile(backbone, store._model_sha1[backbone]), note if is_other else ""


def find_weights(
    file: ZooFile,
    weights_dir: Optional[Path] = None,
    progress: Optional[Progress] = None,
    advice: str = ADVICE,
    seconds: float = SECONDS,
    silent_seconds: float = SILENT_SECONDS,
) -> Path:
    """Return the path of a file of the model zoo from the first place that has it.

    The sources are `weights_dir`, GluonCV's cache, the zoo, and the mirror of SSD_TRAIN_MIRROR.

    Args:
        file: the file.
        weights_dir: a folder with the .params file, or its archive.
        progress: tracks downloads; an error that it raises ends them.
        advice: the end of the error message.
        seconds: timeout of one download.
        silent_seconds: timeout for the connection, and for more bytes.

    Raises:
        ConfigError: `weights_dir` is no folder.
        WeightsError: no place has the file.
    """
    if weights_dir is not None and not weights_dir.is_dir():
        raise ConfigError(f"weights_dir: found no folder {weights_dir}, expected one with {file.stem}.params")
    progress = progress or Progress()
    cache, zoo, mirror = environment.gluoncv_cache(), environment.gluoncv_zoo(), environment.zoo_mirror()
    downloads = [("the zoo", zoo or store.apache_repo_url), ("SSD_TRAIN_MIRROR", mirror)]

    def download(url: str) -> Path:
        with tempfile.TemporaryFile() as archive:
            _download(url, archive, seconds, silent_seconds, progress)
            return _unpack(file, archive, cache)

    sources: List[Tuple[str, Callable[[], Path]]] = []
    if weights_dir is not None:
        sources.append((str(weights_dir), lambda: _in_folder(file, weights_dir, cache)))
    sources.append((str(cache), lambda: _in_folder(file, cache, cache)))
    for label, repository in downloads:
        if repository:
            url = store._url_format.format(repo_url=f"{repository.rstrip('/')}/", file_name=file.stem)
            sources.append((f"{label}, {url}", functools.partial(download, url)))
    reasons = []
    for source, look in sources:
        try:
            path = look()
        except _NotFound as error:
            reasons.append(f"{source}: {error}")
            continue
        except OSError as error:
            reasons.append(f"{source}: cannot be read ({error.strerror or error})")
            continue
        for reason in reasons:
            if "SHA-1" in reason:
                progress.warning(f"{reason}; not used")
        progress.info(f"weights {file.name}: {path}, from {source}")
        return path
    unset = "" if mirror else "; no SSD_TRAIN_MIRROR is set"
    raise WeightsError(
        f"{file.stem}.params: found in no place ({'; '.join(reasons)}{unset}), expected a file with SHA-1 {file.sha1}: "
        f"put it, or {file.stem}.zip, into {cache} or the folder of weights_dir, {advice}"
    )


def _in_folder(file: ZooFile, folder: Path, cache: Path) -> Path:
    """Return the file in `folder`, where its archive is unpacked into `cache`."""
    wrong = ""
    for path in (folder / f"{file.stem}.params", folder / f"{file.name}.params"):
        if path.is_file():
            if store.check_sha1(str(path), file.sha1):
                return path
            wrong = f"{path.name} has another SHA-1"
    archive = folder / f"{file.stem}.zip"
    if archive.is_file():
        with open(archive, "rb") as opened:
            return _unpack(file, opened, cache)
    raise _NotFound(wrong or "no such file")


def _unpack(file: ZooFile, archive: IO[bytes], cache: Path) -> Path:
    """Write the .params file of an archive into `cache` if its SHA-1 is right."""
    path = cache / f"{file.stem}.params"
    try:
        with zipfile.ZipFile(archive) as unzipped:
            info = unzipped.getinfo(path.name)
            if info.file_size > MAX_BYTES:
                raise _NotFound(f"{path.name} has {info.file_size} bytes")
            with atomic.prepared_file(path) as prepared:
                with unzipped.open(info) as source, atomic.translate_io_errors(path, info.file_size):
                    with open(prepared, "wb") as target:
                        shutil.copyfileobj(source, target)
                if not store.check_sha1(str(prepared), file.sha1):
                    raise _NotFound(f"{path.name} has another SHA-1")
                atomic.sync_file(prepared)
    except KeyError:
        raise _NotFound(f"an archive without {path.name}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise _NotFound(f"no readable archive ({error})") from None
    return path


def _download(url: str, target: IO[bytes], seconds: float, silent_seconds: float, progress: Progress) -> None:
    """Download into a file, in a thread, so that a request to stop ends the wait at once."""
    errors: List[Exception] = []
    ended = threading.Event()

    def work() -> None:
        try:
            for chunk in _chunks(url, silent_seconds):
                if ended.is_set():
                    return
                target.write(chunk)
        except Exception as error:  # raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    polls = max(round(seconds / _POLL_SECONDS), 1)
    try:
        for _ in progress.track(range(polls), polls, "downloading weights"):
            thread.join(_POLL_SECONDS)
            if not thread.is_alive():
                break
        else:
            raise _NotFound(f"not complete after {seconds:g} s")
    finally:
        ended.set()
    if errors:
        raise errors[0] if isinstance(errors[0], _NotFound) else _NotFound(_reason(errors[0], silent_seconds))


def _chunks(url: str, silent_seconds: float) -> Iterator[bytes]:
    """Yield the body of the response to a GET request."""
    import requests  # which MXNet and GluonCV depend on

    with requests.get(url, stream=True, timeout=silent_seconds) as response:
        if response.status_code != 200:
            raise _NotFound(f"status {response.status_code}")
        expected, received = response.headers.get("Content-Length"), 0
        for chunk in response.iter_content(_CHUNK):
            received += len(chunk)
            if received > MAX_BYTES:
                raise _NotFound(f"more than {MAX_BYTES} bytes")
            yield chunk
        if expected is not None and "Content-Encoding" not in response.headers and received != int(expected):
            raise _NotFound(f"the download was cut off after {received} of {expected} bytes")


def _reason(error: Any, silent_seconds: float) -> str:
    """Return why a download failed, in a few words."""
    import requests

    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {silent_seconds:g} s"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "IncompleteRead" in str(error):
        return "the download was cut off"
    if isinstance(error, requests.exceptions.ConnectionError):
        return f"no answer within {silent_seconds:g} s" if "timed out" in str(error) else "cannot be reached"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
