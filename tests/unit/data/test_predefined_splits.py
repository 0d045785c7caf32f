"""Sets that a data set names itself: what is one, who takes which, and that test is left alone."""

from __future__ import annotations

import pytest
from helpers.data import HeardProgress, picture, write_files
from pycocotools.coco import COCO

from ssd_train.config import TrainConfig
from ssd_train.data.formats.voc import read_voc
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.labels import LabelOptions, load_labels
from ssd_train.data.split import select_split, training_split, validation_split
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.environment import Environment
from ssd_train.errors import ConfigError, DataError
from ssd_train.training.data_setup import load_splits

BOX = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"


def voc(root, lists, stems=("1", "2", "3", "4")):
    """A VOC folder: a picture and an XML file for each of `stems`, and files in ImageSets/Main."""
    for seed, stem in enumerate(stems):
        for folder, ending, data in (
            ("JPEGImages", ".jpg", encode_jpeg(picture((40, 30), seed))),
            ("Annotations", ".xml", f"<annotation><object><name>a</name>{BOX}</object></annotation>".encode()),
        ):
            path = root / folder / f"{stem}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        (root / "ImageSets" / "Main" / name).write_text(text)
    return root


def stems(labels):
    return sorted(record.basename.partition(".")[0] for record in labels.records)


MAIN = {"trainval.txt": "1\n2\n3\n", "train.txt": "1\n2\n", "val.txt": "3\n", "test.txt": "4\r\n"}
READ = {
    "names": ({"train.txt": "1\n2\n"}, {"train": {"1", "2"}}),
    "valid is val": ({"valid.txt": "3"}, {"val": {"3"}}),
    "lists of classes are no sets": ({"train.txt": "1", "a_train.txt": "1  1\n2 -1\n3  0\n"}, {"train": {"1"}}),
    "paths and endings, as CVAT writes": (
        {"default.txt": 'JPEGImages/1.jpg\n"2"\n./x/../3\n'},
        {"default": {"1", "2", "3"}},
    ),
    "names that are not there": ({"train.txt": "1\n99\n", "other.txt": "98\n"}, {"train": {"1"}}),
    "hidden": ({"._train.txt": "1", ".train.txt": "1", "val.txt": "2"}, {"val": {"2"}}),
}


@pytest.mark.parametrize("lists, sets", READ.values(), ids=READ.keys())
def test_read_voc_sets_are_those_of_main(tmp_path, lists, sets):
    voc(tmp_path, lists)
    found = read_voc(tmp_path, images=tmp_path)
    assert {name: {m.rsplit("/", 1)[-1][:-4] for m in members} for name, members in found.sets.items()} == sets
    assert "ImageSets" in found.details["sets"]


def test_read_voc_sets_of_each_year_are_its_own(tmp_path):
    for year, lists in (("VOC2007", {"train.txt": "1"}), ("VOC2012", {"train.txt": "2"})):
        voc(tmp_path / year, lists, ("1", "2"))
    found = read_voc(tmp_path, images=tmp_path)
    assert found.sets == {"train": {"VOC2007/JPEGImages/1.jpg", "VOC2012/JPEGImages/2.jpg"}}


def test_read_voc_sets_in_capitals_and_with_blanks_in_names(tmp_path):
    """`scan 1` is a name, not the picture scan in the list of a class."""
    voc(tmp_path, {"Train.txt": "scan 0", "Validation.txt": "scan 1", "cat_val.txt": "scan 0  1"}, ("scan 0", "scan 1"))
    found = read_voc(tmp_path, images=tmp_path)
    assert found.sets == {"train": {"JPEGImages/scan 0.jpg"}, "val": {"JPEGImages/scan 1.jpg"}}


def labels(**sets):
    records = tuple(LabeledImage(name, [[0, 0, 5, 5]], [0], (10, 10)) for name in "abcd")
    return Labels(records, ClassNames(("x",)), source="there", sets={k: frozenset(v) for k, v in sets.items()})


TAKEN = {
    "no sets": ({}, True, "abcd", None),
    "train and val": ({"train": "a", "val": "b", "trainval": "ab", "test": "cd"}, True, "a", "b"),
    "val is train, as in a data.yaml of one folder": ({"train": "abc", "val": "abc"}, True, "abc", None),
    "trainval": ({"trainval": "ab", "test": "cd"}, True, "ab", None),
    "train": ({"train": "ab", "test": "cd"}, True, "ab", None),
    "validation is given": ({"train": "a", "val": "b", "trainval": "ab"}, False, "ab", None),
    "validation is given, no trainval": ({"train": "a", "val": "b"}, False, "a", None),
    "test alone is not trained on": ({"test": "d"}, True, "abc", None),
    "val alone, with test": ({"val": "b", "test": "cd"}, True, "a", "b"),
    "val is all": ({"val": "abcd"}, True, "abcd", None),
    "sets of another kind": ({"default": "ab"}, True, "abcd", None),
}


