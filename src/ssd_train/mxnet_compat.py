"""Imports of MXNet, GluonCV and Horovod, with version checks and workarounds for their import problems.

    mx = mxnet_compat.mxnet()
    gcv = mxnet_compat.gluoncv()

Nothing is loaded before the first call, so this module can be imported without these libraries.
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

from ssd_train.errors import ConfigError, DependencyError
from ssd_train.resources import available_cpus, computes_bfloat16

FITS = (
    "supported: mxnet 1.9.1 with gluoncv 0.10.5.post0 and numpy 1.23 to 1.26, "
    "or mxnet 1.9.0 with gluoncv 0.8.0 and numpy 1.19"
)
HOW_TO_INSTALL = "install the extra of your machine: pip install 'ssd-train[cpu]', or 'ssd-train[cu112]' for CUDA 11.2"

# Distribution names of each library, including those of AWS's containers.
_DISTRIBUTIONS = {
    "mxnet": ("mxnet", "mxnet-cu112", "aws-mx", "aws-mx-cu112"),
    "gluoncv": ("gluoncv",),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
    "pillow": ("Pillow",),
}
# Shared libraries that pip does not install.
_REMEDIES = {
    "libgomp": ": apt-get install libgomp1",
    "libquadmath": ": apt-get install libquadmath0",
    "libGL": ": pip uninstall -y opencv-python; pip install --force-reinstall --no-deps opencv-python-headless",
}
# Modules that `import gluoncv` imports; its __init__.py hides every ImportError.
_GLUONCV_PARTS = ("check", "data", "model_zoo", "nn", "utils", "loss")


@functools.lru_cache(maxsize=None)
def mxnet() -> types.ModuleType:
    """Import and return `mxnet`, with `cpu_threads()` OpenMP threads.

    Raises:
        DependencyError: MXNet is missing, too old, or incompatible with the installed NumPy, Python or system
            libraries.
        ConfigError: OMP_NUM_THREADS is not a number.
    """
    _check_before_import()
    if "mxnet" not in sys.modules:
        os.environ["OMP_NUM_THREADS"] = str(cpu_threads())
        os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # suppresses a line on standard error per network
    with _quiet_import():
        if not hasattr(np, "bool"):  # removed in NumPy 1.24; MXNet uses it on import and later
            np.bool = bool  # type: ignore[attr-defined]  # not in NumPy's types
        module = _import("mxnet")
    if _release(module.__version__) < (1, 9):
        raise _dependency_error(f"mxnet {module.__version__} is too old")
    return module


@functools.lru_cache(maxsize=None)
def gluoncv(part: str = "") -> types.ModuleType:
    """Import and return `gluoncv` with its MXNet modules, or one of its submodules.

    Args:
        part: Full name of a submodule, such as "model_zoo.ssd.ssd"; `gluoncv().model_zoo.ssd` is shadowed by GluonCV's
            star imports.

    Raises:
        DependencyError: as `mxnet`, or GluonCV or one of its dependencies is missing or too old.
    """
    if part:
        gluoncv()
        with _quiet_import():
            return _import(f"gluoncv.{part}")
    mxnet()
    with _quiet_import(), _keep_pil_strict():
        module = _import("gluoncv", find_cause=_find_gluoncv_error)
    version = versions()["gluoncv"] or module.__version__
    if _release(version) < (0, 8):
        raise _dependency_error(f"gluoncv {version} is too old")
    return module


@functools.lru_cache(maxsize=None)
def horovod() -> types.ModuleType:
    """Import and return `horovod.mxnet`.

    Raises:
        DependencyError: it is missing, or was built for another MXNet.
    """
    mxnet()
    with _quiet_import():
        return _import("horovod.mxnet")


def add_casts(symbol: Any, inputs: List[str], dtype: str) -> Any:
    """Return `symbol` with the casts of MXNet's automatic mixed precision (AMP).

    Unlike `amp.init`, which adds casts to every network that the process builds afterwards, it changes no other one.

    Args:
        symbol: a symbol that computes in float32.
        inputs: names of its float32 inputs, other than parameters.
        dtype: "float16" or "bfloat16".
    """
    with _quiet_import():
        amp = importlib.import_module("mxnet.contrib.amp")
    # its list for float16 leaves pick to the dtype of its inputs, and then it cannot infer that of the index
    float32 = [*amp.list_fp32_ops("float16"), "pick"] if dtype == "float16" else None
    return amp.convert_symbol(symbol, dtype, fp32_ops=float32, data_names=inputs)


def has_native_bfloat16() -> bool:
    """Return whether MXNet computes in bfloat16 on this CPU natively; emulated, it is slower than float32."""
    return _has_onednn() and computes_bfloat16()


def has_fused_batchnorm() -> bool:
    """Return whether MXNet's fused BatchNorm + ReLU operator is available and fast on this CPU.

    Only oneDNN implements it, and without AVX2 it is a hundred times slower than the two separate operators.
    """
    # missing in the type stubs; exists in NumPy 1.19 to 1.26, the versions that MXNet supports
    from numpy.core._multiarray_umath import __cpu_features__

    return _has_onednn() and bool(__cpu_features__.get("AVX2", False))


def _has_onednn() -> bool:
    enabled = mxnet().runtime.Features().is_enabled("MKLDNN")
    return bool(enabled) and os.environ.get("MXNET_MKLDNN_ENABLED", "1") != "0"


def features() -> List[str]:
    """Return the enabled features of this MXNet build, such as CUDA and CUDNN."""
    return sorted(name for name, feature in mxnet().runtime.Features().items() if feature.enabled)


def compute_capability(device: Any) -> Optional[int]:
    """Return the compute capability of a GPU, such as 75 for sm_75; None if the driver does not report it."""
    try:
        return int(mxnet().util.get_cuda_compute_capability(device))
    except (OSError, RuntimeError):
        return None


def versions() -> Dict[str, Optional[str]]:
    """Return installed versions by name (python, mxnet, ...), None if not installed, without importing anything.

    They come from the package metadata: the `__version__` of GluonCV 0.10.5.post0 is "0.11.0".
    """
    installed: Dict[str, Optional[str]] = {"python": platform.python_version()}
    for name, distributions in _DISTRIBUTIONS.items():
        installed[name] = next((v for v in map(_distribution_version, distributions) if v is not None), None)
    return installed


def cpu_threads() -> int:
    """Return the number of CPU threads of MXNet: OMP_NUM_THREADS, or else the CPUs available to this process.

    MXNet's own default is half of the machine's CPUs.

    Raises:
        ConfigError: OMP_NUM_THREADS does not start with an integer of at least 1.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not chosen:
        return available_cpus()
    first = chosen.split(",")[0].strip()  # OpenMP allows a list with one number per nesting level
    if not first.isdigit() or int(first) < 1:
        raise ConfigError(f"OMP_NUM_THREADS: found {chosen!r}, expected a whole number of at least 1")
    return int(first)


