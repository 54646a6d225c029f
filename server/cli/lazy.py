"""Commands that are imported when they run, so that ``nas --help`` needs none of their libraries."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from nas.core.errors import Conflict, HwnasError, InvalidInput, NotFound, Unauthorised

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit statuses: the job or the service failed; the input is wrong; interrupted by Ctrl-C."""
MARKUP: Literal["markdown"] = "markdown"


@dataclass(frozen=True)
class CommandEntry:
    """A command or group of commands: its name, where it is defined (``module:attribute``), its help in a list, and the
    heading that it is listed under."""

    name: str
    target: str
    help: str
    heading: str


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
        super().__init__(entry.name, help=entry.help, rich_markup_mode=MARKUP, rich_help_panel=entry.heading)
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

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the base, which suggests the nearest names of its own commands alone. Raises UsageError."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HwnasError as error:
            typer.echo(f"nas: {error}{_hint(error)}", err=True)
            raise typer.Exit(BAD_INPUT if isinstance(error, InvalidInput | NotFound | Conflict) else FAILED) from error


def _hint(error: HwnasError) -> str:
    """What to set where, for a refused token."""
    if not isinstance(error, Unauthorised):
        return ""
    return (
        ". Set HWNAS_TOKEN to a token of this service, as in `export HWNAS_TOKEN=hwnas_...`, or give it with --token; "
        "on the machine of the service, `nas tokens create --owner YOU --name laptop --scope submit` makes one, and "
        "`nas tokens list` shows those that hold"
    )


def _inherit_defaults(command: Any, defaults: Mapping[str, object]) -> dict[str, object]:
    """Defaults of options, nested in the way in which a group hands them to its commands."""
    children: Mapping[str, object] = command.commands if isinstance(command, TyperGroup) else {}
    return {**defaults, **{name: _inherit_defaults(child, defaults) for name, child in children.items()}}
