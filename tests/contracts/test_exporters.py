"""What every registered exporter must do: read by the library that it is for."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
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
from tests.support.waiting import wait_for

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


@pytest.fixture
def wandb_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """wandb without a login, whose files lie in a temporary folder; its settings are forgotten at the end."""
    wandb = pytest.importorskip("wandb", reason="needs wandb")
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    yield
    wandb.teardown()


@pytest.mark.usefixtures("wandb_environment")
def test_a_run_of_wandb_holds_spec_metrics_and_files(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    answer = registry.load_exporter("wandb").export(package, "team/networks")
    folder = Path(answer.partition("wandb sync ")[2])
    [log] = folder.glob("run-*.wandb")
    records = wait_for(lambda: _finished_wandb_records(log), 30.0)  # the library's service writes to the end
    [run] = [record.run for record in records if record.HasField("run")]
    assert (run.entity, run.project, run.display_name) == ("team", "networks", "3f2a8d21c0de")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["seed"], config["budget.evaluations"]) == ("3", "160")
    summary = {i.key: json.loads(i.value_json) for r in records if r.HasField("summary") for i in r.summary.update}
    assert {name: summary[name] for name in ("test_accuracy", "params")} == {"test_accuracy": 97.25, "params": 1234.0}
    [artifact] = [record.artifact for record in records if record.HasField("artifact")]
    assert {entry.path for entry in artifact.manifest.contents} == set(package.files)


def _finished_wandb_records(log: Path) -> list[Any] | None:
    records = list(_wandb_records(log))
    return records if any(record.HasField("exit") for record in records) else None


def _wandb_records(log: Path) -> Iterator[Any]:
    """The records of a run's log, which is a log of LevelDB: blocks of 32 KiB with chunks of 7 bytes of header
    (checksum, length, and 1 whole, 2 first, 3 middle, 4 last) and content."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, record = log.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32_768 - position % 32_768 < 7:
            position += 32_768 - position % 32_768
        length, kind = struct.unpack_from("<HB", content, position + 4)
        if position + 7 + length > len(content):
            return
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


@pytest.mark.usefixtures("wandb_environment")
def test_wandb_without_a_login_is_told_what_to_set(package: ModelPackage) -> None:
    with pytest.raises(InvalidInput, match="Set WANDB_API_KEY to log in, or WANDB_MODE=offline"):
        registry.load_exporter("wandb").export(package, "networks")
