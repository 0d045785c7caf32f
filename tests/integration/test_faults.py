"""Bad input and faults of training, and our answers: a line that says where, an exit code, nothing dead on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from builders import HeardProgress, shapes_set, small_config
from runs import flags

from ssd_train import framework
from ssd_train.cli.console import LogProgress
from ssd_train.cli.main import main
from ssd_train.environment import Environment
from ssd_train.errors import DataError, SsdTrainError, TrainingDiverged
from ssd_train.model.net import build_net
from ssd_train.training.devices import memory_advice
from ssd_train.training.run import train

mx = framework.mxnet()

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 12, seed=1), shapes_set(folder / "validation", 4, seed=2)


def command(data, folder, **settings):
    return ["train", *flags(data, folder, **{"epochs": 1, **settings})]


def lines_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def written(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def annotations(line):
    return line["shapes"]["annotations"]


def refused(capsys, arguments, pattern, code=2):
    """The command ends with `code` and one line of error that matches; nothing else."""
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert re.match(f"error: {pattern}", error), error
    assert error.count("\n") == 1 and "Traceback" not in error


def assert_nothing_dead(folder):
    mx = framework.mxnet()
    files = list(folder.rglob("*.params"))
    for file in files:
        for name, array in mx.nd.load(str(file)).items():
            assert np.isfinite(array.asnumpy()).all(), (file, name)
    for file in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        assert not re.search(r"\bNaN\b|\bInfinity\b", file.read_text()), file
    return files


# ---------------------------------------------------------------- what is not finite


def weights_file(path, change):
    """The weights of an untrained net, changed."""
    mx = framework.mxnet()
    net = build_net("mobilenet0.25", 128, ["disc", "square", "triangle"])
    arrays = {name: p.data() for name, p in net._collect_params_with_prefix().items() if "anchors" not in name}
    change(arrays)
    mx.nd.save(str(path), arrays)
    return path


def test_weights_of_nan_are_refused_before_the_first_step(data, tmp_path, capsys):
    def poison(arrays):
        arrays["box_predictors.0.predictor.bias"][0] = np.nan

    path = weights_file(tmp_path / "w.params", poison)
    expected = r".*w.params: found NaN or infinity in box_predictors.0.predictor.bias, expected finite weights"
    refused(capsys, command(data, tmp_path, pretrained=path), expected)
    assert not (tmp_path / "model").exists()


def test_a_loss_that_is_not_finite_names_its_lines(data, tmp_path, capsys):
    """Weights that are finite, and so large that nothing computed with them is."""

    def swell(arrays):
        for level in range(4):
            arrays[f"box_predictors.{level}.predictor.weight"][:] = 1e38

    path = weights_file(tmp_path / "w.params", swell)
    pattern = r"epoch 1: found loss (nan|inf) with gradient norm .*, expected finite numbers; learning rate .*; "
    lines = r"the batch came from \S*output.manifest:\d+, "
    refused(capsys, command(data, tmp_path, pretrained=path), pattern + lines, code=1)
    assert not list(tmp_path.rglob("weights-*")) and not (tmp_path / "output" / "report.html").exists()


def test_a_rate_much_too_high_ends_with_what_was_good(data, tmp_path, capsys):
    """Many steps of one image at the highest rate there is: sooner or later nothing is finite any more."""
    settings = {
        "optimizer": "sgd",
        "learning_rate": 1,
        "clip_gradient": 0,
        "warmup_epochs": 0,
        "mini_batch_size": 1,
        "lr_schedule": "constant",
        "augmentation": "none",
        "epochs": 100,
    }
    refused(capsys, command(data, tmp_path, **settings), r"epoch \d+: found .*, expected finite", code=1)
    for file in assert_nothing_dead(tmp_path):
        assert "weights-" in file.name or file.name in ("last.params", "optimizer.params")


# ---------------------------------------------------------------- images


def without(data, folder, name):
    """The training set without the image of line 3, in a folder of its own."""
    training, validation = data
    images = folder / "images"
    images.mkdir()
    for file in training.images.iterdir():
        if file.name != name:
            (images / file.name).write_bytes(file.read_bytes())
    return training._replace(images=images), validation


def name_of(manifest, number):
    return lines_of(manifest)[number - 1]["source-ref"].rsplit("/", 1)[-1]


def test_an_image_that_is_missing_at_the_start(data, tmp_path, capsys):
    name = name_of(data[0].manifest, 3)
    refused(
        capsys, command(without(data, tmp_path, name), tmp_path), rf".*output.manifest:3: image .*{name}.* not found"
    )


@pytest.mark.parametrize(
    "spoil, expected",
    [
        pytest.param(lambda path: path.unlink(), "image .* not found", id="gone"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:400]), "cut off", id="cut-off"),
        pytest.param(lambda path: path.write_bytes(b""), "found .*, expected an image", id="emptied"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_goes_bad_during_the_run(data, tmp_path, workers, spoil, expected):
    name = name_of(data[0].manifest, 5)
    training, validation = without(data, tmp_path, "none")

    class Spoiling(HeardProgress):
        def say(self, text):
            super().say(text)
            if text.startswith("epoch 1/"):
                spoil(training.images / name)

    environment = Environment(*training, *validation, tmp_path / "model", tmp_path / "output")
    config = small_config(epochs=5, cache_images=0, num_workers=workers)
    with pytest.raises(DataError, match=f"output.manifest:5: .*{expected}"):
        train(config, environment, Spoiling())
    assert_nothing_dead(tmp_path / "model")
    assert (tmp_path / "model" / "config.json").exists(), "the model of the first epoch"


@pytest.mark.parametrize("side", ["train", "validation"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_goes_bad_is_left_out_where_bad_data_is_skipped(data, tmp_path, side, workers):
    """Told once, named, and the run comes to its end."""
    (training, validation), files = data, {}
    for name, drawn in (("train", training), ("validation", validation)):
        files[name] = shutil.copytree(drawn.images, tmp_path / name)
    index, manifest = ("train", "validation").index(side), data[("train", "validation").index(side)].manifest
    victim = files[side] / name_of(manifest, 3)

    class Spoiling(HeardProgress):
        def say(self, text):
            super().say(text)
            if text.startswith("epoch 1/"):
                victim.write_bytes(victim.read_bytes()[:300])

    progress = Spoiling()
    sides = [files["train"], training.manifest, files["validation"], validation.manifest]
    environment = Environment(*sides, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=3, cache_images=0, num_workers=workers, on_bad_data="skip"), environment, progress)
    ending = ("another takes its place", "scores are without it")[index]
    told = [warning for warning in progress.warnings if warning.startswith("left out")]
    assert len(told) == 1 and "output.manifest:3: " in told[0] and told[0].endswith(ending), told
    assert (tmp_path / "output" / "report.html").exists()


def test_a_folder_that_vanishes_during_the_run_is_an_error_although_bad_data_is_skipped(data, tmp_path):
    training, validation = data
    images = shutil.copytree(training.images, tmp_path / "images")

    class Removing(HeardProgress):
        def say(self, text):
            super().say(text)
            if text.startswith("epoch 1/"):
                shutil.rmtree(images)

    environment = Environment(images, training.manifest, *validation, tmp_path / "model", tmp_path / "output")
    with pytest.raises(DataError, match="of 12 images cannot be used any more, expected most of them"):
        train(small_config(epochs=3, cache_images=0, on_bad_data="skip"), environment, Removing())
    assert_nothing_dead(tmp_path / "model")


# ---------------------------------------------------------------- labels


def test_images_without_objects_are_trained_on(data, tmp_path):
    """Batches of nothing else have a loss, and it falls."""
    training, validation = data
    lines = lines_of(training.manifest)
    for line in lines[1:]:
        annotations(line).clear()
    manifest = written(tmp_path / "t.manifest", lines)
    environment = Environment(training.images, manifest, *validation, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=3, mini_batch_size=1), environment)
    rows = [json.loads(line) for line in (tmp_path / "model" / "history.jsonl").read_text().splitlines()]
    assert all(0 < row["CrossEntropy"] < 1e4 for row in rows) and rows[-1]["CrossEntropy"] < rows[0]["CrossEntropy"]


@pytest.mark.parametrize(
    "side, change, expected",
    [
        pytest.param(
            0,
            lambda lines: [annotations(line).clear() or line for line in lines],
            ".*t.manifest: found no box among the training images",
            id="no-box-to-train-on",
        ),
        pytest.param(
            1,
            lambda lines: [annotations(line).clear() or line for line in lines],
            r".*v.manifest: found no ",
            id="no-box-to-score-with",
        ),
        pytest.param(
            0,
            lambda lines: [retyped(line, "groundtruth/image-classification") for line in lines],
            ".*",
            id="another-kind-of-job",
        ),
        pytest.param(0, lambda lines: [], ".*", id="an-empty-manifest"),
        pytest.param(
            0,
            lambda lines: lines[:4] + [with_box(lines[4], left="10")] + lines[5:],
            r".*t.manifest:5: .*left: found '10'",
            id="a-string-for-a-number",
        ),
        pytest.param(
            0,
            lambda lines: lines[:4] + [with_box(lines[4], width=0)] + lines[5:],
            r".*t.manifest:5: ",
            id="a-box-without-width",
        ),
        pytest.param(
            0,
            lambda lines: lines[:4] + [with_box(lines[4], class_id=7)] + lines[5:],
            r".*t.manifest:5: .*class_id: found 7",
            id="an-unknown-class",
        ),
        pytest.param(
            1,
            lambda lines: [renamed(line, "disc", "emu") for line in lines],
            r".*v.manifest.*'emu'.*expected only 'disc', 'square', 'triangle'",
            id="a-class-only-in-validation",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_told(data, tmp_path, capsys, side, change, expected):
    manifest = written(tmp_path / f"{'tv'[side]}.manifest", change(lines_of(data[side].manifest)))
    sides = list(data)
    sides[side] = sides[side]._replace(manifest=manifest)
    refused(capsys, command(sides, tmp_path), expected)
    assert not (tmp_path / "model").exists()


def retyped(line, kind):
    line["shapes-metadata"]["type"] = kind
    return line


def with_box(line, **parts):
    annotations(line).append({"class_id": 0, "left": 10, "top": 10, "width": 30, "height": 30, **parts})
    return line


def renamed(line, old, new):
    return json.loads(json.dumps(line).replace(f'"{old}"', f'"{new}"'))


def test_a_class_without_boxes_in_training_is_warned_of(data, tmp_path):
    training, validation = data
    lines = lines_of(training.manifest)
    for line in lines:
        names = line["shapes-metadata"]["class-map"]
        kept = [a for a in annotations(line) if names[str(a["class_id"])] != "disc"]
        line["shapes"]["annotations"] = kept
        line["shapes-metadata"]["objects"] = [{"confidence": 0.5}] * len(kept)
        line["shapes-metadata"]["class-map"] = {"0": "disc", "1": "square", "2": "triangle"}
    manifest = written(tmp_path / "t.manifest", lines)
    progress = HeardProgress()
    environment = Environment(training.images, manifest, *validation, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=1), environment, progress)
    assert "class 'disc' has boxes in validation and none in training, so it cannot be learned" in progress.warnings


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"num_classes": 2}, r"num_classes: found 2, expected 3: .* has 'disc', 'square', 'triangle'"),
        ({"epochs": 0, "optimizer": "lamb"}, "epochs: found '0', .*; optimizer: found 'lamb'|optimizer: .*; epochs: "),
        ({"batch_size": 3}, "batch_size: unknown setting, did you mean mini_batch_size"),
        ({"devices": "tpu"}, "devices: found 'tpu'"),
        ({"pretrained": "nowhere.params"}, "pretrained: nowhere.params not found"),
        (
            {"freeze_layer_pattern": "xyzzy"},
            "freeze_layer_pattern: found 'xyzzy' that matches no parameter, .*features",
        ),
        ({"freeze_layer_pattern": "."}, "freeze_layer_pattern: found '.' that matches every parameter"),
        ({"label_attribute": "boxes"}, ".*boxes.*shapes"),
        ({"train": "nowhere"}, "nowhere: found nothing, expected a folder of images"),
        ({"labels": "nowhere"}, "nowhere: not found"),
        ({"validation_labels": "nowhere"}, "nowhere: not found"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_told_before_the_first_step(data, tmp_path, capsys, settings, expected):
    refused(capsys, command(data, tmp_path, **settings), expected)
    assert not (tmp_path / "model").exists()


# ---------------------------------------------------------------- small and odd sets


def small_set(data, folder, count):
    training, validation = data
    lines = lines_of(training.manifest)[:count]
    for line in lines:
        line["shapes-metadata"]["class-map"] = {"0": "disc", "1": "square", "2": "triangle"}
    manifest = written(folder / "t.manifest", lines)
    return training._replace(manifest=manifest), validation


def test_one_image_can_be_trained_on_and_not_split(data, tmp_path, capsys):
    one = small_set(data, tmp_path, 1)
    assert main(command(one, tmp_path, mini_batch_size=8)) == 0
    arguments = command(one, tmp_path / "alone", validation=None, validation_labels=None)
    capsys.readouterr()
    refused(capsys, arguments, ".*found 1 images that are all the same or of one group, expected at least two")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"mini_batch_size": 50}, id="a-batch-larger-than-the-data"),
        pytest.param({"mini_batch_size": 1}, id="a-batch-of-one"),
        pytest.param({"devices": "cpu:2", "mini_batch_size": 5}, id="two-devices-and-an-odd-batch"),
        pytest.param({"devices": "cpu:3", "mini_batch_size": 2}, id="more-devices-than-images-in-a-batch"),
        pytest.param({"post_nms": 100000, "nms_topk": 100000, "nms_threshold": 1}, id="more-boxes-than-there-are"),
        pytest.param({"defaults": "builtin", "base_network": "mobilenet0.25"}, id="the-builtin-algorithms-defaults"),
        pytest.param({"freeze_layer_pattern": "^features"}, id="heads-only"),
        pytest.param({"warmup_epochs": 5, "validation_interval": 7}, id="less-than-the-warm-up"),
        pytest.param({"optimizer": "sgd", "momentum": 0}, id="an-optimizer-without-state"),
    ],
)
def test_odd_settings_train(data, tmp_path, settings):
    assert main(command(data, tmp_path, **settings)) == 0
    assert (tmp_path / "output" / "report.html").exists()
    assert_nothing_dead(tmp_path)


def test_more_objects_in_an_image_than_boxes_are_let_out(data, tmp_path):
    training, validation = data
    lines = lines_of(training.manifest)
    for index in range(130):
        with_box(lines[0], left=index % 13 * 10, top=index // 13 * 9, width=9, height=8)
    lines[0]["shapes-metadata"]["class-map"]["0"] = "disc"
    lines[0]["shapes-metadata"]["objects"] = [{"confidence": 0.5}] * len(annotations(lines[0]))
    manifest = written(tmp_path / "t.manifest", lines)
    environment = Environment(training.images, manifest, *validation, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=1), environment)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["post_nms"] == len(annotations(lines[0]))


def test_divergence_keeps_the_model_before_it(data, tmp_path):
    """The message says so."""
    training, validation = data

    class Swelling(HeardProgress):
        """Makes the net's weights huge after the first epoch."""

        def say(self, text):
            super().say(text)
            if text.startswith("epoch 1/"):
                parameter = self.net._collect_params_with_prefix()["box_predictors.0.predictor.weight"]
                parameter.set_data(framework.mxnet().nd.full(parameter.shape, 1e38))

    from ssd_train.training import job as jobs
    from ssd_train.training import run as runs

    progress = Swelling()
    environment = Environment(*training, *validation, tmp_path / "model", tmp_path / "output", tmp_path / "checkpoints")
    real = jobs.prepare

    def prepare(*arguments):
        job = real(*arguments)
        progress.net = job.net
        return job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "prepare", prepare)
        with pytest.raises(
            TrainingDiverged, match=r"epoch 2: found .*; the model of epoch 1 is kept; try a lower --learning_rate"
        ):
            train(small_config(epochs=4), environment, progress)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["epoch"] == 0
    assert_nothing_dead(tmp_path / "model")


