"""Install hwnas with all its dependencies into a virtual environment, and say on standard error how far that is.

    python3.11 tools/install.py .venv

Standard library only, since nothing else is there yet. What pip says goes into ``install.log`` in the environment.
"""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parents[1]
CONSTRAINTS = "constraints.txt"
REPEAT_S = 10.0  # without a terminal, a line this often
_SIZE = re.compile(r"(?:Downloading|Using cached) \S+ \((?P<size>[\d.]+) (?P<unit>kB|MB|GB)\)")
_PACKAGE = re.compile(r"(?:Collecting |Processing (?:\S*/)?)(?P<name>[A-Za-z0-9._]+)")
_MEGABYTES = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}


class InstallFailed(Exception):
    """A command of the installation failed; the message holds the end of what it said."""


class PipProgress:
    """What the lines that pip prints say about how far it is."""

    def __init__(self) -> None:
        self.packages = 0
        self.megabytes = 0.0
        self.doing = "starting"

    def read(self, line: str) -> None:
        """Take the next line."""
        line = line.strip()
        if (package := _PACKAGE.match(line)) is not None:
            self.packages += 1
            self.doing = package["name"]
        elif (size := _SIZE.match(line)) is not None:
            self.megabytes += float(size["size"]) * _MEGABYTES[size["unit"]]
        elif line.startswith("Installing collected packages"):
            self.doing = f"unpacking {line.count(',') + 1} packages"

    def __str__(self) -> str:
        return f"{self.packages} packages, {self.megabytes:.0f} MB; {self.doing}"


class Screen:
    """Steps, and below each a line that changes on a terminal and is repeated elsewhere."""

    def __init__(self, file: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._start = self._printed_at = clock()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._file.write(f"{text}\n")
        self._file.flush()

    def progress(self, text: str) -> None:
        """A line that the next one replaces."""
        line = f"     {self.elapsed()}: {text}"
        if self._file.isatty():
            width = shutil.get_terminal_size().columns - 1
            self._file.write(f"\r\x1b[K{line[:width]}")
            self._file.flush()
        elif self._clock() - self._printed_at >= REPEAT_S:
            self._printed_at = self._clock()
            self.say(line)

    def end_progress(self) -> None:
        """The line that changed goes away."""
        if self._file.isatty():
            self._file.write("\r\x1b[K")
            self._file.flush()

    def elapsed(self) -> str:
        """Time since the start."""
        minutes, seconds = divmod(round(self._clock() - self._start), 60)
        return f"{minutes} min {seconds:02d} s"


def run(command: Sequence[str], log: TextIO, screen: Screen) -> None:
    """Run a command from the repository's root and show what its lines say. Raises InstallFailed."""
    progress = PipProgress()
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:

        def read() -> None:
            assert child.stdout is not None
            for line in child.stdout:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while True:
                try:
                    line = lines.get(timeout=1.0)
                except queue.Empty:
                    screen.progress(str(progress))
                    continue
                if line is None:
                    break
                log.write(line)
                said.append(line)
                progress.read(line)
                screen.progress(str(progress))
        except KeyboardInterrupt:
            child.terminate()
            raise
        finally:
            reader.join()
    screen.end_progress()
    if child.returncode != 0:
        raise InstallFailed(f"{' '.join(command)} ended with status {child.returncode}:\n{''.join(said[-20:])}")


def install(venv: Path, screen: Screen) -> None:
    """All three steps. Raises InstallFailed."""
    python = venv / "bin" / "python"
    number = len((ROOT / CONSTRAINTS).read_text().splitlines())
    screen.say(f"Installing into {venv}: 2 to 4 minutes, and 2.5 GB with the CPU build of PyTorch")
    screen.say(f"1/3  Virtual environment, Python {sys.version_info.major}.{sys.version_info.minor}")
    venv.mkdir(parents=True, exist_ok=True)
    with (venv / "install.log").open("w") as log:
        if not _has_pip(python):
            run([sys.executable, "-m", "venv", str(venv.absolute())], log, screen)
        pip = [str(python.absolute()), "-m", "pip", "--disable-pip-version-check", "install", "-c", CONSTRAINTS]
        # PyTorch goes first: once the pinned CPU build is there, nothing pulls in another one.
        screen.say("2/3  PyTorch: a download of 0.2 GB, or 2.7 GB if pip takes the build with CUDA")
        run([*pip, "torch"], log, screen)
        screen.say(f"3/3  hwnas and {number} packages: a download of 0.5 GB")
        run([*pip, "-e", ".[dev,postgres,s3]"], log, screen)
    size = subprocess.run(["du", "-sm", str(venv)], capture_output=True, text=True, check=True).stdout.split()[0]
    screen.say(f"Installed after {screen.elapsed()}; {venv} takes {int(size) / 1e3:.1f} GB")


def _has_pip(python: Path) -> bool:
    """Whether the environment is usable: one whose making was interrupted is not."""
    command = [str(python), "-m", "pip", "--version"]
    return python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Exit status 0 if all is installed, 1 if not, 130 if interrupted."""
    venv, screen = Path(sys.argv[1]), Screen(sys.stderr)
    try:
        install(venv, screen)
    except InstallFailed as error:
        screen.say(f"{error}\nThe whole output is in {venv / 'install.log'}")
        return 1
    except KeyboardInterrupt:
        screen.end_progress()
        screen.say(f"Interrupted: {venv} is incomplete. The same command goes on, `make clean` removes it.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
