"""Damaged files of every format: a reader returns labels or raises one of our own errors, never anything else.

SSD_TRAIN_FUZZ sets the number of mutated files for each reader; a few hundred are tried without it.
"""

import json
import random

import numpy as np
import pytest
from helpers.data import mutated, samples, tries
from helpers.images import encoded

from ssd_train.data.formats.coco import read_coco, write_coco
from ssd_train.data.formats.ground_truth import read_ground_truth, write_ground_truth
from ssd_train.data.formats.image_json import read_image_json, write_image_json
from ssd_train.data.formats.recordio import read_recordio, write_recordio
from ssd_train.data.formats.video import read_video_frames
from ssd_train.data.formats.voc import read_voc, write_voc
from ssd_train.data.formats.yolo import read_yolo, write_yolo
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.labels import LabeledDataset, read_labels
from ssd_train.data.pipe.channel import SpillFile, read_channel
from ssd_train.data.structures import ClassNames, Detections, LabeledImage, Labels
from ssd_train.deploy.evaluate import score_predictions
from ssd_train.errors import SsdTrainError
from ssd_train.evaluation.predictions import Writer

COUNT = tries(200)
NAMES = ClassNames(("cat", "dog"))
RECORDS = [
    LabeledImage("a.png", [[1, 2, 30, 40], [3.5, 4, 20, 21]], [0, 1], (80, 60)),
    LabeledImage("b.png", [], [], (80, 60)),
    LabeledImage("c.png", [[0, 0, 80, 60]], [1], (80, 60)),
]


PICTURE = encoded(np.zeros((60, 80, 3), np.uint8))


def ground_truth(folder):
    write_ground_truth(folder / "m.manifest", RECORDS, NAMES)
    return folder / "m.manifest", read_ground_truth, folder / "m.manifest"


def recordio(folder):
    write_recordio(folder / "m.rec", RECORDS, MemoryImages({record.name: PICTURE for record in RECORDS}))
    return folder / "m.rec", read_recordio, folder / "m.rec"


def recordio_list(folder):
    path, reader, _ = recordio(folder)
    return path, reader, folder / "m.lst"


def image_json(folder):
    write_image_json(folder / "set", RECORDS, NAMES)
    return folder / "set", read_image_json, folder / "set" / "a.json"


def coco(folder):
    write_coco(folder / "m.json", RECORDS, NAMES)
    return folder / "m.json", read_coco, folder / "m.json"


def voc(folder):
    write_voc(folder / "set", RECORDS, NAMES)
    return folder / "set", read_voc, folder / "set" / "a.xml"


