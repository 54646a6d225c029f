"""Parameters of a space by the name of a preset, and what is given beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, JsonValue

from nas.core.errors import InvalidSpec, UnknownName
from nas.core.spec import parse_spec

T = TypeVar("T", bound=BaseModel)


def preset_of(space: str, name: object, presets: Mapping[str, T]) -> T:
    """Raises UnknownName for what is no preset of the space."""
    if not isinstance(name, str) or name not in presets:
        raise UnknownName(f"preset of {space}", str(name), presets)
    return presets[name]


def resolved(space: str, params: Mapping[str, JsonValue], presets: Mapping[str, T], default: str | None = None) -> T:
    """The preset that ``params`` name, or the ``default``, with what they give beside it. Without either, they give
    all.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    overrides = {key: given for key, given in params.items() if key != "preset"}
    if "preset" not in params and default is None:
        return _of_own(overrides, presets)
    base = preset_of(space, params.get("preset", default), presets)
    return parse_spec(type(base), {**base.model_dump(), **overrides})


def _of_own(params: Mapping[str, JsonValue], presets: Mapping[str, T]) -> T:
    """Parameters that no preset completes."""
    try:
        return parse_spec(type(next(iter(presets.values()))), params)
    except InvalidSpec as error:
        raise InvalidSpec(f"{error} (params.preset completes them: {', '.join(presets)})") from error