@pytest.mark.parametrize("sets, alone, trained, scored", TAKEN.values(), ids=TAKEN.keys())
def test_for_training_takes_train_and_val_or_trainval(sets, alone, trained, scored):
    train, val = training_split(labels(**sets), alone)
    assert stems(train) == list(trained) and (None if val is None else stems(val)) == (scored and list(scored))
    assert {r.name for r in train.others} == set("abcd") - set(trained) if sets else not train.others


def test_for_training_only_test_is_an_error():
    with pytest.raises(DataError, match="there: found images of the set test only"):
        training_split(labels(test="abcd"), True)


def test_for_validation_takes_val_where_there_is_one():
    assert stems(validation_split(labels(val="b", test="cd"))) == ["b"]
    assert stems(validation_split(labels(test="cd"))) == ["a", "b", "c", "d"]


def test_of_split_unknown_set_names_those_there_are():
    assert stems(select_split(labels(val="b"), "valid")) == ["b"]
    with pytest.raises(ConfigError) as raised:
        select_split(labels(val="b", test="c"), "dev")
    setting, text = str(raised.value).split(": ", 1)
    assert setting == "split" and all(name in text for name in ("'dev'", "test", "val"))


JOBS = {
    "train and val": ({}, ["1", "2"], ["3"]),
    "a set that is named": ({"split": "trainval", "validation_fraction": "0.4"}, None, None),
}


@pytest.mark.parametrize("settings, trained, scored", JOBS.values(), ids=JOBS.keys())
def test_load_splits_leaves_test_out_and_logs_it(tmp_path, settings, trained, scored):
    voc(tmp_path / "voc", MAIN)
    progress = HeardProgress()
    environment = Environment(tmp_path / "voc")
    train, validation = load_splits(TrainConfig.from_mapping(settings), environment, progress)
    assert "4" not in stems(train.labels) + stems(validation.labels)
    assert sorted(stems(train.labels) + stems(validation.labels)) == ["1", "2", "3"]
    if trained:
        assert (stems(train.labels), stems(validation.labels)) == (trained, scored)


def test_load_splits_of_a_data_yaml_whose_val_is_train_holds_images_out(tmp_path):
    """As Ultralytics' own small sets and our `prepare convert --to yolo` have it."""
    for index in range(10):
        for name in ("images", "labels"):
            (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "images" / f"{index}.jpg").write_bytes(encode_jpeg(picture((40, 30), index)))
        (tmp_path / "labels" / f"{index}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images\nval: images\nnames: {0: logo}\n")
    progress = HeardProgress()
    train, validation = load_splits(TrainConfig(), Environment(tmp_path), progress)
    assert sorted(stems(train.labels) + stems(validation.labels)) == [str(index) for index in range(10)]
    assert len(validation.labels) and any(str(tmp_path) in line for line in progress.warnings)


def test_load_labels_of_a_data_yaml_are_those_of_its_folder(tmp_path):
    """As `yolo train data=data.yaml`."""
    for split in ("train", "val"):
        files = {"images/a.jpg": encode_jpeg(picture((40, 30), len(split))), "labels/a.txt": "0 0.5 0.5 0.4 0.4\n"}
        write_files(tmp_path / split, files)
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnames: [logo]\n")
    file = tmp_path / "data.yaml"
    for images, labels in ((file, None), (None, file), (tmp_path, file)):
        data = load_labels(images, labels)
        assert data.labels.sets == {"train": {"train/images/a.jpg"}, "val": {"val/images/a.jpg"}}
        assert all(data.images.read(record) for record in data.labels.records)
    (tmp_path / "other.yaml").write_text("train: val/images\nnames: [logo]\n")
    with pytest.raises(DataError, match="other.yaml: found a YAML file"):
        load_labels(tmp_path / "other.yaml", None)


def test_load_labels_of_a_data_yaml_without_labels_names_its_folder(tmp_path):
    (tmp_path / "data.yaml").write_text("train: images\nnames: {0: logo}\n")
    with pytest.raises(DataError, match=f"^{tmp_path / 'data.yaml'}: .*{tmp_path}$"):
        load_labels(tmp_path, tmp_path / "data.yaml", LabelOptions())


# as Roboflow writes them: the first category is the project's name, ids count from 0 in each file
ROBOFLOW = [
    {"id": 0, "name": "RBC-WBC", "supercategory": "none"},
    {"id": 1, "name": "rbc", "supercategory": "RBC-WBC"},
    {"id": 2, "name": "wbc", "supercategory": "RBC-WBC"},
]
CVAT = [{"id": 1, "name": "rbc", "supercategory": ""}, {"id": 2, "name": "wbc", "supercategory": ""}]


def coco(root, images, annotations, names, categories):
    """Write images into the folder `images` of `root`, and a COCO file `annotations` with a box of each."""
    content = {"images": [], "annotations": [], "categories": categories}
    for number, name in enumerate(names):
        (root / images).mkdir(parents=True, exist_ok=True)
        (root / images / name).write_bytes(encode_jpeg(picture((40, 30), len(name) + number)))
        content["images"].append({"id": number, "file_name": name, "height": 30, "width": 40})
        box = {"bbox": [2, 3, 20, 10.5], "area": 210, "segmentation": [], "iscrowd": 0}
        content["annotations"].append({"id": number, "image_id": number, "category_id": 1 + number % 2, **box})
    return write_files(root, {annotations: content}) / annotations


