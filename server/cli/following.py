"""Follow a running job on a terminal until it ends or the user interrupts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import typer

from nas.client import Client
from server.cli import progress, render
from server.cli.lazy import FAILED, INTERRUPTED

J = TypeVar("J")


def follow_and_print(nas: Client, search_id: str, json_output: bool) -> None:
    """Follow a search until it ends, then print it and its front; exit with status 1 unless it succeeded."""
    search = until_interrupted(progress.follow_search, nas, search_id, f"nas watch {search_id}")
    render.out(search, json_output, render.search)
    if search.status != "succeeded":
        raise typer.Exit(FAILED)
    if not json_output:
        front = nas.front(search_id)
        conclusions = [] if front.members else search.conclusions  # printed with the search already
        render.out(front, json_output, lambda f: render.front(f, conclusions))


def until_interrupted(follow: Callable[[Client, str], J], nas: Client, name: str, resume_command: str) -> J:
    """Call ``follow``; on Ctrl-C print the command that follows the job again, and exit."""
    try:
        return follow(nas, name)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped watching; the job continues. To watch again: {resume_command}\n")
        raise typer.Exit(INTERRUPTED) from None
