"""Work by threads: in order, a little ahead, errors passed on, and nothing left running."""

from __future__ import annotations

import threading
import time

import pytest

from ssd_train.parallel import ordered_map


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 200])
def test_results_come_in_order(count):
    assert list(ordered_map(lambda item: (time.sleep(item % 3 / 1000), item)[1], range(count), 3)) == list(range(count))


def test_runs_only_a_little_ahead():
    done = []
    results = ordered_map(done.append, range(10_000), 2)
    next(results)
    results.close()
    assert len(done) < 200


def test_error_ends_the_work_and_its_threads():
    def fail_at_20(item):
        if item == 20:
            raise ValueError("20")
        return item

    before = threading.active_count()
    results = ordered_map(fail_at_20, range(1000), 2)
    with pytest.raises(ValueError, match="20"):
        list(results)
    assert threading.active_count() == before
