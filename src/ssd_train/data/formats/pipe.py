"""What a channel in Pipe mode brings: the lines of an augmented manifest, or the records of a detection `.rec`.

Of an augmented manifest SageMaker sends, for each line, the attributes that AttributeNames lists, in that order, each
framed as RecordIO: the bytes of the image, the label as JSON text, and, where ``<label>-metadata`` is listed third, the
metadata with the class-map. Nothing else of the line arrives, not even the image's name. (AWS developer guide,
"Augmented manifest".) What was listed shows in the first records, and what should have been is then said.

A `.rec` (`recordio`) comes as it is, which the first record shows, too; it has no class-map.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import Any, BinaryIO, Iterator, List, NamedTuple, Optional, Tuple, Union

from ssd_train.data.encoded import looks_like
from ssd_train.data.formats.box_label import read_box_label
from ssd_train.data.formats.detection_label import unpack_label
from ssd_train.data.formats.fields import BoxLabel
from ssd_train.data.formats.framing import read_records
from ssd_train.data.formats.jsonl import parse_json, parse_object
from ssd_train.data.formats.recordio import unpack_record
from ssd_train.data.images import FORMATS, read_header
from ssd_train.data.records import MAX_CLASSES
from ssd_train.errors import DataError

EXPECTED = 'expected AttributeNames ["source-ref", "<label attribute>"], or with "<label attribute>-metadata" third'

_MOST = 3  # attributes
_ANY_CLASS = {class_id: class_id for class_id in range(MAX_CLASSES)}
Numbered = Tuple[int, bytes]


class PipeSample(NamedTuple):
    """One line's attributes: ``stream:number`` of its first record (from 1), image, label, and metadata if sent."""

    where: str
    image: bytes
    label: bytes
    metadata: Optional[bytes]

    def box_label(self) -> BoxLabel:
        """Boxes with the stream's class ids; a DataError without a place when the label cannot be used."""
        return read_box_label(parse_object(self.label), _ANY_CLASS)

    def class_map(self) -> Any:
        """The class-map of the metadata, an empty one where none was sent; a DataError without a place."""
        return {} if self.metadata is None else parse_object(self.metadata).get("class-map", {})


class DetectionSample(NamedTuple):
    """One record of a detection `.rec`: ``stream:number``, and its bytes."""

    where: str
    record: bytes

    @property
    def image(self) -> bytes:
        """The encoded image; a DataError without a place when the record has none."""
        return unpack_record(self.record).image

    def box_label(self) -> BoxLabel:
        """As PipeSample's."""
        record = unpack_record(self.record)
        return unpack_label(record.label, read_header(record.image, "image").shown_wh)

    def class_map(self) -> Any:
        """Empty: the format has no names."""
        return {}


Sample = Union[PipeSample, DetectionSample]


def read_samples(file: BinaryIO, where: str) -> Iterator[Sample]:
    """Yield the samples of a stream until it ends; `where` is how it is called in messages.

    Raises:
        DataError: the stream is empty, no RecordIO, ends inside a sample, or AttributeNames are others than expected;
            begins with `where`.
    """
    records: Iterator[Numbered] = enumerate((record for _, record in read_records(file, where)), 1)
    first = _first_sample(records)
    if not first:
        raise DataError(
            f"{where}: found no record, expected samples: does the manifest have lines, is it what S3Uri names, and "
            f"are AttributeNames attributes of its lines? {EXPECTED}"
        )
    if _is_detection(first[0][1]):
        yield from (DetectionSample(f"{where}:{number}", record) for number, record in chain(first, records))
        return
    size = sum(not _is_image(record) for _, record in first) + 1
    if len(first) > size:  # the image of the next sample is among them
        first, rest = first[:size], first[size:]
    else:
        rest = []
    _check_attributes([record for _, record in first], where)
    stream = chain(first, rest, records)
    while True:
        sample = list(islice(stream, size))
        if not sample:
            return
        yield _sample(sample, size, where)


def _first_sample(records: Iterator[Numbered]) -> List[Numbered]:
    """Records up to the second image, or as many as can be of one sample and one more."""
    found: List[Numbered] = []
    for number, record in records:
        found.append((number, record))
        if len(found) > 1 and (_is_image(record) or len(found) > _MOST):
            break
    return found


def _sample(records: List[Numbered], size: int, where: str) -> PipeSample:
    numbers, data = zip(*records)
    place = f"{where}:{numbers[0]}"
    stray = [number for number, record in records[1:] if looks_like(record) in FORMATS]
    if stray or _is_label(data[0]):
        raise DataError(f"{where}:{(stray or numbers)[0]}: found image and label out of step, expected {size} in turn")
    if len(data) < size:
        raise DataError(f"{place}: found the end after {len(data)} of {size} records of a sample (cut off?)")
    return PipeSample(place, data[0], data[1], data[2] if size == _MOST else None)


def _check_attributes(records: List[bytes], where: str) -> None:
    """A DataError that says what AttributeNames seem to be, unless `records`, one sample, is as it should be."""
    image, others = records[0], records[1:]
    if not _is_image(image):
        found = "a label" if _is_label(image) else "metadata" if _is_metadata(image) else looks_like(image)
        raise DataError(f"{where}:1: found {found} first, expected the image: {EXPECTED}")
    if not others:
        raise DataError(f"{where}:1: found an image without a label after it: {EXPECTED}")
    if len(others) >= _MOST:
        raise DataError(f"{where}:1: found {len(records)} records or more of one sample: {EXPECTED}")
    if _is_metadata(others[0]):
        raise DataError(f"{where}:2: found metadata after the image, expected the label: {EXPECTED}")
    if not _is_label(others[0]):
        raise DataError(f"{where}:2: found {_described(others[0])}, expected a label with annotations: {EXPECTED}")
    if len(others) == 2 and not _is_metadata(others[1]):
        raise DataError(f"{where}:3: found {_described(others[1])}, expected the label's metadata: {EXPECTED}")


def _is_detection(record: bytes) -> bool:
    try:
        return looks_like(unpack_record(record).image) in FORMATS
    except DataError:
        return False


def _is_image(record: bytes) -> bool:
    """Whether a record is no JSON: a file of a kind that is not known is an image, if a bad one."""
    return record.lstrip()[:1] not in (b"{", b"[") and not _is_json(record)


def _is_json(record: bytes) -> bool:
    try:
        parse_json(record)
    except DataError:
        return False
    return True


def _keys(record: bytes) -> List[str]:
    """The keys of a JSON object; none where the record is something else."""
    try:
        value = parse_json(record)
    except DataError:
        return []
    return list(value) if isinstance(value, dict) else []


def _is_label(record: bytes) -> bool:
    return "annotations" in _keys(record)


def _is_metadata(record: bytes) -> bool:
    keys = _keys(record)
    return "annotations" not in keys and any(key in keys for key in ("class-map", "job-name", "type"))


def _described(record: bytes) -> str:
    keys = _keys(record)
    return f"an object with {', '.join(keys[:5])}" if keys else looks_like(record)
