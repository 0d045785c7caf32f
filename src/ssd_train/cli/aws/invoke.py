"""launch --invoke: detections of an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from ssd_train import storage
from ssd_train.cli.aws.common import make_parser, parse_named, words
from ssd_train.cli.console import make_progress, within
from ssd_train.cli.pictures import overlay_paths
from ssd_train.cli.places import output_file
from ssd_train.data.formats.jsonl import dump_json, parse_object
from ssd_train.data.images import decode, encode_jpeg
from ssd_train.data.predictions import checked_answers
from ssd_train.data.records import ClassNames, Detections
from ssd_train.errors import ConfigError
from ssd_train.launch.amazon import Amazon
from ssd_train.launch.serving import invoke_request, parse_response
from ssd_train.view.draw import draw_detections


def invoke(arguments: Sequence[str]) -> int:
    """Send images to an endpoint; write predictions and overlays."""
    parser = make_parser(" --invoke NAME", "Send images to an endpoint.")
    parser.add_argument("--invoke", required=True, metavar="NAME", help="name of the endpoint")
    parser.add_argument("--picture", required=True, nargs="+", type=Path, metavar="FILE", help="images to send")
    parser.add_argument(
        "--predictions",
        type=output_file,
        default=Path("predictions.jsonl"),
        metavar="FILE",
        help="JSON Lines file, -: standard output; default: predictions.jsonl",
    )
    parser.add_argument("--overlays", type=Path, metavar="FOLDER", help="folder for images with boxes")
    parser.add_argument(
        "--threshold",
        type=within(float, 0, 1),
        default=0.3,
        help="minimum score of boxes in overlays, 0 to 1; default: 0.3",
    )
    parser.add_argument("--class_names", type=words, default=(), metavar="A,B,...", help="class names in overlays")
    flags = parse_named(parser, "invoke", arguments)
    progress = make_progress(beside=[flags.predictions])
    pictures = _by_name(flags.picture)
    overlays = overlay_paths(flags.overlays, pictures) if flags.overlays else {}
    amazon, class_names = Amazon(flags.region), ClassNames(flags.class_names)
    lines = [_ask(amazon, flags.invoke, name, path) for name, path in pictures.items()]
    storage.write_bytes_atomic(flags.predictions, b"".join(lines))
    progress.say(f"written: {flags.predictions}")
    lines_at = (f"{flags.predictions}:{number}" for number in range(1, len(lines) + 1))
    for answer in checked_answers(zip(lines_at, map(parse_object, lines))):
        image = decode(pictures[answer.image].read_bytes(), str(pictures[answer.image]))
        detections = Detections.from_rows(answer.rows, image.shape[1::-1])
        shown = detections.above(flags.threshold)
        progress.say(f"{answer.image}: {len(shown)} of {len(detections)} score {flags.threshold:g} or more")
        if flags.overlays:
            drawn = draw_detections(image, detections, class_names, flags.threshold)
            storage.write_bytes_atomic(overlays[answer.image], encode_jpeg(drawn))
    if flags.overlays:
        progress.say(f"written: {flags.overlays}")
    return 0


def _by_name(paths: Sequence[Path]) -> "dict[str, Path]":
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(f"picture: {missing[0]} does not exist, expected an image file")
    pictures = {path.name: path for path in paths}
    if len(pictures) < len(paths):
        raise ConfigError("picture: found two files with the same name, expected unique names")
    return pictures


def _ask(amazon: Amazon, endpoint: str, name: str, path: Path) -> bytes:
    """Return the response for one image as a line of predictions."""
    request = invoke_request(endpoint, str(path), path.read_bytes())
    answer = amazon.send("invoke_endpoint", request, "sagemaker-runtime")
    return dump_json({"image": name, "prediction": parse_response(endpoint, answer["Body"].read())}) + b"\n"
