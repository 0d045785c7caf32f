"""The rules of the house, as data, and what breaks them. The map is the docstring of src/ssd_train/__init__.py."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ssd_train"

# An import goes strictly down a floor. A module's own name counts before a pattern that fits it.
FLOORS = {
    0: [
        *["errors", "builtin", "cpus", "recipes", "setting_values"],
        *["deploy.server_page"],
        *["data.boxes", "data.encoded", "data.threads", "data.check_codes"],
        *["view.palette", "view.markup", "view.pdf"],
        *["model.pixels"],
    ],
    1: [
        *["framework", "config", "environment", "storage", "metric_lines", "progress"],
        *["data.records", "data.images", "data.augment", "data.formats.fields", "data.formats.jsonl"],
        *["data.formats.framing", "data.fifo", "data.patience", "data.anchor_fit", "data.check_duplicates"],
        *["training.scores", "training.matching", "training.loss_scale"],
        *["view.fonts", "view.charts", "view.style"],
        *["deploy.agreement", "deploy.onnx_graph"],
    ],
    2: [
        *["published", "archives", "s3", "locks", "secrecy", "data.setbacks"],
        *["launch.job", "launch.images", "deploy.served_code"],
        *["data.split", "data.sources", "data.predictions", "data.transforms", "data.artwork"],
        *["data.formats.box_label", "data.formats.gather", "data.formats.ground_truth_survey"],
        *["data.formats.detection_label", "data.formats.label_folder", "data.formats.yolo_names"],
        *["data.formats.class_list", "data.spill", "data.label_formats", "data.damage"],
        *["model.params_file", "model.anchors", "model.frozen"],
        *[
            "training.meeting",
            "training.schedule",
            "training.tally",
            "training.average_precision",
            "training.circumstances",
        ],
        *["view.canvas", "view.report_data"],
        *["deploy.description", "deploy.symbol_reader", "deploy.onnx_head"],
    ],
    3: [
        *["deploy.exported"],
        *["deploy.requests", "deploy.server_metrics"],
        *["remote"],
        *["launch.requests"],
        *["data.formats.ground_truth", "data.formats.recordio", "data.formats.image_json", "data.formats.coco"],
        *["data.formats.voc", "data.formats.yolo", "data.dataset", "data.drawn", "data.check_images"],
        *["data.prepare.lines"],
        *["model.net", "model.targets", "model.loss"],
        *["training.exchange", "training.watchdog"],
        *["training.devices", "training.array_file", "training.metrics"],
        *["view.draw", "view.sections"],
    ],
    4: [
        *["deploy.answers"],
        *["launch.source", "launch.tuning", "launch.serving", "launch.amazon"],
        *["data.labels", "data.formats.pipe", "data.formats.video", "data.batches", "data.gluon"],
        *["data.prepare.classes", "data.prepare.pictures"],
        *["model.pretrained", "model.zoo", "model.graphs"],
        *["training.optimizer_state", "training.peers"],
        *["view.scenes", "view.sheet"],
    ],
    5: [
        *["launch.watch", "launch.sdk2", "launch.sdk3"],
        *["data.prepare.*", "data.channel", "data.check_labels"],
        *["training.saved_model", "training.averaging", "training.masked", "training.cluster"],
        *["view.worst", "view.pages"],
    ],
    6: [
        *["data.stream", "data.check_statistics", "data.prepare.augment_images"],
        *["training.anchor_choice", "training.checkpoint", "training.learner"],
        *["deploy.symbol_file", "deploy.onnx_file", "deploy.engines.*"],
        *["view.galleries"],
    ],
    7: [
        *["data.check", "data.stream_loader"],
        *["deploy.detector", "deploy.artifact", "deploy.quantize", "deploy.builtin_network"],
        *["training.pipes", "training.keeper", "training.engine"],
        *["training.hand_over", "training.telling"],
        *["view.report"],
    ],
    8: [
        *["deploy.scoring", "deploy.serve", "deploy.convert", "deploy.onnx_builtin"],
        *["training.deployment", "training.sides"],
    ],
    9: ["deploy.server_work", "deploy.exportable", "deploy.batch_transform", "training.intake", "cli.console"],
    10: ["deploy.export", "training.job", "cli.flags", "cli.pictures", "cli.places"],
    11: ["deploy.server", "deploy.server_run", "training.run", "cli.steps.common", "cli.aws.common"],
    12: ["cli.*"],
    13: ["cli.main"],
    14: ["__main__"],
}
# The two wings never import each other; the geometry of boxes, defined once, belongs to both.
WINGS = ("data", "model")
COMMON = ["data.boxes"]
# Calls that only the named modules may make: the command line prints and exits. Below it metric lines go to standard
# output, and the watchdog of a dead peer must leave at once, because a normal exit waits for that peer for ever.
CALLS = {
    "print": ["cli.*", "metric_lines"],
    "sys.exit": ["cli.*", "__main__"],
    "exit": [],
    "quit": [],
    "os._exit": ["training.watchdog"],
    # what reads a pickle or a program can run anything; MXNet's Trainer states are a pickle
    "eval": [],
    "exec": [],
    "yaml.load": [],
    "load_states": [],
    "set_states": [],
    "os.getenv": ["environment", "framework"],
}
NAMES = {"os.environ": ["environment", "framework"], "SystemExit": ["cli.*"]}
IMPORTS = {
    "mxnet": ["framework"],
    "gluoncv": ["framework"],
    "horovod": ["framework"],
    "boto3": ["s3", "launch.amazon"],
    "botocore": ["s3", "launch.amazon"],
    **{name: [] for name in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")},
}


def violations(source: Path, floors: Dict[int, List[str]]) -> List[str]:
    """What breaks the rules in a package's folder, one line each: `file:line: what`."""
    found = []
    for path in sorted(source.rglob("*.py")):
        name, tree = module_name(source, path), ast.parse(path.read_text("utf-8"))
        problems = check_init(name, tree) if path.name == "__init__.py" else check_module(source, name, tree, floors)
        found += [f"{path.relative_to(source)}:{line}: {what}" for line, what in problems]
    return list(dict.fromkeys(found))


