"""Operators without a translation: run as they are, with what they read left as wide as it is, or refused by name."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.core.operators import ExampleShape, OpaqueOp, OperandArgument
from nas.models.channels import analyse_channels
from nas.models.execution import build
from nas.models.graph import InvalidModel, ModelGraph
from nas.models.intake import report_intake
from nas.models.narrowing import narrow
from nas.models.opaque import operator_of
from nas.models.reading.exported import read_exported
from search_spaces.own_model.layers import count_macs
from tests.support.models import SIDE, save_exported

MAX_BYTES = 1 << 28


class Around(nn.Module):
    """Convolutions before and after a function, of as many channels."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.after, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.after(self.before(x)))).mean((2, 3))


FUNCTIONS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "sort": ("aten.sort.default", lambda x: torch.sort(x, 1)[0]),
    "two outputs": ("aten.topk.default", lambda x: torch.cat(torch.topk(x, 4, 1), 1)),
    "masked": ("aten.masked_fill.Scalar", lambda x: x.masked_fill(x < 0, float("-inf")).clamp(min=-1.0)),
    "where": ("aten.where.self", lambda x: torch.where(x > 0, x, 0.1 * x)),
    "another type": ("aten.to.dtype", lambda x: (x > 0).to(torch.float32) * x),
    "index": ("aten.index.Tensor", lambda x: x[:, torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])]),
    "reflected border": ("aten.pad.default", lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")),
    "dilated pool": ("aten.max_pool2d.default", lambda x: nn.functional.max_pool2d(x, 2, dilation=2)),
    "signs": ("aten.sign.default", torch.sign),
    "several rows an image": (
        "aten.sort.default",
        lambda x: torch.sort(x.reshape(-1, 4, *x.shape[2:]), 1)[0].reshape(-1, 8, *x.shape[2:]),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_unknown_operator_runs_and_keeps_what_it_reads(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    operator, function = FUNCTIONS[name]
    module = Around(function).eval()
    model = read_exported(save_exported(module, tmp_path / "model.pt2"), MAX_BYTES)
    report = report_intake(model.graph)
    assert (operator, "the model") in {(opaque.operator, opaque.module) for opaque in report.opaque}
    assert any(entry.cause.startswith("aten.") for entry in report.fixed)
    assert [group.name for group in report.groups] == ["before"]
    fixed = {entry.layer: entry.reason for entry in report.fixed}
    assert any("keeps what it reads" in reason for reason in fixed.values())
    assert ModelGraph.from_json(model.graph.to_json()) == model.graph
    for images in (1, 5):
        x = torch.randn(images, 3, SIDE, SIDE)
        torch.testing.assert_close(build(model.graph, model.weights)(x), module(x), atol=1e-5, rtol=1e-4)
    smaller = narrow(model.graph, model.weights, {"before": range(3)})
    assert build(smaller.graph, smaller.weights)(torch.randn(3, 3, SIDE, SIDE)).shape == (3, 4)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.cumsum(x, 0), "expected each image to be independent of others"),
        (lambda x: x + torch.rand_like(x), "which draws numbers"),
        (lambda x: torch.special.bessel_j0(x), "it has no form in ONNX"),
        (lambda x: torch.fft.fft2(x).abs(), "expected real numbers"),
    ],
    ids=["mixes images", "random", "without ONNX", "complex"],
)
def test_what_cannot_be_run_is_refused(function: Callable[[Tensor], Tensor], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=reason):
        read_exported(save_exported(Around(function), tmp_path / "model.pt2"), MAX_BYTES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aten.from_file.default", "expected an operator that reads tensors"),
        ("aten.add_.Tensor", "expected an operator that gives new tensors"),
        ("aten._fused_dropout.default", "internal"),
        ("aten.bernoulli.default", "draws numbers"),
        ("aten.no_such_operator.default", "expected an operator of torch"),
        ("prims.convert_element_type.default", "expected an operator of torch"),
        ("aten.__class__.default", "expected an operator of torch"),
    ],
)
def test_operators_that_must_not_be_run_are_refused(name: str, reason: str) -> None:
    with pytest.raises(InvalidModel, match=reason):
        operator_of(name)


