"""What writes FIFOs as SageMaker does in Pipe mode, for tests."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence

from ssd_train.data.formats.ground_truth import box_label
from ssd_train.data.formats.recordio_framing import write_record
from ssd_train.data.structures import ClassNames, ImageSource, LabeledImage


def framed(*records: bytes) -> bytes:
    """Records one after the other, as RecordIO."""
    file = io.BytesIO()
    for record in records:
        write_record(file, record)
    return file.getvalue()


def metadata(class_names: Iterable[str]) -> bytes:
    """A label's metadata with a class-map of all classes."""
    names = {str(class_id): name for class_id, name in enumerate(class_names)}
    return json.dumps({"class-map": names, "type": "groundtruth/object-detection", "job-name": "j"}).encode()


def samples(
    records: Sequence[LabeledImage], images: ImageSource, class_names: Optional[ClassNames] = None
) -> List[bytes]:
    """The framed records of each sample: image, label, and metadata where there are `class_names`."""
    third = [] if class_names is None else [metadata(class_names)]
    return [framed(images.read(record), json.dumps(box_label(record)).encode(), *third) for record in records]


class FifoWriter:
    """Writes each of `streams`, lists of pieces, into its FIFO, `delay` seconds before each piece; the next FIFO is
    made when the one before was opened."""

    def __init__(self, channel: Path, streams: Sequence[Sequence[bytes]], delay: float = 0) -> None:
        self.channel, self.streams, self.delay = channel, streams, delay
        self.opened: List[int] = []  # numbers of the FIFOs that a reader opened
        self.finished: List[int] = []  # and of those that it took to the end
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "FifoWriter":
        os.mkfifo(f"{self.channel}_0")
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        # a writer that nobody reads waits for ever; it is let go by reading
        waiting = [number for number in range(len(self.streams)) if number not in self.opened]
        for number in waiting:
            self._let_go(number)
        self._thread.join(10)

    def _let_go(self, number: int) -> None:
        path = f"{self.channel}_{number}"
        deadline = time.monotonic() + 5
        while not os.path.exists(path) and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if os.path.exists(path) and self._thread.is_alive() and number not in self.opened:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    def _run(self) -> None:
        for number, pieces in enumerate(self.streams):
            try:
                with open(f"{self.channel}_{number}", "wb", buffering=0) as file:
                    self.opened.append(number)
                    if number + 1 < len(self.streams):
                        os.mkfifo(f"{self.channel}_{number + 1}")
                    for piece in pieces:
                        time.sleep(self.delay)
                        file.write(piece)
                self.finished.append(number)
            except BrokenPipeError:  # the reader has closed early
                continue


def options(**changes: Any) -> Dict[str, Any]:
    """Settings of Pipe mode that suit a test."""
    return {"pipe_timeout": 5, "pipe_spill_gb": 0.1, "pipe_buffer_mb": 1, **changes}
