"""The wheel and the sdist: their files and requirements, and the installed wheel outside the checkout."""

from __future__ import annotations

import email
import json
import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
GENERATED = shutil.ignore_patterns(
    ".venv*", ".git", "__pycache__", "build", "dist", ".*_cache", "*.egg-info", ".hypothesis", "demo", "work"
)
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, f'build_{sys.argv[1]}')(sys.argv[2]))"


def run(command, **options):
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, **options
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The sdist of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "checkout", ignore=GENERATED)
    run([sys.executable, "-c", BUILD, "sdist", folder], cwd=folder / "checkout")
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def unpacked(sdist):
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent)
    return sdist.parent / sdist.name[: -len(".tar.gz")]


@pytest.fixture(scope="module")
def wheel(unpacked):
    """The wheel that is built from the sdist."""
    run([sys.executable, "-c", BUILD, "wheel", unpacked.parent], cwd=unpacked)
    return next(unpacked.parent.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel):
    """The folder of the programs of an environment with the wheel; all other packages are those of this one."""
    folder = wheel.parent / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
    ]
    run([*pip, wheel])
    # appended, so that the wheel comes first; without .pth files, one of which leads to this checkout
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    for path in site.getsitepackages():  # setuptools' distutils, which Python 3.12 has not
        for file in Path(path).glob("distutils-precedence.pth"):
            shutil.copy(file, packages / "with-distutils.pth")  # read after others.pth
    return folder / "bin"


def information(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode("utf-8"))


def test_sdist_has_every_file_of_the_repository(unpacked):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know the files of the repository")
    tracked = run(["git", "ls-files"], cwd=ROOT).splitlines()
    assert [name for name in tracked if (ROOT / name).exists() and not (unpacked / name).is_file()] == []


def test_wheel_has_the_package_and_the_entry_point_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        for name in ("train.py", "requirements.txt"):
            copy = archive.read(f"ssd_train/launch/entry_point/{name}")
            assert copy == (ROOT / "entry_point" / name).read_bytes()
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "ssd_train").rglob("*.*")}
    expected = {name for name in source if not name.endswith(".pyc") and "__pycache__" not in name}
    assert set(names) - expected == {
        f"ssd_train/launch/entry_point/{name}" for name in ("train.py", "requirements.txt")
    }
    assert expected <= set(names) and {"ssd_train/py.typed", "ssd_train/deploy/server/page.html"} <= set(names)


def test_metadata_is_complete_and_readme_links_exist(wheel):
    found = information(wheel)
    assert found["License"] == "Apache-2.0" and found["Requires-Python"] == "<3.13,>=3.8"
    assert found["Description-Content-Type"] == "text/markdown"
    text = str(found.get_payload())
    assert text.startswith("# ssd_train") and "| extra | what it is for |" in text
    assert [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?://|#", link)] == []


def requirements_of(requirement, seen):
    """Add to `seen` the canonical names of what a requirement of the wheel brings, by installed metadata."""
    for extra in requirement.extras or {""}:
        if (requirement.name, extra) in seen:
            continue
        seen.add((requirement.name, extra))
        for text in REQUIRES.get(requirement.name) or metadata.requires(requirement.name) or []:
            needed = Requirement(text)
            needed.name = canonicalize_name(needed.name)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                if needed.name in REQUIRES or "opencv" not in needed.name:
                    requirements_of(needed, seen)
                else:
                    seen.add((needed.name, ""))
    return seen


REQUIRES = {}


@pytest.mark.parametrize(
    "extras, opencv",
    [
        ("cpu", {"opencv-python"}),
        ("cpu,onnx,serve,s3,yolo,cli,sagemaker", {"opencv-python"}),
        ("", set()),
        ("onnx,serve,opencv", {"opencv-python-headless"}),
    ],
)
def test_extras_bring_one_opencv_at_most(wheel, monkeypatch, extras, opencv):
    monkeypatch.setitem(REQUIRES, "ssd-train", information(wheel).get_all("Requires-Dist"))
    seen = requirements_of(Requirement(f"ssd-train[{extras}]"), {("", "")})
    base = requirements_of(Requirement("ssd-train"), seen)
    assert {name for name, _ in base if "opencv" in name} == opencv
    assert {"numpy", "pillow", "tqdm"} <= {name for name, _ in base}


def test_installed_wheel_shows_its_help_outside_the_checkout(installed, tmp_path):
    where = run([installed / "python", "-c", "import ssd_train; print(ssd_train.__file__)"], cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    assert run([installed / "ssd-train", "--help"], cwd=tmp_path).startswith("usage: ssd-train [COMMAND]")
    help = run([installed / "python", "-m", "ssd_train", "demo", "--help"], cwd=tmp_path)
    assert help.startswith("usage: python -m ssd_train demo")


LAUNCH = "launch --region us-east-1 --role arn:aws:iam::123456789012:role/r --output s3://b/o --dry_run"


def test_installed_wheel_launches_with_the_entry_point_of_the_checkout(installed, tmp_path):
    requests = json.loads(run([installed / "ssd-train", *LAUNCH.split(), "--train", "s3://b/i"], cwd=tmp_path))
    assert requests["create_training_job"]["HyperParameters"]["sagemaker_program"] == '"train.py"'
    code = (
        "import sys, pathlib; from ssd_train.launch.code_archive import write_source as w; w(pathlib.Path(sys.argv[1]))"
    )
    for program, name in ((installed / "python", "wheel"), (sys.executable, "checkout")):
        run([program, "-c", code, tmp_path / name], cwd=tmp_path)
    contents = []
    for name in ("wheel", "checkout"):
        with tarfile.open(tmp_path / name) as archive:
            contents.append({entry.name: archive.extractfile(entry).read() for entry in archive})
    assert contents[0] == contents[1] and "train.py" in contents[0]


def test_installed_wheel_trains(installed, tmp_path):
    small = "--pictures 4 --epochs 1 --image_shape 128 --mini_batch_size 4 --validation_interval 1 --num_workers 1"
    printed = run([installed / "ssd-train", "demo", *small.split()], cwd=tmp_path)
    assert (tmp_path / "demo" / "output" / "report.html").is_file() and "next:   ssd-train predict" in printed


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_dockerfile_copies_and_installs_files_that_exist(name):
    lines = (ROOT / "docker" / f"{name}.Dockerfile").read_text().replace("\\\n", " ").splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]]
    assert [path for path in copied if not (ROOT / path).exists() or f"!{path}" not in ignored] == []
    required = [path for line in lines for path in re.findall(r"-r (\S+)", line)]
    assert len(required) > 1 and [path for path in required if not (ROOT / path).is_file()] == []
    assert {"setup.py", "pyproject.toml", "README.md", "src", "entry_point"} <= set(copied)
    assert re.search(r"^mxnet==", (ROOT / "requirements.txt").read_text(), re.M)  # which gpu.Dockerfile replaces