def test_the_same_images_on_both_sides_are_refused(data, tmp_path, capsys):
    training, _ = data
    arguments = command((training, training), tmp_path)
    refused(capsys, arguments, r"12 errors in the data: .*output\.manifest:1: .*same-image-in-train-and-validation")


def test_errors_of_both_sides_are_told_together(data, tmp_path, capsys):
    for name, side in zip(("train", "validation"), data):
        shutil.copytree(side.images, tmp_path / name)
        next((tmp_path / name).iterdir()).unlink()
    broken = [side._replace(images=tmp_path / name) for name, side in zip(("train", "validation"), data)]
    refused(capsys, command(broken, tmp_path), "2 errors in the data: ")


@pytest.mark.parametrize("place", ["model_dir", "output_dir", "checkpoint_dir"])
def test_a_place_that_cannot_be_written_is_told_before_the_first_step(data, tmp_path, capsys, place):
    (tmp_path / "file").write_text("in the way")
    arguments = command(data, tmp_path, **{place: tmp_path / "file"})
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert re.match(f"error: {re.escape(str(tmp_path / 'file'))}", told.err) and told.err.count("\n") == 1
    assert "epoch" not in told.out


def test_a_batch_larger_than_the_data_is_made_smaller(data, tmp_path, capsys):
    assert main(command(data, tmp_path, mini_batch_size=100000000000)) == 0
    assert "mini_batch_size: found 100000000000, the data has 12 images: all are used" in capsys.readouterr().out


