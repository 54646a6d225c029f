"""The folder of a local Ray, whose sockets have a short path."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from workers.ray_cluster import session_folder


def test_long_temporary_folder_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = session_folder()
    try:
        socket = folder / "session_2026-11-30_12-00-00_000000_4194304" / "sockets" / "plasma_store"
        assert len(str(socket)) <= 107  # limit of a Unix socket's path
    finally:
        shutil.rmtree(folder)


def test_short_temporary_folder_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="s") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        assert session_folder().parent == Path(short)
