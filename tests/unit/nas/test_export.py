"""What leaves the house: ONNX models equal to their torch networks, and packages that run without this project."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from torch import nn

from nas import export, exported_run, packaging
from nas.core.arch import Arch, Decision
from nas.core.data_account import Conversion, DataAccount, SplitAccount
from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol
from nas.core.errors import ExportMismatch, InvalidInput
from nas.core.layers import CustomLayer, Layer
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.retraining import TrainingRecord
from nas.spaces.base import SpaceDefaults
from tests.support.parity import check_parity
from tests.support.paths import ROOT

SHAPE = (3, 12, 12)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.expand(s))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels, 3, groups=channels), nn.ReLU(), conv(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x))


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out))


def mobile() -> nn.Module:
    return nn.Sequential(
        conv(3, 16, 3, stride=2),
        nn.Hardswish(),
        conv(16, 16, 5, groups=16),
        nn.Hardswish(),
        SqueezeExcite(16),
        conv(16, 24, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def residual() -> nn.Module:
    return nn.Sequential(conv(3, 8, 3), nn.ReLU(), Residual(8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 36, 5))


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 20), nn.Dropout(0.5), nn.ReLU(), nn.Linear(20, 5))


def unfoldable() -> nn.Module:
    """A batch norm that no convolution precedes has nothing to be folded into and is computed as it is."""
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))


def filled(make: Any, seed: int = 0) -> nn.Module:
    """The module with weights and batch-norm statistics as training would leave them."""
    torch.manual_seed(seed)
    module: nn.Module = make()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None
            assert m.running_var is not None
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return module.eval()


def floats(n: int = 9) -> export.Images:
    return np.random.default_rng(1).normal(size=(n, *SHAPE)).astype(np.float32)


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(model).graph.node)


networks = pytest.mark.parametrize("make", [mobile, residual, plain, unfoldable])


@networks
def test_the_exported_model_agrees_with_torch(make: Any) -> None:
    module = filled(make)
    model = export.to_onnx(module, SHAPE)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    for n in (1, 9):
        assert check_parity(model, module, floats(n)) < 1e-4
    with torch.no_grad():
        expected = module(torch.from_numpy(floats())).numpy()
    assert export.onnx_predict(model, floats(), batch=4) == pytest.approx(expected, abs=1e-4)


@networks
def test_equal_modules_give_equal_bytes(make: Any) -> None:
    first, again = export.to_onnx(filled(make), SHAPE), export.to_onnx(filled(make), SHAPE)
    assert first == again
    assert first != export.to_onnx(filled(make, seed=1), SHAPE)


def test_the_graph_is_folded_and_fused() -> None:
    for module in (filled(mobile), mobile().eval()):  # untrained batch norms share equal biases
        model = export.to_onnx(export.Normalised(module, (127.0,) * 3, (60.0,) * 3), SHAPE)
        assert operators(model) == {
            "Sub": 1,
            "Mul": 2,
            "Conv": 5,
            "HardSwish": 2,
            "HardSigmoid": 1,
            "Relu": 1,
            "GlobalAveragePool": 2,
            "Flatten": 1,
            "Gemm": 1,
        }
    loaded = onnx.load_model_from_string(model)
    assert [(o.domain, o.version) for o in loaded.opset_import] == [("", export.OPSET)]
    assert [i.name for i in loaded.graph.input] == ["image"]
    assert [o.name for o in loaded.graph.output] == ["logits"]
    assert str(Path.home()).encode() not in model
    assert str(ROOT).encode() not in model


def test_exporting_leaves_the_module_as_it_was() -> None:
    module = filled(mobile).train().to(torch.float64)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    export.to_onnx(module, SHAPE)
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert next(module.parameters()).requires_grad


def test_a_mismatch_is_refused() -> None:
    model = export.to_onnx(filled(mobile), SHAPE)
    with pytest.raises(ExportMismatch, match=r"disagree: expected logits within .*, got"):
        check_parity(model, filled(mobile, seed=1), floats())
    with pytest.raises(ExportMismatch, match=r"expected logits of shape \(9, 4\)"):
        check_parity(model, nn.Sequential(filled(mobile), nn.Linear(5, 4)), floats())
    broken = filled(mobile)
    with torch.no_grad():
        broken[-1].bias[0] = float("nan")  # type: ignore[index]
    with pytest.raises(ExportMismatch, match="finite"):
        check_parity(export.to_onnx(broken, SHAPE), broken, floats())


def test_a_small_deviation_of_small_logits_is_still_a_mismatch() -> None:
    module = filled(mobile)
    with torch.no_grad():
        module[-1].weight *= 1e-2  # type: ignore[index]
    other = filled(mobile)
    other.load_state_dict(module.state_dict())
    with torch.no_grad():
        other[-1].weight[0, 0] += 2e-3  # type: ignore[index]
    with pytest.raises(ExportMismatch):
        check_parity(export.to_onnx(module, SHAPE), other, floats())


def test_normalisation_is_part_of_the_model() -> None:
    module, mean, std = filled(mobile), (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
    pixels = np.random.default_rng(0).integers(0, 256, (9, *SHAPE)).astype(np.float32)
    model = export.to_onnx(export.Normalised(module, mean, std), SHAPE)
    by_hand = (pixels - np.array(mean, np.float32)[:, None, None]) / np.array(std, np.float32)[:, None, None]
    expected = export.onnx_predict(export.to_onnx(module, SHAPE), by_hand)
    assert export.onnx_predict(model, pixels) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 20), w=st.integers(1, 20), height=st.integers(1, 20), width=st.integers(2, 20))
def test_shipped_resizing_equals_torch(h: int, w: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, h, w), dtype=np.uint8)
    expected = F.interpolate(torch.from_numpy(pixels).float(), (height, width), mode="bilinear", antialias=True)
    assert exported_run.resize(pixels, height, width) == pytest.approx(expected.numpy(), abs=1e-3)


def test_shipped_layouts() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    expected = rgb.transpose(0, 3, 1, 2)
    as_rgb, as_grey = partial(exported_run.as_NCHW, channels=3), partial(exported_run.as_NCHW, channels=1)
    for given_, expected_layout in (
        (rgb, expected),
        (expected, expected),
        (rgb[0], expected[:1]),
        (expected[0], expected[:1]),
    ):
        assert np.array_equal(as_rgb(given_), expected_layout)
    grey = rgb[..., :1]
    for given_, expected_layout in (
        (grey, expected[:, :1]),
        (grey[..., 0], expected[:, :1]),
        (grey[0, ..., 0], expected[:1, :1]),
    ):
        assert np.array_equal(as_grey(given_), expected_layout)
    for use, wrong in ((as_rgb, grey), (as_grey, rgb), (as_rgb, grey[..., 0]), (as_rgb, rgb.astype(float))):
        with pytest.raises(ValueError, match="expected"):
            use(wrong)


# The package. A tiny problem with a signal: each class has its own colour.


class Space(SpaceDefaults):
    """As much of a search space as a package asks for."""

    name, id, params = "toy", "toy-1", {"width": 1.0}
    decisions = (Decision("kernel", (3, 5)), Decision("width", (8, 16)))
    shape = ImageShape(3, 12, 12, 5)

    def layers(self, arch: Arch) -> list[Layer]:
        return [CustomLayer("stem", ("input",), (3, 8, 8), (16, 4, 4), "conv", 432, 6912)]

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        return (3, 8, 8)


def split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 5
    colours = np.random.default_rng(0).integers(40, 216, (5, 3, 1, 1))
    return Split(np.clip(colours[labels] + rng.normal(0, 25, (n, *SHAPE)), 0, 255).astype(np.uint8), labels)


MEAN, STD = (127.0, 126.0, 125.0), (60.0, 61.0, 62.0)
ARCH = Arch("toy", (1, 0))
PROFILE = DeviceProfile("bench", "x86_64", "A processor", 2, "onnxruntime", "1.0", "Linux", MeasurementProtocol())
MEASUREMENT = Measurement(PROFILE.protocol.id, PROFILE.id, 0.5, 0.49, 0.52, 900, 0.01, 1.02)
METRICS = {"val_accuracy": 90.0, "params": 1234.0, "measured_ms": 0.5, "test_accuracy": 12.0}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset("toy", Space.shape, split(200, 1), split(50, 2), split(300, 3), ("a", "b", "c", "d", "e"), "ab" * 32)


@pytest.fixture(scope="module")
def trained(data: Dataset) -> nn.Module:
    module = filled(mobile).train()
    images, labels = torch.from_numpy(data.train.images_NCHW).float(), torch.from_numpy(data.train.labels)
    x = F.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(module(x), labels))
        optimiser.step()
    return module.eval()


def make_package(module: nn.Module, data: Dataset, **changes: Any) -> tuple[bytes, packaging.PackageReport]:
    settings: dict[str, Any] = {
        "mean": MEAN,
        "std": STD,
        "seed": 7,
        "metrics": METRICS,
        "measurement": MEASUREMENT,
        "profile": PROFILE,
    }
    return packaging.package(module, ARCH, Space(), data, **{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def packed(trained: nn.Module, data: Dataset) -> tuple[bytes, packaging.PackageReport]:
    return make_package(trained, data)


def unzip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_package_holds_everything_with_checksums(
    packed: tuple[bytes, packaging.PackageReport], trained: nn.Module
) -> None:
    files = unzip(packed[0])
    assert set(files) == {
        "model.onnx",
        "model.int8.onnx",
        "weights.safetensors",
        "architecture.json",
        "manifest.json",
        "model_card.md",
        "run.py",
    }
    manifest = json.loads(files["manifest.json"])
    assert set(manifest["files"]) == set(files) - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"sha256": hashlib.sha256(files[name]).hexdigest(), "size_bytes": len(files[name])}
    assert packed[1].sizes == {name: len(content) for name, content in files.items()}
    weights = load_safetensors(files["weights.safetensors"])
    assert all(torch.equal(weights[k], v) for k, v in trained.state_dict().items())
    assert files["model.onnx"] == export.to_onnx(export.Normalised(trained, MEAN, STD), (3, 8, 8))


def test_manifest_carries_the_evidence(packed: tuple[bytes, packaging.PackageReport]) -> None:
    files, report = unzip(packed[0]), packed[1]
    manifest, architecture = json.loads(files["manifest.json"]), json.loads(files["architecture.json"])
    assert manifest["metrics"]["measured_ms"] == {"value": 0.5, "unit": "ms", "kind": "measured"}
    assert manifest["metrics"]["val_accuracy"]["kind"] == "estimated"
    assert manifest["metrics"]["test_accuracy"]["value"] == report.onnx.quality  # of these very files
    assert manifest["measurement"]["runs"] == 900
    assert manifest["device"]["protocol"]["threads"] == 1
    assert {**manifest["data"], "account": None} == {
        "name": "toy",
        "content_hash": "ab" * 32,
        "test_images": 300,
        "account": None,
    }
    assert manifest["recall_by_class"] == report.by_class
    confusion = manifest["confusion"]
    assert confusion == report.to_json()["confusion"]
    assert confusion["classes"] == ["a", "b", "c", "d", "e"]
    assert sum(map(sum, confusion["counts"])) == 300
    right = [counts[i] for i, counts in enumerate(confusion["counts"])]
    assert sum(right) / 3.0 == pytest.approx(report.onnx.quality)
    recalls = [100.0 * n / sum(counts) for n, counts in zip(right, confusion["counts"], strict=True)]
    assert recalls == pytest.approx(list(report.by_class.values()))
    balanced = manifest["metrics"]["test_balanced_accuracy"]
    assert balanced == {"value": report.onnx.further["balanced_accuracy"], "unit": "%", "kind": "measured"}
    assert manifest["seed"] == 7
    assert manifest["preprocessing"]["class_names"] == ["a", "b", "c", "d", "e"]
    assert {"hwnas", "torch", "onnx", "onnxruntime"} == set(manifest["versions"])
    assert architecture["choices"] == {"kernel": 5, "width": 8}
    assert architecture["genes"] == [1, 0]
    assert architecture["layers"][0]["macs"] == 6912


def test_latencies_from_peak_figures_are_called_estimated(trained: nn.Module, data: Dataset) -> None:
    metrics = {"predicted_ms": 0.5, "upper_ms": 0.6, "params": 1234.0}
    files = unzip(make_package(trained, data, metrics=metrics, measurement=None, profile=None, virtual=True)[0])
    kinds = {name: metric["kind"] for name, metric in json.loads(files["manifest.json"])["metrics"].items()}
    assert (kinds["predicted_ms"], kinds["upper_ms"], kinds["params"]) == ("estimated", "estimated", "exact")
    assert "| Predicted latency | 0.5 ms | estimated |" in files["model_card.md"].decode()


def test_card_is_short_and_says_where_numbers_come_from(packed: tuple[bytes, packaging.PackageReport]) -> None:
    card = unzip(packed[0])["model_card.md"].decode()
    assert len(card.splitlines()) < 60
    assert "| Measured latency | 0.5 ms | measured |" in card
    assert "| Parameters | 1,234 | exact |" in card
    assert "95 % interval 0.49 to 0.52 ms" in card
    assert "A processor" in card
    assert "float32 of shape (batch, 3, 8, 8)" in card


def test_card_and_manifest_name_teacher_and_recipe(trained: nn.Module, data: Dataset) -> None:
    recipe = {"lr": 0.03, "mixup": 0.2, "warmup_epochs": None, "distillation_temperature": 4.0}
    record = TrainingRecord("inherited", 30, "the largest network of the supernet", 97.25, recipe)
    files = unzip(make_package(trained, data, training=record, int8=False)[0])
    assert json.loads(files["manifest.json"])["training"] == dataclasses.asdict(record)
    card = files["model_card.md"].decode()
    assert (
        "The network was trained from inherited weights for 30 epochs, and learned from the largest network of the "
        "supernet (Validation accuracy: 97.25 %)."
    ) in card
    assert "Recipe: distillation temperature 4, lr 0.03, mixup 0.2." in card
    not_trained = unzip(make_package(trained, data, training=TrainingRecord("supernet"), int8=False)[0])
    assert "not trained further" in not_trained["model_card.md"].decode()


def test_report(packed: tuple[bytes, packaging.PackageReport]) -> None:
    report = packed[1]
    assert report.torch.quality > 90
    assert report.onnx.quality == pytest.approx(report.torch.quality, abs=0.4)
    assert report.int8 is not None
    assert report.int8.quality > 85
    assert 0 < report.max_abs_err < 1e-2


def test_equal_packages_are_equal_bytes(
    packed: tuple[bytes, packaging.PackageReport], trained: nn.Module, data: Dataset
) -> None:
    assert make_package(trained, data)[0] == packed[0]
    assert make_package(trained, data, seed=8)[0] != packed[0]


def test_order_in_which_a_database_returns_keys_changes_no_byte(trained: nn.Module, data: Dataset) -> None:
    recipe = {"lr": 0.03, "mixup": 0.2}
    in_order, reverse = (
        make_package(
            trained, data, int8=False, metrics=dict(metrics), training=TrainingRecord("scratch", recipe=values)
        )
        for metrics, values in (
            (METRICS.items(), recipe),
            (reversed(METRICS.items()), dict(reversed(recipe.items()))),
        )
    )
    assert in_order[0] == reverse[0]


def test_package_without_int8_or_measurement(trained: nn.Module, data: Dataset) -> None:
    content, report = make_package(trained, data, int8=False, measurement=None, profile=None, metrics={})
    files = unzip(content)
    assert "model.int8.onnx" not in files
    assert report.int8 is None
    assert "not measured" in files["model_card.md"].decode()
    refused = replace(MEASUREMENT, median_ms=None, low_ms=None, high_ms=None, refused="the machine was busy")
    card = unzip(make_package(trained, data, int8=False, measurement=refused, metrics={})[0])["model_card.md"]
    assert "could not be measured: the machine was busy" in card.decode()
    with pytest.raises(InvalidInput, match="needs its measurement"):
        make_package(trained, data, measurement=None)


class Unfaithful(nn.Module):
    """Computes something else while it is being exported."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(x)
        return logits + 0.05 if torch.onnx.is_in_onnx_export() else logits


