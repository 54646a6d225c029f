"""Weights of a file on top of a model, and models of installed packages and of timm."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from nas.core.parent import Preprocessing
from nas.models import source_code
from nas.models.execution import build
from nas.models.graph import InvalidModel
from nas.models.reading.child import ReadRequest, read_source
from nas.models.reading.exported import read_exported
from nas.models.reading.model import ReadModel
from nas.models.reading.weights import read_weights, with_weights
from tests.support.models import SIDE, mobilenet_v2, save_exported

MAX_BYTES = 1 << 28


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    module = mobilenet_v2().eval()
    for buffer in module.buffers():
        if buffer.dtype.is_floating_point:
            buffer.uniform_(0.5, 1.5)
    return module


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(network(0), tmp_path_factory.mktemp("exported") / "model.pt2")


@pytest.fixture(scope="module")
def model(exported: Path) -> ReadModel:
    return read_exported(exported, MAX_BYTES)


@pytest.fixture(scope="module")
def other() -> torch.nn.Module:
    return network(1)


@pytest.fixture(scope="module")
def state(other: torch.nn.Module) -> dict[str, torch.Tensor]:
    return other.state_dict()


def arrays(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.mark.long
def test_a_file_of_weights_replaces_those_of_the_model(
    exported: Path, other: torch.nn.Module, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        read = read_source(ReadRequest(file=exported, weights=tmp_path / name), "model")
        assert read.warnings == ()
        torch.testing.assert_close(build(read.graph, read.weights)(images), other(images), atol=1e-5, rtol=1e-4)


def test_half_precision_becomes_float32(model: ReadModel, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    half = {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}
    safetensors.torch.save_file(half, tmp_path / "weights.safetensors")
    weights = with_weights(model, read_weights(tmp_path / "weights.safetensors")).weights
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(weights["head.weight"], state["head.weight"].numpy(), rtol=0.01)


def test_missing_weights_are_named(model: ReadModel, state: dict[str, torch.Tensor]) -> None:
    tensors = arrays(state)
    tensors["tail.weight"] = tensors.pop("head.weight")
    with pytest.raises(InvalidModel, match=r"got none for head\.weight; without a place in the model are tail\.weight"):
        with_weights(model, tensors)


def test_missing_weights_alone_are_named_alone(model: ReadModel, state: dict[str, torch.Tensor]) -> None:
    tensors = arrays(state)
    del tensors["head.weight"]
    with pytest.raises(InvalidModel, match=r"got none for head\.weight$"):
        with_weights(model, tensors)


def test_weights_of_another_shape_are_named(model: ReadModel, state: dict[str, torch.Tensor]) -> None:
    tensors = arrays(state) | {"head.bias": np.zeros(7, dtype=np.float32)}
    with pytest.raises(InvalidModel, match=r"expected other shapes: head\.bias \[5\], got \[7\]"):
        with_weights(model, tensors)


def test_surplus_weights_are_warned_of(model: ReadModel, state: dict[str, torch.Tensor]) -> None:
    tensors = arrays(state) | {"auxiliary.weight": np.zeros(7, dtype=np.float32)}
    assert with_weights(model, tensors).warnings == ("weights: the model has no parameter for auxiliary.weight",)


def test_weights_that_are_not_finite_are_refused(model: ReadModel, state: dict[str, torch.Tensor]) -> None:
    tensors = arrays(state) | {"head.bias": np.full(5, np.nan, dtype=np.float32)}
    with pytest.raises(InvalidModel, match=r"expected finite numbers, got others in head\.bias"):
        with_weights(model, tensors)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    witness, path = tmp_path / "ran", tmp_path / "weights.pt"

    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return (open, (str(witness), "w"))

    torch.save({"head.weight": Hostile()}, path)
    with pytest.raises(InvalidModel, match="nothing that runs code when it is opened"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InvalidModel, match="nothing that runs code when it is opened"):
        read_weights(path)
    assert not witness.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path, other: torch.nn.Module) -> None:
    torch.save(other, tmp_path / "weights.pt")
    with pytest.raises(InvalidModel, match=r"writes it, got one with tests\.support\.models\.Classifier$"):
        read_weights(tmp_path / "weights.pt")


def test_several_state_dicts_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"model": state, "ema": state}, tmp_path / "weights.pt")
    with pytest.raises(InvalidModel, match=r"one entry of .* that is one, got model, ema"):
        read_weights(tmp_path / "weights.pt")


def test_noise_is_refused(tmp_path: Path) -> None:
    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(1_000))
        with pytest.raises(InvalidModel, match="weights: expected"):
            read_weights(tmp_path / name)


def declare(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    entry = EntryPoint("ours", f"{__name__}:{function}", "nas.models")
    monkeypatch.setattr(source_code, "installed", lambda group: {"ours": entry})


def make_ours() -> tuple[torch.nn.Module, torch.Tensor]:
    return network(2), torch.zeros(2, 3, SIDE, SIDE)


def make_nothing() -> None:
    return None


def test_a_packages_model_is_exported_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    declare(monkeypatch, "make_ours")
    source_code.export_packaged("ours", tmp_path / "ours.pt2")
    read, images = read_exported(tmp_path / "ours.pt2", MAX_BYTES), torch.randn(3, 3, SIDE, SIDE)
    torch.testing.assert_close(build(read.graph, read.weights)(images), network(2)(images), atol=1e-5, rtol=1e-4)


def test_other_entry_points_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    declare(monkeypatch, "make_nothing")
    with pytest.raises(InvalidModel, match=r"expected a torch\.nn\.Module and a tensor of .*, got NoneType"):
        source_code.export_packaged("ours", tmp_path / "ours.pt2")
    with pytest.raises(InvalidModel, match="unknown model of an installed package 'theirs': expected one of ours"):
        source_code.export_packaged("theirs", tmp_path / "theirs.pt2")
    declare(monkeypatch, "no_such_function")
    with pytest.raises(InvalidModel, match="no_such_function' failed: AttributeError"):
        source_code.export_packaged("ours", tmp_path / "ours.pt2")


def test_a_model_of_timm_brings_its_preprocessing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = {"input_size": (3, SIDE, SIDE), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return network(3 if pretrained else 4)

    data = SimpleNamespace(resolve_model_data_config=lambda module: config)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, data=data))
    preprocessing = source_code.export_timm("tiny", True, tmp_path / "tiny.pt2")
    assert preprocessing == Preprocessing((127.5, 102.0, 76.5), (51.0, 51.0, 51.0))
    read = read_exported(tmp_path / "tiny.pt2", MAX_BYTES)
    np.testing.assert_array_equal(read.weights["head.weight"], network(3).state_dict()["head.weight"].numpy())
    with pytest.raises(InvalidModel, match=r"timm does not create 'large': Unknown model \(large\)"):
        source_code.export_timm("large", True, tmp_path / "large.pt2")


def test_without_timm_its_models_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidModel, match="timm is not installed on the worker"):
        source_code.export_timm("tiny", True, tmp_path / "tiny.pt2")
