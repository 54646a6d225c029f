"""Options that several commands share, and the connection to the service."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import typer

from nas.client import Client
from nas.defaults import DEFAULT_URL
from server.cli import naming

_URL_HELP = f"Address of the service; without it HWNAS_URL, or {DEFAULT_URL}."
_TOKEN_HELP = "API token; without it HWNAS_TOKEN, which the list of processes does not show."
UrlOption = Annotated[str, typer.Option("--url", help=_URL_HELP, show_default=False)]
TokenOption = Annotated[str | None, typer.Option("--token", help=_TOKEN_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]
CursorOption = Annotated[str | None, typer.Option(help="Where the page begins, as the page before it said.")]
KeyOption = Annotated[
    str | None, typer.Option(help="Idempotency key: the same key submits once. Without it, each call has its own.")
]
ServiceUrlOption = Annotated[
    str | None,
    typer.Option("--url", help="A service that runs elsewhere; without it HWNAS_URL, or else the home folder is used."),
]
HomeOption = Annotated[Path | None, typer.Option(help="Folder for database and models.", show_default="~/.hwnas")]


@dataclass(frozen=True)
class Connection:
    """The options of every command that calls the service: where it is, and the token of the caller."""

    url: UrlOption = DEFAULT_URL
    token: TokenOption = None

    def connect(self) -> Client:
        """A client of the service, authenticated by the token if there is one."""
        return Client(self.url, token=self.token or None)


@dataclass(frozen=True)
class ServiceOptions(Connection):
    """The options of every command that prints what the service answers."""

    json_output: JsonOption = False


_NAMED: Mapping[str, Callable[[Client, str], str]] = {
    "search_id": naming.search_id,
    "supernet": naming.search_id,
    "onboarding_id": naming.onboarding_id,
}


def _resolve_names(connection: Connection, arguments: dict[str, Any]) -> None:
    """Put ids in place of what the user has called searches and onboardings."""
    given = {name: arguments[name] for name in _NAMED if isinstance(arguments.get(name), str)}
    if given:
        with connection.connect() as nas:
            arguments |= {name: _NAMED[name](nas, text) for name, text in given.items()}


P = ParamSpec("P")
C = TypeVar("C", bound=Connection)


def service_command(command: Callable[Concatenate[C, P], None]) -> Callable[P, None]:
    """Give a command the options of its first argument, a ``Connection``, after its own."""
    first, *own = inspect.signature(command, eval_str=True).parameters.values()
    make_options: Callable[..., C] = first.annotation
    hints = get_type_hints(first.annotation, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(first.annotation)
    ]

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        values = {parameter.name: kwargs.pop(parameter.name) for parameter in shared}
        connection = make_options(**values)
        _resolve_names(connection, kwargs)
        command(connection, *args, **kwargs)

    # Typer reads both; without ``__wrapped__`` it does not see those of ``command``.
    del run.__wrapped__
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run
