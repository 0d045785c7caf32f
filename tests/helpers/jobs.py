"""Training runs in processes of their own, on a simulated /opt/ml, and on several hosts of this machine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Type

import numpy as np
import pytest
from helpers.data import SMALL, DrawnSet, flags_of

import ssd_train
from ssd_train import mxnet_compat
from ssd_train.cli.main import main
from ssd_train.storage.atomic import finished_dirs, verify_checksums

SOURCE = Path(__file__).resolve().parents[2] / "src"
# a checkpoint after each step and each epoch, so that most moments are moments of saving
SAVING = {"epochs": 2, "mini_batch_size": 4, "checkpoint_minutes": 0.0001, "optimizer": "sgd"}
LONGEST = 120  # seconds that the smallest run may take on a busy machine; a run that hangs fails its test


def flags(data: "Sequence[DrawnSet]", folder: Path, **settings: Any) -> List[str]:
    """The flags of the smallest run on (training, validation) that keeps checkpoints, all of it below `folder`; without
    those whose setting is None."""
    training, validation = data
    places = {
        "train": training.images,
        "labels": training.manifest,
        "validation": validation.images,
        "validation_labels": validation.manifest,
        "model_dir": folder / "model",
        "output_dir": folder / "output",
        "checkpoint_dir": folder / "checkpoints",
    }
    return flags_of({**places, **SMALL, **settings})


def start(arguments: Sequence[str], before: Sequence[str] = (), **environ: str) -> "subprocess.Popen[str]":
    """`python -m ssd_train` as the leader of a session, whose sums are in one order; `before` are words in front of
    the command, such as those of strace."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "ssd_train", *arguments],
        env={**os.environ, **own, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]", seconds: float = LONGEST) -> str:
    """What a run printed, which comes to its end within `seconds`, and leaves no process behind."""
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"no end within {seconds} s:\n{process.communicate()[0]}")
    assert members(process.pid) == [], "processes are left"
    return printed


def finish(arguments: Sequence[str], **environ: str) -> str:
    """Let a run come to its end; what it printed."""
    process = start(arguments, **environ)
    printed = ended(process)
    assert process.returncode == 0, printed
    return printed


def run_here(arguments: Sequence[str]) -> str:
    """Run a command in this process, which has loaded MXNet already; return what it printed.

    For a run that ends by itself and whose environment does not matter.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(arguments)
    assert code == 0, printed.getvalue()
    return printed.getvalue()


def kill_after(arguments: Sequence[str], pattern: str, delay: float = 0.0) -> str:
    """Start a run and kill it `delay` seconds after a line that matches; what it printed until then."""
    process = start(arguments)
    printed = told(process, pattern)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return printed


def told(process: "subprocess.Popen[str]", pattern: str) -> str:
    """What a run prints up to a line that matches."""
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        printed.append(line)
        if re.search(pattern, line):
            return "".join(printed)
    pytest.fail("".join(printed))


def members(session: int) -> List[int]:
    """Processes of a session that are still there, but for those that have ended and were not asked for it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def last_weights(checkpoints: Path) -> Path:
    """Return the file of the weights after the last step, in the newest checkpoint."""
    return finished_dirs(checkpoints / "state")[0] / "last.params"


def outcome(folder: Path, checkpoints: Optional[Path] = None) -> Any:
    """What a run leaves, without what tells of the clock: arrays of the last and the best weights, scores, history.

    Its model is in `folder`, its checkpoints are in `checkpoints`, by default in `folder`, too.
    """
    from ssd_train import mxnet_compat

    mx = mxnet_compat.mxnet()
    config = json.loads((folder / "model" / "config.json").read_text())
    rows = [json.loads(line) for line in (folder / "model" / "history.jsonl").read_text().splitlines()]
    clock = ("images_per_second", "seconds", "data_seconds")
    arrays = {}
    best = folder / "model" / config["weights"]["file"]
    for kind, file in (("last", last_weights(checkpoints or folder / "checkpoints")), ("best", best)):
        arrays.update({f"{kind} {name}": array.asnumpy() for name, array in mx.nd.load(str(file)).items()})
    history = [{name: value for name, value in row.items() if name not in clock} for row in rows]
    return (
        arrays,
        {"epoch": config["epoch"], "scores": config["scores"], "sha256": config["weights"]["sha256"]},
        history,
    )


def assert_same(found: Any, expected: Any) -> None:
    """Two outcomes are equal bit for bit."""
    assert found[2] == expected[2], "history"
    assert found[0].keys() == expected[0].keys()
    assert [name for name, array in expected[0].items() if not np.array_equal(array, found[0][name])] == []
    assert found[1] == expected[1]


def assert_loads_as_what_it_is(folder: Path, class_names: Optional[Sequence[str]] = None) -> None:
    """After a kill at any moment: there is no model, or a whole one; and what looks like a finished state is one."""
    from ssd_train.artifacts.saved_model import SavedModel

    if (folder / "model" / "config.json").exists():
        model = SavedModel.load(folder / "model")
        assert class_names is None or list(model.class_names) == list(class_names)
        model.build()
    for state in finished_dirs(folder / "checkpoints" / "state"):
        verify_checksums(state)


def command(data, folder, **settings):
    """The arguments of the smallest run, of one epoch unless told otherwise."""
    return ["train", *flags(data, folder, **{"epochs": 1, **settings})]


def lines_of(manifest):
    """A manifest's lines."""
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def written(path, lines):
    """The manifest of `lines`."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def annotations(line):
    """A line's boxes."""
    return line["shapes"]["annotations"]


