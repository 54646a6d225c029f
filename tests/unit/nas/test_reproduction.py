"""What two packages of one architecture have in common."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.provenance import Provenance
from nas.core.spec import SearchSpec
from nas.reproduction import compare_manifests, read_manifest, spec_of

SPEC = SearchSpec(name="digits", seed=3)


def manifest(**metrics: float) -> dict[str, Any]:
    values = {"val_accuracy": 97.5, "measured_ms": 0.2, **metrics}
    return {
        "format": "hwnas model package",
        "architecture": "3f2a8d21c0de",
        "versions": {"torch": "2.13.0", "hwnas": "0.1.0"},
        "data": {"content_hash": "ab" * 32},
        "device": {"name": "pi", "processor": "A76", "runtime_version": "1.31"},
        "search": Provenance("5ea4c1", SPEC, "cd" * 32).to_json(),
        "files": {"weights.safetensors": {"sha256": "ef" * 32}, "manifest.json": {"sha256": "00" * 32}},
        "measurement": {"low_ms": 0.98 * values["measured_ms"], "high_ms": 1.02 * values["measured_ms"]},
        "metrics": {name: {"value": value, "unit": "", "kind": ""} for name, value in values.items()},
    }


def verdicts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    return {c.label: c.verdict for c in compare_manifests(before, after)}


def test_equal_packages_are_the_same_and_latency_is_close() -> None:
    result = verdicts(manifest(), manifest(measured_ms=0.205))
    assert result.pop("Measured latency") == "close"
    assert set(result.values()) == {"same"}
    assert {"weights.safetensors", "data", "supernet", "version of torch", "Validation accuracy"} <= set(result)
    assert "manifest.json" not in result


def test_what_diverged_is_told_beside_what_may_explain_it() -> None:
    after = copy.deepcopy(manifest(val_accuracy=97.4, measured_ms=0.3))
    after["versions"] |= {"torch": "2.14.0", "numpy": "2.4"}
    after["files"]["weights.safetensors"]["sha256"] = "11" * 32
    after["search"]["supernet"] = None
    result = verdicts(manifest(), after)
    assert {name for name, verdict in result.items() if verdict == "diverged"} == {
        "Validation accuracy",
        "Measured latency",
        "weights.safetensors",
        "supernet",
    }
    assert {name for name, verdict in result.items() if verdict == "differs"} == {
        "version of torch",
        "version of numpy",
    }
    assert verdicts(manifest(test_accuracy=97.0), manifest())["Test accuracy"] == "diverged"


def write(path: Path, record: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(record))
    return path


def test_the_spec_of_a_package_is_read_and_others_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.zip", manifest())
    assert spec_of(read_manifest(path), path) == SPEC
    old = {name: value for name, value in manifest().items() if name != "search"}
    with pytest.raises(InvalidInput, match="holds no spec"):
        spec_of(old, path)
    changed = manifest()
    changed["search"]["spec"]["sead"] = 1
    with pytest.raises(InvalidSpec, match="Did you mean 'seed'"):
        spec_of(changed, path)
    (tmp_path / "text.zip").write_text("not a zip")
    for other in (tmp_path / "text.zip", tmp_path / "none.zip", write(tmp_path / "other.zip", {"format": "x"})):
        with pytest.raises(InvalidInput, match="expected the zip file"):
            read_manifest(other)
