"""Shapes of a graph's values, for any size of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from nas.core.operators import (
    AdaptivePool2dOp,
    AttentionOp,
    BatchNormOp,
    BinaryOp,
    ConcatOp,
    Conv2dOp,
    ConvTranspose2dOp,
    ExpandOp,
    GatherOp,
    GroupNormOp,
    LayerNormOp,
    LinearOp,
    MatMulOp,
    OpaqueOp,
    Pad2dOp,
    PermuteOp,
    PixelShuffleOp,
    Pool2dOp,
    PReluOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    SoftmaxOp,
    SqueezeOp,
    UnaryOp,
    UnsqueezeOp,
    UpsampleOp,
)
from nas.models.graph import GraphNode, InvalidModel, ModelGraph, TensorShape


def infer_shapes(graph: ModelGraph, input_shapes: Mapping[str, TensorShape]) -> dict[str, TensorShape]:
    """The shape of every value if the inputs have ``input_shapes``.

    Raises InvalidModel, naming the node, for shapes that do not fit together.
    """
    shapes = {value.name: value.shape for value in graph.parameters} | dict(input_shapes)
    batch = input_shapes[graph.inputs[0].name][0]
    for node in graph.nodes:
        shapes[node.name] = infer_node(node, [shapes[name] for name in node.operands], batch)
    return shapes


def with_sizes(graph: ModelGraph, resolution: int) -> ModelGraph:
    """The graph for square images of one resolution: sizes of reshapes are numbers, so that an exported model computes
    none of them. Raises InvalidModel as ``infer_shapes``."""
    image = graph.inputs[0]
    image = replace(image, shape=(*image.shape[:2], resolution, resolution))
    shapes = infer_shapes(graph, {image.name: image.shape})
    with_more_images = infer_shapes(graph, {image.name: (image.shape[0] + 1, *image.shape[1:])})
    nodes = tuple(_with_sizes(node, shapes[node.name], with_more_images[node.name]) for node in graph.nodes)
    return replace(graph, inputs=(image,), nodes=nodes)


def _with_sizes(node: GraphNode, shape: TensorShape, with_more_images: TensorShape) -> GraphNode:
    if not isinstance(node.operator, ReshapeOp):
        return replace(node, shape=shape)
    sizes = tuple(size if size == other else -1 for size, other in zip(shape, with_more_images, strict=True))
    return replace(node, shape=shape, operator=ReshapeOp(sizes))


def infer_node(node: GraphNode, operands: list[TensorShape], batch: int) -> TensorShape:
    """The shape of one node's output. ``batch``: number of images. Raises InvalidModel as ``infer_shapes``."""
    try:
        shape = _infer(node, operands, batch)
    except (ValueError, IndexError) as error:
        operand_shapes = ", ".join(str(list(s)) for s in operands)
        raise InvalidModel(f"{node.label}: expected operands that fit, got {operand_shapes}: {error}") from None
    if any(size < 1 for size in shape):
        raise InvalidModel(f"{node.label}: expected a size of at least 1, got {list(shape)}")
    return shape


def check_shapes(graph: ModelGraph) -> None:
    """Raises InvalidModel if a node's shape is not the one that follows from its operands."""
    shapes = infer_shapes(graph, {value.name: value.shape for value in graph.inputs})
    for node in graph.nodes:
        if shapes[node.name] != node.shape:
            raise InvalidModel(f"{node.label}: expected shape {list(shapes[node.name])}, got {list(node.shape)}")


def _infer(node: GraphNode, operands: list[TensorShape], batch: int) -> TensorShape:
    operator, x = node.operator, operands[0]
    match operator:
        case Conv2dOp() | ConvTranspose2dOp():
            return _convolution(operator, operands)
        case LinearOp():
            _require(operands[1][1] == x[-1], f"{operands[1][1]} features are read")
            return *x[:-1], operands[1][0]
        case BatchNormOp() | GroupNormOp():
            _require(all(s == (x[1],) for s in operands[1:]), f"one value for each of {x[1]} channels is read")
            _require(
                not isinstance(operator, GroupNormOp) or x[1] % operator.groups == 0, "groups of one size are read"
            )
            return x
        case LayerNormOp():
            _require(all(s == x[-operator.rank :] for s in operands[1:]), "scale and shift have the normalised shape")
            return x
        case PReluOp():
            _require(operands[1] in ((1,), (x[1],)), f"one slope, or one for each of {x[1]} channels, is read")
            return x
        case UnaryOp() | SoftmaxOp():
            return x
        case BinaryOp():
            return broadcast(*operands)
        case Pool2dOp():
            sizes = zip(x[2:], operator.kernel, operator.stride, operator.padding, strict=True)
            return *x[:2], *(_pooled(*size, ceil=operator.ceil_mode) for size in sizes)
        case AdaptivePool2dOp():
            return *x[:2], *operator.size
        case UpsampleOp():
            return *x[:2], *(math.floor(size * scale) for size, scale in zip(x[2:], operator.scale, strict=True))
        case PixelShuffleOp(factor=factor):
            _require(x[1] % factor**2 == 0, f"{x[1]} channels are not blocks of {factor**2}")
            return x[0], x[1] // factor**2, x[2] * factor, x[3] * factor
        case OpaqueOp():
            return _opaque(operator, operands, batch)
        case Pad2dOp():
            top, left, bottom, right = operator.padding
            return *x[:-2], x[-2] + top + bottom, x[-1] + left + right
        case MatMulOp():
            return _product(x, operands[1])
        case AttentionOp():
            _require(x[-1] == operands[1][-1] and operands[1][-2] == operands[2][-2], "query, key and value do not fit")
            return *broadcast(x[:-2], operands[1][:-2], operands[2][:-2]), x[-2], operands[2][-1]
        case _:
            return _rearranged(operator, operands, batch)


