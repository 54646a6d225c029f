"""The installation says how far it is, and what went wrong."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tools.install import REPEAT_S, InstallFailed, PipProgress, Screen, run


def test_progress_of_pip_counts_packages_and_megabytes() -> None:
    progress = PipProgress()
    for line in (
        "Collecting torch==2.13.0",
        "  Downloading torch-2.13.0-cp311.whl (191.8 MB)",
        "Processing /wheels/sympy-1.14.0-py3-none-any.whl (from torch)",
        "Requirement already satisfied: numpy in /x",
        "Collecting filelock (from torch)",
        "  Using cached filelock-4.2.11-py3-none-any.whl (222 kB)",
    ):
        progress.read(line)
    assert (progress.packages, progress.doing) == (3, "filelock")
    assert progress.megabytes == pytest.approx(192.022)
    progress.read("Installing collected packages: filelock, sympy, torch")
    assert str(progress) == "3 packages, 192 MB; unpacking 3 packages"


def test_progress_is_repeated_where_there_is_no_terminal() -> None:
    now = 0.0
    out = io.StringIO()
    screen = Screen(out, clock=lambda: now)
    screen.say("1/3")
    screen.progress("a")
    now += REPEAT_S
    screen.progress("b")
    screen.progress("c")
    assert out.getvalue().splitlines() == ["1/3", "     0 min 10 s: b"]


def test_a_failed_command_shows_the_end_of_its_output(tmp_path: Path) -> None:
    script = "import sys; [print(f'line {i}') for i in range(30)]; sys.exit('no such package')"
    with (tmp_path / "log").open("w") as log, pytest.raises(InstallFailed, match="no such package") as failed:
        run([sys.executable, "-c", script], log, Screen(io.StringIO()))
    assert "status 1" in str(failed.value)
    assert "line 29" in str(failed.value)
    assert "line 5\n" not in str(failed.value)
    assert "line 5\n" in (tmp_path / "log").read_text()
