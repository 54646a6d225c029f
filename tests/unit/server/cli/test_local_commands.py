"""Commands that work without a service: they create nothing by looking, and say whose home they speak of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli.app import app
from tests.support.image_files import colour_folder


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HWNAS_URL", "HWNAS_TOKEN", "HWNAS_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    "words", [("tokens", "list"), ("tokens", "revoke", "x"), ("gc",), ("backup", "a.tar.gz"), ("doctor",)]
)
def test_looking_at_a_home_creates_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*words)
    assert not (tmp_path / "home").exists()
    if words != ("doctor",):
        assert done.exit_code == 2
        assert "hwnas.db" in done.stderr


def test_the_first_token_needs_no_service(tmp_path: Path) -> None:
    done = run("tokens", "create", "--owner", "ada", "--name", "first", "--scope", "admin", "--json")
    created = json.loads(done.stdout)
    assert created["secret"].startswith("hwnas_")
    assert (tmp_path / "home" / "hwnas.db").exists()
    assert [t["id"] for t in json.loads(run("tokens", "list", "--json").stdout)] == [created["id"]]


@pytest.mark.parametrize("words", [("tokens", "list"), ("doctor",)])
@pytest.mark.parametrize("by_option", [True, False])
def test_the_address_of_a_service_is_respected(
    words: tuple[str, ...], by_option: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = "http://127.0.0.1:1"
    if by_option:
        done = run("--url", address, *words)
    else:
        monkeypatch.setenv("HWNAS_URL", address)
        done = run(*words)
    assert done.exit_code == 1
    assert address in done.stderr + done.stdout
    assert not (tmp_path / "home").exists()


def test_doctor_says_whose_home_it_speaks_of(tmp_path: Path) -> None:
    assert f"the service of this machine in {tmp_path / 'home'}" in run("doctor").stdout.replace("\n", "")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_doctor_fails_where_the_home_is_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "home").write_bytes(b"")
    home = tmp_path / "home" / below
    done = run("doctor", "--home", str(home), "--json")
    assert done.exit_code == 1
    check = next(check for check in json.loads(done.stdout) if check["name"] == "home")
    assert check["status"] == "failed"
    assert check["detail"] == f"{home} cannot be a folder: {tmp_path / 'home'} is a file"


def test_data_check_prints_the_account(tmp_path: Path) -> None:
    colour_folder(tmp_path / "train")
    colour_folder(tmp_path / "test", count=12)
    done = run("data", "check", str(tmp_path))
    assert done.exit_code == 0
    assert "36 images in 2 classes were read: 20 train, 4 val, 12 test." in done.stdout
    assert "warning: data: 11 of 12 test images are exact copies" in done.stdout  # the twelfth was drawn for val
    report = json.loads(run("data", "check", str(tmp_path), "--param", "image_size=4", "--json").stdout)
    assert report["account"]["conversions"] == [{"change": "scaled to 4x4 pixels", "images": 36}]


def test_data_check_prints_every_problem(tmp_path: Path) -> None:
    colour_folder(tmp_path)
    for at in ("000", "002"):
        (tmp_path / "cat" / f"{at}.png").write_bytes(b"no image")
    done = run("data", "check", str(tmp_path))
    assert done.exit_code == 2
    assert "2 problems" in done.stdout
    assert "000.png" in done.stdout
    assert "002.png" in done.stdout
    assert run("data", "check", str(tmp_path), "--param", "skip_unreadable=2").exit_code == 0
    assert run("data", "check", str(tmp_path / "nothing.txt")).exit_code == 2


def test_data_prepare_prints_the_account_and_leaves_what_searches_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_DATA_CACHE", str(tmp_path / "cache"))
    colour_folder(tmp_path / "images")
    command = ("data", "prepare", str(tmp_path / "images"), "--param", "storage=decoded", "--processes", "1")
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert "24 images in 2 classes were read" in done.stdout
    assert list((tmp_path / "cache" / "prepared").rglob("manifest.json"))
    assert json.loads(run(*command, "--json").stdout)["inputs"] == 24
    done = run("data", "prepare", "s3://bucket/photos")
    assert done.exit_code == 2
    assert "expected --kind" in done.stderr


def test_a_parameter_given_twice_is_refused(tmp_path: Path) -> None:
    colour_folder(tmp_path)
    done = run("data", "check", str(tmp_path), "--param", "image_size=4", "--param", "image_size=6")
    assert done.exit_code == 2
    assert "'image_size' is given twice" in done.stderr
