"""Every command of README and docs runs, on drawn data that has the names of the documents and with short trainings."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.data import picture, shapes_set
from helpers.models import talking_model

from ssd_train import mxnet_compat
from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.synthetic import SHAPE_CLASSES

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
PREFIX = "python -m ssd_train "
# what other tests run: with AWS's stack or a store, as a server, on an artifact of the built-in algorithm
ELSEWHERE = {
    "serve --model model --port 8080": "integration/serving/test_light_server.py",
    "predict s3://bucket/images": "integration/test_s3.py",
    "convert --model model.tar.gz": "integration/test_builtin_models.py",
    "train --images IMAGES --labels output.manifest --base_network vgg-16": "integration/test_builtin_incremental.py",
    "predict IMAGES --model converted": "integration/test_builtin_models.py",
    "export --model converted": "integration/test_builtin_models.py",
}
# placeholders in capitals that stand for several things
PLACEHOLDERS = {
    "--labels PATH --to FORMAT --output PATH": "--labels output.manifest --images IMAGES --to coco --output coco.json",
    "check --images FOLDER --labels FILE": "check --images IMAGES --labels output.manifest",
    "BUCKET": "bucket",
    "LABELS": "output.manifest",
    "--role SageMakerRole": "--role arn:aws:iam::123456789012:role/SageMakerRole",  # its name would be asked of AWS
}


def blocks():
    """Yield the document and the commands of each code block that has some."""
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, block in enumerate(re.findall(r"```\w*\n(.*?)```", document.read_text("utf-8"), re.DOTALL)):
            lines = [line.strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]
            commands = [line[len(PREFIX) :].partition(" #")[0] for line in lines if line.startswith(PREFIX)]
            if commands:
                yield pytest.param(commands, id=f"{document.relative_to(ROOT)}-{number}")


def runnable(command):
    """Return the arguments of a documented command for the drawn data; a training becomes short, a job a dry run."""
    for text, drawn in PLACEHOLDERS.items():
        command = command.replace(text, drawn)
    if command.startswith("launch"):
        return shlex.split(command.replace(" --wait", "") + " --dry_run --region eu-west-1")
    if command.startswith(("train", "--train", "audit")) and " --model " not in command:
        command = (
            re.sub(r"--(epochs|image_shape|mini_batch_size|base_network) \S+", "", command)
            + " --epochs 1 --image_shape 128 --mini_batch_size 4"
        )
        if "--pretrained" not in command:
            command += " --use_pretrained_model 0 --base_network mobilenet0.25"
    return shlex.split(command)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with everything that the documents name."""
    folder = tmp_path_factory.mktemp("world")
    drawn = shapes_set(folder / "drawn", 18)
    drawn.images.rename(folder / "IMAGES")
    shutil.copytree(folder / "IMAGES", folder / "more_images")
    lines = drawn.manifest.read_text().splitlines()
    parts = {"output": lines[:12], "test": lines[:12], "validation": lines[12:]}
    for name, part in parts.items():
        (folder / f"{name}.manifest").write_text("\n".join(part) + "\n")
    for number, part in enumerate((lines[:6], lines[6:12]), start=1):
        job = folder / f"job{number}" / "manifests" / "output"
        job.mkdir(parents=True)
        text = "\n".join(part).replace('"shapes', '"boxes') + "\n"
        (job / "output.manifest").write_text(re.sub(r'"confidence": ?[\d.]+', '"confidence": 0.9', text))
    (folder / "picture.jpg").write_bytes(encode_jpeg(picture((128, 128))))
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (128, 96))
    for index in range(12):
        video.write(np.full((96, 128, 3), index * 20, np.uint8))
    video.release()
    talking_model(folder / "model", SHAPE_CLASSES)
    mx = mxnet_compat.mxnet()
    backbone = mxnet_compat.gluoncv().model_zoo.get_model("mobilenet1.0", pretrained=False)
    backbone.initialize(mx.init.Xavier())
    backbone(mx.nd.zeros((1, 3, 128, 128)))
    backbone.save_parameters(str(folder / "mobilenet1.0.params"))
    convert(folder, "voc", "FOLDER")
    for image in (folder / "IMAGES").iterdir():
        shutil.copy(image, folder / "FOLDER" / "images")
    convert(folder, "recordio", "data.rec")
    convert(folder, "recordio", "held_out.rec", "validation.manifest", "more_images")
    convert(folder, "image_json", "train_annotation")
    convert(folder, "image_json", "validation_annotation", "validation.manifest", "more_images")
    for split, labels in (("train", "output.manifest"), ("valid", "validation.manifest")):
        shutil.copytree(folder / "IMAGES", folder / "EXPORT" / split / "images")
        convert(folder, "coco", f"EXPORT/{split}/_annotations.coco.json", labels)
    shutil.copytree(folder / "IMAGES", folder / "train")
    shutil.copytree(folder / "more_images", folder / "validation")
    assert (
        main(["export", "--model", str(folder / "model"), "--format", "onnx", "--output", str(folder / "m.onnx")]) == 0
    )
    (folder / "m.onnx").rename(folder / "model.onnx")
    return folder


def convert(folder, format, output, labels="output.manifest", images="IMAGES"):
    places = {"--labels": labels, "--images": images, "--output": output}
    flags = [part for flag, name in places.items() for part in (flag, str(folder / name))]
    assert main(["prepare", "convert", "--to", format, *flags]) == 0


@pytest.mark.parametrize("commands", blocks())
def test_documented_commands_run_in_order(world, tmp_path, monkeypatch, capsys, commands):
    here = tmp_path / "here"
    shutil.copytree(world, here)
    monkeypatch.chdir(here)
    for command in commands:
        if command.startswith(("train ", "--train")):
            shutil.rmtree(here / "model")
            shutil.rmtree(here / "output", ignore_errors=True)
        if command.startswith("export") and "model.onnx" in command:
            (here / "model.onnx").unlink()
        if command.startswith(tuple(ELSEWHERE)):
            continue
        code = main(runnable(command))
        assert code == 0, (command, capsys.readouterr().err)


def test_commands_left_to_other_tests_are_documented_and_tested_there():
    commands = [command for block in blocks() for command in block.values[0]]
    assert len(commands) > 25
    for command, test in ELSEWHERE.items():
        assert any(documented.startswith(command) for documented in commands), command
        assert (ROOT / "tests" / test).is_file()
