"""Images that go bad during a run: an error, or left out, told once, and not too many."""

import pytest
from helpers.data import HeardProgress

from ssd_train.data.loaders import BadSampleHandler
from ssd_train.errors import DataError


def reader(bad, asked=None):
    def read(key):
        if asked is not None:
            asked.append(key)
        if key in bad:
            raise DataError(f"m:{key}: gone")
        return f"sample {key}"

    return read


def test_with_error_the_first_fault_is_raised():
    handler = BadSampleHandler(4)
    with pytest.raises(DataError, match="^m:1: gone$"):
        handler.first_valid([1, 2], reader({1}))
    with pytest.raises(DataError, match="^m:1: gone$"):
        handler.valid([0, 1], reader({1}))


def test_loader_skip_replaces_a_bad_sample_and_warns_once():
    progress, asked = HeardProgress(), []
    handler = BadSampleHandler(4, "skip", progress)
    for _ in range(2):
        assert handler.first_valid([1, 2, 3], reader({1}, asked)) == (2, "sample 2")
    assert asked == [1, 2, 2], "what is left out is not tried again"
    assert handler.valid([0, 1, 2], reader({1, 2})) == [(0, "sample 0")]
    assert progress.warnings == [
        "left out: m:1: gone; another takes its place",
        "left out: m:2: gone; scores are without it",
    ]


def test_loader_skip_with_too_many_bad_samples_is_an_error():
    handler = BadSampleHandler(4, "skip", HeardProgress())
    with pytest.raises(DataError, match="^m:2: gone: 3 of 4 images cannot be used any more, expected most of them$"):
        handler.valid([0, 1, 2, 3], reader({0, 1, 2}))
