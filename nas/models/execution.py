"""A graph as a torch module. How each operator computes is one list, so the file may be longer than others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nas.convolution import conv2d
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
from nas.models.graph import GraphNode, InvalidModel, ModelGraph, TensorShape, WeightArrays, check_weights
from nas.models.opaque import run_opaque

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
_BINARY: Mapping[str, Callable[[Tensor, Any], Tensor]] = {
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


_BATCH_NORM_TENSORS = ("running_mean", "running_var", "weight", "bias")
Normaliser = Callable[[GraphNode, Tensor], Tensor]
"""The output of a batch norm: its node, and x (N, C, ...)."""
Tap = Callable[[Tensor], Tensor]
"""What becomes of the output of a node."""


class GraphModule(nn.Module):
    """A graph with weights, to be evaluated, trained and exported; batch norms are modules of torch.

    ``masks`` zero elements of nodes' outputs: what a narrowed graph must be equal to.
    """

    def __init__(self, graph: ModelGraph, weights: WeightArrays, masks: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        check_weights(graph, weights)
        self.graph = graph
        self._execution = GraphExecution(graph)
        self._masks = masks or {}
        self._taps: Mapping[str, Tap] = {}
        tensors = {value.name: _tensor(weights[value.name]) for value in graph.parameters}
        for value in graph.learned:
            tensors[value.name] = nn.Parameter(tensors[value.name])
        self._attributes = {name: f"parameter_{i}" for i, name in enumerate(tensors) if _is_read(graph, name)}
        for name, attribute in self._attributes.items():
            tensor = tensors[name]
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(attribute, tensor)
            else:
                self.register_buffer(attribute, tensor)
        norms, self._norm_of = _batch_norms(graph, tensors)
        self.norms = nn.ModuleList(norms)
        self._place_in_norm = {
            name: (self._norm_of[node.name], attribute)
            for node in _batch_norm_nodes(graph)
            for name, attribute in zip(node.operands[1:], _BATCH_NORM_TENSORS, strict=False)
        }

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs in the order of the graph; one alone is no tuple. ``inputs``: (N, ...) each."""
        parameters = {name: self.tensor(name) for name in self._attributes}
        return self._execution(inputs, parameters, self._normalise, self._masks, self._taps)

    @contextmanager
    def tapped(self, taps: Mapping[str, Tap]) -> Iterator[None]:
        """Context in which the output of each of some nodes is replaced by what its tap makes of it."""
        before = self._taps
        self._taps = {**before, **{name: _chained(before.get(name), tap) for name, tap in taps.items()}}
        try:
            yield
        finally:
            self._taps = before

    def tensor(self, name: str) -> Tensor:
        """The tensor of a parameter of the graph."""
        module: nn.Module = self
        attribute = self._attributes.get(name)
        if attribute is None:
            norm, attribute = self._place_in_norm[name]
            module = self.norms[norm]
        parameter = module._parameters.get(attribute)
        return module.get_buffer(attribute) if parameter is None else parameter

    def _normalise(self, node: GraphNode, x: Tensor) -> Tensor:
        output: Tensor = self.norms[self._norm_of[node.name]](x)
        return output


