"""What every benchmark's command line shares: ``--json``, ``--shared``, ``--seeds``, and where a result came from."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def parser(summary: str, seeds: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; ``seeds`` is how many seeds run by default."""
    out = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    out.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    out.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", metavar="DIR", help="folder that holds data/*.npz"
    )
    out.add_argument("--seeds", type=int, default=seeds, metavar="N", help="how many seeds to run")
    return out


def shared_file(shared: Path, name: str) -> Path:
    """``DIR/data/name``. Ends the program with a clear message where it is absent."""
    path = shared / "data" / name
    if not path.is_file():
        raise SystemExit(f"this benchmark needs {name}: expected it at {path}, found nothing (see --shared)")
    return path


def origin() -> dict[str, Any]:
    """The machine, the commit and the date of a result."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode == 1
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "commit": (commit.stdout.strip() + (" with changes" if dirty else "")) or "unknown",
        "date": datetime.now(UTC).date().isoformat(),
    }


def report(as_json: bool, title: str, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints ``record`` as one line of JSON, or ``rows`` as a Markdown table with title and origin."""
    source = origin()
    if as_json:
        print(json.dumps({**record, **source}))
        return
    columns = list(rows[0])
    print(f"# {title}\n\n{source['machine']}; commit {source['commit']}; {source['date']}\n")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[c]) for c in columns) + " |")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
