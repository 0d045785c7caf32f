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
    Code("labels-unusable", ERROR, "the labels cannot be read, are of no known format, or have no usable line",
         "give the output manifest of a bounding-box job, or one of the other formats"),
    Code("wrong-job-type", ERROR, "no line holds bounding boxes: the labels are of another type of job",
         "give the output of a bounding-box job"),
    Code("ambiguous-label-attribute", ERROR, "the boxes of several jobs are equally new",
         "say which one with --label_attribute"),
    Code("conflicting-class-map", ERROR, "one class id has two names, or two names differ only in blanks",
         "make the class-maps agree; outputs of different jobs: prepare join, which goes by names"),
    Code("no-objects", ERROR, "no image has a box",
         "look whether the labelling job has finished and its output is complete"),
    # lines of labels
    Code("bad-line", ERROR, "a line is no label: broken JSON, a key twice, fields missing or of another type",
         "mend or delete the line; --on_bad_data skip trains without it"),
    Code("bad-coordinates", ERROR, "a coordinate is no finite number: text, true, null, NaN, out of all bounds",
         "mend the box"),
    Code("box-degenerate", ERROR, "a box has a width or height below zero", "mend or delete the box"),
    Code("unknown-class", ERROR, "a class id or name that the class list (of the training labels) does not have",
         "mend the class of the box, or add the class to the class list"),
    Code("bad-class-map", ERROR, "the class-map of a line cannot be used", "mend the class-map of the line"),
    Code("bad-image-size", ERROR, "the image size in the labels cannot be used", "mend the image size"),
    Code("bad-image-name", ERROR, "an image's name is empty, leads out of the folder or cannot be a file's",
         "mend the name in the labels"),
    Code("conflicting-duplicate", ERROR, "an image comes twice with different boxes", "keep the line that is true"),
    Code("duplicate-line", WARNING, "an image comes twice with the same boxes; the first is used", "delete one line"),
    Code("unlabelled-line", WARNING, "an image has no label (of this job); it is left out",
         "label it, or delete the line"),
    Code("failed-line", WARNING, "the labelling of an image failed; it is left out", "label it again"),
    Code("other-job-line", WARNING, "a line's label is of another type of job; it is left out",
         "keep the outputs of different jobs apart"),
    Code("image-dropped", WARNING, "no box of an image can be used, so it is left out (it is no background image)",
         "mend its boxes"),
    Code("box-clipped", WARNING, "a box leaves its image and is cut to it",
         "look at a few: is it the right image size?"),
    Code("box-dropped", WARNING,
         "a box is left out: under 1 px, less than a tenth inside the image, or a crowd without a box",
         "look at a few; mend or delete them"),
    Code("filename-differs", WARNING,
         "the filename in an XML file is not that of the picture of the file's own name, which is used",
         "look at one: were pictures renamed after they were labelled?"),
    # the labels as a set
    Code("few-examples", WARNING, "a class has fewer than 10 boxes in the training labels",
         "label more of it, or drop it"),
    Code("unused-class-id", NOTE, "a class id between those of the labels has no name and no box; it is called class_N",
         "nothing: ids stay as they are; prepare relabel --renumber numbers the classes of a manifest anew"),
    Code("categories-ignored", WARNING, "an image's JSON file has other class ids in its categories than in its boxes",
         "give the names with --class_names, in the order of the boxes' ids"),
    Code("class-only-in-training", WARNING, "a class has boxes in training and none in validation",
         "move images of it to validation: how well it is found cannot be told"),
    Code("class-only-in-validation", WARNING, "a class has boxes in validation and none in training",
         "move images of it to training: what is never shown is never learned"),
    Code("box-tiny", WARNING, "the short side of a box is under 8 px once the image is resized",
         "train with a larger --image_shape, or on crops"),
    Code("box-without-anchor", WARNING, "no anchor has an IoU of 0.2 with a box (that is not tiny) at this image shape",
         "look whether it is right; what is long and thin is hard to learn"),
    Code("crowded", NOTE, "an image has more boxes than --post_nms (100) lets out",
         "nothing: train raises post_nms on its own, and nms_topk unless it is given"),
    Code("label-width", NOTE, "an image has more boxes than the default label_width of 350 holds",
         "nothing here; the built-in algorithm needs the label_width in the statistics"),
    # images
    Code("missing-image", ERROR, "the image of a line is not below the folder", "copy it there, or delete the line"),
    Code("ambiguous-image", ERROR, "several files below the folder could be the image",
         "keep the folders of the labels' names below the folder"),
    Code("unreadable-image", ERROR, "the image cannot be read or decoded: no permission, no image at all, damaged",
         "copy it again; the message says what it looks like"),
    Code("truncated-image", ERROR, "the image is cut off; decoders would fill the rest with gray", "copy it again"),
    Code("unsupported-format", ERROR, "an image of a format that is not read (GIF, HEIC, ...), or a turned TIFF",
         "save it as JPEG or PNG"),
    Code("multi-frame", ERROR, "an image has several frames or pages", "save the one that was labelled"),
    Code("too-large", ERROR, "an image has more than 50 million pixels", "scale it down, and its boxes"),
    Code("too-small", ERROR, "a side of an image is under 10 px", "delete the line"),
    Code("aspect-ratio", ERROR, "an image is more than 50 times longer than wide, or wider than long",
         "crop it, and its boxes"),
    Code("size-differs", ERROR, "the image has not the size that the labels say, turned or not",
         "find the image that was labelled, or scale the boxes"),
    Code("box-outside-image", ERROR, "a box leaves the image, whose size the labels do not tell",
         "mend the box, or find the image that was labelled"),
    Code("orientation-applied", WARNING, "an EXIF orientation is applied that no size in the labels can confirm",
         "look at one (prepare sheet): do the boxes fit?"),
    Code("orientation-turned", NOTE, "an EXIF orientation, and the size in the labels tells how it was labelled",
         "nothing: it is used as it was labelled"),
    # images as a set
    Code("same-image-in-train-and-validation", ERROR, "an image is in training and in validation, byte by byte",
         "delete it from one: a score on what was trained on means nothing"),
    Code("near-duplicate-in-validation", WARNING, "a validation image looks like a training image",
         "look at both; keep copies and neighbouring video frames on one side"),
    Code("duplicate-picture", WARNING, "two images on one side are the same, byte by byte",
         "delete one; train keeps them on one side when it splits"),
    Code("near-duplicate-picture", NOTE, "an image looks like another on the same side",
         "copies, or frames of one video: keep them on one side (--split_group)"),
    Code("image-without-label", WARNING, "an image in the folder is the image of no usable line",
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
