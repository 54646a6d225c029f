"""Settings from an environment with unusual paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.settings import Settings
from server.store.store import open_store


def test_tilde_in_home_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HWNAS_HOME", "~/hw")
    monkeypatch.setenv("HWNAS_DATA_ROOTS", "~/images:/srv")
    settings = Settings()
    assert settings.home == tmp_path / "hw"
    assert settings.data_roots == (tmp_path / "images", Path("/srv"))


@pytest.mark.parametrize("name", ["what?", "a#b", "50% off", "a%41", "with space"])
def test_database_lies_in_the_home_folder(tmp_path: Path, name: str) -> None:
    settings = Settings(home=tmp_path / name)
    with open_store(settings.database, settings.blobs):
        pass
    assert (tmp_path / name / "hwnas.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
