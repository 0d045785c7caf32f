"""Write the output files of a SageMaker batch transform job locally.

Each is named <image>.out and holds the endpoint's response.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Iterator

from ssd_train import storage
from ssd_train.deploy.answers import check_accept
from ssd_train.deploy.detector import Detector, Picture
from ssd_train.deploy.requests import RequestError, RequestLimits
from ssd_train.deploy.serve import answer
from ssd_train.environment import payload_limit
from ssd_train.errors import ConfigError

CONTENT_TYPE = "application/x-image"  # the bytes decide whether JPEG or PNG


def transform(detector: Detector, images: Iterable[Picture], folder: Path, accept: str) -> Iterator[str]:
    """Write `<name>.out` into `folder` for each image.

    Yields:
        An error message for each image, "" if its file was written.

    Raises:
        ConfigError: `accept` names no supported content type; nothing was written.
    """
    try:
        check_accept(accept)
    except RequestError as error:
        raise ConfigError(str(error)) from None
    limits = RequestLimits(payload_limit())
    for image in images:
        try:
            text, _ = answer(detector, image.read(), CONTENT_TYPE, accept, limits)
        except RequestError as error:
            yield f"{image.where}: {error}"
        except OSError as error:
            yield f"{image.where}: cannot be read ({error.strerror})"
        else:
            storage.write_bytes_atomic(folder / f"{image.name}.out", text.encode("utf-8"))
            yield ""