def check_init(name: str, tree: ast.Module) -> Iterator[Tuple[int, str]]:
    if name != "" and tree.body:
        yield tree.body[0].lineno, "an __init__.py below the first is not empty"
    if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree)):
        yield 1, "an __init__.py imports"


def check_module(source: Path, name: str, tree: ast.Module, floors: Dict[int, List[str]]) -> Iterator[Tuple[int, str]]:
    here = floor_of(name, floors)
    if here is None:
        yield 1, f"{name} has no floor"
        return
    for line, target in imports(source, name, tree):
        yield from ((line, what) for what in check_import(name, here, target, floors))
    for node in ast.walk(tree):
        yield from ((node.lineno, what) for what in check_node(name, node))


def check_import(name: str, here: int, target: str, floors: Dict[int, List[str]]) -> Iterator[str]:
    top, _, inside = target.partition(".")
    if top != "ssd_train":
        if not allowed(name, IMPORTS.get(top, ["*"])):
            yield f"{name} imports {top}"
    elif inside:
        there = floor_of(inside, floors)
        if there is None:
            yield f"{name} imports {inside}, which has no floor"
        elif there >= here:
            yield f"{name} (floor {here}) imports {inside} (floor {there}): not down"
        wings = {name.split(".")[0], inside.split(".")[0]}
        if wings == set(WINGS) and not allowed(inside, COMMON):
            yield f"{name} imports {inside}: from wing to wing"


def check_node(name: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        called = dotted(node.func)
        for rule in {called, called.rpartition(".")[2]} & set(CALLS):
            # a bare name such as `print` is the builtin; `net.eval()` is somebody's method of that name
            if (rule == called or "_states" in rule) and not allowed(name, CALLS[rule]):
                yield f"{name} calls {called}"
        if called.endswith("import_module") or called == "__import__":
            tops = {arg.value.split(".")[0] for arg in node.args if isinstance(getattr(arg, "value", None), str)}
            yield from (f"{name} imports {top}" for top in tops if not allowed(name, IMPORTS.get(top, ["*"])))
        if any(word.arg == "allow_pickle" and getattr(word.value, "value", 1) is not False for word in node.keywords):
            yield f"{name} allows pickles"
    elif isinstance(node, (ast.Attribute, ast.Name)) and not allowed(name, NAMES.get(dotted(node), ["*"])):
        yield f"{name} uses {dotted(node)}"
    elif isinstance(node, ast.ImportFrom) and node.module in ("os", "sys"):
        for alias in node.names:
            rule = f"{node.module}.{alias.name}"
            if rule in {**CALLS, **NAMES}:
                yield f"{name} imports the bare name of {rule}, which hides its use"


def module_name(source: Path, path: Path) -> str:
    """Name below the package: data/boxes.py -> "data.boxes", the first __init__.py -> ""."""
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: Path, name: str, tree: ast.Module) -> Iterator[Tuple[int, str]]:
    """Line and full name of every module imported, also inside functions; a name taken from a package counts as its
    module where there is one of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["ssd_train", *name.split(".")][: -node.level]
                base = ".".join([*package, *filter(None, [base])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if is_module(source, f"{base}.{alias.name}") else base


def is_module(source: Path, name: str) -> bool:
    path = source.joinpath(*name.split(".")[1:])
    return name.startswith("ssd_train.") and (path.is_dir() or path.with_suffix(".py").is_file())


def floor_of(name: str, floors: Dict[int, List[str]]) -> Optional[int]:
    exact = [floor for floor, modules in floors.items() if name in modules]
    return next((floor for floor in exact or floors if exact or allowed(name, floors[floor])), None)


def allowed(name: str, patterns: List[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def dotted(node: ast.AST) -> str:
    """`os.environ` for the expression of that text; "" at the front where it hangs on something that is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_the_house_keeps_its_rules():
    assert violations(SOURCE, FLOORS) == []


