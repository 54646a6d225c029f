"""The whole way as a newcomer goes it, small: real service, real measurements, a model that runs alone; and a service
that is killed in the middle of a training, started again, and ends it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.client import Client
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.schemas.searches import ExtendBody, SearchSchema
from server.cli.child_service import RunningService
from server.cli.demo import DemoProgress, ending, interruption
from server.cli.running import read_record
from server.settings import Settings
from tests.support.demo import check_result
from tests.support.engine import SPACE
from tests.support.steady_machine import run_job, workers_run
from tests.support.waiting import wait_for
from workers.processes import is_dead

pytestmark = pytest.mark.slow
NAS = [sys.executable, "-m", "server.cli"]


@pytest.mark.long
def test_the_demo_ends_with_one_json_object(tmp_path: Path) -> None:
    command = [*NAS, "demo", "--quick", "--json", "--home", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    check_result(json.loads(done.stdout))
    assert "1/4" in done.stderr
    assert "serve --home" in done.stderr


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """Child processes heed SIGINT, even if the tests were started in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.long
@pytest.mark.usefixtures("heeds_sigint")
def test_an_interrupted_demo_says_what_is_left_and_stops_its_service(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [*NAS, "demo", "--quick", "--home", str(home), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "profile: started" in line:
                break
        record = read_record(home)
        assert record is not None, "".join(lines)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Interrupted (in step 2 of 4, Make this machine a device)" in err
    assert f"demo --quick --home {home} --port 0" in err
    assert f"rm -r {home}" in err
    assert "Traceback" not in err
    assert is_dead(record.process)
    assert read_record(home) is None


def test_an_ending_names_one_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    started = RunningService("http://127.0.0.1:8765", started_here=True)
    usual = ending(started, Settings(), "abc")
    assert usual.splitlines()[1].split()[-1] == "serve"
    assert "http://127.0.0.1:8765/searches/abc" in usual
    other_home = Settings(home=tmp_path / "other home")
    command = ending(RunningService("http://127.0.0.1:1234", started_here=True), other_home, "abc").splitlines()[1]
    assert shlex.split(command)[1:] == ["serve", "--home", str(tmp_path / "other home"), "--port", "1234"]
    alive = ending(RunningService("http://127.0.0.1:1234", started_here=False), Settings(), "abc")
    assert alive.split()[-1] == "http://127.0.0.1:1234/searches/abc"
    assert "serve" not in alive


def test_an_interruption_deletes_no_older_searches(tmp_path: Path) -> None:
    started = RunningService("http://127.0.0.1:1", started_here=True)
    way = DemoProgress("in step 3 of 4, Search", started, "abc")
    assert f"rm -r {tmp_path}" in interruption(way, tmp_path, is_new=True)
    older = interruption(way, tmp_path, is_new=False)
    assert "rm -r" not in older
    assert "cancel abc" in older
    assert "delete abc" in older
    before = DemoProgress("in step 3 of 4, Search", RunningService("http://127.0.0.1:1", started_here=False), "abc")
    assert "goes on" in interruption(before, tmp_path, is_new=False)
    assert "Nothing was started" in interruption(DemoProgress(), tmp_path / "none", is_new=True)


class Service:
    """``nas serve`` as a child in a process group of its own, on the steady machine."""

    def __init__(self, home: Path, path: str) -> None:
        self.log = home / "serve.log"
        command = [sys.executable, "-m", "server.cli", "serve", "--home", str(home), "--port", "0"]
        with self.log.open("ab") as log:
            self.start = log.tell()
            self.child = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.client = Client(self._wait_for_url())

    def _wait_for_url(self) -> str:
        def url() -> str | None:
            assert self.child.poll() is None, self.log.read_text()
            with self.log.open() as log:
                log.seek(self.start)
                words = [w for line in log if "is ready" in line for w in line.split()]
            return next((w for w in words if w.startswith("http://")), None)

        return wait_for(url, 90)

    def kill(self) -> None:
        """Everything at once, as when the power goes."""
        self.client.close()
        os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def stop(self) -> None:
        self.client.close()
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(timeout=60)


def test_a_search_survives_kill_9_of_the_whole_service(tmp_path: Path) -> None:
    path = workers_run(run_job, tmp_path / "steady")
    service = Service(tmp_path, path)
    space, data = SpaceSpec(params=SPACE), DataSpec(params={"max_train": 160, "max_val": 120, "max_test": 120})
    spec = SearchSpec(
        name="survivor",
        space=space,
        data=data,
        strategy=StrategySpec(params={"epochs": 30, "batch_size": 40, "checkpoint_s": 0.5}),
        budget=BudgetSpec(evaluations=8, verified=2),
        export=ExportSpec(count=1, int8=False),
    )
    try:
        service.client.add_device(DeviceSpec(space=space, data=data, samples=32))
        for _ in service.client.watch_device("this-machine"):
            pass
        search = service.client.submit(spec)

        def halfway() -> int | None:
            train = {s.name: s for s in service.client.search(search.id).stages}["train"]
            kinds = [e.body["kind"] for e in service.client.events(search.id).items]
            return train.done if "checkpoint" in kinds and train.done >= 10 else None

        done = wait_for(halfway, 120)
        service.kill()
        service = Service(tmp_path, path)

        def ended() -> SearchSchema | None:
            view = service.client.search(search.id)
            return view if view.status not in ("queued", "running") else None

        view = wait_for(ended, 240)
        assert view.status == "succeeded", view.error
        assert view.attempts == 2
        steps = [
            e.body["done"]
            for e in service.client.events(search.id, limit=1000).items
            if e.body["kind"] == "progress" and e.body["stage"] == "train"
        ]
        assert max(steps) > done
        started = [
            e.body["stage"]
            for e in service.client.events(search.id, limit=1000).items
            if e.body["kind"] == "stage_started"
        ]
        assert started.count("estimate") == 1
        front = service.client.front(search.id)
        assert front.final
        assert front.members
        assert service.client.artifacts(search.id)

        # A child on the same supernet, with a bound: verified without any training.
        middle = sorted(p.metrics["measured_ms"].value for p in front.members)[-1] * 1.2
        child = service.client.extend(search.id, ExtendBody(evaluations=8, bounds={"latency": middle}))
        wait_for(lambda: True if service.client.search(child.id).status not in ("queued", "running") else None, 240)
        trained = {s.name: s for s in service.client.search(child.id).stages}["train"]
        assert trained.result["steps"] == 0
        assert all(p.metrics["measured_ms"].value <= middle for p in service.client.front(child.id).members)
    finally:
        service.stop()


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "server.cli", "serve", "--home", str(tmp_path / "home"), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert str(port) in done.stderr
    assert "--port" in done.stderr
    assert not (tmp_path / "home").exists()
