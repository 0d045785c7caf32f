"""Damage that decoders pass over: found where it is, and never where it is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.data import picture
from helpers.images import encoded

from ssd_train.data.checks.codes import CODES
from ssd_train.data.checks.images import inspect
from ssd_train.data.image_io import (
    EncodedImage,
    apply_orientation,
    encode_jpeg,
    encode_png,
)
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.structures import LabeledImage
from ssd_train.errors import DataError

pytestmark = pytest.mark.usefixtures("pixel_library")


def with_restarts(image):
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1].tobytes()


def ended(data, kept):
    """The first part of a JPEG, given an end as repair tools do."""
    return data[: int(len(data) * kept)] + b"\xff\xd9"


def without(data, first, count):
    return data[:first] + data[first + count :]


NOISE = picture((160, 120), 1)
GRAY = np.full((120, 160, 3), 128, np.uint8)
HALF_GRAY = np.concatenate([NOISE[:60], GRAY[60:]])
PLAIN, PROGRESSIVE = encode_jpeg(NOISE), encoded(NOISE, "JPEG", progressive=True)
TIFF = encoded(NOISE, "TIFF", compression="tiff_lzw")

DAMAGED = {
    "half": ended(PLAIN, 0.5),
    "all but a fiftieth": ended(PLAIN, 0.98),
    "a part missing": without(PLAIN, len(PLAIN) // 2, 1500),
    "half of a gray one": ended(encoded(NOISE[:, :, 0], "JPEG"), 0.5),
    "half of one with restarts": ended(with_restarts(NOISE), 0.5),
    "half of a progressive one": ended(PROGRESSIVE, 0.5),
    "a quarter of a progressive one": ended(PROGRESSIVE, 0.25),
    "half with a thumbnail": ended(encoded(NOISE, "JPEG", exif=b"Exif\0\0" + encoded(NOISE[:30, :40], "JPEG")), 0.6),
    "TIFF with a hole": TIFF[:9000] + bytes(3000) + TIFF[12000:],
}
WHOLE = {
    "plain": PLAIN,
    "gray": encoded(NOISE[:, :, 0], "JPEG"),
    "of the gray that stands for missing": encode_jpeg(GRAY),
    "ending in that gray": encode_jpeg(HALF_GRAY),
    "ending in that gray, progressive": encoded(HALF_GRAY, "JPEG", progressive=True),
    "ending in that gray, with restarts": with_restarts(HALF_GRAY),
    "ending in that gray, optimised": encoded(HALF_GRAY, "JPEG", optimize=True),
    "without subsampling": encoded(NOISE, "JPEG", subsampling=0),
    "progressive": PROGRESSIVE,
    "with restarts": with_restarts(NOISE),
    "with a film after it": PLAIN + b"ftypmp42" + bytes(5000),
    "with a picture after it": PLAIN + PROGRESSIVE,
    "PNG": encode_png(HALF_GRAY),
    "TIFF": TIFF,
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("side, turned", [(300, 1), (20, 6)], ids=["whole-upright", "smaller-turned"])
def test_damage_is_found(data, side, turned):
    with pytest.raises(DataError, match=r"^a:1: found a (JPEG cut off|damaged TIFF).*, expected a whole image$"):
        image = EncodedImage(data, "a:1")
        image.check_decoded(apply_orientation(image.decode_downscaled(side), turned))


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Tag data).*:UserWarning")  # Pillow's, of the damage done here
@pytest.mark.parametrize(
    "data", [PLAIN, PROGRESSIVE, encode_png(NOISE), TIFF], ids=["JPEG", "progressive", "PNG", "TIFF"]
)
def test_inspect_any_damage_gives_findings(data):
    random = np.random.RandomState(0)
    record = LabeledImage("a.jpg", [], [], None, "a:1")
    for _ in range(100):
        broken = bytearray(data)
        for place in random.randint(0, len(data), random.randint(1, 20)):
            broken[place] = random.randint(256)
        start = random.randint(len(data))
        del broken[start : start + random.choice([0, 0, 1, 500, len(data)])]
        seen = inspect(record, MemoryImages({"a.jpg": bytes(broken)}))
        assert all(finding.code in CODES and finding.where == "a:1" for finding in seen.findings)
        assert bool(seen.digest) == (not any(finding.severity == "error" for finding in seen.findings))


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("side", [300, 20], ids=["whole", "smaller"])
def test_check_decoded_whole_images_write_nothing(data, side, capfd):
    image = EncodedImage(data, "a:1")
    decoded = image.decode_downscaled(side)
    capfd.readouterr()
    image.check_decoded(decoded)
    assert capfd.readouterr() == ("", "")  # libjpeg writes to standard error by itself
