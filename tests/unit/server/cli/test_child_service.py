"""The service that ``nas demo`` starts: its record in the home folder, the wait for it, and when it is refused."""

from __future__ import annotations

import io
import socket
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from nas.client import Client
from nas.core.errors import Conflict, InvalidInput, StorageError
from server.cli import child_service
from server.cli.child_service import REPEAT_S, ServiceNotStarted, WaitLine, service_of
from server.cli.running import ServiceRecord, read_record, recorded
from server.settings import Settings
from tests.support.seeded_service import seeded_service
from workers.processes import own_process_name


def screen() -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_service_is_on_record_while_it_runs(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    with recorded(tmp_path, "http://127.0.0.1:1"):
        assert read_record(tmp_path) == ServiceRecord(url="http://127.0.0.1:1", process=own_process_name())
    assert read_record(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_record_of_a_later_service_stays(tmp_path: Path) -> None:
    later = ServiceRecord(url="http://127.0.0.1:2", process="elsewhere:1:1").model_dump_json()
    with recorded(tmp_path, "http://127.0.0.1:1"):
        (tmp_path / "service.json").write_text(later)
    assert (tmp_path / "service.json").read_text() == later


def test_a_dead_process_serves_nothing(tmp_path: Path) -> None:
    host, pid, _ = own_process_name().split(":", 2)
    dead = ServiceRecord(url="http://127.0.0.1:1", process=f"{host}:{pid}:0")
    (tmp_path / "service.json").write_text(dead.model_dump_json())
    assert read_record(tmp_path) is None


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "service.json").write_text("{")
    with pytest.raises(StorageError, match="Delete it"):
        read_record(tmp_path)


def test_a_wait_is_reported_on_change_and_again_after_a_while() -> None:
    now = 100.0
    console = screen()
    with WaitLine(console, clock=lambda: now) as wait:
        wait.update("for [a]")
        now += REPEAT_S / 2
        wait.update("for [a]")
        now += REPEAT_S / 2
        wait.update("for [a]")
        wait.update("for b")
    assert text_of(console).splitlines() == ["for [a]: 0 s", "for [a]: 15 s", "for b: 15 s"]


def test_a_service_of_the_same_home_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded_service(tmp_path) as seeded:
        monkeypatch.setattr(child_service, "Client", partial(Client, transport=seeded.transport))
        with (
            recorded(tmp_path, "http://127.0.0.1:1"),
            service_of(Settings(home=tmp_path), screen(), port_given=True) as service,
        ):
            assert service.url == "http://127.0.0.1:1"
            assert not service.started_here


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(database_url="postgresql://team/nas"), "HWNAS_DATABASE_URL"),
        (Settings(blobs_url="s3://team/nas"), "HWNAS_BLOBS_URL"),
        (Settings(ray_address="head:6379"), "HWNAS_RAY_ADDRESS"),
        (Settings(dispatch=False), "HWNAS_DISPATCH"),
        (Settings(host="0.0.0.0"), "HWNAS_HOST"),
    ],
)
def test_a_service_beyond_this_machine_is_not_started(settings: Settings, name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with (
        pytest.raises(InvalidInput, match=name),
        service_of(settings.model_copy(update={"home": home}), screen(), port_given=False),
    ):
        pass
    assert not home.exists()


def test_a_given_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        settings = Settings(home=home, port=listener.getsockname()[1])
        with pytest.raises(Conflict, match="--port"), service_of(settings, screen(), port_given=True):
            pass
    assert not home.exists()


@pytest.mark.long
@pytest.mark.slow
def test_a_service_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "hwnas.db").write_bytes(b"no database" * 1000)
    with (
        pytest.raises(ServiceNotStarted, match=r"did not start; the end of .*serve\.log"),
        service_of(Settings(home=tmp_path, port=0), screen(), port_given=True),
    ):
        pass


@pytest.mark.long
@pytest.mark.slow
def test_a_port_in_use_that_nobody_asked_for_is_given_way(tmp_path: Path) -> None:
    console = screen()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with service_of(Settings(home=tmp_path, port=port), console, port_given=False) as service:
            assert service.started_here
            assert not service.url.endswith(f":{port}")
            assert read_record(tmp_path) is not None
    assert read_record(tmp_path) is None
    assert f"Port {port} is in use" in text_of(console)
    assert "waiting for the server" in text_of(console)
