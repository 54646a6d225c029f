"""Operators of ONNX that are no operators of a graph, but are operators of torch: they run as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas.core.operators import ExampleShape, OpaqueArgument, OpaqueOp, OperandArgument, ValueArgument
from nas.models.graph import TensorShape
from nas.models.reading.onnx_operators import OnnxNode
from nas.models.shapes import broadcast

_REASON = "the intake does not know it"
_SAME_TYPE: Mapping[str, str] = {
    "Sin": "sin",
    "Cos": "cos",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Selu": "selu",
}
_TRUTH_OF_ONE: Mapping[str, str] = {"IsNaN": "isnan", "IsInf": "isinf", "Not": "logical_not"}
_TRUTH_OF_TWO: Mapping[str, str] = {
    "Greater": "gt.Tensor",
    "GreaterOrEqual": "ge.Tensor",
    "Less": "lt.Tensor",
    "LessOrEqual": "le.Tensor",
    "Equal": "eq.Tensor",
    "And": "logical_and.default",
    "Or": "logical_or.default",
}
OPERATORS = (*_SAME_TYPE, *_TRUTH_OF_ONE, *_TRUTH_OF_TWO, "Where", "TopK")


def translate(node: OnnxNode, types: Mapping[str, str], images: int) -> list[tuple[str, OpaqueOp, list[str], str]]:
    """For each output of a node its name, operator, operands and data type. ``types``: those of all values; ``images``:
    in the example. Values whose first size is that number are taken to hold images. Raises InvalidModel for an operand
    that must be constant and is not."""
    kind, operands = node.proto.op_type, node.present
    shapes = [_example(node, name, images) for name in operands]
    numbers = [types[name] for name in operands]
    if kind in _SAME_TYPE:
        return [_one(node, f"{_SAME_TYPE[kind]}.default", ("self",), operands, shapes, numbers, images, numbers[0])]
    if kind in _TRUTH_OF_ONE:
        return [_one(node, f"{_TRUTH_OF_ONE[kind]}.default", ("self",), operands, shapes, numbers, images, "bool")]
    if kind in _TRUTH_OF_TWO:
        return [_one(node, _TRUTH_OF_TWO[kind], ("self", "other"), operands, shapes, numbers, images, "bool")]
    if kind == "Where":
        names = ("condition", "self", "other")
        return [_one(node, "where.self", names, operands, shapes, numbers, images, numbers[1])]
    return _top_k(node, shapes[0], numbers[0])


def _example(node: OnnxNode, name: str, images: int) -> ExampleShape:
    shape = node.shapes[name]
    if name in node.constants or not shape or shape[0] != images:
        return ExampleShape(shape)
    return ExampleShape((1, *shape[1:]), (0,))


def _one(
    node: OnnxNode,
    operator: str,
    names: Sequence[str],
    operands: list[str],
    shapes: Sequence[ExampleShape],
    types: Sequence[str],
    images: int,
    result: str,
) -> tuple[str, OpaqueOp, list[str], str]:
    """An operator element by element; its operands are broadcast."""
    output: TensorShape = broadcast(*(shape.of(images) for shape in shapes))
    holds_images = any(shape.image_dims and len(shape.sizes) == len(output) for shape in shapes)
    shape = ExampleShape((1, *output[1:]), (0,)) if holds_images else ExampleShape(output)
    arguments: tuple[tuple[str, OpaqueArgument], ...] = tuple(
        (name, OperandArgument((i,))) for i, name in enumerate(names)
    )
    opaque = OpaqueOp(f"aten.{operator}", arguments, 0, tuple(shapes), tuple(types), shape, _REASON)
    return node.output, opaque, operands, result


def _top_k(node: OnnxNode, shape: ExampleShape, number: str) -> list[tuple[str, OpaqueOp, list[str], str]]:
    count = node.constant(1)
    dim = node.attribute("axis", -1) % len(shape.sizes)
    if count is None or dim in shape.image_dims:
        raise node.refuse("expected a fixed number of the largest along a dimension behind the images, got another")
    k = int(count.reshape(-1)[0])
    sizes = (*shape.sizes[:dim], k, *shape.sizes[dim + 1 :])
    settings = {"k": k, "dim": dim, "largest": bool(node.attribute("largest", 1)), "sorted": True}
    arguments: tuple[tuple[str, OpaqueArgument], ...] = (
        ("self", OperandArgument((0,))),
        *((name, ValueArgument((value,))) for name, value in settings.items()),
    )
    result = ExampleShape(sizes, shape.image_dims)
    return [
        (
            output,
            OpaqueOp("aten.topk.default", arguments, i, (shape,), (number,), result, _REASON),
            [node.operands[0]],
            (number, "int64")[i],
        )
        for i, output in enumerate(node.proto.output)
        if output
    ]
