"""Run a trained model on images, for prediction, evaluation and serving.

`DetectionResult` holds the detections of one image as a user of the Python API gets them: with names, as pictures, JSON
and HTML.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import html
import itertools
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
    overload,
)

import numpy as np
from PIL import Image, ImageOps

from ssd_train.artifacts.metadata import ExportMetadata
from ssd_train.artifacts.model_config import weights_digest
from ssd_train.artifacts.symbol_format import BUILTIN_ARTIFACT
from ssd_train.boxes import SizeWH
from ssd_train.data.image_io import EncodedImage, encode_jpeg
from ssd_train.data.pillow_pixels import to_rgb
from ssd_train.data.structures import ClassNames, Detections
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.tiling import Rect, check_tile, merge_tiles, tile_rects
from ssd_train.environment import read_devices
from ssd_train.errors import ConfigError, DataError, WeightsError
from ssd_train.evaluation.results import FIXED_SCORE
from ssd_train.parallel import ordered_map
from ssd_train.storage.archive import open_model

HTML_SIDE = 800  # longest side in pixels of the image in `_repr_html_`


class Detection(NamedTuple):
    """One detected object.

    Attributes:
        name: name of its class.
        score: 0..1.
        box: x1, y1, x2, y2 in pixels of the image.
        class_id: index of the class.
    """

    name: str
    score: float
    box: Tuple[float, float, float, float]
    class_id: int


@dataclass(frozen=True, repr=False, eq=False)
class DetectionResult(Detections):
    """Detections in one image, best first, as `Detector` returns them; iterates over `Detection`.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the image.
        scores: float32 (N,) in 0..1, descending.
        class_ids: int64 (N,).
        size_wh: (width, height) of the image.
        class_names: names by class id.
        score_threshold: lowest score in pictures, and of `above`, unless another is given.
        image_name: path of the image; "image" for pixels and bytes.
        load_image: returns the image at its full size, RGB uint8 (H, W, 3).
    """

    class_names: ClassNames
    score_threshold: float
    image_name: str
    load_image: Callable[[], np.ndarray] = field(repr=False, compare=False)

    @property
    def names(self) -> List[str]:
        """Return the class name of each detection."""
        return [self.class_names[class_id] for class_id in self.class_ids.tolist()]

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.names, self.scores.tolist(), self.boxes.tolist(), self.class_ids.tolist())
        return (Detection(name, score, tuple(box), class_id) for name, score, box, class_id in rows)

    def __getitem__(self, index: int) -> Detection:
        return list(self)[index]

    def __repr__(self) -> str:
        above = len(self.above())
        return (
            f"<{len(self)} detections in {self.image_name}, {above} with a score of {self.score_threshold:.2f} or more>"
        )

    def above(self, threshold: Optional[float] = None) -> "DetectionResult":
        """Return the detections with a score of at least `threshold`; None: `score_threshold`."""
        limit = self.score_threshold if threshold is None else threshold
        return super().above(limit)  # type: ignore[return-value]  # of this class

    def to_dict(self) -> Dict[str, Any]:
        """Return the image's name and size, and the detections, as values that json.dumps takes."""
        width, height = self.size_wh
        return {
            "image": self.image_name,
            "width": int(width),
            "height": int(height),
            "detections": [
                {"class_id": one.class_id, "name": one.name, "score": one.score, "box": list(one.box)} for one in self
            ],
        }

    def draw(self, threshold: Optional[float] = None) -> Image.Image:
        """Return the image at its full size with the boxes of at least `threshold`; None: `score_threshold`.

        Raises:
            DataError: the file of the image is gone or has changed.
        """
        return Image.fromarray(self._drawn(threshold))

    def _drawn(self, threshold: Optional[float]) -> np.ndarray:
        from ssd_train.visualization.draw import draw_detections

        shown = self.above(threshold)
        return draw_detections(self.load_image(), shown, self.class_names, 0)

    def _repr_html_(self) -> str:
        """Return the drawn image and a table of the detections, for notebooks."""
        from ssd_train.visualization.draw import fit_within

        shown = self.above()
        try:
            image = fit_within(self._drawn(None), (HTML_SIDE, HTML_SIDE))
            data = base64.b64encode(encode_jpeg(image)).decode("ascii")
            image_tag = f'<img alt="{html.escape(self.image_name)}" src="data:image/jpeg;base64,{data}">'
        except DataError as error:
            image_tag = f"<p>{html.escape(str(error))}</p>"
        rows = "".join(
            f"<tr><td>{html.escape(one.name)}</td><td>{one.score:.2f}</td>"
            f"<td>{', '.join(f'{value:.0f}' for value in one.box)}</td></tr>"
            for one in shown
        )
        width, height = self.size_wh
        caption = (
            f"{html.escape(self.image_name)}, {width} x {height}: {len(shown)} detections of at least "
            f"{self.score_threshold:.2f}, {len(self)} in all"
        )
        header = "<tr><th>class</th><th>score</th><th>x1, y1, x2, y2</th></tr>"
        return f"<figure>{image_tag}<figcaption>{caption}</figcaption></figure><table>{header}{rows}</table>"


