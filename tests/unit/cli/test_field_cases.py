"""Data as people have it, through the commands: what public reports of labelling tools and trainers show, rebuilt."""

from __future__ import annotations

import json

import pytest
from helpers.data import picture

from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_jpeg, encode_png

BOX = [20, 20, 100, 90]  # of a picture of 200 x 160
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


def test_coco_is_found_among_other_json(folder):
    folder.pictures("images/a.jpg")
    for index in range(30):
        folder.write(f"a{index:02}.json", {"info": {}, "categories": []})
    folder.write("gt.json", {"licenses": [], "info": {"year": 2024, "note": "x" * 70_000}, **coco()})
    assert list(folder.boxes(".", "--images", "images")) == ["a.jpg"]


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


@pytest.mark.parametrize(
    "names", [("Person", "person"), ("traffic light", "Traffic_Light"), ("caf\u00e9", "CAFE\u0301")]
)
def test_class_names_that_differ_in_case_or_blanks_are_named_in_a_line(folder, names):
    for stem, name in zip("ab", names):
        folder.pictures(f"images/{stem}.jpg")
        folder.write(f"voc/{stem}.xml", voc(f"{stem}.jpg", voc_object(name)))
    code, text = folder.run("check", "--images", "images", "--labels", "voc")
    assert code == 0 and any(all(repr(name) in line for name in names) for line in text.splitlines())


def test_labels_of_two_formats_that_say_the_same_are_read_and_others_refused(folder):
    folder.pictures("images/a.jpg")
    folder.write("labels/a.txt", YOLO)
    folder.write("data.yaml", "names: [cat]")
    folder.write("gt.json", coco("images/a.jpg"))
    assert folder.run("check", "--images", ".")[0] == 0
    folder.write("gt.json", coco("images/a.jpg", {"bbox": [20, 20, 60, 70]}))
    code, text = folder.run("check", "--images", ".")
    assert code == 2 and "gt.json" in text and "--labels_format" in text
