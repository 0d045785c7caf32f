"""Bad input and faults of training, and our answers: a line that says where, an exit code, nothing dead on disk."""

from __future__ import annotations

import json
import os
import re
import signal

import numpy as np
import pytest
from helpers.data import HeardProgress, small_config
from helpers.jobs import assert_nothing_dead, command, refused

from ssd_train import mxnet_compat
from ssd_train.cli.arguments import LogProgress
from ssd_train.cli.main import main
from ssd_train.cli.train import train
from ssd_train.devices import explain_out_of_memory
from ssd_train.environment import Environment
from ssd_train.errors import SsdTrainError, TrainingDiverged
from ssd_train.model.net import build_net

mx = mxnet_compat.mxnet()

pytestmark = pytest.mark.integration


def weights_file(path, change):
    """The weights of an untrained net, changed."""
    mx = mxnet_compat.mxnet()
    net = build_net("mobilenet0.25", 128, ["disc", "square", "triangle"])
    arrays = {name: p.data() for name, p in net._collect_params_with_prefix().items() if "anchors" not in name}
    change(arrays)
    mx.nd.save(str(path), arrays)
    return path


def test_train_weights_with_nan_are_refused_before_the_first_step(data, tmp_path, capsys):
    def poison(arrays):
        arrays["box_predictors.0.predictor.bias"][0] = np.nan

    path = weights_file(tmp_path / "w.params", poison)
    expected = r".*w.params: found NaN or infinity in box_predictors.0.predictor.bias, expected finite weights"
    refused(capsys, command(data, tmp_path, pretrained=path), expected)
    assert not (tmp_path / "model").exists()


def test_train_nonfinite_loss_names_the_lines_of_the_batch(data, tmp_path, capsys):
    """Weights that are finite, and so large that nothing computed with them is."""

    def swell(arrays):
        for level in range(4):
            arrays[f"box_predictors.{level}.predictor.weight"][:] = 1e38

    path = weights_file(tmp_path / "w.params", swell)
    pattern = r"epoch 1: found loss (nan|inf) with gradient norm .*, expected finite numbers; learning rate .*; "
    lines = r"the batch came from \S*output.manifest:\d+, "
    refused(capsys, command(data, tmp_path, pretrained=path), pattern + lines, code=1)
    assert not list(tmp_path.rglob("weights-*")) and not (tmp_path / "output" / "report.html").exists()


def test_train_rate_much_too_high_keeps_finite_weights(data, tmp_path, capsys):
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


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"mini_batch_size": 50}, id="a-batch-larger-than-the-data"),
        pytest.param({"mini_batch_size": 1, "optimizer": "sgd", "momentum": 0}, id="a-batch-of-one-without-state"),
        pytest.param({"devices": "cpu:1,cpu:2,cpu:3", "mini_batch_size": 2}, id="more-devices-than-images-in-a-batch"),
        pytest.param({"post_nms": 100000, "nms_topk": 100000, "nms_threshold": 1}, id="more-boxes-than-there-are"),
        pytest.param(
            {"preset_defaults": "builtin", "base_network": "mobilenet0.25"}, id="the-builtin-algorithms-defaults"
        ),
        pytest.param(
            {"freeze_layer_pattern": "^features", "warmup_epochs": 5, "validation_interval": 7},
            id="heads-only-for-less-than-the-warm-up",
        ),
    ],
)
def test_train_odd_settings_complete(data, tmp_path, capsys, settings):
    assert main(command(data, tmp_path, **settings)) == 0
    said = capsys.readouterr().out
    assert ("mini_batch_size: found 50, the data has 12 images" in said) == (settings.get("mini_batch_size") == 50)
    assert (tmp_path / "output" / "report.html").exists()
    assert_nothing_dead(tmp_path)


def test_train_divergence_keeps_the_model_before_it(data, tmp_path):
    """The message says so."""
    training, validation = data

    class Swelling(HeardProgress):
        """Makes the net's weights huge after the first epoch."""

        def info(self, text):
            super().info(text)
            if text.startswith("epoch 1/"):
                parameter = self.net._collect_params_with_prefix()["box_predictors.0.predictor.weight"]
                parameter.set_data(mxnet_compat.mxnet().nd.full(parameter.shape, 1e38))

    from ssd_train.training import setup as jobs
    from ssd_train.training import trainer as runs

    progress = Swelling()
    environment = Environment(*training, *validation, tmp_path / "model", tmp_path / "output", tmp_path / "checkpoints")
    real = jobs.build_setup

    def build_setup(*arguments):
        job = real(*arguments)
        progress.net = job.net
        return job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build_setup", build_setup)
        with pytest.raises(
            TrainingDiverged, match=r"epoch 2: found .*; the model of epoch 1 is kept; try a lower --learning_rate"
        ):
            train(small_config(epochs=4), environment, progress)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["epoch"] == 0
    assert_nothing_dead(tmp_path / "model")


@pytest.mark.parametrize("place", ["model_dir", "output_dir", "checkpoint_dir"])
def test_train_unwritable_folder_is_an_error_before_the_first_step(data, tmp_path, capsys, place):
    (tmp_path / "file").write_text("in the way")
    arguments = command(data, tmp_path, **{place: tmp_path / "file"})
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert re.match(f"error: {re.escape(str(tmp_path / 'file'))}", told.err) and told.err.count("\n") == 1
    assert "epoch" not in told.out


def test_out_of_memory_names_the_settings_to_lower():
    with pytest.raises(SsdTrainError, match="out of memory with mini_batch_size 4 at image_shape 128: lower one"):
        with explain_out_of_memory(small_config()):
            mx.nd.zeros((1 << 40,)).wait_to_read()
    with pytest.raises(mx.MXNetError, match="[Ss]hape"):  # any other error is left as it is
        with explain_out_of_memory(small_config()):
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
def test_out_of_memory_each_message_is_recognized(text):
    """What MXNet says on a GPU (of its source; no GPU was at hand), and others."""
    with pytest.raises(SsdTrainError, match="^out of memory with mini_batch_size 4 at image_shape 128: lower one"):
        with explain_out_of_memory(small_config()):
            raise mx.MXNetError(text)


@pytest.mark.parametrize("old_model", [False, True])
def test_train_ctrl_c_before_the_first_score_keeps_or_leaves_a_model(data, tmp_path, capsys, old_model):
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
        patch.setattr("ssd_train.cli.arguments.LogProgress", Interrupting)
        again = ["--overwrite"] if old_model else []
        assert main([*command(data, tmp_path, checkpoint_dir=None), *again]) == 130
    assert "stopped on request" in capsys.readouterr().err
    after = sorted((tmp_path / "model").glob("*"))
    assert after == before if old_model else any(file.suffix == ".params" for file in after)
