"""The codes of `check`: severity, condition and remedy of each.

docs/check-codes.md has the same list, and a test compares the two.

Readers of labels and images set the code of a DataError where they know a more specific one than the default:
"bad-line" for a line of labels, "labels-unusable" for a label file, "unreadable-image" for an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, NamedTuple

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")


class Code(NamedTuple):
    """A kind of finding.

    `error`: prevents training on the image or labels; `warning`: should be looked at; `note`: for information.
    """

    name: str
    severity: str
    condition: str
    remedy: str


# fmt: off
_CODES = (
    # the labels as a file
    Code("labels-unusable", ERROR, "the labels cannot be read, have no known format, or have no usable line",
         "use the output manifest of a bounding-box job, or one of the other formats"),
    Code("wrong-job-type", ERROR, "no line has bounding boxes: the labels are of another type of job",
         "use the output of a bounding-box job"),
    Code("ambiguous-label-attribute", ERROR, "several labelling jobs have boxes of the same date",
         "select one with --label_attribute"),
    Code("conflicting-class-map", ERROR, "one class id has two names, or two names differ only in blanks",
         "correct the class-maps; prepare join merges the outputs of different jobs by class name"),
    Code("no-objects", ERROR, "no image has a box",
         "check that the labelling job has finished and its output is complete"),
    # lines of labels
    Code("bad-line", ERROR,
         "a line is not a valid label: malformed JSON, a repeated key, fields missing or of the wrong type",
         "correct or delete the line; --on_bad_data skip trains without it"),
    Code("bad-coordinates", ERROR, "a coordinate is not a finite number (text, true, null, NaN) or far too large",
         "correct the box"),
    Code("box-degenerate", ERROR, "a box has a negative width or height", "correct or delete the box"),
    Code("unknown-class", ERROR, "a class id or name is not in the class list (of the training labels)",
         "correct the class of the box, or add the class to the class list"),
    Code("bad-class-map", ERROR, "the class-map of a line cannot be used", "correct the class-map of the line"),
    Code("bad-image-size", ERROR, "the image size in the labels cannot be used", "correct the image size"),
    Code("bad-image-name", ERROR, "the name of an image is empty, leads out of the folder or is not a valid file name",
         "correct the name in the labels"),
    Code("conflicting-duplicate", ERROR, "an image is listed twice with different boxes", "keep the correct line"),
    Code("duplicate-line", WARNING, "an image is listed twice with the same boxes; the first is used",
         "delete one line"),
    Code("unlabelled-line", WARNING, "an image has no label (of this job); it is left out",
         "label it, or delete the line"),
    Code("failed-line", WARNING, "the labelling of an image failed; it is left out", "label it again"),
    Code("other-job-line", WARNING, "a line's label is of another type of job; it is left out",
         "keep the outputs of different jobs apart"),
    Code("image-dropped", WARNING, "no box of an image can be used: it is left out (it is not a background image)",
         "correct its boxes"),
    Code("box-clipped", WARNING, "a box extends beyond its image and is clipped",
         "look at a few: is the image size correct?"),
    Code("box-dropped", WARNING,
         "a box is left out: under 1 px, less than a tenth inside the image, or a crowd without a box",
         "look at a few; correct or delete them"),
    Code("filename-differs", WARNING,
         "the filename in an XML file differs from the image with the name of that file, which is used",
         "look at one: were images renamed after they were labelled?"),
    # the labels as a set
    Code("few-examples", WARNING, "a class has fewer than 10 boxes in the training labels",
         "label more of them, or drop the class"),
    Code("unused-class-id", NOTE, "a class id between those of the labels has no name and no box; it is named class_N",
         "nothing: ids stay as they are; prepare relabel --renumber renumbers the classes of a manifest"),
    Code("categories-ignored", WARNING, "the JSON file of an image has other class ids in categories than in boxes",
         "give the names with --class_names, in the order of the boxes' ids"),
    Code("class-only-in-training", WARNING, "a class has boxes in training and none in validation",
         "move images of it to validation: it cannot be evaluated"),
    Code("class-only-in-validation", WARNING, "a class has boxes in validation and none in training",
         "move images of it to training: it cannot be learned"),
    Code("box-tiny", WARNING, "the short side of a box is under 8 px after the image is resized",
         "train with a larger --image_shape, or on crops"),
    Code("box-without-anchor", WARNING, "no anchor has an IoU of 0.2 with a box (that is not tiny) at this image shape",
         "check the box; long, thin objects are hard to learn"),
    Code("crowded", NOTE, "an image has more boxes than --post_nms (100), the maximum number of detections",
         "nothing: train raises post_nms, and nms_topk unless it is given"),
    Code("label-width", NOTE, "an image has more boxes than fit into the default label_width of 350",
         "nothing; the built-in algorithm needs the label_width in the statistics"),
    # images
    Code("missing-image", ERROR, "the image of a line is not below the folder", "copy it there, or delete the line"),
    Code("ambiguous-image", ERROR, "several files below the folder could be the image",
         "keep the folders of the labels' names below the folder"),
    Code("unreadable-image", ERROR, "the image cannot be read or decoded: no permission, not an image, damaged",
         "copy it again; the message names the detected format"),
    Code("truncated-image", ERROR, "the image is truncated; decoders would fill the rest with gray", "copy it again"),
    Code("unsupported-format", ERROR, "an image has an unsupported format (GIF, HEIC, ...), or is a rotated TIFF",
         "save it as JPEG or PNG"),
    Code("multi-frame", ERROR, "an image has several frames or pages", "save the frame that was labelled"),
    Code("too-large", ERROR, "an image has more than 50 million pixels", "downscale it and its boxes"),
    Code("too-small", ERROR, "a side of an image is under 10 px", "delete the line"),
    Code("aspect-ratio", ERROR, "an image is more than 50 times longer than wide, or wider than long",
         "crop it and its boxes"),
    Code("size-differs", ERROR, "the size of the image differs from the labels, even with sides swapped",
         "find the image that was labelled, or scale the boxes"),
    Code("box-outside-image", ERROR, "a box extends beyond the image, whose size the labels do not contain",
         "correct the box, or find the image that was labelled"),
    Code("orientation-applied", WARNING, "an EXIF orientation is applied, and no size in the labels confirms it",
         "look at one (prepare sheet): do the boxes fit?"),
    Code("orientation-turned", NOTE,
         "an image has an EXIF orientation; the size in the labels says how it was labelled (YOLO: always upright)",
         "nothing: it is used as it was labelled"),
    # images as a set
    Code("same-image-in-train-and-validation", ERROR, "training and validation contain the same file (identical bytes)",
         "delete it from one: a score on training images is meaningless"),
    Code("near-duplicate-in-validation", WARNING, "a validation image looks like a training image",
         "look at both; keep copies and neighbouring video frames in one split"),
    Code("duplicate-picture", WARNING, "two images of one split are identical, byte by byte",
         "delete one; train keeps them in one split when it splits"),
    Code("near-duplicate-picture", NOTE, "an image looks like another of the same split",
         "copies, or frames of one video: keep them in one split (--split_group)"),
    Code("image-without-label", WARNING, "an image in the folder belongs to no usable line",
         "label it, or add an empty label if it shows no object"),
)
# fmt: on
CODES: Dict[str, Code] = {code.name: code for code in _CODES}


@dataclass(frozen=True)
class Finding:
    """A fault found by a check.

    Attributes:
        code: Key of CODES.
        where: ``file:line``, or a file.
        detail: Description of the fault.
        name: Name of the image in the labels; "" if the finding is not about one image.
    """

    code: str
    where: str
    detail: str
    name: str = ""

    @property
    def severity(self) -> str:
        """Severity of the code: error, warning or note."""
        return CODES[self.code].severity
