"""The entry points of installed packages that declare plug-ins."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from nas.core.errors import InvalidPlugin, UnknownName

Group = Literal[
    "nas.search_spaces",
    "nas.strategies",
    "nas.predictors",
    "nas.datasets",
    "nas.tasks",
    "nas.models",
    "nas.runtimes",
    "nas.exporters",
]
CONCEPTS: dict[Group, str] = {
    "nas.search_spaces": "search space",
    "nas.strategies": "strategy",
    "nas.predictors": "predictor",
    "nas.datasets": "data set",
    "nas.tasks": "task",
    "nas.models": "model of an installed package",
    "nas.runtimes": "runtime",
    "nas.exporters": "exporter",
}
REINSTALL = "Install the package that declares it anew (this one with: pip install --no-deps -e .)"


@cache  # looking takes longer than all else that a submission does, and what is installed stays while a process runs
def installed(group: Group) -> dict[str, EntryPoint]:
    """The entry points of a group by name; imports nothing."""
    return {e.name: e for e in reversed(list(entry_points(group=group)))}


def load(group: Group, name: str, entries: dict[str, EntryPoint]) -> object:
    """What an entry point names. Raises UnknownName with the nearest valid name, and InvalidPlugin."""
    entry = entries.get(name)
    if entry is None:
        if not entries:
            raise InvalidPlugin(f"no entry points of group {group} are installed: expected {name!r}. {REINSTALL}")
        raise UnknownName(CONCEPTS[group], name, entries)
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise InvalidPlugin(
            f"{CONCEPTS[group]} {name!r}: its entry point {entry.value!r} cannot be imported: {error}. {REINSTALL}"
        ) from error
