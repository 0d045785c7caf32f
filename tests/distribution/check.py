"""Install the wheel in bare environments of each Python, with the oldest and the newest versions allowed, and train.

    make dist-check
    python tests/distribution/check.py dist --python 3.8 --resolution lowest-direct

Needs uv (requirements/dist.txt) and the interpreters, on the PATH or of pyenv. Exit code 1 if an environment fails.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12")
RESOLUTIONS = {"lowest-direct": "oldest", "highest": "newest"}
EXTRAS = ("cpu", "onnx", "serve", "cli", "s3", "safetensors", "tensorboard")
SHOWN = ("numpy", "pillow", "opencv-python", "onnx", "onnxruntime", "starlette", "boto3")
UV = [sys.executable, "-m", "uv", "-q"]


def main() -> int:
    """Check each environment; print a line of a Markdown table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dist", type=Path, help="folder with the wheel")
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="X.Y")
    parser.add_argument("--resolution", nargs="+", default=list(RESOLUTIONS), choices=list(RESOLUTIONS))
    flags = parser.parse_args()
    (wheel,) = flags.dist.resolve().glob("*.whl")
    print(
        f"| Python | versions | {', '.join(SHOWN)} | seconds of the demo | result |\n|---|---|---|---|---|", flush=True
    )
    results = [check(wheel, version, resolution) for version in flags.python for resolution in flags.resolution]
    return 0 if all(results) else 1


def check(wheel: Path, version: str, resolution: str) -> bool:
    """Check one environment and print its line; return whether it works."""
    with tempfile.TemporaryDirectory(prefix="dist-check-") as temporary:
        folder = Path(temporary)
        try:
            versions, seconds = train_in(folder, wheel, version, resolution)
            result = "works"
        except subprocess.CalledProcessError as error:
            print(error.stdout, file=sys.stderr)
            versions, seconds, result = {}, 0.0, f"fails: {' '.join(map(str, error.cmd))}"
    shown = ", ".join(versions.get(name, "none") for name in SHOWN)
    print(f"| {version} | {RESOLUTIONS[resolution]} | {shown} | {seconds:.0f} | {result} |", flush=True)
    return result == "works"


def train_in(folder: Path, wheel: Path, version: str, resolution: str) -> "tuple[dict[str, str], float]":
    """Install the wheel in a new environment, train, and use the model; return the versions and the demo's seconds."""
    python, environment, required = interpreter(version), folder / "venv", folder / "requirements.txt"
    extras = [part for extra in EXTRAS for part in ("--extra", extra)]
    run([*UV, "pip", "compile", ROOT / "pyproject.toml", *extras, "--python", python, "--resolution", resolution,
         "--only-binary", ":all:", "--no-header", "--no-annotate", "-o", required], folder)  # fmt: skip
    run([*UV, "venv", "--python", python, environment], folder)
    into = ["--python", environment / "bin" / "python"]
    run([*UV, "pip", "install", *into, "--no-deps", "-r", required], folder)
    run([*UV, "pip", "install", *into, "--no-deps", wheel], folder)
    run([*UV, "pip", "check", *into], folder)
    program = environment / "bin" / "ssd-train"
    start = time.perf_counter()
    run([program, "demo", "--quick"], folder)
    seconds = time.perf_counter() - start
    images, labels = folder / "demo/validation/images", folder / "demo/validation/output.manifest"
    for engine in ("mxnet", "symbol", "onnxruntime"):
        model = ["--model", folder / "demo/model", "--engine", engine]
        run([program, "evaluate", *model, "--images", images, "--labels", labels], folder)
    run([program, "predict", images, "--model", folder / "demo/model", "--overlays", folder / "overlays"], folder)
    imports = "import ssd_train.deploy.server.app, ssd_train.storage.s3, boto3, safetensors, shtab, tensorboard, yaml"
    run([environment / "bin" / "python", "-c", imports], folder)
    return dict(re.findall(r"^([\w.-]+)==(\S+)", required.read_text(), re.M)), seconds


def interpreter(version: str) -> Path:
    """Return the interpreter of a version, of pyenv or on the PATH."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
    return found[-1] if found else Path(f"python{version}")


def run(command: "list[object]", folder: Path) -> None:
    """Run a command in `folder`, outside the checkout."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    subprocess.run(list(map(str, command)), cwd=folder, env=own, check=True, **output)


if __name__ == "__main__":
    sys.exit(main())
