"""Plug-ins by name, from entry points. Ours use the same entry points as anyone's."""

from __future__ import annotations

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
    return sorted({e.name for e in entry_points(group=group)})


def load(group: Group, name: str) -> Any:
    """The plug-in object. Raises UnknownName with the nearest valid name."""
    found: list[EntryPoint] = list(entry_points(group=group, name=name))
    if not found:
        raise UnknownName(_WHAT[group], name, names(group))
    return found[0].load()
