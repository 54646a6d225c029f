"""The container files, read as data: what they copy exists, what they run is there, and names and ports agree."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.support.paths import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions with their arguments, continuation lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, arguments_text)
        for word, _, arguments_text in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def arguments(path: Path, word: str) -> list[str]:
    return [arguments_text for name, arguments_text in instructions(path) if name == word]


def environment(path: Path) -> dict[str, str]:
    pairs = [pair for arguments_text in arguments(path, "ENV") for pair in shlex.split(arguments_text)]
    return dict(pair.split("=", 1) for pair in pairs)


def dockerfile_of(service: dict[str, Any]) -> Path | None:
    return ROOT / service["build"]["dockerfile"] if "build" in service else None


def command_words(service: dict[str, Any]) -> list[str]:
    """The programs a service starts: the first word of each part of a shell line, or of the command."""
    dockerfile = dockerfile_of(service)
    command = service.get("command") or (yaml.safe_load(arguments(dockerfile, "CMD")[-1]) if dockerfile else [])
    if command[:2] == ["sh", "-c"]:
        return [part.replace("exec ", "").split()[0] for part in re.split(r"&&|;", command[2].replace("$$", "$"))]
    return [str(command[0])] if command else []


def test_both_images_are_there_and_compose_builds_them() -> None:
    assert {p.name for p in DOCKERFILES} == {"server.Dockerfile", "worker.Dockerfile"}
    assert {dockerfile_of(s) for s in SERVICES.values()} == {*DOCKERFILES, None}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_everything_copied_exists_and_is_in_the_build_context(path: Path) -> None:
    kept_paths = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        shlex.split(arguments_text)[:-1]
        for arguments_text in arguments(path, "COPY")
        if not arguments_text.startswith("--from")
    ]
    sources = {source for words in copied for source in words}
    for source in sources:
        assert (ROOT / source).exists(), f"{path.name} copies {source}"
        assert source in kept_paths, f".dockerignore keeps {source} out of the build"
    packages = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} - {"tests", "benchmarks", "tools"}
    assert packages <= sources  # everything that is installed is copied


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_images_are_slim_unprivileged_pinned_and_checked(path: Path) -> None:
    stages = [base.partition(" AS ") for base in arguments(path, "FROM")]
    assert {base for base, _, _ in stages} - {name for _, _, name in stages} == {"python:3.11-slim"}
    words = [name for name, _ in instructions(path)]
    last_stage = words[len(words) - 1 - words[::-1].index("FROM") :]
    assert "USER" in last_stage
    assert arguments(path, "USER")[-1] not in ("root", "0")
    assert "HEALTHCHECK" in last_stage
    installs = [arguments_text for arguments_text in arguments(path, "RUN") if "pip install" in arguments_text]
    assert len(installs) == (3 if "docs" in {name for _, _, name in stages} else 2)
    assert all("constraints.txt" in arguments_text for arguments_text in installs)
    assert "torch==" in installs[0]  # torch first, so that nothing pulls in another build
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_the_worker_and_the_server_install_extras_that_exist(path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for arguments_text in arguments(path, "RUN"):
        for extra in re.findall(r"\.\[(\w+)\]", arguments_text):
            assert extra in extras


@pytest.mark.parametrize("name", SERVICES)
def test_commands_are_programs_that_the_images_have(name: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    service = SERVICES[name]
    assert set(command_words(service)) <= {*scripts, "ray"}
    assert command_words(service) or service["image"] == "postgres:15"


@pytest.mark.parametrize("name", SERVICES)
def test_settings_named_in_the_environment_exist_and_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVICES[name]
    dockerfile = dockerfile_of(service)
    environment_of_service = {**(environment(dockerfile) if dockerfile else {}), **service.get("environment", {})}
    settings_by_name = {k: str(v) for k, v in environment_of_service.items() if k.startswith("HWNAS_")}
    for key in settings_by_name:
        assert key.removeprefix("HWNAS_").lower() in Settings.model_fields
    for key, value in settings_by_name.items():
        monkeypatch.setenv(key, value)
    Settings()


def test_ports_and_addresses_agree() -> None:
    server = SERVICES["server"]
    environment_of_service = server["environment"]
    port = str(environment_of_service["HWNAS_PORT"])
    dockerfile = dockerfile_of(server)
    assert dockerfile is not None
    assert arguments(dockerfile, "EXPOSE") == [port] == [environment(dockerfile)["HWNAS_PORT"]]
    assert port == str(Settings.model_fields["port"].default)
    assert f":{port}/readyz" in arguments(dockerfile, "HEALTHCHECK")[0]
    assert server["ports"] == [f"127.0.0.1:{port}:{port}"]  # nobody but this host, until somebody decides otherwise

    head, ray_port = environment_of_service["HWNAS_RAY_ADDRESS"].split(":")
    assert head in SERVICES
    assert ray_port in SERVICES[head]["command"]
    worker = dockerfile_of(SERVICES["ray-worker"])
    assert worker is not None
    assert environment_of_service["HWNAS_RAY_ADDRESS"] in arguments(worker, "CMD")[0]
    assert arguments(worker, "EXPOSE") == [ray_port]
    assert f"('{head}', {ray_port})" in arguments(worker, "HEALTHCHECK")[0]
    database = re.search(r"@([\w-]+):(\d+)/(\w+)$", environment_of_service["HWNAS_DATABASE_URL"])
    assert database is not None
    assert database[1] in SERVICES
    assert database[3] == SERVICES[database[1]]["environment"]["POSTGRES_DB"]


def test_server_and_workers_see_the_same_blobs() -> None:
    folder = SERVICES["server"]["environment"]["HWNAS_BLOBS_URL"]
    for name in ("server", "ray-worker"):
        [mount] = SERVICES[name]["volumes"]
        volume, target = mount.split(":")
        assert volume in COMPOSE["volumes"]
        assert folder.startswith(target)


def test_secrets_are_asked_for_and_never_given() -> None:
    text = "\n".join(p.read_text() for p in [*DOCKERFILES, ROOT / "docker" / "compose.yaml"])
    for name in ("POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"):
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses), f"{name} has a default"
    workers = [s["environment"] for n, s in SERVICES.items() if n.startswith("ray-")]
    assert all("HWNAS_DATABASE_URL" not in env and "POSTGRES_PASSWORD" not in env for env in workers)


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}, name
            dockerfile = dockerfile_of(SERVICES[other])
            assert "healthcheck" in SERVICES[other] or (dockerfile and arguments(dockerfile, "HEALTHCHECK"))
