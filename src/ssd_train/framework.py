"""The one door to MXNet and GluonCV: versions checked, pitfalls of their import mended, once.

    mx = framework.mxnet()
    gcv = framework.gluoncv()

Nothing is loaded before the first call, so this module can be imported where neither library is installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import platform
import re
import sys
import types
import warnings
from importlib import metadata
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np

from ssd_train.cpus import available_cpus
from ssd_train.errors import ConfigError, DependencyError

FITS = (
    "what fits is mxnet 1.9.1 with gluoncv 0.10.5.post0 and numpy 1.23 to 1.26, "
    "or mxnet 1.9.0 with gluoncv 0.8.0 and numpy 1.19"
)
HOW_TO_INSTALL = "install the extra of your machine: pip install 'ssd-train[cpu]', or 'ssd-train[cu112]' for CUDA 11.2"

# One library under the names of its builds, the AWS containers' own included.
_DISTRIBUTIONS = {
    "mxnet": ("mxnet", "mxnet-cu112", "aws-mx", "aws-mx-cu112"),
    "gluoncv": ("gluoncv",),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
    "pillow": ("Pillow",),
}
# Shared libraries that pip does not bring.
_REMEDIES = {
    "libgomp": ": apt-get install libgomp1",
    "libquadmath": ": apt-get install libquadmath0",
    "libGL": ": pip uninstall -y opencv-python; pip install --force-reinstall --no-deps opencv-python-headless",
}
# What `import gluoncv` imports and, where that fails, hides (its __init__.py passes over every ImportError).
_GLUONCV_PARTS = ("check", "data", "model_zoo", "nn", "utils", "loss")


@functools.lru_cache(maxsize=None)
def mxnet() -> types.ModuleType:
    """The `mxnet` module, loaded with `cpu_threads()` OpenMP threads.

    Raises:
        DependencyError: MXNet is missing, too old, or does not go with the NumPy, Python or system libraries found.
        ConfigError: OMP_NUM_THREADS is set to something that is no number.
    """
    _check_before_import()
    if "mxnet" not in sys.modules:
        os.environ["OMP_NUM_THREADS"] = str(cpu_threads())
        os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # a line on standard error for each network made ready
    with _quiet_import():
        if not hasattr(np, "bool"):  # gone in NumPy 1.24; MXNet reads it when it is imported, and later
            np.bool = bool  # type: ignore[attr-defined]
        module = _import("mxnet")
    if _numbers(module.__version__) < (1, 9):
        raise _misfit(f"mxnet {module.__version__} is too old")
    return module


@functools.lru_cache(maxsize=None)
def gluoncv(part: str = "") -> types.ModuleType:
    """The `gluoncv` module with its MXNet half (`model_zoo`, `nn`, `loss`, `data`, `utils`), or a module inside it.

    `part` names that module in full, such as "model_zoo.ssd.ssd": GluonCV's star imports put other modules of the
    same name in the way of `gluoncv().model_zoo.ssd`.

    Raises:
        DependencyError: as `mxnet`, or GluonCV is missing, too old, or one of the libraries that it needs is.
    """
    if part:
        gluoncv()
        with _quiet_import():
            return _import(f"gluoncv.{part}")
    mxnet()
    with _quiet_import(), _undo_pil_leniency():
        module = _import("gluoncv", hidden=_hidden_cause_in_gluoncv)
    found = versions()["gluoncv"] or module.__version__
    if _numbers(found) < (0, 8):
        raise _misfit(f"gluoncv {found} is too old")
    return module


@functools.lru_cache(maxsize=None)
def horovod() -> types.ModuleType:
    """The `horovod.mxnet` module.

    Raises:
        DependencyError: it is missing, or was not built for this MXNet.
    """
    mxnet()
    with _quiet_import():
        return _import("horovod.mxnet")


def enable_mixed_precision(on_gpu: bool) -> str:
    """Let MXNet compute in 16 bits where that is safe: float16 on GPUs, bfloat16 on CPUs; returns which.

    Networks built later take part, those built before do not, and it cannot be undone in this process. The casts are
    nodes of a symbol, and `tojson`, `save` and `export` drop them in silence unless told `remove_amp_cast=False`: see
    model/frozen.py, which keeps them, and `compile_answers` in model/graphs.py, which does not.
    """
    dtype = "float16" if on_gpu else "bfloat16"
    mxnet()
    with _quiet_import():
        importlib.import_module("mxnet.contrib.amp").init(target_dtype=dtype)
    return dtype


def has_fused_batchnorm() -> bool:
    """Whether MXNet's operator for BatchNorm and ReLU at once works on the CPU here, and fast: it is oneDNN's alone,
    whose code for processors without AVX2 is a hundred times as slow as the two operators."""
    # absent from the stubs; in NumPy 1.19 to 1.26, which are those that MXNet goes with
    from numpy.core._multiarray_umath import __cpu_features__

    enabled = mxnet().runtime.Features().is_enabled("MKLDNN") and os.environ.get("MXNET_MKLDNN_ENABLED", "1") != "0"
    return bool(enabled and __cpu_features__.get("AVX2", False))


def features() -> List[str]:
    """Return the names of what this build of MXNet was made with, such as CUDA and CUDNN."""
    return sorted(name for name, feature in mxnet().runtime.Features().items() if feature.enabled)


def compute_capability(device: Any) -> Optional[int]:
    """Return the compute capability of a GPU, such as 75 for code named sm_75; None where its driver does not tell."""
    try:
        return int(mxnet().util.get_cuda_compute_capability(device))
    except (OSError, RuntimeError):
        return None


def versions() -> Dict[str, Optional[str]]:
    """Installed versions by name (python, mxnet, gluoncv, numpy, ...), None where not installed; imports nothing.

    They are read from the packages' metadata: GluonCV 0.10.5.post0 says `__version__ == "0.11.0"` of itself.
    """
    found: Dict[str, Optional[str]] = {"python": platform.python_version()}
    for name, distributions in _DISTRIBUTIONS.items():
        found[name] = next((v for v in map(_distribution_version, distributions) if v is not None), None)
    return found


def cpu_threads() -> int:
    """Threads that MXNet computes with on the CPU, at least 1.

    The user's OMP_NUM_THREADS where it is set; else the CPUs that this process may run on (its affinity, limited by
    the quota of its control group), which `mxnet` sets: left alone MXNet takes half of the machine's.

    Raises:
        ConfigError: OMP_NUM_THREADS does not start with a whole number of at least 1.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not chosen:
        return available_cpus()
    first = chosen.split(",")[0].strip()  # OpenMP allows a list, one number for each level of nesting
    if not first.isdigit() or int(first) < 1:
        raise ConfigError(f"OMP_NUM_THREADS is {chosen!r}: expected a whole number of at least 1")
    return int(first)


