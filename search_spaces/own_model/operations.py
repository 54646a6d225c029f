"""What kind of work a node of a graph is: layers by name, and what predictors distinguish."""

from __future__ import annotations

from collections.abc import Mapping

from nas.core.operators import Conv2dOp
from nas.models.graph import GraphNode, TensorShape

WEIGHTED = ("conv2d", "conv_transpose2d", "linear")
_OPERATIONS: Mapping[str, str] = {
    "conv_transpose2d": "transposed",
    "linear": "linear",
    "batch_norm": "norm",
    "layer_norm": "norm",
    "group_norm": "norm",
    "unary": "activation",
    "binary": "elementwise",
    "pool2d": "pool",
    "adaptive_pool2d": "pool",
    "reduce": "pool",
    "matmul": "matmul",
    "attention": "matmul",
    "softmax": "softmax",
    "concat": "concat",
    "upsample": "resize",
    "pad2d": "resize",
    "pixel_shuffle": "resize",
    "prelu": "activation",
    "opaque": "opaque",
}
FREE = ("reshape", "squeeze", "unsqueeze")  # no numbers are moved


def operation(node: GraphNode, weight: TensorShape | None) -> str:
    """The kind of operation, such as ``depthwise``; what only moves numbers is ``rearrange``. ``weight``: the shape of
    its filters."""
    if isinstance(node.operator, Conv2dOp):
        assert weight is not None
        if node.operator.groups > 1:
            return "depthwise"
        return "pointwise" if weight[2:] == (1, 1) else "dense"
    return _OPERATIONS.get(node.operator.kind, "rearrange")


def is_folded(node: GraphNode, readers: Mapping[str, tuple[GraphNode, ...]], nodes: Mapping[str, GraphNode]) -> bool:
    """Whether a batch norm becomes part of the convolution before it in an exported model."""
    if node.operator.kind != "batch_norm":
        return False
    before = nodes.get(node.operands[0])
    return before is not None and before.operator.kind == "conv2d" and len(readers[before.name]) == 1
