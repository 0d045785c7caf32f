"""predict: what it writes; a file for each picture as batch transform leaves them, pages and overlays beside labels."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.data import cell_of, pdf_pages, shapes_set
from helpers.models import CLASSES, change_config, talking_model
from PIL import Image

from ssd_train.cli.main import main
from ssd_train.deploy.handlers import model_fn, transform_fn


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder whose net says something; its classes are those of drawn pictures."""
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder, ("disc", "square", "triangle"))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Seventeen pictures and their labels: a full page, and one with two."""
    return shapes_set(tmp_path_factory.mktemp("drawn"), 17)


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


@pytest.mark.parametrize("accept", ["application/json", "application/json;annotation=1", "application/jsonlines"])
def test_predict_transform_output_equals_the_endpoint(model, drawn, tmp_path, accept):
    nested = tmp_path / "pictures" / "deep" / "er.v2"
    nested.mkdir(parents=True)
    files = sorted(drawn.images.iterdir())[:3]
    for index, path in enumerate(files):
        ((nested if index else nested.parents[1]) / path.name).write_bytes(path.read_bytes())
    flags = ["--model", model, "--transform_output", tmp_path / "out", "--accept", accept]
    assert predict(tmp_path / "pictures", *flags) == 0
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.out")}
    assert set(found) == {f"{files[0].name}.out", *(f"deep/er.v2/{path.name}.out" for path in files[1:])}
    endpoint = model_fn(str(model))
    for name, path in found.items():
        body = (tmp_path / "pictures" / name[: -len(".out")]).read_bytes()
        expected, _ = transform_fn(endpoint, body, "application/x-image", accept)
        assert path.read_text("utf-8") == expected and len(expected) > 500


def test_predict_transform_output_unreadable_images_are_named_and_others_written(model, drawn, tmp_path, capsys):
    for path in sorted(drawn.images.iterdir())[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert predict(tmp_path, "--model", model, "--transform_output", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert "1 of 3 images could not be read, the first: " in captured.err and "broken.png" in captured.err
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_from_and_to_s3(s3_client, model, drawn, tmp_path):
    files = sorted(drawn.images.iterdir())[:2]
    for path in files:
        s3_client.put_object(Bucket="bucket", Key=f"in/{path.name}", Body=path.read_bytes())
    assert predict("s3://bucket/in", "--model", model, "--transform_output", "s3://bucket/out") == 0
    endpoint = model_fn(str(model))
    for path in files:
        body = s3_client.get_object(Bucket="bucket", Key=f"out/{path.name}.out")["Body"].read().decode()
        assert body == transform_fn(endpoint, path.read_bytes(), "application/x-image", "application/json")[0]


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--transform_output", "out", "--pdf", "a.pdf"], "transform_output: found --output, --overlays, --pdf or"),
        (
            ["--transform_output", "out", "--accept", "text/html"],
            "Accept: found 'text/html', expected application/json",
        ),
        (["--labels", "labels.manifest"], "labels: found neither --pdf nor --overlays, expected one of them"),
    ],
    ids=["two ways", "accept", "nowhere to draw"],
)
def test_flags_that_do_not_go_together(model, drawn, tmp_path, monkeypatch, capsys, flags, expected):
    monkeypatch.chdir(tmp_path)
    assert predict(drawn.images, "--model", model, *flags) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_predict_pdf_shows_labels_and_detections(model, drawn, tmp_path):
    plain, both = tmp_path / "plain.pdf", tmp_path / "both.pdf"
    assert predict(drawn.images, "--model", model, "--pdf", plain) == 0
    assert predict(drawn.images, "--model", model, "--pdf", both, "--labels", drawn.manifest) == 0
    without, with_labels = pdf_pages(plain), pdf_pages(both)
    assert len(without) == len(with_labels) == 3  # title, 15, 2
    assert all((a != b).any() for a, b in zip(without, with_labels)), "the title page says so, too"
    last = with_labels[-1]
    for index in range(15):
        x1, y1, x2, y2 = cell_of(index)
        differs = (np.abs(last[y1:y2, x1:x2].astype(int) - without[-1][y1:y2, x1:x2]) > 100).any()
        assert differs == (index < 2), f"cell {index} of the last page"


@pytest.mark.parametrize("threshold", [0.57, 1.0])
def test_predict_logs_the_number_of_boxes(model, drawn, tmp_path, capsys, threshold):
    output = tmp_path / "a.jsonl"
    assert predict(drawn.images, "--model", model, "--output", output, "--threshold", threshold) == 0
    scores = [[row[1] for row in json.loads(line)["prediction"]] for line in output.read_text().splitlines()]
    counts = [sum(score >= threshold for score in found) for found in scores]
    said = capsys.readouterr().out.splitlines()[0]
    if threshold < 1:
        assert 0 < sum(counts) < sum(map(len, scores))
        assert said == f"boxes that score 0.57 or more: {sum(counts)}, in {sum(map(bool, counts))} of 17 images"
    else:
        best = max(map(max, scores))
        assert said == f"no box scores 1 or more; the highest score is {best:.3f} (--threshold)"


@pytest.mark.parametrize(
    "name, format, drawn_as",
    [("large.jpg", "JPEG", "large.jpg"), ("large.PNG", "PNG", "large.png"), ("large.bmp", "BMP", "large.jpg")],
)
def test_overlay_of_a_large_image_has_its_size_and_format(model, tmp_path, name, format, drawn_as):
    image = np.full((1500, 2000, 3), 90, np.uint8)  # decoded at a fraction of its size for a network of 128 px
    image[400:1100, 500:1500] = (200, 40, 40)
    Image.fromarray(image).save(tmp_path / name, format)
    output = tmp_path / "a.jsonl"
    flags = ["--overlays", tmp_path / "seen", "--output", output, "--threshold", 0.2]
    assert predict(tmp_path / name, "--model", model, *flags) == 0
    overlay = Image.open(tmp_path / "seen" / drawn_as)
    assert (overlay.size, overlay.format) == ((2000, 1500), "PNG" if format == "PNG" else "JPEG")
    rows = [row for row in json.loads(output.read_text())["prediction"] if row[1] >= 0.2]
    changed = np.abs(np.asarray(overlay).astype(int) - image).max(axis=2)
    assert rows and (changed > 60).any(), "boxes are drawn"
    if format == "PNG":
        assert (changed == 0).mean() > 0.3, "the rest is as it was"
    assert predict(tmp_path / name, "--model", model, "--output", tmp_path / "b.jsonl") == 0
    assert (tmp_path / "b.jsonl").read_bytes() == output.read_bytes(), "overlays change no prediction"


def test_overlay_of_a_large_turned_image_is_upright(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((1000, 1600, 3), 90, np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert predict(tmp_path / "turned.jpg", "--model", model, "--overlays", tmp_path / "seen") == 0
    assert Image.open(tmp_path / "seen" / "turned.jpg").size == (1000, 1600)


def test_threshold_is_the_models_own_unless_given(drawn, tmp_path, capsys):
    folder = tmp_path / "model"
    saved = talking_model(folder, ("disc", "square", "triangle"))
    stated = dataclasses.replace(saved, score_threshold=0.57)
    stated.save(tmp_path / "stated", saved.build())
    output = tmp_path / "a.jsonl"
    said = {}
    for name, place, flags in (
        ("older", folder, []),
        ("stated", tmp_path / "stated", []),
        ("given", tmp_path / "stated", ["--threshold", 0.6]),
    ):
        assert predict(drawn.images, "--model", place, "--output", output, *flags) == 0
        said[name] = capsys.readouterr().out.splitlines()
    assert said["older"][0].startswith("threshold 0.3: ") and said["older"][1].startswith("boxes that score 0.3 or")
    assert said["stated"][0].startswith("boxes that score 0.57 or more: ")
    assert said["given"][0].startswith("boxes that score 0.6 or more: ")


def test_tiles_find_more_candidates_and_are_refused_for_transform(model, drawn, tmp_path, capsys):
    image = sorted(drawn.images.iterdir())[0]
    for name, flags in (("whole", []), ("tiles", ["--tile", 64, "--tile_overlap", 0.3])):
        assert predict(image, "--model", model, "--output", tmp_path / name, *flags) == 0
    rows = {name: json.loads((tmp_path / name).read_text())["prediction"] for name in ("whole", "tiles")}
    assert len(rows["tiles"]) > len(rows["whole"]) > 0
    scores = [row[1] for row in rows["tiles"]]
    assert scores == sorted(scores, reverse=True)
    capsys.readouterr()
    assert predict(image, "--model", model, "--transform_output", tmp_path / "out", "--tile", 64) == 2
    assert predict(image, "--model", model, "--tile", 8) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [error.split(":")[1].strip() for error in errors] == ["transform_output", "tile"]


@pytest.mark.parametrize("flag", ["--overlays", "--transform_output"])
@pytest.mark.parametrize("below", ["", "folder"])
def test_predict_file_in_place_of_a_folder_is_an_error_before_the_model_is_read(drawn, tmp_path, capsys, flag, below):
    file = tmp_path / "b.txt"
    file.write_text("kept")
    assert predict(drawn.images, "--model", tmp_path / "none", flag, file / below) == 2
    assert capsys.readouterr().err == f"error: {file}: found a file, expected a folder\n"
    assert file.read_text() == "kept"


def test_predict_labels_of_other_classes_or_sizes_are_an_error(model, drawn, tmp_path, capsys):
    other = tmp_path / "other"
    talking_model(other, CLASSES)
    flags = ["--pdf", tmp_path / "a.pdf", "--labels"]
    assert predict(drawn.images, "--model", other, *flags, drawn.manifest) == 2
    assert "expected only 'cat', 'dog', 'cow'" in capsys.readouterr().err
    lines = drawn.manifest.read_text().splitlines()
    document = json.loads(lines[0])
    size = document["shapes"]["image_size"][0]
    size["width"] += 1
    wrong = tmp_path / "wrong.manifest"
    wrong.write_text("\n".join([json.dumps(document), *lines[1:]]))
    assert predict(drawn.images, "--model", model, *flags, wrong) == 2
    assert f"expected {size['width']}x{size['height']}" in capsys.readouterr().err
    assert len(pdf_pages(tmp_path / "a.pdf")) == 3, "the others are in it"


EARLIER = b"answers of an earlier run\n"


@pytest.mark.parametrize("pictures", [["broken.png"], ["broken.png", "cut.png"]])
def test_predict_only_unreadable_images_keeps_earlier_results(model, drawn, tmp_path, capsys, pictures):
    whole = sorted(drawn.images.iterdir())[0].read_bytes()
    for name in pictures:
        (tmp_path / name).write_bytes(b"no picture" if name == "broken.png" else whole[:-100])
    answers, pdf = tmp_path / "a.jsonl", tmp_path / "a.pdf"
    answers.write_bytes(EARLIER)
    pdf.write_bytes(EARLIER)
    flags = ["--model", model, "--output", answers, "--pdf", pdf]
    assert predict(*(tmp_path / name for name in pictures), *flags) == 2
    assert answers.read_bytes() == pdf.read_bytes() == EARLIER
    captured = capsys.readouterr()
    assert f"{len(pictures)} of {len(pictures)} images" in captured.err and "written" not in captured.out
    assert len(list(tmp_path.iterdir())) == len(pictures) + 2


def test_predict_failure_at_the_end_keeps_earlier_predictions(model, drawn, tmp_path):
    answers, file = tmp_path / "a.jsonl", tmp_path / "file"
    answers.write_bytes(EARLIER)
    file.write_bytes(b"")
    assert predict(drawn.images, "--model", model, "--output", answers, "--pdf", file / "a.pdf") == 1
    assert answers.read_bytes() == EARLIER and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_predict_stdout_has_predictions_only(model, drawn, tmp_path, output):
    """Through the pipe of a process, at whose other end is a program that reads JSON Lines."""
    expected = tmp_path / "a.jsonl"
    assert predict(drawn.images, "--model", model, "--output", expected) == 0
    command = [sys.executable, "-m", "ssd_train", "predict", str(drawn.images), "--model", str(model)]
    found = subprocess.run([*command, "--output", output], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected.read_bytes()
    assert b"written: /dev/stdout" in found.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_predict_two_outputs_to_standard_output_are_refused(model, drawn, capsys):
    assert predict(drawn.images, "--model", model, "--output", "-", "--pdf", "-") == 2
    assert "pdf: found standard output for --output, too" in capsys.readouterr().err


def test_predict_whose_reader_leaves_ends_as_other_programs_do(model, drawn):
    """As before `| head -c 1`: there is more to write than a pipe holds."""
    program = "import sys; from ssd_train.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "predict", str(drawn.images), "--model", str(model), "--output", "-"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(120) == 141 and b"Traceback" not in error


@pytest.mark.parametrize("format", ["jsonl", "coco", "out"])
def test_evaluate_scores_every_predict_format_equally(model, drawn, tmp_path, format):
    place = tmp_path / f"answers.{format}"
    assert predict(drawn.images, "--model", model, "--format", format, "--output", place) == 0
    common = ["evaluate", "--labels", str(drawn.manifest), "--images", str(drawn.images)]
    assert main([*common, "--predictions", str(place), "--json", str(tmp_path / "file.json")]) == 0
    assert main([*common, "--model", str(model), "--json", str(tmp_path / "model.json")]) == 0
    scores = [json.loads((tmp_path / name).read_text()) for name in ("file.json", "model.json")]
    assert scores[0]["mAP"] == pytest.approx(scores[1]["mAP"], abs=1e-4) and scores[0]["images"] == 17


@pytest.mark.parametrize("output", ["-", "s3://bucket/out"])
def test_format_out_needs_a_local_folder(model, drawn, output):
    assert predict(drawn.images, "--model", model, "--format", "out", "--output", output) == 2


def test_predict_coco_ids_are_those_of_the_labels_or_none(model, drawn, tmp_path, capsys):
    """A file of COCO labels in any spelling of .json. An image or class that it lacks gets no id of another one."""
    names = sorted(path.name for path in drawn.images.iterdir())
    document = {
        "images": [{"id": 1, "file_name": names[0], "width": 160, "height": 120}],
        "annotations": [],
        "categories": [{"id": 2, "name": "disc"}],
    }
    labels = tmp_path / "truth.JSON"
    labels.write_text(json.dumps(document))
    flags = ["--model", model, "--format", "coco", "--output", tmp_path / "a.json", "--labels", labels]
    assert predict(drawn.images, *flags) == 0
    results = json.loads((tmp_path / "a.json").read_text())
    found = {(row["image_id"], row["category_id"], row["file_name"], row["category_name"]) for row in results}
    assert found == {(1, 2, names[0], "disc")}
    assert re.search(r"^warning: \S*a.json: [1-9]\d* detections are left out", capsys.readouterr().out, re.MULTILINE)


def test_predict_coco_without_labels_has_the_category_ids_of_the_training_data(model, drawn, tmp_path):
    trained = shutil.copytree(model, tmp_path / "model")
    change_config(trained, category_ids={"disc": 18, "square": 44, "triangle": 90})
    assert predict(drawn.images, "--model", trained, "--format", "coco", "--output", tmp_path / "a.json") == 0
    found = {(row["category_id"], row["category_name"]) for row in json.loads((tmp_path / "a.json").read_text())}
    assert found and found <= {(18, "disc"), (44, "square"), (90, "triangle")}


def test_predict_coco_with_a_manifest_called_json_derives_its_ids(model, drawn, tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_bytes(drawn.manifest.read_bytes())
    flags = ["--model", model, "--format", "coco", "--output", tmp_path / "a.json", "--labels", labels]
    assert predict(drawn.images, *flags) == 0
    results = json.loads((tmp_path / "a.json").read_text())
    assert {row["category_id"] for row in results} <= {1, 2, 3} and len({row["image_id"] for row in results}) == 17


def test_predict_transform_output_nothing_readable_logs_no_written(model, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert predict(tmp_path / "broken.png", "--model", model, "--transform_output", tmp_path / "out") == 2
    assert "written" not in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--transform_output", "out", "--format", "csv"],
        ["--transform_output", "out", "--threshold", "0.5"],
        ["--accept", "application/jsonlines"],
    ],
    ids=["format", "threshold", "accept"],
)
def test_predict_flags_without_effect_are_refused(drawn, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    assert predict(drawn.images, "--model", "none", *flags) == 2
    assert not list(tmp_path.iterdir())