def _check_before_import() -> None:
    if _release(np.__version__) >= (2,):
        raise _dependency_error("numpy 2 is newer than MXNet's last release and breaks its import")
    # MXNet and GluonCV parse versions with distutils; Python 3.12 has none, but setuptools has.
    if sys.version_info >= (3, 12) and importlib.util.find_spec("distutils") is None:
        raise _dependency_error("MXNet needs distutils, which is not part of Python 3.12: pip install 'setuptools<81'")


def _import(name: str, find_cause: Callable[[], Optional[Exception]] = lambda: None) -> types.ModuleType:
    """Import a library; on any error raise a DependencyError with the cause from `find_cause`, or the error itself."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise _dependency_error(f"{name} is not installed; {HOW_TO_INSTALL}")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # of any type: a C library that does not load, a name removed from NumPy
        cause = find_cause() or error
        remedy = next((text for library, text in _REMEDIES.items() if library in str(cause)), "")
        raise _dependency_error(
            f"{name} cannot be imported ({type(cause).__name__}: {_one_line(cause)}){remedy}"
        ) from cause
    return module


def _find_gluoncv_error() -> Optional[Exception]:
    """Return the error behind GluonCV's "missing `mxnet` & `torch`", by importing its modules without __init__.py."""
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


def _dependency_error(problem: str) -> DependencyError:
    installed = ", ".join(f"{name} {version or 'missing'}" for name, version in versions().items())
    return DependencyError(f"{problem}; found: {installed}; {FITS}")


def _distribution_version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> Tuple[int, ...]:
    """Return the release numbers of a version: "0.10.5.post0" -> (0, 10, 5), "1.9.0b2021" -> (1, 9, 0)."""
    return tuple(int(number) for number in re.sub(r"[^\d.].*", "", version).split(".") if number)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Suppress the warnings of two unmaintained libraries; the user's filters are restored afterwards."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, SyntaxWarning):
            warnings.simplefilter("ignore", kind)
        yield


@contextlib.contextmanager
def _keep_pil_strict() -> Iterator[None]:
    """Restore Pillow's setting for truncated files, which the import of gluoncv/data/mhp.py changes globally."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
