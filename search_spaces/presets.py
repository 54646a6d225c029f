"""Parameters of a space by the name of a preset, and what is given beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, JsonValue

from nas.core.errors import UnknownName
from nas.core.spec import parse_spec

T = TypeVar("T", bound=BaseModel)


def preset_of(space: str, name: object, presets: Mapping[str, T]) -> T:
    """Raises UnknownName for what is no preset of the space."""
    if not isinstance(name, str) or name not in presets:
        raise UnknownName(f"preset of {space}", str(name), presets)
    return presets[name]


def resolved(space: str, params: Mapping[str, JsonValue], presets: Mapping[str, T], default: str) -> T:
    """The preset that ``params`` name, or the ``default``, with what they give beside it.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    base = preset_of(space, params.get("preset", default), presets)
    overrides = {key: value for key, value in params.items() if key != "preset"}
    return parse_spec(type(base), {**base.model_dump(), **overrides})
