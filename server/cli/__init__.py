"""The command line. Only the commands of ``server.cli.commands.service`` and ``tokens`` open the database; all others
speak REST through ``nas.client``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from server.cli.app import app  # not at module level: importing a submodule must not build the command line

    app()
