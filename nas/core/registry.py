"""Plug-ins by name, from entry points. Ours use the same entry points as anyone's."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from nas.core.errors import UnknownName

Group = Literal["nas.search_spaces", "nas.strategies", "nas.predictors", "nas.datasets"]
_WHAT = {
    "nas.search_spaces": "search space",
    "nas.strategies": "strategy",
    "nas.predictors": "predictor",
    "nas.datasets": "data set",
}


def names(group: Group) -> list[str]:
    """The registered names of a group, sorted; imports nothing."""
    return sorted(_entries(group))


def load(group: Group, name: str) -> Any:
    """The plug-in object. Raises UnknownName with the nearest valid name."""
    found = _entries(group).get(name)
    if found is None:
        raise UnknownName(_WHAT[group], name, names(group))
    return found.load()


@cache  # looking takes longer than all else that a submission does, and what is installed stays while a process runs
def _entries(group: Group) -> dict[str, EntryPoint]:
    return {e.name: e for e in reversed(list(entry_points(group=group)))}
