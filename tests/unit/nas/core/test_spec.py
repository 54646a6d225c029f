"""Specs: what is accepted, how mistakes are named, and what the hash says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from nas.core.errors import InvalidSpec
from nas.core.spec import BudgetSpec, DeviceSpec, ObjectiveSpec, SearchSpec, SpaceSpec, parse_spec, read_spec
from nas.datasets.folder import FolderParams
from nas.training.gradient.options import DartsParams
from tests.support.paths import ROOT


def test_an_empty_spec_is_a_search() -> None:
    spec = parse_spec(SearchSpec, {})
    assert (spec.space.name, spec.strategy.name, spec.data.name, spec.device) == (
        "mobilenet_v3",
        "once_for_all",
        "digits",
        "this-machine",
    )
    assert spec.bound("latency") is None


def test_a_spec_comes_back_from_json_with_its_hash() -> None:
    spec = parse_spec(
        SearchSpec, {"objectives": [{"name": "accuracy", "bound": 90}, {"name": "latency", "bound": 0.5}], "seed": 3}
    )
    again = parse_spec(SearchSpec, json.loads(spec.model_dump_json()))
    assert again == spec
    assert again.content_hash == spec.content_hash
    assert (spec.bound("accuracy"), spec.bound("latency"), spec.bound("macs")) == (90.0, 0.5, None)


def test_the_hash_names_the_content() -> None:
    specs = [
        {},
        {"seed": 1},
        {"name": "other"},
        {"budget": {"evaluations": 241}},
        {"data": {"name": "npz", "path": "x"}},
    ]
    assert len({parse_spec(SearchSpec, s).content_hash for s in specs}) == len(specs)
    defaults = {"seed": 0, "budget": {"evaluations": 160}}
    assert parse_spec(SearchSpec, defaults).content_hash == parse_spec(SearchSpec, {}).content_hash


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SearchSpec().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"bugdet": {}}, ["unknown key 'bugdet'", "expected name, space", "budget"]),
        ({"budget": {"evals": 3}}, ["unknown key 'budget.evals'"]),
        ({"budget": {"evaluations": 3}}, ["budget.evaluations", "greater than or equal to 8", "got 3"]),
        ({"seed": -1, "name": ""}, ["seed", "got -1", "name", "got ''"]),
        ({"seed": 2**63}, ["seed"]),
        ({"objectives": [{"name": "accuracy"}]}, ["accuracy and 1 to 3 more"]),
        ({"objectives": [{"name": "latency"}, {"name": "macs"}]}, ["accuracy and 1 to 3 more"]),
        ({"objectives": [{"name": "accuracy"}] * 2}, ["each objective once", "accuracy, accuracy"]),
        ({"objectives": [{"name": "accuracy"}, {"name": "latncy"}]}, ["objectives.1.name", "'latency'", "'latncy'"]),
        ({"objectives": [{"name": "accuracy"}, {"name": "latency", "bound": 0}]}, ["objectives.1.bound", "got 0"]),
        ({"resources": {"gpus": -1}}, ["resources.gpus"]),
        ({"device": ""}, ["device: ", "got ''"]),
        ({"device": "my phone"}, ["device: ", "got 'my phone'"]),
        ({"fleet": {"devices": ["a", "b/c"]}}, ["fleet.devices.1", "got 'b/c'"]),
        ([], ["expected a mapping of keys for a SearchSpec, got list"]),
        ("digits", ["got str"]),
    ],
)
def test_mistakes_are_named_with_expected_and_got(record: Any, parts: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(SearchSpec, record)
    for part in parts:
        assert part in str(caught.value)
    assert "default factory" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "-x", "a b", "../x", "x" * 65, "ü"])
def test_device_names_are_safe_in_urls_and_paths(name: str) -> None:
    with pytest.raises(InvalidSpec, match="name"):
        parse_spec(DeviceSpec, {"name": name})
    assert parse_spec(DeviceSpec, {"name": "Pi-4.lab_2"}).name == "Pi-4.lab_2"


def test_yaml_and_json_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: from yaml\nbudget:\n  evaluations: 64\n")
    (tmp_path / "a.json").write_text('{"name": "from json"}')
    (tmp_path / "empty.yaml").write_text("")
    spec = read_spec(SearchSpec, tmp_path / "a.yaml")
    assert (spec.name, spec.budget) == ("from yaml", BudgetSpec(evaluations=64))
    assert read_spec(SearchSpec, tmp_path / "a.json").name == "from json"
    assert read_spec(SearchSpec, tmp_path / "empty.yaml") == SearchSpec()


@pytest.mark.parametrize("text", [b"a: [1", b"\xff\xfe\xff", b"- 1\n- 2\n", b"!!python/object:os.system {}"])
def test_files_that_are_no_spec_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "bad.yaml").write_bytes(text)
    with pytest.raises(InvalidSpec):
        read_spec(SearchSpec, tmp_path / "bad.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"cannot read .*nothing\.yaml: No such file"):
        read_spec(SearchSpec, tmp_path / "nothing.yaml")


def test_the_examples_are_specs_whose_names_exist() -> None:
    from nas.core import registry

    examples = sorted((ROOT / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        spec = read_spec(SearchSpec, path)
        registry.load_space(spec.space.name)
        parse_spec(registry.load_strategy(spec.strategy.name).params_model, spec.strategy.params)
        registry.load_dataset(spec.data.name)


def test_spaces_do_not_inherit_the_parameters_of_the_default_space() -> None:
    assert SearchSpec().space.params == {"preset": "digits"}
    for record in ({}, {"name": "mobilenet_v3"}):
        assert parse_spec(SearchSpec, {"space": record}).space.params == {"preset": "digits"}
    assert parse_spec(SearchSpec, {"space": {"name": "myvgg"}}).space == SpaceSpec(name="myvgg", params={})
    assert parse_spec(DeviceSpec, {"space": {"name": "myvgg"}}).space == SpaceSpec(name="myvgg", params={})
    assert parse_spec(SearchSpec, {"space": {"params": {"preset": "cifar"}}}).space.params == {"preset": "cifar"}


@pytest.mark.parametrize(
    ("model", "record"),
    [
        (SearchSpec, {"seed": True}),
        (SearchSpec, {"objectives": [{"name": "accuracy"}, {"name": "latency", "bound": True}]}),
        (SearchSpec, {"budget": {"evaluations": False}}),
        (SearchSpec, {"resources": {"max_hours": True}}),
        (SearchSpec, {"data": {"seed": True}}),
        (DeviceSpec, {"threads": True}),
        (DartsParams, {"lr": True}),
        (FolderParams, {"max_train": True}),
    ],
)
def test_booleans_are_no_numbers(model: type[BaseModel], record: dict[str, Any]) -> None:
    """YAML makes ``true`` of yes and on, which Python would take for 1."""
    with pytest.raises(InvalidSpec, match=r"expected a number, got (true|false)"):
        parse_spec(model, record)
    assert parse_spec(DartsParams, {"deterministic": True}).deterministic


def test_a_bound_on_accuracy_is_a_share() -> None:
    assert parse_spec(ObjectiveSpec, {"name": "accuracy", "bound": 100}).bound == 100.0
    with pytest.raises(InvalidSpec, match=r"at most 100 %, got 101"):
        parse_spec(ObjectiveSpec, {"name": "accuracy", "bound": 101})


def test_what_is_wrong_with_a_value_is_said_once_and_in_words() -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(DeviceSpec, {"name": "my board", "samples": 16, "predictor": "ridge"})
    assert str(refused.value).startswith("name: expected up to 64 letters, digits, '.', '_' and '-'")
    assert str(refused.value).endswith("got 'my board'")
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(SearchSpec, {"objectives": [{"name": "latency"}]})
    assert re.fullmatch(r"objectives: expected accuracy and 1 to 3 more of [a-z_, ]+, got latency", str(refused.value))
