"""verify: whether training and answers are right on a machine's devices."""

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
# in this order: those after the first use what it has trained
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
    """Make the checks, a line each, and write the JSON file; 1 when one of them fails."""
    flags = make_parser().parse_args(list(arguments))
    storage.require_writable(flags.output.parent)
    progress = make_progress()
    from ssd_train.cli.verification import Checks
    from ssd_train.training.devices import contexts

    devices = contexts(flags.devices)[:2]
    names = [f"{device.device_type}:{device.device_id}" for device in devices]
    progress.say(f"verifying ssd_train {__version__} on {', '.join(names)}")
    document = {"format": 1, **surroundings(devices)}
    with tempfile.TemporaryDirectory(prefix="ssd-train-verify-") as temporary:
        checks = made(Checks(flags.folder or Path(temporary), names, flags.pictures), progress)
    document["checks"] = checks
    failed = [check["name"] for check in checks if check["result"] == "FAILED"]
    storage.write_json_atomic(flags.output, document)
    progress.say(f"{len(failed)} of {len(checks)} checks failed; written: {flags.output}")
    return 1 if failed else 0


def made(checks: "Checks", progress: Progress) -> List[Dict[str, Any]]:
    """Make all checks, and return what the JSON file says of each; a check that raises an error has failed."""
    from ssd_train.cli.verification import NotRun

    found = []
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
        except Exception as error:  # of any library: the other checks are made all the same
            entry.update(result="FAILED", error=f"{type(error).__name__}: {error}")
            text = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
        entry["seconds"] = round(time.perf_counter() - start, 2)
        progress.say(f"{name}: {entry['result']} ({entry['seconds']:.1f} s): {text}")
        found.append(entry)
    return found


def surroundings(devices: Sequence[Any]) -> Dict[str, Any]:
    """Return what the JSON file says of the machine."""
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
    """A device; of a GPU its compute capability too, such as 75 for code named sm_75."""
    found = {"device": str(device)}
    if device.device_type == "gpu":
        found["compute_capability"] = framework.compute_capability(device)
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _nvidia_smi() -> List[str]:
    """Name, driver and memory of each GPU of the machine."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    return done.stdout.strip().splitlines()


def _new_folder(text: str) -> Path:
    """Return a folder that is not there or empty: an older one's checkpoints would be taken up."""
    path = Path(text)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise argparse.ArgumentTypeError(f"found {text}, which is there, expected a new or empty folder")
    return path


def make_parser() -> Parser:
    """The flags of verify."""
    parser = Parser(
        prog="python -m ssd_train verify",
        description="Check on drawn data that training, resuming, mixed precision, several devices, scoring and export "
        "are right on the devices of this machine: a line each, and a JSON file to send with a report.",
    )
    parser.add_argument(
        "--devices",
        default="auto",
        help="one or two, such as gpu:0 or gpu:0,gpu:1; default: auto (of all the first two)",
    )
    parser.add_argument(
        "--folder", type=_new_folder, metavar="FOLDER", help="keep what the checks make there; default: it is removed"
    )
    parser.add_argument("--output", type=Path, default=Path("verify.json"), metavar="FILE", help="default: verify.json")
    parser.add_argument(
        "--pictures", type=within(int, 16, 10_000), default=PICTURES, help=f"to draw and train on; default: {PICTURES}"
    )
    return parser
