"""Backups of a service at work, and the way back; and what the doctor says."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.core.errors import InvalidInput
from nas.core.events import Progress
from nas.stages.fronts import front_of
from server.cli.doctor import examine
from server.settings import Settings
from server.store.backup import back_up, restore
from server.store.migrate import head
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.databases import postgres_url


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    home.mkdir()
    with open_store(f"sqlite:///{home}/hwnas.db", str(home / "blobs")) as opened:
        fakes.add_device(opened)
        fakes.add_search(opened)
        fakes.run_log(opened, fakes.search_log(opened.blobs.put(b"a model")))
        yield opened


def contents_of(store: Store) -> tuple[object, ...]:
    [view] = store.queries.searches("succeeded", 10, None).items
    files = [(a.name, store.blobs.get(a.sha256)) for a in store.queries.artifacts(view.id)]
    return view, front_of(*store.queries.state(view.id)), files, store.queries.devices()


def test_backup_during_writes_restores_the_same_state(store: Store, home: Path, tmp_path: Path) -> None:
    search = fakes.add_search(store)
    lease = store.jobs.claim("w", 1e6)
    assert lease is not None
    over = threading.Event()

    def chatter() -> None:
        n = 0
        while not over.is_set():
            n += 1
            fakes.append(store, lease, [Progress("train", n, 10_000)], 1e6)

    writer = threading.Thread(target=chatter)
    writer.start()
    manifest = back_up(f"sqlite:///{home}/hwnas.db", str(home / "blobs"), tmp_path / "b.tar.gz")
    over.set()
    writer.join()
    assert manifest["missing"] == []
    restored = restore(tmp_path / "b.tar.gz", tmp_path / "new")
    assert restored == manifest
    with open_store(f"sqlite:///{tmp_path}/new/hwnas.db", str(tmp_path / "new" / "blobs")) as again:
        assert contents_of(again) == contents_of(store)
        assert again.queries.search(search).status == "running"
    with pytest.raises(InvalidInput, match="already exists"):
        back_up(f"sqlite:///{home}/hwnas.db", str(home / "blobs"), tmp_path / "b.tar.gz")
    with pytest.raises(InvalidInput, match="expected an empty folder"):
        restore(tmp_path / "b.tar.gz", tmp_path / "new")


def test_damaged_backup_is_rejected(store: Store, home: Path, tmp_path: Path) -> None:
    back_up(f"sqlite:///{home}/hwnas.db", str(home / "blobs"), tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        tar.extractall(tmp_path / "parts", filter="data")
    blob = next((tmp_path / "parts" / "blobs").iterdir())
    blob.write_bytes(b"something else")
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        for part in (tmp_path / "parts").rglob("*"):
            tar.add(part, str(part.relative_to(tmp_path / "parts")), recursive=False)
    with pytest.raises(InvalidInput, match="damaged"):
        restore(tmp_path / "bad.tar.gz", tmp_path / "x")
    (tmp_path / "short.tar.gz").write_bytes((tmp_path / "b.tar.gz").read_bytes()[:2000])
    with pytest.raises(InvalidInput, match="cannot restore"):
        restore(tmp_path / "short.tar.gz", tmp_path / "y")
    with pytest.raises(InvalidInput, match="PostgreSQL"):
        back_up("postgresql://x/y", str(tmp_path), tmp_path / "z")


@pytest.mark.postgres
def test_documented_backup_of_postgresql(tmp_path: Path, postgres: str) -> None:
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    with open_store(postgres_url(postgres, "backup_first"), str(tmp_path / "blobs")) as store:
        fakes.add_device(store)
        fakes.add_search(store)
        fakes.run_log(store, fakes.search_log(store.blobs.put(b"a model")))
        before = contents_of(store)
    where = ["--host", postgres, "--username", "postgres"]
    dump = tmp_path / "hwnas.dump"
    subprocess.run([tools / "pg_dump", *where, "--format=custom", f"--file={dump}", "backup_first"], check=True)
    shutil.copytree(tmp_path / "blobs", tmp_path / "copy")
    second = postgres_url(postgres, "backup_second")
    subprocess.run([tools / "pg_restore", *where, "--dbname=backup_second", dump], check=True)
    with open_store(second, str(tmp_path / "copy")) as again:
        assert contents_of(again) == before


def test_doctor_reports_problems(store: Store, home: Path, tmp_path: Path) -> None:
    check_by_name = {c.name: c for c in examine(Settings(home=home, port=1))}
    assert {n for n, c in check_by_name.items() if c.status == "failed"} == set()
    assert check_by_name["database"].detail.startswith(f"sqlite, revision {head()}")
    (tmp_path / "file").write_text("")
    bad = Settings(home=home, blobs_url=str(tmp_path / "file"), host="0.0.0.0", port=1, ray_address="127.0.0.1:1")
    failed = {c.name: c.detail for c in examine(bad) if c.status == "failed"}
    assert set(failed) == {"storage", "tokens", "ray"}
    assert "nas tokens create" in failed["tokens"]
