"""Hooks of mkdocs: pages made from files outside docs/, links between them, and the check of generated tables.

`python docs/hooks.py` makes the tables of docs/settings.md again.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from ssd_train.cli.aliases import ALIASES, HINTS
from ssd_train.config import SETTING_ALIASES, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
# file of the repository -> page of the site
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/greengrass/README.md": "greengrass.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add the pages whose source is outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at pages of the site and fill in the table of settings."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    markdown = LINK.sub(lambda match: _site_link(source, page.file.src_uri, *match.groups()), markdown)
    markdown = markdown.replace("](docs/demo.jpg)", "](demo.jpg)")
    if markdown != with_tables(markdown):
        raise PluginError(f"{source}: its tables are not those of the code: run python docs/hooks.py")
    return markdown


def with_tables(markdown: str) -> str:
    """Return a page with the tables between its markers made again."""
    for name, table in (("settings", _settings_table), ("aliases", _aliases_table)):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if begin in markdown:
            head, _, rest = markdown.partition(begin)
            markdown = f"{head}{begin}\n\n{table()}\n\n{end}{rest.partition(end)[2]}"
    return markdown


def _site_link(source: str, page: str, text: str, target: str) -> str:
    if re.match(r"[a-z]+:|#", target):
        return f"[{text}]({target})"
    path, _, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if path in PAGES or path.startswith("docs/"):
        relative = posixpath.relpath(PAGES.get(path, path[len("docs/") :]), posixpath.dirname(page) or ".")
        return f"[{text}]({relative}{'#' + anchor if anchor else ''})"
    # a file that the site does not show; a link to a file that does not exist stays, for mkdocs to report
    return text if (ROOT / path).exists() else f"[{text}]({target})"


def _settings_table() -> str:
    rows = ["| setting | default | values | meaning | may change on resume |", "|---|---|---|---|---|"]
    for item in dataclasses.fields(TrainConfig):
        limits = item.metadata
        default = f"`{item.default}`" if item.default != "" else "empty"
        cells = [f"`{item.name}`", default, _values(item.type, limits), limits["help"]]
        cells.append("yes" if limits.get("resume") else "no")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _values(kind: str, limits) -> str:
    if limits.get("choices"):
        return ", ".join(f"`{choice}`" for choice in limits["choices"] if choice != "")
    bounds = {"low": ">=", "above": ">", "high": "<=", "below": "<"}
    text = " and ".join(f"{sign} {limits[name]}" for name, sign in bounds.items() if name in limits)
    if "or_text" in limits:
        return f"float {text}, or `{limits['or_text']}`"
    return f"{kind} {text}".strip()


def _aliases_table() -> str:
    same = [(aliases, f"the same as `--{name}`") for name, aliases in ALIASES.items()]
    same += [((old,), f"another name of `--{name}`") for old, name in SETTING_ALIASES.items()]
    answered = {texts: [name for name in HINTS if HINTS[name] == texts] for texts in HINTS.values()}
    same += [(names, f"use {'; or '.join(texts)}") for texts, names in answered.items()]
    rows = [f"| {', '.join(f'`--{name}`' for name in names)} | {meaning} |" for names, meaning in same]
    return "\n".join(["| flag | meaning |", "|---|---|", *rows])


if __name__ == "__main__":
    settings = ROOT / "docs" / "settings.md"
    settings.write_text(with_tables(settings.read_text("utf-8")), "utf-8")
