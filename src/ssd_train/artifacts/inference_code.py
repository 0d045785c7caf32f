"""Write code/ in a model folder, so that its archive can be served.

SageMaker's MXNet container uses it:

code/inference.py         default module of the container (SAGEMAKER_PROGRAM changes it)
code/requirements.txt     required packages other than MXNet and NumPy
code/ssd_train/           this package, importable because the container puts code/ on sys.path

The package must not be in code/lib/: `deploy()` and `transformer()` of the SageMaker SDK 2 copy the estimator's
`dependencies` to that path, and raise FileExistsError if it has a folder of the same name. They also unpack the job's
sourcedir.tar.gz, which has this same package at its top level, over code/.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Dict

from ssd_train.storage import atomic

CODE = "code"
PACKAGE = Path(__file__).resolve().parents[1]
INFERENCE = '''"""Handlers with which SageMaker's MXNet container serves the model next to this folder."""

from ssd_train.deploy.handlers import model_fn, transform_fn  # noqa: F401
'''
# Without OpenCV: the image lacks it, Pillow replaces it, and the container does not start if pip reaches no index.
REQUIREMENTS = """# AWS's MXNet 1.9.0 inference image has all of these.
# Never add mxnet: it would replace AWS's own build.
Pillow>=9.1
tqdm>=4.39
"""


def write_inference_code(folder: Path) -> None:
    """Write code/ into the model folder atomically, unless it is up to date."""
    path, files = folder / CODE, _files()
    if _digest(files) == _digest({name: path / name for name in files}):
        return
    with atomic.translate_io_errors(path, 0):
        atomic.remove_leftovers(path)
        prepared = atomic.temp_path_for(path)
        for name, content in files.items():
            target = prepared / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            atomic.sync_file(target)
        shutil.rmtree(path, ignore_errors=True)  # if killed after this line, the next run writes code/ again
        atomic.replace_atomic(prepared, path)


def _files() -> "Dict[str, bytes | Path]":
    """Return the content of code/ by name: bytes, or a file to copy."""
    sources = (path for path in sorted(PACKAGE.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    library = {f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}": path for path in sources}
    return {"inference.py": INFERENCE.encode(), "requirements.txt": REQUIREMENTS.encode(), **library}


def _digest(files: "Dict[str, bytes | Path]") -> str:
    """Hash names and contents; a missing file gives a digest of its own."""
    total = hashlib.sha256()
    for name, content in files.items():
        if isinstance(content, Path):
            content = content.read_bytes() if content.is_file() else b"no file"
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()
