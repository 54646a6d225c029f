"""Commands that are imported when they run, so that ``nas --help`` needs none of their libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from nas.core.errors import Conflict, HwnasError, InvalidInput, NotFound

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit statuses: the job or the service failed; the input is wrong; interrupted by Ctrl-C."""
MARKUP: Literal["markdown"] = "markdown"


@dataclass(frozen=True)
class CommandEntry:
    """A command or group of commands: its name, where it is defined (``module:attribute``), and its help in a list."""

    name: str
    target: str
    help: str


def load_command(entry: CommandEntry) -> Any:
    """Import a command and build it; the result is a ``TyperCommand`` or ``TyperGroup``."""
    module, _, attribute = entry.target.partition(":")
    definition = getattr(import_module(module), attribute)
    if isinstance(definition, typer.Typer):
        return typer.main.get_command(definition)
    single = typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
    single.command(entry.name)(definition)
    return typer.main.get_command(single)


class _DeferredCommand(TyperCommand):
    """Stands for a command in lists, and imports it when it is called."""

    def __init__(self, entry: CommandEntry) -> None:
        super().__init__(entry.name, help=entry.help, rich_markup_mode=MARKUP)
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the imported command, with the defaults that the parent's options set."""
        command = load_command(self._entry)
        if parent is not None and parent.default_map:
            extra.setdefault("default_map", _inherit_defaults(command, parent.default_map))
        return command.make_context(info_name, args, parent, **extra)


class LazyGroup(TyperGroup):
    """A group of deferred commands whose errors are one line on standard error.

    Exit status 2 for wrong input, 1 for failures.
    """

    entries: Sequence[CommandEntry] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, in the order of ``entries``."""
        return [entry.name for entry in self.entries]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command that is imported when it is called; None for an unknown name."""
        return next((_DeferredCommand(entry) for entry in self.entries if entry.name == cmd_name), None)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HwnasError as error:
            typer.echo(f"nas: {error}", err=True)
            raise typer.Exit(BAD_INPUT if isinstance(error, InvalidInput | NotFound | Conflict) else FAILED) from error


def _inherit_defaults(command: Any, defaults: Mapping[str, object]) -> dict[str, object]:
    """Defaults of options, nested in the way in which a group hands them to its commands."""
    children: Mapping[str, object] = command.commands if isinstance(command, TyperGroup) else {}
    return {**defaults, **{name: _inherit_defaults(child, defaults) for name, child in children.items()}}
