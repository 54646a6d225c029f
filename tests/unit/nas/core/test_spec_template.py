"""The commented spec, and messages on keys that no spec has."""

from __future__ import annotations

import pytest

from nas.core.errors import InvalidSpec
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec, parse_spec
from nas.core.spec_template import MEANINGS, commented_spec
from nas.core.strict_yaml import parse_yaml


@pytest.mark.parametrize(
    "spec",
    [
        SearchSpec(),
        SearchSpec(
            name="a: b # c",
            objectives=(ObjectiveSpec(name="accuracy", bound=90), ObjectiveSpec(name="latency", bound=0.2)),
            budget=BudgetSpec(evaluations=8),
        ),
    ],
    ids=["defaults", "others"],
)
def test_a_commented_spec_reads_as_the_spec(spec: SearchSpec) -> None:
    text = commented_spec(spec)
    assert parse_spec(SearchSpec, parse_yaml(text)) == spec
    for meaning in filter(None, MEANINGS.values()):
        assert meaning in text


def test_every_key_has_a_meaning_and_every_meaning_a_key() -> None:
    keys = set()
    for name, field in SearchSpec.model_fields.items():
        keys.add(name)
        nested = getattr(SearchSpec(), name)
        if hasattr(nested, "model_dump") and field.annotation is type(nested):
            keys |= {f"{name}.{inner}" for inner in type(nested).model_fields}
    assert set(MEANINGS) == keys


def test_all_unknown_keys_are_told_at_once_with_the_nearest_names() -> None:
    record = {
        "devise": "pi",
        "budget": {"evalations": 40},
        "objectives": [{"name": "accuracy"}, {"name": "latency", "bond": 0.2}],
        "fleet": {"devices": ["pi", "server"], "bound_ms": {}},
    }
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(SearchSpec, record)
    message = str(caught.value)
    for key, near in (
        ("devise", "device"),
        ("budget.evalations", "evaluations"),
        ("objectives.1.bond", "bound"),
        ("fleet.bound_ms", "bounds_ms"),
    ):
        assert f"unknown key {key!r}" in message
        assert f"Did you mean {near!r}?" in message
