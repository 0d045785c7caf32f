"""The detections in one image as a user of the Python API gets them: with names, as pictures, JSON and HTML."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image

from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.structures import ClassNames, Detections
from ssd_train.errors import DataError

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


@dataclass(frozen=True, repr=False)
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
