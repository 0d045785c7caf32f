"""The command verify: checks of training and inference on a machine's devices."""

from __future__ import annotations

import argparse
import datetime
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from ssd_train import __version__, framework, storage
from ssd_train.cli.console import Parser, make_progress, within
from ssd_train.progress import Progress

if TYPE_CHECKING:
    from ssd_train.cli.verification import Checks

PICTURES = 64
# in this order: the first one trains the model that the others use
CHECKS = (
    ("training", "training"),
    ("restoring a checkpoint", "restoring"),
    ("resuming from a checkpoint", "resuming"),
    ("mixed precision", "mixed_precision"),
    ("two devices against one", "two_devices"),
    ("scoring", "scoring"),
    ("export: symbol", "exported_symbol"),
    ("export: ONNX", "exported_onnx"),
)


def run(arguments: Sequence[str]) -> int:
    """Run the checks and write the JSON file; returns 1 if a check fails."""
    flags = make_parser().parse_args(list(arguments))
    storage.require_writable(flags.output.parent)
    progress = make_progress()
    from ssd_train.cli.verification import Checks
    from ssd_train.training.devices import contexts

    devices = contexts(flags.devices)[:2]
    names = [f"{device.device_type}:{device.device_id}" for device in devices]
    progress.say(f"verifying ssd_train {__version__} on {', '.join(names)}")
    document = {"format": 1, **machine_info(devices)}
    with tempfile.TemporaryDirectory(prefix="ssd-train-verify-") as temporary:
        checks = run_checks(Checks(flags.folder or Path(temporary), names, flags.pictures), progress)
    document["checks"] = checks
    failed = [check["name"] for check in checks if check["result"] == "FAILED"]
    storage.write_json_atomic(flags.output, document)
    progress.say(f"{len(failed)} of {len(checks)} checks failed; written: {flags.output}")
    return 1 if failed else 0


def run_checks(checks: "Checks", progress: Progress) -> List[Dict[str, Any]]:
    """Run all checks and return their entries in the JSON file; a check that raises an exception fails."""
    from ssd_train.cli.verification import NotRun

    entries = []
    for name, method in CHECKS:
        start = time.perf_counter()
        entry: Dict[str, Any] = {"name": name, "result": "ok", "figures": [], "error": None}
        try:
            figures = getattr(checks, method)()
            entry["figures"] = [figure.to_json() for figure in figures]
            entry["result"] = "ok" if figures and all(figure.is_met for figure in figures) else "FAILED"
            text = "; ".join(map(str, figures))
        except NotRun as reason:
            entry.update(result="not run", error=str(reason))
            text = str(reason)
        except Exception as error:  # of any library; the other checks still run
            entry.update(result="FAILED", error=f"{type(error).__name__}: {error}")
            text = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
        entry["seconds"] = round(time.perf_counter() - start, 2)
        progress.say(f"{name}: {entry['result']} ({entry['seconds']:.1f} s): {text}")
        entries.append(entry)
    return entries


def machine_info(devices: Sequence[Any]) -> Dict[str, Any]:
    """Return the description of the machine for the JSON file."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "package": __version__,
        "versions": framework.versions(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_threads": framework.cpu_threads(),
        "mxnet_features": framework.features(),
        "devices": [_described(device) for device in devices],
        "nvidia_smi": _nvidia_smi(),
    }


def _described(device: Any) -> Dict[str, Any]:
    """Return the name of a device, with the compute capability of a GPU."""
    entry = {"device": str(device)}
    if device.device_type == "gpu":
        entry["compute_capability"] = framework.compute_capability(device)
    return entry


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _nvidia_smi() -> List[str]:
    """Return a line with name, driver and memory for each GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    return done.stdout.strip().splitlines()


def _new_folder(text: str) -> Path:
    """Parse the path of a new or empty folder; a run would resume from the checkpoints of an old one."""
    path = Path(text)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise argparse.ArgumentTypeError(f"found {text}, which is not empty, expected a new or empty folder")
    return path


def make_parser() -> Parser:
    """Return the parser of verify."""
    parser = Parser(
        prog="python -m ssd_train verify",
        description="Check training, resuming, mixed precision, several devices, scoring and export on the devices of "
        "this machine with synthetic data. Writes a JSON file to attach to a bug report.",
    )
    parser.add_argument(
        "--devices",
        default="auto",
        help="one or two devices, such as gpu:0 or gpu:0,gpu:1; default: auto (the first two)",
    )
    parser.add_argument(
        "--folder", type=_new_folder, metavar="FOLDER", help="keep the files of the checks; default: they are removed"
    )
    parser.add_argument("--output", type=Path, default=Path("verify.json"), metavar="FILE", help="default: verify.json")
    parser.add_argument(
        "--pictures", type=within(int, 16, 10_000), default=PICTURES, help=f"training images; default: {PICTURES}"
    )
    return parser
