"""The preparation of the AWS Greengrass walk-through (blue and yellow boxes on video frames), step by step.

    python examples/greengrass_walkthrough.py [--folder walkthrough] [--data FOLDER] [--share 1.0]

Where FOLDER (or the environment variable SSD_TRAIN_DATA) holds data/manifests/greengrass-*.manifest, the four genuine
labelling jobs of aws-samples/amazon-sagemaker-aws-greengrass-custom-object-detection-model are taken, and as their
pictures are not there, augmentation works on the labels alone. Elsewhere two videos are drawn, cut into frames, and
labelled as those jobs were, in the same numbers; `--share 0.1` draws a tenth of them.

Joined they have 1310 lines; without six discarded images 1304; named by color and object two classes; split at 0.9 they
are 1174 and 130; augmented 5870.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from ssd_train.cli.main import main as ssd_train

# job -> lines and, among them, frames without a box, as in the genuine jobs
JOBS = {
    "blue-large": (624, 36),
    "blue-small": (21, 2),
    "yellow-large": (633, 56),
    "yellow-small": (32, 1),
}
DISCARDED = 6
COLOURS = {"blue": (200, 90, 30), "yellow": (40, 200, 220)}  # BGR, as OpenCV writes videos
SIZE_WH = (160, 90)
Box = Optional[Tuple[int, int, int, int]]  # left, top, width, height; None where no box is to be seen


class Shot(NamedTuple):
    """A frame of a drawn video: the job that labels it, and its box."""

    job: str
    box: Box


def main() -> None:
    """Take or draw the jobs' manifests, then prepare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("walkthrough"), help="where everything goes")
    parser.add_argument("--data", default=os.environ.get("SSD_TRAIN_DATA", ""), help="default: $SSD_TRAIN_DATA")
    parser.add_argument("--share", type=float, default=1.0, help="of the frames, when they are drawn; default: 1.0")
    flags = parser.parse_args()
    genuine = [Path(flags.data) / "data" / "manifests" / f"greengrass-{job}.manifest" for job in JOBS]
    if flags.data and all(path.is_file() for path in genuine):
        prepare_manifests(flags.folder, [str(path) for path in genuine], None)
    else:
        frames = flags.folder / "frames"
        prepare_manifests(flags.folder, draw_jobs(flags.folder, frames, flags.share), frames)


def prepare_manifests(folder: Path, jobs: Sequence[str], frames: Optional[Path]) -> None:
    """The walk-through's notebook 1: from the labelling jobs' outputs to the manifests that training takes."""
    joined, kept, boxes = (str(folder / f"{name}.manifest") for name in ("joined", "kept", "boxes"))
    classes, split, augmented = str(folder / "classes.manifest"), str(folder / "split"), folder / "augmented"
    step("join", *jobs, "--output", joined)
    # the walk-through discards six images of its own choice (its list TO_DISCARD); any six show the step
    step("drop", joined, "--ids", ",".join(some_ids(joined)), "--output", kept)
    step("keep", kept, "--where", "object=box", "--output", boxes)
    step("relabel", boxes, "--from_keys", "color,object", "--output", classes)
    # as the walk-through does; frames of one video come to lie on both sides, which --group '(.*)_' would prevent
    step("split", classes, "--fractions", "0.9", "--seed", "0", "--output", split)
    pictures = ["--images", str(frames)] if frames else ["--annotations_only"]
    step("augment", f"{split}/train.manifest", *pictures, "--output", str(augmented))
    if frames:
        images = str(augmented / "images")
        step("sheet", f"{augmented}/augmented.manifest", "--images", images, "--output", str(folder / "sheet.png"))
        print(
            f"next: python -m ssd_train train --train {images} --labels {augmented}/augmented.manifest "
            f"--validation {frames} --validation_labels {split}/validation.manifest"
        )


def step(*arguments: str) -> None:
    """Run one step as a user would, and stop where it fails."""
    print("\n$ python -m ssd_train prepare", *arguments, flush=True)
    code = ssd_train(["prepare", *arguments])
    if code:
        sys.exit(code)


