from __future__ import annotations

import builtins
import errno
import gzip
import io
import random
import shutil
import tarfile

import pytest
from helpers.data import tries

from ssd_train.errors import WeightsError
from ssd_train.storage.archive import Limits, is_archive, open_model, unpack_archive

FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def packed(path, *members):
    """A .tar.gz of (name, bytes, type)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "/etc/passwd" if kind in (LINK, HARD) else ""
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(file.getvalue()))
    return path


def header(name, size, kind=FILE):
    """A tar header that claims `size` bytes, and no more than a MB behind it."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return gzip.compress(info.tobuf() + bytes(1 << 20))


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_unpack_archive_restores_files(tmp_path):
    weights = bytes(random.Random(1).randrange(256) for _ in range(5000))
    members = [
        ("./", b"", FOLDER),
        ("./config.json", b"{}", FILE),
        ("code/größe.py", b"", FILE),
        ("w.params", weights, FILE),
    ]
    unpack_archive(packed(tmp_path / "a.tar.gz", *members), tmp_path / "out")
    assert contents(tmp_path / "out") == {"config.json": b"{}", "code/größe.py": b"", "w.params": weights}


def test_unpack_archive_restores_long_names(tmp_path):
    name = "folder/" * 30 + "f" * 120
    unpack_archive(packed(tmp_path / "a.tar.gz", (name, b"1", FILE)), tmp_path / "out")
    assert contents(tmp_path / "out") == {name: b"1"}


REFUSED = {
    "absolute": ([("/tmp/evil", b"1", FILE)], "'/tmp/evil'"),
    "dots": ([("../evil", b"1", FILE)], "'../evil'"),
    "dots inside": ([("a/../../evil", b"1", FILE)], "'a/../../evil'"),
    "symbolic link": ([("a", b"", LINK)], "'a'"),
    "hard link": ([("a", b"", HARD)], "'a'"),
    "device": ([("a", b"", tarfile.CHRTYPE)], "'a'"),
    "pipe": ([("a", b"", tarfile.FIFOTYPE)], "'a'"),
    "twice": ([("a", b"1", FILE), ("./a", b"2", FILE)], "'./a'"),
    "file as folder": ([("a", b"1", FILE), ("a/b", b"2", FILE)], "'a/b'"),
    "folder as file": ([("a/b", b"1", FILE), ("a", b"2", FILE)], "File exists"),
    "too many": ([(str(n), b"", FILE) for n in range(6)], "found more than 5 files"),
}


@pytest.mark.parametrize("members, message", REFUSED.values(), ids=REFUSED.keys())
def test_unpack_archive_unsafe_member_is_an_error(tmp_path, members, message):
    path = packed(tmp_path / "a.tar.gz", *members)
    with pytest.raises(Exception, match=message) as caught:
        unpack_archive(path, tmp_path / "deep" / "out", Limits(members=5))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["a.tar.gz"]
    assert not list((tmp_path / "deep").glob("evil"))


LIMITED = {
    "bytes": (Limits(size=30_000), b"x" * 40_000, " 30000 bytes"),
    "ratio": (Limits(ratio=50), bytes(20 << 20), " 16777216 bytes"),
}


@pytest.mark.parametrize("limits, data, message", LIMITED.values(), ids=LIMITED.keys())
def test_unpack_archive_over_the_size_limits_is_an_error(tmp_path, limits, data, message):
    path = packed(tmp_path / "a.tar.gz", ("a", data, FILE))
    with pytest.raises(WeightsError, match=message):
        unpack_archive(path, tmp_path / "out", limits)
    assert sum(len(data) for data in contents(tmp_path / "out").values()) <= 16 << 20


CLAIMS = {
    "file": (header("a", 1 << 30), "end of data"),
    "extended header, never held in memory": (header("a", 1 << 30, tarfile.XHDTYPE), "1073741824 bytes"),
    "no tar": (gzip.compress(b"x" * 2000), "a.tar.gz: "),
}


@pytest.mark.parametrize("archive, message", CLAIMS.values(), ids=CLAIMS.keys())
def test_unpack_archive_false_header_is_an_error(tmp_path, archive, message):
    (tmp_path / "a.tar.gz").write_bytes(archive)
    with pytest.raises(WeightsError, match=message):
        unpack_archive(tmp_path / "a.tar.gz", tmp_path / "out")


def test_unpack_archive_damaged_file_is_an_error_or_harmless(tmp_path):
    """What is cut off or changed is noticed, or makes no difference (a few bits of gzip mean nothing)."""
    path = packed(tmp_path / "a.tar.gz", ("config.json", b"{}" * 300, FILE), ("w", bytes(range(256)) * 20, FILE))
    whole, random_ = path.read_bytes(), random.Random(3)
    unpack_archive(path, tmp_path / "whole")
    harmless = 0
    for case in range(120):
        damaged = bytearray(whole[: random_.randrange(len(whole))] if case % 3 == 0 else whole)
        if case % 3:
            damaged[random_.randrange(10, len(whole))] ^= 1 << random_.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            unpack_archive(path, tmp_path / f"out{case}")
            harmless += 1
            assert contents(tmp_path / f"out{case}") == contents(tmp_path / "whole")
        except WeightsError as error:
            assert str(error).startswith(f"{path}: ")
    assert harmless < 5


def test_unpack_archive_mutated_tar_gives_files_or_weights_error(tmp_path):
    """Headers are changed and the gzip around them is made anew, so that nothing but the tar reader stands guard."""
    path = packed(tmp_path / "a.tar.gz", ("d/" * 60 + "x", b"{}" * 300, FILE), ("w", b"1" * 700, FILE))
    tar, random_, refused = gzip.decompress(path.read_bytes()), random.Random(4), 0
    count = tries(200)
    for case in range(count):
        damaged = bytearray(tar)
        for _ in range(random_.randint(1, 3)):
            damaged[random_.randrange(4000)] = random_.randrange(256)
        path.write_bytes(gzip.compress(bytes(damaged), 1))
        try:
            unpack_archive(path, tmp_path / f"out{case}")
        except WeightsError:
            refused += 1
        shutil.rmtree(tmp_path / f"out{case}", ignore_errors=True)
    assert count / 10 < refused < count


def test_opened_model_other_paths_are_yielded_unchanged(tmp_path):
    (tmp_path / "w.params").write_bytes(b"weights")
    assert not is_archive(tmp_path / "w.params") and not is_archive(tmp_path)
    for path in (tmp_path, tmp_path / "w.params", tmp_path / "none"):
        with open_model(path) as opened:
            assert opened == path


@pytest.mark.parametrize("refusing", ["open", "is_file", "iterdir"])
def test_opened_model_unreadable_path_is_one_line(tmp_path, monkeypatch, refusing):
    """Root, as whom tests may run, reads everything: the refusal is put where the system's would come from."""

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path if refusing == "iterdir" else tmp_path / "w.params"
    (tmp_path / "w.params").write_bytes(b"weights")
    monkeypatch.setattr(builtins if refusing == "open" else type(path), refusing, refuse)
    with pytest.raises(WeightsError) as error, open_model(path):
        pass
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("in_channel", [False, True], ids=["file", "channel"])
def test_opened_model_archive_is_a_temporary_folder(tmp_path, in_channel):
    (tmp_path / "model").mkdir()
    path = packed(tmp_path / "model" / "model.tar.gz", ("config.json", b"{}", FILE))
    with open_model(path.parent if in_channel else path) as folder:
        assert contents(folder) == {"config.json": b"{}"}
    assert not folder.exists()
