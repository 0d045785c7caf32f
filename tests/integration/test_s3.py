"""The commands on s3:// paths, against a real server of the S3 API on loopback."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.data import SMALL, flags_of, shapes_set
from helpers.models import talking_model

from ssd_train.cli.main import main
from ssd_train.data.synthetic import SHAPE_CLASSES

TRAINING = flags_of({**SMALL, "epochs": 1})


@pytest.fixture
def run(s3_client, capsys):
    """`run(command, ...)` on the command line; its exit code, and what it said."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return shapes_set(tmp_path_factory.mktemp("drawn"), 12, size_wh=(128, 96))


@pytest.fixture
def on_s3(s3_client, drawn):
    """The same images and labels at s3://bucket/images/ and s3://bucket/labels/train.manifest."""
    for image in drawn.images.iterdir():
        s3_client.upload_file(str(image), "bucket", f"images/{image.name}")
    s3_client.upload_file(str(drawn.manifest), "bucket", "labels/train.manifest")
    return s3_client


def keys(client, prefix=""):
    answer = client.list_objects_v2(Bucket="bucket", Prefix=prefix)
    return {item["Key"] for item in answer.get("Contents", ())}


def read(client, key):
    return client.get_object(Bucket="bucket", Key=key)["Body"].read()


@pytest.mark.integration
def test_s3_train_evaluate_and_predict_equal_local_files(run, on_s3, drawn, tmp_path):
    data = ["--train", "s3://bucket/images", "--labels", "s3://bucket/labels/train.manifest"]
    results = ["--model_dir", "s3://bucket/job/model", "--output_dir", "s3://bucket/job/output/"]

    trained = run("train", *data, *results, *TRAINING)
    assert trained.code == 0, trained.err
    assert "saved in s3://bucket/job/model" in trained.out
    assert "report: s3://bucket/job/output/report.html" in trained.out
    assert "uploaded: s3://bucket/job/model/" in trained.out
    assert {"job/model/config.json", "job/output/report.html"} <= keys(on_s3, "job/")

    labels = ["--labels", data[3], "--images", "s3://bucket/images/"]
    on_s3_scores = run("evaluate", "--model", "s3://bucket/job/model", *labels, "--json", "s3://bucket/job/scores.json")
    assert on_s3_scores.code == 0, on_s3_scores.err
    for key in keys(on_s3, "job/model/"):
        (tmp_path / "model").mkdir(exist_ok=True)
        on_s3.download_file("bucket", key, str(tmp_path / "model" / key.rpartition("/")[2]))
    here = ["--labels", drawn.manifest, "--images", drawn.images, "--json", tmp_path / "scores.json"]
    local = run("evaluate", "--model", tmp_path / "model", *here)
    assert local.code == 0, local.err
    assert json.loads(read(on_s3, "job/scores.json")) == json.loads((tmp_path / "scores.json").read_text())

    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "model", arcname=".")
    on_s3.upload_file(str(tmp_path / "model.tar.gz"), "bucket", "job/output/model.tar.gz")
    answers = run("predict", "s3://bucket/images", "--model", tmp_path / "model", "--output", tmp_path / "a.jsonl")
    archived = run(
        *["predict", "s3://bucket/images", "--model", "s3://bucket/job/output/model.tar.gz"],
        *["--output", "s3://bucket/a.jsonl", "--overlays", "s3://bucket/overlays"],
    )
    assert (answers.code, archived.code) == (0, 0), archived.err
    assert read(on_s3, "a.jsonl") == (tmp_path / "a.jsonl").read_bytes()
    assert len(keys(on_s3, "overlays/")) == 12

    more = run("train", *data, "--model_dir", tmp_path / "more", "--output_dir", tmp_path / "out", *TRAINING,
               "--pretrained", "s3://bucket/job/output/model.tar.gz")  # fmt: skip
    assert more.code == 0, more.err
    assert "job/output/model.tar.gz" in more.out and (tmp_path / "more" / "config.json").is_file()


