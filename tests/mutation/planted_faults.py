"""Plant one fault at a time in a copy of the source and see whether the tests catch it.

    make test-planted-faults                          all of them
    make test-planted-faults ARGS="--sample 10"       ten, spread over the list
    python tests/mutation/planted_faults.py --only storage-no-fsync data-clip-swapped
    python tests/mutation/planted_faults.py --check   the snippets alone, in a second

A fault in faults.txt is a text that occurs once in its file and the text that replaces it. When a file is renamed or
merged, the snippet is looked for in all of `src/`; faults.txt then needs no edit, except where the code has changed.

The working tree (without what git ignores) is copied to a temporary folder, where pytest runs with PYTHONPATH set to
the copy's `src`. Programs that tests start inherit it, or take `src` from the test's own path, which is in the copy.
The tests of a group have to pass without a fault first, or the run is void.

Exit codes: 0 when every planted fault was tried, 1 when the script itself cannot go on (a snippet that is not there or
not unique, a test file that is not there, tests that fail without a fault). Survivors are results, not errors, unless
`--at-least N` asks for at least N caught.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set

ROOT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).with_name("faults.txt")
PACKAGE = "src/ssd_train"
TIMEOUT = 900  # seconds; a fault that makes a test wait for ever is caught by that


class Fault(NamedTuple):
    """An edit of one file. `group` names the tests of GROUPS that should catch it."""

    name: str
    file: str
    group: str
    old: str
    new: str


# group -> what is run for its faults, below tests/: test files, or single tests of them (file::test)
GROUPS: Dict[str, List[str]] = {
    "boxes": ["unit/test_boxes.py", "unit/data/test_transforms.py"],
    "records": ["unit/data/test_structures.py", "unit/deploy/test_detector.py"],
    "augment": ["unit/data/test_transforms_policies.py", "unit/data/test_transforms.py"],
    "transforms": ["unit/data/test_transforms.py", "unit/data/test_resize.py"],
    "batches": ["unit/data/test_loaders.py"],
    "dataset": ["unit/data/test_dataset.py", "unit/data/test_loaders.py"],
    "stream": ["unit/data/pipe/test_stream.py"],
    "images": ["unit/data/test_image_io.py", "unit/deploy/test_codec.py"],
    "split": ["unit/data/test_split.py"],
    "check": [
        "unit/data/checks/test_runner.py",
        "unit/data/checks/test_anchors.py",
        "unit/data/checks/test_statistics.py",
    ],
    "coco": ["unit/data/formats/test_coco.py", "unit/data/checks/test_bad_input.py"],
    "voc": ["unit/data/formats/test_voc.py", "unit/data/checks/test_bad_input.py"],
    "yolo": ["unit/data/formats/test_yolo.py", "unit/data/checks/test_bad_input.py"],
    "recordio": [
        "unit/data/formats/test_recordio_framing.py",
        "unit/data/formats/test_recordio.py",
        "unit/data/checks/test_bad_input.py",
    ],
    "ground_truth": ["unit/data/formats/test_ground_truth.py", "unit/data/formats/test_ground_truth_survey.py"],
    "anchors": ["unit/model/test_anchors.py"],
    "targets": ["unit/model/test_targets.py"],
    "loss": ["unit/model/test_loss.py"],
    "graphs": ["unit/model/test_graphs.py", "unit/training/test_engine.py"],
    "metrics": ["unit/evaluation/test_matching.py", "unit/evaluation/test_metrics.py"],
    "schedule": ["unit/training/test_schedule.py"],
    "learner": ["unit/training/test_step.py"],
    "engine": ["unit/training/test_engine.py"],
    "averaging": [
        "unit/training/test_averaging.py",
        "unit/training/test_checkpoint.py::test_restore_continues_the_average_and_the_loss_scale",
    ],
    "checkpoint": ["unit/training/test_checkpoint.py", "unit/training/test_optimizer_state.py"],
    "fingerprint": [
        "unit/training/test_fingerprint.py",
        "integration/test_resume.py::test_resume_other_data_is_an_error_by_name",
    ],
    "saved_model": ["unit/artifacts/test_saved_model.py"],
    "resume": ["integration/test_resume.py"],
    "storage": ["unit/storage/test_atomic.py"],
    "published": ["unit/storage/test_atomic_folders.py"],
    "archives": ["unit/storage/test_archive.py"],
    "codec": ["unit/deploy/test_handlers.py", "unit/deploy/test_codec.py"],
    "agreement": ["unit/deploy/test_parity.py"],
    "onnx": ["unit/deploy/export/test_onnx_head.py", "unit/deploy/export/test_export.py"],
    "detector": ["unit/deploy/test_detector.py", "unit/deploy/test_engines.py"],
    "symbol": ["unit/artifacts/test_symbol_check.py"],
}


class ScriptError(Exception):
    """The script, not the code under test, is at fault."""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Try the faults asked for and print a line for each; return the exit code."""
    flags = _parser().parse_args(arguments)
    try:
        faults = _chosen(flags)
        _check_snippets(faults)
        _check_groups({fault.group for fault in faults})
        if flags.check:
            print(f"{len(faults)} snippets are there and unique")
            return 0
        rows = _run(faults)
    except ScriptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    caught = sum(row["outcome"] == "caught" for row in rows)
    print(f"{caught} of {len(rows)} caught; survived: {', '.join(r['name'] for r in rows if r['outcome'] != 'caught')}")
    if flags.json:
        flags.json.write_text(json.dumps({"caught": caught, "faults": rows}, indent=2) + "\n", "utf-8")
    return 0 if caught >= flags.at_least else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults")
    parser.add_argument("--group", nargs="+", metavar="GROUP", help="the faults of these groups of tests")
    parser.add_argument("--sample", type=int, metavar="N", help="N faults, spread over the list")
    parser.add_argument("--check", action="store_true", help="only see that every snippet is there and unique")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--at-least", type=int, default=0, metavar="N", help="exit with 1 when fewer are caught")
    return parser


