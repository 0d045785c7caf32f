"""The rules of the house, as data, and what breaks them. The map is the docstring of src/ssd_train/__init__.py."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

Floors = Sequence[Sequence[str]]

# From the ground up. A name without a dot stands for its whole package, or for the one module beside the packages, ""
# for all others of these. An import goes down a floor, or stays on its own where it leads into no circle.
FLOORS = [
    ["", "data.threads"],  # S3 hands several objects over at once
    ["data", "model"],
    ["view"],
    ["training"],
    ["deploy"],
    ["training.deployment", "training.job", "training.run"],  # what has been trained is made ready for service
    ["launch"],
    ["cli"],
    ["__main__"],
]
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

DESCRIPTIONS = 17  # in the map: the column from which on a line goes on with the description above it

# The most lines of a file and of a function without its docstring, and the most parameters.


def violations(source: Path, floors: Floors) -> List[str]:
    """What breaks the rules in a package's folder, one line each: `file:line: what`; circles last."""
    found: List[str] = []
    imported: Dict[str, Set[str]] = {}
    for path in sorted(source.rglob("*.py")):
        name, tree = module_name(source, path), ast.parse(path.read_text("utf-8"))
        problems = check_init(name, tree) if path.name == "__init__.py" else check_module(source, name, tree, floors)
        found += [f"{path.relative_to(source)}:{line}: {what}" for line, what in problems]
        targets = {target.partition(".") for _, target in imports(source, name, tree)}
        imported[name] = {inside for top, _, inside in targets if top == "ssd_train"}
    circle = in_circles(imported)
    return [*dict.fromkeys(found), *([f"{', '.join(circle)}: import each other in a circle"] if circle else [])]


def in_circles(imported: Dict[str, Set[str]]) -> List[str]:
    """The modules, of those with what each of them imports, that import each other in circles, or join two of these."""
    left = set(imported)
    while True:
        wanted = {target for name in left for target in imported[name]}
        outside = {name for name in left if name not in wanted or not imported[name] & left}
        if not outside:
            return sorted(left)
        left -= outside


def check_init(name: str, tree: ast.Module) -> Iterator[Tuple[int, str]]:
    if name != "" and tree.body:
        yield tree.body[0].lineno, "an __init__.py below the first is not empty"
    if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree)):
        yield 1, "an __init__.py imports"


def check_module(source: Path, name: str, tree: ast.Module, floors: Floors) -> Iterator[Tuple[int, str]]:
    here = floor_of(name, floors)
    if here is None:
        yield 1, f"{name} has no floor"
        return
    for line, target in imports(source, name, tree):
        yield from ((line, what) for what in check_import(name, here, target, floors))
    for node in ast.walk(tree):
        yield from ((node.lineno, what) for what in check_node(name, node))


def check_import(name: str, here: int, target: str, floors: Floors) -> Iterator[str]:
    top, _, inside = target.partition(".")
    if top != "ssd_train":
        if not allowed(name, IMPORTS.get(top, ["*"])):
            yield f"{name} imports {top}"
    elif inside:
        there = floor_of(inside, floors)
        if there is None:
            yield f"{name} imports {inside}, which has no floor"
        elif there > here:
            yield f"{name} (floor {here}) imports {inside} (floor {there}): up"
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


def told_in_map(text: str) -> Tuple[Set[str], Set[str]]:
    """The full names that a map lists, and those that its descriptions tell of: a word, or several with commas between
    them, before a colon. What is indented stands in the package above it, or beside the module above it."""
    above, told = [(0, "")], []
    for line in filter(str.strip, text.splitlines()):
        indent = len(line) - len(line.lstrip())
        if 0 < indent < DESCRIPTIONS:
            names, _, description = line.strip().partition("  ")
            above = [(column, package) for column, package in above if column < indent]
            package = above[-1][1]
            inside = f"{package}{names[:-1]}." if names.endswith("/") else package
            above.append((indent, inside))
            told.append((package, names, inside, [description]))
        elif indent:
            told[-1][3].append(line.strip())
    listed = {package + bare(name) for package, names, *_ in told for name in names.split(", ")}
    groups = [(inside, re.findall(r"((?:[\w.]+, )*[\w.]+):", " ".join(lines))) for *_, inside, lines in told]
    return listed, {inside + bare(name) for inside, found in groups for group in found for name in group.split(", ")}


def bare(name: str) -> str:
    return re.sub(r"(\.py|/)$", "", name)


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


def floor_of(name: str, floors: Floors) -> Optional[int]:
    """The floor of a module: where it is named itself, or else its package; None for a package that is on none."""
    package = name.split(".")[0] if "." in name else ""
    found = {entry: floor for floor, entries in enumerate(floors) for entry in entries}
    return found.get(name, found.get(package))


def allowed(name: str, patterns: List[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def dotted(node: ast.AST) -> str:
    """`os.environ` for the expression of that text; "" at the front where it hangs on something that is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
