"""The hold-out split: duplicates and groups on one side, the same split for any order, both sides filled."""

import random

import pytest

from ssd_train.data.split import fold_of_each, image_hash, split_by_hash, unseen_classes
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError


def labels(*names, class_id=0):
    records = [LabeledImage(name, [[0, 0, 5, 5]], [class_id], where=f"m:{line}") for line, name in enumerate(names, 1)]
    return Labels(tuple(records), ClassNames(("cat", "dog")), source="m")


def names(side):
    return [record.name for record in side.records]


def own_content(record):
    return f"bytes of {record.name}"


def not_at_hand(record):
    return ""


THOUSAND = [f"s3://b/frames/video_{i // 10:03d}/frame_{i % 10}.jpg" for i in range(1000)]


@pytest.mark.parametrize("content_hash", [own_content, not_at_hand], ids=["by content", "by name"])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_fraction_is_close_and_nothing_is_lost(content_hash, fraction):
    train, validation = split_by_hash(labels(*THOUSAND), fraction, content_hash)
    # three standard deviations of a draw of 1000
    assert abs(len(validation) / 1000 - fraction) < 3 * (fraction * (1 - fraction) / 1000) ** 0.5
    assert sorted(names(train) + names(validation)) == THOUSAND


def test_duplicates_stay_on_one_side_and_do_not_draw_each_other_in():
    # pairs of the same bytes under two names
    train, validation = split_by_hash(labels(*THOUSAND), 0.2, lambda record: str(THOUSAND.index(record.name) // 2))
    held_out = {THOUSAND.index(name) for name in names(validation)}
    assert all((index ^ 1) in held_out for index in held_out)
    assert 120 < len(held_out) < 280


def test_larger_groups_are_not_held_out_more_often():
    _, validation = split_by_hash(labels(*THOUSAND), 0.2, own_content, r"video_\d+")
    assert 80 < len(validation) < 320


def test_groups_stay_together():
    train, validation = split_by_hash(labels(*THOUSAND), 0.2, own_content, r"/(video_\d+)/")
    videos = [{name.split("/")[4] for name in names(side)} for side in (train, validation)]
    assert all(videos) and not videos[0] & videos[1]


def chain(record):
    # the last frame of each video has the bytes of the first of the next, up to video 3
    video, frame = int(record.name[1]), int(record.name[3])
    return (
        f"shared {video}"
        if (frame == 2 and video < 3)
        else f"shared {video - 1}"
        if (frame == 0 and 0 < video <= 3)
        else record.name
    )


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_join_their_groups(seed):
    frames = [f"v{video}f{frame}" for video in range(8) for frame in range(3)]
    random.Random(seed).shuffle(frames)
    train, validation = split_by_hash(labels(*frames), 0.4, chain, r"v\d")
    sides = {name[:2]: side for side in (0, 1) for name in names((train, validation)[side])}
    assert len({sides[f"v{video}"] for video in range(4)}) == 1
    assert len(train) and len(validation)


def test_records_that_match_no_group_stand_alone():
    frames = [f"video_{i % 2}/{i}.jpg" for i in range(20)] + [f"single_{i}.jpg" for i in range(200)]
    train, validation = split_by_hash(labels(*frames), 0.5, own_content, r"video_\d")
    assert all(sum(name.startswith("single") for name in names(side)) > 60 for side in (train, validation))


@pytest.mark.parametrize("group_regex", [None, r"video_\d+"])
def test_order_of_lines_does_not_matter(group_regex):
    shuffled = random.Random(3).sample(THOUSAND, len(THOUSAND))
    first = split_by_hash(labels(*THOUSAND), 0.2, chain_of_ten, group_regex)
    second = split_by_hash(labels(*shuffled), 0.2, chain_of_ten, group_regex)
    assert set(names(first[1])) == set(names(second[1]))


def chain_of_ten(record):
    # every 97th image repeats the first of its hundred: joins some videos
    index = THOUSAND.index(record.name)
    return str(index // 100) if index % 97 == 0 else record.name


def test_other_records_do_not_move_a_record():
    _, all_of_them = split_by_hash(labels(*THOUSAND), 0.2, own_content)
    _, half = split_by_hash(labels(*THOUSAND[:500]), 0.2, own_content)
    assert names(half) == [name for name in names(all_of_them) if name in THOUSAND[:500]]


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_neither_side_is_empty(fraction, count):
    train, validation = split_by_hash(labels(*THOUSAND[:count]), fraction, own_content)
    assert min(len(train), len(validation)) == 1


def test_split_by_hash_holds_out_at_least_the_smallest_hash():
    _, one = split_by_hash(labels(*THOUSAND), 1e-9, own_content)
    _, few = split_by_hash(labels(*THOUSAND), 0.02, own_content)
    assert len(few) > 1 and names(one)[0] in names(few)


@pytest.mark.parametrize("images", [THOUSAND[:1], THOUSAND[:5]], ids=["one image", "five of one video"])
def test_nothing_to_hold_out_is_an_error(images):
    with pytest.raises(DataError, match=f"^m: found {len(images)} images that are all the same or of one group"):
        split_by_hash(labels(*images), 0.2, own_content, r"video_\d+")


SETTINGS = {
    "fraction 0": (0, None, "validation_fraction: found 0"),
    "fraction 1": (1, None, "validation_fraction: found 1"),
    "fraction NaN": (float("nan"), None, "validation_fraction: found nan"),
    "regex broken": (0.2, "video_(", "split_group: found 'video_\\(', expected a regular expression"),
    "regex matches nothing": (
        0.2,
        "clip_",
        "split_group: 'clip_' matches no name.*the first is 's3://b/frames/video_000",
    ),
}


@pytest.mark.parametrize("fraction, group_regex, message", SETTINGS.values(), ids=SETTINGS.keys())
def test_impossible_settings_are_refused(fraction, group_regex, message):
    with pytest.raises(ConfigError, match=message):
        split_by_hash(labels(*THOUSAND[:5]), fraction, own_content, group_regex)


def test_unseen_classes_are_those_missing_from_training():
    assert unseen_classes(labels("a"), labels("b", class_id=1)) == ["dog"]
    assert unseen_classes(labels("a"), labels("b")) == []


class Folder:
    """An image source of two equal images; a third is missing."""

    def read(self, record):
        if record.name == "missing":
            raise DataError("missing: no such image")
        return b"the same"

    def locate(self, record):
        return record.name


def test_hash_of_image_is_of_its_bytes_or_empty():
    content_hash = image_hash(Folder())
    one, two, missing = labels("one", "two", "missing").records
    assert content_hash(one) == content_hash(two) and len(content_hash(one)) == 64
    assert content_hash(missing) == ""


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_are_even_and_do_not_depend_on_the_order(folds):
    all_names = [f"{index}.jpg" for index in range(40)]
    pairs = {name: f"{index // 2}" for index, name in enumerate(all_names)}  # of equal images
    numbers = fold_of_each(labels(*all_names), folds, lambda record: pairs[record.name])
    assert numbers[::2] == numbers[1::2]
    sizes = [numbers.count(fold) for fold in range(folds)]
    assert max(sizes) - min(sizes) <= 2 and sum(sizes) == 40
    again = fold_of_each(labels(*all_names[::-1]), folds, lambda record: pairs[record.name])
    assert again == numbers[::-1]


def test_fewer_images_than_folds_are_refused():
    with pytest.raises(DataError):
        fold_of_each(labels("a", "b", "c", "d"), 3, lambda record: "one" if record.name < "c" else "two")


def test_frames_of_a_group_share_a_fold():
    numbers = fold_of_each(labels(*THOUSAND), 3, not_at_hand, r"video_\d+")
    assert [len(set(numbers[start : start + 10])) for start in range(0, 1000, 10)] == [1] * 100
    assert max(numbers.count(fold) for fold in range(3)) - min(numbers.count(fold) for fold in range(3)) <= 10
