"""The root of the command line: its options, its help and the list of its commands."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from nas.defaults import DEFAULT_URL
from server.cli.lazy import MARKUP, CommandEntry, LazyGroup

_SEARCHES, _RESULTS, _SERVICE, _ACCESS = "Searches", "Results", "The service", "Access"
_INPUTS = "Devices, data and models"

COMMANDS = (
    CommandEntry(
        "submit",
        "server.cli.commands.submission:submit",
        "Submit a search, from a file, from options, or both (options win).",
        _SEARCHES,
    ),
    CommandEntry(
        "fork",
        "server.cli.commands.submission:fork",
        "Submit a search on the trained supernet of another, with other settings and without training.",
        _SEARCHES,
    ),
    CommandEntry(
        "extend",
        "server.cli.commands.submission:extend",
        "Extend a finished search on its trained supernet: more evaluations, another bound or device. No training.",
        _SEARCHES,
    ),
    CommandEntry(
        "list",
        "server.cli.commands.searches:list_searches",
        "List searches, newest first.",
        _SEARCHES,
    ),
    CommandEntry(
        "show",
        "server.cli.commands.searches:show",
        "Show one search with its stages.",
        _SEARCHES,
    ),
    CommandEntry(
        "watch",
        "server.cli.commands.searches:watch",
        "Follow a search until it ends, then print its front. Ctrl-C stops watching, not the search.",
        _SEARCHES,
    ),
    CommandEntry(
        "init",
        "server.cli.commands.submission:init",
        "Write a commented spec, to be changed and submitted.",
        _SEARCHES,
    ),
    CommandEntry(
        "open",
        "server.cli.commands.searches:open_page",
        "Open a search, a device or the dashboard in a browser.",
        _SEARCHES,
    ),
    CommandEntry(
        "events",
        "server.cli.commands.events:events",
        "Print the event log of a search, one JSON record on a line, oldest first.",
        _SEARCHES,
    ),
    CommandEntry(
        "logs",
        "server.cli.commands.events:logs",
        "Print what happened in a search, in words: changes of status, stages, warnings and errors.",
        _SEARCHES,
    ),
    CommandEntry(
        "pause",
        "server.cli.commands.searches:pause",
        "Pause a search after its next stored result, which frees its worker. `nas resume` continues it.",
        _SEARCHES,
    ),
    CommandEntry(
        "resume",
        "server.cli.commands.searches:resume",
        "Continue a paused search where it was paused.",
        _SEARCHES,
    ),
    CommandEntry(
        "cancel",
        "server.cli.commands.searches:cancel",
        "Cancel a search now. Its results remain.",
        _SEARCHES,
    ),
    CommandEntry(
        "retry",
        "server.cli.commands.searches:retry",
        "Continue a failed, cancelled or quarantined search from its last checkpoint.",
        _SEARCHES,
    ),
    CommandEntry(
        "priority",
        "server.cli.commands.searches:priority",
        "Set a search's priority among those of its owner.",
        _SEARCHES,
    ),
    CommandEntry(
        "delete",
        "server.cli.commands.searches:delete",
        "Delete a search that is paused or has ended, with all its results. This cannot be undone.",
        _SEARCHES,
    ),
    CommandEntry(
        "front",
        "server.cli.commands.results:front",
        "Print the Pareto front of a search, beside that of random search at the same budget.",
        _RESULTS,
    ),
    CommandEntry(
        "candidates",
        "server.cli.commands.results:candidates",
        "List the candidates that a search evaluated, the best first.",
        _RESULTS,
    ),
    CommandEntry(
        "recommend",
        "server.cli.commands.decisions:recommend",
        "Say which network of a search to ship, and why.",
        _RESULTS,
    ),
    CommandEntry(
        "cascade",
        "server.cli.commands.cascade:cascade",
        "Make a cascade of downloaded models: a fast one answers where it is sure, others elsewhere.",
        _RESULTS,
    ),
    CommandEntry(
        "prune-tokens",
        "server.cli.commands.token_compression:prune_tokens",
        "Prune and merge tokens of a vision transformer, so that it takes a share of its MACs (DiffRate).",
        _RESULTS,
    ),
    CommandEntry(
        "scale",
        "server.cli.commands.scaling:scale",
        "Scale a candidate up or down to another bound, within its space.",
        _RESULTS,
    ),
    CommandEntry(
        "waterline",
        "server.cli.commands.waterline:waterline",
        "Say which layers of a candidate wait for memory on a device, and what fusing them would save.",
        _RESULTS,
    ),
    CommandEntry(
        "export",
        "server.cli.commands.decisions:export",
        "Hand a downloaded model to another tool: a folder for Hugging Face, a run of MLflow.",
        _RESULTS,
    ),
    CommandEntry(
        "star",
        "server.cli.commands.decisions:star",
        "Star a search or a candidate, or remove its star.",
        _RESULTS,
    ),
    CommandEntry(
        "note",
        "server.cli.commands.decisions:note",
        "Write a note on a search or a candidate.",
        _RESULTS,
    ),
    CommandEntry(
        "reproduce",
        "server.cli.commands.decisions:reproduce",
        "Run the search of a downloaded model again, and report what diverged.",
        _RESULTS,
    ),
    CommandEntry(
        "pull",
        "server.cli.commands.results:pull",
        "Download exported models. Each zip holds ONNX models, weights, manifest, card and a runner.",
        _RESULTS,
    ),
    CommandEntry(
        "devices",
        "server.cli.commands.devices:devices_app",
        "Devices, their profiles and their latency predictors.",
        _INPUTS,
    ),
    CommandEntry(
        "onboardings",
        "server.cli.commands.onboardings:onboardings_app",
        "Onboardings of devices: follow, pause, resume, cancel, retry, prioritise and delete them.",
        _INPUTS,
    ),
    CommandEntry(
        "agents",
        "server.cli.commands.catalog:agents",
        "List the agents of devices elsewhere.",
        _INPUTS,
    ),
    CommandEntry(
        "data",
        "server.cli.commands.data:data_app",
        "Data sets: add them by a name, check them before a search, prepare large ones, free the cache.",
        _INPUTS,
    ),
    CommandEntry(
        "predictors",
        "server.cli.commands.catalog:predictors",
        "List the cards of latency predictors.",
        _INPUTS,
    ),
    CommandEntry(
        "spaces",
        "server.cli.commands.catalog:spaces",
        "List search spaces.",
        _INPUTS,
    ),
    CommandEntry(
        "strategies",
        "server.cli.commands.catalog:strategies",
        "List strategies and their parameters.",
        _INPUTS,
    ),
    CommandEntry(
        "tasks",
        "server.cli.commands.catalog:tasks",
        "List tasks: what networks learn, and by what they are judged.",
        _INPUTS,
    ),
    CommandEntry(
        "runtimes",
        "server.cli.commands.catalog:runtimes",
        "List what can run networks on a device.",
        _INPUTS,
    ),
    CommandEntry(
        "models",
        "server.cli.commands.models:models_app",
        "Models of your own: add them, see what can be made smaller.",
        _INPUTS,
    ),
    CommandEntry(
        "serve",
        "server.cli.commands.service:serve",
        "Start the service: API, dashboard, queue and workers, in one command.",
        _SERVICE,
    ),
    CommandEntry(
        "dispatch",
        "server.cli.commands.service:dispatch",
        "Run searches for a service that was started elsewhere with `nas serve --no-dispatch`.",
        _SERVICE,
    ),
    CommandEntry(
        "demo",
        "server.cli.commands.service:demo",
        "The whole way in minutes: this machine as a device, a search on digits, its front, a model that runs alone.",
        _SERVICE,
    ),
    CommandEntry(
        "version",
        "server.cli.commands.service:version",
        "Print the version.",
        _SERVICE,
    ),
    CommandEntry(
        "gc",
        "server.cli.commands.storage:gc",
        "Delete checkpoints and models that no search refers to. A running service does so every hour.",
        _SERVICE,
    ),
    CommandEntry(
        "doctor",
        "server.cli.commands.storage:doctor",
        "Check everything the service depends on: database, storage, disk, memory, clock, Ray, tokens, noise.",
        _SERVICE,
    ),
    CommandEntry(
        "backup",
        "server.cli.commands.storage:backup",
        "Copy an embedded service, its searches and models, into one file. The service may keep running.",
        _SERVICE,
    ),
    CommandEntry(
        "restore",
        "server.cli.commands.storage:restore",
        "Unpack a backup into a new home and verify every byte. Then: `nas serve --home FOLDER`.",
        _SERVICE,
    ),
    CommandEntry(
        "me",
        "server.cli.commands.access:me",
        "Print who the service takes you for, your scopes and your quota.",
        _ACCESS,
    ),
    CommandEntry(
        "tokens",
        "server.cli.commands.tokens:tokens_app",
        "API tokens: who may use the service, and for what.",
        _ACCESS,
    ),
    CommandEntry(
        "quotas",
        "server.cli.commands.access:quotas_app",
        "How much each owner may queue, run and use.",
        _ACCESS,
    ),
    CommandEntry(
        "audit",
        "server.cli.commands.access:audit",
        "Print the audit log, newest first.",
        _ACCESS,
    ),
)


class Commands(LazyGroup):
    """The commands of ``nas``."""

    entries = COMMANDS


app = typer.Typer(
    name="nas",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    help="""Hardware-aware neural architecture search.

