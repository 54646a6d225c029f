"""What every registered exporter must do: read by the library that it is for."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from nas.core import registry
from nas.core.errors import InvalidInput, UnknownName
from nas.core.model_package import ModelPackage
from nas.core.plugins import Exporter
from nas.core.provenance import Provenance
from nas.core.spec import SearchSpec

WEIGHTS = {"stem.weight": np.ones((2, 1), dtype=np.float32)}


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    """A package as it is downloaded, with two classes; its models are no models."""
    manifest: dict[str, Any] = {
        "format": "hwnas model package",
        "architecture": "3f2a8d21c0de",
        "data": {"name": "digits"},
        "device": {"name": "pi"},
        "search": Provenance("5ea4c1", SearchSpec(seed=3), None).to_json(),
        "task": {"labels": "class"},
        "metrics": {
            "test_accuracy": {"value": 97.25, "unit": "%", "kind": "measured"},
            "params": {"value": 1234.0, "unit": "", "kind": "exact"},
        },
        "preprocessing": {
            "channels": 1,
            "height": 8,
            "width": 8,
            "mean": [0.5],
            "std": [0.2],
            "values": "pixel values 0 to 255",
            "class_names": ["zero", "one: 1"],
        },
    }
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "model.onnx": b"a model",
        "model_card.md": b"# Image classifier 3f2a8d21c0de\n",
        "weights.safetensors": safetensors.numpy.save(WEIGHTS),
    }
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return ModelPackage.read(path)


@pytest.mark.parametrize("name", registry.names("nas.exporters"))
def test_exporters_describe_themselves(name: str) -> None:
    exporter = registry.load_exporter(name)
    assert isinstance(exporter, Exporter)
    assert exporter.name == name
    assert exporter.summary.endswith(".")
    assert exporter.target


def test_unknown_exporters_have_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'huggingface'"):
        registry.load_exporter("hugingface")


def test_a_folder_is_read_as_a_model_repository(package: ModelPackage, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    folder = Path(registry.load_exporter("huggingface").export(package, str(tmp_path / "repository")))
    card = hub.ModelCard.load(folder / "README.md")
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 97.25, "digits")
    assert card.data.pipeline_tag == "image-classification"
    assert "# Image classifier" in card.text
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "zero", "1": "one: 1"}
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    assert np.array_equal(weights["stem.weight"], WEIGHTS["stem.weight"])
    with pytest.raises(InvalidInput, match="expected a folder that is empty"):
        registry.load_exporter("huggingface").export(package, str(folder))


def test_a_run_is_read_by_mlflow(package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = (tmp_path / "runs").as_uri()
    registry.load_exporter("mlflow").export(package, uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("hwnas")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"test_accuracy": 97.25, "params": 1234.0}
    assert run.data.params["seed"] == "3"
    assert run.data.params["budget.evaluations"] == "160"
    assert run.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == set(package.files)
