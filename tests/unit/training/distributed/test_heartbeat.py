"""Tests of heartbeats between hosts."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from ssd_train.training.distributed import heartbeat
from ssd_train.training.distributed.heartbeat import LINE_BYTES, Heartbeat


@pytest.fixture
def watched(monkeypatch):
    """Return a running watchdog, the other end of its connection, and the recorded end of the process."""
    ended = []
    monkeypatch.setattr(heartbeat, "end_process", lambda message, code: ended.append((message, code)))
    ours, theirs = socket.socketpair()
    watch = Heartbeat({"algo-2": ours}, "algo-1", 0.6)
    with ours, theirs:
        yield watch, theirs, ended
        watch._leaving.set()
        watch.join(10)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"GET / HTTP/1.1", id="a-browser"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"5", id="a-number"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b'"failed"', id="a-text"),
        pytest.param(b'{"failed": 1}', id="a-reason-of-1"),
        pytest.param(b'{"failed": "", "code": 0}', id="failed-with-code-0"),
        pytest.param(b'{"failed": "", "code": 256}', id="failed-with-code-256"),
        pytest.param(b'{"failed": "", "code": 1.0}', id="failed-with-code-1.0"),
        pytest.param(b"\xff\xfe", id="no-utf8"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"", id="empty"),
    ],
)
def test_watchdog_invalid_message_loses_the_host(watched, line):
    watch, theirs, ended = watched
    watch.start()
    theirs.sendall(line + b"\n")
    assert watch.known.wait(10)
    watch.join(10)
    expected = f"host algo-2 is lost: found {line[:40]!r} on its connection, expected a sign of life"
    assert ended == [(expected, 1)]


@pytest.mark.parametrize("said, code", [(b"", 1), (b', "code": 2', 2), (b', "code": 130', 130)])
def test_watchdog_failure_ends_all_with_its_exit_code(watched, said, code):
    watch, theirs, ended = watched
    watch.start()
    theirs.sendall(b'{"failed": "found no disk"' + said + b"}\n")
    watch.join(10)
    assert ended == [("host algo-2 failed: found no disk", code)]
    heard = theirs.recv(65536).splitlines()
    assert json.loads(heard[-1]) == {"failed": "host algo-2 failed: found no disk", "code": code}, "it is passed on"


def test_watchdog_internal_error_ends_the_process(watched, monkeypatch):
    """Without its thread this host would neither send nor receive heartbeats."""
    watch, theirs, ended = watched
    monkeypatch.setattr(watch, "_look_for_silence", lambda: {}["algo-3"])
    watch.start()
    watch.join(10)
    assert ended == [("the watch of host algo-1 has failed: KeyError: 'algo-3'", 1)]
    assert b'{"failed": "the watch of host algo-1 has failed' in theirs.recv(65536), "the others are told"


def test_watchdog_heartbeat_and_bye_are_accepted(watched):
    watch, theirs, ended = watched
    watch.start()
    theirs.sendall(b'{"beat": 1}\n{"be')
    theirs.sendall(b'at": 1}\n{"bye": 1}\n')
    assert not watch.known.wait(1.0) and ended == [] and watch.lost is None


def test_watchdog_endless_line_is_bounded(watched):
    watch, theirs, ended = watched
    watch.start()
    theirs.settimeout(2)
    with contextlib.suppress(OSError):  # at some time nobody takes it any more
        for _ in range(1000):
            theirs.sendall(b"x" * 65536)
    assert watch.known.wait(10)
    watch.join(10)
    (message, _), *others = ended
    assert message == "host algo-2 is lost: found 1048576 bytes and no end of line, expected a sign of life"
    assert not others and len(watch._partial["algo-2"]) <= LINE_BYTES + 65536