def test_a_file_cannot_name_an_operator_that_reads_files(tmp_path: Path) -> None:
    exported = save_exported(Around(torch.sign), tmp_path / "model.pt2")
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 64)

    def hostile(program: Any) -> None:
        for node in program["graph_module"]["graph"]["nodes"]:
            if node["target"].startswith("torch.ops.aten.sign"):
                node["target"] = "torch.ops.aten.from_file.default"
                node["inputs"] = [
                    {"name": "filename", "arg": {"as_string": str(secret)}, "kind": 1},
                    {"name": "size", "arg": {"as_int": 16}, "kind": 1},
                ]

    changed = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(exported) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(content)
                hostile(program)
                content = json.dumps(program).encode()
            target.writestr(name, content)
    with pytest.raises(InvalidModel, match=r"from_file"):
        read_exported(changed, MAX_BYTES)


def test_shapes_of_opaque_operators_follow_the_number_of_images_alone() -> None:
    shape = ExampleShape((3, 8, 4), (0,))
    assert (shape.of(1), shape.of(5)) == ((3, 8, 4), (15, 8, 4))
    operator = OpaqueOp(
        "aten.sign.default", (("self", OperandArgument((0,))),), 0, (shape,), ("float32",), shape, "new"
    )
    assert operator.kind == "opaque"


def test_buffers_are_neither_trained_nor_counted(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
            self.register_buffer("gain", torch.rand(1, 8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x) * self.gain).mean((2, 3))

    torch.manual_seed(0)
    model = read_exported(save_exported(Scaled(), tmp_path / "model.pt2"), MAX_BYTES)
    module = build(model.graph, model.weights)
    assert {value.name for value in model.graph.learned} == {"body.weight", "body.bias", "head.weight", "head.bias"}
    assert sum(p.numel() for p in module.parameters()) == sum(value.size for value in model.graph.learned)
    assert "gain" in {value.name for value in model.graph.parameters}
    smaller = narrow(model.graph, model.weights, {"body": [1, 2]})
    assert smaller.weights["gain"].shape == (1, 2, 1, 1)
    assert [value.is_buffer for value in smaller.graph.parameters if value.name == "gain"] == [True]


def test_convolutions_over_three_dimensions_stay_and_are_counted(tmp_path: Path) -> None:
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.body, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv3d(1, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.deep(self.body(self.free(x)).unsqueeze(1)).mean((2, 3, 4))

    torch.manual_seed(0)
    module = Volume().eval()
    model = read_exported(save_exported(module, tmp_path / "model.pt2"), MAX_BYTES)
    assert [group.name for group in analyse_channels(model.graph).groups] == ["free"]
    x = torch.randn(3, 3, SIDE, SIDE)
    torch.testing.assert_close(build(model.graph, model.weights)(x), module(x), atol=1e-5, rtol=1e-4)
    [node] = [node for node in model.graph.nodes if isinstance(node.operator, OpaqueOp)]
    assert count_macs(node, model.graph.shapes) == 2 * 27 * 4 * SIDE * SIDE
    assert {"deep.weight", "deep.bias"} <= {value.name for value in model.graph.learned}


def test_graphs_of_earlier_versions_keep_channels_that_a_norm_runs_over(tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.body(x))).mean((2, 3))

    graph = read_exported(save_exported(Normed(), tmp_path / "model.pt2"), MAX_BYTES).graph
    assert [group.name for group in analyse_channels(graph).groups] == ["body"]
    stored = json.loads(graph.to_json())
    stored["format_version"] = 1
    for value in stored["parameters"]:
        del value["is_buffer"]
    before = ModelGraph.from_json(json.dumps(stored).encode())
    assert analyse_channels(before).groups == ()
    assert before.format_version == 1
