"""Configuration files: flags and settings of a command by name, in YAML (--config FILE.yaml)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple

from ssd_train.errors import ConfigError, require_extra


class Entry(NamedTuple):
    """A line of a configuration file: the texts of its value or list of values, and file:line."""

    name: str
    values: List[str]
    where: str


def read_config(path: Path) -> List[Entry]:
    """Read a configuration file; empty values (null) count as not given.

    Values are the texts of the file, as on the command line: 1e-3 and 010 are not interpreted.

    Raises:
        ConfigError: the file is unreadable, or not a mapping of unique names to texts, numbers or lists of these.
        DependencyError: PyYAML is missing.
    """
    with require_extra("cli"):
        import yaml
    try:
        root = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}), expected a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        location = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{location}: found no YAML ({problem}), expected lines of name: value") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:{root.start_mark.line + 1}: found a {root.id}, expected lines of name: value")
    entries: Dict[str, Entry] = {}
    for key, value in root.value:
        where = f"{path}:{key.start_mark.line + 1}"
        name = str(key.value).replace("-", "_")
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(node, yaml.ScalarNode) for node in [key, *parts]):
            raise ConfigError(f"{where}: {name}: found a nested value, expected a text, a number or a list of these")
        if name in entries:
            raise ConfigError(f"{where}: {name}: found twice, expected once")
        entries[name] = Entry(name, [_text(node) for node in parts if not node.tag.endswith(":null")], where)
    return [entry for entry in entries.values() if entry.values]


def _text(node: Any) -> str:
    if node.tag.endswith(":bool"):
        return "true" if node.value.lower() in ("true", "yes", "on") else "false"
    return str(node.value)


def config_text(values: Mapping[str, Any], title: str) -> str:
    """Return a configuration file with `values` by name and `title` as a comment; None is left out.

    Values are in JSON, which is YAML.
    """
    lines = [f"{name}: {json.dumps(_plain(value), ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join([f"# {title}", *(line for line in lines if not line.endswith(": null")), ""])


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