def _rearranged(
    operator: ReduceOp | ReshapeOp | PermuteOp | SqueezeOp | UnsqueezeOp | SliceOp | GatherOp | ConcatOp | ExpandOp,
    operands: list[TensorShape],
    batch: int,
) -> TensorShape:
    x = operands[0]
    match operator:
        case ReduceOp(dims=dims, keeps_dims=keeps):
            return tuple(1 if i in dims else size for i, size in enumerate(x) if keeps or i not in dims)
        case ReshapeOp(sizes=sizes):
            return _reshaped(x, sizes)
        case PermuteOp(dims=dims):
            _require(sorted(dims) == list(range(len(x))), f"dims {list(dims)} are no permutation")
            return tuple(x[i] for i in dims)
        case SqueezeOp(dims=dims):
            _require(all(x[i] == 1 for i in dims), f"dims {list(dims)} must have size 1")
            return tuple(size for i, size in enumerate(x) if i not in dims)
        case UnsqueezeOp(dim=dim):
            return *x[:dim], 1, *x[dim:]
        case SliceOp(dim=dim):
            positions = range(x[dim])[operator.start : operator.stop : operator.step]
            return *x[:dim], len(positions), *x[dim + 1 :]
        case GatherOp(dim=dim, indices=indices):
            _require(all(0 <= i < x[dim] for i in indices), f"indices up to {max(indices)} are read")
            return *x[:dim], len(indices), *x[dim + 1 :]
        case ConcatOp(dim=dim):
            _require(len({(*s[:dim], *s[dim + 1 :]) for s in operands}) == 1, f"all but dim {dim} must be equal")
            return *x[:dim], sum(s[dim] for s in operands), *x[dim + 1 :]
        case ExpandOp(sizes=sizes):
            aligned = (1,) * (len(sizes) - len(x)) + x
            new_sizes = [batch if size == 0 else size for size in sizes]
            shape = tuple(old if new == -1 else new for old, new in zip(aligned, new_sizes, strict=True))
            _require(all(old in (1, new) for old, new in zip(aligned, shape, strict=True)), f"not to {list(shape)}")
            return shape
        case _:
            assert_never(operator)


def _opaque(operator: OpaqueOp, operands: list[TensorShape], batch: int) -> TensorShape:
    expected = [shape.of(batch) for shape in operator.operand_shapes]
    _require(operands == expected, f"it keeps the shapes {[list(shape) for shape in expected]}")
    return operator.shape.of(batch)


def _convolution(operator: Conv2dOp | ConvTranspose2dOp, operands: list[TensorShape]) -> TensorShape:
    x, weight, kernel = operands[0], operands[1], operands[1][2:]
    _require(len(x) == 4 and len(weight) == 4, "a convolution reads 4 dimensions")
    if isinstance(operator, Conv2dOp):
        channels, out_channels = weight[1] * operator.groups, weight[0]
        top, left, bottom, right = operator.padding
        padded = zip(
            (x[2] + top + bottom, x[3] + left + right), kernel, operator.stride, operator.dilation, strict=True
        )
        sizes = tuple((size - dilation * (k - 1) - 1) // stride + 1 for size, k, stride, dilation in padded)
        _require(out_channels % operator.groups == 0, f"{out_channels} channels are not {operator.groups} groups")
    else:
        channels, out_channels = weight[0], weight[1] * operator.groups
        sizes = tuple(
            (x[2 + i] - 1) * operator.stride[i]
            - 2 * operator.padding[i]
            + operator.dilation[i] * (kernel[i] - 1)
            + operator.output_padding[i]
            + 1
            for i in range(2)
        )
    _require(x[1] == channels, f"{channels} channels are read")
    _require(all(s == (out_channels,) for s in operands[2:]), f"the bias has {out_channels} values")
    return x[0], out_channels, *sizes


def _pooled(size: int, kernel: int, stride: int, padding: int, *, ceil: bool) -> int:
    span = size + 2 * padding - kernel
    if not ceil:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count  # no window begins behind the image


def _product(x: TensorShape, y: TensorShape) -> TensorShape:
    _require(len(x) > 1 and len(y) > 1 and x[-1] == y[-2], "rows and columns do not fit")
    return *broadcast(x[:-2], y[:-2]), x[-2], y[-1]


def _reshaped(x: TensorShape, sizes: tuple[int, ...]) -> TensorShape:
    shape = [x[i] if size == 0 else size for i, size in enumerate(sizes)]
    if -1 in shape:
        other = -math.prod(shape)
        _require(other > 0 and math.prod(x) % other == 0, f"{list(sizes)} does not divide them")
        shape[shape.index(-1)] = math.prod(x) // other
    _require(math.prod(shape) == math.prod(x), f"{math.prod(shape)} elements are expected, {math.prod(x)} come")
    return tuple(shape)


def broadcast(*shapes: TensorShape) -> TensorShape:
    """The shape that all broadcast to. Raises ValueError if there is none."""
    rank = max(len(shape) for shape in shapes)
    aligned = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    sizes = []
    for column in zip(*aligned, strict=True):
        wide = {size for size in column if size != 1}
        _require(len(wide) <= 1, "they cannot be broadcast")
        sizes.append(wide.pop() if wide else 1)
    return tuple(sizes)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
