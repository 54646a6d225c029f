"""Layers of tokens as ONNX models of their own: the operators of ``nas.spaces.token_graph``, with random weights."""

from __future__ import annotations

from typing import Protocol, assert_never

import numpy as np

from nas.core.token_layers import (
    Attention,
    LayerNorm,
    MapToTokens,
    PatchEmbedding,
    TokenLayer,
    TokenLinear,
    TokenPool,
    TokensToMap,
)
from nas.spaces.operator_onnx import LayerModel


class MultiOutputModel(LayerModel, Protocol):
    """A model under construction that can also split a value."""

    def split(self, parts: int, axis: int) -> list[str]:
        """The last output in equal parts."""
        ...


def add_patches(model: LayerModel, layer: PatchEmbedding) -> None:
    """Append a patch embedding that reads a map."""
    sides = [layer.patch] * 2
    filters = model.weights(layer.out_channels, layer.in_shape[0], layer.patch, layer.patch)
    model.add("Conv", filters, model.weights(layer.out_channels), kernel_shape=sides, strides=sides)
    _reshape(model, -1, layer.out_channels, layer.patches)
    model.add("Transpose", perm=[0, 2, 1])
    if layer.class_token:
        model.add("Pad", _integers(model, 0, 1, 0, 0, 0, 0))
    model.add("Add", model.weights(1, layer.out_shape[1], layer.out_channels))


def add_map_to_tokens(model: LayerModel, layer: MapToTokens) -> None:
    """Append the pixels of a map as tokens."""
    _reshape(model, -1, *layer.out_shape[:2])
    model.add("Transpose", perm=[0, 2, 1])


def add_tokens(model: MultiOutputModel, layer: TokenLayer) -> None:
    """Append a layer that reads tokens, but for its activation and its sum with another layer."""
    channels = layer.in_shape[0]
    match layer:
        case LayerNorm():
            model.add("LayerNormalization", model.weights(channels), model.weights(channels), axis=-1)
        case TokenLinear(out_features=features):
            model.add("MatMul", model.weights(channels, features))
            model.add("Add", model.weights(features))
        case Attention():
            _attend(model, layer)
        case TokenPool(mode="class"):
            model.add("Gather", model.constant(np.array(0, dtype=np.int64)), axis=1)
        case TokenPool():
            model.add("ReduceMean", axes=[1], keepdims=0)
        case TokensToMap():
            model.add("Transpose", perm=[0, 2, 1])
            _reshape(model, -1, *layer.out_shape)
        case _:
            assert_never(layer)


def _attend(model: MultiOutputModel, layer: Attention) -> None:
    channels, tokens, _ = layer.out_shape
    _reshape(model, -1, tokens, 3 * layer.heads, channels // layer.heads)
    model.add("Transpose", perm=[0, 2, 1, 3])
    query, model.last, value = model.split(3, axis=1)
    model.add("Transpose", perm=[0, 1, 3, 2])
    keys, model.last = model.last, query
    model.add("MatMul", keys)
    model.add("Mul", model.constant(np.array((channels // layer.heads) ** -0.5, dtype=np.float32)))
    model.add("Softmax", axis=-1)
    model.add("MatMul", value)
    model.add("Transpose", perm=[0, 2, 1, 3])
    _reshape(model, -1, tokens, channels)


def _reshape(model: LayerModel, *sizes: int) -> None:
    model.add("Reshape", _integers(model, *sizes))


def _integers(model: LayerModel, *values: int) -> str:
    return model.constant(np.array(values, dtype=np.int64))
