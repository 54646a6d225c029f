"""Finished runs of a long benchmark, kept in a file so that one that was interrupted goes on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks._cli import ROOT


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """What long benchmarks on NAS-Bench-201 can be told: their size, the device, and where finished runs are kept."""
    parser.add_argument("--full", action="store_true", help="16 channels, 5 cells, all images at 32x32: for a GPU")
    parser.add_argument("--device", default="cpu", help="such as cuda:0 (%(default)s)")
    default = ROOT / "benchmarks" / "results" / f"{name}.partial.json"
    parser.add_argument("--partial", type=Path, default=default, help="finished runs, to go on from (%(default)s)")


class FinishedRuns:
    """Runs by name in a JSON file, written after each. ``setting`` is what they all have in common; a file with runs of
    another setting ends the program."""

    def __init__(self, path: Path, setting: Mapping[str, Any]) -> None:
        self._path, self._setting = path, setting
        self.runs: dict[str, dict[str, Any]] = {}
        if path.exists():
            record = json.loads(path.read_text())
            if record["setting"] != setting:
                sys.exit(f"{path} holds runs of another setting: remove it, or give another file by --partial")
            self.runs = record["runs"]

    def keep(self, name: str, run: dict[str, Any], message: str) -> None:
        """Keeps a finished run, and says on standard error what it gave."""
        self.runs[name] = run
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"setting": self._setting, "runs": self.runs}))
        new.replace(self._path)
        print(f"{name}: {message}", file=sys.stderr, flush=True)

    def run(
        self, name: str, work: Callable[[], dict[str, Any]], describe: Callable[[Mapping[str, Any]], str]
    ) -> dict[str, Any]:
        """The run of this name, from the file if it is there."""
        if name not in self.runs:
            run = work()
            self.keep(name, run, describe(run))
        return self.runs[name]