def test_nothing_is_released_on_a_mismatch(trained: nn.Module, data: Dataset) -> None:
    with pytest.raises(ExportMismatch, match="disagree"):
        make_package(Unfaithful(trained).eval(), data)


def test_int8_is_smaller_and_uses_integers() -> None:
    wide = nn.Sequential(
        conv(3, 64, 3), nn.ReLU(), conv(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
    )
    model = export.to_onnx(wide.eval(), SHAPE)
    small = export.quantise_int8(model, floats(32))
    assert len(small) < 0.4 * len(model)
    assert operators(small)["QuantizeLinear"] > 0
    weights = {i.name: i.data_type for i in onnx.load_model_from_string(small).graph.initializer}
    assert onnx.TensorProto.INT8 in weights.values()
    expected, int8_output = export.onnx_predict(model, floats()), export.onnx_predict(small, floats())
    assert np.abs(int8_output - expected).max() < 0.1 * np.abs(expected).max()
    assert small == export.quantise_int8(model, floats(32))


# run.py, in a process that cannot import torch or this project


def run_package(folder: Path, *arguments: str) -> CompletedProcess[str]:
    code = (
        "import sys, runpy\n"
        "for name in ('torch', 'nas', 'onnx', 'PIL', 'scipy'): sys.modules[name] = None\n"
        f"sys.argv = ['run.py', *{list(arguments)!r}]\n"
        "runpy.run_path('run.py', run_name='__main__')"
    )
    return run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def unpacked(packed: tuple[bytes, packaging.PackageReport], tmp_path: Path) -> Path:
    for name, content in unzip(packed[0]).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_run_py_needs_no_torch(unpacked: Path, packed: tuple[bytes, packaging.PackageReport], data: Dataset) -> None:
    test = data.test
    np.savez(unpacked / "images.npz", x_test=test.images_NCHW.transpose(0, 2, 3, 1), y_test=test.labels)
    for flags, key in ((["--logits", "l.npy"], "accuracy_onnx"), (["--int8", "--logits", "l.npy"], "int8_accuracy")):
        done = run_package(unpacked, "images.npz", "--key", "x_test", *flags)
        assert done.returncode == 0, done.stderr
        names = [line.split("\t")[1] for line in done.stdout.splitlines()]
        right = [data.class_names[k] == name for k, name in zip(test.labels, names, strict=True)]
        assert 100 * np.mean(right) == pytest.approx(packed[1].to_json()[key], abs=0.4)
        assert np.load(unpacked / "l.npy").shape == (300, 5)


def test_run_py_refuses_clearly(unpacked: Path, data: Dataset) -> None:
    np.save(unpacked / "grey.npy", data.test.images_NCHW[:2, :1])
    done = run_package(unpacked, "grey.npy")
    assert done.returncode == 2
    assert "expected images with 3 channel(s)" in done.stderr
    assert run_package(unpacked, "nowhere.npy").returncode == 2
    np.save(unpacked / "one.npy", data.test.images_NCHW[0])
    (unpacked / "model.onnx").write_bytes((unpacked / "model.onnx").read_bytes() + b" ")
    done = run_package(unpacked, "one.npy")
    assert done.returncode == 2
    assert "changed or damaged" in done.stderr


def test_card_says_how_new_the_test_images_are(trained: nn.Module, data: Dataset) -> None:
    def card(copies: int) -> str:
        test = SplitAccount(images=300, by_class=(60,) * 5, copies=copies)
        account = DataAccount("ab" * 32, data.class_names, 550, {"test": test}, (Conversion("colour to grey", 7),))
        content, _ = make_package(trained, replace(data, account=account), int8=False)
        return unzip(content)["model_card.md"].decode()

    assert "none is an exact copy of a training image" in card(0)
    assert "**30 of them are exact copies of training images**" in card(30)
    assert "7 images: colour to grey." in card(0)
    assert "Recall by class, the lowest first: " in card(0)


def test_asymmetric_padding_is_exported_without_a_warning() -> None:
    module = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, stride=2)).eval()
    model = export.to_onnx(module, SHAPE)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    [y] = session.run(None, {"image": x})
    np.testing.assert_allclose(y, module(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


def test_the_runner_says_which_files_it_reads(tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG....")
    with pytest.raises(ValueError, match=r"expected an array in a \.npy file or an \.npz archive, got cat\.png"):
        exported_run.read_images(picture, None)