def some_ids(manifest: str) -> List[str]:
    """File names without suffix of images here and there in a manifest."""
    lines = Path(manifest).read_text("utf-8").splitlines()
    chosen = [lines[index] for index in np.linspace(0, len(lines) - 1, DISCARDED).astype(int)]
    return [Path(json.loads(line)["source-ref"]).stem for line in chosen]


def draw_jobs(folder: Path, frames: Path, share: float) -> List[str]:
    """Videos -> frames -> the list for the labelling jobs -> the folders of these jobs, which are returned."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    shots: Dict[str, Shot] = {}
    for color in COLOURS:
        video = folder / "videos" / f"{color}_box_1.avi"
        drawn = list(plan(color, share))
        write_video(video, COLOURS[color], [shot.box for shot in drawn])
        step("frames", str(video), "--output", str(frames))
        shots.update({f"{video.stem}_{index:06d}.jpg": shot for index, shot in enumerate(drawn)})
    listed = folder / "to-label.manifest"
    regex = r"^(?P<color>[a-z]+)_(?P<object>[a-z]+)_"
    step("manifest", str(frames), "--prefix", "s3://drawn/frames", "--name_regex", regex, "--output", str(listed))
    return label(folder / "jobs", listed, shots)


def plan(color: str, share: float) -> Iterator[Shot]:
    """The frames of one colour's video: first those of the small job, then those of the large one."""
    for job in (f"{color}-small", f"{color}-large"):
        count, empty = (max(2, round(number * share)) for number in JOBS[job])
        hidden = set(np.linspace(0, count - 1, min(empty, count // 2)).astype(int).tolist())
        for index in range(count):
            yield Shot(job, None if index in hidden else box_at(index / count, job.endswith("large")))


def box_at(time: float, large: bool) -> Box:
    """A box that wanders through the picture while `time` goes from 0 to 1."""
    width, height = (48, 34) if large else (20, 14)
    left = (SIZE_WH[0] - width) * (0.5 + 0.5 * np.sin(17 * time))
    top = (SIZE_WH[1] - height) * (0.5 + 0.5 * np.cos(29 * time))
    return int(left), int(top), width, height


def write_video(path: Path, colour: Tuple[int, int, int], boxes: Sequence[Box]) -> None:
    """A video of a box before a dim wall."""
    random = np.random.RandomState(len(boxes))
    wall = cv2.resize(random.randint(70, 130, (6, 8, 3)).astype(np.uint8), SIZE_WH, interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, SIZE_WH)
    for box in boxes:
        frame = wall.copy()
        if box is not None:
            left, top, width, height = box
            cv2.rectangle(frame, (left, top), (left + width - 1, top + height - 1), colour, cv2.FILLED)
        writer.write(frame)
    writer.release()


def label(folder: Path, listed: Path, shots: Dict[str, Shot]) -> List[str]:
    """What the labelling jobs leave: for each the lines of its frames with labels, in <job>/manifests/output/."""
    lines: Dict[str, List[str]] = {job: [] for job in JOBS}
    for text in listed.read_text("utf-8").splitlines():
        line = json.loads(text)
        shot = shots[line["source-ref"].rsplit("/", 1)[-1]]
        lines[shot.job].append(json.dumps({**line, **labels_of(shot)}, separators=(",", ":")))
    for job, texts in lines.items():
        output = folder / job / "manifests" / "output" / "output.manifest"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("".join(text + "\n" for text in texts), "utf-8")
    return [str(folder / job) for job in JOBS]


def labels_of(shot: Shot) -> Dict[str, object]:
    """The label attribute and its metadata as Ground Truth writes them; without boxes the class-map is empty."""
    size = {"width": SIZE_WH[0], "depth": 3, "height": SIZE_WH[1]}
    boxes = [] if shot.box is None else [dict(zip(("left", "top", "width", "height"), shot.box), class_id=0)]
    metadata = {
        "job-name": f"labeling-job/{shot.job}-job",
        "class-map": {"0": "storage box"} if boxes else {},
        "human-annotated": "yes",
        "objects": [{"confidence": 0.09}] * len(boxes),
        "creation-date": "2019-05-21T21:30:13.141214",
        "type": "groundtruth/object-detection",
    }
    return {"bb": {"annotations": boxes, "image_size": [size]}, "bb-metadata": metadata}


if __name__ == "__main__":
    main()