# engine -> required packages
ENGINES = {
    "mxnet": ("mxnet", "gluoncv"),
    "symbol": ("mxnet",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "openvino_bf16": ("openvino",),
}


class Engine(Protocol):
    """Interface of an inference engine; its name is one of ENGINES.

    Attributes:
        side: of the square input in pixels.
        score_threshold: threshold with the best F1 on the validation data; None: the model does not state one.
        nms_threshold: IoU above which non-maximum suppression drops a box.
    """

    name: str
    class_names: ClassNames
    side: int
    grayscale: bool
    score_threshold: Optional[float]
    nms_threshold: float

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
    """Reference to an image.

    Attributes:
        name: its name in the output.
        read: returns its bytes, or its pixels, RGB uint8 (H, W, 3).
        where: its source, for error messages.
        expected_wh: its size according to the labels, if known.
    """

    name: str
    read: Callable[[], "bytes | np.ndarray"]
    where: str
    expected_wh: Optional[SizeWH] = None

    def decode(self) -> np.ndarray:
        """Return the image at its full size, RGB uint8 (H, W, 3).

        Raises:
            DataError: it cannot be read or decoded.
        """
        try:
            data = self.read()
        except OSError as error:
            raise DataError(f"{self.where}: cannot be read ({error.strerror or error})") from None
        return data if isinstance(data, np.ndarray) else EncodedImage(data, self.where).decode(self.expected_wh)


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

    def decoded(self) -> Tuple[np.ndarray, Detections]:
        """Return image and detections.

        Raises:
            DataError: the image could not be decoded.
        """
        if self.image is None or self.detections is None:
            raise DataError(self.error)
        return self.image, self.detections


class Tiling(NamedTuple):
    """Division of images into tiles; see `tiling.tile_rects`.

    Attributes:
        side: of a tile in pixels of the image; 0: the image is not split.
        overlap: fraction of its side that a tile has in common with the next, at least.
    """

    side: int = 0
    overlap: float = 0.2


WHOLE_IMAGE = Tiling()


class _Loaded(NamedTuple):
    """A decoded image and its tiles as network inputs; without inputs if it could not be decoded."""

    prediction: Prediction
    inputs: List[np.ndarray]
    rects: List[Rect]
    shared: float = 0  # pixels that two neighbouring tiles share at least


AnyImage = Union[str, "os.PathLike[str]", bytes, Image.Image, np.ndarray]


class Detector:
    """A trained object detector: ``Detector("model")("image.jpg")``.

    Args:
        model: a model folder, its archive (model.tar.gz), or an ONNX file; or an inference engine.
        devices: an MXNet device: auto (the first GPU, otherwise the CPU), cpu, gpu, gpu:1.
        engine: one of ENGINES; auto: the first in that order which can run the model and is installed.

    Raises:
        WeightsError: the model is missing, damaged, or not of a kind that the engine runs.
        DependencyError: the engine is not installed.
        ConfigError: the engine cannot run on `devices`.
    """

    def __init__(self, model: "str | os.PathLike[str] | Engine", devices: str = "auto", engine: str = "auto") -> None:
        self.engine = _load_engine(Path(model), devices, engine) if isinstance(model, (str, os.PathLike)) else model

    @classmethod
    def load(cls, path: "str | os.PathLike[str]", devices: str = "auto", engine: str = "auto") -> "Detector":
        """Load a model; the same as ``Detector(path, devices, engine)``."""
        return cls(path, devices, engine)

    @property
    def class_names(self) -> ClassNames:
        """Return the names by class id."""
        return self.engine.class_names

    @property
    def score_threshold(self) -> float:
        """Return the threshold with the best F1 on the validation data; 0.3 for a model that does not state one."""
        stated = self.engine.score_threshold
        return FIXED_SCORE if stated is None else stated

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str, and is a path
        self, image: AnyImage, *, tile: int = 0, tile_overlap: float = 0.2
    ) -> DetectionResult: ...

    @overload
    def __call__(
        self, image: Sequence[AnyImage], *, tile: int = 0, tile_overlap: float = 0.2
    ) -> List[DetectionResult]: ...

    def __call__(
        self, image: "AnyImage | Sequence[AnyImage]", *, tile: int = 0, tile_overlap: float = 0.2
    ) -> "DetectionResult | List[DetectionResult]":
        """Detect objects in an image, or in each of a list of images.

        Args:
            image: the path or the bytes of an encoded image, a PIL image, or an array, RGB uint8 (H, W, 3) (OpenCV
                reads BGR); or a list of these.
            tile: side in pixels of overlapping tiles that the network sees one by one, for objects that are small in
                a large image; 0: the network sees the whole image.
            tile_overlap: fraction of its side that a tile has in common with the next, at least.

        Returns:
            All detections, best first, boxes in pixels of the image; for a list, a list of these.

        Raises:
            DataError: an image cannot be read or decoded, or is none.
            ConfigError: `tile` or `tile_overlap` is out of range.
        """
        tiling = Tiling(tile, tile_overlap)
        check_tile(*tiling)
        if not isinstance(image, (list, tuple)):
            ref = _as_ref(image)  # type: ignore[arg-type]  # refuses other sequences
            (prediction,) = self._predict([self._load(ref, tiling)])
            return self._result(prediction)
        refs = [_as_ref(one) for one in image]
        with contextlib.closing(self.predict_iter(refs, tiling=tiling)) as predictions:
            return [self._result(prediction) for prediction in predictions]

    def batch(self, images: Sequence[np.ndarray]) -> List[Detections]:
        """Detect objects in several images, RGB uint8 (H, W, 3), in one batch."""
        for image in images:
            _check_image(image)
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        return self.predict_inputs([self.to_input(image) for image in images], sizes)

    def predict_iter(
        self, refs: Iterable[ImageRef], batch_size: int = 8, workers: int = 2, tiling: Tiling = WHOLE_IMAGE
    ) -> Generator[Prediction, None, None]:
        """Detect objects in `refs`, in order.

        Threads read and decode the next images while the network runs.
        """
        check_tile(*tiling)
        group = 1 if tiling.side else batch_size  # the tiles of one image are enough for a batch
        load = functools.partial(self._load, tiling=tiling)
        images = ordered_map(load, refs, workers, at_once=1, ahead=(workers + 1) * group)
        for loaded in iter(lambda: list(itertools.islice(images, group)), []):
            yield from self._predict(loaded, batch_size)

    def to_input(self, image: np.ndarray) -> np.ndarray:
        """Resize `image` (H, W, 3) to the network's input, uint8 (side, side, 3)."""
        return preprocess(image, self.engine.side, self.engine.grayscale)

    def _load(self, ref: ImageRef, tiling: Tiling) -> _Loaded:
        try:
            image, size_wh = self._decode(ref, tiling)
        except DataError as error:
            return _Loaded(Prediction(ref, None, None, str(error)), [], [])
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
            return _Loaded(Prediction(ref, None, None, f"{ref.where}: {reason}"), [], [])
        prediction = Prediction(ref._replace(expected_wh=size_wh), image, None)
        if not tiling.side:
            return _Loaded(prediction, [self.to_input(image)], [(0, 0, *size_wh)])
        rects = tile_rects(size_wh, *tiling)
        inputs = [self.to_input(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in rects]
        return _Loaded(prediction, inputs, rects, tiling.side * tiling.overlap)

    def _decode(self, ref: ImageRef, tiling: Tiling) -> Tuple[np.ndarray, SizeWH]:
        """Return the image, downscaled unless it is split into tiles, and its full size."""
        data = ref.read()
        if isinstance(data, np.ndarray):
            return data, (data.shape[1], data.shape[0])
        encoded = EncodedImage(data, ref.where)
        if not tiling.side:
            return encoded.decode_verified(self.engine.side, ref.expected_wh)
        image = encoded.decode(ref.expected_wh)
        encoded.check_decoded(image)
        return image, (image.shape[1], image.shape[0])

    def _predict(self, loaded: Sequence[_Loaded], batch_size: int = 8) -> Iterator[Prediction]:
        inputs = [pixels for one in loaded for pixels in one.inputs]
        sizes = [(x2 - x1, y2 - y1) for one in loaded for x1, y1, x2, y2 in one.rects]
        batches = (slice(start, start + batch_size) for start in range(0, len(inputs), batch_size))
        parts = itertools.chain.from_iterable(self.predict_inputs(inputs[part], sizes[part]) for part in batches)
        for one in loaded:
            of_tiles = list(itertools.islice(parts, len(one.rects)))
            yield one.prediction._replace(detections=self._merged(of_tiles, one)) if of_tiles else one.prediction

    def _merged(self, parts: List[Detections], loaded: _Loaded) -> Detections:
        if len(parts) == 1:
            return parts[0]
        *_, (_, _, width, height) = loaded.rects  # the whole image
        return merge_tiles(parts, loaded.rects, (width, height), loaded.shared, self.engine.nms_threshold)

    def _result(self, prediction: Prediction) -> DetectionResult:
        ref, (_, detections) = prediction.image_ref, prediction.decoded()
        arrays = (detections.boxes, detections.scores, detections.class_ids, detections.size_wh)
        return DetectionResult(*arrays, self.class_names, self.score_threshold, ref.name, ref.decode)

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


def _as_ref(image: AnyImage) -> ImageRef:
    """Return a reference to an image of any kind that `Detector` takes."""
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return ImageRef(str(path), path.read_bytes, str(path))
    if isinstance(image, (bytes, bytearray)):
        data = bytes(image)
        return ImageRef("image", lambda: data, "image")
    pixels = _pil_pixels(image) if isinstance(image, Image.Image) else image
    _check_image(pixels)
    return ImageRef("image", lambda: pixels, "image")


def _pil_pixels(image: Image.Image) -> np.ndarray:
    """Return the upright pixels of a PIL image, RGB uint8 (H, W, 3)."""
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"image: found a PIL image that cannot be decoded ({error}), expected a whole image") from None


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"image: found {type(image).__name__}, expected a path, bytes, a PIL image, or a numpy array, RGB uint8 "
            "(H, W, 3)"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"image: found {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3)")


def _load_engine(path: Path, devices: str, engine: str) -> Engine:
    with open_model(path) as opened:
        loaded = _open(opened, devices, _choose_engine(opened, engine, str(path)))
        _check_same_weights(opened, loaded, str(path))
        return loaded


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
_PATTERNS = {
    "mxnet": "config.json",
    "symbol": "model-export.json",
    **dict.fromkeys(("onnxruntime", "openvino", "openvino_bf16"), "*.onnx"),
}


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
    from ssd_train.deploy.onnx_backends import OnnxEngine, OpenVinoBfloat16Engine, OpenVinoEngine

    kinds = {kind.name: kind for kind in (OnnxEngine, OpenVinoEngine, OpenVinoBfloat16Engine)}
    return kinds[engine](_onnx_file(path))


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
