"""Layers of tokens as the operators of an exported model (``nas.spaces.exported_graph``).

Attention is written so that runtimes fuse it: queries, keys and values are split by heads, and the transposition of the
keys and the scale of the scores stand beside their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol, assert_never

from nas.core.token_layers import Attention, LayerNorm, PatchEmbedding, TokenLayer, TokenLinear, TokenPool, TokensToMap


class AddOperator(Protocol):
    """Append an operator by its kind, the values that it reads, the size of its output and the float numbers that the
    model holds for it; return the position of its output."""

    def __call__(self, kind: str, inputs: Sequence[int], size: int, weights: int = 0) -> int: ...


def lower_patches(add: AddOperator, layer: PatchEmbedding, x: int) -> int:
    """Convolution, tokens before channels, room for the class token, and the sum with positions and class token."""
    embedded, size = layer.out_channels * layer.patches, prod(layer.out_shape)
    y = add("Conv", [x], embedded, layer.weights + layer.out_channels)
    y = add("Transpose", [add("Reshape", [y], embedded)], embedded)
    if layer.class_token:
        y = add("Pad", [y], size)
    return add("Add", [y], size, size)


def lower_tokens(add: AddOperator, layer: TokenLayer, x: int) -> int:
    """The operators of a layer, but for the sum with another layer."""
    size = prod(layer.out_shape)
    match layer:
        case LayerNorm():
            return add("LayerNormalization", [x], size, layer.params)
        case TokenLinear():
            y = add("Add", [add("MatMul", [x], size, layer.weights)], size, layer.out_features)
            return y if layer.activation is None else lower_activation(add, layer.activation, y, size)
        case Attention():
            return _attend(add, layer, x)
        case TokenPool(mode=mode):
            return add("Gather" if mode == "class" else "ReduceMean", [x], size)
        case TokensToMap():
            return add("Reshape", [add("Transpose", [x], size)], size)
        case _:
            assert_never(layer)


def lower_activation(add: AddOperator, activation: str, x: int, size: int) -> int:
    """An activation after a linear layer."""
    if activation == "gelu":
        return lower_gelu(add, x, size)
    return add("Relu" if activation == "relu" else "HardSwish", [x], size)


def lower_gelu(add: AddOperator, x: int, size: int) -> int:
    """x / 2 * (1 + erf(x / sqrt(2))), with three constants."""
    y = add("Erf", [add("Div", [x], size, 1)], size)
    y = add("Mul", [x, add("Add", [y], size, 1)], size)
    return add("Mul", [y], size, 1)


def _attend(add: AddOperator, layer: Attention, x: int) -> int:
    size, scores = prod(layer.out_shape), layer.scores
    heads = add("Transpose heads", [add("Reshape", [x], 3 * size)], 3 * size)
    query, key, value = (add(f"Split {part}", [heads], size) for part in ("query", "key", "value"))
    y = add("MatMul", [query, add("Transpose key", [key], size)], scores)
    y = add("Softmax", [add("Mul", [y], scores, 1)], scores)
    y = add("Transpose heads", [add("MatMul", [y, value], size)], size)
    return add("Reshape", [y], size)