def read_faults(text: str) -> List[Fault]:
    """Return the faults of faults.txt, whose first lines say how it is written."""
    faults = []
    for block in re.split(r"\n{2,}", re.sub(r"^#.*\n", "", text, flags=re.M).strip("\n")):
        head, *lines = block.split("\n")
        parts = {mark: "\n".join(line[2:] for line in lines if line[:2] == mark) for mark in ("- ", "+ ")}
        if len(head.split()) != 3 or not parts["- "] or any(line[:2] not in parts for line in lines):
            raise ScriptError(f"faults.txt: found {block!r}, expected: name file group, lines of - and lines of +")
        faults.append(Fault(*head.split(), parts["- "], parts["+ "]))
    return faults


def _chosen(flags: argparse.Namespace) -> List[Fault]:
    known = read_faults(FAULTS.read_text("utf-8"))
    names = [fault.name for fault in known]
    if len(set(names)) < len(names):
        raise ScriptError("two faults have one name")
    for fault in known:
        if fault.group not in GROUPS:
            raise ScriptError(f"{fault.name}: found the group {fault.group}, expected one of GROUPS")
    for there, asked in ((set(names), flags.only), (set(GROUPS), flags.group)):
        unknown = set(asked or ()) - there
        if unknown:
            raise ScriptError(f"unknown: {', '.join(sorted(unknown))}")
    faults = [
        fault
        for fault in known
        if (not flags.only or fault.name in flags.only) and (not flags.group or fault.group in flags.group)
    ]
    if flags.sample:
        count = min(flags.sample, len(faults))
        faults = [faults[round(i * len(faults) / count)] for i in range(count)]
    return faults


def _check_snippets(faults: Sequence[Fault]) -> None:
    problems = []
    for fault in faults:
        try:
            _planted(fault, ROOT)
        except ScriptError as error:
            problems.append(str(error))
    if problems:
        raise ScriptError("\n".join(problems))


