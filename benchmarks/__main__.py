"""Measure, write results as JSON, and the tables of benchmarks/README.md from them.

    python -m benchmarks            # all that `make bench` runs, in less than half an hour on two cores
    python -m benchmarks NAME ...   # some of them; NAME:ARGUMENT to hand on arguments, as in data_path:--rounds:3
    python -m benchmarks --tables   # the tables alone, from results that are there

Each benchmark is a module of this folder that prints JSON lines; results/NAME.json holds them with the machine that
they were taken on and the commands that took them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from benchmarks.machine import describe
from benchmarks.quality import summarised

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"

# what `make bench` runs: module -> its calls
SUITE: Dict[str, List[List[str]]] = {
    "data_path": [[]],
    "training_speed": [[], ["--cache"], ["--side", "512"], ["--side", "512", "--cache"]],
    "training_rival": [
        ["--rounds", "4"],
        ["--side", "512", "--rounds", "3", "--who", *"gluoncv-0-workers gluoncv-2-workers ours ours-cached".split()],
    ],
    "evaluation_speed": [[]],
    "scaling": [[]],
    "torchvision_speed": [[]],
    "rival_check": [["--rounds", "1"]],
}


# benchmarks whose tables have fewer rows than their results
SUMMARIES: Dict[str, Callable[[List[Dict[str, Any]]], List[Dict[str, Any]]]] = {"quality": summarised}


def main() -> None:
    """Run what is asked for, then write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITE)}, or another module here")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    flags = parser.parse_args()
    if not flags.tables:
        start = time.perf_counter()
        for name in flags.names or SUITE:
            module, *arguments = name.split(":")
            save(module, [arguments] if arguments else SUITE.get(module, [[]]))
        print(f"{(time.perf_counter() - start) / 60:.1f} minutes", file=sys.stderr)
    README.write_text(with_tables(README.read_text("utf-8"), read_results()), "utf-8")


def save(name: str, calls: Sequence[Sequence[str]]) -> None:
    """Run a benchmark and write its results."""
    machine, start, rows, commands = describe(), time.perf_counter(), [], []
    for arguments in calls:
        commands.append(" ".join(["python -m", f"benchmarks.{name}", *arguments]))
        print(commands[-1], file=sys.stderr, flush=True)
        rows += run(name, arguments)
    minutes = round((time.perf_counter() - start) / 60, 1)
    RESULTS.mkdir(exist_ok=True)
    result = {"commands": commands, "minutes": minutes, "machine": machine, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")


def run(name: str, arguments: Sequence[str]) -> List[Dict[str, Any]]:
    """Run a benchmark and return the JSON lines that it prints; they are also shown at once."""
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent / "src"), os.environ.get("PYTHONPATH")])),
    }
    rows = []
    with subprocess.Popen(command, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("{"):
                rows.append(json.loads(line))
                print("  ", line.rstrip(), file=sys.stderr, flush=True)
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}")
    return rows


def read_results() -> Dict[str, Dict[str, Any]]:
    """Return the stored results by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def with_tables(text: str, results: Dict[str, Dict[str, Any]]) -> str:
    """Return `text` with each `<!-- table NAME -->` ... `<!-- end -->` filled with the table of that result."""

    def replaced(found: "re.Match[str]") -> str:
        name = found.group(1)
        if name not in results:
            return found.group(0)
        rows = SUMMARIES.get(name, list)(results[name]["rows"])
        return f"<!-- table {name} -->\n{table({**results[name], 'rows': rows})}<!-- end -->"

    return re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", replaced, text, flags=re.S)


def table(result: Dict[str, Any]) -> str:
    """Return a result as Markdown: one table for all rows with the same columns, and a line about the machine."""
    groups: Dict[tuple, List[Dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(tuple(row), []).append(row)
    parts = []
    for columns, rows in groups.items():
        parts.append(
            line_of(columns) + line_of(["---"] * len(columns)) + "".join(line_of(row.values()) for row in rows)
        )
    return "\n".join([*parts, about(result)])


def line_of(cells: Any) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cell(value) for value in cells) + " |\n"


def cell(value: Any) -> str:
    """Return the text of a table cell."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell(part)}" for name, part in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return str(value)


def about(result: Dict[str, Any]) -> str:
    """How and on what a result was taken."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    commands = "; ".join(f"`{command}`" for command in result["commands"])
    return (
        f"{commands}: {result['minutes']} minutes on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory, GB']} GB, load {machine['load before']} before; {machine['system']}, "
        f"Python {machine['python']}, {versions}; commit {machine['commit']}, {machine['day']}.\n"
    )


if __name__ == "__main__":
    main()
