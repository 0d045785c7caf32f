"""Run a trained model on images, for prediction, evaluation and serving."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Deque, Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np

from ssd_train.artifacts.metadata import ExportMetadata
from ssd_train.artifacts.model_config import weights_digest
from ssd_train.artifacts.symbol_format import BUILTIN_ARTIFACT
from ssd_train.boxes import SizeWH
from ssd_train.data.image_io import EncodedImage
from ssd_train.data.structures import ClassNames, Detections
from ssd_train.data.transforms import preprocess
from ssd_train.environment import read_devices
from ssd_train.errors import ConfigError, DataError, WeightsError
from ssd_train.storage.archive import open_model

# engine -> required packages
ENGINES = {
    "mxnet": ("mxnet", "gluoncv"),
    "symbol": ("mxnet",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


class Engine(Protocol):
    """Interface of an inference engine; its name is one of ENGINES."""

    name: str
    class_names: ClassNames
    side: int
    grayscale: bool

    @property
    def description(self) -> Optional[ExportMetadata]:
        """Return the metadata of an exported model; None for a model folder."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Run the network.

        Args:
            images: uint8 (B, side, side, 3), RGB.

        Returns:
            (B, N, 6): class id, score, x1, y1, x2, y2 in input pixels, best first; id -1: unused.
        """


class ImageRef(NamedTuple):
    """Reference to an encoded image.

    Attributes:
        name: its name in the output.
        read: returns its bytes.
        where: its source, for error messages.
        expected_wh: its size according to the labels, if known.
    """

    name: str
    read: Callable[[], bytes]
    where: str
    expected_wh: Optional[SizeWH] = None


class Prediction(NamedTuple):
    """Detections of an image, or the reason why there are none.

    Attributes:
        image_ref: the image; `image_ref.expected_wh` is its size if it could be decoded.
        image: RGB uint8 (H, W, 3), downscaled if the image is large; None if it could not be decoded.
        detections: boxes in pixels of the full-size image; None if it could not be decoded.
        error: the error message, or "".
    """

    image_ref: ImageRef
    image: Optional[np.ndarray]
    detections: Optional[Detections]
    error: str = ""


class Detector:
    """A trained object detector: ``Detector.load(folder)(image)``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def load(cls, path: "str | Path", devices: str = "auto", engine: str = "auto") -> "Detector":
        """Load a model.

        Args:
            path: a model folder, its archive (model.tar.gz), or an ONNX file.
            devices: an MXNet device: auto (the first GPU, otherwise the CPU), cpu, gpu, gpu:1.
            engine: one of ENGINES; auto: the first in that order which can run the model and is installed.

        Raises:
            WeightsError: the model is missing, damaged, or not of a kind that the engine runs.
            DependencyError: the engine is not installed.
            ConfigError: the engine cannot run on `devices`.
        """
        with open_model(Path(path)) as opened:
            loaded = _open(opened, devices, _choose_engine(opened, engine, str(path)))
            _check_same_weights(opened, loaded, str(path))
            return cls(loaded)

    @property
    def class_names(self) -> ClassNames:
        """Return the names by class id."""
        return self.engine.class_names

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect objects in an image.

        Args:
            image: RGB uint8 (H, W, 3).

        Returns:
            All detections, best first, boxes in pixels of the image.

        Raises:
            DataError: `image` is not such an array.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> List[Detections]:
        """Detect objects in several images, in one batch."""
        for image in images:
            _check_image(image)
        return self.predict_inputs([self.to_input(image) for image in images], [image.shape[1::-1] for image in images])

    def predict_iter(self, refs: Iterable[ImageRef], batch_size: int = 8, workers: int = 2) -> Iterator[Prediction]:
        """Detect objects in `refs`, in order.

        Threads read and decode the next images while the network runs.
        """
        refs = iter(refs)
        with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
            pending: Deque["Future[Tuple[Prediction, Optional[np.ndarray]]]"] = deque()
            for ref in itertools.islice(refs, (workers + 1) * batch_size):
                pending.append(pool.submit(self._load, ref))
            while pending:
                loaded = [pending.popleft().result() for _ in range(min(batch_size, len(pending)))]
                for ref in itertools.islice(refs, len(loaded)):
                    pending.append(pool.submit(self._load, ref))
                yield from self._predict(loaded)

    def to_input(self, image: np.ndarray) -> np.ndarray:
        """Resize `image` (H, W, 3) to the network's input, uint8 (side, side, 3)."""
        return preprocess(image, self.engine.side, self.engine.grayscale)

    def _load(self, ref: ImageRef) -> Tuple[Prediction, Optional[np.ndarray]]:
        try:
            image, size_wh = EncodedImage(ref.read(), ref.where).decode_verified(self.engine.side, ref.expected_wh)
        except DataError as error:
            return Prediction(ref, None, None, str(error)), None
        except OSError as error:
            return Prediction(ref, None, None, f"{ref.where}: cannot be read ({error.strerror})"), None
        return Prediction(ref._replace(expected_wh=size_wh), image, None), self.to_input(image)

    def _predict(self, loaded: "List[Tuple[Prediction, Optional[np.ndarray]]]") -> Iterator[Prediction]:
        decoded = [(answer, pixels) for answer, pixels in loaded if pixels is not None]
        sizes = [answer.image_ref.expected_wh for answer, _ in decoded]
        detections = iter(self.predict_inputs([pixels for _, pixels in decoded], sizes))
        for answer, pixels in loaded:
            yield answer if pixels is None else answer._replace(detections=next(detections))

    def predict_inputs(self, inputs: Sequence[np.ndarray], sizes: Sequence[SizeWH]) -> List[Detections]:
        """Detect objects in images that `to_input` has resized.

        Args:
            inputs: uint8 (side, side, 3) each.
            sizes: (width, height) of the original images, in whose pixels the boxes are returned.
        """
        if not inputs:
            return []
        rows = self.engine.run(np.stack(inputs))
        return [Detections.from_network(r, (int(w), int(h)), self.engine.side) for r, (w, h) in zip(rows, sizes)]


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise DataError(f"image: found {type(image).__name__}, expected a numpy array, RGB uint8 (H, W, 3)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"image: found {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3)")


def _choose_engine(path: Path, engine: str, shown: str) -> str:
    """Return the engine for the model at `path`; error messages call it `shown`."""
    if engine not in ("auto", *ENGINES):
        raise ConfigError(f"engine: found {engine!r}, expected auto, {', '.join(ENGINES)}")
    suitable = [name for name, pattern in _PATTERNS.items() if _matches(path, pattern)]
    if not suitable and _matches(path, f"{BUILTIN_ARTIFACT}-*"):
        raise WeightsError(
            f"{shown}: found a model of the built-in algorithm, expected it converted: python -m ssd_train convert"
        )
    if not suitable:
        raise WeightsError(
            f"{shown}: found no model, expected a model folder written by ssd_train, its .tar.gz, or an .onnx file"
        )
    if engine == "auto":
        installed = [name for name in suitable if all(find_spec(package) for package in ENGINES[name])]
        return (installed or suitable)[0]
    if engine not in suitable:
        raise WeightsError(f"{shown}: found a model for {' or '.join(suitable)}, expected one for {engine}: see export")
    return engine


# engine -> file name pattern of the models that it runs
_PATTERNS = {"mxnet": "config.json", "symbol": "model-export.json", "onnxruntime": "*.onnx", "openvino": "*.onnx"}


def _matches(path: Path, pattern: str) -> bool:
    return any(path.glob(pattern)) if path.is_dir() else path.is_file() and path.match(pattern)


def _open(path: Path, devices: str, engine: str) -> Engine:
    if engine == "mxnet":
        from ssd_train.deploy.gluon_backend import GluonEngine

        return GluonEngine(path, devices)
    if engine == "symbol":
        from ssd_train.deploy.symbol_backend import SymbolEngine

        return SymbolEngine(path, devices)
    if read_devices(devices)[0] == "gpu":
        raise ConfigError(
            f"devices: found {devices!r} with {engine}, which runs models on the CPU, expected auto or cpu"
        )
    if engine == "openvino":
        from ssd_train.deploy.onnx_backends import OpenVinoEngine

        return OpenVinoEngine(_onnx_file(path))
    from ssd_train.deploy.onnx_backends import OnnxEngine

    return OnnxEngine(_onnx_file(path))


def _check_same_weights(path: Path, engine: Engine, shown: str) -> None:
    """Raise a WeightsError if an export in a model folder is of other weights."""
    if engine.description is None:
        return
    exported, weights = engine.description.weights, weights_digest(path)
    if weights is not None and weights != exported:
        raise WeightsError(
            f"{shown}: found an export of weights {exported[:12]}, expected weights {weights[:12]}, those of the model "
            "in the same folder: export the model again"
        )


def _onnx_file(path: Path) -> Path:
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if len(files) != 1:
        raise WeightsError(f"{path}: found {', '.join(f.name for f in files)}, expected one .onnx file: name it")
    return files[0]
