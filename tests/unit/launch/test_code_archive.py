from __future__ import annotations

import tarfile

import pytest
from helpers.services import entry_point

from ssd_train.errors import ConfigError
from ssd_train.launch.code_archive import PACKAGE, entry_point_folder, write_served_model, write_source
from ssd_train.storage.archive import unpack_archive


def names_in(archive):
    with tarfile.open(archive) as opened:
        return opened.getnames()


@pytest.fixture
def program(tmp_path):
    folder = entry_point(tmp_path / "entry_point")
    for name in ("__pycache__/train.cpython-38.pyc", ".ipynb_checkpoints/train.py", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left over")
    return folder


def test_write_source_contains_entry_point_and_package(tmp_path, program):
    names = write_source(tmp_path / "sourcedir.tar.gz", program)
    assert names_in(tmp_path / "sourcedir.tar.gz") == sorted(names)
    assert {"train.py", "requirements.txt", "ssd_train/__init__.py", "ssd_train/boxes.py"} <= set(names)
    modules = {f"ssd_train/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    assert modules <= set(names)
    assert not [name for name in names if ".pyc" in name or "__pycache__" in name or "/." in f"/{name}"]


def test_write_source_is_reproducible(tmp_path, program):
    write_source(tmp_path / "a.tar.gz", program)
    (program / "train.py").touch()
    write_source(tmp_path / "b.tar.gz", program)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_entry_point_folder_with_setup_py_raises(tmp_path, program):
    (program / "setup.py").write_text("")
    with pytest.raises(ConfigError, match="^source_dir: .*setup.py"):
        entry_point_folder(program)


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
def test_write_served_model_replaces_code_and_keeps_weights(tmp_path, program, packed):
    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "weights.params").write_bytes(b"\x00\x01")
    (model / "code/train.py").write_text("an old one")
    if packed:
        with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
            archive.add(model, ".")
        model = tmp_path / "model.tar.gz"
    write_served_model(model, tmp_path / "served.tar.gz", program)
    unpack_archive(tmp_path / "served.tar.gz", tmp_path / "served")
    assert (tmp_path / "served/weights.params").read_bytes() == b"\x00\x01"
    assert (tmp_path / "served/code/train.py").read_text() == "print('trained')\n"
    assert (tmp_path / "served/code/ssd_train/__init__.py").is_file()
    needs = (tmp_path / "served/code/requirements.txt").read_text().splitlines()
    assert {line.split(">=")[0] for line in needs if line and not line.startswith("#")} == {"Pillow", "tqdm"}
