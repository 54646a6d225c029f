"""The entry point of ``nas``: Ctrl-C while its libraries are imported ends it without a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from server.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
