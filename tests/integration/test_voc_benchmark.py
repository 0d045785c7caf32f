"""benchmarks.voc, the harness of Pascal VOC's table, from an unpacked devkit to a figure, on a drawn miniature."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_train.config import TrainConfig
from ssd_train.data.formats.voc import write_voc
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.structures import LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    """VOC2007 and VOC2012, some images of each listed in the sets; the second object of an image is difficult."""
    folder = tmp_path_factory.mktemp("VOCdevkit")
    for year, seed in (("VOC2007", 1), ("VOC2012", 2)):
        samples = draw_shapes_set(12, seed, (160, 128), empty_fraction=0.0)
        records = [
            LabeledImage(f"{index:06d}.jpg", s.boxes, s.class_ids, (160, 128)) for index, s in enumerate(samples)
        ]
        (folder / year).mkdir()
        write_voc(folder / year / "Annotations", records, SHAPE_CLASSES)
        images, sets = folder / year / "JPEGImages", folder / year / "ImageSets/Main"
        images.mkdir()
        sets.mkdir(parents=True)
        for record, sample in zip(records, samples):
            (images / record.name).write_bytes(encode_jpeg(sample.image))
            mark_second(folder / year / "Annotations" / f"{Path(record.name).stem}.xml")
        names = [Path(record.name).stem for record in records]
        (sets / "trainval.txt").write_text("\n".join(names[:6]) + "\n")
        (sets / "test.txt").write_text("\n".join(names[6:10]) + "\n")
    return folder


def mark_second(file: Path) -> None:
    from xml.etree import ElementTree

    tree = ElementTree.parse(file)
    for index, item in enumerate(tree.iter("object")):
        mark = item.find("difficult")
        mark = ElementTree.SubElement(item, "difficult") if mark is None else mark
        mark.text = str(int(index == 1))
    tree.write(file)


@pytest.fixture(scope="module")
def voc():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import voc
    finally:
        sys.path.remove(str(ROOT))
    return voc


def test_voc_benchmark_rows_have_the_published_settings(voc):
    """As its blog has it: "Training the Amazon SageMaker object detection model", part 2."""
    found = {}
    for row in voc.rows_of(["vgg-16", "resnet-50"], [64, 16]):
        config = TrainConfig.from_mapping(voc.settings_of(row, []))
        found[config.base_network, config.mini_batch_size] = (config.learning_rate, row.published)
        assert (config.image_shape, config.epochs, config.lr_steps) == (512, 240, (80, 160))
        assert config.lr_scheduler_factor == 0.1
        assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 0.0005)
        assert (config.warmup_epochs, config.clip_gradient, config.schedule) == (0, 0, "step")
        assert (config.auto_anchors, config.min_hard_negatives, config.nms_topk) == (False, 0, 400)
    assert found == {
        ("vgg-16", 64): (0.004, 0.780),
        ("vgg-16", 16): (0.0005, 0.780),
        ("resnet-50", 64): (0.002, 0.791),
        ("resnet-50", 16): (0.0005, 0.796),
    }


@pytest.mark.slow
def test_voc_benchmark_makes_the_table(devkit, tmp_path):
    """Two epochs of both networks would take minutes; one small network walks the same way."""
    command = [sys.executable, "-m", "benchmarks.voc", str(devkit), "--out", str(tmp_path / "runs")]
    command += ["--networks", "mobilenet0.25", "--batches", "16", "--set"]
    command += ["image_shape=128", "epochs=2", "lr_scheduler_step=1", "mini_batch_size=4", "use_pretrained_model=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), environment.get("PYTHONPATH", "")])
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["network"], row["epochs"], row["pixels"]) == ("mobilenet0.25", 2, 128)
    assert 0 <= row["VOC07 mAP"] <= 1 and 0 <= row["VOC07 mAP, difficult ones counted"] <= 1
    assert (row["batch"], row["learning rate"], row["published"]) == (4, 0.0005, None)
    saved = json.loads((tmp_path / "runs/mobilenet0.25-16/model/config.json").read_text("utf-8"))
    settings = json.dumps(saved)
    assert '"lr_scheduler_step": "1"' in settings and '"augmentation": "ssd"' in settings
