"""The keys in which specs differ. No drawing here."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.spec import SearchSpec

Flat = dict[str, str]


def spec_differences(specs: Sequence[SearchSpec]) -> list[tuple[str, list[str]]]:
    """The keys, such as ``budget.evaluations``, in which the specs differ, with the value in each; names aside."""
    flat = [_flatten(spec.model_dump(mode="json"), "") for spec in specs]
    keys = dict.fromkeys(key for values in flat for key in values if key != "name")
    rows = [(key, [values.get(key, "–") for values in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flatten(value: object, path: str) -> Flat:
    if isinstance(value, dict) and value:
        return {k: v for name, part in value.items() for k, v in _flatten(part, f"{path}.{name}".lstrip(".")).items()}
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        named = {str(part.get("name", i)): part for i, part in enumerate(value) if isinstance(part, dict)}
        parts = {name: {k: v for k, v in part.items() if k != "name"} for name, part in named.items()}
        return {path: ", ".join(named), **_flatten(parts, path)}
    return {path: "–" if value is None or value == {} else str(value)}
