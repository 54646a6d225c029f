"""The commands of the README, in their order, as somebody who has just cloned it types them; with small budgets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from nas.client import Client
from nas.core.spec import SearchSpec, read_spec
from tests.support.demo import check_result
from tests.support.paths import ROOT
from tests.support.steady_machine import run_job, workers_run
from tests.support.waiting import wait_for

README = (ROOT / "README.md").read_text()
SMALL = {
    "epochs: 60": "epochs: 1",
    "path: images.npz": "path: images.npz, params: {max_train: 320, max_val: 160, max_test: 160}",
    "evaluations: 100": "evaluations: 8",
    "verified: 12": "verified: 2",
}
SMALL_SEARCH = """SearchSpec(
    name="digits",
    data={"params": {"max_train": 320, "max_val": 160, "max_test": 160}},
    strategy={"params": {"epochs": 1}},
    budget={"evaluations": 8, "verified": 2},
)"""


def section(title: str) -> str:
    """The text below a heading."""
    return re.split(r"^## ", README.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def commands(title: str) -> list[list[str]]:
    """The lines of each indented block of a section, without their comments."""
    prose = re.sub(r"^```.*?^```", "", section(title), flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^ {4}\S.*\n)+", prose, flags=re.MULTILINE)
    return [[re.sub(r"\s+# .*", "", line.strip()) for line in block.splitlines()] for block in blocks]


def fenced(title: str, language: str) -> str:
    """The only block of a language in a section."""
    [block] = re.findall(rf"^```{language}\n(.*?)^```", section(title), flags=re.MULTILINE | re.DOTALL)
    return str(block)


class Shell:
    """A terminal in a folder that looks like a fresh clone, with a home folder and a port of its own. ``steady``: the
    workers of its services measure the steady machine, which takes no time."""

    def __init__(self, folder: Path, *, steady: bool) -> None:
        self.folder = folder / "hwnas"
        self.home = folder / "home"
        self.folder.mkdir()
        self.home.mkdir()
        for path in ROOT.iterdir():
            if path.name not in (".git", "examples"):
                (self.folder / path.name).symlink_to(path)
        (self.folder / "examples").mkdir()
        for path in (ROOT / "examples").iterdir():
            (self.folder / "examples" / path.name).symlink_to(path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        inherited = ("HWNAS_", "VIRTUAL_ENV", "MAKE", "MFLAGS")  # the last two when make runs the tests
        clean = {k: v for k, v in os.environ.items() if not k.startswith(inherited)}
        self.environment = {**clean, "HOME": str(self.home), "HWNAS_PORT": str(port), "HWNAS_URL": self.url}
        if steady:
            self.environment["PYTHONPATH"] = workers_run(run_job, folder / "steady")
        self.activation = ""

    def run(self, line: str, replace: Mapping[str, str] | None = None) -> str:
        """Standard output of a line, after ``replace`` in it; it has to end with status 0."""
        for old, new in (replace or {}).items():
            assert old in line
            line = line.replace(old, new)
        done = subprocess.run(
            ["bash", "-c", f"{self.activation}{line}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    @contextmanager
    def running(self, line: str) -> Iterator[None]:
        """A command that runs until Ctrl-C, from when it answers."""
        with (self.home / "out").open("w") as out:
            child = subprocess.Popen(
                ["bash", "-c", f"{self.activation}exec {line}"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with Client(self.url) as nas:
                wait_for(lambda: True if nas.health().workers else None, 120)
            yield
        finally:
            child.send_signal(signal.SIGINT)
            assert child.wait(timeout=60) == 0, (self.home / "out").read_text()


def test_the_spec_is_that_of_the_examples(tmp_path: Path) -> None:
    assert fenced("Your own search", "yaml") == (ROOT / "examples" / "images.yaml").read_text()
    read_spec(SearchSpec, ROOT / "examples" / "images.yaml")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("steady", [True, pytest.param(False, marks=pytest.mark.long)], ids=["steady", "measured"])
def test_every_command_of_the_readme_works(tmp_path: Path, steady: bool) -> None:
    shell = Shell(tmp_path, steady=steady)
    [clone, demo], [activate, serve] = commands("Two commands")
    assert clone.startswith("git clone")  # which has been done: this is the clone
    result = json.loads(shell.run(demo, {"make": "make -o .venv/.installed", "demo": "demo ARGS='--quick --json'"}))
    check_result(result)
    assert (shell.home / ".hwnas" / "hwnas.db").is_file()

    assert activate.startswith("source ")
    shell.activation = f"{activate} && "
    with shell.running(serve):
        with Client(shell.url) as nas:
            assert [s.id for s in nas.searches().items] == [result["search_id"]]
        assert httpx.get(f"{shell.url}/searches/{result['search_id']}", trust_env=False).status_code == 200
        assert httpx.get(f"{shell.url}/docs", trust_env=False).status_code == 200
        own_search(shell)


def own_search(shell: Shell) -> None:
    """The section about a search of one's own."""
    [[again, make_images, check, add, dry_run, submit, listing, front, recommend, pull, extend]] = commands(
        "Your own search"
    )
    assert f"{again} && " == shell.activation
    shell.run(make_images)
    assert "1797 images in 10 classes" in shell.run(check)
    shell.run(add, {"nas devices add": "nas devices add --samples 32"})
    small = fenced("Your own search", "yaml")
    for key, value in SMALL.items():
        assert key in small
        small = small.replace(key, value)
    spec = shell.folder / "examples" / "images.yaml"
    spec.unlink()
    spec.write_text(small)
    assert "feasible" in shell.run(dry_run)
    assert "succeeded" in shell.run(submit)
    search_id = shell.run(listing).splitlines()[2].split()[0]
    assert "Pareto front" in shell.run(front, {"ID": search_id})
    assert "Download it: nas pull" in shell.run(recommend, {"ID": search_id})
    [archive] = shell.run(pull, {"ID": search_id}).split()
    assert (shell.folder / archive).is_file()
    assert "succeeded" in shell.run(extend, {"ID": search_id})
    script = fenced("Your own search", "python")
    for old, new in {"Client()": f'Client("{shell.url}")', 'SearchSpec(name="digits")': SMALL_SEARCH}.items():
        assert old in script
        script = script.replace(old, new)
    (shell.folder / "script.py").write_text(script)
    assert "stage_finished" in shell.run("python script.py")
