"""Memory and weights of single operators, as torch's exporter writes them."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core.arch import as_archs
from nas.core.operators import (
    BatchNormOp,
    BinaryOp,
    Conv2dOp,
    ConvTranspose2dOp,
    GraphOperator,
    Pad2dOp,
    ReduceOp,
    UnaryOp,
    UpsampleOp,
)
from nas.core.parent import ParentModel
from nas.core.ports import ImageShape
from nas.export import Normalised, footprint, to_onnx
from nas.models.execution import _UNARY
from nas.models.graph import GraphNode, GraphValue, ModelGraph
from search_spaces.own_model.space import build

CONSTANTS = {"leaky_relu": (0.1,), "elu": (1.0,), "hardtanh": (-1.0, 1.0), "clamp": (0.0, None)}
SAME = (2, 8, 8, 8)
CASES: dict[str, tuple[GraphOperator, tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    **{name: (UnaryOp(name, CONSTANTS.get(name, ())), SAME, ()) for name in _UNARY},
    "padded": (Pad2dOp((0, 0, 1, 1)), (2, 8, 9, 9), ()),
    "padded on one side": (Conv2dOp((2, 2), (0, 0, 1, 1)), (2, 8, 4, 4), ((8, 8, 3, 3),)),
    "upsampled": (UpsampleOp("bilinear", (2.0, 2.0)), (2, 8, 16, 16), ()),
    "divided": (BinaryOp("div", 2.0, True), SAME, ()),
    "subtracted": (BinaryOp("sub", 2.0, True), SAME, ()),
    "at least": (BinaryOp("maximum", 0.5), SAME, ()),
    "transposed": (ConvTranspose2dOp((2, 2)), (2, 8, 16, 16), ((8, 8, 2, 2),)),
    "normalised apart": (BatchNormOp(1e-5), SAME, ((8,), (8,))),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Constant folding")
def test_an_operator_between_convolutions_is_counted_as_exported(name: str) -> None:
    operator, shape, parameter_shapes = CASES[name]
    parameters = {"first": (8, 3, 3, 3), "last": (5, 8, 1, 1)}
    parameters |= {f"own{i}": own for i, own in enumerate(parameter_shapes)}
    nodes = (
        GraphNode("conv", Conv2dOp((1, 1), (1, 1, 1, 1)), ("x", "first"), SAME),
        GraphNode("relu", UnaryOp("relu"), ("conv",), SAME),
        GraphNode("y", operator, ("relu", *list(parameters)[2:]), shape),
        GraphNode("head", Conv2dOp(), ("y", "last"), (2, 5, *shape[2:])),
        GraphNode("pool", ReduceOp("mean", (2, 3), False), ("head",), (2, 5)),
    )
    values = tuple(GraphValue(key, parameter) for key, parameter in parameters.items())
    graph = ModelGraph((GraphValue("x", (2, 3, 8, 8)),), values, nodes, ("pool",))
    rng = np.random.default_rng(0)
    weights = {key: rng.uniform(0.5, 1.5, parameter).astype(np.float32) for key, parameter in parameters.items()}
    space = build({"width_multiple": 2}, ImageShape(3, 8, 8, 5), ParentModel("m", graph.to_json(), lambda: weights))
    genes = np.stack([space.parent_genes(), 0 * space.parent_genes()])
    costs, net = space.costs(genes), space.supernet(0)
    for i, arch in enumerate(as_archs(space.id, genes)):
        exported = footprint(to_onnx(Normalised(net.subnet(arch), [0.5] * 3, [0.25] * 3), (3, 8, 8)))
        assert exported.peak_bytes == costs["peak_bytes"][i]
        assert exported.model_bytes == costs["model_bytes"][i]


@pytest.mark.filterwarnings("ignore:Constant folding")
def test_a_convolution_that_is_read_beside_its_batch_norm_is_exported() -> None:
    """As in residual networks whose blocks begin with a batch norm."""
    shapes = {"w": (8, 3, 3, 3), "mean": (8,), "variance": (8,), "v": (5, 8, 1, 1)}
    nodes = (
        GraphNode("conv", Conv2dOp((1, 1), (1, 1, 1, 1)), ("x", "w"), SAME),
        GraphNode("norm", BatchNormOp(1e-5), ("conv", "mean", "variance"), SAME),
        GraphNode("sum", BinaryOp("add"), ("conv", "norm"), SAME),
        GraphNode("head", Conv2dOp(), ("sum", "v"), (2, 5, 8, 8)),
        GraphNode("pool", ReduceOp("mean", (2, 3), False), ("head",), (2, 5)),
    )
    graph = ModelGraph(
        (GraphValue("x", (2, 3, 8, 8)),), tuple(GraphValue(*item) for item in shapes.items()), nodes, ("pool",)
    )
    rng = np.random.default_rng(1)
    weights = {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}
    space = build({"width_multiple": 2}, ImageShape(3, 8, 8, 5), ParentModel("m", graph.to_json(), lambda: weights))
    [arch] = as_archs(space.id, space.parent_genes()[None])
    exported = footprint(to_onnx(Normalised(space.supernet(0).subnet(arch), [0.5] * 3, [0.25] * 3), (3, 8, 8)))
    costs = space.costs(np.array([arch.genes]))
    assert (exported.peak_bytes, exported.model_bytes) == (costs["peak_bytes"][0], costs["model_bytes"][0])
