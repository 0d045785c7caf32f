"""Keys and passwords appear nowhere: not in what is printed, nor in errors, crashes and the failure file."""

import json
import os
import socket
import subprocess
import sys
import types

import pytest
from helpers.data import shapes_set

from ssd_train.cli.arguments import LogProgress
from ssd_train.cli.main import main
from ssd_train.errors import SsdTrainError
from ssd_train.redaction import redact
from ssd_train.training.distributed.heartbeat import Heartbeat

# put together here so that nobody takes them for real ones
KEY_ID, SECRET, SESSION = "AKIA" + "EXAMPLE0EXAMPLE0", "not/a/real+key" * 3, "session-" + "x" * 300


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token")
    monkeypatch.setenv("SHORT_PASSWORD", "epoch")


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"id {KEY_ID}, {SECRET} and {SESSION}.", "id ***, *** and ***."),
        ("AKIA" + "0123456789ABCDEF is not of the environment", "*** is not of the environment"),
        ("https://me:pa55@host/x cannot be reached", "https://***@host/x cannot be reached"),
        ("s3://bucket/a@b.jpg", "s3://bucket/a@b.jpg"),
        (
            "https://b.s3.amazonaws.com/a.jpg?X-Amz-Credential=AK%2F1&X-Amz-Date=1&X-Amz-Signature=abc",
            "https://b.s3.amazonaws.com/a.jpg?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("http://h/?a=1&token=abc 'x'", "http://h/?a=1&token=*** 'x'"),
        ("/var/run/secrets/token in epoch 3", "/var/run/secrets/token in epoch 3"),
    ],
    ids=["environment", "any-key-id", "password", "an-at-sign", "signed", "token", "no-secrets"],
)
def test_hidden_redacts_secrets_only(keys, text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize("error", [SsdTrainError(f"failed with {SECRET}"), RuntimeError(f"crashed with {SECRET}")])
def test_main_errors_and_failure_file_are_redacted(keys, monkeypatch, tmp_path, capsys, error):
    def run(arguments):
        LogProgress().info(f"begun with {SECRET}")
        LogProgress().warning(f"going on with {KEY_ID}")
        raise error

    module = types.ModuleType("ssd_train.cli.train")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    monkeypatch.setenv("SM_OUTPUT_DIR", str(tmp_path))
    assert main(["train"]) == 1
    printed = capsys.readouterr()
    told = printed.out + printed.err + (tmp_path / "failure").read_text()
    assert "begun with ***" in told and "with ***" in (tmp_path / "failure").read_text()
    assert SECRET not in told and KEY_ID not in told


def test_watchdog_message_to_other_hosts_is_redacted(keys, monkeypatch):
    monkeypatch.setattr(
        "ssd_train.training.distributed.heartbeat.end_process", lambda message, code: None
    )  # the last resort, later
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Heartbeat({"algo-2": ours}, "algo-1", 30).notify_failure(f"no answer to {SECRET}", 1)
        assert json.loads(theirs.recv(65536)) == {"failed": "no answer to ***", "code": 1}


def test_check_output_is_redacted(keys, tmp_path, capsys):
    """A manifest whose images are named by signed addresses."""
    images, manifest = shapes_set(tmp_path / "drawn", 3)
    signed = "https://b.s3.amazonaws.com/a.png?X-Amz-Credential=" + KEY_ID + "%2Fs3&X-Amz-Signature=0123abcd"
    manifest.write_text(manifest.read_text().replace('"source-ref":"', f'"source-ref":"{signed}'))
    assert signed in manifest.read_text()
    for path in images.iterdir():
        path.rename(path.with_name(f"other-{path.name}"))
    assert main(["check", "--images", str(images), "--labels", str(manifest), "--json", str(tmp_path / "c.json")]) == 2
    told = capsys.readouterr()
    for text in (told.out, told.err, (tmp_path / "c.json").read_text()):
        assert "0123abcd" not in text and KEY_ID not in text
    assert json.loads((tmp_path / "c.json").read_text())["findings"]


def test_end_process_message_is_redacted(keys, tmp_path):
    """It ends by os._exit, past all that prints and reports otherwise."""
    program = "import sys; from ssd_train.training.distributed.heartbeat import end_process; end_process(sys.argv[1])"
    variables = {**os.environ, "SM_MODEL_DIR": str(tmp_path), "SM_OUTPUT_DIR": str(tmp_path)}
    told = f"host algo-2 failed: no answer to {SECRET}"
    found = subprocess.run([sys.executable, "-c", program, told], env=variables, stderr=subprocess.PIPE, check=False)
    assert found.returncode == 1 and found.stderr == b"error: host algo-2 failed: no answer to ***\n"
    assert (tmp_path / "failure").read_text() == "host algo-2 failed: no answer to ***"
