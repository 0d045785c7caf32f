"""The page of likely label errors: one self-contained HTML file."""

from __future__ import annotations

from typing import Callable, Dict, Iterable, List, Sequence, Tuple

import numpy as np

from ssd_train import __version__
from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.evaluation.label_errors import KINDS, LabelError
from ssd_train.visualization.draw import BoxLabels, class_colour, class_label, draw_marks, fit_within, scaled, size_of
from ssd_train.visualization.error_analysis import CropView, crop_around
from ssd_train.visualization.html import Child, Html, document, element
from ssd_train.visualization.report import figure, section, table

PANEL_WH = (400, 400)
ENLARGEMENT = 4.0
DESCRIPTIONS = {
    "missing": "an object without a label",
    "spurious": "a label without an object",
    "wrong_class": "a label of another class than the object",
    "location": "a box that is loose or shifted",
    "duplicate": "an object that is labelled twice",
    "swapped_images": "labels of another image",
}
ReadImage = Callable[[LabeledImage], np.ndarray]
Images = Sequence[Tuple[LabeledImage, Detections]]


def render_label_errors(
    title: str,
    command: str,
    model: str,
    counts: Dict[str, int],
    errors: Sequence[LabelError],
    images: Images,
    class_names: ClassNames,
    read: ReadImage,
    track: Callable[[Sequence[LabelError]], Iterable[LabelError]],
) -> str:
    """Return the page: for each error the image, its labels and its detections side by side.

    Args:
        title: heading of the page.
        command: the command line that made it.
        model: the model of the detections, and whether it was trained on these labels.
        counts: number of likely errors of each kind, of which `errors` may be the first.
        errors: the errors to show, in order.
        images: labels and detections by image index.
        class_names: names of the class ids.
        read: returns the pixels of an image, RGB uint8 (H, W, 3); one image is held at a time.
        track: wraps the errors to show progress.
    """
    total = sum(counts.values())
    shown = f"; the first {len(errors)} are shown" if len(errors) < total else ""
    rows: List[List[Child]] = [[kind, DESCRIPTIONS[kind], counts.get(kind, 0)] for kind in KINDS]
    lead = (
        f"A score is how likely a label is wrong, by detections of {model}. Each row shows a "
        "part of the image, the labels there, and the detections. The boxes that an error is about are tinted."
    )
    sections = [_entry(rank, error, images, class_names, read) for rank, error in enumerate(track(errors), start=1)]
    header = element(
        "header",
        element("h1", title),
        element("p", f"{total} likely label errors in {len(images)} images{shown}", class_="verdict"),
        element("div", f"ssd_train {__version__}", class_="soft"),
        element("pre", element("code", command), class_="command"),
        element("p", lead, class_="lead"),
        table(("kind", "meaning", "number"), rows, numeric=(2,)),
    )
    return document(title, None, header, *sections)


def _entry(rank: int, error: LabelError, images: Images, class_names: ClassNames, read: ReadImage) -> Html:
    record, detections = images[error.image]
    image = read(record)
    panels = error_panels(image, record, detections, error, class_names)
    captions = ("image", "labels", "detections")
    figures = [figure(panel, record.name, caption) for panel, caption in zip(panels, captions)]
    return section(
        f"error-{rank}",
        f"{rank}. {error.kind} {error.score:.2f}: {record.basename}",
        element("p", error.reason, class_="lead"),
        element("div", *figures, class_="gallery square"),
    )


def error_panels(
    image: np.ndarray, record: LabeledImage, detections: Detections, error: LabelError, class_names: ClassNames
) -> List[np.ndarray]:
    """Return the part of the image around the error three times: as it is, with labels, and with detections.

    Detections of at least half the score of the one that the error is about are drawn, else those above 0.3.
    """
    labels = (error.label, error.other if error.kind == "duplicate" else None)
    marked_labels = [index for index in labels if index is not None]
    marked = [] if error.detection is None else [error.detection]
    labelled = scaled(record.boxes, record.size_wh or size_of(image), size_of(image))
    detected = scaled(detections.boxes, detections.size_wh, size_of(image))
    focus = np.concatenate([labelled[marked_labels], detected[marked]])
    crop = crop_around(focus, size_of(image)) if len(focus) else (0, 0, *size_of(image))
    canvas = fit_within(image[crop[1] : crop[3], crop[0] : crop[2]], PANEL_WH, ENLARGEMENT)
    view = CropView(crop, size_of(canvas))
    least = 0.3 if not marked else min(0.3, float(detections.scores[marked[0]]) / 2)
    strong = np.flatnonzero(detections.scores >= least)
    return [
        canvas,
        _drawn(canvas, view, labelled, record.class_ids, None, marked_labels, class_names),
        _drawn(
            canvas,
            view,
            detected[strong],
            detections.class_ids[strong],
            detections.scores[strong],
            np.flatnonzero(np.isin(strong, marked)).tolist(),
            class_names,
        ),
    ]


def _drawn(
    canvas: np.ndarray,
    view: CropView,
    boxes: np.ndarray,
    class_ids: np.ndarray,
    scores: "np.ndarray | None",
    marked: Sequence[int],
    class_names: ClassNames,
) -> np.ndarray:
    boxes, visible = view.transform(boxes)
    names = [class_label(class_names, int(class_id)) for class_id in class_ids[visible]]
    if scores is not None:
        names = [f"{name} {score:.2f}" for name, score in zip(names, scores[visible])]
    emphasis = np.isin(visible, marked)
    if len(names) > 14:  # more would hide the image
        names = [name if bold else "" for name, bold in zip(names, emphasis)]
    colours = [class_colour(int(class_id)) for class_id in class_ids[visible]]
    return draw_marks(canvas, BoxLabels(boxes, names, colours, marked=emphasis))
