"""Write the output files of a SageMaker batch transform job locally.

Each is named <image>.out and holds the endpoint's response.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Iterator

from ssd_train.deploy.codec import RequestError, RequestLimits, negotiate_accept
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.deploy.handlers import handle_request
from ssd_train.environment import payload_limit
from ssd_train.errors import ConfigError
from ssd_train.storage import atomic

CONTENT_TYPE = "application/x-image"  # the bytes decide whether JPEG or PNG


def transform(detector: Detector, images: Iterable[ImageRef], folder: Path, accept: str) -> Iterator[str]:
    """Write `<name>.out` into `folder` for each image.

    Yields:
        An error message for each image, "" if its file was written.

    Raises:
        ConfigError: `accept` names no supported content type; nothing was written.
    """
    try:
        negotiate_accept(accept)
    except RequestError as error:
        raise ConfigError(str(error)) from None
    limits = RequestLimits(payload_limit())
    for image in images:
        try:
            body: Any = image.read()  # bytes: the images are files
            text, _ = handle_request(detector, body, CONTENT_TYPE, accept, limits)
        except RequestError as error:
            yield f"{image.where}: {error}"
        except OSError as error:
            yield f"{image.where}: cannot be read ({error.strerror})"
        else:
            atomic.write_bytes_atomic(folder / f"{image.name}.out", text.encode("utf-8"))
            yield ""
