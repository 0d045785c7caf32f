"""prepare, as a user calls it: every step, its words and its exit code."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from helpers import manifests
from helpers.data import shapes_set, write_files

from ssd_train.cli.main import main
from ssd_train.cli.prepare import STEPS
from ssd_train.data.image_io import encode_jpeg, encode_png, read_header


@pytest.fixture
def prepare(capsys, tmp_path, monkeypatch):
    """Runs `prepare ...` in an empty folder; returns the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["prepare", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


def job(folder, lines):
    """The output folder of a labelling job."""
    return manifests.write(folder / "manifests/output/output.manifest", lines)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("keep {job} --output {manifest} --source_regex a", id="keep"),
        pytest.param("drop {manifest} --output {manifest} --source_regex b", id="drop"),
        pytest.param("relabel {manifest} --output ./{manifest} --drop dog", id="relabel"),
        pytest.param("join {manifest} --output {manifest}", id="join"),
        pytest.param("split {manifest} --output job/manifests/output --names output other", id="split"),
        pytest.param("augment augmented.manifest --output . --annotations_only", id="augment"),
        pytest.param("convert --labels {job} --to ground_truth --output {manifest}", id="convert"),
        pytest.param("manifest {manifest} --output link", id="manifest, by a link"),
    ],
)
def test_prepare_steps_refuse_to_overwrite_their_input(prepare, tmp_path, arguments):
    path = job(tmp_path / "job", [manifests.line("a"), manifests.line("b")])
    (tmp_path / "augmented.manifest").write_bytes(path.read_bytes())
    (tmp_path / "link").symlink_to(path)
    before = path.read_bytes()
    given = arguments.format(job="job", manifest="job/manifests/output/output.manifest").split()
    code, _, err = prepare(*given)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert path.read_bytes() == before == (tmp_path / "augmented.manifest").read_bytes()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("join {manifest}", id="join"),
        pytest.param("keep {manifest} --source_regex .", id="keep"),
        pytest.param("relabel {manifest} --rename cat=tiger", id="relabel"),
        pytest.param("convert --labels {manifest} --to coco", id="convert"),
    ],
)
def test_step_to_standard_output_writes_the_file_and_nothing_else(tmp_path, monkeypatch, capfd, step):
    monkeypatch.chdir(tmp_path)
    path = job(tmp_path / "job", [manifests.line("a"), manifests.line("b")])
    arguments = ["prepare", *step.format(manifest=path).split(), "--output"]
    assert main([*arguments, "file.json"]) == 0
    said = capfd.readouterr().out
    assert main([*arguments, "-"]) == 0
    captured = capfd.readouterr()
    assert captured.out == (tmp_path / "file.json").read_text("utf-8")
    assert captured.err == said.replace("file.json", "/dev/stdout")


@pytest.mark.parametrize(
    "output, images, code",
    [
        pytest.param("yolo", "yolo/images", 0, id="beside-the-labels"),
        pytest.param("yolo/labels", "yolo/images", 2, id="beside-the-output"),
        pytest.param("yolo", "pictures", 2, id="elsewhere"),
        pytest.param("s3://b/yolo", "s3://b/pictures", 2, id="elsewhere-on-s3"),
    ],
)
def test_convert_to_yolo_writes_images_only_where_data_yaml_names_them(
    prepare, tmp_path, monkeypatch, output, images, code
):
    monkeypatch.chdir(tmp_path)
    path = job(tmp_path / "job", [manifests.line("a")])
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "a.jpg").write_bytes(encode_jpeg(np.zeros((24, 32, 3), np.uint8)))
    arguments = ["prepare", "convert", "--labels", str(path), "--images", "given", "--to", "yolo", "--output", output]
    assert main([*arguments, "--output_images", images]) == code
    assert (tmp_path / "yolo" / "images" / "a.jpg").exists() == (code == 0)
    assert (tmp_path / "yolo" / "data.yaml").exists() == (code == 0)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_help(prepare, capsys, step):
    with pytest.raises(SystemExit) as ended:
        prepare(step, "--help")

    assert ended.value.code == 0
    assert f"python -m ssd_train prepare {step} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, expected",
    [
        pytest.param(["juggle"], "found 'juggle', expected one of manifest,", id="unknown-step"),
        pytest.param(["join"], "MANIFEST", id="nothing-to-join"),
        pytest.param(["keep", "a", "--output", "o"], "no condition", id="no-condition"),
        pytest.param(
            ["keep", "a", "--output", "o", "--where", "k"], "--where: found 'k', expected KEY=VALUE", id="pair"
        ),
        pytest.param(["drop", "a", "--output", "o", "--min_confidence", "1"], "--min_confidence", id="drop-boxes"),
        pytest.param(
            ["split", "a", "--output", "o", "--names", "../x", "y"], "without a folder", id="name-with-folder"
        ),
        pytest.param(["augment", "a", "--output", "o"], "either --images FOLDER or --annotations_only", id="neither"),
        pytest.param(["sheet", "a", "--images", ".", "--output", "o.gif"], "output: found", id="sheet"),
        pytest.param(["frames", "a", "--output", "o", "--format", "gif"], "--format", id="format"),
        pytest.param(["join", "a", "--output", "o", "--on_duplicate", "x"], "--on_duplicate", id="on-duplicate"),
        pytest.param(["relabel", "a", "--output", "o", "--when_empty", "x"], "--when_empty", id="relabel-when-empty"),
        pytest.param(["keep", "a", "--output", "o", "--when_empty", "x"], "--when_empty", id="keep-when-empty"),
    ],
)
def test_prepare_wrong_arguments_are_errors(prepare, tmp_path, arguments, expected):
    manifests.write(tmp_path / "a", [manifests.line("1.jpg")])

    code, _, err = prepare(*arguments)

    assert code == 2 and err.startswith("error: ") and expected in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_join_takes_the_folders_of_jobs(prepare, tmp_path):
    job(tmp_path / "one", [manifests.line("1.jpg")])
    job(tmp_path / "two", [manifests.line("2.jpg"), manifests.line("1.jpg")])

    code, out, _ = prepare("join", "one", "two", "--output", "o", "--on-duplicate", "keep-first")

    assert code == 0 and manifests.sources(tmp_path / "o") == ["1.jpg", "2.jpg"]
    assert out.splitlines() == [
        "1 lines read: one/manifests/output/output.manifest",
        "2 lines read: two/manifests/output/output.manifest",
        "warning: 1 duplicate images: keep-first",
        "2 lines written: o",
    ]


