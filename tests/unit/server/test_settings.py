"""Settings from an environment with unusual paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from nas.datasets.cache import cache_folder
from server.cli.runtime import share_data_cache
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


def test_a_relative_home_is_the_same_folder_for_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_HOME", "here")
    settings = Settings(data_roots=(Path("images"),))
    assert settings.home == tmp_path / "here"
    assert settings.data_roots == (tmp_path / "images",)
    assert settings.as_environment()["HWNAS_HOME"] == str(tmp_path / "here")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HWNAS_HOME", "HWNAS_PORT", "HWNAS_RAY_ADDRESS"):
        monkeypatch.setenv(name, "")
    settings = Settings()
    assert (settings.home, settings.port, settings.ray_address) == (tmp_path / ".hwnas", 8765, None)


def test_the_home_of_a_user_who_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="~nobody-of-this-name/x: Could not determine home"):
        Settings(home=Path("~nobody-of-this-name/x"))


@pytest.mark.parametrize("folder", [None, "elsewhere"])
def test_processes_of_a_service_prepare_data_in_one_folder(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_DATA_CACHE", "of another service")
    data_cache = tmp_path / folder if folder is not None else None
    share_data_cache(Settings(home=tmp_path / "home", data_cache=data_cache))
    assert cache_folder() == (data_cache or tmp_path / "home" / "data-cache")
