"""The supervisor with small children, and what is left of dead processes. No Ray."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.cli.serve import Announcement
from server.cli.supervise import Supervisor
from workers.processes import (
    ProcessRecord,
    descendants,
    is_alive,
    is_dead,
    kill_orphans,
    own_process_name,
    process_name,
)

SECONDS = 30.0
PRELUDE = "import os, signal, socket, sys, time\nchannel = socket.socket(fileno=int(sys.argv[1]))\n"
WAITS = PRELUDE + "channel.sendall(b'ready')\nwhile channel.recv(9): pass\n"


class RecordedMessages:
    """What a supervisor said and when its children were ready."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ready = threading.Semaphore(0)
        self.heard = threading.Semaphore(0)

    def say(self, text: str) -> None:
        self.texts.append(text)
        self.heard.release()


@contextmanager
def supervising(code: str, messages: RecordedMessages, **changes: float) -> Iterator[Supervisor]:
    options = {"first_pause_s": 0.01, **changes}
    command = [sys.executable, "-S", "-c", code]
    one = Supervisor("child", command, dict(os.environ), say=messages.say, ready=messages.ready.release, **options)  # type: ignore[arg-type]
    one.start()
    try:
        yield one
    finally:
        one.stop()


def child_of(one: Supervisor) -> subprocess.Popen[bytes]:
    assert one._child is not None
    return one._child


def test_child_restarts_after_a_growing_pause() -> None:
    messages = RecordedMessages()
    with supervising(WAITS, messages) as one:
        for _ in range(3):
            assert messages.ready.acquire(timeout=SECONDS)
            os.kill(child_of(one).pid, signal.SIGKILL)
            assert messages.heard.acquire(timeout=SECONDS)
        assert messages.ready.acquire(timeout=SECONDS)
    pauses = [float(text.rsplit(" ", 2)[1]) for text in messages.texts]
    assert pauses == [0.01, 0.02, 0.04]
    assert messages.texts[0].startswith("the child was killed by signal 9; it restarts in")
    assert child_of(one).poll() is not None


def test_stopped_child_does_not_restart() -> None:
    messages = RecordedMessages()
    with supervising(WAITS + "time.sleep(60)", messages) as one:
        assert messages.ready.acquire(timeout=SECONDS)
        one.stop()
        assert child_of(one).returncode == -signal.SIGTERM
    assert messages.texts == []


def test_unresponsive_child_is_killed_with_its_process_group() -> None:
    messages = RecordedMessages()
    deaf = (
        PRELUDE
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + "pid = os.fork()\n"
        + "if pid: channel.sendall(f'ready {pid}'.encode())\n"
        + "time.sleep(600)\n"
    )
    with supervising(deaf, messages, kill_s=0.2) as one:
        assert messages.ready.acquire(timeout=SECONDS)
        [grandchild] = descendants(child_of(one).pid)
        one.stop()
    assert child_of(one).returncode == -signal.SIGKILL
    assert is_dead(grandchild) or wait_dead(grandchild)
    assert messages.texts == ["the child did not end within 0.2 s and is killed"]


def wait_dead(name: str) -> bool:
    done = threading.Event()
    for _ in range(100):
        if is_dead(name):
            return True
        done.wait(0.05)
    return False


def test_child_exits_when_its_parent_dies(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\nfrom server.cli.supervise import Supervisor\n"
        "ready = threading.Event()\n"
        f"one = Supervisor('child', [sys.executable, '-S', '-c', {WAITS!r}], dict(os.environ), say=print,"
        " ready=ready.set)\n"
        "one.start(); ready.wait(); print(one._child.pid, flush=True); ready.clear(); ready.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = process_name(int(parent.stdout.readline()))
        assert is_alive(child)
        parent.kill()
        parent.wait()
    assert wait_dead(child)


def test_ready_is_announced_once_when_every_part_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    announce = Announcement("all is ready", {"a", "b"})
    announce("a")
    announce("a")
    assert capsys.readouterr().err == ""
    announce("b")
    announce("b")
    assert capsys.readouterr().err == "all is ready\n"


def test_orphans_of_a_dead_process_are_killed_by_identity(tmp_path: Path) -> None:
    records, folder, other_folder = tmp_path / "ray", tmp_path / "session", tmp_path / "others"
    code = (
        "import subprocess, sys\nfrom pathlib import Path\nfrom workers.processes import ProcessRecord\n"
        f"folder = Path({str(folder)!r}); folder.mkdir()\n"
        f"record = ProcessRecord(Path({str(records)!r}) / 'one.json', folder)\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        "record.update()\nprint(child.pid, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        child_name = process_name(int(owner.stdout.readline()))
        assert kill_orphans(records) == 0  # its owner lives
        assert is_alive(child_name)
        owner.kill()
        owner.wait()
    assert is_alive(child_name)
    other_folder.mkdir()
    record = json.loads((records / "one.json").read_text())
    assert record["processes"] == [child_name]
    host, _, start = child_name.split(":")
    mine = {"owner": f"{host}:1:0", "folder": str(tmp_path / "none"), "processes": [f"{host}:{os.getpid()}:{start}"]}
    (records / "two.json").write_text(json.dumps(mine))  # its number is used by another process now: by us
    far = {"owner": "elsewhere:1:0", "folder": str(other_folder), "processes": []}
    (records / "far.json").write_text(json.dumps(far))
    assert kill_orphans(records) == 1
    assert wait_dead(child_name)
    assert not folder.exists()
    assert other_folder.exists()
    assert [path.name for path in records.iterdir()] == ["far.json"]  # another host cleans up after itself


def test_record_is_removed_at_a_regular_exit(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    record = ProcessRecord(tmp_path / "ray" / "one.json", folder)
    assert json.loads((tmp_path / "ray" / "one.json").read_text())["owner"] == own_process_name()
    record.close()
    assert not folder.exists()
    assert list((tmp_path / "ray").iterdir()) == []
    assert socket.gethostname() in own_process_name()