def test_too_little_memory_says_what_to_lower():
    with pytest.raises(SsdTrainError, match="out of memory with mini_batch_size 4 at image_shape 128: lower one"):
        with memory_advice(small_config()):
            mx.nd.zeros((1 << 40,)).wait_to_read()
    with pytest.raises(mx.MXNetError, match="[Ss]hape"):  # any other error is left as it is
        with memory_advice(small_config()):
            mx.nd.dot(mx.nd.zeros((2, 3)), mx.nd.zeros((2, 3))).wait_to_read()


@pytest.mark.parametrize(
    "text",
    [
        "[10:00:00] ../src/storage/./pooled_storage_manager.h:187: cudaMalloc retry failed: out of memory",
        "Check failed: e == cudaSuccess || e == cudaErrorCudartUnloading: CUDA: out of memory",
        "OpenCV(4.11.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 1769472 bytes",
        "MXNetError: Check failed: ret == 0 (12 vs. 0) : AlignedMallocPitch failed",
    ],
    ids=["gpu-pool", "gpu", "opencv", "operator"],
)
def test_each_way_to_say_out_of_memory_is_known(text):
    """What MXNet says on a GPU (of its source; no GPU was at hand), and others."""
    with pytest.raises(SsdTrainError, match="^out of memory with mini_batch_size 4 at image_shape 128: lower one"):
        with memory_advice(small_config()):
            raise mx.MXNetError(text)


@pytest.mark.parametrize("old_model", [False, True])
def test_ctrl_c_before_anything_is_scored(data, tmp_path, capsys, old_model):
    if old_model:
        assert main(command(data, tmp_path, checkpoint_dir=None)) == 0
    before = sorted((tmp_path / "model").glob("*")) if old_model else []

    class Interrupting(LogProgress):
        def track(self, items, total, what):
            for number, item in enumerate(items):
                if what.startswith("epoch") and number == 0:
                    os.kill(os.getpid(), signal.SIGINT)
                yield item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd_train.cli.console.LogProgress", Interrupting)
        assert main(command(data, tmp_path, checkpoint_dir=None)) == 130
    assert "stopped on request" in capsys.readouterr().err
    after = sorted((tmp_path / "model").glob("*"))
    assert after == before if old_model else any(file.suffix == ".params" for file in after)
