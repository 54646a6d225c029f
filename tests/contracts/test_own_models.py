"""What holds for every own model: equal to its parent, also when narrowed, in torch and in onnxruntime."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch

from nas.models.blocks import find_residual_blocks, skip_blocks
from nas.models.channels import ChannelAnalysis, analyse_channels
from nas.models.execution import GraphModule, build, build_masked
from nas.models.graph import ModelGraph
from nas.models.intake import report_intake
from nas.models.narrowing import element_masks, narrow
from nas.models.reading.exported import read_exported
from nas.models.reading.model import ReadModel
from tests.support.models import CASES, SIDE, ModelCase, make_model, save_exported

MAX_BYTES = 1 << 28


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> ModelCase:
    return request.param


@pytest.fixture(scope="module")
def parent(case: ModelCase) -> torch.nn.Module:
    return make_model(case).eval()


@pytest.fixture(scope="module")
def model(case: ModelCase, parent: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ReadModel:
    path = save_exported(parent, tmp_path_factory.mktemp(case.name) / "model.pt2")
    return read_exported(path, MAX_BYTES)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_the_graph_computes_what_the_model_computes(
    parent: torch.nn.Module, model: ReadModel, images: torch.Tensor
) -> None:
    for batch in (images, images[:1], torch.cat([images, -images[:1]])):
        _assert_equal(_run(build(model.graph, model.weights), batch), _run(parent, batch))


def test_the_graph_survives_json(model: ReadModel) -> None:
    assert ModelGraph.from_json(model.graph.to_json()) == model.graph


def test_groups_and_blocks_are_all_found(case: ModelCase, model: ReadModel) -> None:
    report = report_intake(model.graph)
    assert (len(report.groups), len(report.blocks)) == (case.groups, case.blocks), report
    assert report.any_batch
    assert report.resolution.multiple == case.multiple
    assert report.resolution.scalable == (report.resolution.reason is None) == (case.multiple is not None)
    layers = {name for group in report.groups for name in group.layers} | {fixed.layer for fixed in report.fixed}
    convolutions = {node.module for node in model.graph.nodes if node.operator.kind in ("conv2d", "linear")}
    assert layers >= convolutions
    assert all(fixed.reason for fixed in report.fixed)


def test_keeping_everything_changes_nothing(model: ReadModel) -> None:
    groups = analyse_channels(model.graph).groups
    unchanged = narrow(model.graph, model.weights, {group.name: range(group.units) for group in groups})
    assert unchanged.graph == model.graph


@pytest.mark.parametrize("seed", range(3))
def test_a_narrowed_model_equals_its_masked_parent(model: ReadModel, images: torch.Tensor, seed: int) -> None:
    kept_units = _random_units(analyse_channels(model.graph), seed)
    narrowed = narrow(model.graph, model.weights, kept_units)
    assert _size(narrowed.graph) < _size(model.graph)
    outputs = _run(build(narrowed.graph, narrowed.weights), images)
    masked = build_masked(model.graph, model.weights, element_masks(model.graph, kept_units))
    _assert_equal(outputs, _run(masked, images))
    assert any(not torch.allclose(a, b) for a, b in zip(outputs, _run(build(*_both(model)), images), strict=True))


def test_each_group_alone_equals_its_masked_parent(model: ReadModel, images: torch.Tensor) -> None:
    for group in analyse_channels(model.graph).groups:
        kept_units = {group.name: range(0, group.units, 2)}
        narrowed = narrow(model.graph, model.weights, kept_units)
        masked = build_masked(model.graph, model.weights, element_masks(model.graph, kept_units))
        _assert_equal(_run(build(narrowed.graph, narrowed.weights), images), _run(masked, images))


def test_blocks_can_be_skipped_after_narrowing(model: ReadModel, images: torch.Tensor) -> None:
    kept_units = _random_units(analyse_channels(model.graph), 7)
    narrowed = narrow(model.graph, model.weights, kept_units)
    for block in find_residual_blocks(model.graph):
        both = narrow(model.graph, model.weights, kept_units, [block.name])
        assert not {*block.nodes, block.addition} & {node.name for node in both.graph.nodes}
        outputs = _run(build(both.graph, both.weights), images)
        _assert_equal(outputs, _run(build(skip_blocks(narrowed.graph, [block.name]), narrowed.weights), images))


def test_a_narrowed_model_runs_in_onnxruntime(model: ReadModel, images: torch.Tensor) -> None:
    narrowed = narrow(model.graph, model.weights, _random_units(analyse_channels(model.graph), 11))
    module = build(narrowed.graph, narrowed.weights)
    session = onnxruntime.InferenceSession(_to_onnx(module, images), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"image": images.numpy()})
    for actual, expected_outputs in zip(outputs, _run(module, images), strict=True):
        np.testing.assert_allclose(
            actual, expected_outputs.numpy(), atol=1e-4 * max(1.0, float(expected_outputs.abs().max()))
        )


def _both(model: ReadModel) -> tuple[ModelGraph, dict[str, np.ndarray]]:
    return model.graph, model.weights


def _random_units(analysis: ChannelAnalysis, seed: int) -> dict[str, list[int]]:
    """At least half of the units of each group, in a random choice; at least one is left out."""
    rng = np.random.default_rng(seed)
    return {
        group.name: sorted(rng.permutation(group.units)[: rng.integers((group.units + 1) // 2, group.units)].tolist())
        for group in analysis.groups
    }


def _run(module: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        outputs = module(images)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _assert_equal(outputs: tuple[torch.Tensor, ...], expected_outputs: tuple[torch.Tensor, ...]) -> None:
    for actual, expected in zip(outputs, expected_outputs, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0.0)


def _size(graph: ModelGraph) -> int:
    return sum(value.size for value in graph.parameters)


def _to_onnx(module: GraphModule, images: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (images,), buffer, input_names=["image"], dynamo=False)  # type: ignore[arg-type]
    return buffer.getvalue()
