"""Work with a time limit: what comes in time is passed on, what does not is told, and no thread stays behind."""

import threading
import time
import types

import pytest

from ssd_train import parallel
from ssd_train.errors import DataError
from ssd_train.parallel import call_with_timeout, map_files


def helpers():
    return [thread for thread in threading.enumerate() if thread.name == "patience"]


@pytest.mark.parametrize("seconds", [0, 5])
def test_call_with_timeout_returns_the_result(seconds):
    assert call_with_timeout(lambda: 7, seconds, "a.png") == 7
    for error in (OSError("gone"), DataError("bad"), TimeoutError("of the work itself"), MemoryError()):
        with pytest.raises(type(error)) as raised:
            call_with_timeout(lambda error=error: (_ for _ in ()).throw(error), seconds, "a.png")
        assert raised.value is error


def test_call_with_timeout_late_call_raises_and_the_next_runs():
    gate = threading.Event()
    start = time.monotonic()
    with pytest.raises(DataError, match=r"^m:3: image 'a': nothing came within 0.2 s, expected a disk that answers$"):
        call_with_timeout(gate.wait, 0.2, "m:3: image 'a'")
    assert call_with_timeout(lambda: 1, 5, "b") == 1
    assert time.monotonic() - start < 3
    assert all(thread.daemon for thread in helpers()), "they would hold up the end of the program"
    gate.set()


def test_many_glances_share_a_limit_and_one_helper_thread_each_worker():
    before = len(helpers())
    seen = []

    def glance(item):
        seen.append(threading.current_thread().name)
        return call_with_timeout(lambda: item * 2, 5, str(item))  # part of the group's: no helper of a helper

    assert list(map_files(glance, list(range(500)), 2, seconds=5)) == [2 * item for item in range(500)]
    assert set(seen) == {"patience"} and len(helpers()) - before <= 2


@pytest.mark.parametrize("seconds, expected", [({1: 1, 3: 2}, 1), ({1: 2, 3: 1}, 3)], ids=["in-memory", "slow-disk"])
def test_as_many_threads_as_were_faster_at_first(monkeypatch, seconds, expected):
    """`seconds`: what the first items take by so many threads."""
    used = []
    real = parallel.ordered_map

    def in_order(make, items, workers, at_once):
        yield from real(make, items, workers, at_once)
        used.append(workers)

    clock = types.SimpleNamespace(perf_counter=lambda: sum(seconds[workers] for workers in used))
    monkeypatch.setattr(parallel, "time", clock)
    monkeypatch.setattr(parallel, "ordered_map", in_order)
    items = list(range(32 * (8 + 8 + 8 + 5) + 1))
    assert list(map_files(lambda item: -item, items, 3, seconds=5)) == [-item for item in items]
    assert used == [1, 1, 3, expected]


def test_a_slow_disk_is_not_read_twice():
    """Glances that together take longer than the limit, and each less: none is lost, and the helper that nobody waits
    for any more stops at its next."""
    glanced = []

    def glance(item):
        def look():
            glanced.append(item)
            time.sleep(0.02)
            return item

        return call_with_timeout(look, 5, str(item))

    assert list(map_files(glance, list(range(32)), 1, seconds=0.2)) == list(range(32))
    time.sleep(0.1)  # one who goes on would by now have done more
    twice = [item for item in range(32) if glanced.count(item) > 1]
    assert len(twice) <= 1 and len(glanced) == 32 + len(twice)


def test_a_glance_that_stands_still_costs_two_limits():
    gate = threading.Event()

    def glance(item):
        try:
            return call_with_timeout(lambda: gate.wait() if item == 3 else item, 0.8, f"m:{item}")
        except DataError:
            return None

    start = time.monotonic()
    found = list(map_files(glance, list(range(32)), 1, seconds=0.8))
    took = time.monotonic() - start
    gate.set()
    assert found.count(None) == 1 and 1.5 < took < 2.3
