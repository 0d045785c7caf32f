"""Read and write Pascal VOC XML, one file per image.

The devkit counts pixels from 1 and includes both ends, so a box that covers the whole image is (1, 1, width, height).
In ssd_train it is (0, 0, width, height): only xmin and ymin are reduced by 1. Boxes of tools that count from 0
therefore become one pixel wider to the left and top. If that pixel is outside the image, the box is clipped and listed
in `Labels.repaired`.

An XML file belongs to the image of the same name, next to it or in the sister folder (see `builder.ImagesOfLabels`).
``filename`` is used only for files without such an image. If ``filename`` differs from the name of that image, the
difference is listed in `Labels.repaired`.

Class names are sorted unless they are passed, because the format has no class ids. Objects marked difficult are ignored
regions: neither scored nor learned as background. A size of 0 x 0, which some tools write, counts as missing.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple
from xml.etree import ElementTree

from ssd_train.boxes import SizeWH
from ssd_train.data.file_names import folded, is_hidden, is_image_name
from ssd_train.data.formats.builder import (
    DIFFICULT,
    OBJECT,
    BoxLabel,
    Corners,
    ImagesOfLabels,
    LabelsBuilder,
    box_corners,
    image_name,
    label_files,
    match_paths,
    names_agree,
    new_folder,
    new_label_file,
    short_repr,
    shortest,
    side,
    split_path,
    text_number,
)
from ssd_train.data.formats.json_lines import PathLike, read_bytes, read_text
from ssd_train.data.image_sources import key_parts
from ssd_train.data.split import set_name
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.errors import DataError, locate_errors

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not allowed by XML 1.0, section 2.2


_MAIN = Path("ImageSets", "Main")
OTHER_NAME = "filename differs from the image named like the XML file; that image is used"
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no", "unspecified")


class _Annotation(NamedTuple):
    """Content of one XML file.

    Attributes:
        file: The XML file.
        filename: The element ``filename``, "" if there is none.
        classes: Class name of each object.
        label: Boxes of the objects, without class ids.
    """

    file: Path
    filename: str
    classes: List[str]
    label: BoxLabel


def read_voc(
    path: PathLike,
    class_names: Optional[ClassNames] = None,
    on_bad: str = "error",
    images: Optional[PathLike] = None,
) -> Labels:
    """Read all XML files below a folder; `LabeledImage.where` is the XML file.

    `LabeledImage.name` is the path of the image below the folder `images`. Without such an image, it is ``filename``,
    or else the name of the XML file. Lists in ImageSets/Main are read into `Labels.sets`.

    Args:
        path: The folder of the XML files.
        class_names: All class names, in the order of their ids; None is the sorted names of the files.
        on_bad: "error" raises one DataError for all bad files, "skip" skips them.
        images: The folder of the images; None is `path`.

    Raises:
        DataError: there is no XML file, or `on_bad` is "error" and some files are bad; the message names them.
    """
    files = label_files(path, ".xml")
    builder = LabelsBuilder(str(path), on_bad)
    read: List[_Annotation] = []
    for file in files:
        with builder.collect_errors(str(file)):
            read.append(_annotation(file))
    names = class_names or ClassNames(tuple(sorted({name for one in read for name in one.classes})))
    image_names = _match_images(read, ImagesOfLabels(path if images is None else images))
    for one in read:
        with builder.collect_errors(str(one.file)):
            class_ids = [names.index(class_name) for class_name in one.classes]
            name = image_names[one.file]
            if isinstance(name, DataError):
                raise name
            known = len(builder.records)
            builder.add(str(one.file), name, one.label._replace(class_ids=class_ids))
            if len(builder.records) > known and not names_agree(name, one.filename):
                builder.add_repair(str(one.file), [(OTHER_NAME, f"found {one.filename!r}, {name!r} is used")])
    labels = builder.build(names)
    files_of = {record.name: record.where for record in labels.records}
    sets, source = voc_sets([Path(path), Path(path if images is None else images)], files_of)
    if not sets:
        return labels
    return dataclasses.replace(labels, sets=sets, details={**labels.details, "sets": source})


def _match_images(read: Sequence[_Annotation], images: ImagesOfLabels) -> "Dict[Path, str | DataError]":
    """Return the image name of each XML file, or an error if there is none.

    Images with the names of XML files are assigned first: a ``filename`` that was not updated when files were renamed
    may name the image of another XML file.
    """
    names: "Dict[Path, str | DataError]" = {}
    owners: Dict[str, Path] = {}
    for one in read:
        try:
            name = images.of(one.file, one.filename)
        except DataError as fault:
            names[one.file] = fault
            continue
        if name is not None:
            names[one.file] = name
            owners.setdefault(name, one.file)
    for one in read:
        if one.file in names:
            continue
        try:
            named = images.named(one.filename) if one.filename else None
        except DataError as fault:
            names[one.file] = fault
            continue
        if named in owners:
            names[one.file] = DataError(
                f"found no picture called {one.file.stem}; filename {one.filename!r} is that of {owners[named]}, "
                "expected a picture of the file's own name",
                "missing-image",
            )
        else:
            names[one.file] = named or one.filename or one.file.stem
    return names


def voc_sets(roots: Sequence[Path], files: Dict[str, str]) -> Tuple[Dict[str, FrozenSet[str]], str]:
    """Read the splits in VOC's ImageSets/Main.

    A list for one class (cat_train.txt: names with 1, 0 or -1) is not a split.

    Args:
        roots: Folders of labels and images.
        files: Name of each record -> its XML file.

    Returns:
        Split -> names of its records, and the folders of the lists for messages; "" if there are no splits.
    """
    folders = sorted({folder for base in roots for folder in _main_folders(base)})
    sets: Dict[str, Set[str]] = {}
    for folder in folders:
        root = folder.parents[1]
        paths: List[Tuple[Tuple[str, ...], str]] = []
        for name, file in files.items():
            path = Path(file).absolute()
            if root in path.parents:
                for listed in (path.relative_to(root), Path(name)):  # lists name annotations or images
                    paths.append((tuple(folded(part) for part in listed.with_suffix("").parts), name))
        for lists in sorted(folder.glob("*.txt")):
            if not is_hidden(lists.name):
                sets.setdefault(set_name(lists.stem), set()).update(_members(lists, paths))
    members_of = {name: frozenset(members) for name, members in sets.items() if members}
    return members_of, ", ".join(map(str, folders)) if members_of else ""


def _main_folders(folder: Path) -> List[Path]:
    """Return ImageSets/Main in a folder, in its parent, or in one of its subfolders."""
    absolute = folder.absolute()
    above = [folder / _MAIN for folder in (absolute, absolute.parent) if (folder / _MAIN).is_dir()]
    return above or [path for path in absolute.glob(f"*/{_MAIN}") if path.is_dir()]


def _members(path: Path, paths: Sequence[Tuple[Tuple[str, ...], str]]) -> Set[str]:
    """Return the names of the images in a list; those of a list for one class do not count.

    Args:
        path: The list.
        paths: (parts of a path without extension, name) of each image.
    """
    with locate_errors(path):
        lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    entries = [entry for entry in map(split_path, lines) if entry]
    stems = (entry[-1].rpartition(".")[0] if is_image_name(entry[-1]) else entry[-1] for entry in entries)
    return match_paths([(*entry[:-1], stem) for entry, stem in zip(entries, stems)], paths)


def write_voc(path: PathLike, records: Iterable[LabeledImage], class_names: ClassNames) -> None:
    """Write one XML file per record to a new folder.

    The folder appears only when it is complete. ``filename`` is the name of the record without the bucket. The XML file
    has the same relative path with the extension .xml. Difficult objects are written, crowds are not.

    Raises:
        DataError: a record has no size, a name cannot be stored in XML, two names differ only in their extension, or
            the folder is not empty.
    """
    for name in class_names:
        if name != name.strip() or _NOT_XML.search(name):
            raise DataError(f"class {name!r}: VOC cannot hold blanks around a name, nor control characters")
    with new_folder(path) as folder:
        for record in records:
            name = "/".join(key_parts(record))
            tree = ElementTree.ElementTree(_element(name, record, class_names))
            target = new_label_file(folder, name, ".xml", record.location)
            tree.write(str(target), encoding="utf-8", xml_declaration=True)


def _annotation(file: Path) -> _Annotation:
    data = read_bytes(file)
    # entities of a document type can expand without limit or read other files; VOC needs none
    if b"<!" in data.replace(b"<!--", b"") or b"\0" in data:
        raise DataError("found a document type, a CDATA section or UTF-16, expected plain VOC XML in UTF-8")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        advice = "" if _is_utf8(data) else ", in UTF-8 unless it declares another encoding"
        raise DataError(f"found bad XML ({error}), expected one annotation element{advice}") from None
    if root.tag != "annotation":
        raise DataError(f"found the element {root.tag!r}, expected annotation")
    names, boxes, kinds = [], [], []
    for index, element in enumerate(root.findall("object")):
        with locate_errors(f"object {index}"):
            names.append(_text(element, "name"))
            boxes.append(_box(element))
            kinds.append(DIFFICULT if _is_true(element, "difficult") else OBJECT)
    filename = (root.findtext("filename") or "").strip()
    label = BoxLabel(boxes, [], _size(root), kinds if any(kinds) else ())
    return _Annotation(file, image_name(filename, "filename") if filename else "", names, label)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_true(element: ElementTree.Element, path: str) -> bool:
    text = (element.findtext(path) or "").strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise DataError(f"{path}: found {short_repr(text)}, expected 0 or 1")
    return text in _TRUE


def _box(element: ElementTree.Element) -> Corners:
    xmin, ymin, xmax, ymax = (_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    left, top = xmin - 1, ymin - 1
    return box_corners(left, top, xmax - left, ymax - top)


def _size(root: ElementTree.Element) -> Optional[SizeWH]:
    if not all((root.findtext(f"size/{key}") or "").strip() for key in ("width", "height")):
        return None
    width, height = (shortest(_number(root, f"size/{key}")) for key in ("width", "height"))
    return None if width == height == 0 else (side(width, "width"), side(height, "height"))


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise DataError(f"{path}: found none, expected it")
    return text


def _number(element: ElementTree.Element, path: str) -> float:
    return text_number(_text(element, path), path)


def _element(name: str, record: LabeledImage, class_names: ClassNames) -> ElementTree.Element:
    if record.size_wh is None:
        raise DataError(f"{record.location}: found no image size, expected one: VOC needs it")
    if name != name.strip() or _NOT_XML.search(name):
        raise DataError(f"{record.location}: found {name!r}, which cannot stand in XML")
    root = ElementTree.Element("annotation")
    _child(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for key, value in zip(("width", "height", "depth"), (*record.size_wh, 3)):
        _child(size, key, str(value))
    difficult = record.ignored.take(~record.ignored.crowds)
    rows = [(box, class_id, "0") for box, class_id in zip(record.boxes.tolist(), record.class_ids.tolist())]
    rows += [(box, class_id, "1") for box, class_id in zip(difficult.boxes.tolist(), difficult.class_ids.tolist())]
    for (x1, y1, x2, y2), class_id, flag in rows:
        element = ElementTree.SubElement(root, "object")
        _child(element, "name", class_names[class_id])
        _child(element, "difficult", flag)
        bndbox = ElementTree.SubElement(element, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2)):
            _child(bndbox, key, repr(shortest(value)))
    return root


def _child(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
