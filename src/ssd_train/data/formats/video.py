"""Read the frames of Ground Truth video jobs (object detection and tracking).

Each line of the output manifest is one sequence. ``source-ref`` is the sequence file (``prefix`` and ``frames``, the
input of the job). ``<label>-ref`` is the SeqLabel.json file with a list ``detection-annotations`` or
``tracking-annotations`` of ``{"frame": name, "frame-no": "0", "annotations": [{"left", "top", "width", "height",
"class-id": "0", ...}]}``, coordinates in pixels. ``<label>-ref-metadata`` has the type and the class-map. The schema is
in the AWS developer guide, "Output data", "Video frame object detection output". Both files are looked for below the
output folder of the job.

- A frame without boxes is a background image. A frame of the sequence that was not annotated is skipped.
- The name of a frame is the prefix of the sequence file and the name in the file. If the sequence file is missing, its
  folder is used as prefix, and the assumption is listed in `Labels.repaired`.
- Object ids and label-category-attributes are ignored. The format has no image sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

import numpy as np

from ssd_train.data.formats.builder import LabelsBuilder, class_table, image_name, short_repr
from ssd_train.data.formats.ground_truth import (
    METADATA,
    TRACKING_TYPE,
    VIDEO_TYPE,
    find_manifest,
    read_box_label,
    read_class_map,
)
from ssd_train.data.formats.json_lines import PathLike, read_json, read_json_lines
from ssd_train.data.image_sources import key_parts
from ssd_train.data.structures import LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError, locate_errors

VIDEO_TYPES = (VIDEO_TYPE, TRACKING_TYPE)
NOT_ANNOTATED = "frame not annotated"
NO_SEQUENCE = "sequence not labelled"
ASSUMED_PREFIX = "folder of the frames assumed: the sequence file is not at hand"

_LISTS = ("detection-annotations", "tracking-annotations")
_REF = "-ref"


class _Sequence(NamedTuple):
    """A labelled line: location, sequence file, SeqLabel.json file, metadata."""

    where: str
    source: str
    labels: str
    metadata: Dict[str, Any]


def read_video_frames(path: PathLike, label_attribute: Optional[str] = None, on_bad: str = "error") -> Labels:
    """Read all frames of an output manifest; `LabeledImage.size_wh` is None.

    Args:
        path: The manifest, or the folder of the job.
        label_attribute: The label attribute, needed if several jobs labelled the sequences; ``-ref`` may be omitted.
        on_bad: "error" raises one DataError for all bad frames, "skip" skips them.

    Raises:
        DataError: the manifest has no labels of a video job, a file is missing or unusable, or `on_bad` is "error" and
            some frames are bad; names the location.
        ConfigError: several jobs labelled the sequences, and `label_attribute` does not select one.
    """
    manifest = find_manifest(path)
    root = _job_folder(Path(path), manifest)
    builder = LabelsBuilder(str(manifest), on_bad)
    sequences, attribute = _sequences(manifest, label_attribute, builder)
    names, table = class_table(_class_origins(sequences))
    read: Set[Path] = set()
    for sequence in sequences:
        try:
            file = _find(root, sequence.labels)
            if file is None or file in read:
                raise DataError(f"{sequence.labels!r} not found, expected a file of its own below {root}")
            read.add(file)
            prefix, frames = _frames_of(sequence, root, builder)
            labelled = _add_frames(builder, file, prefix, table)
        except DataError as fault:
            builder.add_error(sequence.where, fault)
            continue
        for frame in frames:
            if frame not in labelled:
                builder.skip(sequence.where, NOT_ANNOTATED, frame)
    return builder.build(names, {"label_attribute": attribute[: -len(_REF)]})


def _job_folder(path: Path, manifest: Path) -> Path:
    """Return the root folder of the job's files: `path` if it is a folder.

    Otherwise it is the folder that contains manifests/output, if the manifest is there, or else that of the manifest.
    """
    if path.is_dir():
        return path
    parts = manifest.resolve().parts
    return manifest.resolve().parents[2] if parts[-3:-1] == ("manifests", "output") else manifest.parent


def _sequences(manifest: Path, wanted: Optional[str], builder: LabelsBuilder) -> Tuple[List[_Sequence], str]:
    lines = [(where, line) for where, line in read_json_lines(manifest)]
    attributes = sorted({key[: -len(METADATA)] for _, line in lines for key in line if _is_video(line, key)})
    if wanted:
        attributes = [name for name in attributes if name in (wanted, wanted + _REF)]
    if not attributes:
        called = f" called {wanted!r}" if wanted else ""
        raise DataError(f"{manifest}: found no labels{called} of a type that is expected: {' or '.join(VIDEO_TYPES)}")
    if len(attributes) > 1:
        raise ConfigError(f"label_attribute: expected one of {', '.join(attributes)}: {manifest} has them all")
    sequences = []
    for where, line in lines:
        if isinstance(line.get(attributes[0]), str) and isinstance(line.get("source-ref"), str):
            sequences.append(
                _Sequence(where, line["source-ref"], line[attributes[0]], line.get(attributes[0] + METADATA, {}))
            )
        else:
            builder.skip(where, NO_SEQUENCE, f"has no {attributes[0]!r}")
    return sequences, attributes[0]


def _is_video(line: Mapping[str, Any], key: str) -> bool:
    metadata = line[key]
    return key.endswith(_REF + METADATA) and isinstance(metadata, dict) and metadata.get("type") in VIDEO_TYPES


def _class_origins(sequences: List[_Sequence]) -> Dict[Tuple[int, str], str]:
    """Return (id, name) in the class-maps -> location of its first occurrence."""
    origins: Dict[Tuple[int, str], str] = {}
    for sequence in sequences:
        with locate_errors(f"{sequence.where}: class-map"):
            class_map = read_class_map(sequence.metadata.get("class-map", {}))
        for name, class_id in class_map.items():
            origins.setdefault((class_id, name), sequence.where)
    return origins


def _frames_of(sequence: _Sequence, root: Path, builder: LabelsBuilder) -> Tuple[str, List[str]]:
    """Return the prefix of a sequence and all names of its frames, [] if unknown."""
    file = _find(root, sequence.source)
    if file is None:
        prefix = sequence.source.rpartition("/")[0]
        builder.add_repair(sequence.where, [(ASSUMED_PREFIX, f"{prefix} ({sequence.source})")])
        return prefix, []
    with locate_errors(file):
        value = read_json(file)
        if not isinstance(value, dict) or not isinstance(value.get("frames"), list):
            raise DataError(f"found {short_repr(value)}, expected an object with prefix and frames")
        prefix = image_name(value.get("prefix"), "prefix")
        return prefix.rstrip("/"), [image_name(_get(frame, "frame"), "frame") for frame in value["frames"]]


def _add_frames(builder: LabelsBuilder, file: Path, prefix: str, table: Mapping[int, int]) -> Set[str]:
    """Add the frames of one SeqLabel.json file and return their names."""
    with locate_errors(file):
        value = read_json(file)
        key = next((key for key in _LISTS if isinstance(_get(value, key), list)), None)
        if key is None:
            raise DataError(f"found {short_repr(value)}, expected an object with {' or '.join(_LISTS)}")
    labelled = set()
    for index, frame in enumerate(value[key]):
        where = f"{file}:{key}[{index}]"
        with builder.collect_errors(where):
            name = image_name(_get(frame, "frame"), "frame")
            labelled.add(name)
            label = read_box_label(frame, "class-id")
            builder.add(where, f"{prefix}/{name}", label.map_ids(table, "class-id"))
    return labelled


def _get(value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise DataError(f"found {short_repr(value)}, expected an object with {key}")
    return value.get(key)


def _find(root: Path, name: str) -> Optional[Path]:
    """Return the first of a/b/c, b/c, c that is a file below `root`, or None."""
    parts = key_parts(LabeledImage(image_name(name, "reference"), np.zeros((0, 4)), np.zeros(0)))
    candidates = [root.joinpath(*parts[first:]) for first in range(len(parts))]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
