"""Write a list of images as the input manifest of a labelling job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

from ssd_train.data.file_names import IMAGE_FORMATS, images_below, is_image_name
from ssd_train.data.formats.fields import image_name
from ssd_train.data.prepare.lines import SOURCE, dump_exact, local_path, write_lines
from ssd_train.errors import ConfigError, DataError


def write_listing(
    sources: Sequence["str | Path"], output: "str | Path", prefix: str = "", every: int = 1, name_regex: str = ""
) -> int:
    """Write a manifest line for every n-th image of `sources`.

    Args:
        sources: folders (all images below, sorted), images, or text files with an image name per line.
        output: the new manifest.
        prefix: ``s3://bucket/path`` to put before names that are no URLs.
        every: n; the first image is written.
        name_regex: regular expression for image names; its named groups become keys of the line:
            ``(?P<color>[a-z]+)_(?P<object>[a-z]+)`` gives ``"color": "blue", "object": "box"``.

    Returns:
        The number of lines.

    Raises:
        ConfigError: `prefix` is not on S3, `every` is below 1, or `name_regex` is invalid or has no named groups.
        DataError: there is no image, an image is repeated, or `name_regex` does not match a name.
    """
    if prefix and not re.match(r"s3://[^/]", prefix):
        raise ConfigError(f"prefix: found {prefix!r}, expected s3://bucket/path")
    if every < 1:
        raise ConfigError(f"every: found {every}, expected 1 or more")
    names = [name for source in sources for name in _names(source)]
    return write_lines(output, _lines(names[::every], prefix, _compiled(name_regex)))


def _names(source: "str | Path") -> List[str]:
    path = local_path(source)
    if path.is_dir():
        return list_images(path)
    if is_image_name(path.name):
        return [str(source)]
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(
            f"{source}: cannot be read ({reason}), expected a folder, an image or a list of names"
        ) from None
    return [line.strip() for line in text.split("\n") if line.strip()]


def _compiled(name_regex: str) -> "re.Pattern[str]":
    try:
        pattern = re.compile(name_regex)
    except re.error as error:
        raise ConfigError(f"name_regex: found {name_regex!r}, expected a regular expression ({error})") from None
    if name_regex and not pattern.groupindex:
        raise ConfigError(f"name_regex: found {name_regex!r}, expected named groups: (?P<color>[a-z]+)_")
    return pattern


def _lines(names: Sequence[str], prefix: str, pattern: "re.Pattern[str]") -> Iterator[bytes]:
    seen = set()
    for name in names:
        if name in seen:
            raise DataError(f"found image {name!r} twice, expected each once")
        seen.add(name)
        yield dump_exact(_line(image_name(name, "image"), prefix, pattern))


def _line(name: str, prefix: str, pattern: "re.Pattern[str]") -> Dict[str, Any]:
    found = pattern.search(name)
    if found is None:
        raise DataError(f"name_regex: {pattern.pattern!r} finds nothing in {name!r}, expected its groups in every name")
    address = name if not prefix or "://" in name else f"{prefix.rstrip('/')}/{name}"
    keys = {key: value for key, value in found.groupdict().items() if value is not None}
    return {SOURCE: address, **keys}


def list_images(folder: "str | Path") -> List[str]:
    """Return the sorted relative POSIX paths of the images below `folder`.

    Images are recognised by their suffix.

    Raises:
        DataError: `folder` is no folder, or has no images.
    """
    root = local_path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: not found or not a folder, expected a folder of images")
    found = [path.relative_to(root).as_posix() for path in images_below(root)]
    if not found:
        raise DataError(f"{folder}: found no images, expected files named *{', *'.join(IMAGE_FORMATS)}")
    return sorted(found)