def _check_groups(groups: Set[str]) -> None:
    for group in groups:
        for name in GROUPS[group]:
            if not (ROOT / "tests" / name.partition("::")[0]).is_file():
                raise ScriptError(f"group {group}: found no tests/{name}")


def _planted(fault: Fault, root: Path) -> "tuple[Path, str]":
    """The file of a fault below `root`, and its text with the fault."""
    package = root / PACKAGE
    files = [package / fault.file] if (package / fault.file).is_file() else []
    if not any(fault.old in file.read_text("utf-8") for file in files):
        files = [file for file in sorted(package.rglob("*.py")) if fault.old in file.read_text("utf-8")]
    counts = {file: file.read_text("utf-8").count(fault.old) for file in files}
    if sum(counts.values()) != 1:
        found = ", ".join(f"{file.relative_to(package)} x{count}" for file, count in counts.items()) or "nowhere"
        raise ScriptError(f"{fault.name}: found its snippet {found}, expected it once: {fault.old!r}")
    (file,) = files
    text = file.read_text("utf-8").replace(fault.old, fault.new)
    try:
        compile(text, str(file), "exec")
    except SyntaxError as error:
        raise ScriptError(f"{fault.name}: found code that does not compile: {error}") from None
    return file, text


def _run(faults: Sequence[Fault]) -> List[Dict[str, Any]]:
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        tree = Path(folder) / "tree"
        _copy_working_tree(tree)
        _require_imported_from(tree)
        sound: Set[str] = set()
        for fault in sorted(faults, key=lambda fault: list(GROUPS).index(fault.group)):
            if fault.group not in sound:
                outcome = _test(tree, fault.group)
                if outcome["outcome"] != "survived":
                    raise ScriptError(f"group {fault.group} fails without a fault:\n{outcome['output']}")
                sound.add(fault.group)
            file, text = _planted(fault, tree)
            whole = file.read_text("utf-8")
            file.write_text(text, "utf-8")
            try:
                row = {"name": fault.name, "file": file.relative_to(tree).as_posix(), **_test(tree, fault.group)}
                del row["output"]
            finally:
                file.write_text(whole, "utf-8")
            rows.append(row)
            print(f"{row['outcome']:9}{row['name']:38}{row['seconds']:7.1f} s  {row['by']}", flush=True)
    return rows


def _copy_working_tree(target: Path) -> None:
    """Copy all files that git knows or would add, as they are on the disk."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, check=True).stdout.decode("utf-8")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not one that was removed and is still in the index
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(ROOT / name), str(target / name))


def _environment(tree: Path) -> Dict[str, str]:
    """The variables with which Python imports the package of `tree`, in child processes too."""
    return {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}


def _require_imported_from(tree: Path) -> None:
    """See that the copy goes before an installed package, or every fault would survive."""
    command = [sys.executable, "-c", "import ssd_train; print(ssd_train.__file__)"]
    done = subprocess.run(command, env=_environment(tree), stdout=subprocess.PIPE, check=True, universal_newlines=True)
    if tree.resolve() not in Path(done.stdout.strip()).resolve().parents:
        raise ScriptError(f"ssd_train is imported from {done.stdout.strip()}, expected below {tree}")


def _test(tree: Path, group: str) -> Dict[str, Any]:
    """Run the tests of a group in `tree`: caught, by which test, or survived."""
    files = [f"tests/{name}" for name in GROUPS[group]]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=str(tree),
            env=_environment(tree),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        by = f"no end after {TIMEOUT} s"
        return {"outcome": "caught", "seconds": float(TIMEOUT), "by": by, "output": by}
    seconds = round(time.monotonic() - started, 1)
    if done.returncode == 0:
        return {"outcome": "survived", "seconds": seconds, "by": "", "output": ""}
    if done.returncode in (4, 5):  # wrong usage, no test found
        raise ScriptError(f"group {group}: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.M)
    by = failed[0] if failed else f"exit code {done.returncode}"
    return {"outcome": "caught", "seconds": seconds, "by": by, "output": done.stdout[-3000:]}


if __name__ == "__main__":
    sys.exit(main())