LAYOUTS = {
    "roboflow": ("{0}", "{0}/_annotations.coco.json", ("train", "valid", "test"), ROBOFLOW),
    "coco": ("{0}2017", "annotations/instances_{0}2017.json", ("train", "val"), CVAT),
    "cvat": ("images/{0}", "annotations/instances_{0}.json", ("Train", "Validation"), CVAT),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_labels_coco_file_of_each_split(tmp_path, layout):
    images, annotations, folders, categories = LAYOUTS[layout]
    files = {}
    for folder in folders:
        split = {"t": "train", "v": "val"}[folder[0].lower()] if folder != "test" else "test"
        names = [f"{folder}_{number}.jpg" for number in range(3)]
        files[split] = coco(tmp_path, images.format(folder), annotations.format(folder), names, categories)
    data = load_labels(None, tmp_path)
    assert data.labels.class_names.names == ("rbc", "wbc") and data.labels.category_ids == {"rbc": 1, "wbc": 2}
    assert set(data.labels.sets) == set(files)
    assert all(data.images.read(record) for record in data.labels.records)
    for split, file in files.items():
        truth = COCO(str(file))
        boxes = {
            truth.imgs[one["image_id"]]["file_name"]: (one["bbox"], one["category_id"]) for one in truth.anns.values()
        }
        found = select_split(data.labels, split).records
        assert len(found) == 3
        for record in found:
            (x1, y1, x2, y2), class_id = record.boxes[0].tolist(), int(record.class_ids[0])
            assert boxes[record.basename] == ([x1, y1, x2 - x1, y2 - y1], class_id + 1)


def test_load_splits_trains_on_roboflows_train_and_validates_on_valid(tmp_path):
    for folder, count in (("train", 4), ("valid", 2), ("test", 3)):
        names = [f"{number}.jpg" for number in range(count)]  # the same names in each folder
        coco(tmp_path, folder, f"{folder}/_annotations.coco.json", names, ROBOFLOW)
    progress = HeardProgress()
    train, validation = load_splits(TrainConfig(), Environment(tmp_path), progress)
    assert {record.name.split("/")[0] for record in train.labels.records} == {"train"} and len(train.labels) == 4
    assert {record.name.split("/")[0] for record in validation.labels.records} == {"valid"}
    assert len(validation.labels) == 2 and train.labels.class_names.names == ("rbc", "wbc")


def test_load_labels_coco_files_that_are_no_splits_are_refused(tmp_path):
    for name in ("a", "b"):
        coco(tmp_path, name, f"{name}.json", ["1.jpg"], CVAT)
    with pytest.raises(DataError, match="one for each of train, val and test"):
        load_labels(None, tmp_path)


def test_load_labels_coco_image_in_two_splits_is_refused(tmp_path):
    for name in ("train", "val"):
        coco(tmp_path, "images", f"annotations/instances_{name}.json", ["1.jpg"], CVAT)
    with pytest.raises(DataError, match=r"instances_val.json:images\[0\]: found '1.jpg' again"):
        load_labels(None, tmp_path)


def test_load_labels_coco_splits_with_other_category_ids_are_matched_by_name(tmp_path):
    coco(tmp_path, "train", "train/a.json", ["1.jpg", "2.jpg"], CVAT)
    turned = [{"id": 1, "name": "wbc"}, {"id": 2, "name": "rbc"}]
    coco(tmp_path, "val", "val/a.json", ["1.jpg"], turned)
    labels = load_labels(None, tmp_path).labels
    classes = {record.name: labels.class_names[int(record.class_ids[0])] for record in labels.records}
    assert classes == {"train/1.jpg": "rbc", "train/2.jpg": "wbc", "val/1.jpg": "wbc"} and not labels.category_ids


def test_load_labels_coco_group_category_with_a_box_is_a_class(tmp_path):
    file = coco(tmp_path, "images", "a.json", ["1.jpg", "2.jpg"], [{**ROBOFLOW[0], "id": 2}, ROBOFLOW[1]])
    assert load_labels(tmp_path, file).labels.class_names.names == ("rbc", "RBC-WBC")


@pytest.mark.parametrize(
    "others, sets", [((), {"train", "val"}), (("5",), set())], ids=["all in folders", "one outside"]
)
def test_load_labels_voc_folders_called_after_splits_are_splits(tmp_path, others, sets):
    """Roboflow's VOC export: an XML file beside each image, no list."""
    for folder, stems_of in (("train", "123"), ("valid", "14"), (".", others)):
        for stem in stems_of:
            write_files(
                tmp_path / folder,
                {
                    f"{stem}.jpg": encode_jpeg(picture((40, 30), int(stem))),
                    f"{stem}.xml": f"<annotation><object><name>a</name>{BOX}</object></annotation>",
                },
            )
    labels = load_labels(None, tmp_path).labels
    assert set(labels.sets) == sets and (not sets or labels.sets["val"] == {"valid/1.jpg", "valid/4.jpg"})