def _check_before_import() -> None:
    if _numbers(np.__version__) >= (2,):
        raise _misfit("numpy 2 was made after MXNet's last release and breaks its import")
    # Python 3.12 has no distutils; setuptools brings one, which MXNet and GluonCV read version numbers with.
    if sys.version_info >= (3, 12) and importlib.util.find_spec("distutils") is None:
        raise _misfit("MXNet needs distutils, which Python 3.12 leaves to setuptools: pip install 'setuptools<81'")


def _import(name: str, hidden: Callable[[], Optional[Exception]] = lambda: None) -> types.ModuleType:
    """Import a library; whatever stops it becomes one line with the cause that `hidden` digs out, else its own."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise _misfit(f"{name} is not installed; {HOW_TO_INSTALL}")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a C library that does not load, a name that NumPy dropped: all kinds come up here
        cause = hidden() or error
        remedy = next((text for library, text in _REMEDIES.items() if library in str(cause)), "")
        raise _misfit(f"{name} cannot be imported ({type(cause).__name__}: {_one_line(cause)}){remedy}") from cause
    return module


def _hidden_cause_in_gluoncv() -> Optional[Exception]:
    """The error behind GluonCV's "missing `mxnet` & `torch`": its parts are imported without its __init__.py."""
    spec = importlib.util.find_spec("gluoncv")
    package = types.ModuleType("gluoncv")
    package.__path__ = list(spec.submodule_search_locations or []) if spec else []
    sys.modules["gluoncv"] = package
    try:
        for part in _GLUONCV_PARTS:
            importlib.import_module(f"gluoncv.{part}")
    except Exception as error:
        return error
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "gluoncv"]:
            del sys.modules[name]
    return None


def _misfit(problem: str) -> DependencyError:
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions().items())
    return DependencyError(f"{problem}; found: {found}; {FITS}")


def _distribution_version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> Tuple[int, ...]:
    """Leading numbers of a version: "0.10.5.post0" -> (0, 10, 5), "1.9.0b2021" -> (1, 9, 0)."""
    return tuple(int(number) for number in re.sub(r"[^\d.].*", "", version).split(".") if number)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Hide the warnings of two libraries that nobody mends any more; the user's own filters come back after it."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, SyntaxWarning):
            warnings.simplefilter("ignore", kind)
        yield


@contextlib.contextmanager
def _undo_pil_leniency() -> Iterator[None]:
    """GluonCV's import makes Pillow accept truncated files in the whole process (gluoncv/data/mhp.py)."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
