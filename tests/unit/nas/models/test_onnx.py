"""ONNX models are read, and equal to what they were made from; those that hold more than operators are refused."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from nas.models.channels import analyse_channels
from nas.models.execution import build, build_masked
from nas.models.graph import InvalidModel
from nas.models.intake import report_intake
from nas.models.narrowing import element_masks, narrow
from nas.models.reading.child import read_model
from nas.models.reading.onnx_model import read_onnx
from tests.support.models import CASES, SIDE, ModelCase, make_model

MAX_BYTES = 1 << 28


def save_onnx(model: torch.nn.Module, path: Path, *, any_batch: bool) -> Path:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.randn(2, 3, SIDE, SIDE),),
            buffer,  # type: ignore[arg-type]
            input_names=["image"],
            dynamic_axes={"image": {0: "images"}} if any_batch else None,
            dynamo=False,
        )
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_onnx_model_equals_its_source(case: ModelCase, tmp_path: Path) -> None:
    parent = make_model(case).eval()
    model = read_onnx(save_onnx(parent, tmp_path / "model.onnx", any_batch=False), MAX_BYTES)
    images = torch.randn(2, 3, SIDE, SIDE)
    kept_units = {group.name: range(0, group.units, 2) for group in analyse_channels(model.graph).groups}
    assert len(kept_units) == (case.groups if case.onnx_groups is None else case.onnx_groups)
    narrowed = narrow(model.graph, model.weights, kept_units)
    masked = build_masked(model.graph, model.weights, element_masks(model.graph, kept_units))
    with torch.no_grad():
        _assert_equal(build(model.graph, model.weights)(images), parent(images))
        _assert_equal(build(narrowed.graph, narrowed.weights)(images), masked(images))


def test_a_named_number_of_images_may_vary(tmp_path: Path) -> None:
    parent = make_model(CASES[0]).eval()
    model = read_onnx(save_onnx(parent, tmp_path / "model.onnx", any_batch=True), MAX_BYTES)
    report = report_intake(model.graph)
    assert report.any_batch
    assert report.batch_norms == 0  # folded when the file was made
    images = torch.randn(5, 3, SIDE, SIDE)
    with torch.no_grad():
        _assert_equal(build(model.graph, model.weights)(images), parent(images))


def test_unknown_operators_of_onnx_run_as_they_are(tmp_path: Path) -> None:
    class Chosen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.before, self.after = (torch.nn.Conv2d(c, 8, 1) for c in (3, 8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.before(self.free(x))
            return self.after(torch.where(y > 0, torch.sin(y), 0.1 * y)).mean((2, 3))

    torch.manual_seed(0)
    parent = Chosen().eval()
    model = read_onnx(save_onnx(parent, tmp_path / "model.onnx", any_batch=True), MAX_BYTES)
    report = report_intake(model.graph)
    assert report.any_batch
    assert [group.channels for group in report.groups] == [8]
    assert {opaque.operator for opaque in report.opaque} == {"aten.gt.Tensor", "aten.sin.default", "aten.where.self"}
    images = torch.randn(5, 3, SIDE, SIDE)
    with torch.no_grad():
        _assert_equal(build(model.graph, model.weights)(images), parent(images))


def _assert_equal(outputs: torch.Tensor | tuple[torch.Tensor, ...], expected: torch.Tensor) -> None:
    torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=1e-4)


def _external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def _custom_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def _subgraph(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "empty", [], [])))


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NonMaxSuppression"


def _flexible(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external, "w: expected the weights in the file itself, got external data"),
        (_custom_domain, "expected an operator of ONNX, got Conv of 'com.example'"),
        (_subgraph, "expected no control flow, got Conv"),
        (_unknown, "first: expected an operator that can be run, got NonMaxSuppression"),
        (_flexible, "input x: expected fixed sizes but for the number of images"),
    ],
)
def test_what_is_more_than_operators_is_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 1, 1), [0.5] * 12)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, c, 8, 8)) for n, c in (("x", 3), ("y", 4))]
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first")
    model = helper.make_model(helper.make_graph([node], "graph", values[:1], values[1:], [weight]))
    change(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModel, match=message):
        read_onnx(path, MAX_BYTES)


def test_a_file_that_is_no_onnx_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(InvalidModel, match=r"^model\.onnx: expected an ONNX model, got"):
        read_model(tmp_path / "model.onnx")
