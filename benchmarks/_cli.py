"""What all benchmarks share: their options, and one JSON object on standard output with machine, commit and date."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    """``shared``: the folder of data sets and tables that do not belong into the repository. ``seeds``: 0 to n-1.
    ``more``: the options of one benchmark alone, by name."""

    shared: Path
    seeds: tuple[int, ...]
    json: bool
    more: Mapping[str, Any] = field(default_factory=dict)


def main(
    name: str,
    bench: Callable[[Options], Mapping[str, Any]],
    about: str,
    packages: tuple[str, ...],
    seeds: int = 5,
    more: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Parses the command line, runs ``bench`` and prints its result. ``packages`` are those whose versions matter;
    ``more`` adds options that only this benchmark has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", help="folder of shared data (%(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="number of seeds (%(default)s)")
    more(parser)
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds: expected at least 1, got {arguments.seeds}")
    with contextlib.redirect_stdout(sys.stderr):  # Ray's workers, and others, speak on standard output
        figures = bench(Options(arguments.shared, tuple(range(arguments.seeds)), arguments.json, vars(arguments)))
    result = {
        "benchmark": name,
        **figures,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": {p: version(p) for p in packages},
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in flat(result):
            print(f"{key:44} {value:.6g}" if isinstance(value, float) else f"{key:44} {value}")


def shared_file(options: Options, *parts: str) -> Path:
    """A file or folder under ``--shared``. Ends the program, saying what is missing, if it is not there."""
    path = options.shared.joinpath(*parts)
    if not path.exists():
        sys.exit(f"this benchmark needs {path}: expected {'/'.join(parts)} in the folder given by --shared")
    return path


def commit() -> str:
    """The commit that was measured, with ``+changes`` if the working tree differs from it in more than results."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", ":/", ":!/benchmarks/results", ":!/benchmarks/README.md")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, system and Python."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested mappings by dotted names."""
    out: list[tuple[str, Any]] = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        out += flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return out


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
