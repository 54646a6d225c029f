"""A graph as a torch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.graph import GraphNode, InvalidModel, ModelGraph, WeightArrays, check_weights
from nas.models.operators import (
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
    Pad2dOp,
    PermuteOp,
    Pool2dOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    SoftmaxOp,
    SqueezeOp,
    UnaryOp,
    UnsqueezeOp,
    UpsampleOp,
)

_UNARY: Mapping[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "mish": F.mish,
    "softplus": F.softplus,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "abs": torch.abs,
    "neg": torch.neg,
    "erf": torch.erf,
    "clamp": torch.clamp,
    "identity": lambda x: x,
}
_BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
}
_REDUCE: Mapping[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
}


class GraphModule(nn.Module):
    """A graph with weights. ``masks`` zero elements of nodes' outputs: what a narrowed graph must be equal to."""

    def __init__(self, graph: ModelGraph, weights: WeightArrays, masks: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        check_weights(graph, weights)
        self.graph = graph
        self._masks = masks or {}
        self._attributes = {value.name: f"parameter_{i}" for i, value in enumerate(graph.parameters)}
        statistics = {
            name for node in graph.nodes if isinstance(node.operator, BatchNormOp) for name in node.operands[1:3]
        }
        for name, attribute in self._attributes.items():
            tensor = torch.from_numpy(np.ascontiguousarray(weights[name]).reshape(weights[name].shape).copy())
            if tensor.is_floating_point() and name not in statistics:
                self.register_parameter(attribute, nn.Parameter(tensor))
            else:
                self.register_buffer(attribute, tensor)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs in the order of the graph; one alone is no tuple. ``inputs``: (N, ...) each."""
        graph = self.graph
        if len(inputs) != len(graph.inputs):
            raise InvalidModel(f"expected {len(graph.inputs)} inputs, got {len(inputs)}")
        values = dict(zip((value.name for value in graph.inputs), inputs, strict=True))
        values |= {name: self.get_parameter_or_buffer(name) for name in self._attributes}
        batch = inputs[0].shape[0]
        for node in graph.nodes:
            output = _run(node, [values[name] for name in node.operands], batch)
            mask = self._masks.get(node.name)
            values[node.name] = output if mask is None else torch.where(mask, output, torch.zeros_like(output))
        outputs = tuple(values[name] for name in graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def get_parameter_or_buffer(self, name: str) -> Tensor:
        """The tensor of a parameter of the graph."""
        attribute = self._attributes[name]
        parameter = self._parameters.get(attribute)
        return self.get_buffer(attribute) if parameter is None else parameter


def build(graph: ModelGraph, weights: WeightArrays) -> GraphModule:
    """The module of a graph, in evaluation mode. Raises InvalidModel if a weight is missing or has another shape."""
    return GraphModule(graph, weights).eval()


def build_masked(graph: ModelGraph, weights: WeightArrays, masks: Mapping[str, np.ndarray]) -> GraphModule:
    """The module whose elements outside ``masks`` (``narrowing.element_masks``) are zero."""
    return GraphModule(graph, weights, {name: torch.from_numpy(mask) for name, mask in masks.items()}).eval()


def _run(node: GraphNode, operands: list[Tensor], batch: int) -> Tensor:
    operator, x = node.operator, operands[0]
    match operator:
        case Conv2dOp() | ConvTranspose2dOp():
            return _convolution(operator, *operands)
        case LinearOp():
            return F.linear(*operands)
        case BatchNormOp() | LayerNormOp() | GroupNormOp():
            return _norm(operator, *operands)
        case UnaryOp(function=function, constants=constants):
            return _UNARY[function](x, *constants)
        case BinaryOp():
            return _binary(operator, operands)
        case Pool2dOp() | AdaptivePool2dOp() | UpsampleOp() | Pad2dOp():
            return _resized(operator, x)
        case MatMulOp():
            return torch.matmul(x, operands[1])
        case SoftmaxOp(dim=dim):
            return torch.softmax(x, dim)
        case AttentionOp(scale=scale):
            scores = torch.matmul(x, operands[1].transpose(-1, -2)) * scale
            return torch.matmul(torch.softmax(scores, -1), operands[2])
        case ConcatOp(dim=dim):
            return torch.cat(operands, dim)
        case _:
            return _rearranged(operator, x, batch)


def _convolution(
    operator: Conv2dOp | ConvTranspose2dOp, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if isinstance(operator, ConvTranspose2dOp):
        return F.conv_transpose2d(
            x,
            weight,
            bias,
            operator.stride,
            operator.padding,
            operator.output_padding,
            operator.groups,
            operator.dilation,
        )
    top, left, bottom, right = operator.padding
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, weight, bias, operator.stride, (top, left), operator.dilation, operator.groups)


def _norm(operator: BatchNormOp | LayerNormOp | GroupNormOp, x: Tensor, *parameters: Tensor) -> Tensor:
    statistics = parameters[:2] if isinstance(operator, BatchNormOp) else ()
    scale, shift, *_ = (*parameters[len(statistics) :], None, None)
    match operator:
        case BatchNormOp(eps=eps):
            return F.batch_norm(x, statistics[0], statistics[1], scale, shift, False, eps=eps)
        case LayerNormOp(rank=rank, eps=eps):
            return F.layer_norm(x, list(x.shape[-rank:]), scale, shift, eps)
        case GroupNormOp(groups=groups, eps=eps):
            return F.group_norm(x, groups, scale, shift, eps)


def _binary(operator: BinaryOp, operands: list[Tensor]) -> Tensor:
    function = _BINARY[operator.function]
    if operator.constant is None:
        return function(operands[0], operands[1])
    constant = torch.tensor(operator.constant, dtype=operands[0].dtype, device=operands[0].device)
    return function(constant, operands[0]) if operator.is_reversed else function(operands[0], constant)


def _resized(operator: Pool2dOp | AdaptivePool2dOp | UpsampleOp | Pad2dOp, x: Tensor) -> Tensor:
    match operator:
        case Pool2dOp(mode="max", kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil):
            return F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil)
        case Pool2dOp(kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil, counts_padding=counts):
            return F.avg_pool2d(x, kernel, stride, padding, ceil, counts)
        case AdaptivePool2dOp(mode="max", size=size):
            return F.adaptive_max_pool2d(x, size)
        case AdaptivePool2dOp(size=size):
            return F.adaptive_avg_pool2d(x, size)
        case UpsampleOp(mode="nearest", scale=scale):
            return F.interpolate(x, scale_factor=scale, mode="nearest")
        case UpsampleOp(mode=mode, scale=scale, aligns_corners=aligned):
            return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=aligned)
        case Pad2dOp(padding=(top, left, bottom, right), value=value):
            return F.pad(x, (left, right, top, bottom), value=value)


def _rearranged(
    operator: ReduceOp | ReshapeOp | PermuteOp | SqueezeOp | UnsqueezeOp | SliceOp | GatherOp | ExpandOp,
    x: Tensor,
    batch: int,
) -> Tensor:
    match operator:
        case ReduceOp(mode=mode, dims=dims, keeps_dims=keeps):
            return _REDUCE[mode](x, dims, keeps)
        case ReshapeOp(sizes=sizes):
            return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])
        case PermuteOp(dims=dims):
            return x.permute(dims)
        case SqueezeOp(dims=dims):
            return x.squeeze(dims)
        case UnsqueezeOp(dim=dim):
            return x.unsqueeze(dim)
        case SliceOp(dim=dim, start=start, stop=stop, step=step):
            return x[(*(slice(None),) * dim, slice(start, stop, step))]
        case GatherOp(dim=dim, indices=indices):
            return x.index_select(dim, torch.tensor(indices, device=x.device))
        case ExpandOp(sizes=sizes):
            return x.expand([batch if size == 0 else size for size in sizes])
