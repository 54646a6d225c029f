"""A network as the operators of its exported model: what each reads, how much it makes, which weights it holds.

Counted as the exporter writes them: batch norm is a bias of the convolution before it, an operator without weights that
was applied to the same values before is not repeated, and the image is normalised by a mean and a scale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import assert_never

from nas.core.errors import InvalidInput
from nas.core.layers import (
    INPUT,
    Activation,
    BatchNorm,
    ChannelShuffle,
    ComposedLayer,
    Concat,
    Conv2d,
    CustomLayer,
    GlobalAveragePool,
    Linear,
    Normalisation,
    OperatorLayer,
    Pool2d,
    ShiftedConv2d,
    Skip,
    SqueezeExcite,
)
from nas.core.network import Add, Network, NetworkNode, Relu, Zeros
from nas.core.token_layers import Attention, LayerNorm, MapToTokens, PatchEmbedding, TokenLinear, TokenPool, TokensToMap
from nas.spaces.composed_graph import lower_composed
from nas.spaces.token_graph import lower_gelu, lower_patches, lower_tokens


@dataclass(frozen=True)
class Operator:
    """One operator. ``inputs``: positions of values; ``size``: numbers in its output for one image; ``weights``: float
    numbers that the model holds for it. Without weights, equal kinds on equal inputs are one operator."""

    kind: str
    inputs: tuple[int, ...]
    size: int
    weights: int = 0


@dataclass(frozen=True)
class ExportedGraph:
    """Values: inputs of sizes ``input_sizes``, which exist before the first operator, then the output of each operator.
    ``value_of``: position of the output of each node by name; ``output``: that of the last node."""

    input_sizes: tuple[int, ...]
    operators: tuple[Operator, ...]
    value_of: Mapping[str, int]
    output: int

    @property
    def weights(self) -> int:
        """Float numbers that the model holds."""
        return sum(operator.weights for operator in self.operators)


def exported_graph(network: Network) -> ExportedGraph:
    """The graph of a whole network, image normalisation included. Raises InvalidInput for a custom layer."""
    return lower(network.nodes, {INPUT: prod(network.input_shape)}, image_channels=network.input_shape[0])


def lower(
    nodes: Sequence[NetworkNode],
    input_sizes: Mapping[str, int],
    *,
    rectified: Collection[str] = (),
    image_channels: int = 0,
) -> ExportedGraph:
    """The graph of a part of a network that reads the inputs of ``input_sizes``, by name. Those in ``rectified`` are
    outputs of a ReLU. ``image_channels``: the first value is an image with so many channels, still to be normalised.

    Raises InvalidInput for a custom layer.
    """
    builder = _Builder(input_sizes, rectified)
    if image_channels:
        builder.normalise_image(next(iter(input_sizes)), image_channels)
    for node in nodes:
        builder.add_node(node)
    output = builder.value_of[nodes[-1].name] if nodes else 0
    return ExportedGraph(tuple(input_sizes.values()), tuple(builder.operators), builder.value_of, output)


class _Builder:
    def __init__(self, input_sizes: Mapping[str, int], rectified: Collection[str]) -> None:
        self.operators: list[Operator] = []
        self.value_of = {name: position for position, name in enumerate(input_sizes)}
        self._input_sizes = tuple(input_sizes.values())
        self._shared: dict[tuple[str, tuple[int, ...]], int] = {
            ("Relu", (self.value_of[name],)): self.value_of[name] for name in rectified
        }

    def normalise_image(self, name: str, channels: int) -> None:
        """Subtract the mean and divide by the scale of each channel."""
        image, size = self.value_of[name], self._input_sizes[self.value_of[name]]
        self.value_of[name] = self._add("Div", [self._add("Sub", [image], size, channels)], size, channels)

    def add_node(self, node: NetworkNode) -> None:
        """Append the operators of a node."""
        self.value_of[node.name] = self._output_of(node, [self.value_of[name] for name in node.inputs])

    def _output_of(self, node: NetworkNode, values: list[int]) -> int:
        size, x = prod(node.out_shape), values[0]
        match node:
            case Conv2d():
                if node.rectified:
                    x = self._relu(x, prod(node.in_shape))
                y = self._add("Conv", [x], size, node.weights + (node.out_channels if node.norm else 0))
                y = self._activation(node.activation, y, size)
                return y if node.residual is None else self._add("Add", [self.value_of[node.residual], y], size)
            case ShiftedConv2d():
                channels, height, width = node.in_shape
                x = self._relu(x, prod(node.in_shape))
                x = self._add("Slice rows", [x], channels * (height - 1) * width)
                x = self._add("Slice columns", [x], channels * (height - 1) * (width - 1))
                if height % 2 or width % 2:
                    x = self._add("Pad", [x], channels * (height - 1 + height % 2) * (width - 1 + width % 2))
                y = self._add("Conv", [x], size // 2, node.weights)
                return self._norm(node.norm, self._add("Concat", [values[1], y], size), size, node.out_channels)
            case SqueezeExcite():
                channels, squeezed = node.in_shape[0], node.squeezed
                y = self._add("GlobalAveragePool", [x], channels)
                y = self._add("Conv", [y], squeezed, channels * squeezed + squeezed)
                y = self._relu(y, squeezed)
                y = self._add("Conv", [y], channels, channels * squeezed + channels)
                return self._add("Mul", [x, self._add("HardSigmoid", [y], channels)], size)
            case Linear():
                return self._activation(node.activation, self._add("Gemm", [x], size, node.params), size)
            case Pool2d():
                y = self._add(f"{node.mode} pool {node.kernel}, stride {node.stride}", [x], size)
                return self._norm(node.norm, y, size, node.in_shape[0])
            case GlobalAveragePool():
                if not node.flatten:
                    return self._add("ReduceMean", [x], size)
                return self._add("Flatten", [self._add("GlobalAveragePool", [x], size)], size)
            case BatchNorm():
                return self._relu(self._batch_norm(x, size, node.in_shape[0]), size)
            case Skip():
                return x if node.stride == 1 else self._add(f"max pool 1, stride {node.stride}", [x], size)
            case ChannelShuffle():
                return self._add(f"Gather channels of {node.groups} groups", [x], size)
            case Concat():
                return self._add("Concat", values, size)
            case Add():
                return self._add("Add", values, size)
            case Relu():
                return self._relu(x, size)
            case Zeros():
                return self._add("Mul", [x], size, 1)
            case PatchEmbedding():
                return lower_patches(self._add, node, x)
            case MapToTokens():
                return self._add("Transpose", [self._add("Reshape", [x], size)], size)
            case LayerNorm() | TokenLinear() | Attention() | TokenPool() | TokensToMap():
                y = lower_tokens(self._add, node, x)
                residual = node.residual if isinstance(node, TokenLinear) else None
                return y if residual is None else self._add("Add", [self.value_of[residual], y], size)
            case ComposedLayer():
                return lower_composed(self._add, node, values)
            case CustomLayer() | OperatorLayer():
                raise InvalidInput(f"layer {node.name!r}: the operators of such a layer ({node.op}) are not counted")
            case _:
                assert_never(node)

    def _add(self, kind: str, inputs: Sequence[int], size: int, weights: int = 0) -> int:
        key = (kind, tuple(inputs))
        if weights == 0 and key in self._shared:
            return self._shared[key]
        self.operators.append(Operator(kind, key[1], size, weights))
        position = len(self._input_sizes) + len(self.operators) - 1
        if weights == 0:
            self._shared[key] = position
        return position

    def _relu(self, x: int, size: int) -> int:
        return self._add("Relu", [x], size)

    def _activation(self, activation: Activation | None, x: int, size: int) -> int:
        if activation is None:
            return x
        if activation == "swish":
            return self._add("Mul", [x, self._add("Sigmoid", [x], size)], size)
        if activation == "gelu":
            return lower_gelu(self._add, x, size)
        return self._add("Relu" if activation == "relu" else "HardSwish", [x], size)

    def _norm(self, norm: Normalisation | None, x: int, size: int, channels: int) -> int:
        """A batch norm that no convolution can take up: mean, variance, scale and shift."""
        return x if norm is None else self._add("BatchNormalization", [x], size, 4 * channels)

    def _batch_norm(self, x: int, size: int, channels: int) -> int:
        """A batch norm that becomes part of the convolution before it, if there is one, which has a bias already."""
        made_by = x - len(self._input_sizes)
        if made_by >= 0 and self.operators[made_by].kind == "Conv":
            return x
        return self._add("BatchNormalization", [x], size, 4 * channels)
