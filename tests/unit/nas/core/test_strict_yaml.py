"""YAML is read strictly: nothing is dropped in silence, and nothing grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.core.errors import InvalidSpec
from nas.core.spec import DeviceSpec, SearchSpec, read_spec
from nas.core.strict_yaml import MAX_CHARACTERS, parse_yaml


@pytest.mark.parametrize(
    "text",
    ["a: 1\nb: 2\na: 3\n", "x: {a: 1, a: 2}", '{"a": 1, "a": 2}', "- {a: 1}\n- {b: {c: 1, c: 1}}", "1: a\n0x1: b"],
)
def test_a_key_given_twice_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"key .* is given twice, in lines \d and \d"):
        parse_yaml(text)


def test_values_are_those_of_safe_yaml() -> None:
    assert parse_yaml("a: [1, 2.5, yes]\nb: {c: null}\n") == {"a": [1, 2.5, True], "b": {"c": None}}
    assert parse_yaml("") is None


def test_aliases_and_long_texts_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="aliases"):
        parse_yaml("a: &x [1]\nb: *x\n")
    with pytest.raises(InvalidSpec, match="expected at most"):
        parse_yaml("#" * (MAX_CHARACTERS + 1))


def test_a_spec_with_a_key_given_twice_names_file_and_lines(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("name: a\nbudget: {evaluations: 16, evaluations: 32}\n")
    with pytest.raises(InvalidSpec, match=r"spec\.yaml: key 'evaluations' is given twice, in lines 2 and 2"):
        read_spec(SearchSpec, tmp_path / "spec.yaml")


def test_a_relative_data_path_is_relative_to_the_file(tmp_path: Path) -> None:
    for model in (SearchSpec, DeviceSpec):
        (tmp_path / "spec.yaml").write_text("data: {name: npz, path: ../data/x.npz}\n")
        assert read_spec(model, tmp_path / "spec.yaml").data.path == str(tmp_path.parent / "data" / "x.npz")
        (tmp_path / "spec.yaml").write_text("data: {name: npz, path: /data/x.npz}\n")
        assert read_spec(model, tmp_path / "spec.yaml").data.path == "/data/x.npz"
        (tmp_path / "spec.yaml").write_text("data: {name: npz, path: ~/x.npz}\n")
        assert read_spec(model, tmp_path / "spec.yaml").data.path == str(Path.home() / "x.npz")