def test_train_with_missing_weights_fails_before_images_are_copied(run, on_s3, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("SSD_TRAIN_CACHE", str(cache))
    data = ["--train", "s3://bucket/images", "--labels", "s3://bucket/labels/train.manifest"]
    failed = run(
        "train", *data, "--pretrained", "s3://bucket/none.params", "--model_dir", tmp_path / "model", *TRAINING
    )
    assert failed.code == 2 and "s3://bucket/none.params" in failed.err
    assert list(cache.rglob("*.png")) == []


def test_s3_fetch_images_fetches_the_missing_ones(run, on_s3, drawn, tmp_path):
    (tmp_path / "images").mkdir()
    lines = [json.loads(line) for line in drawn.manifest.read_text().splitlines()]
    for number, line in enumerate(lines):
        name = line["source-ref"].rpartition("/")[2]
        line["source-ref"] = f"s3://bucket/images/{name}"
        if number % 2:
            shutil.copy(drawn.images / name, tmp_path / "images")
    (tmp_path / "labels.manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))
    check = ["check", "--images", tmp_path / "images", "--labels", tmp_path / "labels.manifest"]

    without = run(*check)
    fetched = run(*check, "--fetch_images", 1)
    on_s3.delete_object(Bucket="bucket", Key=lines[0]["source-ref"].partition("bucket/")[2])
    gone = run(*check, "--fetch_images", "1")

    assert without.code == 2 and "--fetch_images 1 gets it from S3" in without.out
    assert fetched.code == 0, fetched.out
    assert "6 images are missing in their folder" in fetched.out
    assert gone.code == 2 and f"image {lines[0]['source-ref']}: there is no such object" in gone.out
    assert f"{tmp_path / 'labels.manifest'}:1" in gone.out


def test_s3_results_are_uploaded_after_unreadable_images(run, on_s3):
    on_s3.put_object(Bucket="bucket", Key="images/broken.png", Body=b"no picture")
    done = run("prepare", "grayscale", "--images", "s3://bucket/images", "--output", "s3://bucket/gray")
    assert done.code == 2 and done.err.startswith("error: 1 of 13 ")
    assert len(keys(on_s3, "gray/")) == 12 and "uploaded: s3://bucket/gray/ (12 files)" in done.out


def test_s3_failed_upload_keeps_the_results(run, on_s3, monkeypatch):
    """The bucket is deleted while the command runs."""
    from ssd_train.cli import prepare as step

    def split(*arguments):
        for key in keys(on_s3):
            on_s3.delete_object(Bucket="bucket", Key=key)
        on_s3.delete_bucket(Bucket="bucket")
        return real(*arguments)

    real = step.split
    monkeypatch.setattr(step, "split", split)
    done = run("prepare", "split", "s3://bucket/labels/train.manifest", "--output", "s3://bucket/parts")
    assert done.code == 2 and "s3://bucket/parts/" in done.err and "there is no such bucket" in done.err
    folder = done.err.rpartition("the results are kept in ")[2].strip()
    assert len(list(Path(folder).glob("*.manifest"))) == 2


REFUSED = {
    "no bucket to read": (["--train", "s3://none/images"], "error: s3://none/images: there is no such bucket"),
    "nothing to read": (["--train", "s3://bucket/none"], "error: s3://bucket/none/: "),
    "no bucket to write": (["--model_dir", "s3://none/model"], "error: s3://none/model/: there is no such bucket"),
    "nowhere to write": (["--model_dir", "s3://bucket"], "error: found 's3://bucket', expected s3://bucket/key"),
    "checkpoints": (["--checkpoint_dir", "s3://bucket/c"], "error: found s3://bucket/c, expected a local folder"),
    "another store": (["--train", "gs://bucket/images"], "error: gs://bucket/images: is on gs://, expected"),
    "setting": (["--epochs", "none"], "error: epochs: found 'none'"),
}


@pytest.mark.parametrize("flags, message", REFUSED.values(), ids=REFUSED.keys())
def test_s3_invalid_urls_are_one_line_before_training(run, on_s3, flags, message):
    given = {"--train": "s3://bucket/images", "--labels": "s3://bucket/labels/train.manifest"}
    given.update(zip(flags[::2], flags[1::2]))
    done = run("train", *[part for pair in given.items() for part in pair], *TRAINING[:2])
    assert done.code == 2 and done.err.startswith(message) and done.err.count("\n") == 1
    assert "files to download" not in done.out


@pytest.mark.integration
@pytest.mark.slow
def test_train_into_the_model_of_another_run_on_s3_is_refused(run, on_s3, tmp_path):
    other = shapes_set(tmp_path / "other", 12, seed=5, size_wh=(128, 96))
    data = ["--train", "s3://bucket/images", "--labels", "s3://bucket/labels/train.manifest"]
    results = ["--model_dir", "s3://bucket/mine/model", "--output_dir", "s3://bucket/mine/output"]
    assert run("train", *data, *results, *TRAINING).code == 0
    before = {key: read(on_s3, key) for key in keys(on_s3, "mine/")}
    refused = run("train", "--train", other.images, "--labels", other.manifest, *results, *TRAINING)
    assert refused.code == 2 and refused.err.startswith("error: s3://bucket/mine/model: "), refused.err
    assert {key: read(on_s3, key) for key in keys(on_s3, "mine/")} == before and "uploaded" not in refused.out
    assert run("train", *data, *results, *TRAINING).code == 2, "the same run again, without checkpoints"
    replaced = run("train", "--train", other.images, "--labels", other.manifest, *results, *TRAINING, "--overwrite")
    assert replaced.code == 0, replaced.err
    assert read(on_s3, "mine/model/config.json") != before["mine/model/config.json"]
    assert read(on_s3, "mine/output/report.html") != before["mine/output/report.html"]


def test_s3_label_names_images_by_their_addresses(run, on_s3, tmp_path):
    talking_model(tmp_path / "model", SHAPE_CLASSES)
    flags = ["--model", tmp_path / "model", "--output", "s3://bucket/labels/next", "--threshold", 0]
    folder = run("label", "--images", "s3://bucket/images/", *flags)
    assert folder.code == 0, folder.err
    lines = [json.loads(line) for line in read(on_s3, "labels/next/pre-labels.manifest").splitlines()]
    assert {line["source-ref"] for line in lines} == {f"s3://bucket/{key}" for key in keys(on_s3, "images/")}
    assert {"labels/next/unlabelled.manifest", "labels/next/label-categories.json"} <= keys(on_s3, "labels/next/")
    key = sorted(keys(on_s3, "images/"))[0]
    refused = run("label", "--images", f"s3://bucket/{key}", *flags)
    assert refused.code == 2 and "pre-labels.manifest" in refused.err
    one = run("label", "--images", f"s3://bucket/{key}", *flags, "--overwrite")
    assert one.code == 0, one.err
    (line,) = [json.loads(line) for line in read(on_s3, "labels/next/pre-labels.manifest").splitlines()]
    assert line["source-ref"] == f"s3://bucket/{key}"
