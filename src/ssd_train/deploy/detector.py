"""Detector: image -> Detections; the one predictor behind predict, evaluate and serving."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Deque, Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np

from ssd_train.archives import opened_model
from ssd_train.data.boxes import SizeWH
from ssd_train.data.damage import decode_whole
from ssd_train.data.records import ClassNames, Detections
from ssd_train.data.transforms import to_input
from ssd_train.deploy.description import Description
from ssd_train.deploy.exported import BUILTIN_ARTIFACT
from ssd_train.environment import read_devices
from ssd_train.errors import ConfigError, DataError, WeightsError
from ssd_train.training.config_file import weights_in

# engine -> the packages that it needs
ENGINES = {
    "mxnet": ("mxnet", "gluoncv"),
    "symbol": ("mxnet",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


class Engine(Protocol):
    """A way to run a network; its name is one of ENGINES."""

    name: str
    class_names: ClassNames
    side: int
    grayscale: bool

    @property
    def description(self) -> Optional[Description]:
        """What the model says of itself; None of one that is not an export."""

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """Rows (B, N, 6) of class id, score, x1, y1, x2, y2 in input pixels for pictures uint8 (B, side, side, 3)."""


class Picture(NamedTuple):
    """An encoded image to look at: its name, how to read its bytes, and the size its labels give it, if any."""

    name: str
    read: Callable[[], bytes]
    where: str
    expected_wh: Optional[SizeWH] = None


class Answer(NamedTuple):
    """What was found in a picture, or why it could not be looked at. `image` is RGB uint8 (H, W, 3), of a large picture
    a smaller one; the detections are in pixels of the whole picture, whose size `picture.expected_wh` then is."""

    picture: Picture
    image: Optional[np.ndarray]
    detections: Optional[Detections]
    fault: str = ""


class Detector:
    """A trained model that finds objects: ``Detector.load(folder)(image)``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def load(cls, path: "str | Path", devices: str = "auto", engine: str = "auto") -> "Detector":
        """The model at `path`: a model folder, its archive (model.tar.gz), or an ONNX file.

        devices     one of MXNet's: auto (the first GPU or else the CPU), cpu, gpu, gpu:1
        engine      one of ENGINES; auto: what fits the model and is installed, in the order of ENGINES

        Raises:
            WeightsError: the model is not there, damaged, or not of the kind that the engine runs.
            DependencyError: the engine is not installed.
            ConfigError: the engine cannot run it on `devices`.
        """
        with opened_model(Path(path)) as place:
            opened = _open(place, devices, _chosen(place, engine, str(path)))
            _refuse_stale(place, opened, str(path))
            return cls(opened)

    @property
    def class_names(self) -> ClassNames:
        """What the class ids of the detections mean."""
        return self.engine.class_names

    def __call__(self, image: np.ndarray) -> Detections:
        """What is in `image`, RGB uint8 (H, W, 3); all candidates, best first, boxes in its pixels.

        Raises:
            DataError: `image` is not such an array.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> List[Detections]:
        """What is in each of `images`, as for one."""
        for image in images:
            _check_picture(image)
        return self.find([self.to_input(image) for image in images], [image.shape[1::-1] for image in images])

    def stream(self, pictures: Iterable[Picture], batch_size: int = 8, workers: int = 2) -> Iterator[Answer]:
        """Answers in the order of `pictures`; reading and decoding go on in threads while the network runs."""
        pictures = iter(pictures)
        with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
            waiting: Deque["Future[Tuple[Answer, Optional[np.ndarray]]]"] = deque()
            for picture in itertools.islice(pictures, (workers + 1) * batch_size):
                waiting.append(pool.submit(self._load, picture))
            while waiting:
                loaded = [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
                for picture in itertools.islice(pictures, len(loaded)):
                    waiting.append(pool.submit(self._load, picture))
                yield from self._answered(loaded)

    def to_input(self, image: np.ndarray) -> np.ndarray:
        """`image` (H, W, 3) as the network looks at it: uint8 (side, side, 3)."""
        return to_input(image, self.engine.side, self.engine.grayscale)

    def _load(self, picture: Picture) -> Tuple[Answer, Optional[np.ndarray]]:
        try:
            image, size_wh = decode_whole(picture.read(), picture.where, self.engine.side, picture.expected_wh)
        except DataError as error:
            return Answer(picture, None, None, str(error)), None
        except OSError as error:
            return Answer(picture, None, None, f"{picture.where}: cannot be read ({error.strerror})"), None
        return Answer(picture._replace(expected_wh=size_wh), image, None), self.to_input(image)

    def _answered(self, loaded: "List[Tuple[Answer, Optional[np.ndarray]]]") -> Iterator[Answer]:
        good = [(answer, pixels) for answer, pixels in loaded if pixels is not None]
        sizes = [answer.picture.expected_wh for answer, _ in good]
        found = iter(self.find([pixels for _, pixels in good], sizes))
        for answer, pixels in loaded:
            yield answer if pixels is None else answer._replace(detections=next(found))

    def find(self, inputs: Sequence[np.ndarray], sizes: Sequence[SizeWH]) -> List[Detections]:
        """What is in each of `inputs`, pictures as `to_input` makes them, in pixels of the (width, height) `sizes`."""
        if not inputs:
            return []
        rows = self.engine.run(np.stack(inputs))
        return [Detections.from_network(r, (int(w), int(h)), self.engine.side) for r, (w, h) in zip(rows, sizes)]


def _check_picture(image: object) -> None:
    """A DataError for what is no picture, before a library trips over it."""
    if not isinstance(image, np.ndarray):
        raise DataError(f"image: found {type(image).__name__}, expected a numpy array, RGB uint8 (H, W, 3)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"image: found {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3)")


def _chosen(place: Path, engine: str, shown: str) -> str:
    """The engine to run what is at `place`, which the user calls `shown`."""
    if engine not in ("auto", *ENGINES):
        raise ConfigError(f"engine: found {engine!r}, expected auto, {', '.join(ENGINES)}")
    fitting = [name for name, marks in _MARKS.items() if any(_holds(place, mark) for mark in marks)]
    if not fitting and _holds(place, f"{BUILTIN_ARTIFACT}-*"):
        raise WeightsError(
            f"{shown}: found a model of the built-in algorithm, expected it converted: python -m ssd_train convert"
        )
    if not fitting:
        raise WeightsError(
            f"{shown}: found no model, expected a model folder written by ssd_train, its .tar.gz, or an .onnx file"
        )
    if engine == "auto":
        installed = [name for name in fitting if all(find_spec(package) for package in ENGINES[name])]
        return (installed or fitting)[0]
    if engine not in fitting:
        raise WeightsError(f"{shown}: found a model for {' or '.join(fitting)}, expected one for {engine}: see export")
    return engine


# engine -> what a model that it runs can be told by
_MARKS = {
    "mxnet": ("config.json",),
    "symbol": ("model-export.json",),
    "onnxruntime": ("*.onnx",),
    "openvino": ("*.onnx",),
}


def _holds(place: Path, mark: str) -> bool:
    return any(place.glob(mark)) if place.is_dir() else place.is_file() and place.match(mark)


def _open(place: Path, devices: str, engine: str) -> Engine:
    if engine == "mxnet":
        from ssd_train.deploy.engines.gluon import GluonEngine

        return GluonEngine(place, devices)
    if engine == "symbol":
        from ssd_train.deploy.engines.symbol import SymbolEngine

        return SymbolEngine(place, devices)
    if read_devices(devices)[0] == "gpu":
        raise ConfigError(
            f"devices: found {devices!r} with {engine}, which runs models on the CPU, expected auto or cpu"
        )
    if engine == "openvino":
        from ssd_train.deploy.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(_onnx_file(place))
    from ssd_train.deploy.engines.onnx import OnnxEngine

    return OnnxEngine(_onnx_file(place))


def _refuse_stale(place: Path, engine: Engine, shown: str) -> None:
    """A WeightsError if `engine` runs what was exported from other weights than those of the model folder it is in."""
    if engine.description is None:
        return
    exported, weights = engine.description.weights, weights_in(place)
    if weights is not None and weights != exported:
        raise WeightsError(
            f"{shown}: found an export of weights {exported[:12]} beside a model of weights {weights[:12]}, "
            "expected one of these: export the model again"
        )


def _onnx_file(place: Path) -> Path:
    files = sorted(place.glob("*.onnx")) if place.is_dir() else [place]
    if len(files) != 1:
        raise WeightsError(f"{place}: found {', '.join(f.name for f in files)}, expected one .onnx file: name it")
    return files[0]
