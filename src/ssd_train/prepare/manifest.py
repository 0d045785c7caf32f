"""Read, edit and write the lines of a manifest.

A line that a step does not change keeps its bytes. In a changed line everything else keeps its order, and numbers keep
their text (1.50 stays 1.50), because other programs may depend on attributes that this package does not know.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from json.encoder import encode_basestring, encode_basestring_ascii
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence

from ssd_train.data.file_names import IMAGE_FORMATS, images_below, is_image_name
from ssd_train.data.formats.builder import class_table, image_name, short_repr, whole_number
from ssd_train.data.formats.ground_truth import BOX_TYPE, METADATA, ManifestScan, choose_attribute, scan
from ssd_train.data.formats.json_lines import bad_lines_error, numbered_lines, parse_object
from ssd_train.data.split import compile_regex
from ssd_train.errors import ConfigError, DataError, locate_errors
from ssd_train.storage.atomic import open_atomic

SOURCE = "source-ref"
_WORDS = {None: "null", True: "true", False: "false"}
Edit = Callable[[Dict[str, Any]], None]


class Number(float):
    """JSON number with a fraction or an exponent that keeps its text."""

    text: str

    def __new__(cls, text: str) -> "Number":
        number = super().__new__(cls, text)
        number.text = text
        return number


@dataclass(frozen=True)
class ManifestLine:
    """Line of a manifest; never changed in place.

    Attributes:
        where: ``file:line``.
        raw: the bytes without the line feed.
        value: the parsed JSON object.
    """

    where: str
    raw: bytes
    value: Dict[str, Any]

    @property
    def source(self) -> str:
        """Return the name of the line's image.

        Raises:
            DataError: there is no usable name; begins with file:line.
        """
        with locate_errors(self.where):
            return image_name(self.value.get(SOURCE), SOURCE)

    def edited(self, edit: Edit) -> bytes:
        """Return the bytes of the line after `edit` has changed a copy of its object.

        Raises:
            DataError: the JSON is nested too deeply.
        """
        copy = json.loads(self.raw.decode("utf-8"), parse_float=Number)
        edit(copy)
        try:
            return dump_exact(copy)
        except RecursionError:
            raise DataError(f"{self.where}: found JSON nested too deep to be labels, expected a few levels") from None


def local_path(path: "str | Path") -> Path:
    """Return `place` as a local path; every path of a preparation step passes here.

    Raises:
        ConfigError: it is a URL.
    """
    scheme, separator, _ = str(path).partition("://")
    if separator and scheme.isalnum():
        raise ConfigError(f"{path}: is on {scheme}://, expected a local file or folder (copy it first)")
    return Path(path)


def read_lines(path: "str | Path") -> Iterator[ManifestLine]:
    """Yield the lines that are not blank.

    Raises:
        DataError: a line is no JSON object; begins with file:line.
    """
    for number, raw in numbered_lines(local_path(path)):
        where = f"{path}:{number}"
        with locate_errors(where):
            yield ManifestLine(where, raw, parse_object(raw))


def write_lines(path: "str | Path", lines: Iterable[bytes]) -> int:
    """Write a manifest atomically; `path` may be the manifest that is being read.

    Returns:
        The number of lines.

    Raises:
        DataError: there are no lines.
    """
    count = 0
    with open_atomic(local_path(path)) as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
        if not count:
            raise DataError(f"{path}: no line would be left, expected at least one; nothing was written")
    return count


def dump_exact(value: Any) -> bytes:
    """Return compact JSON in UTF-8; each `Number` has its original text.

    With lone surrogates the JSON is ASCII, because UTF-8 cannot hold them.
    """
    try:
        return _text(value, encode_basestring).encode("utf-8")
    except UnicodeEncodeError:
        return _text(value, encode_basestring_ascii).encode("ascii")


def _text(value: Any, quoted: Callable[[str], str]) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(key)}:{_text(item, quoted)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_text(item, quoted) for item in value) + "]"
    if isinstance(value, Number):
        return value.text
    return _WORDS[value] if value is None or isinstance(value, bool) else repr(value)  # an int or a finite float


def is_labelled(line: ManifestLine, attribute: str) -> bool:
    """Return whether the line has usable box labels under `attribute`."""
    metadata = line.value.get(attribute + METADATA)
    if not isinstance(metadata, dict) or metadata.get("type") != BOX_TYPE or "failure-reason" in metadata:
        return False
    return isinstance(line.value.get(attribute), dict)


def annotations_of(line: ManifestLine, attribute: str) -> List[Dict[str, Any]]:
    """Return the boxes of a labelled line.

    Raises:
        DataError: they are no list of objects.
    """
    annotations = line.value[attribute].get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(box, dict) for box in annotations):
        raise DataError(f"{line.where}: annotations: found {short_repr(annotations)}, expected a list of objects")
    return annotations


def objects_of(line: ManifestLine, attribute: str) -> Optional[List[Any]]:
    """Return the metadata of each box, such as its confidence; None if there is none.

    Raises:
        DataError: it is no list with one entry per box.
    """
    objects = line.value[attribute + METADATA].get("objects")
    boxes = annotations_of(line, attribute)
    if objects is not None and (not isinstance(objects, list) or len(objects) != len(boxes)):
        detail = f"{len(objects)} objects" if isinstance(objects, list) else short_repr(objects)
        raise DataError(f"{line.where}: {attribute}{METADATA}: found {detail} for {len(boxes)} boxes, expected as many")
    return objects


def keep_boxes(line: ManifestLine, copy: Dict[str, Any], attribute: str, keep: Sequence[bool]) -> None:
    """Remove from `copy`, the object of `line`, the boxes with a false `keep`."""
    if all(keep):
        return
    lists = [(copy[attribute], "annotations")]
    if objects_of(line, attribute) is not None:
        lists.append((copy[attribute + METADATA], "objects"))
    for owner, key in lists:
        owner[key] = [item for item, wanted in zip(owner[key], keep) if wanted]


@dataclass(frozen=True)
class Labels:
    """Box labels of one manifest.

    Attributes:
        attribute: their label attribute.
        name_of: class name by class id of the file.
        id_of: lowest class id by class name.
    """

    attribute: str
    name_of: Dict[int, str]
    id_of: Dict[str, int]


def read_classes(path: "str | Path", label_attribute: Optional[str] = None) -> Labels:
    """Return the label attribute of a manifest's boxes and their classes.

    Args:
        path: the manifest.
        label_attribute: the attribute to read; None: that of the newest job.

    Raises:
        DataError: a line or a class-map is malformed, or there are no boxes; begins with file:line.
        ConfigError: `label_attribute` has no boxes in the manifest.
    """
    manifest = scan(local_path(path))
    return labels_of(manifest, choose_attribute(manifest, label_attribute, path), path)


def labels_of(manifest: ManifestScan, attribute: str, path: "str | Path") -> Labels:
    """Return the classes of one attribute of a scanned manifest.

    Raises:
        DataError: a line or a class-map is malformed; begins with file:line.
    """
    faults = {**manifest.faults, **manifest.attributes[attribute].faults}
    if faults:
        raise bad_lines_error([(f"{path}:{line}", fault) for line, fault in sorted(faults.items())])
    origins = {key: f"{path}:{line}" for key, line in manifest.attributes[attribute].names.items()}
    names, table = class_table(origins)
    name_of = {class_id: names[table[class_id]] for class_id in sorted(table)}
    return Labels(attribute, name_of, {name: table[class_id] for class_id, name in name_of.items()})


def names_on(line: ManifestLine, labels: Labels, from_keys: Sequence[str] = ()) -> List[str]:
    """Return the class name of each box on a labelled line.

    With `from_keys` all boxes get the values of these keys, joined by blanks; else each gets the name of its class id.

    Raises:
        DataError: a class id is unknown, or a key has no usable value; begins with file:line.
    """
    boxes = annotations_of(line, labels.attribute)
    if from_keys and boxes:
        return [_joined(line, from_keys)] * len(boxes)
    return [_name(line, index, box, labels.name_of) for index, box in enumerate(boxes)]


def new_classes(line: ManifestLine, attribute: str, names: Sequence[str], ids: Mapping[str, int]) -> Edit:
    """Return an edit that replaces the classes of a labelled line.

    Args:
        line: the line.
        attribute: its label attribute.
        names: new class name of each box; boxes of a class that is not in `ids` are removed.
        ids: class id by name, for the boxes and the line's class-map.
    """

    def edit(copy: Dict[str, Any]) -> None:
        for box, name in zip(copy[attribute]["annotations"], names):
            box["class_id"] = ids.get(name)
        keep_boxes(line, copy, attribute, [name in ids for name in names])
        copy[attribute + METADATA]["class-map"] = {str(class_id): name for name, class_id in ids.items()}

    return edit


def _name(line: ManifestLine, index: int, box: Dict[str, Any], name_of: Mapping[int, str]) -> str:
    with locate_errors(f"{line.where}: box {index}"):
        class_id = whole_number(box.get("class_id"), "class_id")
        if class_id not in name_of:
            raise DataError(f"class_id: found {class_id}, expected one of the class-map: {sorted(name_of)[:20]}")
    return name_of[class_id]


def _joined(line: ManifestLine, keys: Sequence[str]) -> str:
    words = []
    for key in keys:
        value = line.value.get(key)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            detail = short_repr(value) if key in line.value else "none"
            raise DataError(f"{line.where}: {key}: found {detail}, expected a word for the class name of its boxes")
        words.append(str(value).strip())
    return " ".join(words)


def write_listing(
    sources: Sequence["str | Path"], output: "str | Path", prefix: str = "", every: int = 1, name_regex: str = ""
) -> int:
    """Write a manifest line for every n-th image of `sources`.

    Args:
        sources: folders (all images below, sorted), images, or text files with an image name per line.
        output: the new manifest.
        prefix: ``s3://bucket/path`` to put before names that are no URLs.
        every: n; the first image is written.
        name_regex: regular expression for image names; its named groups become keys of the line:
            ``(?P<color>[a-z]+)_(?P<object>[a-z]+)`` gives ``"color": "blue", "object": "box"``.

    Returns:
        The number of lines.

    Raises:
        ConfigError: `prefix` is not on S3, `every` is below 1, or `name_regex` is invalid or has no named groups.
        DataError: there is no image, an image is repeated, or `name_regex` does not match a name.
    """
    check_prefix(prefix)
    if every < 1:
        raise ConfigError(f"every: found {every}, expected 1 or more")
    names = [name for source in sources for name in _names(source)]
    return write_lines(output, _lines(names[::every], prefix, _compiled(name_regex)))


def check_prefix(prefix: str) -> None:
    """Raise a ConfigError unless `prefix` is empty or an address on S3."""
    if prefix and not re.match(r"s3://[^/]", prefix):
        raise ConfigError(f"prefix: found {prefix!r}, expected s3://bucket/path")


def with_prefix(name: str, prefix: str) -> str:
    """Return the address of an image, `name` itself if it is one or there is no prefix."""
    return name if not prefix or "://" in name else f"{prefix.rstrip('/')}/{name}"


def _names(source: "str | Path") -> List[str]:
    path = local_path(source)
    if path.is_dir():
        return list_images(path)
    if is_image_name(path.name):
        return [str(source)]
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(
            f"{source}: cannot be read ({reason}), expected a folder, an image or a list of names"
        ) from None
    return [line.strip() for line in text.split("\n") if line.strip()]


def _compiled(name_regex: str) -> "re.Pattern[str]":
    pattern = compile_regex(name_regex, "name_regex")
    if name_regex and not pattern.groupindex:
        raise ConfigError(f"name_regex: found {name_regex!r}, expected named groups: (?P<color>[a-z]+)_")
    return pattern


def _lines(names: Sequence[str], prefix: str, pattern: "re.Pattern[str]") -> Iterator[bytes]:
    seen = set()
    for name in names:
        if name in seen:
            raise DataError(f"found image {name!r} twice, expected each once")
        seen.add(name)
        yield dump_exact(_line(image_name(name, "image"), prefix, pattern))


def _line(name: str, prefix: str, pattern: "re.Pattern[str]") -> Dict[str, Any]:
    match = pattern.search(name)
    if match is None:
        raise DataError(f"name_regex: {pattern.pattern!r} finds nothing in {name!r}, expected its groups in every name")
    keys = {key: value for key, value in match.groupdict().items() if value is not None}
    return {SOURCE: with_prefix(name, prefix), **keys}


def list_images(folder: "str | Path") -> List[str]:
    """Return the sorted relative POSIX paths of the images below `folder`.

    Images are recognised by their suffix.

    Raises:
        DataError: `folder` is no folder, or has no images.
    """
    root = local_path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: not found or not a folder, expected a folder of images")
    names = [path.relative_to(root).as_posix() for path in images_below(root)]
    if not names:
        raise DataError(f"{folder}: found no images, expected files named *{', *'.join(IMAGE_FORMATS)}")
    return sorted(names)
