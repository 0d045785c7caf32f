"""A channel in Pipe mode, read once from end to end: its labels, and its images for as long as they fit on the disk.

The number of classes and of images, the width of labels and what is wrong with them must be known before the first
step, and none of it is told beforehand, so the FIFO of epoch 0 is read first of all. Images are kept in a file of
limited size as they come, encoded. Where all of them fit, later epochs read them there at random, and no other FIFO is
opened; where not, they are taken anew from the FIFOs of the epochs (`stream`).

An image has no name in Pipe mode. It is called by the hash of its bytes, and records are put in the order of these
names, so that a job that goes on sees the same set in the same order whatever order the lines came in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import BinaryIO, Dict, List, Mapping, Optional, Tuple

from ssd_train.data.fifo import fifo_path, open_fifo
from ssd_train.data.formats.fields import BoxLabel
from ssd_train.data.formats.gather import Gather, class_table, numbered_classes
from ssd_train.data.formats.ground_truth_survey import read_class_map
from ssd_train.data.formats.pipe import Sample, read_samples
from ssd_train.data.images import check_limits, check_whole, read_header
from ssd_train.data.records import ClassNames, LabelSet
from ssd_train.data.spill import SpillFile, SpillImages
from ssd_train.errors import DataError

Table = Mapping[int, int]


@dataclass(frozen=True)
class Received:
    """One image as it came: ``stream:number``, hash of its bytes, ending of its kind, label with the stream's ids,
    offset and length in the spill file."""

    where: str
    digest: str
    ending: str
    label: BoxLabel
    place: Tuple[int, int]


@dataclass
class Channel:
    """What one pass over a channel gave.

    path        of the channel; ``<path>_0`` is the FIFO
    received    all usable images
    faults      (where, what is wrong) of the others
    classes     (id, name) -> where it stands first, of the class-maps; empty where no metadata is sent
    spill       the images, or None where they did not fit
    """

    path: Path
    received: List[Received] = field(default_factory=list)
    faults: List[Tuple[str, DataError]] = field(default_factory=list)
    classes: Dict[Tuple[int, str], str] = field(default_factory=dict)
    spill: Optional[SpillFile] = None

    def class_table(self, class_names: Optional[ClassNames]) -> Tuple[ClassNames, Table]:
        """Class names, and id of the stream -> index into them.

        They are those of the class-maps, in the order of `class_names` if given; without class-maps `class_names` are
        the names of the ids 0, 1, ...; without either they are numbered.

        Raises:
            DataError: class-maps contradict each other, or name a class that `class_names` lack.
        """
        if self.classes:
            names, table = class_table(self.classes)
            if class_names is None:
                return names, table
            return class_names, {class_id: class_names.index(names[index]) for class_id, index in table.items()}
        highest = max((class_id for one in self.received for class_id in one.label.class_ids), default=-1)
        names = class_names or numbered_classes(highest + 1)[0]
        return names, {class_id: class_id for class_id in range(len(names))}

    def label_set(self, class_names: ClassNames, table: Table, on_bad: str) -> Tuple[LabelSet, Optional[SpillImages]]:
        """The labels in the order of their names, and the images under these names, if they fit."""
        gather = Gather(str(fifo_path(self.path, 0)), on_bad)
        images = None if self.spill is None else SpillImages(self.spill)
        for where, fault in self.faults:
            gather.fault(where, fault)
        seen: Dict[str, int] = {}
        for one in sorted(self.received, key=lambda one: (one.digest, one.label.boxes, one.label.class_ids)):
            seen[one.digest] = copies = seen.get(one.digest, 0) + 1
            name = image_name(self.path, one.digest, one.ending, copies)
            try:
                gather.add(one.where, name, with_table(one.label, table))
            except DataError as fault:
                gather.fault(one.where, fault)
            if images:
                images.add(name, one.place)
        return gather.label_set(class_names, {"format": "pipe"}), images


def receive(path: Path, timeout: float, spill: SpillFile, stop: Optional[Event] = None) -> Channel:
    """Read ``<path>_0`` from end to end, and keep its images in `spill` unless they are too many.

    Raises:
        Stopped: `stop` was set meanwhile.
        DataError: the FIFO does not come, the stream breaks off, or AttributeNames are not as expected.
        SsdTrainError: the disk is full.
    """
    channel = Channel(path, spill=spill)
    fifo = fifo_path(path, 0)
    with open_fifo(fifo, timeout, stop) as file:
        _receive_all(file, fifo.name, channel)
    return channel


def _receive_all(file: BinaryIO, where: str, channel: Channel) -> None:
    for sample in read_samples(file, where):
        try:
            digest, ending, label = take_apart(sample)
            for name, class_id in _class_map(sample).items():
                channel.classes.setdefault((class_id, name), sample.where)
        except DataError as fault:
            channel.faults.append((sample.where, fault))
            continue
        offset = None if channel.spill is None else channel.spill.append(sample.image)
        if offset is None and channel.spill is not None:
            channel.spill.clear()
            channel.spill = None
        channel.received.append(Received(sample.where, digest, ending, label, (offset or 0, len(sample.image))))


def take_apart(sample: Sample) -> Tuple[str, str, BoxLabel]:
    """Hash of the image, ending of its kind, and label with the stream's class ids; a DataError without a place when
    one of them cannot be used."""
    header = read_header(sample.image, "image")
    check_limits(header, "image")
    check_whole(sample.image, header, "image")
    label = sample.box_label()
    return hashlib.sha256(sample.image).hexdigest()[:24], header.format.lower(), label


def with_table(label: BoxLabel, table: Table) -> BoxLabel:
    """The label with our class ids; a DataError without a place for one that has none."""
    unknown = [class_id for class_id in label.class_ids if class_id not in table]
    if unknown:
        raise DataError(
            f"class_id: found {unknown[0]}, expected one of the classes: {sorted(table)[:20]}", "unknown-class"
        )
    return label._replace(class_ids=[table[class_id] for class_id in label.class_ids])


def image_name(channel: Path, digest: str, ending: str, copies: int = 1) -> str:
    """What an image of a channel is called; `copies` counts those of the same bytes, from 1."""
    return f"{channel.name}/{digest}{'' if copies == 1 else f'-{copies}'}.{ending}"


def _class_map(sample: Sample) -> Dict[str, int]:
    try:
        return read_class_map(sample.class_map())
    except DataError as fault:
        raise fault.at("metadata") from None
