"""Write named arrays in MXNet's file format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from ssd_train import framework, storage
from ssd_train.errors import SsdTrainError

mx = framework.mxnet()


def write_arrays(path: Path, arrays: Dict[str, Any]) -> None:
    """Write `arrays` to the file `path` and flush it to disk.

    Raises:
        SsdTrainError: writing fails. MXNet alone reports no more than "FileStream.Write incomplete".
    """
    try:
        storage.guarded_write(path, lambda: mx.nd.save(str(path), arrays), sum(4 * a.size for a in arrays.values()))
    except mx.MXNetError as error:
        raise SsdTrainError(f"{path}: cannot be written: {str(error).strip().splitlines()[-1]}") from error
