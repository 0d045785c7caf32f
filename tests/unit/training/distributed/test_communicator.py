"""Tests of control messages between processes and of the rendezvous, without MXNet."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.jobs import failure_of, free_port, make_opt_ml, plain_environment

from ssd_train import __version__
from ssd_train.errors import ConfigError, WorkerLost
from ssd_train.training.distributed.communicator import ControlGroup
from ssd_train.training.distributed.rendezvous import RankInfo, receive, rendezvous, send

NAMES = ("algo-1", "algo-2", "algo-3")


def place(rank, port, names=NAMES):
    return RankInfo(rank, len(names), names, "127.0.0.1", port)


def join_all(port, names=NAMES, seconds=20.0):
    """Return all peers of a job by rank, each joined in its own thread."""
    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(lambda rank: ControlGroup(place(rank, port, names), 30, seconds), range(len(names))))


@pytest.fixture(scope="module")
def three():
    """Three peers in one process."""
    peers = join_all(free_port())
    yield peers
    everywhere(peers, ControlGroup.close)


def everywhere(peers, call):
    """Call `call(peer)` for all at once; return the results by rank."""
    with ThreadPoolExecutor(len(peers)) as pool:
        return list(pool.map(call, peers))


def test_gather_returns_payloads_by_rank(three):
    found = everywhere(three, lambda peer: peer.gather(f"of {peer.rank_info.rank}".encode()))
    assert found == [[b"of 0", b"of 1", b"of 2"], None, None]


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_share_sends_rank_0s_payload_to_all(three, size):
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert everywhere(three, lambda peer: peer.broadcast(sent if peer.rank_info.rank == 0 else b"other")) == [sent] * 3


def test_gather_and_share_messages_do_not_mix(three):
    def talk(peer):
        return [peer.broadcast(str(number).encode()) for number in range(200) if peer.gather(b"a") is not number]

    assert everywhere(three, talk) == [[str(number).encode() for number in range(200)]] * 3


def test_receive_message_over_the_limit_raises():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, b"12345")
        with pytest.raises(ConnectionError, match="5 bytes.*4"):
            receive(theirs, limit=4)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a-browser"),
        pytest.param(b"\0" * 7 + b"\x02{}", id="an-empty-document"),
        pytest.param(b"\0" * 7 + b"\x01[", id="no-document"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 6 + b"\x0b\xb8" + b"[" * 3000, id="a-deep-document"),
    ],
)
def test_rendezvous_ignores_foreign_connections(said):
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(ControlGroup, place(0, port, NAMES[:2]), 30, 20)
        visit(port, said)
        peers = [leader.result, pool.submit(ControlGroup, place(1, port, NAMES[:2]), 30, 20).result]
        peers = [result() for result in reversed(peers)][::-1]
    assert everywhere(peers, lambda peer: peer.broadcast(b"x")) == [b"x", b"x"]
    everywhere(peers, ControlGroup.close)


def visit(port, said):
    """Connect to rank 0, send something, and disconnect."""
    with connected(port) as link:
        link.sendall(said)


def connected(port):
    """Return a connection to rank 0, once it listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_rendezvous_worker_of_another_job_raises_on_both_sides():
    port = free_port()

    def join(rank):
        names = NAMES[:2] if rank == 0 else ("algo-1", "algo-7")
        with pytest.raises(ConfigError) as error:
            ControlGroup(place(rank, port, names), 30, 20)
        return str(error.value)

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(join, range(2)))
    assert told[0] == told[1] and "expected" in told[0] and "algo-7" in told[0]


def test_rendezvous_silent_or_slow_connections_do_not_block():
    port, names = free_port(), NAMES[:2]
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as links:
        start = time.monotonic()
        leader = pool.submit(ControlGroup, place(0, port, names), 30, 20)
        for said in (b"", b"", b"\0" * 7, b"\0" * 7 + b"\x09{"):
            link = links.enter_context(connected(port))
            link.sendall(said)
        peers = [leader, pool.submit(ControlGroup, place(1, port, names), 30, 20)]
        peers = [peer.result() for peer in peers]
        assert time.monotonic() - start < 5
    everywhere(peers, ControlGroup.close)


def test_rendezvous_duplicate_rank_raises():
    """A worker started twice: the first would wait forever for the answers sent to the second."""
    port = free_port()

    def join(rank):
        with pytest.raises((ConfigError, WorkerLost)) as error:
            ControlGroup(place(rank, port), 30, 10)
        return str(error.value)

    with ThreadPoolExecutor(3) as pool:
        messages = list(pool.map(join, [0, 1, 1]))
    assert messages[0].startswith("host algo-2: found two processes of rank 1") and messages[0] in messages[1:]


