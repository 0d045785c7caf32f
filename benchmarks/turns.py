"""Contestants that take turns, and figures of what they reached.

Other work on a machine can only slow a turn down, so the best turn is the steadiest figure; medians and the middle half
of the turns stand beside it. Ratios are of neighbouring turns, which share whatever else the machine was doing.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Callable, Dict, List, Sequence

Turn = Callable[[], int]  # does its work once; returns how many items that were


def alternate(contestants: Dict[str, Turn], rounds: int, warm_up: int = 1) -> Dict[str, List[float]]:
    """Items per second of each turn of each contestant, by name; `warm_up` rounds before do not count."""
    speeds: Dict[str, List[float]] = {name: [] for name in contestants}
    for turn in range(warm_up + rounds):
        for name, work in contestants.items():
            start = time.perf_counter()
            items = work()
            seconds = time.perf_counter() - start
            if turn >= warm_up:
                speeds[name].append(items / seconds)
    return speeds


def figures(speeds: Sequence[float]) -> Dict[str, Any]:
    """Best, median and the middle half of `speeds`."""
    return {"best": rounded(max(speeds)), "median": rounded(statistics.median(speeds)), "middle half": spread(speeds)}


def times_as_fast(ours: Sequence[float], theirs: Sequence[float]) -> Dict[str, Any]:
    """How many times as fast ours are: best by best, the median over pairs of turns, and its middle half."""
    pairs = [a / b for a, b in zip(ours, theirs)]
    return {
        "ratio of bests": rounded(max(ours) / max(theirs)),
        "median ratio": rounded(statistics.median(pairs)),
        "middle half of ratios": spread(pairs),
    }


def spread(values: Sequence[float]) -> str:
    """Return the outer quartiles of `values` as text, or the only value."""
    if len(values) == 1:
        return f"{rounded(values[0])}"
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{rounded(low)} to {rounded(high)}"


def rounded(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")
