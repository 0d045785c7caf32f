"""The command serve."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Sequence

from ssd_train.artifacts.symbol_format import is_converted
from ssd_train.cli.arguments import (
    MODEL_HELP,
    Parser,
    add_engine_flags,
    add_number,
    add_threshold_flag,
    program,
    score_threshold,
)
from ssd_train.cli.paths import S3Path, add_input, staged_s3_paths
from ssd_train.data.image_io import ImageLimits
from ssd_train.deploy.codec import RequestLimits
from ssd_train.deploy.detector import ENGINES, Detector, Engine
from ssd_train.deploy.handlers import warm_up
from ssd_train.progress import Progress
from ssd_train.storage.archive import open_model


def run(arguments: Sequence[str]) -> int:
    """Serve a model until SIGTERM or Ctrl-C."""
    flags = make_parser().parse_args(list(arguments))
    limits = RequestLimits(int(flags.max_mb * 2**20), ImageLimits(int(flags.max_megapixels * 1e6)))
    from ssd_train.deploy.server import app  # here, so that `serve --help` works without Starlette

    app.keep_memory_flat()
    name = _model_name(flags.model)  # before a path on S3 becomes a local one
    with staged_s3_paths(flags) as progress:
        detector = _detector(flags, progress)
        _warn_if_slow(detector.engine, flags, progress)
        warm_up(detector)
        listener = app.listen(flags.host, flags.port)
        host, port = listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        progress.info(f"serving {flags.model} with {detector.engine.name} at http://{address}:{port}/")
        threshold = score_threshold(flags, detector, progress)
        application = app.make_app(detector, limits, flags.queue, progress, threshold, name)
        app.run(application, listener, flags.queue)
        progress.info("stopped: all requests were answered")
    return 0


def _model_name(path: "Path | S3Path") -> str:
    """Return the name of a model file or folder, or of the folder around one that is only called "model"."""
    parts = PurePath(path.resolve() if isinstance(path, Path) else str(path)).parts
    names = [part.split(".")[0] for part in parts]
    return next((name for name in reversed(names) if name not in ("", "/", "model")), "the model")


def _detector(flags: argparse.Namespace, progress: Progress) -> Detector:
    """Load the model, by default with ONNX Runtime if it is installed: it is the fastest engine for single images."""
    if flags.engine != "auto" or flags.devices not in ("auto", "cpu") or not find_spec("onnxruntime"):
        return Detector.load(flags.model, flags.devices, flags.engine)
    with open_model(flags.model) as model:
        if model.is_dir() and any(model.glob("*.onnx")):
            return Detector.load(model, engine="onnxruntime")
        exportable = (model / "config.json").is_file() or is_converted(model)
        if exportable and all(map(find_spec, ("mxnet", "onnx"))):
            return _exported(model, progress)
        return Detector.load(flags.model)


def _warn_if_slow(engine: Engine, flags: argparse.Namespace, progress: Progress) -> None:
    """Warn if the 32-bit model runs with MXNet by default, and name a faster way."""
    chosen = (flags.engine, flags.devices) != ("auto", "auto")
    kind = engine.description.kind if engine.description else ""
    if chosen or kind == "int8" or "mxnet" not in ENGINES[engine.name]:
        return
    slower = f"using {engine.name}, which is slower than onnxruntime"
    missing = [package for package in ("onnxruntime", "onnx") if not find_spec(package)]
    if missing:
        progress.warning(f"{slower}; {' and '.join(missing)} not installed: pip install 'ssd-train[onnx]'")
    elif kind == "symbol":
        progress.warning(f"{slower}: serve the model folder of this export, or an ONNX file of it")


def _exported(folder: Path, progress: Progress) -> Detector:
    """Export the model in `folder` to ONNX in a subprocess, which keeps MXNet out of this process, and load that."""
    with tempfile.TemporaryDirectory() as temporary:
        exported = Path(temporary) / "model.onnx"
        progress.info(
            "exporting the model to ONNX, which is faster; run `export --format onnx` once to avoid this step"
        )
        command = [sys.executable, "-m", "ssd_train", "export", "--format", "onnx"]
        done = subprocess.run(
            [*command, "--model", str(folder), "--output", str(exported)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        if done.returncode == 0:
            return Detector.load(exported)
    progress.warning(f"the export failed ({(done.stdout.strip() or 'no message').splitlines()[-1]}); using mxnet")
    return Detector.load(folder)


def make_parser() -> Parser:
    """Return the parser of serve."""
    parser = Parser(
        prog=program("serve"),
        description="Serve a model over HTTP: /invocations and /ping as in SageMaker endpoints, a test page at /, and "
        "/metrics for Prometheus.",
    )
    add_input(parser, "--model", required=True, help=MODEL_HELP)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all interfaces; default: this machine only"
    )
    add_number(parser, "--port", int, (0, 65535), 8080, "port; 0: any free port")
    add_engine_flags(parser)
    add_threshold_flag(parser)
    add_number(parser, "--max_mb", float, (0.001, 1024), 6, "maximum size of a request body, MiB")
    add_number(parser, "--max_megapixels", float, (0.01, 1000), 50, "maximum size of an image")
    add_number(parser, "--queue", int, (1, 10000), 64, "maximum number of waiting requests, others get a 503")
    return parser
