"""split: parts by chance."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import manifests

from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.split import SplitOptions, assign, split


def run(tmp_path, lines, **how):
    path = manifests.write(tmp_path / "a", lines)
    splitting = SplitOptions(**{"fractions": [0.9], **how})
    outputs = [tmp_path / f"part{index}" for index in range(len(splitting.fractions))]
    counts = split(path, outputs, splitting)
    return counts, outputs


def frames(count, videos=4):
    return [manifests.line(f"s3://b/video_{i % videos}/frame_{i:03d}.jpg") for i in range(count)]


@pytest.mark.parametrize(
    "count, fractions, expected",
    [
        pytest.param(1304, [0.9], [1174, 130], id="greengrass"),
        pytest.param(1304, [0.9, 0.1], [1174, 130], id="both-told"),
        pytest.param(10, [0.8, 0.1, 0.1], [8, 1, 1], id="three"),
        pytest.param(3, [1 / 3, 1 / 3, 1 / 3], [1, 1, 1], id="thirds"),
    ],
)
def test_plain_parts_have_their_share_to_the_line(tmp_path, count, fractions, expected):
    counts, outputs = run(tmp_path, frames(count), fractions=fractions)

    written = [line for output in outputs for line in output.read_bytes().splitlines()]
    assert counts == expected == [len(output.read_bytes().splitlines()) for output in outputs]
    assert sorted(written) == sorted((tmp_path / "a").read_bytes().splitlines())


def test_seed_decides(tmp_path):
    def part(seed):
        return manifests.sources(run(tmp_path, frames(100), seed=seed)[1][0])

    assert part(1) == part(1)
    assert set(part(1)) != set(part(2))
    assert part(1) != sorted(part(1))  # shuffled


def test_lines_of_one_image_stay_together(tmp_path):
    lines = [manifests.line(f"{i % 5}.jpg", tag=i) for i in range(50)]

    _, (a, b) = run(tmp_path, lines, fractions=[0.5])

    assert not set(manifests.sources(a)) & set(manifests.sources(b))


def test_groups_stay_together(tmp_path):
    counts, (a, b) = run(tmp_path, frames(80, videos=8), fractions=[0.75], group=r"(video_\d+)/")

    groups = [{re.search(r"video_\d+", source).group() for source in manifests.sources(part)} for part in (a, b)]
    assert not groups[0] & groups[1]
    assert counts == [60, 20]


def test_classes_are_spread(tmp_path):
    lines = [manifests.line(f"c{i}.jpg") for i in range(90)]
    lines += [manifests.line(f"d{i}.jpg", [(1, 1, 1, 5, 5), (0, 1, 1, 5, 5)]) for i in range(10)]
    lines += [manifests.line(f"e{i}.jpg", []) for i in range(20)] + [{"source-ref": f"u{i}.jpg"} for i in range(10)]

    for seed in range(5):
        _, outputs = run(tmp_path, lines, fractions=[0.8], seed=seed, stratify=True)
        kinds = [[sum(s[0] == kind for s in manifests.sources(output)) for kind in "cdeu"] for output in outputs]

        assert kinds == [[72, 8, 16, 8], [18, 2, 4, 2]]


def test_stratified_groups():
    # 6 groups of 10 lines; the rare kind is in two of them
    table = np.array([[10, 0], [10, 0], [10, 0], [10, 0], [5, 5], [5, 5]])

    parts = np.array(assign(table, np.full(6, 10), [0.5, 0.5]))

    assert sorted(parts[4:]) == [0, 1]
    assert np.bincount(parts).tolist() == [3, 3]


@pytest.mark.parametrize(
    "how, error, expected",
    [
        pytest.param({"fractions": [0.5, 0.6]}, ConfigError, r"fractions: found \[0.5, 0.6\]", id="too-much"),
        pytest.param({"fractions": [1.0]}, ConfigError, r"fractions: found \[1.0\]", id="nothing-left"),
        pytest.param({"seed": -1}, ConfigError, "seed: found -1", id="seed"),
        pytest.param({"group": "zzz"}, ConfigError, "matches no name", id="no-match"),
        pytest.param({"group": "video"}, DataError, "10 lines in 1 groups, too few", id="one-group"),
        pytest.param({"fractions": [0.99]}, DataError, "too few for parts", id="empty-part"),
        pytest.param({"label_attribute": "x", "stratify": True}, ConfigError, "label_attribute: found 'x'", id="label"),
    ],
)
def test_split_bad_input_is_an_error(tmp_path, how, error, expected):
    with pytest.raises(error, match=expected):
        run(tmp_path, frames(10), **how)

    assert not (tmp_path / "part0").exists()


def test_outputs_are_as_many_as_parts(tmp_path):
    path = manifests.write(tmp_path / "a", frames(10))

    for outputs in ([tmp_path / "x"], [tmp_path / "x", tmp_path / "x"]):
        with pytest.raises(ConfigError, match="expected 2 different files"):
            split(path, outputs, SplitOptions([0.5]))
