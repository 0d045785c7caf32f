"""Imports of MXNet and GluonCV: errors in one line, and no side effects.

Imports run in subprocesses, with fake libraries where the real ones would hide what is tested.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_train import mxnet_compat
from ssd_train.errors import ConfigError, DependencyError

SOURCE = Path(mxnet_compat.__file__).resolve().parents[1]
needs_mxnet = pytest.mark.skipif(
    importlib.util.find_spec("mxnet") is None or importlib.util.find_spec("gluoncv") is None,
    reason="MXNet and GluonCV are not installed",
)

# A GluonCV in short: its __init__.py hides the error that its parts raise, as the real one does.
GLUONCV = """
try:
    from . import check, data, model_zoo, nn, utils, loss
except ImportError:
    raise ImportError("Unable to import modules due to missing `mxnet` & `torch`.")
"""
LENIENT = "from PIL import ImageFile; ImageFile.LOAD_TRUNCATED_IMAGES = True"


def stand_ins(folder, **modules):
    """Write modules by name (gluoncv__data is gluoncv/data.py) and give the folder for PYTHONPATH."""
    for part in ("check", "data", "model_zoo", "nn", "utils", "loss"):
        modules.setdefault(f"gluoncv__{part}", "")
    modules.setdefault("gluoncv____init__", GLUONCV)
    for name, code in modules.items():
        path = folder.joinpath(*name.split("__", 1)).with_suffix(".py") if "__" in name else folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return folder


def run(code, *path, **environ):
    """Run code in a new process that sees `path` before anything else; return what it printed, or its error."""
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", f"from ssd_train import mxnet_compat\n{code}"],
        env={**inherited, **environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, SOURCE]))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    return done.stdout + done.stderr


def error_of(call, *path):
    """Return the message of the DependencyError that a call raises."""
    return run(
        "from ssd_train.errors import DependencyError\n"
        f"try:\n    mxnet_compat.{call}\nexcept DependencyError as error:\n    print('ERROR', error)",
        *path,
    )


@pytest.mark.parametrize(
    "value, expected",
    [
        pytest.param("3", 3, id="number"),
        pytest.param(" 4,2 ", 4, id="list-by-level"),
        pytest.param("0", ConfigError, id="zero"),
        pytest.param("all", ConfigError, id="word"),
        pytest.param("-1", ConfigError, id="negative"),
    ],
)
def test_cpu_threads_uses_omp_num_threads(monkeypatch, value, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    if isinstance(expected, int):
        assert mxnet_compat.cpu_threads() == expected
    else:
        with pytest.raises(expected, match=f"^OMP_NUM_THREADS: found {value!r}"):
            mxnet_compat.cpu_threads()


def test_framework_import_loads_no_library():
    assert run("import sys; print([name for name in ('mxnet', 'gluoncv') if name in sys.modules])") == "[]\n"


@pytest.mark.parametrize(
    "call, modules, expected",
    [
        pytest.param("mxnet()", {"mxnet": "__version__ = '1.8.0'"}, "mxnet 1.8.0 is too old", id="mxnet-old"),
        pytest.param(
            "mxnet()", {"mxnet": "import numpy; numpy.nonsense"}, "AttributeError: module 'numpy'", id="numpy-name"
        ),
        pytest.param(
            "mxnet()",
            {"mxnet": "raise OSError('libgomp.so.1: cannot open shared object file')"},
            "libgomp.so.1: cannot open shared object file): apt-get install libgomp1",
            id="system-library",
        ),
        pytest.param("mxnet()", {"numpy": "__version__ = '2.1.0'"}, "numpy 2", id="numpy-2"),
        pytest.param(
            "gluoncv()", {"gluoncv__data": "import nonsense"}, "No module named 'nonsense'", id="hidden-missing"
        ),
        pytest.param(
            "gluoncv()",
            {"gluoncv__utils": "raise ImportError('libGL.so.1: cannot open')"},
            "--force-reinstall --no-deps opencv-python-headless",
            id="hidden-libGL",
        ),
    ],
)
def test_import_of_incompatible_library_is_one_line(tmp_path, call, modules, expected):
    modules = {"mxnet": "__version__ = '1.9.1'", **modules}
    message = error_of(call, stand_ins(tmp_path, **modules))
    assert message.startswith("ERROR "), message
    assert expected in message
    assert "missing `mxnet` & `torch`" not in message
    assert "found: python " in message and mxnet_compat.FITS in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("call, name", [("mxnet()", "mxnet"), ("gluoncv()", "gluoncv")])
def test_import_of_missing_library_names_the_extra(monkeypatch, call, name):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else real(wanted))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(mxnet_compat, "mxnet", mxnet_compat.mxnet.__wrapped__)
    monkeypatch.setattr(mxnet_compat, "_check_before_import", lambda: None)
    if name == "gluoncv":
        monkeypatch.setattr(mxnet_compat, "mxnet", lambda: None)
    function = getattr(mxnet_compat, name)
    with pytest.raises(DependencyError, match=rf"^{name} is not installed; .*pip install 'ssd-train\[cpu\]'"):
        getattr(function, "__wrapped__", function)()


@pytest.mark.parametrize("before", [False, True])
def test_gluoncv_import_keeps_pillow_setting(tmp_path, before):
    path = stand_ins(tmp_path, mxnet="__version__ = '1.9.1'", gluoncv__data=LENIENT)
    code = (
        f"from PIL import ImageFile; ImageFile.LOAD_TRUNCATED_IMAGES = {before}\n"
        "mxnet_compat.gluoncv(); print(ImageFile.LOAD_TRUNCATED_IMAGES)"
    )
    assert run(code, path) == f"{before}\n"


def test_mxnet_import_hides_only_its_own_warnings(tmp_path):
    path = stand_ins(tmp_path, mxnet="__version__ = '1.9.1'; import warnings; warnings.warn('old', DeprecationWarning)")
    code = (
        "import warnings; warnings.simplefilter('error'); before = list(warnings.filters)\n"
        "mxnet_compat.mxnet(); assert warnings.filters == before\n"
        "try:\n    warnings.warn('mine', DeprecationWarning)\nexcept DeprecationWarning as error:\n    print(error)"
    )
    assert run(code, path) == "mine\n"


def test_mxnet_import_restores_numpy_bool(tmp_path):
    path = stand_ins(tmp_path, mxnet="__version__ = '1.9.1'; import numpy; print(numpy.bool is bool)")
    code = (
        "import numpy\n"
        "vars(numpy).pop('bool', None)  # as NumPy 1.24 is, whichever is installed\n"
        "vars(numpy).pop('__getattr__', None)\n"
        "mxnet_compat.mxnet()"
    )
    assert run(code, path) == "True\n"


@pytest.mark.parametrize("chosen, expected", [({}, "free"), ({"OMP_NUM_THREADS": "1"}, "1")], ids=["free", "the-users"])
def test_mxnet_import_sets_threads_first(tmp_path, chosen, expected):
    path = stand_ins(tmp_path, mxnet="__version__ = '1.9.1'; import os; print(os.environ['OMP_NUM_THREADS'])")
    printed = run("mxnet_compat.mxnet(); print(mxnet_compat.available_cpus())", path, **chosen).split()
    assert printed[0] == (printed[1] if expected == "free" else expected)


@needs_mxnet
def test_real_libraries_load_without_side_effects():
    code = """
import ctypes, logging, os, signal, sys, warnings
import numpy
from PIL import ImageFile

def trace():
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    return (list(warnings.filters), logging.root.handlers, logging.root.level, handlers, numpy.get_printoptions(),
            numpy.geterr(), numpy.random.get_state()[1].tolist(), sys.excepthook, ImageFile.LOAD_TRUNCATED_IMAGES)

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
before = trace()
with warnings.catch_warnings(record=True) as escaped:
    warnings.simplefilter("always")
    mx, gcv = mxnet_compat.mxnet(), mxnet_compat.gluoncv()
assert trace() == before
assert not escaped, [str(warning.message) for warning in escaped]
assert mxnet_compat.gluoncv() is gcv
assert mxnet_compat.gluoncv("model_zoo.ssd.ssd").SSD.__name__ == "SSD"
mx.nd.ones((2, 2)).asnumpy()
library = next(line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line)
assert ctypes.CDLL(library).omp_get_max_threads() == mxnet_compat.cpu_threads() == len(os.sched_getaffinity(0))
print("fine")
"""
    assert run(code) == "fine\n"
