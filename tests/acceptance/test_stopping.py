"""``nas serve`` with its real processes and short made-up jobs: Ray killed, the dispatcher killed, and told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.dispatching import submit
from tests.support.steady_machine import workers_run
from tests.support.waiting import wait_for
from workers.processes import descendants, is_alive, send_signal

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


class StoppableService:
    """``nas serve`` as a child, its log, and its processes."""

    def __init__(self, home: Path, *words: str, **settings: str) -> None:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("HWNAS_", "RAY_"))}
        own["PYTHONPATH"] = workers_run(fakes.run_fake_job, home / "inject")
        own |= {f"HWNAS_{k.upper()}": v for k, v in settings.items()}
        self.log = home / "serve.log"
        command = [sys.executable, "-m", "server.cli", "serve", "--home", str(home), "--port", "0", *words]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(command, stdout=log, stderr=log, env=own, start_new_session=True)

    def wait_for_line(self, words: str, count: int = 1) -> None:
        def condition() -> bool | None:
            assert self.child.poll() is None, self.log.read_text()
            return True if self.log.read_text().count(words) >= count else None

        wait_for(condition, 90)

    def pid_of(self, matches: Callable[[list[str]], bool]) -> int:
        for name in descendants(self.child.pid):
            pid = int(name.split(":")[1])
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except FileNotFoundError:
                continue
            if matches(words):
                return pid
        raise AssertionError(f"no such process; {self.log.read_text()}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{home / 'hwnas.db'}", str(home / "blobs")) as opened:
        fakes.add_device(opened)
        yield opened


@contextmanager
def serving(home: Path, *words: str, **settings: str) -> Iterator[StoppableService]:
    service = StoppableService(home, *words, **settings)
    try:
        yield service
    finally:
        descendant_processes = descendants(service.child.pid)
        service.child.kill()
        service.child.wait()
        for name in descendant_processes:
            send_signal(name, signal.SIGKILL)


def checkpoints(store: Store, search: str) -> list[int]:
    page, _ = store.queries.events(search, 0, 1000)
    return [e.body["step"] for e in page.items if e.body["kind"] == "checkpoint"]


def session(home: Path) -> Path | None:
    """The folder of the local Ray, as the dispatcher wrote it down."""
    for path in (home / "ray").glob("*.json"):
        record: dict[str, Any] = json.loads(path.read_text())
        if is_alive(record["owner"]):
            return Path(record["folder"])
    return None


@pytest.mark.long
def test_service_survives_killed_processes_and_stops_in_time(home: Path, store: Store) -> None:
    with serving(home, parallel_jobs="2") as service:
        service.wait_for_line("hwnas is ready: http://127.0.0.1:")
        slow = submit(store, "slow")

        def steps(count: int) -> Callable[[], bool | None]:
            return lambda: True if len(checkpoints(store, slow)) >= count else None

        wait_for(steps(1), 60)
        first = session(home)
        assert first is not None
        assert first.is_dir()

        # Ray goes: the dispatcher says so, leaves and is started anew; the job goes on from its last checkpoint.
        os.kill(service.pid_of(lambda words: words[0].endswith("/raylet")), signal.SIGKILL)
        killed = time.monotonic()
        service.wait_for_line("Ray's raylet has ended with status -9")
        service.wait_for_line("the dispatcher has ended with status 70; it restarts in")
        assert time.monotonic() - killed < 20.0  # not only after the health check's time limits
        service.wait_for_line("hwnas dispatcher is ready", 2)
        assert not first.exists()
        wait_for(steps(2), 60)
        second = session(home)
        assert second is not None
        assert second.is_dir()

        # The dispatcher goes without a word: its lease and its leftovers are found at its next start.
        os.kill(service.pid_of(lambda words: "dispatch" in words), signal.SIGKILL)
        service.wait_for_line("the dispatcher was killed by signal 9")
        service.wait_for_line("hwnas dispatcher is ready", 3)
        assert not second.exists()
        wait_for(steps(3), 60)

        # Told to stop: each job reaches its next durable result, or has had its time for that.
        silent = submit(store, "forever")
        wait_for(lambda: True if checkpoints(store, silent) else None, 60)
        before = checkpoints(store, slow)
        processes = [p for p in descendants(service.child.pid) if is_alive(p)]
        third = session(home)
        assert third is not None
        signalled_s = time.monotonic()
        service.child.send_signal(signal.SIGTERM)
        assert service.child.wait(timeout=60) == 0, service.log.read_text()
        took_s = time.monotonic() - signalled_s
        assert took_s < 30.0
        assert [p for p in processes if is_alive(p)] == []
        assert not third.exists()
        assert {store.queries.search(s).status for s in (slow, silent)} == {"queued"}
        assert len(checkpoints(store, slow)) > len(before)
        assert checkpoints(store, slow) == list(range(len(checkpoints(store, slow))))  # none twice, none left out
        assert store.queries.counts(60.0)[0] == 0  # it has signed off
        assert service.log.read_text().count("hwnas is ready") == 1
        assert "did not end within" not in service.log.read_text()


def test_server_without_dispatcher_does_not_import_ray(home: Path, store: Store) -> None:
    with serving(home, "--no-dispatch") as service:
        service.wait_for_line("hwnas is ready")
        assert descendants(service.child.pid) == []
        maps = Path(f"/proc/{service.child.pid}/maps").read_text()
        assert "/ray/_raylet" not in maps
        assert "/torch/" not in maps
        signalled_s = time.monotonic()
        service.child.send_signal(signal.SIGTERM)
        assert service.child.wait(timeout=30) == 0
        assert time.monotonic() - signalled_s < 15.0