def yolo(folder):
    (folder / "a.png").write_bytes(PICTURE)
    (folder / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.2 0.2\n")
    return folder, read_yolo, folder / "a.txt"


def yolo_names(folder):
    yolo(folder)
    (folder / "data.yaml").write_text("train: x\nnames: {0: cat, 1: 'dog'}\nnc: 2\n")
    return folder, read_yolo, folder / "data.yaml"


def yolo_written(folder):
    write_yolo(folder / "set", RECORDS, NAMES)
    (folder / "set" / "images").mkdir()
    for record in RECORDS:
        (folder / "set" / "images" / record.name).write_bytes(PICTURE)
    return folder / "set", read_yolo, folder / "set" / "labels" / "a.txt"


def yolo_data(folder):
    return (*yolo_written(folder)[:2], folder / "set" / "data.yaml")


def yolo_notes(folder):
    yolo(folder)
    (folder / "notes.json").write_text(
        '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {}}'
    )
    return folder, read_yolo, folder / "notes.json"


def yolo_darknet(folder):
    yolo(folder)
    (folder / "train.txt").write_text("data/a.png\n")
    (folder / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    return folder, read_yolo, folder / "obj.data"


def voc_sets(folder):
    path, reader, _ = voc(folder)
    (path / "ImageSets" / "Main").mkdir(parents=True)
    (path / "ImageSets" / "Main" / "train.txt").write_text("a\nb.png\nx/c\n")
    return path, reader, path / "ImageSets" / "Main" / "train.txt"


def answers(format):
    def build(folder):
        labels = Labels(tuple(RECORDS), NAMES)
        place = folder / f"answers.{format}"
        with open(place, "wb") as file:
            writer = Writer(format, file, NAMES)
            for record in RECORDS:
                found = Detections(record.boxes, [0.5] * len(record.boxes), record.class_ids, record.size_wh)
                writer.add(record.name, found)
            writer.close()
        return place, lambda path: score_predictions(path, LabeledDataset(labels, MemoryImages({}))), place

    return build


def class_list(folder):
    path, reader, _ = recordio(folder)
    (folder / "m.names").write_text("cat\ndog\n")
    return path, reader, folder / "m.names"


def video(folder):
    box = {"left": 1, "top": 2, "width": 30, "height": 20, "class-id": "0"}
    frames = [{"frame": f"{i}.png", "frame-no": str(i), "annotations": [box] * i} for i in range(3)]
    (folder / "SeqLabel.json").write_text(json.dumps({"detection-annotations": frames}))
    (folder / "seq.json").write_text(json.dumps({"prefix": "s3://b/v", "frames": [{"frame": "0.png"}]}))
    metadata = {"class-map": {"0": "cat"}, "type": "groundtruth/video-object-detection"}
    line = {"source-ref": "s3://b/seq.json", "x-ref": "s3://b/SeqLabel.json", "x-ref-metadata": metadata}
    (folder / "output.manifest").write_text(json.dumps(line) + "\n")
    return folder, read_video_frames, folder / "SeqLabel.json"


def video_manifest(folder):
    return (*video(folder)[:2], folder / "output.manifest")


def video_sequence(folder):
    return (*video(folder)[:2], folder / "seq.json")


def pipe(folder):
    images = MemoryImages({record.name: PICTURE for record in RECORDS})
    (folder / "train_0").write_bytes(b"".join(samples(RECORDS, images, NAMES)))

    def read(channel, on_bad):
        received = read_channel(channel, 5, SpillFile(folder, 10**6))
        return received.label_set(*received.class_table(None), on_bad)

    return folder / "train", read, folder / "train_0"


def found_by_looking(folder):
    write_coco(folder / "m.json", RECORDS, NAMES)
    return folder / "m.json", lambda path, on_bad: read_labels(path, None, on_bad), folder / "m.json"


@pytest.mark.parametrize("format", ["jsonl", "coco"])
def test_score_predictions_damaged_file_raises_our_errors_only(tmp_path, format):
    path, score, _ = answers(format)(tmp_path)
    data, rng, outcomes = path.read_bytes(), random.Random(7), set()
    for _ in range(COUNT):
        path.write_bytes(mutated(data, rng))
        try:
            score(path)
            outcomes.add("scores")
        except SsdTrainError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
            outcomes.add("error")
    assert outcomes == {"error", "scores"}


@pytest.mark.parametrize(
    "make",
    [
        *[ground_truth, recordio, recordio_list, class_list, image_json, coco, voc, yolo, yolo_names],
        *[yolo_written, yolo_data, yolo_notes, yolo_darknet, voc_sets],
        *[video, video_manifest, video_sequence, pipe, found_by_looking],
    ],
    ids=lambda make: make.__name__,
)
def test_reader_of_damaged_files_raises_our_errors_only(tmp_path, make):
    path, reader, file = make(tmp_path)
    data, rng, outcomes = file.read_bytes(), random.Random(7), set()
    for number in range(COUNT):
        file.write_bytes(mutated(data, rng))
        try:
            labels = reader(path, on_bad="skip" if number % 2 else "error")
        except SsdTrainError as error:
            assert (str(tmp_path) in str(error) or "train_0:" in str(error)) and "\n" not in str(error)
            outcomes.add("error")
        else:
            labels = labels[0] if isinstance(labels, tuple) else labels
            assert all(np.isfinite(record.boxes).all() for record in labels.records)
            json.dumps([record.name for record in labels.records])
            outcomes.add("labels")
    # the mutations hit, and do not destroy everything
    assert outcomes == {"error", "labels"}