def test_split_over_an_earlier_split_is_refused_without_overwrite(prepare, tmp_path):
    manifests.write(tmp_path / "a", [manifests.line(f"{i}.jpg") for i in range(20)])
    manifests.write(tmp_path / "b", [manifests.line(f"{i}.png") for i in range(20)])
    assert prepare("split", "a", "--output", "s")[0] == 0
    before = (tmp_path / "s" / "train.manifest").read_bytes()
    code, _, error = prepare("split", "b", "--output", "s")
    assert code == 2 and "s/train.manifest" in error and error.count("\n") == 1
    assert (tmp_path / "s" / "train.manifest").read_bytes() == before
    assert prepare("split", "b", "--output", "s", "--overwrite")[0] == 0
    assert (tmp_path / "s" / "train.manifest").read_bytes() != before


@pytest.mark.parametrize(
    "group, counted, groups, names",
    [(r"(\d)\d\.jpg", "bracket", 2, 20), (r"v\d\d", "whole match", 20, 20), (r"(v0)\d", "bracket", 1, 10)],
)
def test_prepare_split_by_groups_logs_their_number(prepare, tmp_path, group, counted, groups, names):
    manifests.write(tmp_path / "a", [manifests.line(f"v{i:02d}.jpg") for i in range(20)])

    code, out, _ = prepare("split", "a", "--fractions", "0.5", "--output", "s", "--group", group)

    assert code == 0
    line = out.splitlines()[0]
    assert line.startswith("group: ") and counted in line
    assert [int(number) for number in re.findall(r"\d+", line)] == [groups, names, 20]


def test_augment_then_sheet(prepare, tmp_path):
    drawn = shapes_set(tmp_path / "set", 6)

    code, out, _ = prepare("augment", drawn.manifest, "--images", drawn.images, "--output", "aug")
    assert code == 0
    assert out.splitlines() == ["6 images written: aug/images", "30 lines written: aug/augmented.manifest"]

    code, out, _ = prepare(
        "sheet", "aug/augmented.manifest", "--images", "aug/images", "--output", "s.jpg", "--count", "8"
    )
    header = read_header((tmp_path / "s.jpg").read_bytes(), "s.jpg")
    assert (code, out) == (0, "8 of 30 images: s.jpg\n")
    assert (header.format, header.width, header.height) == ("JPEG", 4 * 360, 2 * 300)


def test_prepare_augment_missing_images_write_no_manifest(prepare, tmp_path):
    drawn = shapes_set(tmp_path / "set", 3)
    next(drawn.images.iterdir()).unlink()

    code, _, err = prepare("augment", drawn.manifest, "--images", drawn.images, "--output", "aug")

    assert code == 2 and err.startswith("error: 1 of 3 ")
    assert not (tmp_path / "aug/augmented.manifest").exists()


def test_frames_then_manifest(prepare, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "blue_box_1.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for _ in range(7):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()

    code, out, _ = prepare("frames", "blue_box_1.avi", "--every", "3", "--output", "frames")
    assert (code, out) == (0, "blue_box_1.avi: 7 frames, 3 written: frames\n")

    regex = "(?P<color>[a-z]+)_"
    code, out, _ = prepare("manifest", "frames", "--prefix", "s3://b/f", "--name_regex", regex, "--output", "m")
    assert (code, out) == (0, "3 lines written: m\n")
    assert manifests.read(tmp_path / "m")[1] == {"source-ref": "s3://b/f/blue_box_1_000003.jpg", "color": "blue"}


def test_sheet_of_yolo_labels_beside_the_images_folder(prepare, tmp_path):
    files = {"labels/a.txt": "0 .5 .5 .4 .4\n", "pictures/a.png": encode_png(np.zeros((40, 60, 3), np.uint8))}
    write_files(tmp_path, files)
    code, out, _ = prepare("sheet", "labels", "--images", "pictures", "--output", "s.png")
    assert (code, out) == (0, "1 of 1 images: s.png\n")


def test_split_the_last_part_has_the_rest(prepare, tmp_path):
    manifests.write(tmp_path / "a", [manifests.line(f"{index}.jpg") for index in range(10)])
    code, out, _ = prepare("split", "a", "--fractions", "0.7", "0.2", "--output", "s")
    assert code == 0 and [int(line.split()[0]) for line in out.splitlines()] == [7, 2, 1]


def test_prepare_sheet_names_bad_images(prepare, tmp_path):
    drawn = shapes_set(tmp_path / "set", 3)
    bad = sorted(drawn.images.iterdir())[1]
    bad.write_bytes(b"x")

    code, out, err = prepare("sheet", drawn.manifest, "--images", drawn.images, "--output", "s.png")

    assert code == 2 and bad.name in err and "2 of 3 images: s.png" in out
