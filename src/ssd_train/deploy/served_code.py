"""code/ in a model folder: the program with which SageMaker's MXNet container serves the model's archive as it is.

code/inference.py         what the container imports unless told otherwise (SAGEMAKER_PROGRAM)
code/requirements.txt     what it needs beside MXNet and NumPy
code/ssd_train/           this package, importable because the container puts code/ on sys.path

The package must not lie in code/lib/: `deploy()` and `transformer()` of the SageMaker SDK 2 copy the estimator's
`dependencies` there, and raise FileExistsError where a folder of that name is. They unpack the job's sourcedir.tar.gz,
which has this very package at its top, over code/.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Dict

from ssd_train import storage

CODE = "code"
PACKAGE = Path(__file__).resolve().parents[1]
INFERENCE = '''"""What SageMaker's MXNet container imports to serve the model beside this folder."""

from ssd_train.deploy.serve import model_fn, transform_fn  # noqa: F401
'''
# Not OpenCV, which that image lacks and Pillow replaces: where pip reaches no index, the container would not start.
REQUIREMENTS = """# AWS's MXNet 1.9.0 inference image has all of it. Never add mxnet: AWS's own build would be replaced.
Pillow>=9.1
tqdm>=4.39
"""


def put_code(folder: Path) -> None:
    """Put code/ into the model folder, whole; one that is there and of this package stays."""
    place, files = folder / CODE, _files()
    if _digest(files) == _digest({name: place / name for name in files}):
        return
    with storage.errors_of(place, 0):
        storage.remove_leftovers(place)
        prepared = storage.temporary_beside(place)
        for name, content in files.items():
            target = prepared / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            storage.sync_file(target)
        shutil.rmtree(place, ignore_errors=True)  # a kill from here on leaves none, and the next run puts it there
        storage.move_into_place(prepared, place)


def _files() -> "Dict[str, bytes | Path]":
    """What belongs into code/, by name: bytes, or the file that has them."""
    own = (path for path in sorted(PACKAGE.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    library = {f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}": path for path in own}
    return {"inference.py": INFERENCE.encode(), "requirements.txt": REQUIREMENTS.encode(), **library}


def _digest(files: "Dict[str, bytes | Path]") -> str:
    """Of names and contents; a file that is not there differs from all others."""
    total = hashlib.sha256()
    for name, content in files.items():
        if isinstance(content, Path):
            content = content.read_bytes() if content.is_file() else b"no file"
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()