def hello_of(rank):
    return {"ssd_train": __version__, "kind": "talk", "rank": rank, "names": list(NAMES)}


@pytest.mark.parametrize(
    "rank, expected",
    [
        pytest.param(1, (WorkerLost, "host algo-2 is gone: "), id="one-of-ours"),
        pytest.param(7, (ConfigError, "host 7: found .*, expected "), id="one-of-another-job"),
    ],
)
def test_rendezvous_worker_dead_after_handshake_raises(monkeypatch, rank, expected):
    """It dies before rank 0 has answered."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        monkeypatch.setattr(
            "ssd_train.training.distributed.rendezvous._handshakes",
            lambda *_: ((ours, hello_of(number)) for number in [rank]),
        )
        with pytest.raises(expected[0], match=expected[1]):
            rendezvous(place(0, free_port()), time.monotonic() + 5)


@pytest.mark.parametrize(
    "rank, expected",
    [
        pytest.param(0, "host algo-2, algo-3 ", id="the-others-do-not-come"),
        pytest.param(1, r"host algo-1 \(port \d+\) ", id="the-leader-does-not-come"),
    ],
)
def test_rendezvous_missing_hosts_raise(rank, expected):
    with pytest.raises(WorkerLost, match=expected):
        ControlGroup(place(rank, free_port()), 30, join_seconds=0.5)


WORKER = """
import sys, time
from ssd_train.errors import WorkerLost
from ssd_train.training.distributed.rendezvous import RankInfo
from ssd_train.training.distributed.communicator import ControlGroup
rank, port, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
peers = ControlGroup(RankInfo(rank, 3, ("algo-1", "algo-2", "algo-3"), "127.0.0.1", port), 3.0, 30)
peers.broadcast(b"")
if rank == 1 and what == "fail":
    peers.abort("found no disk", 7)
    sys.exit(7)
if rank == 1 and what == "leave":
    sys.exit(0)
print("ready", flush=True)
if what == "slow" and rank == 0:
    time.sleep(4)    # longer than the others' patience, as an evaluation may be
if what == "stuck" or rank == 1 and what != "slow":
    time.sleep(60)   # as in MXNet's C++, where no exception reaches
try:
    peers.gather(b"")
    peers.broadcast(b"")
except WorkerLost as error:
    peers.abort(str(error), error.exit_code)
    sys.exit(f"error: {error}")
peers.close()
"""


def start_three(folder, what):
    port, processes = free_port(), []
    for rank in range(3):
        make_opt_ml(folder / str(rank), {}, {})
        variables = plain_environment(SAGEMAKER_BASE_DIR=str(folder / str(rank)))
        command = [sys.executable, "-c", WORKER, str(rank), str(port), what]
        processes.append(
            subprocess.Popen(
                command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
            )
        )
    return processes


@pytest.fixture
def processes(request, tmp_path):
    """Three processes whose second does what the test is about."""
    started = start_three(tmp_path, request.param)
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("processes", ["slow"], indirect=True)
def test_slow_process_is_waited_for(processes):
    """A process sends heartbeats while its main thread works."""
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors


@pytest.mark.parametrize("processes", ["fail"], indirect=True)
def test_failing_process_ends_all_with_its_reason(processes):
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert processes[1].returncode == 7
    for rank in (0, 2):
        assert processes[rank].returncode == 7, "as the one that failed"
        assert "host algo-2 failed: found no disk" in errors[rank]


@pytest.mark.parametrize("processes, waits_in_a_library", [("kill", False), ("stuck", True)], indirect=["processes"])
def test_dead_process_ends_all_with_its_name(processes, tmp_path, waits_in_a_library):
    """Whether they wait for a message or in a library, where the watchdog writes the failure file."""
    assert processes[1].stdout.readline() == "ready\n"
    processes[1].kill()
    killed = time.monotonic()
    errors = [processes[rank].communicate(timeout=30)[1] for rank in (0, 2)]
    assert time.monotonic() - killed < 3.0
    for rank, error in zip((0, 2), errors):
        assert processes[rank].returncode == 1 and "host algo-2 is gone: " in error
    if waits_in_a_library:
        assert [failure_of(tmp_path / str(rank))[:20] for rank in (0, 2)] == ["host algo-2 is gone:"] * 2


@pytest.mark.parametrize("processes", ["leave"], indirect=True)
def test_process_that_closes_its_connection_ends_all(processes):
    """A program that ends in the middle of a job, with exit code 0 or not."""
    errors = [processes[rank].communicate(timeout=30)[1] for rank in (0, 2)]
    assert all("host algo-2 is gone: " in error for error in errors)