Run the whole workflow once with `nas demo`. Or step by step:

- `nas serve` starts the service and its dashboard, in a terminal of its own
- `nas devices add this-machine` measures this machine and fits its latency predictor
- `nas submit --bound-ms 0.2 --watch` searches
- `nas front SEARCH` prints the Pareto front
- `nas pull SEARCH best` downloads the most accurate network

Wherever a search is named, so can be the beginning of its id, or one of its names.
`nas --install-completion` completes commands and options in your shell.

Every command has its own `--help`. Set `HWNAS_TOKEN` for a service that requires a
token. Exit status: 0 success, 1 the job or the service failed, 2 wrong input.""",
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"hwnas {version_of('hwnas')}")
        raise typer.Exit


@app.callback()
def nas(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and exit.", callback=_print_version)
    ] = False,
    url: Annotated[
        str, typer.Option("--url", envvar="HWNAS_URL", help="Address of the service.", show_default=True)
    ] = DEFAULT_URL,
    token: Annotated[
        str | None, typer.Option("--token", envvar="HWNAS_TOKEN", help="API token.", show_default=False)
    ] = None,
) -> None:
    """Options before a command are the defaults of its own options."""
    ctx.default_map = {"token": token}
    source = ctx.get_parameter_source("url")
    if source is not None and source.name != "DEFAULT":  # some commands work without a service, too
        ctx.default_map["url"] = url
