"""``nas models``: the intake report as a table and as JSON, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.app import app
from tests.support.models import Bessel, efficientnet, save_exported


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(efficientnet(), tmp_path_factory.mktemp("exported") / "mine.pt2")


def test_inspect_prints_a_table(exported: Path) -> None:
    result = CliRunner().invoke(app, ["models", "inspect", str(exported)])
    assert result.exit_code == 0, result.output
    for text in ("mine.pt2", "any number of images", "May be narrowed", "May be skipped", "Stays as wide as it is"):
        assert text in result.output
    assert "body.3.project.0" in result.output
    assert "they are outputs of the model" in result.output


def test_inspect_prints_json(exported: Path) -> None:
    result = CliRunner().invoke(app, ["models", "inspect", str(exported), "--json"])
    report = json.loads(result.output)
    assert report["resolution"] == {"scalable": True, "multiple": 1, "reason": None}
    assert {"head"} == {fixed["layer"] for fixed in report["fixed"]}
    assert report["batch_norms"] == 10


def test_a_refusal_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "inspect", str(save_exported(Bessel(), tmp_path / "mine.pt2"))])
    assert result.exit_code == 2
    assert result.stderr.startswith("nas: mine.pt2: the model: aten.special_bessel_j0.default cannot be run: ")
    assert result.stderr.count("\n") == 1


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "inspect", str(tmp_path / "none.pt2")])
    assert result.exit_code == 2
    assert result.stderr.endswith("expected a file, got none\n")
