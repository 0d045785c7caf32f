"""Data preparation of the AWS Greengrass walk-through (blue and yellow boxes in video frames), step by step.

    python examples/greengrass_walkthrough.py [--folder walkthrough] [--data FOLDER] [--share 1.0]

If FOLDER (or the environment variable SSD_TRAIN_DATA) contains data/manifests/greengrass-*.manifest, the original four
labelling jobs of aws-samples/amazon-sagemaker-aws-greengrass-custom-object-detection-model are used; without their
images, only the labels are augmented. Otherwise two synthetic videos are created, split into frames and labelled like
those jobs, with the same numbers of frames; `--share 0.1` creates a tenth of them.

The original manifests have 1310 lines joined, 1304 without six discarded images, two classes after relabelling by color
and object, 1174 and 130 lines after the split at 0.9, and 5870 lines after augmentation.
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

# job -> number of lines, number of lines without a box, as in the original jobs
JOBS = {
    "blue-large": (624, 36),
    "blue-small": (21, 2),
    "yellow-large": (633, 56),
    "yellow-small": (32, 1),
}
DISCARDED = 6
COLOURS = {"blue": (200, 90, 30), "yellow": (40, 200, 220)}  # BGR, as OpenCV writes videos
SIZE_WH = (160, 90)
Box = Optional[Tuple[int, int, int, int]]  # left, top, width, height; None for a frame without a box


class Frame(NamedTuple):
    """A frame of a synthetic video: the job that labels it, and its box."""

    job: str
    box: Box


def main() -> None:
    """Find or create the labelling jobs' manifests and prepare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("walkthrough"), help="output folder")
    parser.add_argument("--data", default=os.environ.get("SSD_TRAIN_DATA", ""), help="default: $SSD_TRAIN_DATA")
    parser.add_argument("--share", type=float, default=1.0, help="fraction of synthetic frames; default: 1.0")
    flags = parser.parse_args()
    originals = [Path(flags.data) / "data" / "manifests" / f"greengrass-{job}.manifest" for job in JOBS]
    if flags.data and all(path.is_file() for path in originals):
        prepare_manifests(flags.folder, [str(path) for path in originals], None)
    else:
        frames = flags.folder / "frames"
        prepare_manifests(flags.folder, create_jobs(flags.folder, frames, flags.share), frames)


def prepare_manifests(folder: Path, jobs: Sequence[str], frames: Optional[Path]) -> None:
    """Run the walk-through's notebook 1: from the outputs of the labelling jobs to the manifests for training."""
    joined, kept, boxes = (str(folder / f"{name}.manifest") for name in ("joined", "kept", "boxes"))
    classes, split, augmented = str(folder / "classes.manifest"), str(folder / "split"), folder / "augmented"
    step("join", *jobs, "--output", joined)
    # the walk-through discards six images (its list TO_DISCARD); here any six will do
    step("drop", joined, "--ids", ",".join(select_ids(joined)), "--output", kept)
    step("keep", kept, "--where", "object=box", "--output", boxes)
    step("relabel", boxes, "--from_keys", "color,object", "--output", classes)
    # as in the walk-through: frames of one video are in both splits, which --group '(.*)_' would prevent
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
    """Run `ssd_train prepare` with these arguments and exit if it fails."""
    print("\n$ python -m ssd_train prepare", *arguments, flush=True)
    code = ssd_train(["prepare", *arguments])
    if code:
        sys.exit(code)


def select_ids(manifest: str) -> List[str]:
    """Return the file names, without suffix, of DISCARDED images at even intervals of a manifest."""
    lines = Path(manifest).read_text("utf-8").splitlines()
    selected = [lines[index] for index in np.linspace(0, len(lines) - 1, DISCARDED).astype(int)]
    return [Path(json.loads(line)["source-ref"]).stem for line in selected]


