"""A model from its file to the store: uploaded, read by a worker, report_text with its report, used and deleted."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn
from typer.testing import CliRunner

from nas.client import Client
from nas.core import registry
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import Conflict, InvalidInput, InvalidSpec, NotFound, UnknownName
from nas.core.model_spec import FileSource, ModelSpec, PackageSource, PreprocessingSpec, WeightsFile
from nas.core.spec import DataSpec
from nas.models.execution import build
from nas.models.graph import ModelGraph
from nas.models.intake import report_intake
from nas.models.stored import ParentLatency
from server.cli import options
from server.cli.app import app
from server.store.backup import back_up, restore
from server.store.garbage import GRACE_S
from tests.support import fakes
from tests.support.intake import IntakeService, intake_service
from tests.support.models import SIDE, Bessel, conv_bn, mobilenet_v2, save_exported


@pytest.fixture
def service(tmp_path: Path) -> Iterator[IntakeService]:
    with intake_service(tmp_path / "home") as service:
        yield service


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return mobilenet_v2().eval()


@pytest.fixture(scope="module")
def exported(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(network, tmp_path_factory.mktemp("exported") / "mine.pt2")


def test_a_stored_model_computes_what_the_file_computes(
    service: IntakeService, network: torch.nn.Module, exported: Path
) -> None:
    model = service.add(service.client(), "mine", exported)
    assert (model.status, model.owner, model.error) == ("succeeded", "ada", None)
    assert model.graph is not None
    assert model.weights is not None
    graph = ModelGraph.from_json(service.store.blobs.get(model.graph))
    module = build(graph, safetensors.numpy.load(service.store.blobs.get(model.weights)))
    images = torch.randn(3, 3, SIDE, SIDE)
    torch.testing.assert_close(module(images), network(images), atol=1e-5, rtol=1e-4)
    assert model.report == report_intake(graph)
    assert model.summary is not None
    assert model.summary.input_shape == (3, SIDE, SIDE)
    assert model.summary.output_shapes == ((5,),)
    assert model.summary.groups == len(model.report.groups) > 0
    assert [m.name for m in service.client().models()] == ["mine"]


@pytest.mark.long
def test_a_refused_file_fails_with_the_reason_and_gives_way_to_another(
    service: IntakeService, exported: Path, tmp_path: Path
) -> None:
    client = service.client()
    refused = service.add(client, "mine", save_exported(Bessel(), tmp_path / "bessel.pt2"))
    assert refused.status == "failed"
    assert refused.error is not None
    assert refused.error.startswith("bessel.pt2: the model: aten.special_bessel_j0.default cannot be run: ")
    assert refused.refused
    with pytest.raises(Conflict, match=r"model 'mine' was refused for good: bessel\.pt2: .* Add another file"):
        client.retry_intake("mine")
    assert (refused.summary, refused.report) == (None, None)
    assert service.add(client, "mine", exported).status == "succeeded"
    assert client.model("mine").spec.source.label == "mine.pt2"


def test_a_name_is_never_given_to_another_model(service: IntakeService, exported: Path) -> None:
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    client.add_model(ModelSpec(name="mine", source=source))
    with pytest.raises(Conflict, match="a model 'mine' exists"):
        client.add_model(ModelSpec(name="mine", source=source))
    service.work()
    with pytest.raises(Conflict, match="a model 'mine' exists"):
        client.add_model(ModelSpec(name="mine", source=source))
    with pytest.raises(Conflict, match="'mine' is taken"):
        service.client("bob").add_model(ModelSpec(name="mine", source=source))


def test_a_repeated_key_adds_one_model(service: IntakeService, exported: Path) -> None:
    client = service.client()
    spec = ModelSpec(name="mine", source=FileSource(**client.upload_model_file(exported).model_dump()))
    assert client.add_model(spec, "key").id == client.add_model(spec, "key").id


def test_models_of_other_owners_are_hidden(service: IntakeService, exported: Path) -> None:
    service.add(service.client("ada"), "mine", exported)
    bob = service.client("bob")
    assert bob.models() == []
    for call in (bob.model, bob.delete_model, bob.cancel_intake, bob.retry_intake):
        with pytest.raises(NotFound, match="no model 'mine'; the models: none"):
            call("mine")
    with pytest.raises(NotFound):
        list(bob.watch_model("mine"))
    assert [m.owner for m in service.client("root", "admin").models()] == ["ada"]


def test_a_deleted_model_is_gone_and_its_blobs_are_collected(service: IntakeService, exported: Path) -> None:
    client = service.client()
    model = service.add(client, "mine", exported)
    stored = {model.graph, model.weights, model.report_blob}
    service.clock.now = 4e9
    service.store.collect()
    assert {blob.sha256 for blob in service.store.blobs.list()} == stored  # the file itself is needed no more
    client.delete_model("mine")
    service.store.collect()
    assert list(service.store.blobs.list()) == []
    with pytest.raises(NotFound):
        client.model("mine")


def test_the_file_of_an_intake_that_has_not_succeeded_is_kept(service: IntakeService, exported: Path) -> None:
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    client.add_model(ModelSpec(name="mine", source=source))
    client.cancel_intake("mine")
    service.clock.now = 4e9
    service.store.collect(grace_s=GRACE_S)
    assert [blob.sha256 for blob in service.store.blobs.list()] == [source.blob]
    client.retry_intake("mine")
    assert client.model("mine").status == "queued"


def test_a_model_that_is_taken_in_cannot_be_deleted(service: IntakeService, exported: Path) -> None:
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    client.add_model(ModelSpec(name="mine", source=source))
    with pytest.raises(Conflict, match=r"its intake .* has not ended"):
        client.delete_model("mine")
    client.cancel_intake("mine")
    client.delete_model("mine")
    assert client.models() == []


def test_a_backup_holds_models(service: IntakeService, exported: Path, tmp_path: Path) -> None:
    model = service.add(service.client(), "mine", exported)
    home = tmp_path / "home"
    back_up(f"sqlite:///{home}/db", str(home / "blobs"), tmp_path / "backup.tar.gz")
    restore(tmp_path / "backup.tar.gz", tmp_path / "restored")
    with intake_service_at(tmp_path / "restored") as restored:
        same = restored.client().model("mine")
    assert (same.report, same.weights) == (model.report, model.weights)


def intake_service_at(home: Path):  # type: ignore[no-untyped-def]
    (home / "hwnas.db").rename(home / "db")
    return intake_service(home)


@pytest.mark.parametrize(
    ("filename", "reason"),
    [("model.pth", "a pickled checkpoint runs code"), ("model.zip", "expected a file .pt2 or .onnx")],
)
def test_other_files_are_refused_at_once(service: IntakeService, filename: str, reason: str) -> None:
    client = service.client()
    record = {"name": "mine", "source": {"kind": "file", "blob": "0" * 64, "filename": filename}}
    answer = service.app.post("/v1/models", json=record, headers=client._headers)
    assert answer.status_code == 422
    assert reason in answer.json()["message"]
    assert client.models() == []


def test_a_file_that_was_never_uploaded_is_refused(service: IntakeService) -> None:
    source = FileSource(blob="0" * 64, filename="mine.pt2")
    with pytest.raises(InvalidSpec, match=r"source\.blob: no file 0{12}\.\.\. was uploaded"):
        service.client().add_model(ModelSpec(name="mine", source=source))


def test_hostile_files_fail_and_run_nothing(service: IntakeService, tmp_path: Path) -> None:
    client, witness = service.client(), tmp_path / "ran"

    class FileWriter:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(witness), "w"))

    hostile = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("data/constants/model_constants_config.json", "{}")
        archive.writestr("data/sample_inputs/model.pt", pickle.dumps(FileWriter()))
    assert service.add(client, "hostile", hostile).status == "failed"
    pickled = tmp_path / "pickled.pt2"
    pickled.write_bytes(pickle.dumps(FileWriter()))
    assert service.add(client, "pickled", pickled).status == "failed"
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(np.random.default_rng(0).bytes(5_000))
    assert service.add(client, "noise", noise).status == "failed"
    assert not witness.exists()
    assert all(model.error and model.error.startswith(f"{model.name}.") for model in client.models())


def test_uploads_are_limited(service: IntakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = service.client()
    (tmp_path / "empty.pt2").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"^empty\.pt2: expected a file of a model, got an empty one$"):
        client.upload_model_file(tmp_path / "empty.pt2")
    monkeypatch.setattr("server.api.limits.MAX_UPLOAD", 10)
    (tmp_path / "large.pt2").write_bytes(b"x" * 11)
    with pytest.raises(Exception, match="larger than 10 bytes"):
        client.upload_model_file(tmp_path / "large.pt2")
    assert list(service.store.blobs.list()) == []


@pytest.mark.long
def test_weights_of_another_file_are_stored_with_the_model(
    service: IntakeService, network: torch.nn.Module, exported: Path, tmp_path: Path
) -> None:
    client, state = service.client(), network.state_dict()
    state["head.bias"] = torch.full_like(state["head.bias"], 7.0)
    safetensors.torch.save_file({**state, "more": torch.zeros(2)}, tmp_path / "tuned.safetensors")
    source = FileSource(**client.upload_model_file(exported).model_dump())
    weights = WeightsFile(**client.upload_model_file(tmp_path / "tuned.safetensors").model_dump())
    client.add_model(ModelSpec(name="mine", source=source, weights=weights))
    service.work()
    model = client.model("mine")
    assert (model.status, model.warnings) == ("succeeded", ["weights: the model has no parameter for more"])
    assert model.weights is not None
    stored = safetensors.numpy.load(service.store.blobs.get(model.weights))
    np.testing.assert_array_equal(stored["head.bias"], np.full(5, 7.0))


def test_weights_that_do_not_fit_are_refused_under_their_files_name(
    service: IntakeService, exported: Path, tmp_path: Path
) -> None:
    client = service.client()
    safetensors.torch.save_file({"head.bias": torch.zeros(5)}, tmp_path / "other.safetensors")
    source = FileSource(**client.upload_model_file(exported).model_dump())
    weights = WeightsFile(**client.upload_model_file(tmp_path / "other.safetensors").model_dump())
    client.add_model(ModelSpec(name="mine", source=source, weights=weights))
    service.work()
    model = client.model("mine")
    assert (model.status, model.refused) == ("failed", True)
    assert model.error is not None
    assert model.error.startswith("other.safetensors: expected a tensor for each of the model's")


def test_a_model_is_measured_on_a_device(
    service: IntakeService, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.add_device(service.store)
    models: list[bytes] = []

    def measure(onnx: Sequence[bytes], device: DeviceProfile, *_: object) -> list[Measurement]:
        models.extend(onnx)
        assert device == fakes.PROFILE
        return [fakes.measurement(12.5)]

    monkeypatch.setattr("workers.runner.measure_isolated", measure)
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    client.add_model(ModelSpec(name="mine", source=source, device="bench"))
    service.work()
    model = client.model("mine")
    assert (model.status, [stage.name for stage in model.stages]) == ("succeeded", ["read", "measure"])
    assert model.latency == ParentLatency("bench", fakes.PROFILE.id, 12.5, 12.5 * 0.99, 12.5 * 1.01)
    session = onnxruntime.InferenceSession(models[0])
    assert session.run(None, {"image": np.zeros((1, 3, SIDE, SIDE), np.float32)})[0].shape == (1, 5)


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of an untrained classifier of the digits data set."""
    torch.manual_seed(0)
    module = nn.Sequential(conv_bn(1, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    example, images = torch.randn(2, 1, 8, 8), torch.export.Dim("images")
    program = torch.export.export(module.train(), (example,), dynamic_shapes=({0: images},))
    path = tmp_path_factory.mktemp("digits") / "digits.pt2"
    torch.export.save(program, path)
    return path


def test_a_model_is_judged_on_data(service: IntakeService, digits_model: Path) -> None:
    client = service.client()
    source = FileSource(**client.upload_model_file(digits_model).model_dump())
    data = DataSpec(params={"max_test": 100})
    preprocessing = PreprocessingSpec(mean=(40.0,), std=(60.0,))
    client.add_model(ModelSpec(name="mine", source=source, data=data, preprocessing=preprocessing))
    service.work()
    model = client.model("mine")
    assert (model.status, model.warnings) == ("succeeded", [])
    assert model.quality is not None
    assert (model.quality.metric, model.quality.images) == ("test_accuracy", 100)
    assert model.graph is not None
    assert model.weights is not None
    graph = ModelGraph.from_json(service.store.blobs.get(model.graph))
    module = build(graph, safetensors.numpy.load(service.store.blobs.get(model.weights))).eval()
    split = registry.load_dataset("digits").load(data, data.seed).test
    images = (torch.from_numpy(split.images_NCHW).float() - 40.0) / 60.0
    correct = int((module(images).argmax(1).numpy() == split.labels).sum())
    assert model.quality.value == pytest.approx(correct)
    assert model.quality.interval is not None
    assert model.quality.interval[0] < correct < model.quality.interval[1]


def test_mean_and_std_of_other_channels_are_refused(service: IntakeService, exported: Path) -> None:
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    two = PreprocessingSpec(mean=(120.0, 110.0), std=(60.0, 60.0))
    client.add_model(ModelSpec(name="mine", source=source, preprocessing=two))
    service.work()
    model = client.model("mine")
    assert model.status == "failed"
    assert model.error == "preprocessing: expected mean and std for 3 channels, got 2 of each"


def test_data_that_a_model_does_not_fit_are_warned_of(service: IntakeService, exported: Path) -> None:
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    client.add_model(ModelSpec(name="mine", source=source, data=DataSpec()))
    service.work()
    model = client.model("mine")
    assert (model.status, model.quality) == ("succeeded", None)
    assert model.warnings == ["evaluate: 'mine' takes images of 3 channels, the data have 1"]


def test_a_measurement_that_says_nothing_is_warned_of(
    service: IntakeService, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.add_device(service.store)
    monkeypatch.setattr("workers.runner.measure_isolated", lambda *_: [fakes.measurement(None)])
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    client.add_model(ModelSpec(name="mine", source=source, device="bench"))
    service.work()
    model = client.model("mine")
    assert (model.status, model.latency, model.warnings) == ("succeeded", None, ["measure: unsteady"])


def test_a_device_that_does_not_exist_is_refused(service: IntakeService, exported: Path) -> None:
    client = service.client()
    source = FileSource(**client.upload_model_file(exported).model_dump())
    with pytest.raises(NotFound, match="no device 'bench'"):
        client.add_model(ModelSpec(name="mine", source=source, device="bench"))


def test_an_entry_point_that_no_package_declares_is_refused(service: IntakeService) -> None:
    with pytest.raises(UnknownName, match="unknown model of an installed package 'ours'"):
        service.client().add_model(ModelSpec(name="mine", source=PackageSource(entry_point="ours")))


def test_preprocessing_is_in_pixel_values(service: IntakeService) -> None:
    record = {
        "name": "mine",
        "source": {"kind": "file", "blob": "0" * 64, "filename": "mine.onnx"},
        "preprocessing": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    answer = service.app.post("/v1/models", json=record, headers=service.client()._headers)
    assert answer.status_code == 422
    assert "multiply both by 255" in answer.json()["message"]


def test_the_command_line_adds_shows_and_deletes(
    service: IntakeService, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.client()._headers["Authorization"].removeprefix("Bearer ")
    monkeypatch.setattr(options, "Client", partial(Client, transport=service.transport))
    monkeypatch.setenv("HWNAS_TOKEN", token)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["models", *words])
        assert result.exit_code == 0, result.output
        return result.output

    means = ("--mean", "123.7,116.3,103.5", "--std", "58.4,57.1,57.4")
    assert "model mine: queued" in run("add", "mine", str(exported), *means, "--no-watch")
    service.work()
    report_text = run("show", "mine")
    for text in ("model mine: succeeded", "with mean 123.7, 116.3, 103.5", "May be narrowed", "May be skipped"):
        assert text in report_text
    assert json.loads(run("show", "mine", "--json"))["report"]["parameters"] > 0
    assert "mine.pt2" in run("list")
    assert run("delete", "mine", "--yes") == "model mine: deleted\n"
    assert "No models yet" in run("list")
    wrong = CliRunner().invoke(app, ["models", "add", "mine", str(exported), "--mean", "1,2,3"])
    assert (wrong.exit_code, wrong.stderr) == (2, "nas: expected --mean and --std together, or neither\n")
