"""Data as people have it, through the commands: what public reports of labelling tools and trainers show, rebuilt."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import picture

from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_jpeg, encode_png

BOX = [20, 20, 100, 90]  # of a picture of 200 x 160
AT = ("cat", 20, 20, 80, 70)  # the same: class, left, top, width, height
YOLO = "0 0.3 0.34375 0.4 0.4375\n"


class Folder:
    """A folder to put data in, and the commands run in it."""

    def __init__(self, root, capsys):
        self.root, self._capsys = root, capsys

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def pictures(self, *names):
        for name in names:
            image = picture((200, 160), len(list(self.root.rglob("*"))))
            self.write(name, encode_png(image) if name.lower().endswith("png") else encode_jpeg(image))

    def run(self, *arguments):
        self._capsys.readouterr()
        code = main(list(arguments))
        told = self._capsys.readouterr()
        return code, told.out + told.err

    def boxes(self, labels, *more):
        output = str(self.root / "converted.manifest")
        (self.root / "converted.manifest").unlink(missing_ok=True)
        code, text = self.run(
            "prepare", "convert", "--labels", labels, "--to", "ground_truth", "--output", output, *more
        )
        assert code == 0, text
        found = {}
        for line in (self.root / "converted.manifest").read_text().splitlines():
            row = json.loads(line)
            names = (
                row["bounding-box-metadata"]["class-map"] if "bounding-box" in row else row["job-metadata"]["class-map"]
            )
            boxes = (row.get("bounding-box") or row["job"])["annotations"]
            sides = [[round(box[key]) for key in ("left", "top", "width", "height")] for box in boxes]
            found[row["source-ref"]] = [(names[str(box["class_id"])], *side) for box, side in zip(boxes, sides)]
        return found


@pytest.fixture
def folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, capsys)


def voc_object(name="cat", box=BOX, difficult=0):
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]))
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inside}</bndbox></object>"


def voc(filename, *objects):
    size = "<size><width>200</width><height>160</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"


def coco(name="a.jpg", *annotations, **image):
    image = {"id": 1, "file_name": name, "width": 200, "height": 160, **image}
    entries = annotations or ({"bbox": [20, 20, 80, 70]},)
    boxes = [{"id": i, "image_id": image["id"], "category_id": 1, "iscrowd": 0, **a} for i, a in enumerate(entries, 1)]
    return {"images": [image], "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}


def gt_line(source, **more):
    box = dict(zip(("class_id", "left", "top", "width", "height"), (0, 20, 20, 80, 70)))
    metadata = {"objects": [{"confidence": 0.9}], "class-map": {"0": "cat"}, "type": "groundtruth/object-detection"}
    label = {"image_size": [{"width": 200, "height": 160, "depth": 3}], "annotations": [box]}
    date = {"creation-date": "2020-01-01T00:00:00.000000", "human-annotated": "yes", "job-name": "labeling-job/job"}
    return json.dumps({"source-ref": source, "job": label, "job-metadata": {**metadata, **date}, **more}) + "\n"


def verified(verdict):
    metadata = {"class-name": verdict, "type": "groundtruth/label-verification", "confidence": 0.9}
    return {"verify": "1", "verify-metadata": {**metadata, "creation-date": "2020-02-01T00:00:00.000000"}}


NAMED = {
    "Windows' separators": ("images\\a.jpg", "images/a.jpg"),
    "address": ("https://app.example.com/data/upload/1/a.jpg", "images/a.jpg"),
    "upper case": ("s3://bucket/x/DSC0001.jpg", "images/DSC0001.JPG"),
    "without ending": ("a", "images/a.jpg"),
    "jfif": ("x/b.jfif", "images/b.jfif"),
}


@pytest.mark.parametrize("name, file", NAMED.values(), ids=NAMED.keys())
@pytest.mark.parametrize("images", [".", "images"])
def test_check_name_as_other_tools_write_it_finds_its_picture(folder, name, file, images):
    folder.pictures(file)
    folder.write("gt.json", coco(name))
    assert folder.run("check", "--images", images, "--labels", "gt.json")[0] == 0


def test_yolo_pictures_of_all_endings_and_a_label_without_one(folder):
    for name in ("a.jpg", "b.jfif", "c.jpe"):
        folder.pictures(f"images/{name}")
        folder.write(f"labels/{name[0]}.txt", YOLO)
    folder.write("data.yaml", 'names: ["cat"]')
    assert folder.boxes(".") == {f"images/{name}": [AT] for name in ("a.jpg", "b.jfif", "c.jpe")}
    (folder.root / "converted.manifest").unlink()
    folder.write("labels/d.txt", YOLO)
    code, text = folder.run("check", "--images", ".")
    assert code == 2 and "missing-image" in text and "labels/d.txt" in text


def test_yolo_backgrounds_before_the_first_box(folder):
    for index in range(25):
        folder.pictures(f"images/{index:02}.jpg")
        folder.write(f"labels/{index:02}.txt", YOLO if index == 24 else "")
    assert folder.run("check", "--images", ".")[0] == 0
    assert folder.run("check", "--images", ".", "--labels_format", "yolo")[0] == 0


def test_labels_format_ends_the_guessing_and_the_line_is_named(folder):
    folder.pictures("images/a.jpg")
    folder.write("labels/a.txt", "0 0.1 0.1 0.3\n")
    code, text = folder.run("check", "--images", ".", "--labels_format", "yolo")
    assert code == 2 and "a.txt:1" in text
    folder.write("gt.json", '{"images": [')
    code, text = folder.run("check", "--images", "images", "--labels", ".", "--labels_format", "coco")
    assert code == 2 and "gt.json" in text


def test_coco_is_found_among_other_json(folder):
    folder.pictures("images/a.jpg")
    for index in range(30):
        folder.write(f"a{index:02}.json", {"info": {}, "categories": []})
    folder.write("gt.json", {"licenses": [], "info": {"year": 2024, "note": "x" * 70_000}, **coco()})
    assert list(folder.boxes(".", "--images", "images")) == ["a.jpg"]


def test_roboflow_folders_with_names_two_above(folder):
    folder.pictures("train/images/a.jpg", "train/images/b.jpg", "valid/images/c.jpg")
    for name in ("train/labels/a", "train/labels/b", "valid/labels/c"):
        folder.write(f"{name}.txt", YOLO.replace("0 ", "1 ", 1))
    folder.write("data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['dog', 'cat']\n")
    assert folder.boxes("train/labels", "--images", "train/images") == {"a.jpg": [AT], "b.jpg": [AT]}
    code, text = folder.run("check", "--images", "train/images", "--validation", "valid/images")
    assert code == 0 and "cat" in text and "class_1" not in text


def test_voc_figures_leave_difficult_objects_out(folder):
    folder.pictures("images/a.jpg")
    folder.write("voc/a.xml", voc("a.jpg", voc_object(), voc_object(box=(120, 100, 180, 150), difficult=1)))
    folder.write("found.jsonl", {"image": "a.jpg", "prediction": [["cat", 0.9, 0.1, 0.125, 0.5, 0.5625]]})
    command = ["evaluate", "--predictions", "found.jsonl", "--images", "images", "--labels", "voc", "--json", "s.json"]
    assert folder.run(*command)[0] == 0
    scores = json.loads((folder.root / "s.json").read_text())
    assert [value for key, value in scores.items() if "voc07" in key.lower().replace("_", "")] == [1]
    code, text = folder.run("check", "--images", "images", "--labels", "voc")
    assert code == 0 and "1 difficult" in text


def test_coco_figures_leave_crowds_out(folder):
    folder.pictures("images/a.jpg")
    crowd = {"bbox": [100, 60, 100, 100], "iscrowd": 1, "segmentation": {"counts": [100, 9], "size": [160, 200]}}
    folder.write("gt.json", coco("a.jpg", {"bbox": [20, 20, 60, 60]}, crowd))
    rows = [[0, 0.95, 0.55, 0.5, 0.7, 0.8], [0, 0.9, 0.1, 0.125, 0.4, 0.5]]
    folder.write("found.jsonl", {"image": "a.jpg", "prediction": rows})
    assert folder.run("evaluate", "--predictions", "found.jsonl", "--labels", "gt.json", "--json", "s.json")[0] == 0
    assert json.loads((folder.root / "s.json").read_text())["mAP"] == pytest.approx(1)


def test_conversion_counts_the_flags_that_get_lost(folder):
    folder.pictures("images/a.jpg")
    folder.write("voc/a.xml", voc("a.jpg", voc_object(), voc_object(box=(120, 100, 180, 150), difficult=1)))
    command = ["prepare", "convert", "--labels", "voc", "--images", "images"]
    code, text = folder.run(*command, "--to", "coco", "--output", "out.json")
    assert code == 0 and any("1 difficult" in line for line in text.splitlines())
    assert len(json.loads((folder.root / "out.json").read_text())["annotations"]) == 2
    code, text = folder.run(*command, "--to", "recordio", "--output", "out.rec")
    assert code == 0 and "difficult object" not in text
    code, text = folder.run("check", "--images", "out.rec")
    assert code == 0 and "1 difficult" in text


def test_verdicts_of_a_verification_job_are_counted_and_chosen(folder):
    folder.pictures("images/a.jpg", "images/b.jpg", "images/c.jpg")
    lines = [gt_line("s3://b/x/a.jpg"), gt_line("s3://b/x/b.jpg", **verified("bad"))]
    folder.write("output.manifest", "".join([*lines, gt_line("s3://b/x/c.jpg", **verified("good"))]))
    code, text = folder.run("check", "--images", "images", "--labels", "output.manifest")
    assert code == 0 and "verification 'verify': 1 bad, 1 good" in text
    assert list(folder.boxes("output.manifest", "--images", "images", "--verified", "good")) == ["s3://b/x/c.jpg"]
    for wrong in ("fine", ""):
        code, _ = folder.run("check", "--labels", "output.manifest", *(["--verified", wrong] if wrong else []))
        assert code == (2 if wrong else 0)


def test_verified_of_labels_without_such_a_job_is_an_error(folder):
    folder.write("output.manifest", gt_line("s3://b/x/a.jpg"))
    assert folder.run("check", "--labels", "output.manifest", "--verified", "good")[0] == 2
    folder.write("gt.json", coco())
    assert folder.run("check", "--labels", "gt.json", "--verified", "good")[0] == 2


@pytest.mark.parametrize(
    "names", [("Person", "person"), ("traffic light", "Traffic_Light"), ("caf\u00e9", "CAFE\u0301")]
)
def test_class_names_that_differ_in_case_or_blanks_are_named_in_a_line(folder, names):
    for stem, name in zip("ab", names):
        folder.pictures(f"images/{stem}.jpg")
        folder.write(f"voc/{stem}.xml", voc(f"{stem}.jpg", voc_object(name)))
    code, text = folder.run("check", "--images", "images", "--labels", "voc")
    assert code == 0 and any(all(repr(name) in line for name in names) for line in text.splitlines())


def test_tracking_job_is_pointed_to_convert(folder):
    metadata = {"type": "groundtruth/video-object-tracking", "class-map": {"0": "cat"}}
    folder.write(
        "output.manifest", {"source-ref": "s3://b/s.json", "x-ref": "s3://b/x.json", "x-ref-metadata": metadata}
    )
    code, text = folder.run("check", "--labels", "output.manifest")
    assert code == 2 and "prepare convert" in text


def test_yolo_written_is_read_as_it_stands(folder):
    folder.pictures("images/a.jpg", "images/b.jpg")
    folder.write("gt.json", coco("a.jpg"))
    assert (
        folder.run("prepare", "convert", "--labels", "gt.json", "--images", "images", "--to", "yolo", "--output", "y")[
            0
        ]
        == 0
    )
    assert folder.boxes("y", "--images", "images") == {"a.jpg": [AT]}
    assert (folder.root / "y/labels/a.txt").read_text().split() == YOLO.split()


def test_yolo_is_written_with_its_images_beside_the_labels(folder):
    folder.pictures("images/a.jpg")
    folder.write("gt.json", coco("C:\\x\\a.jpg"))
    command = ["prepare", "convert", "--labels", "gt.json", "--images", "images", "--to", "yolo", "--output", "y"]
    assert folder.run(*command, "--output_images", "y/images")[0] == 0
    assert folder.boxes("y") == {"images/a.jpg": [AT]}
    assert folder.run("check", "--images", "y")[0] == 0


@pytest.mark.parametrize("labels", ["images/.ipynb_checkpoints", "__MACOSX"])
def test_hidden_folders_are_no_data(folder, labels):
    folder.pictures("images/a.jpg", f"{labels}/a.jpg", f"{labels}/b.jpg")
    folder.write("images/a.xml", voc("a.jpg", voc_object()))
    for name in (f"{labels}/a.xml", f"{labels}/b.xml", "images/._a.xml"):
        folder.write(name, b"\0\5\26\7")
    assert folder.boxes(".", "--images", ".") == {"images/a.jpg": [AT]}
    code, text = folder.run("check", "--images", ".")
    assert code == 0 and "image-without-label" not in text


def test_size_missing_in_the_labels_is_read_from_the_picture(folder):
    folder.pictures("images/a.jpg")
    folder.write("gt.json", coco("a.jpg", width=None, height=None))
    assert folder.run("check", "--images", "images", "--labels", "gt.json")[0] == 0
    assert np.allclose(folder.boxes("gt.json", "--images", "images")["a.jpg"][0][1:], AT[1:])


def test_labels_of_two_formats_that_say_the_same_are_read_and_others_refused(folder):
    folder.pictures("images/a.jpg")
    folder.write("labels/a.txt", YOLO)
    folder.write("data.yaml", "names: [cat]")
    folder.write("gt.json", coco("images/a.jpg"))
    assert folder.run("check", "--images", ".")[0] == 0
    folder.write("gt.json", coco("images/a.jpg", {"bbox": [20, 20, 60, 70]}))
    code, text = folder.run("check", "--images", ".")
    assert code == 2 and "gt.json" in text and "--labels_format" in text