def refused(capsys, arguments, pattern, code=2):
    """The command ends with `code` and one line of error that matches; nothing else."""
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert re.match(f"error: {pattern}", error), error
    assert error.count("\n") == 1 and "Traceback" not in error


def assert_nothing_dead(folder):
    """No array below `folder` has a number that is not finite, and no file of JSON says so; the files of arrays."""
    mx = mxnet_compat.mxnet()
    files = list(folder.rglob("*.params"))
    for file in files:
        for name, array in mx.nd.load(str(file)).items():
            assert np.isfinite(array.asnumpy()).all(), (file, name)
    for file in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        assert not re.search(r"\bNaN\b|\bInfinity\b", file.read_text()), file
    return files


def with_box(line, **parts):
    """The line with one more box, of which `parts` are given."""
    annotations(line).append({"class_id": 0, "left": 10, "top": 10, "width": 30, "height": 30, **parts})
    return line


CONTAINER = {"sagemaker_program": "train.py", "sagemaker_region": "eu-west-1", "sagemaker_job_name": "a-job"}


def make_opt_ml(
    base: Path,
    hyperparameters: Mapping[str, Any],
    channels: Mapping[str, Path],
    hosts: Sequence[str] = ("localhost",),
    pipes: Sequence[str] = (),
) -> Path:
    """`base` as SageMaker leaves /opt/ml: each of `channels` a link to its folder, `hyperparameters` as the SDK sends
    them, each value a JSON document in a text. The channels called in `pipes` are described, but nothing is there."""
    for folder in ("input/config", "input/data", "model", "output/data", "checkpoints"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, place in channels.items():
        if name not in pipes:
            (base / "input" / "data" / name).symlink_to(place.resolve())
    modes = {name: "Pipe" if name in pipes else "File" for name in [*channels, *pipes]}
    describe(base, "inputdataconfig", {name: _channel(mode) for name, mode in modes.items()})
    describe(base, "hyperparameters", {name: json.dumps(value) for name, value in hyperparameters.items()})
    hosted = {"current_host": hosts[0], "hosts": list(hosts), "network_interface_name": "lo"}
    describe(base, "resourceconfig", {**hosted, "current_instance_type": "ml.c5.xlarge"})
    return base


def describe(base: Path, name: str, document: Any) -> None:
    """Write one of the files that describe the job."""
    (base / "input" / "config" / f"{name}.json").write_text(json.dumps(document))


def job_environment(base: Path, **more: str) -> Dict[str, str]:
    """The variables of this process for a job in `base`, without those of another."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "SAGEMAKER", "DMLC_", "PYTHONPATH"))}
    return {**kept, "SAGEMAKER_BASE_DIR": str(base), **more}


def failure_of(base: Path) -> str:
    """What SageMaker would show as the reason of the failure."""
    return (base / "output" / "failure").read_text("utf-8")


def _channel(mode: str) -> Dict[str, str]:
    wrapper = "RecordIO" if mode == "Pipe" else "None"
    return {"TrainingInputMode": mode, "S3DistributionType": "FullyReplicated", "RecordWrapperType": wrapper}


HOSTS = ("127.0.0.1", "127.0.0.2")  # as in together.py
PATHS = f"{Path(ssd_train.__file__).resolve().parents[1]}{os.pathsep}{Path(__file__).resolve().parents[1]}"


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def plain_environment(**more: str) -> Dict[str, str]:
    """The variables of this process, without those of a job."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "SAGEMAKER", "DMLC_", "HOROVOD_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, **more}


# MXNet becomes a scheduler or server within its import, which needs our module where NumPy is 1.24 or newer.
LOAD_MXNET = "from ssd_train import mxnet_compat; mxnet_compat.mxnet()"


class ParameterServer:
    """A scheduler and a server for each of `hosts`, as the estimator's toolkit starts them; killed at the end of the
    block, with the workers, where they have not left by themselves."""

    def __init__(self, hosts: Sequence[str] = HOSTS) -> None:
        self.variables = {
            "DMLC_NUM_WORKER": str(len(hosts)),
            "DMLC_NUM_SERVER": str(len(hosts)),
            "DMLC_PS_ROOT_URI": "127.0.0.1",
            "DMLC_PS_ROOT_PORT": str(free_port()),
            "DMLC_INTERFACE": "lo",
        }
        self.port = free_port()
        self.roles = ["scheduler"] + ["server"] * len(hosts)
        self.servers: List["subprocess.Popen[str]"] = []
        self.workers: List["subprocess.Popen[str]"] = []

    def __enter__(self) -> "ParameterServer":
        for role in self.roles:
            variables = plain_environment(**self.variables, DMLC_ROLE=role)
            self.servers.append(subprocess.Popen([sys.executable, "-c", LOAD_MXNET], env=variables))
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for process in (*self.workers, *self.servers):
            process.kill()
            process.communicate()

    def start(self, arguments: Sequence[str], **variables: str) -> "subprocess.Popen[str]":
        """A worker: `python ARGUMENTS`."""
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=plain_environment(**self.variables, DMLC_ROLE="worker", **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        self.workers.append(process)
        return process

    def finish(self, seconds: float = 120) -> List[str]:
        """What the workers wrote; all of them and all servers have ended well."""
        logs = [worker.communicate(timeout=seconds)[0] for worker in self.workers]
        assert [worker.returncode for worker in self.workers] == [0] * len(self.workers), "\n".join(logs)
        assert [server.wait(timeout=20) for server in self.servers] == [0] * len(self.servers)
        return logs


PROCESS = "proc/self/cgroup"
V2, V1 = "0::/job/part\n", "5:memory:/x\n4:cpu,cpuacct:/job\n0::/\n"


def drawn_up(root, files):
    """`root`, with what `files` say, by path."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