def create_jobs(folder: Path, frames: Path, share: float) -> List[str]:
    """Create videos, their frames, a manifest of the frames and labelling jobs; return the jobs' folders."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    frames_by_name: Dict[str, Frame] = {}
    for color in COLOURS:
        video = folder / "videos" / f"{color}_box_1.avi"
        planned = list(plan_frames(color, share))
        write_video(video, COLOURS[color], [frame.box for frame in planned])
        step("frames", str(video), "--output", str(frames))
        frames_by_name.update({f"{video.stem}_{index:06d}.jpg": frame for index, frame in enumerate(planned)})
    unlabelled = folder / "to-label.manifest"
    regex = r"^(?P<color>[a-z]+)_(?P<object>[a-z]+)_"
    step("manifest", str(frames), "--prefix", "s3://drawn/frames", "--name_regex", regex, "--output", str(unlabelled))
    return label(folder / "jobs", unlabelled, frames_by_name)


def plan_frames(color: str, share: float) -> Iterator[Frame]:
    """Yield the frames of one colour's video: those of the small job, then those of the large job."""
    for job in (f"{color}-small", f"{color}-large"):
        count, empty = (max(2, round(number * share)) for number in JOBS[job])
        without_box = set(np.linspace(0, count - 1, min(empty, count // 2)).astype(int).tolist())
        for index in range(count):
            yield Frame(job, None if index in without_box else box_at(index / count, job.endswith("large")))


def box_at(time: float, large: bool) -> Box:
    """Return the position of a moving box at `time`, 0 to 1."""
    width, height = (48, 34) if large else (20, 14)
    left = (SIZE_WH[0] - width) * (0.5 + 0.5 * np.sin(17 * time))
    top = (SIZE_WH[1] - height) * (0.5 + 0.5 * np.cos(29 * time))
    return int(left), int(top), width, height


def write_video(path: Path, colour: Tuple[int, int, int], boxes: Sequence[Box]) -> None:
    """Write a video of a coloured box on a grey background."""
    random = np.random.RandomState(len(boxes))
    background = cv2.resize(random.randint(70, 130, (6, 8, 3)).astype(np.uint8), SIZE_WH, interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, SIZE_WH)
    for box in boxes:
        frame = background.copy()
        if box is not None:
            left, top, width, height = box
            cv2.rectangle(frame, (left, top), (left + width - 1, top + height - 1), colour, cv2.FILLED)
        writer.write(frame)
    writer.release()


def label(folder: Path, unlabelled: Path, frames: Dict[str, Frame]) -> List[str]:
    """Write the labelling jobs' outputs, <job>/manifests/output/output.manifest, and return the jobs' folders."""
    lines: Dict[str, List[str]] = {job: [] for job in JOBS}
    for text in unlabelled.read_text("utf-8").splitlines():
        line = json.loads(text)
        frame = frames[line["source-ref"].rsplit("/", 1)[-1]]
        lines[frame.job].append(json.dumps({**line, **label_attribute(frame)}, separators=(",", ":")))
    for job, texts in lines.items():
        output = folder / job / "manifests" / "output" / "output.manifest"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("".join(text + "\n" for text in texts), "utf-8")
    return [str(folder / job) for job in JOBS]


def label_attribute(frame: Frame) -> Dict[str, object]:
    """Return the label attribute and its metadata in Ground Truth's format; without boxes the class-map is empty."""
    size = {"width": SIZE_WH[0], "depth": 3, "height": SIZE_WH[1]}
    boxes = [] if frame.box is None else [dict(zip(("left", "top", "width", "height"), frame.box), class_id=0)]
    metadata = {
        "job-name": f"labeling-job/{frame.job}-job",
        "class-map": {"0": "storage box"} if boxes else {},
        "human-annotated": "yes",
        "objects": [{"confidence": 0.09}] * len(boxes),
        "creation-date": "2019-05-21T21:30:13.141214",
        "type": "groundtruth/object-detection",
    }
    return {"bb": {"annotations": boxes, "image_size": [size]}, "bb-metadata": metadata}


if __name__ == "__main__":
    main()