class GraphExecution:
    """The order in which a graph is computed; values are dropped after they were read for the last time."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        last = {name: node.name for node in graph.nodes for name in node.operands}
        self._dropped: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
        for name, reader in last.items():
            if name not in graph.outputs and name not in graph.parameter_names:
                self._dropped[reader].append(name)

    def __call__(
        self,
        inputs: Sequence[Tensor],
        parameters: Mapping[str, Tensor],
        normalise: Normaliser,
        masks: Mapping[str, Tensor],
        taps: Mapping[str, Tap] = MappingProxyType({}),
    ) -> Tensor | tuple[Tensor, ...]:
        """The outputs in the order of the graph; one alone is no tuple. ``parameters``: all but those of batch norms,
        which ``normalise`` computes. ``taps`` replace the outputs of nodes. Raises InvalidModel for another number of
        inputs."""
        graph = self._graph
        if len(inputs) != len(graph.inputs):
            raise InvalidModel(f"expected {len(graph.inputs)} inputs, got {len(inputs)}")
        values = dict(zip((value.name for value in graph.inputs), inputs, strict=True)) | dict(parameters)
        batch = inputs[0].shape[0]
        for node in graph.nodes:
            if isinstance(node.operator, BatchNormOp):
                output = normalise(node, values[node.operands[0]])
            else:
                output = _run(node, [values[name] for name in node.operands], batch)
            mask = masks.get(node.name)
            if mask is not None and isinstance(node.operator, LayerNormOp | GroupNormOp):
                output = _masked_norm(node.operator, mask, *(values[name] for name in node.operands))
            output = output if mask is None else torch.where(mask, output, torch.zeros_like(output))
            values[node.name] = taps[node.name](output) if node.name in taps else output
            for name in self._dropped[node.name]:
                del values[name]
        outputs = tuple(values[name] for name in graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def _chained(first: Tap | None, then: Tap) -> Tap:
    return then if first is None else lambda x: then(first(x))


def batch_norm_statistics(graph: ModelGraph) -> frozenset[str]:
    """The names of all means and variances of batch norms."""
    return frozenset(name for node in _batch_norm_nodes(graph) for name in node.operands[1:3])


@lru_cache(maxsize=256)
def _positions(indices: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(np.array(indices, dtype=np.int64)).to(device)


def build(graph: ModelGraph, weights: WeightArrays) -> GraphModule:
    """The module of a graph, in evaluation mode. Raises InvalidModel if a weight is missing or has another shape."""
    return GraphModule(graph, weights).eval()


def build_masked(graph: ModelGraph, weights: WeightArrays, masks: Mapping[str, np.ndarray]) -> GraphModule:
    """The module whose elements outside ``masks`` (``narrowing.element_masks``) are zero."""
    return GraphModule(graph, weights, {name: torch.from_numpy(mask) for name, mask in masks.items()}).eval()


def _batch_norm_nodes(graph: ModelGraph) -> list[GraphNode]:
    return [node for node in graph.nodes if isinstance(node.operator, BatchNormOp)]


def _is_read(graph: ModelGraph, name: str) -> bool:
    """Whether anything but a batch norm reads a parameter."""
    norms = {node.name for node in _batch_norm_nodes(graph)}
    return name in graph.outputs or any(node.name not in norms for node in graph.readers[name])


def _batch_norms(graph: ModelGraph, tensors: Mapping[str, Tensor]) -> tuple[list[nn.Module], dict[str, int]]:
    """The modules of all batch norms, and the position of each node's among them. Nodes with the same parameters share
    one."""
    positions: dict[tuple[str, ...], int] = {}
    modules: list[nn.Module] = []
    position_of = {}
    for node in _batch_norm_nodes(graph):
        if node.operands[1:] not in positions:
            positions[node.operands[1:]] = len(modules)
            modules.append(_batch_norm(node, [tensors[name] for name in node.operands[1:]]))
        position_of[node.name] = positions[node.operands[1:]]
    return modules, position_of


def _batch_norm(node: GraphNode, tensors: Sequence[Tensor]) -> nn.Module:
    assert isinstance(node.operator, BatchNormOp)
    kind = nn.BatchNorm2d if len(node.shape) == 4 else nn.BatchNorm1d
    with torch.device("meta"):
        norm = kind(len(tensors[0]), eps=node.operator.eps, affine=len(tensors) == 4)
    norm.running_mean, norm.running_var = tensors[0], tensors[1]
    norm.num_batches_tracked = torch.zeros((), dtype=torch.long)
    if len(tensors) == 4:
        norm.register_parameter("weight", _parameter(tensors[2]))
        norm.register_parameter("bias", _parameter(tensors[3]))
    return norm


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape).copy())


def _run(node: GraphNode, operands: list[Tensor], batch: int) -> Tensor:
    operator, x = node.operator, operands[0]
    assert not isinstance(operator, BatchNormOp)
    match operator:
        case Conv2dOp() | ConvTranspose2dOp():
            return _convolution(operator, *operands)
        case LinearOp():
            return F.linear(*operands)
        case LayerNormOp() | GroupNormOp():
            return _norm(operator, node.shape, *operands)
        case UnaryOp(function=function, constants=constants):
            return _UNARY[function](x, *constants)
        case BinaryOp():
            return _binary(operator, operands)
        case PReluOp():
            return F.prelu(x, operands[1])
        case Pool2dOp() | AdaptivePool2dOp() | UpsampleOp() | PixelShuffleOp() | Pad2dOp():
            return _resized(operator, x)
        case OpaqueOp():
            return run_opaque(operator, operands)
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
    return conv2d(x, weight, bias, operator.stride, (top, left), operator.dilation, operator.groups)


def _norm(
    operator: LayerNormOp | GroupNormOp,
    shape: TensorShape,
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    if isinstance(operator, LayerNormOp):
        return F.layer_norm(x, shape[-operator.rank :], scale, shift, operator.eps)
    return torch.group_norm(x, operator.groups, scale, shift, operator.eps)


def _masked_norm(
    operator: LayerNormOp | GroupNormOp,
    mask: Tensor,
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """The norm over the elements in ``mask``, of x (N, ...) whose other elements are zero."""
    if isinstance(operator, GroupNormOp):
        x_NG, first = x.reshape(len(x), operator.groups, -1, *x.shape[2:]), 2
        along: tuple[int, ...] = (1, -1, *(1,) * (x.ndim - 2))
    else:
        x_NG, first = x, x.ndim - operator.rank
        along = tuple(x.shape[first:])
    count = mask.expand_as(x).to(x.dtype).reshape(x_NG.shape)
    dims = tuple(range(first, x_NG.ndim))
    counts = count.sum(dims, keepdim=True).clamp(min=1.0)
    mean = x_NG.sum(dims, keepdim=True) / counts
    variance = (count * (x_NG - mean).square()).sum(dims, keepdim=True) / counts
    normal = ((x_NG - mean) * torch.rsqrt(variance + operator.eps)).reshape(x.shape)
    if scale is not None:
        normal = normal * scale.reshape(along)
    return normal if shift is None else normal + shift.reshape(along)


def _binary(operator: BinaryOp, operands: list[Tensor]) -> Tensor:
    x, constant = operands[0], operator.constant
    if constant is None:
        return _BINARY[operator.function](x, operands[1])
    match operator.function, operator.is_reversed:
        case "maximum", _:
            return x.clamp(min=constant)
        case "minimum", _:
            return x.clamp(max=constant)
        case "sub", True:
            return constant - x
        case "div", True:
            return constant / x
        case "pow", True:
            return torch.pow(constant, x)
        case function, _:
            return _BINARY[function](x, constant)


def _resized(operator: Pool2dOp | AdaptivePool2dOp | UpsampleOp | PixelShuffleOp | Pad2dOp, x: Tensor) -> Tensor:
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
        case PixelShuffleOp(factor=factor):
            return F.pixel_shuffle(x, factor)
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
            return x.index_select(dim, _positions(indices, x.device))
        case ExpandOp(sizes=sizes):
            return x.expand([batch if size == 0 else size for size in sizes])
