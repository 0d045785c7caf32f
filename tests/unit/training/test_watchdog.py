"""The watch over other hosts: what it hears on a connection, and that nothing ends it unseen."""

from __future__ import annotations

import socket

import pytest

from ssd_train.training import watchdog
from ssd_train.training.watchdog import Watchdog


@pytest.fixture
def watched(monkeypatch):
    """A watchdog at work, the other end of its connection, and what the process was ended with."""
    ended = []
    monkeypatch.setattr(watchdog, "end_process", ended.append)
    ours, theirs = socket.socketpair()
    watch = Watchdog({"algo-2": ours}, "algo-1", 0.6)
    with ours, theirs:
        yield watch, theirs, ended
        watch._leaving.set()
        watch.join(10)


@pytest.mark.parametrize(
    "line",
    [b"GET / HTTP/1.1", b"{", b"5", b"null", b"[]", b'"failed"', b'{"failed": 1}', b"\xff\xfe", b"[" * 100_000, b""],
    ids=["a-browser", "cut", "a-number", "null", "a-list", "a-text", "a-reason-of-1", "no-utf8", "deep", "empty"],
)
def test_a_host_that_says_what_is_no_sign_of_life_is_lost(watched, line):
    watch, theirs, ended = watched
    watch.start()
    theirs.sendall(line + b"\n")
    assert watch.known.wait(10)
    watch.join(10)
    expected = f"host algo-2 is lost: found {line[:40]!r} on its connection, expected a sign of life"
    assert ended == [expected]


def test_a_watch_that_fails_ends_the_process_with_its_reason(watched, monkeypatch):
    """Not only its thread: this host would send no more beats, and hear none."""
    watch, theirs, ended = watched
    monkeypatch.setattr(watch, "_look_for_silence", lambda: {}["algo-3"])
    watch.start()
    watch.join(10)
    assert ended == ["the watch of host algo-1 has failed: KeyError: 'algo-3'"]
    assert b'{"failed": "the watch of host algo-1 has failed' in theirs.recv(65536), "the others are told"


def test_signs_of_life_and_a_farewell_are_understood(watched):
    watch, theirs, ended = watched
    watch.start()
    theirs.sendall(b'{"beat": 1}\n{"be')
    theirs.sendall(b'at": 1}\n{"bye": 1}\n')
    assert not watch.known.wait(1.0) and ended == [] and watch.lost is None
