"""The front door: exit codes, one line for the user, and in a SageMaker job the failure file."""

from __future__ import annotations

import os
import signal
import types

import pytest
from opt_ml import failure_of, make_opt_ml

from ssd_train.cli import main as door
from ssd_train.cli.train import stop_requests
from ssd_train.errors import DataError, Stopped


@pytest.fixture
def ends_with(monkeypatch):
    """`ends_with(error)` makes every command end with it."""

    def command(error):
        def run(arguments):
            raise error

        monkeypatch.setattr(door.importlib, "import_module", lambda name: types.SimpleNamespace(run=run))

    return command


@pytest.fixture
def base(tmp_path, monkeypatch):
    for name in ("SM_OUTPUT_DIR", "SM_MODEL_DIR", "SM_HPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path / "ml"))
    return make_opt_ml(tmp_path / "ml", {"base_network": "alexnet", "epochs": 0}, {})


@pytest.mark.parametrize(
    "error, code", [(DataError("a.manifest:3: found x"), 2), (Stopped("stopped after epoch 2"), 143)]
)
def test_an_error_of_ours_is_a_line_and_the_failure_file(base, ends_with, capsys, error, code):
    ends_with(error)
    assert door.main(["train"]) == code
    assert capsys.readouterr().err == f"error: {error}\n"
    assert failure_of(base) == str(error)


def test_a_crash_is_told_with_its_place_and_goes_on(base, ends_with):
    ends_with(ZeroDivisionError("a\nfault"))
    with pytest.raises(ZeroDivisionError):
        door.main(["train"])
    found = failure_of(base)
    assert found.startswith("ZeroDivisionError: a fault (test_main.py:") and found.endswith("the log has more)")


def test_nothing_is_left_where_no_job_runs(tmp_path, monkeypatch, ends_with):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("SM_MODEL_DIR", raising=False)
    ends_with(DataError("x"))
    assert door.main(["train"]) == 2 and list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_settings_and_channels_comes_in_one_message(base, capsys):
    """Hyperparameters come from the job's file where no toolkit has made flags of them."""
    assert door.main(["train", "--epochs", "1", "--no-such", "1"]) == 2
    found = failure_of(base)
    for part in ("base_network: found 'alexnet'", "no_such: unknown setting", "channels: found none"):
        assert part in found
    assert "epochs" not in found, "the flag wins"


def test_a_local_run_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("SM_MODEL_DIR", raising=False)
    assert door.main(["--optimizer", "no"]) == 2
    error = capsys.readouterr().err
    assert "train: found no --train" in error and "optimizer: found 'no'" in error


def test_a_request_to_stop_is_heard():
    before = signal.getsignal(signal.SIGTERM)
    try:
        should_stop = stop_requests()
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
    finally:
        signal.signal(signal.SIGTERM, before)