SMALL_HOUSE = {
    0: ["errors", "data.boxes"],
    1: ["framework", "metric_lines", "data.records"],
    2: ["model.anchors"],
    9: ["cli.*"],
}


@pytest.mark.parametrize(
    "path, code, expected",
    [
        pytest.param("data/records.py", "from ssd_train.data.boxes import area", None, id="down"),
        pytest.param("data/records.py", "from ssd_train.data import boxes", None, id="down-by-module"),
        pytest.param("data/records.py", "from ssd_train import __version__", None, id="version"),
        pytest.param("model/anchors.py", "from ssd_train.data import boxes", None, id="common-to-both-wings"),
        pytest.param("framework.py", "import mxnet, os\nos.environ['A'] = '1'", None, id="the-one-door"),
        pytest.param("cli/main.py", "import sys\nprint('a')\nsys.exit(1)", None, id="the-command-line"),
        pytest.param("metric_lines.py", "print('loss=1')", None, id="metric-line"),
        pytest.param(
            "errors.py", "net.eval()\nimport numpy as np\nnp.load('a', allow_pickle=False)", None, id="harmless"
        ),
        pytest.param("errors.py", "import ssd_train.data.records", "imports data.records (floor 1): not down", id="up"),
        pytest.param(
            "errors.py", "from .data import records", "imports data.records (floor 1): not down", id="up-relative"
        ),
        pytest.param(
            "data/records.py", "from . import boxes\nfrom .. import framework", ":2: data.records", id="relative"
        ),
        pytest.param("framework.py", "def f():\n    import ssd_train.metric_lines", "(floor 1): not down", id="across"),
        pytest.param("data/boxes.py", "import ssd_train.view.draw", "view.draw, which has no floor", id="to-no-floor"),
        pytest.param("model/anchors.py", "import ssd_train.data.records", "from wing to wing", id="wings"),
        pytest.param("launch.py", "", "launch has no floor", id="no-floor"),
        pytest.param("data/__init__.py", "A = 1", "not empty", id="init-not-empty"),
        pytest.param("__init__.py", "import os", "__init__.py imports", id="first-init-imports"),
        pytest.param("errors.py", "def f():\n    print('a')", "errors.py:2: errors calls print", id="print"),
        pytest.param("errors.py", "import sys\nsys.exit(2)", "errors calls sys.exit", id="exit"),
        pytest.param("errors.py", "raise SystemExit(2)", "errors uses SystemExit", id="system-exit"),
        pytest.param("errors.py", "import os\nos._exit(2)", "errors calls os._exit", id="os-exit"),
        pytest.param("errors.py", "from os import _exit", "bare name of os._exit", id="os-exit-bare"),
        pytest.param("errors.py", "import mxnet.gluon as g", "errors imports mxnet", id="mxnet"),
        pytest.param("errors.py", "from gluoncv import loss", "errors imports gluoncv", id="gluoncv"),
        pytest.param(
            "errors.py", "importlib.import_module('gluoncv.nn')", "errors imports gluoncv", id="import-module"
        ),
        pytest.param("errors.py", "import os\na = os.environ.get('A')", "errors uses os.environ", id="environ"),
        pytest.param("errors.py", "from os import environ", "bare name of os.environ", id="environ-bare"),
        pytest.param("errors.py", "import os\nos.getenv('A')", "errors calls os.getenv", id="getenv"),
        pytest.param("errors.py", "import pickle", "errors imports pickle", id="pickle"),
        pytest.param("errors.py", "np.load('a', allow_pickle=True)", "errors allows pickles", id="numpy-pickle"),
        pytest.param("errors.py", "trainer.load_states('a')", "errors calls trainer.load_states", id="trainer-pickle"),
        pytest.param("errors.py", "eval('1')", "errors calls eval", id="eval"),
        pytest.param("errors.py", "yaml.load(text)", "errors calls yaml.load", id="yaml"),
    ],
)
def test_the_rules_find(tmp_path, path, code, expected):
    for name in (
        "errors.py",
        "framework.py",
        "metric_lines.py",
        "data/boxes.py",
        "data/records.py",
        "model/anchors.py",
    ):
        write(tmp_path / name, "")
    write(tmp_path / path, code)

    found = violations(tmp_path, SMALL_HOUSE)

    assert len(found) == (0 if expected is None else 1), found
    assert expected is None or expected in found[0]


def write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
