"""What a batch transform job of SageMaker leaves, made here: for each picture a file, named as it with .out after that,
with the answer that the endpoint would give."""

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

CONTENT_TYPE = "application/x-image"  # JPEG or PNG, told by its bytes


def transform(detector: Detector, pictures: Iterable[Picture], folder: Path, accept: str) -> Iterator[str]:
    """Write `<name>.out` into `folder` for each picture; yields for each of them why there is none, "" where there is.

    Raises:
        ConfigError: `accept` is no content type of an answer; nothing was written.
    """
    try:
        check_accept(accept)
    except RequestError as error:
        raise ConfigError(str(error)) from None
    limits = RequestLimits(payload_limit())
    for picture in pictures:
        try:
            text, _ = answer(detector, picture.read(), CONTENT_TYPE, accept, limits)
        except RequestError as error:
            yield f"{picture.where}: {error}"
        except OSError as error:
            yield f"{picture.where}: cannot be read ({error.strerror})"
        else:
            storage.write_bytes_atomic(folder / f"{picture.name}.out", text.encode("utf-8"))
            yield ""
